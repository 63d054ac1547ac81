//! The scheduler: the real core behind readers and outboxes, its decisions held against the ledger.

use std::collections::BTreeMap;

use dcluster::model::{ClientId, FutureId, TaskId, Tick, WorkerId};
use dcluster::scheduler::core::recover::Departure;
use dcluster::scheduler::core::{Effects, SchedulerCore, Seat, Tuning};
use dcluster::wire::client::{ClientMessage, FutureReader, Outcome, Placed, ToClientOutbox};
use dcluster::wire::frame::{FrameLimit, FrameReader};
use dcluster::wire::worker::{Assignment, TaskReader, ToWorkerOutbox, WorkerMessage};

use super::ledger::Ledger;
use super::network::Node;
use super::workload::Catalogue;

/// The scheduler's process.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) core: SchedulerCore,
    pub(crate) post: Post,
    readers: BTreeMap<Node, FrameReader>,
}

/// Everybody's mail.
#[derive(Debug, Default)]
pub(crate) struct Post {
    clients: BTreeMap<ClientId, ToClientOutbox>,
    workers: BTreeMap<WorkerId, ToWorkerOutbox>,
    /// Who got mail since this was last looked at.
    pub(crate) with_mail: Vec<Node>,
}

impl Scheduler {
    pub(crate) fn new(tuning: Tuning) -> Self {
        Self { core: SchedulerCore::new(tuning), post: Post::default(), readers: BTreeMap::new() }
    }

    /// A connection is accepted.
    pub(crate) fn accept(&mut self, peer: Node) {
        self.readers.insert(peer, FrameReader::new(FrameLimit::default()));
        match peer {
            Node::Client(client) => {
                self.core.client_joined(client);
                self.post.clients.insert(client, ToClientOutbox::default());
            }
            Node::Worker(worker) => {
                self.post.workers.insert(worker, ToWorkerOutbox::default());
            }
            Node::Scheduler => unreachable!("it does not connect to itself"),
        }
    }

    /// Bytes of a peer; those of one that has left count for nothing.
    pub(crate) fn hear(&mut self, peer: Node, bytes: &[u8], ledger: &mut Ledger) {
        let Some(reader) = self.readers.get_mut(&peer) else { return };
        reader.buffer().extend_from_slice(bytes);
        while let Some(frame) =
            self.readers.get_mut(&peer).and_then(|reader| reader.next_frame().expect("frames"))
        {
            match peer {
                Node::Client(client) => {
                    let message = ClientMessage::read(frame.opcode, &frame.body).expect("sound messages");
                    self.hear_client(client, message, ledger);
                }
                Node::Worker(worker) => {
                    let message = WorkerMessage::read(frame.opcode, &frame.body).expect("sound messages");
                    self.hear_worker(worker, message, ledger);
                }
                Node::Scheduler => unreachable!("it does not write to itself"),
            }
        }
    }

    /// A connection has ended.
    pub(crate) fn closed(&mut self, peer: Node, planned: bool, ledger: &mut Ledger) {
        self.readers.remove(&peer);
        match peer {
            Node::Client(client) => {
                self.post.clients.remove(&client);
                ledger.client_left(client);
                self.core.client_left(client, &mut Desk { post: &mut self.post, ledger });
            }
            Node::Worker(worker) => {
                self.post.workers.remove(&worker);
                ledger.worker_left(worker, planned);
                let departure = if planned { Departure::Planned } else { Departure::Lost };
                self.core.worker_left(worker, departure, &mut Desk { post: &mut self.post, ledger });
            }
            Node::Scheduler => unreachable!("it does not leave itself"),
        }
    }

    pub(crate) fn place(&mut self, now: u64, ledger: &mut Ledger) {
        self.core.place(Tick(now), &mut Desk { post: &mut self.post, ledger });
    }

    /// Takes a peer's mail.
    pub(crate) fn take_mail(&mut self, peer: Node) -> Vec<u8> {
        let mut frames = Vec::new();
        match peer {
            Node::Client(client) => {
                self.post.clients.get_mut(&client).map(|outbox| outbox.outbox().swap_into(&mut frames))
            }
            Node::Worker(worker) => {
                self.post.workers.get_mut(&worker).map(|outbox| outbox.outbox().swap_into(&mut frames))
            }
            Node::Scheduler => None,
        };
        frames
    }

