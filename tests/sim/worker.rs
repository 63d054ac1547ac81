//! A worker: the real core, with a store of numbers and threads that take as long as the workload says.

use std::collections::{BTreeMap, BTreeSet};

use dcluster::model::error::{ErrorKind, TaskError};
use dcluster::model::{ClientId, FutureId, TaskId, WorkerId};
use dcluster::wire::client::FunctionName;
use dcluster::wire::frame::{FrameLimit, FrameReader};
use dcluster::wire::worker::{
    Assignment, Failed, Finished, Join, Pressure, Source, TaskReader, ToWorkerMessage, WorkerOutbox,
};
use dcluster::worker::core::loans::Owner;
use dcluster::worker::core::memory::{Spilled, Ticket};
use dcluster::worker::core::{Effects, PutId, ThreadId, WorkerCore};

use super::network::Stored;
use super::workload::{Catalogue, Entry, FUNCTIONS, RANKS};

/// One worker process.
#[derive(Debug)]
pub(crate) struct Worker {
    core: WorkerCore<Job>,
    pub(crate) floor: Floor,
    reader: FrameReader,
}

/// What surrounds the core.
#[derive(Debug, Default)]
pub(crate) struct Floor {
    pub(crate) store: BTreeMap<TaskId, Stored>,
    pub(crate) outbox: WorkerOutbox,
    /// Tasks that threads have taken up.
    pub(crate) starts: Vec<Start>,
    /// Values to ask peers for.
    pub(crate) fetches: Vec<(TaskId, WorkerId)>,
    /// Whether a value is to be written to disk.
    pub(crate) is_spilling: bool,
    /// Values to read from disk.
    pub(crate) unspills: Vec<(TaskId, Ticket)>,
    /// Values that are not in memory.
    spilled: BTreeSet<TaskId>,
    /// Values that threads use, by the task they run.
    in_use: BTreeMap<TaskId, Vec<TaskId>>,
    /// Values that clients send,
    pub(crate) puts: BTreeMap<PutId, Incoming>,
    /// of those the ones that came last,
    pub(crate) expected: Vec<PutId>,
    /// and those that there is room for.
    pub(crate) admitted: Vec<PutId>,
    /// Values of clients for which there will be no room.
    pub(crate) refused: Vec<Incoming>,
    pub(crate) pauses: u64,
    /// How often it had no room for what tasks without inputs make.
    pub(crate) fills: u64,
    pub(crate) refusals: u64,
    pub(crate) spills: u64,
    /// The value of the event that is booked.
    arriving: Option<Stored>,
    /// Assignments that are not answered.
    open: BTreeSet<TaskId>,
    running: BTreeSet<TaskId>,
    /// Tasks that start when what is in the outbox is written.
    announcing: Vec<TaskId>,
}

/// A value that a client sends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incoming {
    pub(crate) client: ClientId,
    pub(crate) future: FutureId,
    pub(crate) task: TaskId,
    pub(crate) value: Stored,
}

/// A task that a thread has taken up.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) thread: ThreadId,
    pub(crate) task: TaskId,
    pub(crate) entry: Entry,
    pub(crate) inputs: Vec<u64>,
}

#[derive(Debug)]
pub(crate) struct Job {
    entry: Entry,
    inputs: Vec<JobInput>,
}

#[derive(Debug)]
enum JobInput {
    Inline(u64),
    Held(TaskId),
}

impl Worker {
    /// A worker that has said that it joins.
    pub(crate) fn new(id: WorkerId, threads: u32, memory_bytes_max: u64) -> Self {
        let mut floor = Floor::default();
        let functions = (1..=FUNCTIONS)
            .map(|id| FunctionName { id: dcluster::model::FunctionId(id), name: format!("f{id}") });
        floor.outbox.join(&Join {
            rank: Some(id.0 % RANKS as u32 + 1),
            host: format!("host-{}", id.0 / 4),
            pid: id.0,
            address: format!("host-{}:{}", id.0 / 4, id.0),
            mpi_rank: None,
            shm: None,
            threads,
            memory_bytes_max,
            place: String::new(),
            functions: functions.collect(),
        });
        let core = WorkerCore::with_memory(threads, memory_bytes_max);
        Self { core, floor, reader: FrameReader::new(FrameLimit::default()) }
    }

