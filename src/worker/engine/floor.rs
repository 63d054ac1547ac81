//! The shell's side of the core's effects: the store, the outbox, and what threads are to do next.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::loans::Loans;
use super::{FetchRequest, Manner, Start, StartInput, Turn};
use crate::model::resident::Cleared;
use crate::model::{FunctionId, Packed, Resident, TaskId, Value, WorkerId};
use crate::transport::shm::Loan;
use crate::wire::worker::{Assignment, Failed, Finished, Pressure, Source, WorkerOutbox};
use crate::worker::core::memory::Ticket;
use crate::worker::core::{Effects, PutId, ThreadId, WorkerCore};
use crate::worker::spill::Order;
use crate::worker::store::Store;

/// What is needed to run a task.
#[derive(Debug)]
pub struct Job {
    /// What to call.
    pub function: FunctionId,
    /// The encoded arguments.
    pub arguments: Bytes,
    /// Its inputs, in the order of the placeholders.
    inputs: SmallVec<[JobInput; 2]>,
}

#[derive(Debug)]
enum JobInput {
    Inline(Bytes),
    Held(TaskId),
}

/// The shell's side of the core's effects.
#[derive(Debug, Default)]
pub(super) struct Floor {
    pub(super) store: Store,
    pub(super) outbox: WorkerOutbox,
    pub(super) fetches: Vec<FetchRequest>,
    /// Tasks that the outbox announces.
    pub(super) announcing: Vec<TaskId>,
    /// The value of the event that is booked.
    pub(super) arriving: Option<Arriving>,
    /// What each thread is to run next.
    pub(super) starts: Vec<Option<Start>>,
    /// The thread that books events, which needs no wake.
    pub(super) visitor: Option<ThreadId>,
    pub(super) wakes: SmallVec<[ThreadId; 4]>,
    pub(super) discarded: SmallVec<[Discarded; 2]>,
    /// For the threads that write and read spilled values.
    pub(super) orders: Vec<Order>,
    /// Who waits to receive values of clients.
    pub(super) puts: HashMap<PutId, oneshot::Sender<()>>,
    pub(super) loans: Loans,
    /// Whether the IO loop knows of what waits for it.
    pub(super) signalled: bool,
    pub(super) stopping: bool,
}

/// Memory that is given back outside the lock.
#[derive(Debug)]
#[allow(dead_code)] // Nothing is done with it but to drop it.
pub(super) enum Discarded {
    Value(Arc<Resident>),
    Forms(Cleared),
}

#[derive(Debug)]
pub(super) enum Arriving {
    Live(Value, usize),
    Packed(Packed, Option<Loan>),
}

impl Floor {
    pub(super) fn turn(&mut self, thread: ThreadId) -> Turn {
        match self.starts[thread.0 as usize].take() {
            _ if self.stopping => Turn::Stop,
            Some(start) => Turn::Run(start),
            None => Turn::Park,
        }
    }

    /// A value that a client sent is here.
    pub(super) fn put(&mut self, core: &mut WorkerCore<Job>, task: TaskId, packed: Packed) {
        let nbytes = packed.len() as u64;
        self.arriving = Some(Arriving::Packed(packed, None));
        core.put(task, nbytes, self);
    }

    pub(super) fn has_reports(&mut self) -> bool {
        !self.fetches.is_empty() || !self.outbox.outbox().is_empty()
    }
}

impl Effects for Floor {
    type Job = Job;

    fn start(&mut self, thread: ThreadId, task: TaskId, job: Job) {
        let input = |input| match input {
            JobInput::Inline(flat) => StartInput::Inline(flat),
            JobInput::Held(task) => StartInput::Held(self.store.value(task).expect("inputs are held")),
        };
        let inputs = job.inputs.into_iter().map(input).collect();
        let Job { function, arguments, .. } = job;
        self.starts[thread.0 as usize] = Some(Start { task, function, arguments, inputs });
        if self.visitor != Some(thread) {
            self.wakes.push(thread);
        }
    }

    fn recall(&mut self, thread: ThreadId, task: TaskId) -> bool {
        let start = self.starts[thread.0 as usize].take_if(|start| start.task == task);
        let inputs = start.iter().flat_map(|start| &start.inputs);
        self.discarded.extend(inputs.filter_map(|input| match input {
            StartInput::Held(value) => Some(Discarded::Value(Arc::clone(value))),
            StartInput::Inline(_) => None,
        }));
        start.is_some()
    }

    fn keep(&mut self, task: TaskId) {
        let value = match self.arriving.take().expect("a value arrives in this event") {
            Arriving::Live(value, bytes) => Resident::live(value, bytes),
            Arriving::Packed(packed, loan) => {
                loan.into_iter().for_each(|loan| self.loans.enter(task, loan));
                Resident::packed_form(packed)
            }
        };
        self.store.insert(task, Arc::new(value));
    }

    fn discard(&mut self, task: TaskId) {
        self.discarded.extend(self.store.remove(task).map(Discarded::Value));
        self.loans.remove(task);
    }

    fn fetch(&mut self, task: TaskId, nbytes: u64, holder: WorkerId) {
        self.fetches.push(FetchRequest { task, nbytes, holder, manner: Manner::Any });
    }

    fn lends(&self, holder: WorkerId, nbytes: u64) -> bool {
        self.loans.lends(holder, nbytes)
    }

    fn borrow(&mut self, task: TaskId, nbytes: u64, holder: WorkerId) {
        self.fetches.push(FetchRequest { task, nbytes, holder, manner: Manner::Lent });
    }

    fn admit(&mut self, put: PutId) {
        // Who waits may have given up at this moment, and says so then.
        let _ = self.puts.remove(&put).map(|waiting| waiting.send(()));
    }

    fn refuse(&mut self, put: PutId) {
        // Who waits sees that nobody will answer.
        self.puts.remove(&put);
    }

    fn is_in_use(&self, task: TaskId) -> bool {
        self.store.is_shared(task)
    }

    fn spill(&mut self, task: TaskId) {
        let value = self.store.value(task).expect("only what is kept is spilled");
        self.orders.push(Order::Write { task, value });
    }

    fn let_go(&mut self, task: TaskId) {
        let value = self.store.value(task).expect("only what is kept is let go of");
        self.discarded.extend(value.clear().map(Discarded::Forms));
    }

    fn unspill(&mut self, task: TaskId, ticket: Ticket) {
        let value = self.store.value(task).expect("only what is kept comes back");
        self.orders.push(Order::Read { task, ticket, value });
    }

    fn finished(&mut self, finished: &Finished<'_>) {
        self.outbox.finished(finished);
    }

    fn failed(&mut self, failed: &Failed<'_>) {
        self.outbox.failed(failed);
    }

    fn returned(&mut self, task: TaskId) {
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
        self.outbox.pressure(pressure);
        self.orders.push(Order::Watch(pressure));
    }
}

impl Job {
    /// What `assignment`, which was read from the frame `body`, says about running it.
    pub(super) fn new(assignment: &Assignment<'_>, body: &Bytes) -> Self {
        let inputs = assignment.inputs.iter().map(|input| match input.source {
            Source::Inline(flat) => JobInput::Inline(body.slice_ref(flat)),
            Source::Local | Source::LastUse | Source::Remote { .. } => JobInput::Held(input.task),
        });
        Self {
            function: assignment.function,
            arguments: body.slice_ref(assignment.arguments),
            inputs: inputs.collect(),
        }
    }
}