    fn hear_client(&mut self, client: ClientId, message: ClientMessage<'_>, ledger: &mut Ledger) {
        let core = &mut self.core;
        let desk = &mut Desk { post: &mut self.post, ledger };
        match message {
            ClientMessage::Submit(mut calls) => {
                while let Some(call) = calls.next_call().expect("batches are sound") {
                    desk.ledger.submitted(client, &call);
                    core.submit(client, &call, desk).expect("clients keep the rules");
                }
            }
            ClientMessage::Watch(mut futures) => each(&mut futures, |future| {
                desk.ledger.watched(client, future);
                core.watch(client, future, desk).expect("clients keep the rules");
            }),
            ClientMessage::Release(mut futures) => each(&mut futures, |future| {
                desk.ledger.released(client, future);
                core.release(client, future, desk).expect("clients keep the rules");
            }),
            ClientMessage::Retry(mut futures) => each(&mut futures, |future| {
                desk.ledger.retried(client, future);
                core.retry(client, future, desk).expect("clients keep the rules");
            }),
            ClientMessage::Cancel(cancel) => {
                desk.ledger.cancels(client, &cancel);
                core.cancel(client, &cancel, desk).expect("clients keep the rules");
                desk.ledger.has_cancelled(client, &cancel);
            }
            ClientMessage::Arrange(arrange) => {
                core.arrange(client, arrange, desk).expect("clients keep the rules");
            }
            ClientMessage::Scatter(scatter) => {
                for value in &scatter.values {
                    desk.ledger.scattered(client, value.future, Catalogue::of_key(value.key));
                }
                core.scatter(client, &scatter, desk).expect("clients keep the rules");
            }
            ClientMessage::Unreachable(unreachable) => {
                desk.ledger.is_lossy = true;
                desk.ledger.watched(client, unreachable.future);
                desk.ledger.doubted =
                    unreachable.workers.first().map(|(worker, _)| (*worker, unreachable.task));
                core.unreachable(client, &unreachable, desk).expect("clients keep the rules");
                desk.ledger.doubted = None;
            }
            ClientMessage::GiveUp(give_up) => {
                desk.ledger.is_lossy = true;
                desk.ledger.given_up(client, give_up.future);
                core.give_up(client, &give_up, desk).expect("clients keep the rules");
            }
            ClientMessage::Query(..) | ClientMessage::Functions(_) | ClientMessage::Received(_) => {}
            ClientMessage::Close => {
                desk.ledger.client_left(client);
                core.client_left(client, desk);
            }
        }
    }

    fn hear_worker(&mut self, worker: WorkerId, message: WorkerMessage<'_>, ledger: &mut Ledger) {
        let core = &mut self.core;
        let desk = &mut Desk { post: &mut self.post, ledger };
        match message {
            WorkerMessage::Join(join) => {
                desk.ledger.worker_joined(worker, join.rank, &join.host);
                let functions = join.functions.into_iter().map(|function| (function.id, function.name));
                let seat = Seat {
                    host: &join.host,
                    rank: join.rank,
                    threads: join.threads,
                    memory_bytes_max: join.memory_bytes_max,
                };
                core.worker_joined(worker, seat, functions, desk);
            }
            WorkerMessage::Finished(mut reports) => {
                while let Some(report) = reports.next_finished().expect("batches are sound") {
                    desk.ledger.finished(worker, report.task);
                    core.finished(worker, &report, desk).expect("workers keep the rules");
                }
            }
            WorkerMessage::Failed(mut reports) => {
                while let Some(report) = reports.next_failed().expect("batches are sound") {
                    desk.ledger.answered(worker, report.task);
                    core.failed(worker, &report, desk).expect("workers keep the rules");
                }
            }
            WorkerMessage::Returned(mut tasks) => each_task(&mut tasks, |task| {
                desk.ledger.returned(worker, task);
                core.returned(worker, task).expect("workers keep the rules");
            }),
            WorkerMessage::Started(mut tasks) => each_task(&mut tasks, |task| {
                desk.ledger.said_to_start(worker, task);
                core.started(worker, task).expect("workers keep the rules");
            }),
            WorkerMessage::Fenced(mut numbers) => {
                while let Some(number) = numbers.next_number().expect("batches are sound") {
                    core.fenced(worker, number, desk).expect("workers keep the rules");
                }
            }
            WorkerMessage::Holds(mut pairs) => {
                while let Some((task, nbytes)) = pairs.next_pair().expect("batches are sound") {
                    desk.ledger.holds(worker, task);
                    core.holds(worker, task, nbytes, desk);
                }
            }
            WorkerMessage::Missed(mut tasks) => each_task(&mut tasks, |task| {
                core.missed(worker, task, desk);
            }),
            WorkerMessage::Unavailable(mut pairs) => {
                let before = core.totals().recomputed;
                while let Some((task, holder)) = pairs.next_pair().expect("batches are sound") {
                    core.unavailable(task, WorkerId(holder as u32), desk);
                }
                desk.ledger.remade += core.totals().recomputed - before;
            }
            WorkerMessage::Lost(mut tasks) => {
                let before = core.totals().recomputed;
                each_task(&mut tasks, |task| {
                    desk.ledger.lost(worker, task);
                    core.lost(worker, task, desk);
                });
                desk.ledger.remade += core.totals().recomputed - before;
            }
            WorkerMessage::Pressure(pressure) => core.pressure(worker, pressure, desk),
            WorkerMessage::Metrics(_) | WorkerMessage::Moved(_) => {}
        }
    }
}