    /// Bytes from the scheduler.
    pub(crate) fn hear(&mut self, bytes: &[u8]) {
        self.reader.buffer().extend_from_slice(bytes);
        while let Some(frame) = self.reader.next_frame().expect("the scheduler sends frames") {
            let message = ToWorkerMessage::read(frame.opcode, &frame.body).expect("messages are sound");
            self.book(message);
            self.core.start_ready(&mut self.floor);
        }
    }

    /// A thread is done with a task that gave a value, or an error.
    pub(crate) fn ended(
        &mut self,
        thread: ThreadId,
        task: TaskId,
        duration_us: u64,
        outcome: Result<Stored, String>,
    ) {
        self.floor.in_use.remove(&task);
        match outcome {
            Ok(stored) => {
                self.floor.arriving = Some(stored);
                let bytes = stored.value.to_le_bytes();
                let inline = stored.is_inline.then_some(bytes.as_slice());
                let report = Finished { task, duration_us, nbytes: stored.nbytes, inline };
                self.core.finished(thread, &report, &mut self.floor);
            }
            Err(message) => {
                let error = TaskError::new(ErrorKind::Error, message).pack();
                self.core.failed(thread, &Failed { task, duration_us, error: &error }, &mut self.floor);
            }
        }
        self.floor.arriving = None;
        self.core.start_ready(&mut self.floor);
    }

    /// The answer of a peer that was asked for a value.
    pub(crate) fn fetched(&mut self, task: TaskId, value: Option<Stored>) {
        self.floor.arriving = value;
        match value {
            Some(stored) => self.core.fetched(task, stored.nbytes, Owner::Worker, &mut self.floor),
            None => self.core.fetch_failed(task, &mut self.floor),
        }
        self.floor.arriving = None;
        self.core.start_ready(&mut self.floor);
    }

    /// What was in the outbox is taken; what is to happen when it is written.
    pub(crate) fn take_mail(&mut self, frames: &mut Vec<u8>) -> Vec<TaskId> {
        self.floor.outbox.outbox().swap_into(frames);
        std::mem::take(&mut self.floor.announcing)
    }

    /// These announcements were written.
    pub(crate) fn announced(&mut self, tasks: &[TaskId]) {
        tasks.iter().for_each(|task| self.core.announced(*task, &mut self.floor));
        self.core.start_ready(&mut self.floor);
    }

    /// A client is about to send a value.
    pub(crate) fn expect_put(&mut self, incoming: Incoming) {
        let put = self.core.expect_put(incoming.value.nbytes);
        self.floor.puts.insert(put, incoming);
        self.floor.expected.push(put);
        self.core.start_ready(&mut self.floor);
    }

    /// A client's value is here.
    pub(crate) fn put_ends(&mut self, put: PutId) {
        let Incoming { task, value, .. } =
            self.floor.puts.remove(&put).expect("only what was expected comes");
        self.floor.arriving = Some(value);
        self.core.put(task, value.nbytes, &mut self.floor);
        self.floor.arriving = None;
        self.core.end_put(put);
        self.core.start_ready(&mut self.floor);
    }

    /// A client's value has waited for long.
    pub(crate) fn put_hurries(&mut self, put: PutId) {
        self.core.hurry_put(put, &mut self.floor);
        self.core.start_ready(&mut self.floor);
    }

    /// The end of a value's way to disk.
    pub(crate) fn spilled(&mut self, outcome: Spilled) {
        self.core.spilled(outcome, &mut self.floor);
        self.core.start_ready(&mut self.floor);
    }

