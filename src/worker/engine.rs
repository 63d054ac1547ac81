//! The core, the store and the outbox behind one lock, and whom to wake when something changes.
//!
//! An executor thread that ends a task books its outcome and takes its next task in one visit, without
//! another thread's help: a busy thread is never woken and a chain of tasks stays on its thread. A task has
//! started only when a thread has it, so whatever waits here can still be retracted or abandoned. Threads
//! without work are parked; a start on one of them is the only wake of a thread, and reports wake the IO
//! loop only when there were none. Lock times are short: a visit of a thread books one task, one of the IO loop
//! at most [`ASSIGNMENTS_PER_VISIT`].

mod floor;
mod loans;
mod reserved;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::thread::Thread;

use bytes::Bytes;
use smallvec::SmallVec;
use thiserror::Error;
use tokio::sync::Notify;

use super::core::loans::Owner;
use super::core::memory::{MemoryUse, Spilled, Ticket};
use super::core::{ContractError, Counts, ThreadId, WorkerCore};
use super::spill::{Order, Spiller};
use crate::model::{FunctionId, Packed, Resident, TaskId, Value, WorkerId};
use crate::transport::shm;
use crate::wire::WireError;
use crate::wire::worker::{AssignReader, Failed, Finished, TaskReader, ToWorkerMessage, WorkerOutbox};
pub use floor::Job;
use floor::{Arriving, Floor};
pub use reserved::Reserved;

/// Assignments that are booked before threads get their turn.
const ASSIGNMENTS_PER_VISIT: usize = 64;

/// What all threads of a worker share.
#[derive(Debug)]
pub struct Engine {
    state: Mutex<State>,
    threads: Box<[OnceLock<Thread>]>,
    reports: Notify,
    broken: AtomicBool,
    /// Where values go when memory is short.
    spiller: OnceLock<Spiller>,
}

#[derive(Debug)]
struct State {
    core: WorkerCore<Job>,
    floor: Floor,
}

/// A task that a thread is to run.
#[derive(Debug)]
pub struct Start {
    /// Its name.
    pub task: TaskId,
    /// What to call.
    pub function: FunctionId,
    /// The encoded arguments.
    pub arguments: Bytes,
    /// Its inputs, in the order of the placeholders.
    pub inputs: SmallVec<[StartInput; 2]>,
}

/// An input of a task that starts.
#[derive(Debug)]
pub enum StartInput {
    /// Flat packed bytes that came with the assignment.
    Inline(Bytes),
    /// A value that the worker holds.
    Held(Arc<Resident>),
}

/// A task that a thread has run.
#[derive(Debug)]
pub struct Ended<'a> {
    /// Its name.
    pub task: TaskId,
    /// How long it ran.
    pub duration_us: u64,
    /// How it ended.
    pub outcome: Outcome<'a>,
}

/// The end of a run.
#[derive(Debug)]
pub enum Outcome<'a> {
    /// It has a result.
    Value {
        /// The result.
        value: Value,
        /// Its packed size.
        nbytes: u64,
        /// Its flat form, if it is small.
        inline: Option<&'a [u8]>,
    },
    /// It has none: a flat packed [`crate::model::TaskError`].
    Error(&'a [u8]),
}

/// What a thread does next.
#[derive(Debug)]
pub enum Turn {
    /// Run this.
    Run(Start),
    /// Nothing: park until there is something.
    Park,
    /// End.
    Stop,
}

/// A value to fetch from a peer; answered by [`Engine::fetched`], or [`Engine::not_lent`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchRequest {
    /// The value's name.
    pub task: TaskId,
    /// Its packed size.
    pub nbytes: u64,
    /// Whom to ask.
    pub holder: WorkerId,
    /// Whether it is to come at all if it is not lent.
    pub manner: Manner,
}

/// How a value may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As it will: there is room for it.
    Any,
    /// It may only be mapped where it lies.
    Lent,
}

/// What waits to be sent, fetched and counted; taken in one visit.
#[derive(Debug, Default)]
pub struct Reports {
    /// Frames for the scheduler.
    pub frames: Vec<u8>,
    /// Fetches to begin.
    pub fetches: Vec<FetchRequest>,
    /// Tasks that the frames announce, for [`Engine::announced`].
    pub announced: Vec<TaskId>,
}

/// What the worker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Tasks.
    pub counts: Counts,
    /// Values held.
    pub values: u64,
    /// What the memory is used for.
    pub memory: MemoryUse,
}

/// The scheduler sent something that makes no sense.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ProtocolError {
    /// A malformed message.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A message out of place.
    #[error(transparent)]
    Contract(#[from] ContractError),
}

