//! A client's program: takes calls from the catalogue, changes its mind, and looks at every result it gets.

use std::collections::{BTreeMap, BTreeSet};

use dcluster::model::{ClientId, Copies, FutureId, TaskId, WorkerId, WorkerName};
use dcluster::wire::client::{
    Arrange, Arrangement, CallOptions, Cancel, ClientOutbox, Fault, GiveUp, Outcome, Placed, Scatter,
    ScatterValue, Submission, ToClientMessage, Unreachable,
};
use dcluster::wire::frame::{FrameLimit, FrameReader};

use super::network::Stored;
use super::random::Random;
use super::workload::{Behaviour, Catalogue, Entry};

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    id: ClientId,
    pub(crate) outbox: ClientOutbox,
    reader: FrameReader,
    futures: BTreeMap<FutureId, Held>,
    /// The future that stands for an entry, if one is held that was not cancelled.
    latest: BTreeMap<Entry, FutureId>,
    next_future: u32,
    next_request: u32,
    /// Cancels and arrangements that are not answered.
    pub(crate) requests: BTreeSet<u32>,
    /// Of 100 futures that are done, so many are given back at once.
    turnover_percent: u64,
    /// Values to ask workers for.
    pub(crate) fetches: Vec<(FutureId, TaskId, WorkerId)>,
    /// Values to send to workers.
    pub(crate) puts: Vec<(FutureId, TaskId, WorkerId, Stored)>,
}

/// A future that the client holds.
#[derive(Debug)]
struct Held {
    entry: Entry,
    is_watched: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Scattered, and not known to have arrived. Its handle is not the program's yet.
    Announced,
    Pending,
    /// On workers; it is being fetched.
    Stored(TaskId),
    Value,
    Failed,
    Cancelled,
}

impl Client {
    pub(crate) fn new(id: ClientId, turnover_percent: u64) -> Self {
        Self {
            id,
            outbox: ClientOutbox::default(),
            reader: FrameReader::new(FrameLimit::default()),
            futures: BTreeMap::new(),
            latest: BTreeMap::new(),
            next_future: 0,
            next_request: 0,
            requests: BTreeSet::new(),
            turnover_percent,
            fetches: Vec::new(),
            puts: Vec::new(),
        }
    }

    /// Does one of the things that programs do.
    pub(crate) fn act(&mut self, random: &mut Random, catalogue: &Catalogue) {
        let some_entry = |random: &mut Random| random.below(catalogue.specs.len() as u64) as Entry;
        match random.below(100) {
            0..40 => {
                for _ in 0..random.between(1, 6) {
                    let entry = some_entry(random);
                    self.obtain(random, catalogue, entry);
                }
            }
            40..48 => {
                for future in self.some(random, |held| held.state == State::Pending) {
                    self.watch(future);
                }
            }
            48..66 => {
                for future in self.some(random, |held| held.state != State::Announced) {
                    self.release(future);
                }
            }
            66..70 => self.arrange_some(random),
            70..77 => drop(self.cancel_some(random)),
            77..84 => {
                for future in self.some(random, |held| held.state == State::Failed) {
                    self.outbox.retry(future);
                    self.held(future).state = State::Pending;
                    self.watch(future);
                }
            }
            84..94 => {
                let entries = self.cancel_some(random);
                for entry in entries {
                    self.obtain(random, catalogue, entry);
                }
            }
            _ => self.release_all(),
        }
    }

