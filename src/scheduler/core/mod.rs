//! The scheduler's decisions as a pure state machine.
//!
//! ```text
//!  client: submit, watch, release, cancel, retry, scatter, arrange ─╮            ╭─► notify, placed, answer ─► client
//!  worker: finished, failed, returned, holds, missed, unavailable ──┼─► tables ──┤
//!  joins and losses of both ────────────────────────────────────────╯   place()  ╰─► assign, retract, abandon, acquire, free ─► worker
//! ```
//!
//! A shell calls one method per message, then [`SchedulerCore::place`] once per drained batch; what has to be
//! said comes out through [`Effects`]. There is no IO, clock or randomness here, and no map whose order
//! depends on hashes is ever iterated: the same calls give the same effects.
//!
//! [`task`] is the record, [`keys`] finds it by key, [`life`] the transitions and the reference counts, [`submit`] and [`report`] what clients
//! and workers say, [`place`] who runs what, [`copies`] who else is to have a value, [`even`] who is to have less, [`recover`] what a loss undoes, [`cancel`] cancel and retry,
//! [`bind`] what may not run anywhere, [`pressure`] what follows when a worker's memory is nearly full,
//! [`fences`] when a cancel is acknowledged, [`check`] the invariants, [`explain`] what people are told.

#![warn(clippy::disallowed_methods, clippy::disallowed_types, clippy::iter_over_hash_type)]

mod bind;
mod blame;
mod cancel;
mod check;
mod clients;
mod copies;
mod even;
mod explain;
mod fences;
mod keys;
mod life;
mod place;
mod pressure;
mod queue;
pub mod recover;
mod report;
mod submit;
mod task;
#[cfg(test)]
mod tests;
mod workers;

use std::collections::{BTreeMap, VecDeque};

use thiserror::Error;

use self::bind::Bindings;
use self::clients::Clients;
use self::copies::Orders;
pub use self::explain::{Explanation, HeldValue, TaskCounts, WorkerSummary};
use self::fences::Fences;
use self::keys::KeyTable;
use self::life::Step;
use self::queue::ReadyQueue;
use self::task::{Origin, TaskTable};
use self::workers::Workers;
use crate::model::{ClientId, FunctionId, FutureId, Key, TaskId, WorkerId};
use crate::wire::client::{Outcome, Placed};
use crate::wire::worker::{Assignment, Input};

/// What a decision does to the world: each call is one message to one peer, in order.
pub trait Effects {
    /// Gives `worker` a task to run.
    fn assign(&mut self, worker: WorkerId, assignment: &Assignment<'_>);
    /// Asks `worker` for a task back, if that has not started.
    fn retract(&mut self, worker: WorkerId, task: TaskId);
    /// Takes an assigned task away from `worker` for good.
    fn abandon(&mut self, worker: WorkerId, task: TaskId);
    /// Asks `worker` whether it has booked all that was said before.
    fn fence(&mut self, worker: WorkerId, number: u64);
    /// Has `worker` get a copy of a value from one of `holders`.
    fn acquire(&mut self, worker: WorkerId, task: TaskId, nbytes: u64, holders: &[WorkerId]);
    /// Lets `worker` drop a value.
    fn free(&mut self, worker: WorkerId, task: TaskId);
    /// Tells `client` how one of its futures ended.
    fn notify(&mut self, client: ClientId, future: FutureId, outcome: &Outcome<'_>);
    /// Tells `client` where a scattered value goes.
    fn placed(&mut self, client: ClientId, placed: &Placed);
    /// Tells `client` that nothing that its cancel of this number stopped can start any more.
    fn acknowledge(&mut self, client: ClientId, number: u32);
    /// Tells `client` what its request of this number came to, as JSON, or what is missing.
    fn answer(&mut self, client: ClientId, number: u32, answer: &Result<String, String>);
}

/// What can be set about scheduling.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// From a report to the start of the next task, in microseconds: workers are given this much work ahead.
    pub round_trip_us: u64,
    /// Queued and running tasks per thread, at most.
    pub depth_max: u32,
    /// Assumed run time of a function that never ran, in microseconds.
    pub unknown_duration_us: u32,
    /// Workers that may die under a task before the task is blamed.
    pub deaths_max: usize,
    /// How long a task that may run on certain workers only waits for one of them to be there, in microseconds.
    pub placement_wait_us: u64,
    /// Seeds the draws of candidates.
    pub seed: u64,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            round_trip_us: 500,
            depth_max: 64,
            unknown_duration_us: 1000,
            deaths_max: 3,
            placement_wait_us: 60_000_000,
            seed: 1,
        }
    }
}