    /// The end of a value's way back.
    pub(crate) fn unspilled(&mut self, task: TaskId, ticket: Ticket, is_read: bool) {
        if is_read {
            self.floor.spilled.remove(&task);
        }
        self.core.unspilled(ticket, is_read, &mut self.floor);
        self.core.start_ready(&mut self.floor);
    }

    /// The process uses so much besides its values.
    pub(crate) fn sampled(&mut self, other_bytes: u64) {
        self.core.sampled(self.core.memory().held + other_bytes);
        self.core.start_ready(&mut self.floor);
    }

    /// Whether the worker is to look at its memory again soon.
    pub(crate) fn is_watching(&self) -> bool {
        let memory = self.core.memory();
        memory.is_tight && memory.is_disk_failing
    }

    pub(crate) fn check(&self) {
        self.core.check();
        self.core.check_progress();
        assert!(self.floor.spilled.iter().all(|task| self.floor.store.contains_key(task)));
        assert_eq!(self.floor.open.len() as u32, self.core.counts().running + self.core.counts().queued);
    }

    /// Panics unless the worker has nothing.
    pub(crate) fn check_empty(&self) {
        assert!(self.floor.open.is_empty(), "tasks are left: {:?}", self.floor.open);
        let left: Vec<_> = self.floor.lasting().collect();
        assert!(left.is_empty(), "values are left: {left:?}");
    }

    fn book(&mut self, message: ToWorkerMessage<'_>) {
        let (core, floor) = (&mut self.core, &mut self.floor);
        match message {
            ToWorkerMessage::Assign(mut batch) => {
                while let Some(assignment) = batch.next_assignment().expect("batches are sound") {
                    assert!(floor.open.insert(assignment.task), "assigned again before its answer");
                    let job = Job::new(&assignment);
                    core.assign(&assignment, job, floor).expect("the contract holds");
                }
            }
            ToWorkerMessage::Retract(mut tasks) => each(&mut tasks, |task| core.retract(task, floor)),
            ToWorkerMessage::Abandon(mut tasks) => each(&mut tasks, |task| core.abandon(task, floor)),
            ToWorkerMessage::Free(mut tasks) => each(&mut tasks, |task| core.free(task, floor)),
            ToWorkerMessage::Acquire(mut values) => {
                while let Some(acquisition) = values.next_acquisition().expect("batches are sound") {
                    core.acquire(&acquisition, floor);
                }
            }
            ToWorkerMessage::Fence(mut numbers) => {
                while let Some(number) = numbers.next_number().expect("batches are sound") {
                    core.fence(number, floor);
                }
            }
            ToWorkerMessage::Peers(_) | ToWorkerMessage::Shutdown(_) => {}
        }
    }
}

impl Job {
    fn new(assignment: &Assignment<'_>) -> Self {
        let input = |input: &dcluster::wire::worker::Input<'_>| match input.source {
            Source::Inline(bytes) => {
                JobInput::Inline(u64::from_le_bytes(bytes.try_into().expect("a value is eight bytes")))
            }
            Source::Local | Source::LastUse | Source::Remote { .. } => JobInput::Held(input.task),
        };
        let inputs = assignment.inputs.iter().map(input).collect();
        Self { entry: Catalogue::entry(assignment.arguments), inputs }
    }
}

impl Floor {
    /// Values that are held until they are freed.
    pub(crate) fn lasting(&self) -> impl Iterator<Item = (&TaskId, &Stored)> {
        self.store.iter().filter(|(_, stored)| !stored.is_inline)
    }

    fn answer(&mut self, task: TaskId) {
        assert!(self.open.remove(&task), "{task} is answered, and was not asked for");
        self.running.remove(&task);
    }
}

impl Effects for Floor {
    type Job = Job;

