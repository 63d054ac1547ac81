//! Messages between a worker and the scheduler.
//!
//! [`ToWorkerOutbox`] writes what the scheduler says, [`ToWorkerMessage`] reads it on the worker;
//! [`WorkerOutbox`] writes the reports and [`WorkerMessage`] reads them. Each `Assign` is answered by exactly
//! one of `Finished`, `Failed`, `Returned`: with that the scheduler never guesses what a worker still has. Each
//! `Fence` is answered by one `Fenced`: all that was said before has been booked.

mod lists;
mod measures;
mod memory;
mod orders;
mod reports;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::batch::{Outbox, decode};
use super::peer::HostKey;
use super::{Peer, WireError};
use crate::model::{FunctionId, TaskId, WorkerId};
pub use lists::{NumberReader, PairReader, TaskReader};
pub use measures::{Metrics, Moved, Received, Traffic};
pub use memory::{MemoryMetrics, Pressure};
pub use orders::{AcquireReader, Acquisition, AssignReader};
pub use reports::{FailedReader, FinishedReader};

const ASSIGN: u8 = 65;
const RETRACT: u8 = 66;
const ABANDON: u8 = 67;
const FREE: u8 = 68;
const TO_WORKER_PEERS: u8 = 69;
const SHUTDOWN: u8 = 70;
const FENCE: u8 = 71;
const ACQUIRE: u8 = 72;

const JOIN: u8 = 97;
const FINISHED: u8 = 98;
const WORKER_FAILED: u8 = 99;
const RETURNED: u8 = 100;
const HOLDS: u8 = 101;
const UNAVAILABLE: u8 = 102;
const METRICS: u8 = 103;
const STARTED: u8 = 104;
const FENCED: u8 = 105;
const MOVED: u8 = 106;
const MISSED: u8 = 107;
const LOST: u8 = 108;
const PRESSURE: u8 = 109;

/// One task for a worker to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment<'a> {
    /// Its name.
    pub task: TaskId,
    /// What to call.
    pub function: FunctionId,
    /// Higher runs first.
    pub priority: i32,
    /// How it is to be started.
    pub caution: Caution,
    /// The encoded arguments.
    pub arguments: &'a [u8],
    /// Where each input comes from, in the order of the placeholders.
    pub inputs: SmallVec<[Input<'a>; 2]>,
}

/// How a task is to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Caution {
    /// At once.
    #[default]
    None,
    /// After `Started` was written: a worker died that had the task, so a death is to be laid at the right door.
    Announce,
}

/// An input of an assigned task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input<'a> {
    /// The task whose result it is.
    pub task: TaskId,
    /// Where that result is.
    pub source: Source<'a>,
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source<'a> {
    /// Here it is, packed.
    Inline(&'a [u8]),
    /// The worker has it, or will: it was assigned the task that makes it.
    Local,
    /// The same, and nobody else wants it: when the task is done it is dropped, and reported as lost. (A small result
    /// that the scheduler has as well is neither.)
    LastUse,
    /// Others have it.
    Remote {
        /// Its packed size.
        nbytes: u64,
        /// Who has it, the nearest first.
        holders: SmallVec<[WorkerId; 4]>,
    },
}

const SOURCE_INLINE: u64 = 0;
const SOURCE_LOCAL: u64 = 1;
const SOURCE_REMOTE: u64 = 2;
const SOURCE_LAST_USE: u64 = 3;

/// The end of the worker's service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shutdown {
    /// Logged.
    pub reason: String,
    /// The exit code of the rank.
    pub code: i32,
}