/// A peer said what it may not say; it is dropped.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Violation {
    /// A client names a future that it does not have.
    #[error("{client} names future {}, which it never took or has given back", future.0)]
    UnknownFuture {
        /// Who said it.
        client: ClientId,
        /// What it named.
        future: FutureId,
    },
    /// A client takes a future that it has.
    #[error("{client} takes future {} twice, or far out of order", future.0)]
    FutureTaken {
        /// Who said it.
        client: ClientId,
        /// What it named.
        future: FutureId,
    },
    /// A client that has left takes a future.
    #[error("{client} takes a future after it has left")]
    Left {
        /// Who said it.
        client: ClientId,
    },
    /// A worker says that it has reached a fence that it was not asked about.
    #[error("{worker} has reached fence {number}, which it was not asked about")]
    NotFenced {
        /// Who said it.
        worker: WorkerId,
        /// What it named.
        number: u64,
    },
    /// A worker reports on a task that it was not given.
    #[error("{worker} reports on {task}, which it was not given")]
    NotAssigned {
        /// Who said it.
        worker: WorkerId,
        /// What it named.
        task: TaskId,
    },
}

/// All that the scheduler knows.
#[derive(Debug)]
pub struct SchedulerCore {
    tuning: Tuning,
    tasks: TaskTable,
    keys: KeyTable,
    /// The names that users gave to keys.
    names: BTreeMap<Key, String>,
    clients: Clients,
    workers: Workers,
    functions: Vec<Function>,
    function_index: BTreeMap<FunctionId, u32>,
    /// Whether a worker has told which functions there are.
    functions_known: bool,
    /// Ready tasks without large inputs: any worker will do.
    pool: ReadyQueue,
    /// Ready tasks with inputs on workers, to be placed.
    unplaced: Vec<TaskId>,
    /// Waiting tasks that may follow their inputs to a worker.
    unfollowed: Vec<TaskId>,
    /// Steps that a transition leaves to do, so that long chains need no stack.
    steps: Vec<Step>,
    /// Scattered values that wait for a worker to join. Entries of futures given back since are stale.
    unscattered: Vec<(ClientId, FutureId)>,
    /// Futures whose clients scattered what is on its way already, by slot: they keep it and would send it. Those that
    /// were given back since are stale.
    heirs: BTreeMap<u32, VecDeque<(ClientId, FutureId)>>,
    /// Workers that died and had the task, by slot.
    deaths: BTreeMap<u32, Vec<WorkerId>>,
    /// Cancels that are not acknowledged.
    fences: Fences,
    /// Copies and moves that clients asked for.
    orders: Orders,
    /// Tasks that name workers.
    bindings: Bindings,
    /// How often scattered values could not be fetched from the live worker that has the only copy.
    doubts: BTreeMap<TaskId, u32>,
    next_scatter: usize,
    assignments: u32,
    /// Room for the inputs of an assignment, empty between them.
    inputs_room: Vec<Input<'static>>,
    random: u64,
    totals: Totals,
}

/// Where a worker runs, and how much at once.
#[derive(Debug, Clone, Copy)]
pub struct Seat<'a> {
    /// Its host.
    pub host: &'a str,
    /// Its rank in the launch, if it has one.
    pub rank: Option<u32>,
    /// Tasks that it runs at once.
    pub threads: u32,
    /// The memory that it may use, in bytes; 0 for all there is.
    pub memory_bytes_max: u64,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Calls submitted, those of known keys included.
    pub submitted: u64,
    /// Tasks that ran to their end.
    pub finished: u64,
    /// Tasks that ended in an error of their own.
    pub failed: u64,
    /// Values computed again because they were lost.
    pub recomputed: u64,
    /// Tasks asked back from a worker for another one.
    pub stolen: u64,
}

