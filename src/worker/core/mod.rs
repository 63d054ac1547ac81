//! The worker's decisions as a state machine: what runs next, what is fetched, kept, dropped and reported.
//!
//! ```text
//!  assign retract abandon free ──┐                         ┌─► start a task on a thread
//!  finished failed (threads) ────┤                         ├─► keep, discard, fetch, borrow a value
//!  fetched fetch_failed not_lent ┼─► WorkerCore ─ Effects ─┼─► finished failed returned holds unavailable
//!  put fence announced ──────────┤                         │   announce fenced lost pressure
//!  own sampled spilled unspilled ┤                         └─► spill, let go of, unspill a value
//!  lose fetched_too_large ───────┘
//! ```
//!
//! No IO, clock, threads or randomness; the same events give the same effects. A shell books every event it has and
//! then calls [`WorkerCore::start_ready`] once. A task goes from waiting over queued to running and is gone with its
//! one report. A value may be acquired for its own sake. A large value is held until it is freed, a small one for
//! some time, and either at least until the last task here that needs it has started. A task may wait for a value
//! that another task here makes (it *follows* it): it starts without a word from the scheduler. One that came with
//! caution is announced first, and starts when the shell says that this was written. When memory is short, values go
//! to disk and what comes in waits. Next: [`effects`], then `task.rs`, `queue.rs`, `fetches.rs`, `incoming.rs`;
//! [`memory`], `spill.rs`, [`loans`].

#![warn(clippy::disallowed_methods, clippy::disallowed_types, clippy::iter_over_hash_type)]

mod check;
pub mod effects;
mod fetches;
mod incoming;
pub mod loans;
pub mod memory;
mod puts;
mod queue;
mod spill;
mod task;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use smallvec::SmallVec;
use thiserror::Error;

use crate::model::TaskId;
use crate::wire::worker::{Acquisition, Assignment, Caution, Failed, Finished, Input, Source};
pub use effects::{Effects, ThreadId};
use fetches::Fetches;
pub use fetches::{FETCHES_MAX, FETCHES_PER_PEER_MAX};
use loans::Owner;
use memory::Memory;
pub use puts::PutId;
use puts::Puts;
use queue::ReadyQueue;
use task::{Held, Lifetime, Table, Task, TaskState, Waiter};

/// Small results that are held a while after they were reported. The scheduler may already have assigned a
/// follower that is still on its way, and would otherwise have to assign it twice.
const RECENT_MAX: usize = 256;

/// What a worker knows. `J` is what the shell needs to run a task; it is carried here until the task starts.
#[derive(Debug)]
pub struct WorkerCore<J> {
    threads: u32,
    /// Threads without a task; the last one freed is taken first.
    idle: Vec<ThreadId>,
    tasks: Table<Task<J>>,
    ready: ReadyQueue,
    values: Table<Held>,
    /// Small results, the latest last; some may be gone.
    recent: VecDeque<TaskId>,
    /// Tasks that wait for a value which is not here. Entries of tasks that are gone stay until the value
    /// comes or is given up.
    waiters: Table<SmallVec<[Waiter; 2]>>,
    fetches: Fetches,
    /// Values that are fetched to be kept, whether or not a task needs them.
    acquiring: Table<()>,
    memory: Memory,
    /// Values that clients are about to send, or send.
    puts: Puts,
    arrivals: u64,
    counts: Counts,
}

/// How many tasks are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// On a thread.
    pub running: u32,
    /// Ready, or waiting for an input.
    pub queued: u32,
}

/// The scheduler broke the contract.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ContractError {
    /// A task came that is still here.
    #[error("{0} was assigned again before its outcome was reported")]
    AssignedTwice(TaskId),
}

impl<J> WorkerCore<J> {
    /// A worker that runs `threads` tasks at once, has none, and may use all memory there is.
    pub fn new(threads: u32) -> Self {
        Self::with_memory(threads, 0)
    }

