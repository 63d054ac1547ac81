//! Messages between a worker and the scheduler.
//!
//! [`ToWorkerOutbox`] writes what the scheduler says, [`ToWorkerMessage`] reads it on the worker;
//! [`WorkerOutbox`] writes the reports and [`WorkerMessage`] reads them. Each `Assign` is answered by exactly
//! one of `Finished`, `Failed`, `Returned`: with that the scheduler never guesses what a worker still has. Each
//! `Fence` is answered by one `Fenced`: all that was said before has been booked.

mod lists;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::batch::{BatchReader, Outbox, decode};
use super::columns::ColumnReader;
use super::{Peer, WireError};
use crate::model::{FunctionId, TaskId, WorkerId};
pub use lists::{NumberReader, PairReader, TaskReader};

const ASSIGN: u8 = 65;
const RETRACT: u8 = 66;
const ABANDON: u8 = 67;
const FREE: u8 = 68;
const TO_WORKER_PEERS: u8 = 69;
const SHUTDOWN: u8 = 70;
const FENCE: u8 = 71;

const JOIN: u8 = 97;
const FINISHED: u8 = 98;
const WORKER_FAILED: u8 = 99;
const RETURNED: u8 = 100;
const HOLDS: u8 = 101;
const UNAVAILABLE: u8 = 102;
const METRICS: u8 = 103;
const STARTED: u8 = 104;
const FENCED: u8 = 105;

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
    /// How many tasks it runs at once.
    pub threads: u32,
    /// The memory it may use, in bytes.
    pub memory_bytes_max: u64,
    /// JSON of its [`crate::topology::Place`], for `topo`.
    pub place: String,
    /// The functions it can run.
    pub functions: Vec<super::client::FunctionName>,
}

/// What a worker measures of itself, every second or so while anything changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Metrics {
    /// Resident set of the process.
    pub resident_bytes: u64,
    /// Bytes of stored values.
    pub managed_bytes: u64,
    /// Values stored.
    pub values: u64,
    /// Tasks that are running.
    pub running: u32,
    /// Tasks that wait for a thread or an input.
    pub queued: u32,
    /// User and system time of the process, in microseconds.
    pub cpu_us: u64,
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
            FENCE => Self::Fence(NumberReader::new("fence", body)?),
            TO_WORKER_PEERS => Self::Peers(decode("peers", body)?),
            SHUTDOWN => Self::Shutdown(decode("shutdown", body)?),
            other => return Err(WireError::UnknownOpcode(other)),
        })
    }
}

/// The tasks of one `Assign`.
#[derive(Debug)]
pub struct AssignReader<'a> {
    batch: BatchReader<'a>,
    tasks: ColumnReader<'a>,
    runs: ColumnReader<'a>,
    arguments: ColumnReader<'a>,
    inputs: ColumnReader<'a>,
    next_run: Option<u64>,
    function: FunctionId,
    priority: i32,
    caution: Caution,
}

impl<'a> AssignReader<'a> {
    fn new(body: &'a [u8]) -> Result<Self, WireError> {
        let batch = BatchReader::new("assign", body)?;
        let mut reader = Self {
            tasks: batch.column(0, "assign.tasks"),
            runs: batch.column(1, "assign.runs"),
            arguments: batch.column(2, "assign.arguments"),
            inputs: batch.column(3, "assign.inputs"),
            batch,
            next_run: None,
            function: FunctionId(0),
            priority: 0,
            caution: Caution::None,
        };
        reader.next_run = Some(reader.runs.take_delta()?);
        Ok(reader)
    }