/// What is known of a task function.
#[derive(Debug)]
struct Function {
    id: FunctionId,
    name: Option<String>,
    /// Whether workers can run it; unknown until one has joined.
    registered: bool,
    /// Moving mean of its run time.
    mean_us: Option<f32>,
    /// Moving mean of the packed size of its results.
    mean_bytes: f32,
}

impl SchedulerCore {
    /// A scheduler without tasks, clients and workers.
    pub fn new(tuning: Tuning) -> Self {
        Self {
            tuning,
            tasks: TaskTable::new(),
            keys: KeyTable::new(),
            names: BTreeMap::new(),
            clients: Clients::new(),
            workers: Workers::default(),
            functions: Vec::new(),
            function_index: BTreeMap::new(),
            functions_known: false,
            pool: ReadyQueue::default(),
            unplaced: Vec::new(),
            unfollowed: Vec::new(),
            steps: Vec::new(),
            unscattered: Vec::new(),
            heirs: BTreeMap::new(),
            deaths: BTreeMap::new(),
            fences: Fences::default(),
            orders: Orders::default(),
            bindings: Bindings::default(),
            doubts: BTreeMap::new(),
            next_scatter: 0,
            assignments: 0,
            inputs_room: Vec::new(),
            random: tuning.seed | 1,
            totals: Totals::default(),
        }
    }

    /// A client that may submit.
    pub fn client_joined(&mut self, client: ClientId) {
        self.clients.join(client);
    }

    /// A worker that may be given tasks: where it runs, its threads, and the functions it can run.
    pub fn worker_joined<E: Effects>(
        &mut self,
        worker: WorkerId,
        seat: Seat<'_>,
        functions: impl IntoIterator<Item = (FunctionId, String)>,
        effects: &mut E,
    ) {
        self.functions_known = true;
        for (id, name) in functions {
            let index = self.function(id);
            let function = &mut self.functions[index as usize];
            (function.registered, function.name) = (true, Some(name));
        }
        self.workers.join(worker, Seat { threads: seat.threads.max(1), ..seat });
        self.bindings.worker_joined();
        self.look_at_orders(None);
        self.workers.mark_dirty(worker);
        self.place_unscattered(effects);
        self.take_steps(effects);
    }

    /// Names functions for error texts; workers may or may not have them.
    pub fn name_functions(&mut self, functions: impl IntoIterator<Item = (FunctionId, String)>) {
        for (id, name) in functions {
            let index = self.function(id);
            self.functions[index as usize].name.get_or_insert(name);
        }
    }

    /// Counts since the start.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Index of a function in the table; it is entered if need be.
    fn function(&mut self, id: FunctionId) -> u32 {
        *self.function_index.entry(id).or_insert_with(|| {
            self.functions.push(Function {
                id,
                name: None,
                registered: false,
                mean_us: None,
                mean_bytes: 0.0,
            });
            u32::try_from(self.functions.len() - 1).expect("fewer than 2^32 functions")
        })
    }

    /// Estimated run time of a function.
    #[inline]
    fn estimate_us(&self, function: u32) -> u32 {
        self.functions[function as usize].mean_us.map_or(self.tuning.unknown_duration_us, |mean| mean as u32)
    }

    fn find_key(&self, key: Key) -> Option<u32> {
        self.keys.find(key, &self.tasks)
    }

    /// The slot of `key`, which is given a released task if it has none.
    #[inline]
    fn intern(&mut self, key: Key, function: u32, origin: Origin) -> Interned {
        match self.keys.find_or_reserve(key, &self.tasks) {
            Ok(slot) => Interned::Known(slot),
            Err(vacancy) => {
                let slot = self.tasks.insert(key, function, origin);
                self.keys.enter(&vacancy, slot);
                Interned::Fresh(slot)
            }
        }
    }

    fn remove_key(&mut self, slot: u32) {
        let key = self.tasks[slot].key;
        self.keys.remove(key, slot);
        if !self.names.is_empty() {
            self.names.remove(&key);
        }
    }

    /// The next draw of a xorshift generator.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// What a key was found to be.
enum Interned {
    /// A task had it.
    Known(u32),
    /// A task was made for it.
    Fresh(u32),
}