    fn start(&mut self, thread: ThreadId, task: TaskId, job: Job) {
        assert!(self.open.contains(&task), "{task} starts after it was given back");
        assert!(self.running.insert(task), "{task} starts twice");
        let value = |input: &JobInput| match input {
            JobInput::Inline(value) => *value,
            JobInput::Held(task) => {
                assert!(!self.spilled.contains(task), "{task} is used, and is on disk");
                self.store.get(task).expect("inputs are here").value
            }
        };
        let held = job.inputs.iter().filter_map(|input| match input {
            JobInput::Inline(_) => None,
            JobInput::Held(task) => Some(*task),
        });
        self.in_use.insert(task, held.collect());
        let inputs = job.inputs.iter().map(value).collect();
        self.starts.push(Start { thread, task, entry: job.entry, inputs });
    }

    fn recall(&mut self, thread: ThreadId, task: TaskId) -> bool {
        let is_it = |start: &mut Start| start.thread == thread && start.task == task;
        self.in_use.remove(&task);
        self.starts.extract_if(.., is_it).next().is_some()
    }

    fn keep(&mut self, task: TaskId) {
        let before = self.store.insert(task, self.arriving.expect("a value arrives in this event"));
        assert_eq!(before, None, "{task} is kept twice");
    }

    fn discard(&mut self, task: TaskId) {
        self.store.remove(&task).expect("only what was kept is discarded");
        self.spilled.remove(&task);
    }

    fn lends(&self, _holder: WorkerId, _nbytes: u64) -> bool {
        false
    }

    fn borrow(&mut self, task: TaskId, _nbytes: u64, _holder: WorkerId) {
        unreachable!("nobody lends {task}");
    }

    fn is_in_use(&self, task: TaskId) -> bool {
        self.in_use.values().flatten().any(|used| *used == task)
    }

    fn spill(&mut self, task: TaskId) {
        assert!(self.store.contains_key(&task) && !self.spilled.contains(&task), "{task} is spilled twice");
        self.is_spilling = true;
        self.spills += 1;
    }

    fn let_go(&mut self, task: TaskId) {
        assert!(self.store.contains_key(&task), "{task} is let go, and is not here");
        assert!(self.spilled.insert(task), "{task} is let go twice");
    }

    fn unspill(&mut self, task: TaskId, ticket: Ticket) {
        assert!(self.spilled.contains(&task), "{task} is read, and is in memory");
        self.unspills.push((task, ticket));
    }

    fn admit(&mut self, put: PutId) {
        assert!(self.puts.contains_key(&put), "{put:?} is let in, and is over");
        self.admitted.push(put);
    }

    fn refuse(&mut self, put: PutId) {
        self.refusals += 1;
        self.refused.push(self.puts.remove(&put).expect("only what was expected is refused"));
    }

    fn fetch(&mut self, task: TaskId, _nbytes: u64, holder: WorkerId) {
        self.fetches.push((task, holder));
    }

    fn finished(&mut self, finished: &Finished<'_>) {
        self.answer(finished.task);
        self.outbox.finished(finished);
    }

    fn failed(&mut self, failed: &Failed<'_>) {
        self.answer(failed.task);
        self.outbox.failed(failed);
    }

    fn returned(&mut self, task: TaskId) {
        self.answer(task);
        self.outbox.returned(task);
    }

    fn announce(&mut self, task: TaskId) {
        self.outbox.started(task);
        self.announcing.push(task);
    }

    fn fenced(&mut self, number: u64) {
        self.outbox.fenced(number);
    }

    fn holds(&mut self, task: TaskId, nbytes: u64) {
        self.outbox.holds(task, nbytes);
    }

    fn missed(&mut self, task: TaskId) {
        self.outbox.missed(task);
    }

    fn unavailable(&mut self, task: TaskId, holder: WorkerId) {
        self.outbox.unavailable(task, holder);
    }

    fn lost(&mut self, task: TaskId) {
        self.outbox.lost(task);
    }

    fn pressure(&mut self, pressure: Pressure) {
        self.pauses += u64::from(pressure == Pressure::Paused);
        self.fills += u64::from(pressure == Pressure::Full);
        self.outbox.pressure(pressure);
    }
}

fn each(tasks: &mut TaskReader<'_>, mut book: impl FnMut(TaskId)) {
    while let Some(task) = tasks.next_task().expect("batches are sound") {
        book(task);
    }
}