    /// Bytes from the scheduler.
    pub(crate) fn hear(&mut self, random: &mut Random, catalogue: &Catalogue, bytes: &[u8]) {
        self.reader.buffer().extend_from_slice(bytes);
        while let Some(frame) = self.reader.next_frame().expect("the scheduler sends frames") {
            match ToClientMessage::read(frame.opcode, &frame.body).expect("messages are sound") {
                ToClientMessage::Notify(mut outcomes) => {
                    while let Some((future, outcome)) = outcomes.next_outcome().expect("batches are sound") {
                        self.told(random, catalogue, future, &outcome);
                    }
                }
                ToClientMessage::Placed(placed) => {
                    placed.iter().for_each(|placed| self.placed(catalogue, placed));
                }
                ToClientMessage::Reply(number, _) => {
                    assert!(self.requests.remove(&number), "request {number} is answered once");
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// The answer of a worker that was asked for a value.
    pub(crate) fn fetched(
        &mut self,
        random: &mut Random,
        catalogue: &Catalogue,
        future: FutureId,
        (task, holder): (TaskId, WorkerId),
        value: Result<Stored, Fault>,
    ) {
        let Some(held) = self.futures.get_mut(&future).filter(|held| held.state == State::Stored(task))
        else {
            return;
        };
        match value {
            Ok(stored) => {
                assert_eq!(stored.value, catalogue.specs[held.entry].value, "entry {}", held.entry);
                held.state = State::Value;
                self.drop_some(random, future);
            }
            Err(fault) => {
                held.state = State::Pending;
                held.is_watched = true;
                self.outbox.unreachable(&Unreachable { future, task, workers: vec![(holder, fault)] });
            }
        }
    }

    /// A value did not reach its worker: it is sent to another, or the scatter is given up and its futures are dropped.
    pub(crate) fn put_failed(
        &mut self,
        random: &mut Random,
        future: FutureId,
        task: TaskId,
        worker: WorkerId,
    ) {
        match self.futures.get(&future).map(|held| held.state) {
            Some(State::Announced) => match random.below(10) {
                0 => self.release(future),
                1 => self.outbox.give_up(&GiveUp { future, task, reason: "it was refused".to_owned() }),
                _ => {
                    let workers = vec![(worker, Fault::NotReached)];
                    self.outbox.unreachable(&Unreachable { future, task, workers });
                }
            },
            Some(_) => self.release(future),
            None => {}
        }
    }

    /// Watches whatever is not known to be done.
    pub(crate) fn watch_all(&mut self) {
        let pending: Vec<FutureId> = self.futures.keys().copied().collect();
        for future in pending {
            if self.futures[&future].state == State::Pending {
                self.watch(future);
            }
        }
    }

    pub(crate) fn release_all(&mut self) {
        let futures: Vec<FutureId> = self
            .futures
            .iter()
            .filter(|(_, held)| held.state != State::Announced)
            .map(|(id, _)| *id)
            .collect();
        futures.into_iter().for_each(|future| self.release(future));
    }

    /// Futures that are not known to be done, with their entries.
    pub(crate) fn unsettled(&self) -> impl Iterator<Item = (FutureId, Entry)> {
        let unsettled =
            |held: &Held| matches!(held.state, State::Announced | State::Pending | State::Stored(_));
        self.futures.iter().filter(move |(_, held)| unsettled(held)).map(|(id, held)| (*id, held.entry))
    }

    /// A future of the entry; what it is made from is asked for first.
    fn obtain(&mut self, random: &mut Random, catalogue: &Catalogue, entry: Entry) -> FutureId {
        if let Some(future) = self.latest.get(&entry)
            && random.chance(85)
        {
            return *future;
        }
        let spec = &catalogue.specs[entry];
        let inputs = spec.inputs.iter().map(|input| self.obtain(random, catalogue, *input)).collect();
        let future = FutureId(self.next_future);
        self.next_future += 1;
        self.latest.insert(entry, future);
        let mut held = Held { entry, is_watched: false, state: State::Pending };
        if spec.behaviour == Behaviour::Scattered {
            held.state = State::Announced;
            let value = ScatterValue { future, key: spec.key, nbytes: spec.nbytes };
            self.outbox.scatter(&Scatter {
                values: vec![value],
                workers: Vec::new(),
                allow_other_workers: false,
                type_name: "Vec".to_owned(),
            });
        } else {
            let arguments = catalogue.arguments(entry);
            self.outbox.submit(&Submission {
                future,
                key: spec.key,
                function: spec.function,
                options: CallOptions {
                    priority: spec.priority,
                    retries: spec.retries,
                    placement: spec.placement.clone(),
                },
                name: None,
                arguments: &arguments,
                inputs,
            });
        }
        self.futures.insert(future, held);
        if spec.behaviour == Behaviour::Scattered || random.chance(50) {
            self.watch(future);
        }
        future
    }

    fn watch(&mut self, future: FutureId) {
        let held = self.held(future);
        if !std::mem::replace(&mut held.is_watched, true) {
            self.outbox.watch(future);
        }
    }

    fn release(&mut self, future: FutureId) {
        let held = self.futures.remove(&future).expect("only held futures are released");
        self.forget_latest(held.entry, future);
        self.outbox.release(future);
    }

    /// Cancels a few futures; the entries they stood for.
    fn cancel_some(&mut self, random: &mut Random) -> Vec<Entry> {
        let futures = self.some(random, |held| held.state != State::Announced);
        let entries: Vec<Entry> = futures.iter().map(|future| self.futures[future].entry).collect();
        for (entry, future) in entries.iter().zip(&futures) {
            self.forget_latest(*entry, *future);
        }
        let force = random.chance(25);
        let number = self.request();
        self.outbox.cancel(&Cancel { number, futures, force, reason: "no longer needed".to_owned() });
        entries
    }

    /// Wants copies of a few values, or moves.
    fn arrange_some(&mut self, random: &mut Random) {
        let mut futures = self.some(random, |_| true);
        let name = |random: &mut Random| match random.below(3) {
            0 => WorkerName::Id(WorkerId(random.below(8) as u32)),
            1 => WorkerName::Rank(random.between(1, 5) as u32),
            _ => WorkerName::Host(format!("host-{}", random.below(3))),
        };
        let how = match random.below(6) {
            0 => Arrangement::Copies(Copies::Everywhere),
            1 => Arrangement::Copies(Copies::On((0..random.below(4)).map(|_| name(random)).collect())),
            2..4 => Arrangement::Copies(Copies::Number(random.below(6) as u32)),
            _ => Arrangement::Even,
        };
        if how == Arrangement::Even && random.chance(50) {
            futures.clear();
        }
        let number = self.request();
        self.outbox.arrange(&Arrange { number, futures, how });
    }

    fn request(&mut self) -> u32 {
        let number = self.next_request;
        self.next_request += 1;
        self.requests.insert(number);
        number
    }

    /// A few of the futures that fit.
    fn some(&self, random: &mut Random, fits: impl Fn(&Held) -> bool) -> Vec<FutureId> {
        let fitting: Vec<FutureId> =
            self.futures.iter().filter(|(_, held)| fits(held)).map(|(id, _)| *id).collect();
        if fitting.is_empty() {
            return fitting;
        }
        let mut some: Vec<FutureId> = (0..random.between(1, 5)).map(|_| random.pick(&fitting)).collect();
        some.sort_unstable();
        some.dedup();
        some
    }

    fn told(&mut self, random: &mut Random, catalogue: &Catalogue, future: FutureId, outcome: &Outcome<'_>) {
        let Some(held) = self.futures.get_mut(&future) else { return };
        held.is_watched = false;
        let is_over = !matches!(outcome, Outcome::Stored { .. });
        match outcome {
            Outcome::Inline(bytes) => {
                let value = catalogue.specs[held.entry].value;
                assert_eq!(**bytes, value.to_le_bytes(), "entry {}", held.entry);
                held.state = State::Value;
            }
            Outcome::Stored { task, holders, .. } => {
                held.state = State::Stored(*task);
                self.fetches.push((future, *task, random.pick(holders)));
            }
            Outcome::Failed(_) => held.state = State::Failed,
            Outcome::Cancelled(_) => {
                held.state = State::Cancelled;
                let entry = held.entry;
                self.forget_latest(entry, future);
            }
        }
        if is_over {
            self.drop_some(random, future);
        }
    }

    /// Gives a future back that is done, or keeps it.
    fn drop_some(&mut self, random: &mut Random, future: FutureId) {
        if random.chance(self.turnover_percent) {
            self.release(future);
        }
    }

    fn placed(&mut self, catalogue: &Catalogue, placed: &Placed) {
        let Some(held) = self.futures.get_mut(&placed.future) else { return };
        if held.state != State::Announced {
            return;
        }
        let spec = &catalogue.specs[held.entry];
        let value = Stored { value: spec.value, nbytes: spec.nbytes, is_inline: false };
        if let Some(worker) = placed.worker {
            self.puts.push((placed.future, placed.task, worker, value));
        }
    }

    fn forget_latest(&mut self, entry: Entry, future: FutureId) {
        if self.latest.get(&entry) == Some(&future) {
            self.latest.remove(&entry);
        }
    }

    fn held(&mut self, future: FutureId) -> &mut Held {
        self.futures.get_mut(&future).unwrap_or_else(|| panic!("{} holds {future:?}", self.id))
    }
}