/// What a worker says of itself when it joins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// Its rank in the launch, if it has one.
    pub rank: Option<u32>,
    /// The host it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// `host:port` of its data port.
    pub address: String,
    /// Its rank in `MPI_COMM_WORLD`, if it serves MPI.
    pub mpi_rank: Option<u32>,
    /// Where its memory can be mapped, if it may.
    pub shm: Option<HostKey>,
    /// How many tasks it runs at once.
    pub threads: u32,
    /// The memory it may use, in bytes.
    pub memory_bytes_max: u64,
    /// JSON of its [`crate::topology::Place`], for `topo`.
    pub place: String,
    /// The functions it can run.
    pub functions: Vec<super::client::FunctionName>,
}

/// What the scheduler says to a worker, gathered until it is written.
#[derive(Debug, Default)]
pub struct ToWorkerOutbox {
    outbox: Outbox,
    run: Option<(FunctionId, i32, Caution)>,
}

impl ToWorkerOutbox {
    /// The frames to write.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Gives the worker a task.
    pub fn assign(&mut self, assignment: &Assignment<'_>) {
        let batch = self.outbox.item(ASSIGN);
        let run = (assignment.function, assignment.priority, assignment.caution);
        let first = batch.is_first();
        let [tasks, runs, arguments, inputs, ..] = &mut batch.columns;
        tasks.put_delta(assignment.task.0);
        if first || self.run != Some(run) {
            self.run = Some(run);
            runs.put_delta(assignment.task.0);
            runs.put_raw(&assignment.function.0.to_le_bytes());
            runs.put_signed(i64::from(assignment.priority));
            runs.put(u64::from(assignment.caution == Caution::Announce));
        }
        arguments.put_bytes(assignment.arguments);
        inputs.put(assignment.inputs.len() as u64);
        for input in &assignment.inputs {
            inputs.put_delta(input.task.0);
            match &input.source {
                Source::Inline(bytes) => {
                    inputs.put(SOURCE_INLINE);
                    inputs.put_bytes(bytes);
                }
                Source::Local => inputs.put(SOURCE_LOCAL),
                Source::LastUse => inputs.put(SOURCE_LAST_USE),
                Source::Remote { nbytes, holders } => {
                    inputs.put(SOURCE_REMOTE);
                    inputs.put(*nbytes);
                    inputs.put(holders.len() as u64);
                    holders.iter().for_each(|worker| inputs.put(u64::from(worker.0)));
                }
            }
        }
    }

    /// Asks for a task back that has not started; answered by `Returned`, or by its outcome if it has.
    pub fn retract(&mut self, task: TaskId) {
        self.outbox.item(RETRACT).columns[0].put_delta(task.0);
    }

    /// Takes an assigned task away for good: it does not start any more, and if it runs its result is dropped.
    /// Answered as every assignment is.
    pub fn abandon(&mut self, task: TaskId) {
        self.outbox.item(ABANDON).columns[0].put_delta(task.0);
    }

    /// Drops a stored value.
    pub fn free(&mut self, task: TaskId) {
        self.outbox.item(FREE).columns[0].put_delta(task.0);
    }

    /// Has the worker get a copy of a value and keep it, from `holders` in turn, which are not none. Answered by `Holds`
    /// or `Missed`, unless the value is freed meanwhile.
    pub fn acquire(&mut self, task: TaskId, nbytes: u64, holders: &[WorkerId]) {
        let [tasks, sizes, sources, ..] = &mut self.outbox.item(ACQUIRE).columns;
        tasks.put_delta(task.0);
        sizes.put(nbytes);
        sources.put(holders.len() as u64);
        holders.iter().for_each(|worker| sources.put(u64::from(worker.0)));
    }

    /// Asks whether all that was said before has been booked; answered by `Fenced` of the same number.
    pub fn fence(&mut self, number: u64) {
        self.outbox.item(FENCE).columns[0].put_delta(number);
    }

    /// Workers that joined, with the addresses of their data ports.
    pub fn peers(&mut self, peers: &[Peer]) {
        self.outbox.single(TO_WORKER_PEERS, &peers);
    }

    /// Ends the worker.
    pub fn shutdown(&mut self, shutdown: &Shutdown) {
        self.outbox.single(SHUTDOWN, shutdown);
    }
}