    /// A worker that runs `threads` tasks at once and has none. It may use `memory_bytes_max`; 0 for no limit.
    pub fn with_memory(threads: u32, memory_bytes_max: u64) -> Self {
        Self {
            threads,
            idle: (0..threads).rev().map(ThreadId).collect(),
            tasks: Table::default(),
            ready: ReadyQueue::default(),
            values: Table::default(),
            recent: VecDeque::new(),
            waiters: Table::default(),
            fetches: Fetches::default(),
            acquiring: Table::default(),
            memory: Memory::new(memory_bytes_max),
            puts: Puts::default(),
            arrivals: 0,
            counts: Counts::default(),
        }
    }

    /// Books a task. Its missing inputs are fetched, or awaited from tasks here; if one is neither here nor
    /// coming, the task is returned.
    pub fn assign<E: Effects<Job = J>>(
        &mut self,
        assignment: &Assignment<'_>,
        job: J,
        effects: &mut E,
    ) -> Result<(), ContractError> {
        let task = assignment.task;
        if self.tasks.contains_key(&task) {
            return Err(ContractError::AssignedTwice(task));
        }
        if assignment.inputs.iter().any(|input| !self.is_obtainable(input)) {
            effects.returned(task);
            return Ok(());
        }
        self.arrivals += 1;
        let waiter = Waiter { task, arrival: self.arrivals };
        let (mut inputs, mut last_uses) = (SmallVec::new(), SmallVec::new());
        let mut missing = 0;
        for input in &assignment.inputs {
            if matches!(input.source, Source::Inline(_)) {
                continue;
            }
            inputs.push(input.task);
            if input.source == Source::LastUse {
                last_uses.push(input.task);
            }
            let mut is_on_disk = false;
            if let Some(held) = self.values.get_mut(&input.task) {
                held.users += 1;
                self.memory.step_out(held);
                is_on_disk = !held.is_here();
                if !is_on_disk {
                    continue;
                }
            }
            missing += 1;
            self.waiters.entry(input.task).or_default().push(waiter);
            if is_on_disk {
                self.want(input.task);
            } else if let Source::Remote { nbytes, holders } = &input.source
                && !holders.is_empty()
            {
                self.fetches.request(input.task, *nbytes, holders);
            }
        }
        let has_inputs = !assignment.inputs.is_empty();
        let state =
            if missing == 0 { TaskState::Queued { job } } else { TaskState::Waiting { missing, job } };
        let record = Task {
            arrival: waiter.arrival,
            priority: assignment.priority,
            has_inputs,
            caution: assignment.caution,
            inputs,
            last_uses,
            state,
        };
        if missing == 0 {
            self.ready.push(record.entry(task));
        }
        self.tasks.insert(task, record);
        self.counts.queued += 1;
        self.start_fetches(effects);
        Ok(())
    }

    /// Gives a task back that has not started, with its followers; one that runs goes on.
    pub fn retract<E: Effects<Job = J>>(&mut self, task: TaskId, effects: &mut E) {
        if self.tasks.get(&task).is_some_and(|record| record.thread().is_none()) {
            self.withdraw(task, effects);
        }
    }

    /// Takes a task away for good. One that no thread has taken up is returned, with its followers; the result of
    /// one that runs is dropped at its end, and only then it is returned and its thread is free.
    pub fn abandon<E: Effects<Job = J>>(&mut self, task: TaskId, effects: &mut E) {
        let Some(record) = self.tasks.get_mut(&task) else { return };
        match record.state {
            TaskState::Waiting { .. } | TaskState::Queued { .. } => self.withdraw(task, effects),
            TaskState::Announced { thread, .. } => {
                self.vacate(thread);
                self.counts.queued += 1;
                self.withdraw(task, effects);
            }
            TaskState::Running { thread } if effects.recall(thread, task) => {
                self.tasks.remove(&task);
                self.vacate(thread);
                effects.returned(task);
                self.give_up(task, effects);
            }
            TaskState::Running { thread } => {
                record.state = TaskState::Abandoned { thread };
                self.give_up(task, effects);
            }
            TaskState::Abandoned { .. } => {}
        }
    }

    /// Says that all that was said before the fence is booked: what was abandoned and does not run never will.
    pub fn fence<E: Effects<Job = J>>(&mut self, number: u64, effects: &mut E) {
        effects.fenced(number);
    }