/// The core's effects: mail, after a look into the ledger.
struct Desk<'a> {
    post: &'a mut Post,
    ledger: &'a mut Ledger,
}

impl Desk<'_> {
    fn worker(&mut self, worker: WorkerId) -> &mut ToWorkerOutbox {
        self.post.with_mail.push(Node::Worker(worker));
        self.post.workers.get_mut(&worker).expect("nothing is said to a worker that left")
    }
}

impl Effects for Desk<'_> {
    fn assign(&mut self, worker: WorkerId, assignment: &Assignment<'_>) {
        self.ledger.assigned(worker, assignment);
        self.worker(worker).assign(assignment);
    }

    fn retract(&mut self, worker: WorkerId, task: TaskId) {
        self.worker(worker).retract(task);
    }

    fn abandon(&mut self, worker: WorkerId, task: TaskId) {
        self.ledger.abandoned(worker, task);
        self.worker(worker).abandon(task);
    }

    fn fence(&mut self, worker: WorkerId, number: u64) {
        self.worker(worker).fence(number);
    }

    fn acquire(&mut self, worker: WorkerId, task: TaskId, nbytes: u64, holders: &[WorkerId]) {
        self.ledger.acquires(worker, task);
        self.worker(worker).acquire(task, nbytes, holders);
    }

    fn free(&mut self, worker: WorkerId, task: TaskId) {
        self.ledger.freed(worker, task);
        self.worker(worker).free(task);
    }

    fn notify(&mut self, client: ClientId, future: FutureId, outcome: &Outcome<'_>) {
        self.ledger.told(client, future, outcome);
        let outbox = self.post.clients.get_mut(&client).expect("nothing is said to a client that left");
        outbox.notify(future, outcome);
        self.post.with_mail.push(Node::Client(client));
    }

    fn placed(&mut self, client: ClientId, placed: &Placed) {
        self.ledger.placed(client, placed);
        let outbox = self.post.clients.get_mut(&client).expect("nothing is said to a client that left");
        outbox.placed(std::slice::from_ref(placed));
        self.post.with_mail.push(Node::Client(client));
    }

    fn acknowledge(&mut self, client: ClientId, number: u32) {
        self.ledger.acknowledged(client, number);
        let outbox = self.post.clients.get_mut(&client).expect("nothing is said to a client that left");
        outbox.reply(number, &Ok(String::new()));
        self.post.with_mail.push(Node::Client(client));
    }

    fn answer(&mut self, client: ClientId, number: u32, answer: &Result<String, String>) {
        self.ledger.arranged(answer);
        let outbox = self.post.clients.get_mut(&client).expect("nothing is said to a client that left");
        outbox.reply(number, answer);
        self.post.with_mail.push(Node::Client(client));
    }
}

fn each(futures: &mut FutureReader<'_>, mut book: impl FnMut(FutureId)) {
    while let Some(future) = futures.next_future().expect("batches are sound") {
        book(future);
    }
}

fn each_task(tasks: &mut TaskReader<'_>, mut book: impl FnMut(TaskId)) {
    while let Some(task) = tasks.next_task().expect("batches are sound") {
        book(task);
    }
}
