//! A scheduler that runs each call in its own process as soon as it is submitted.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use dcluster::model::pack::pack;
use dcluster::model::{FutureId, Resident, TaskId, WorkerId};
use dcluster::registry::{Arguments, Registry};
use dcluster::security::{ConnectionFile, Credentials};
use dcluster::transport::tcp::{Connection, Listener, Reach, hello};
use dcluster::wire::Peer;
use dcluster::wire::client::{
    ClientMessage, Closing, Outcome, Placed, Query, Submission, ToClientOutbox, Unreachable,
};
use dcluster::wire::handshake::Role;
use dcluster::wire::resume::{SessionAnswer, Token};
use tokio::sync::mpsc;

/// A worker that has joined, at whose address nobody is.
const NOBODY: WorkerId = WorkerId(0);

/// What a client said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    Submit(u32),
    Watch(u32),
    Release(u32),
    Retry(u32),
    Cancel { force: bool },
    Scatter(usize),
    Unreachable(Unreachable),
    GiveUp(String),
    Close,
}

enum Order {
    Finish,
    HangUp,
    TakeLeave(String),
    TalkNonsense,
    Lose(WorkerId),
}

/// A running fake.
pub(crate) struct Fake {
    pub(crate) file: ConnectionFile,
    orders: mpsc::UnboundedSender<Order>,
    log: Arc<(Mutex<Vec<Said>>, Condvar)>,
}

impl Fake {
    pub(crate) fn start() -> Self {
        let run = Credentials::generate().unwrap();
        let (orders, received) = mpsc::unbounded_channel();
        let log = Arc::<(Mutex<Vec<Said>>, Condvar)>::default();
        let (sender, address) = std::sync::mpsc::channel();
        let (scheduler, own_log) = (run.scheduler.clone(), log.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let hello = hello(Role::Scheduler, None);
                let mut listener = Listener::bind(&Reach::Machine, 0, &scheduler, hello).await.unwrap();
                sender.send(listener.address().to_owned()).unwrap();
                let connection = listener.accept().await;
                Conversation::new(own_log).hold(connection, received).await;
            });
        });
        let address = address.recv().unwrap();
        let file =
            ConnectionFile::new("fake", None, &address, &hello(Role::Scheduler, None), run.member.clone());
        Self { file, orders, log }
    }

    /// Tells the outcomes that were held back.
    pub(crate) fn finish(&self) {
        self.orders.send(Order::Finish).unwrap();
    }

    pub(crate) fn hang_up(&self) {
        self.orders.send(Order::HangUp).unwrap();
    }

    pub(crate) fn take_leave(&self, reason: &str) {
        self.orders.send(Order::TakeLeave(reason.to_owned())).unwrap();
    }

    /// Says that a worker is gone.
    pub(crate) fn lose(&self, worker: WorkerId) {
        self.orders.send(Order::Lose(worker)).unwrap();
    }

    pub(crate) fn talk_nonsense(&self) {
        self.orders.send(Order::TalkNonsense).unwrap();
    }

    pub(crate) fn said(&self) -> Vec<Said> {
        self.log.0.lock().unwrap().clone()
    }

    /// Waits until the client has said such a thing.
    pub(crate) fn wait_for(&self, is_it: impl Fn(&Said) -> bool) {
        let (said, more) = &*self.log;
        let said = said.lock().unwrap();
        let hang = Duration::from_secs(60);
        let (said, timeout) = more.wait_timeout_while(said, hang, |said| !said.iter().any(&is_it)).unwrap();
        assert!(!timeout.timed_out(), "{said:?}");
    }
}

struct Conversation {
    out: ToClientOutbox,
    registry: Registry,
    log: Arc<(Mutex<Vec<Said>>, Condvar)>,
    results: HashMap<u32, Result<Arc<Resident>, Vec<u8>>>,
    names: HashMap<u32, &'static str>,
    watched: Vec<u32>,
    finishing: bool,
    unreachable: Vec<u32>,
}

impl Conversation {
    fn new(log: Arc<(Mutex<Vec<Said>>, Condvar)>) -> Self {
        Self {
            out: ToClientOutbox::default(),
            registry: Registry::load().unwrap(),
            log,
            results: HashMap::new(),
            names: HashMap::new(),
            watched: Vec::new(),
            finishing: false,
            unreachable: Vec::new(),
        }
    }

    async fn hold(mut self, connection: Connection, mut orders: mpsc::UnboundedReceiver<Order>) {
        let (mut reader, mut writer) = connection.split();
        let (mut frames, mut open) = (Vec::new(), true);
        let begun = SessionAnswer::Begun { token: Token([7; 32]), lease_ms: 0 };
        begun.append(&mut frames);
        writer.write_all(&mut frames).await.unwrap();
        self.out.peers(&[Peer {
            worker: NOBODY,
            address: "127.0.0.1:1".to_owned(),
            mpi_rank: None,
            shm: None,
        }]);
        loop {
            frames.clear();
            self.out.outbox().swap_into(&mut frames);
            if writer.write_all(&mut frames).await.is_err() {
                return;
            }
            tokio::select! {
                filled = reader.fill() => {
                    if !filled.unwrap_or(false) {
                        return;
                    }
                    while let Some(frame) = reader.next_frame().unwrap() {
                        self.hear(frame.opcode, &frame.body);
                    }
                }
                order = orders.recv(), if open => match order {
                    Some(Order::Finish) => {
                        self.finishing = true;
                        std::mem::take(&mut self.watched).into_iter().for_each(|future| self.tell(future));
                    }
                    Some(Order::HangUp) => return,
                    Some(Order::Lose(worker)) => self.out.left(&[worker]),
                    Some(Order::TakeLeave(reason)) => self.out.closing(&Closing { reason }),
                    Some(Order::TalkNonsense) => {
                        let mut nonsense = Vec::new();
                        dcluster::wire::frame::append(&mut nonsense, 33, |out| out.extend_from_slice(b"what?"));
                        writer.write_all(&mut nonsense).await.unwrap();
                    }
                    None => open = false,
                },
            }
        }
    }