    /// The next task, or None after the last.
    #[inline]
    pub fn next_assignment(&mut self) -> Result<Option<Assignment<'a>>, WireError> {
        if !self.batch.advance() {
            return Ok(None);
        }
        let task = self.tasks.take_delta()?;
        if self.next_run == Some(task) {
            self.start_run()?;
        }
        let arguments = self.arguments.take_bytes()?;
        let count = self.inputs.take()?;
        let mut inputs = SmallVec::new();
        for _ in 0..count {
            inputs.push(self.next_input()?);
        }
        Ok(Some(Assignment {
            task: TaskId(task),
            function: self.function,
            priority: self.priority,
            caution: self.caution,
            arguments,
            inputs,
        }))
    }

    fn start_run(&mut self) -> Result<(), WireError> {
        let function = self.runs.take_raw(8)?;
        self.function = FunctionId(u64::from_le_bytes(function.try_into().expect("8 bytes were taken")));
        let priority = self.runs.take_signed()?;
        self.priority = i32::try_from(priority)
            .map_err(|_| WireError::OutOfRange { column: "assign.runs", value: priority as u64 })?;
        self.caution = match self.runs.take()? {
            0 => Caution::None,
            1 => Caution::Announce,
            value => return Err(WireError::OutOfRange { column: "assign.runs", value }),
        };
        self.next_run = if self.runs.is_empty() { None } else { Some(self.runs.take_delta()?) };
        Ok(())
    }

    fn next_input(&mut self) -> Result<Input<'a>, WireError> {
        let inputs = &mut self.inputs;
        let task = TaskId(inputs.take_delta()?);
        let source = match inputs.take()? {
            SOURCE_INLINE => Source::Inline(inputs.take_bytes()?),
            SOURCE_LOCAL => Source::Local,
            SOURCE_REMOTE => {
                let (nbytes, count) = (inputs.take()?, inputs.take()?);
                let mut holders = SmallVec::new();
                for _ in 0..count {
                    holders.push(WorkerId(inputs.take_u32()?));
                }
                Source::Remote { nbytes, holders }
            }
            value => return Err(WireError::OutOfRange { column: "assign.inputs", value }),
        };
        Ok(Input { task, source })
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

    /// A copy of a value is here: fetched for a task, or put by a client.
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

    /// Measurements.
    pub fn metrics(&mut self, metrics: &Metrics) {
        self.outbox.single(METRICS, metrics);
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
    /// Values that another worker did not hand out.
    Unavailable(PairReader<'a>),
    /// Measurements.
    Metrics(Metrics),
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
            UNAVAILABLE => Self::Unavailable(PairReader::new("unavailable", body)?),
            METRICS => Self::Metrics(decode("metrics", body)?),
            other => return Err(WireError::UnknownOpcode(other)),
        })
    }
}

/// The tasks of one `Finished`.
#[derive(Debug)]
pub struct FinishedReader<'a> {
    batch: BatchReader<'a>,
    tasks: ColumnReader<'a>,
    durations: ColumnReader<'a>,
    sizes: ColumnReader<'a>,
    values: ColumnReader<'a>,
}

impl<'a> FinishedReader<'a> {
    fn new(body: &'a [u8]) -> Result<Self, WireError> {
        let batch = BatchReader::new("finished", body)?;
        Ok(Self {
            tasks: batch.column(0, "finished.tasks"),
            durations: batch.column(1, "finished.durations"),
            sizes: batch.column(2, "finished.sizes"),
            values: batch.column(3, "finished.values"),
            batch,
        })
    }

    /// The next task, or None after the last.
    #[inline]
    pub fn next_finished(&mut self) -> Result<Option<Finished<'a>>, WireError> {
        if !self.batch.advance() {
            return Ok(None);
        }
        let task = TaskId(self.tasks.take_delta()?);
        let duration_us = self.durations.take()?;
        let (nbytes, inline) = match self.sizes.take()? {
            0 => {
                let bytes = self.values.take_bytes()?;
                (bytes.len() as u64, Some(bytes))
            }
            size => (size - 1, None),
        };
        Ok(Some(Finished { task, duration_us, nbytes, inline }))
    }
}

/// The tasks of one `Failed`.
#[derive(Debug)]
pub struct FailedReader<'a> {
    batch: BatchReader<'a>,
    tasks: ColumnReader<'a>,
    durations: ColumnReader<'a>,
    errors: ColumnReader<'a>,
}

impl<'a> FailedReader<'a> {
    fn new(body: &'a [u8]) -> Result<Self, WireError> {
        let batch = BatchReader::new("failed", body)?;
        Ok(Self {
            tasks: batch.column(0, "failed.tasks"),
            durations: batch.column(1, "failed.durations"),
            errors: batch.column(2, "failed.errors"),
            batch,
        })
    }

    /// The next task, or None after the last.
    pub fn next_failed(&mut self) -> Result<Option<Failed<'a>>, WireError> {
        if !self.batch.advance() {
            return Ok(None);
        }
        let task = TaskId(self.tasks.take_delta()?);
        let (duration_us, error) = (self.durations.take()?, self.errors.take_bytes()?);
        Ok(Some(Failed { task, duration_us, error }))
    }
}