impl Engine {
    /// An engine for `threads` executor threads, without tasks, that may use all memory there is.
    pub fn new(threads: u32) -> Self {
        Self::with_memory(threads, 0)
    }

    /// An engine for `threads` executor threads, without tasks, that may use `memory_bytes_max`; 0 for no limit.
    pub fn with_memory(threads: u32, memory_bytes_max: u64) -> Self {
        let floor = Floor { starts: (0..threads).map(|_| None).collect(), ..Floor::default() };
        Self {
            state: Mutex::new(State { core: WorkerCore::with_memory(threads, memory_bytes_max), floor }),
            threads: (0..threads).map(|_| OnceLock::new()).collect(),
            reports: Notify::new(),
            broken: AtomicBool::new(false),
            spiller: OnceLock::new(),
        }
    }

    /// Says who writes and reads spilled values.
    pub(super) fn set_spiller(&self, spiller: Spiller) {
        // A second one would be a bug of the worker, and get no orders.
        let _ = self.spiller.set(spiller);
    }

    /// Books a batch of assignments out of the frame `body`; arguments stay in the frame's memory.
    pub fn assign(&self, mut batch: AssignReader<'_>, body: &Bytes) -> Result<(), ProtocolError> {
        loop {
            let more = self.book(|core, floor| {
                for _ in 0..ASSIGNMENTS_PER_VISIT {
                    let Some(assignment) = batch.next_assignment()? else { return Ok(false) };
                    core.assign(&assignment, Job::new(&assignment, body), floor)?;
                }
                Ok::<_, ProtocolError>(true)
            })?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Books any other batch of the scheduler that concerns tasks.
    pub fn withdraw(&self, message: &mut ToWorkerMessage<'_>) -> Result<(), ProtocolError> {
        self.book(|core, floor| match message {
            ToWorkerMessage::Retract(tasks) => for_each(tasks, |task| core.retract(task, floor)),
            ToWorkerMessage::Abandon(tasks) => for_each(tasks, |task| core.abandon(task, floor)),
            ToWorkerMessage::Free(tasks) => for_each(tasks, |task| core.free(task, floor)),
            ToWorkerMessage::Fence(numbers) => {
                while let Some(number) = numbers.next_number()? {
                    core.fence(number, floor);
                }
                Ok(())
            }
            ToWorkerMessage::Acquire(values) => {
                while let Some(acquisition) = values.next_acquisition()? {
                    core.acquire(&acquisition, floor);
                }
                Ok(())
            }
            ToWorkerMessage::Assign(_) | ToWorkerMessage::Peers(_) | ToWorkerMessage::Shutdown(_) => Ok(()),
        })
    }

    /// Books that announcements were written.
    pub fn announced(&self, tasks: impl Iterator<Item = TaskId>) {
        self.book(|core, floor| tasks.for_each(|task| core.announced(task, floor)));
    }

    /// Books the end of a fetch.
    pub fn fetched(&self, task: TaskId, value: Option<Packed>) {
        let loan = value.as_ref().and_then(|packed| shm::pool().loan(&packed.buffers));
        self.book(|core, floor| match value {
            Some(packed) => {
                let nbytes = packed.len() as u64;
                let owner = loan.as_ref().map_or(Owner::Worker, |_| Owner::Lender);
                floor.arriving = Some(Arriving::Packed(packed, loan));
                core.fetched(task, nbytes, owner, floor);
            }
            None => core.fetch_failed(task, floor),
        });
    }

    /// Books that a value which was to be fetched has so many bytes, more than this worker may use.
    pub fn fetched_too_large(&self, task: TaskId, nbytes: u64) {
        self.book(|core, floor| core.fetched_too_large(task, nbytes, floor));
    }

    /// Books a value that a client sent and for which no room was [`Reserved`].
    pub fn put(&self, task: TaskId, packed: Packed) {
        self.book(|core, floor| floor.put(core, task, packed));
    }

    /// Books how much memory of its own the process uses; what it is used for.
    pub fn sampled(&self, bytes: u64) -> MemoryUse {
        self.book(|core, _| core.sampled(bytes));
        self.lock().core.memory()
    }

    /// Books the answer to an order to write a value.
    pub fn spilled(&self, outcome: Spilled) {
        self.book(|core, floor| core.spilled(outcome, floor));
    }

    /// Books the answer to an order to read a value.
    pub fn unspilled(&self, ticket: Ticket, is_read: bool) {
        self.book(|core, floor| core.unspilled(ticket, is_read, floor));
    }

    /// Books that a spilled value cannot be read.
    pub fn lose(&self, task: TaskId) {
        self.book(|core, floor| core.lose(task, floor));
    }

    /// A value that is held here.
    pub fn value(&self, task: TaskId) -> Option<Arc<Resident>> {
        self.lock().floor.store.value(task)
    }

    /// Books the end of the task that `thread` ran, if any, and gives it its next turn.
    pub fn next_turn(&self, thread: ThreadId, ended: Option<Ended<'_>>) -> Turn {
        self.visit(Some(thread), |core, floor| {
            let Some(Ended { task, duration_us, outcome }) = ended else { return };
            match outcome {
                Outcome::Value { value, nbytes, inline } => {
                    floor.arriving = Some(Arriving::Live(value, nbytes as usize));
                    core.finished(thread, &Finished { task, duration_us, nbytes, inline }, floor);
                }
                Outcome::Error(error) => core.failed(thread, &Failed { task, duration_us, error }, floor),
            }
        })
        .1
    }

    /// Makes the calling thread the one that runs the tasks of `thread`.
    pub fn enlist(&self, thread: ThreadId) {
        // A second thread of the same number would be a bug of the executor, and sleep for ever.
        let _ = self.threads[thread.0 as usize].set(std::thread::current());
    }

    /// Whether there may be something to take with [`take_reports`](Self::take_reports).
    pub async fn reported(&self) {
        self.reports.notified().await;
    }

    /// Takes what waits to be sent and fetched. The vectors of `reports` must be empty; their memory is used.
    pub fn take_reports(&self, reports: &mut Reports) {
        let mut state = self.lock();
        state.floor.outbox.outbox().swap_into(&mut reports.frames);
        std::mem::swap(&mut state.floor.fetches, &mut reports.fetches);
        std::mem::swap(&mut state.floor.announcing, &mut reports.announced);
        state.floor.signalled = false;
    }

    /// Adds to what is reported. For the IO loop itself: nobody is woken.
    pub fn report(&self, write: impl FnOnce(&mut WorkerOutbox)) {
        write(&mut self.lock().floor.outbox);
    }

    /// What the worker has at this moment.
    pub fn load(&self) -> Load {
        let state = self.lock();
        Load {
            counts: state.core.counts(),
            values: state.floor.store.len() as u64,
            memory: state.core.memory(),
        }
    }

    /// Lets every thread end after the task it runs.
    pub fn stop(&self) {
        self.lock().floor.stopping = true;
        self.threads.iter().filter_map(OnceLock::get).for_each(Thread::unpark);
    }

    /// Whether a thread found the engine's state broken; the worker ends then.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Says that the calling thread found the state broken.
    pub(super) fn set_broken(&self) {
        self.broken.store(true, Ordering::Relaxed);
        self.reports.notify_one();
    }

    /// Books events on behalf of no executor thread.
    fn book<R>(&self, events: impl FnOnce(&mut WorkerCore<Job>, &mut Floor) -> R) -> R {
        self.visit(None, events).0
    }

    /// Books events, starts what is ready, and wakes who has something to do. The turn is the visitor's.
    fn visit<R>(
        &self,
        visitor: Option<ThreadId>,
        events: impl FnOnce(&mut WorkerCore<Job>, &mut Floor) -> R,
    ) -> (R, Turn) {
        let mut state = self.lock();
        let State { core, floor } = &mut *state;
        floor.visitor = visitor;
        floor.loans.settle(core);
        let booked = events(core, floor);
        floor.arriving = None;
        core.start_ready(floor);
        let turn = visitor.map_or(Turn::Park, |thread| floor.turn(thread));
        let wakes = std::mem::take(&mut floor.wakes);
        let discarded = std::mem::take(&mut floor.discarded);
        let orders = std::mem::take(&mut floor.orders);
        let is_signal_due = !floor.signalled && floor.has_reports();
        floor.signalled |= is_signal_due;
        drop(state);
        for thread in wakes {
            // A thread that has not enlisted yet looks for its first turn by itself.
            if let Some(thread) = self.threads[thread.0 as usize].get() {
                thread.unpark();
            }
        }
        if is_signal_due {
            self.reports.notify_one();
        }
        if !orders.is_empty() {
            self.pass_on(orders);
        }
        // Large values are unmapped outside the lock.
        drop(discarded);
        (booked, turn)
    }

    #[cold]
    fn pass_on(&self, orders: Vec<Order>) {
        if let Some(spiller) = self.spiller.get() {
            orders.into_iter().for_each(|order| spiller.take(order));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panicked while it booked an event")
    }
}

fn for_each(tasks: &mut TaskReader<'_>, mut book: impl FnMut(TaskId)) -> Result<(), ProtocolError> {
    while let Some(task) = tasks.next_task()? {
        book(task);
    }
    Ok(())
}