    fn note(&self, said: Said) {
        self.log.0.lock().unwrap().push(said);
        self.log.1.notify_all();
    }

    fn hear(&mut self, opcode: u8, body: &[u8]) {
        match ClientMessage::read(opcode, body).unwrap() {
            ClientMessage::Submit(mut calls) => {
                while let Some(call) = calls.next_call().unwrap() {
                    self.note(Said::Submit(call.future.0));
                    self.run(&call);
                }
            }
            ClientMessage::Watch(mut futures) => {
                while let Some(future) = futures.next_future().unwrap() {
                    self.note(Said::Watch(future.0));
                    self.tell(future.0);
                }
            }
            ClientMessage::Release(mut futures) => {
                while let Some(future) = futures.next_future().unwrap() {
                    assert!(self.results.remove(&future.0).is_some(), "{future:?} is not known");
                    self.note(Said::Release(future.0));
                }
            }
            ClientMessage::Retry(mut futures) => {
                while let Some(future) = futures.next_future().unwrap() {
                    self.note(Said::Retry(future.0));
                }
            }
            ClientMessage::Cancel(cancel) => {
                self.note(Said::Cancel { force: cancel.force });
                if cancel.reason != "unheard" {
                    self.out.reply(cancel.number, &Ok(String::new()));
                }
            }
            ClientMessage::Scatter(scatter) => {
                // The cluster has it, unless a worker is named, which is out of reach.
                let worker = scatter.workers.first().map(|_| NOBODY);
                let place = |value: &dcluster::wire::client::ScatterValue| Placed {
                    future: value.future,
                    task: TaskId(0),
                    worker,
                };
                let placed: Vec<_> = scatter.values.iter().map(place).collect();
                for value in &scatter.values {
                    let resident = Resident::packed_form(pack(&0i64).unwrap());
                    self.results.insert(value.future.0, Ok(Arc::new(resident)));
                    self.names.insert(value.future.0, if worker.is_some() { "held" } else { "scattered" });
                }
                self.out.placed(&placed);
                self.note(Said::Scatter(placed.len()));
            }
            ClientMessage::Unreachable(unreachable) => {
                let future = unreachable.future.0;
                self.note(Said::Unreachable(unreachable));
                self.unreachable.push(future);
                self.tell(future);
            }
            ClientMessage::GiveUp(give_up) => self.note(Said::GiveUp(give_up.reason)),
            ClientMessage::Query(number, query) => {
                let answer = match query {
                    Query::Status => "{}".to_owned(),
                    Query::WhoHas { futures } => format!("{:?}", vec![[0]; futures.len()]),
                    other => return self.out.reply(number, &Err(format!("{other:?} is beyond a fake"))),
                };
                self.out.reply(number, &Ok(answer));
            }
            ClientMessage::Arrange(arrange) => {
                let refusal = format!("{:?} is beyond a fake", arrange.how);
                self.out.reply(arrange.number, &Err(refusal));
            }
            ClientMessage::Functions(_) | ClientMessage::Received(_) => {}
            ClientMessage::Close => self.note(Said::Close),
        }
    }

    fn run(&mut self, call: &Submission<'_>) {
        let task = self.registry.find(call.function).unwrap();
        let inputs: Result<Vec<_>, _> =
            call.inputs.iter().map(|input| self.results[&input.0].clone()).collect();
        let result = inputs.and_then(|inputs| {
            (task.run)(Arguments { bytes: call.arguments, inputs: &inputs })
                .map(|value| Arc::new(Resident::live(value, 0)))
                .map_err(|error| error.pack())
        });
        self.results.insert(call.future.0, result);
        self.names.insert(call.future.0, task.short_name());
    }

    /// Tells the outcome of a future, unless it is held back.
    fn tell(&mut self, future: u32) {
        let Some(result) = self.results.get(&future) else { return };
        match (self.names[&future], result) {
            ("held", _) if !self.finishing => self.watched.push(future),
            ("nowhere", _) => {
                let holders = [NOBODY].into_iter().collect();
                self.out
                    .notify(FutureId(future), &Outcome::Stored { task: TaskId(1), nbytes: 9000, holders });
            }
            ("far", _) if !self.unreachable.contains(&future) => {
                let holders = [WorkerId(7)].into_iter().collect();
                self.out
                    .notify(FutureId(future), &Outcome::Stored { task: TaskId(1), nbytes: 9000, holders });
            }
            (_, Ok(resident)) => {
                let flat = resident.packed().unwrap().encode();
                self.out.notify(FutureId(future), &Outcome::Inline(&flat));
            }
            (_, Err(error)) => self.out.notify(FutureId(future), &Outcome::Failed(error)),
        }
    }
}