/// What the scheduler said, as a worker reads it.
#[derive(Debug)]
pub enum ToWorkerMessage<'a> {
    /// Tasks to run.
    Assign(AssignReader<'a>),
    /// Tasks to give back.
    Retract(TaskReader<'a>),
    /// Tasks to forget.
    Abandon(TaskReader<'a>),
    /// Values to drop.
    Free(TaskReader<'a>),
    /// Values to get copies of.
    Acquire(AcquireReader<'a>),
    /// Questions whether all before them is booked.
    Fence(NumberReader<'a>),
    /// Workers that joined.
    Peers(Vec<Peer>),
    /// The end.
    Shutdown(Shutdown),
}

impl<'a> ToWorkerMessage<'a> {
    /// Reads a frame.
    pub fn read(opcode: u8, body: &'a [u8]) -> Result<Self, WireError> {
        Ok(match opcode {
            ASSIGN => Self::Assign(AssignReader::new(body)?),
            RETRACT => Self::Retract(TaskReader::new("retract", body)?),
            ABANDON => Self::Abandon(TaskReader::new("abandon", body)?),
            FREE => Self::Free(TaskReader::new("free", body)?),
            ACQUIRE => Self::Acquire(AcquireReader::new(body)?),
            FENCE => Self::Fence(NumberReader::new("fence", body)?),
            TO_WORKER_PEERS => Self::Peers(decode("peers", body)?),
            SHUTDOWN => Self::Shutdown(decode("shutdown", body)?),
            other => return Err(WireError::UnknownOpcode(other)),
        })
    }
}

/// A task that ran to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished<'a> {
    /// Its name.
    pub task: TaskId,
    /// How long it ran.
    pub duration_us: u64,
    /// The packed size of its result.
    pub nbytes: u64,
    /// The packed result if it is small; the worker does not keep that.
    pub inline: Option<&'a [u8]>,
}

/// A task that ended in an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed<'a> {
    /// Its name.
    pub task: TaskId,
    /// How long it ran.
    pub duration_us: u64,
    /// A packed [`crate::model::error::TaskError`].
    pub error: &'a [u8],
}

/// What a worker reports, gathered until it is written.
#[derive(Debug, Default)]
pub struct WorkerOutbox {
    outbox: Outbox,
}

impl WorkerOutbox {
    /// The frames to write.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// The first message.
    pub fn join(&mut self, join: &Join) {
        self.outbox.single(JOIN, join);
    }

    /// A task is done.
    pub fn finished(&mut self, finished: &Finished<'_>) {
        let [tasks, durations, sizes, values, ..] = &mut self.outbox.item(FINISHED).columns;
        tasks.put_delta(finished.task.0);
        durations.put(finished.duration_us);
        match finished.inline {
            // The size of a value that is here needs no telling: 0 says so.
            Some(bytes) => {
                sizes.put(0);
                values.put_bytes(bytes);
            }
            None => sizes.put(finished.nbytes + 1),
        }
    }

    /// A task failed.
    pub fn failed(&mut self, failed: &Failed<'_>) {
        let [tasks, durations, errors, ..] = &mut self.outbox.item(WORKER_FAILED).columns;
        tasks.put_delta(failed.task.0);
        durations.put(failed.duration_us);
        errors.put_bytes(failed.error);
    }

    /// An assigned task did not run and will not: it was retracted, abandoned, or an input did not arrive.
    pub fn returned(&mut self, task: TaskId) {
        self.outbox.item(RETURNED).columns[0].put_delta(task.0);
    }

    /// A task that is to be started with caution starts as soon as this is written.
    pub fn started(&mut self, task: TaskId) {
        self.outbox.item(STARTED).columns[0].put_delta(task.0);
    }

    /// Everything that the scheduler said before the fence of this number has been booked.
    pub fn fenced(&mut self, number: u64) {
        self.outbox.item(FENCED).columns[0].put_delta(number);
    }

    /// A value that the worker was to acquire has not come from any of the holders.
    pub fn missed(&mut self, task: TaskId) {
        self.outbox.item(MISSED).columns[0].put_delta(task.0);
    }

    /// A copy of a value is here: fetched for a task, acquired, or put by a client.
    pub fn holds(&mut self, task: TaskId, nbytes: u64) {
        let [tasks, sizes, ..] = &mut self.outbox.item(HOLDS).columns;
        tasks.put_delta(task.0);
        sizes.put(nbytes);
    }

    /// `holder` did not hand out the value of `task`, though it should have it.
    pub fn unavailable(&mut self, task: TaskId, holder: WorkerId) {
        let [tasks, holders, ..] = &mut self.outbox.item(UNAVAILABLE).columns;
        tasks.put_delta(task.0);
        holders.put(u64::from(holder.0));
    }

    /// A value that was here is gone: it cannot be read from disk, or was used for the last time.
    pub fn lost(&mut self, task: TaskId) {
        self.outbox.item(LOST).columns[0].put_delta(task.0);
    }

    /// Tasks start, or only one at a time.
    pub fn pressure(&mut self, pressure: Pressure) {
        self.outbox.single(PRESSURE, &pressure);
    }

    /// Measurements.
    pub fn metrics(&mut self, metrics: &Metrics) {
        self.outbox.single(METRICS, metrics);
    }

    /// Large values that were fetched since the last such report.
    pub fn moved(&mut self, moved: &[Moved]) {
        self.outbox.single(MOVED, &moved);
    }
}

/// What a worker reported, as the scheduler reads it.
#[derive(Debug)]
pub enum WorkerMessage<'a> {
    /// The first message.
    Join(Box<Join>),
    /// Tasks that are done.
    Finished(FinishedReader<'a>),
    /// Tasks that failed.
    Failed(FailedReader<'a>),
    /// Tasks that did not run.
    Returned(TaskReader<'a>),
    /// Tasks that are about to start.
    Started(TaskReader<'a>),
    /// Fences that were reached.
    Fenced(NumberReader<'a>),
    /// Values that are on this worker.
    Holds(PairReader<'a>),
    /// Values that it was to acquire, and that have not come.
    Missed(TaskReader<'a>),
    /// Values that another worker did not hand out.
    Unavailable(PairReader<'a>),
    /// Values that this worker cannot read from disk.
    Lost(TaskReader<'a>),
    /// Whether this worker starts tasks.
    Pressure(Pressure),
    /// Measurements.
    Metrics(Metrics),
    /// Large values that it fetched.
    Moved(Vec<Moved>),
}

impl<'a> WorkerMessage<'a> {
    /// Reads a frame.
    pub fn read(opcode: u8, body: &'a [u8]) -> Result<Self, WireError> {
        Ok(match opcode {
            JOIN => Self::Join(decode("join", body)?),
            FINISHED => Self::Finished(FinishedReader::new(body)?),
            WORKER_FAILED => Self::Failed(FailedReader::new(body)?),
            RETURNED => Self::Returned(TaskReader::new("returned", body)?),
            STARTED => Self::Started(TaskReader::new("started", body)?),
            FENCED => Self::Fenced(NumberReader::new("fenced", body)?),
            HOLDS => Self::Holds(PairReader::new("holds", body)?),
            MISSED => Self::Missed(TaskReader::new("missed", body)?),
            UNAVAILABLE => Self::Unavailable(PairReader::new("unavailable", body)?),
            LOST => Self::Lost(TaskReader::new("lost", body)?),
            PRESSURE => Self::Pressure(decode("pressure", body)?),
            METRICS => Self::Metrics(decode("metrics", body)?),
            MOVED => Self::Moved(decode("moved", body)?),
            other => return Err(WireError::UnknownOpcode(other)),
        })
    }
}