    /// An announcement was written: the task starts, unless it was taken away meanwhile.
    pub fn announced<E: Effects<Job = J>>(&mut self, task: TaskId, effects: &mut E) {
        let Some(record) = self.tasks.get_mut(&task) else { return };
        let TaskState::Announced { thread, .. } = record.state else { return };
        let state = std::mem::replace(&mut record.state, TaskState::Running { thread });
        let inputs = std::mem::take(&mut record.inputs);
        let TaskState::Announced { job, .. } = state else { unreachable!("just matched") };
        effects.start(thread, task, job);
        self.release(&inputs, effects);
    }

    /// Gets a copy of a value and keeps it; if it is here already, that is said.
    pub fn acquire<E: Effects<Job = J>>(&mut self, acquisition: &Acquisition, effects: &mut E) {
        let Acquisition { task, nbytes, ref holders } = *acquisition;
        if let Some(held) = self.values.get_mut(&task) {
            held.lifetime = Lifetime::UntilFreed;
            self.memory.stand_again(task, held);
            return effects.holds(task, nbytes);
        }
        self.acquiring.insert(task, ());
        self.fetches.request(task, nbytes, holders);
        self.start_fetches(effects);
    }

    /// Drops a value; tasks here that already count on it still get it.
    pub fn free<E: Effects<Job = J>>(&mut self, task: TaskId, effects: &mut E) {
        self.acquiring.remove(&task);
        let Some(held) = self.values.get_mut(&task) else { return };
        held.lifetime = Lifetime::WhileUsed;
        self.memory.step_out(held);
        self.discard_unused(task, effects);
    }

    /// A task ended well on `thread`. Effect `keep` is asked for if the result is needed here.
    pub fn finished<E: Effects<Job = J>>(
        &mut self,
        thread: ThreadId,
        finished: &Finished<'_>,
        effects: &mut E,
    ) {
        let task = finished.task;
        let record = self.end(thread, task);
        if record.is_abandoned() {
            return effects.returned(task);
        }
        effects.finished(finished);
        record.last_uses.iter().for_each(|value| self.drop_used(*value, effects));
        let lifetime = if finished.inline.is_some() { Lifetime::Recent } else { Lifetime::UntilFreed };
        self.receive(task, lifetime, finished.nbytes, Owner::Worker, effects);
    }

    /// A task ended in an error on `thread`.
    pub fn failed<E: Effects<Job = J>>(&mut self, thread: ThreadId, failed: &Failed<'_>, effects: &mut E) {
        let task = failed.task;
        if self.end(thread, task).is_abandoned() {
            return effects.returned(task);
        }
        effects.failed(failed);
        self.give_up(task, effects);
    }

    /// A value that was asked for with `fetch` or `borrow` is here. It is kept and reported if a task still waits for it.
    pub fn fetched<E: Effects<Job = J>>(&mut self, task: TaskId, nbytes: u64, owner: Owner, effects: &mut E) {
        let arriving = self.fetches.end(task);
        self.memory.arrival_ends(arriving);
        let is_acquired = self.acquiring.remove(&task).is_some();
        if self.values.contains_key(&task) && !is_acquired {
            // A client sent it meanwhile.
        } else if is_acquired || self.is_awaited(task) {
            effects.holds(task, nbytes);
            self.receive(task, Lifetime::UntilFreed, nbytes, owner, effects);
        } else if !self.is_coming(task) {
            self.waiters.remove(&task);
        }
        self.start_fetches(effects);
    }

    /// The holder that was asked did not hand a value out. The next holder is asked; after the last, the tasks that wait for the
    /// value are returned.
    pub fn fetch_failed<E: Effects<Job = J>>(&mut self, task: TaskId, effects: &mut E) {
        let failure = self.fetches.fail(task);
        self.memory.arrival_ends(failure.arriving);
        // What is only acquired is not worth a doubt about the holder: it may as well be this worker's fault.
        if self.is_awaited(task) || !self.acquiring.contains_key(&task) {
            effects.unavailable(task, failure.holder);
        }
        if failure.exhausted {
            if self.acquiring.remove(&task).is_some() {
                effects.missed(task);
            }
            self.give_up(task, effects);
        }
        self.start_fetches(effects);
    }

    /// A client sent a value.
    pub fn put<E: Effects<Job = J>>(&mut self, task: TaskId, nbytes: u64, effects: &mut E) {
        self.acquiring.remove(&task);
        effects.holds(task, nbytes);
        self.receive(task, Lifetime::UntilFreed, nbytes, Owner::Worker, effects);
    }

    /// Starts what is ready on the threads that are idle, as far as the memory allows.
    pub fn start_ready<E: Effects<Job = J>>(&mut self, effects: &mut E) {
        self.start_on_idle(effects);
        while self.memory.take_change() {
            self.relieve(effects);
            self.start_on_idle(effects);
        }
        self.keep_going(effects);
    }

    fn start_on_idle<E: Effects<Job = J>>(&mut self, effects: &mut E) {
        self.return_roots(effects);
        while !self.idle.is_empty()
            && self.may_start()
            && let Some(task) = self.pop_ready()
        {
            let thread = self.idle.pop().expect("a thread is idle");
            let record = self.tasks.get_mut(&task).expect("ready tasks are here");
            let state = std::mem::replace(&mut record.state, TaskState::Running { thread });
            let TaskState::Queued { job } = state else { unreachable!("ready tasks are queued") };
            self.counts.queued -= 1;
            self.counts.running += 1;
            if record.caution == Caution::Announce {
                record.state = TaskState::Announced { thread, job };
                effects.announce(task);
                continue;
            }
            let inputs = std::mem::take(&mut record.inputs);
            effects.start(thread, task, job);
            self.release(&inputs, effects);
        }
    }

    /// How many tasks run and how many wait.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The next task to start; entries of tasks that are gone are skipped.
    fn pop_ready(&mut self) -> Option<TaskId> {
        while let Some(entry) = self.ready.pop() {
            if self.tasks.get(&entry.task).is_some_and(|record| record.arrival == entry.arrival) {
                return Some(entry.task);
            }
            self.ready.skipped();
        }
        None
    }

    /// Takes a task off its thread.
    fn end(&mut self, thread: ThreadId, task: TaskId) -> Task<J> {
        let record = self.tasks.remove(&task).expect("only tasks that run end");
        assert_eq!(record.thread(), Some(thread), "{task} ends on the thread that runs it");
        self.vacate(thread);
        record
    }

    /// Drops a value that was used for the last time, so that its memory is free before the next task starts
    /// and not only when the scheduler has heard of it. It is said, for those who have come to want it meanwhile.
    fn drop_used<E: Effects<Job = J>>(&mut self, value: TaskId, effects: &mut E) {
        let is_done = |held: &Held| held.users == 0 && held.lifetime == Lifetime::UntilFreed;
        if self.values.get(&value).is_some_and(is_done) {
            self.free(value, effects);
            effects.lost(value);
        }
    }

    fn vacate(&mut self, thread: ThreadId) {
        self.idle.push(thread);
        self.counts.running -= 1;
    }

    /// A value is here: who waits for it gets ready. One that was here before, be it on disk, stays as it is.
    fn receive<E: Effects<Job = J>>(
        &mut self,
        task: TaskId,
        lifetime: Lifetime,
        nbytes: u64,
        owner: Owner,
        effects: &mut E,
    ) {
        if let Some(held) = self.values.get_mut(&task) {
            if lifetime == Lifetime::UntilFreed {
                held.lifetime = lifetime;
                self.memory.stand_again(task, held);
            }
            return;
        }
        let mut users = 0;
        if !self.waiters.is_empty()
            && let Some(waiters) = self.waiters.remove(&task)
        {
            for waiter in waiters {
                users += u32::from(self.supply(waiter));
            }
        }
        self.hold(task, users, lifetime, nbytes, owner);
        effects.keep(task);
        if lifetime == Lifetime::Recent {
            self.recent.push_back(task);
            self.expire(effects);
        }
    }

    /// Lets go of the oldest small result when there are too many.
    fn expire<E: Effects<Job = J>>(&mut self, effects: &mut E) {
        if self.recent.len() > RECENT_MAX
            && let Some(oldest) = self.recent.pop_front()
            && let Some(held) = self.values.get_mut(&oldest)
            && held.lifetime == Lifetime::Recent
        {
            held.lifetime = Lifetime::WhileUsed;
            self.discard_unused(oldest, effects);
        }
    }

    /// One input of `waiter` is here. Whether the task still waits for it.
    fn supply(&mut self, waiter: Waiter) -> bool {
        let Some(record) = self.tasks.get_mut(&waiter.task) else { return false };
        if record.arrival != waiter.arrival {
            return false;
        }
        if record.supply() {
            self.ready.push(record.entry(waiter.task));
        }
        true
    }

    /// Reports a task that has not started as returned, and its followers behind it.
    fn withdraw<E: Effects<Job = J>>(&mut self, task: TaskId, effects: &mut E) {
        self.forget(task, effects);
        self.give_up(task, effects);
    }

    /// Removes a task that has not started and reports it.
    fn forget<E: Effects<Job = J>>(&mut self, task: TaskId, effects: &mut E) {
        let record = self.take_away(task);
        effects.returned(task);
        self.release(&record.inputs, effects);
    }

    /// Removes a task that has not started.
    fn take_away(&mut self, task: TaskId) -> Task<J> {
        let record = self.tasks.remove(&task).expect("only tasks that are here are forgotten");
        if let TaskState::Queued { .. } = record.state {
            self.ready.abandon(|entry| {
                self.tasks.get(&entry.task).is_some_and(|record| record.arrival == entry.arrival)
            });
        }
        self.counts.queued -= 1;
        record
    }

    /// One source of a value is gone. Unless another is left, whoever waits for the value is returned, and
    /// whoever waits for theirs.
    fn give_up<E: Effects<Job = J>>(&mut self, value: TaskId, effects: &mut E) {
        let mut lost = VecDeque::from([value]);
        while let Some(value) = lost.pop_front() {
            if self.is_coming(value) {
                continue;
            }
            for waiter in self.waiters.remove(&value).unwrap_or_default() {
                if self.tasks.get(&waiter.task).is_some_and(|record| record.arrival == waiter.arrival) {
                    self.forget(waiter.task, effects);
                    lost.push_back(waiter.task);
                }
            }
        }
    }

    /// The values in `inputs` are needed by one task less.
    fn release<E: Effects<Job = J>>(&mut self, inputs: &[TaskId], effects: &mut E) {
        for &input in inputs {
            if let Some(held) = self.values.get_mut(&input) {
                held.users -= 1;
                if held.users == 0 {
                    self.memory.stand(input, held);
                    self.discard_unused(input, effects);
                }
            }
        }
    }

    fn discard_unused<E: Effects<Job = J>>(&mut self, value: TaskId, effects: &mut E) {
        let is_unused = |held: &Held| held.users == 0 && held.lifetime == Lifetime::WhileUsed;
        if self.values.get(&value).is_some_and(is_unused)
            && let Some(mut held) = self.values.remove(&value)
        {
            self.memory.remove(&mut held);
            if !held.is_here() {
                // Who waited for it from disk is gone.
                self.waiters.remove(&value);
            }
            effects.discard(value);
        }
    }

    fn is_obtainable(&self, input: &Input<'_>) -> bool {
        match &input.source {
            Source::Inline(_) => true,
            Source::Remote { holders, .. } if !holders.is_empty() => true,
            Source::Remote { .. } | Source::Local | Source::LastUse => {
                self.values.contains_key(&input.task) || self.is_coming(input.task)
            }
        }
    }

    /// Whether a task here makes the value, or it is being fetched.
    fn is_coming(&self, value: TaskId) -> bool {
        let made = self.tasks.get(&value).is_some_and(|record| !record.is_abandoned());
        made || self.fetches.contains(value)
    }

    fn is_awaited(&self, value: TaskId) -> bool {
        self.waiters.get(&value).is_some_and(|waiters| {
            waiters.iter().any(|waiter| {
                self.tasks.get(&waiter.task).is_some_and(|record| record.arrival == waiter.arrival)
            })
        })
    }
}
