//! Transitions of a task, and the counts that drive them.
//!
//! ```text
//! released ─► waiting ─► ready ─► assigned ─► stored (held by workers, or inline here)
//!    ▲           ╰─────────┴──────────┴─────► failed
//!    ╰──── nobody wants the value ────┴──────────╯        released and no dependents: forgotten
//! ```
//!
//! Two counts keep a task. Its *value* is wanted by clients' references and by active tasks that take it as
//! input; its *record* is kept for every task in the table that may have to be computed again from it.

use std::sync::Arc;

use super::blame::{self, Loss};
use super::clients::Watch;
use super::task::{NONE, Origin, ShortBytes, State};
use super::workers::Room;
use super::{Effects, SchedulerCore};
use crate::model::{TaskId, WorkerId};
use crate::wire::client::Outcome;

/// Holders of a value that a client is told of.
const HOLDERS_TOLD_MAX: usize = 8;

/// Something that a transition leaves to do.
#[derive(Debug)]
pub(super) enum Step {
    /// Somebody wants the value of a released task.
    Activate(u32),
    /// The task ends in this error.
    Fail(u32, Arc<[u8]>),
    /// A count went down: drop what nobody wants.
    Settle(u32),
    /// Something changed for those who want copies of the value.
    Arrange(u32),
}

impl SchedulerCore {
    /// Takes the steps that transitions have left, and those that these leave.
    pub(super) fn take_steps<E: Effects>(&mut self, effects: &mut E) {
        while let Some(step) = self.steps.pop() {
            match step {
                Step::Activate(slot) => self.activate(slot),
                Step::Fail(slot, error) => self.fail(slot, &error, effects),
                Step::Settle(slot) => self.settle(slot, effects),
                Step::Arrange(slot) => self.take_order(slot, effects),
            }
        }
    }

    /// A released task is wanted: it waits for its inputs, which are wanted in turn.
    fn activate(&mut self, slot: u32) {
        if !matches!(self.tasks[slot].state, State::Released) || !self.tasks[slot].is_wanted() {
            return;
        }
        if self.tasks[slot].origin == Origin::Scattered {
            let error = self.blame(slot, blame::Cause::ScatteredDataLost(Loss::Before));
            return self.steps.push(Step::Fail(slot, error));
        }
        let inputs = std::mem::take(&mut self.tasks[slot].inputs);
        self.wait_for(slot, &inputs, 0);
        self.tasks[slot].inputs = inputs;
    }

    /// A task becomes active: it wants its inputs, and waits for those that are not stored. Each of them gets so
    /// many dependents more.
    pub(super) fn wait_for(&mut self, slot: u32, inputs: &[u32], dependents: u32) {
        let id = self.tasks.id(slot);
        let (mut missing, mut is_drawn, mut error) = (0, false, None);
        for &input in inputs {
            let task = &mut self.tasks[input];
            task.wanted_by += 1;
            task.dependents += dependents;
            match &task.state {
                State::Inline(_) => continue,
                State::Held => {
                    is_drawn = true;
                    continue;
                }
                State::Failed(cause) => error = Some(cause.clone()),
                State::Released => self.steps.push(Step::Activate(input)),
                _ => {}
            }
            self.tasks.push_waiter(input, id);
            missing += 1;
        }
        let task = &mut self.tasks[slot];
        task.state = State::Waiting { missing };
        task.is_drawn = is_drawn;
        match error {
            Some(error) => self.steps.push(Step::Fail(slot, error)),
            None if missing == 0 => self.ready_with(slot, inputs.len()),
            None => self.unfollowed.push(id),
        }
    }

    /// All inputs are stored: the task goes where its inputs draw it, or into the pool.
    pub(super) fn ready(&mut self, slot: u32) {
        self.ready_with(slot, self.tasks[slot].inputs.len());
    }

    fn ready_with(&mut self, slot: u32, inputs_len: usize) {
        let id = self.tasks.id(slot);
        let task = &mut self.tasks[slot];
        task.state = State::Ready;
        if task.is_drawn | task.is_bound {
            return self.unplaced.push(id);
        }
        let (priority, function) = (task.priority, task.function);
        let estimate_us = self.estimate_us(function);
        match inputs_len {
            0 => self.pool.push_back(priority, id, estimate_us),
            // Ahead of the roots: what is begun is brought to its end before more is begun.
            _ => self.pool.push_front(priority, id, estimate_us),
        }
    }

    /// The value is there: whoever waits for it goes on.
    pub(super) fn store<E: Effects>(&mut self, slot: u32, inline: Option<&[u8]>, effects: &mut E) {
        let task = &mut self.tasks[slot];
        task.state = match inline {
            Some(_) => State::Inline(ShortBytes::new()),
            None => State::Held,
        };
        if let (State::Inline(stored), Some(bytes)) = (&mut task.state, inline) {
            stored.extend_from_slice(bytes);
        }
        let is_held = inline.is_none();
        while let Some(waiters) = self.tasks.pop_waiters(slot) {
            for waiter in waiters {
                if let Some(waiter) = self.tasks.find(waiter) {
                    self.tasks[waiter].is_drawn |= is_held;
                    self.count_down(waiter);
                }
            }
        }
        self.notify(slot, effects);
        self.steps.push(Step::Settle(slot));
        if self.orders.contains(slot) {
            self.steps.push(Step::Arrange(slot));
        }
    }

    /// One input less is missing: without any, the task can start.
    #[inline]
    fn count_down(&mut self, waiter: u32) {
        match &mut self.tasks[waiter].state {
            State::Waiting { missing } => {
                *missing -= 1;
                if *missing == 0 {
                    self.ready(waiter);
                }
            }
            State::Assigned { worker, missing } => {
                *missing -= 1;
                if *missing == 0 {
                    let worker = *worker;
                    self.workers.promote(&self.tasks, worker, waiter);
                }
            }
            _ => {}
        }
    }

    /// The inputs of a task that is done with them are wanted by one less.
    pub(super) fn let_go_of_inputs(&mut self, slot: u32) {
        for index in 0..self.tasks[slot].inputs.len() {
            let input = self.tasks[slot].inputs[index];
            self.tasks[input].wanted_by -= 1;
            if !self.tasks[input].is_wanted() {
                self.steps.push(Step::Settle(input));
            }
        }
    }

    /// The task ends in `error`, and so does whoever waits for it.
    fn fail<E: Effects>(&mut self, slot: u32, error: &Arc<[u8]>, effects: &mut E) {
        match self.tasks[slot].state {
            State::Failed(_) | State::Free { .. } | State::Held | State::Inline(_) => return,
            _ => self.deactivate(slot, effects),
        }
        self.tasks[slot].state = State::Failed(error.clone());
        self.deaths.remove(&slot);
        while let Some(waiters) = self.tasks.pop_waiters(slot) {
            let active = waiters.filter_map(|waiter| self.tasks.find(waiter));
            let active = active.filter(|waiter| self.tasks[*waiter].is_active());
            self.steps.extend(active.map(|waiter| Step::Fail(waiter, error.clone())));
        }
        self.notify(slot, effects);
        self.steps.push(Step::Settle(slot));
        if self.orders.contains(slot) {
            self.steps.push(Step::Arrange(slot));
        }
    }

    /// An active task stops being so: it leaves its queue or its worker, and its inputs.
    ///
    /// Its id changes, so that neither queues nor waiter chains nor late reports find it.
    pub(super) fn deactivate<E: Effects>(&mut self, slot: u32, effects: &mut E) {
        let id = self.tasks.id(slot);
        let missing = match self.tasks[slot].state {
            State::Waiting { missing } => missing,
            State::Ready => 0,
            State::Assigned { worker, missing } => {
                self.abandon(worker, slot, id, missing > 0);
                effects.abandon(worker, id);
                self.fences.told(worker);
                missing
            }
            _ => return,
        };
        if missing > 0 {
            for index in 0..self.tasks[slot].inputs.len() {
                let input = self.tasks[slot].inputs[index];
                if !self.tasks[input].is_stored() {
                    self.tasks.unlink_waiter(input, id);
                }
            }
        }
        self.tasks.rename(slot);
        self.tasks[slot].state = State::Released;
        self.let_go_of_inputs(slot);
    }

    /// Books an assignment as abandoned: the worker still owes its outcome.
    fn abandon(&mut self, worker: WorkerId, slot: u32, id: TaskId, following: bool) {
        self.workers.unbook(&mut self.tasks, worker, slot, following);
        self.workers.forget_inbound(&self.tasks, worker, slot);
        let estimate_us = if following { 0 } else { self.tasks[slot].estimate_us };
        let worker = self.workers.live(worker);
        worker.started.remove(&id);
        worker.abandoned.insert(id, estimate_us);
        worker.load_us += u64::from(estimate_us);
    }

    /// Drops what nobody wants any more.
    fn settle<E: Effects>(&mut self, slot: u32, effects: &mut E) {
        let task = &self.tasks[slot];
        if matches!(task.state, State::Free { .. }) || task.is_wanted() {
            return;
        }
        if self.orders.contains(slot) {
            self.give_order_back(slot, effects);
        }
        match self.tasks[slot].state {
            State::Waiting { .. } | State::Ready | State::Assigned { .. } => self.deactivate(slot, effects),
            State::Held => self.drop_holders(slot, effects),
            // Workers may still have small values for a while, under the id that they were made by.
            State::Inline(_) => self.tasks.rename(slot),
            _ => {}
        }
        self.tasks[slot].state = State::Released;
        if self.tasks[slot].dependents == 0 {
            self.forget(slot);
        }
    }

    /// Every holder drops its copy. A copy that is reported later has the old id, and is dropped then.
    fn drop_holders<E: Effects>(&mut self, slot: u32, effects: &mut E) {
        let (id, nbytes) = (self.tasks.id(slot), self.tasks[slot].nbytes);
        for holder in std::mem::take(&mut self.tasks[slot].holders) {
            self.workers.unhold(holder, slot, nbytes);
            effects.free(holder, id);
        }
        self.doubts.remove(&id);
        self.tasks.rename(slot);
    }

    /// Removes a record that no other needs.
    fn forget(&mut self, slot: u32) {
        self.remove_key(slot);
        self.deaths.remove(&slot);
        if self.tasks[slot].is_bound {
            self.bindings.unbind(slot);
        }
        let inputs = std::mem::take(&mut self.tasks[slot].inputs);
        for &input in &inputs {
            self.tasks[input].dependents -= 1;
            if self.tasks[input].dependents == 0 && !self.tasks[input].is_wanted() {
                self.steps.push(Step::Settle(input));
            }
        }
        self.tasks.remove(slot);
    }

    /// Tells every client that watches the task how it ended.
    fn notify<E: Effects>(&mut self, slot: u32, effects: &mut E) {
        let mut index = self.tasks[slot].references;
        while index != NONE {
            let reference = *self.clients.reference(index);
            if reference.watch == Watch::Yes {
                self.clients.watch(index, Watch::No);
                self.tell(slot, index, effects);
            }
            index = reference.next;
        }
    }

    /// Tells one reference's client how the task ended; whether it has.
    pub(super) fn tell<E: Effects>(&self, slot: u32, reference: u32, effects: &mut E) -> bool {
        let task = &self.tasks[slot];
        let outcome = match &task.state {
            State::Inline(bytes) => Outcome::Inline(bytes),
            State::Held => Outcome::Stored {
                task: self.tasks.id(slot),
                nbytes: task.nbytes,
                holders: task.holders.iter().take(HOLDERS_TOLD_MAX).copied().collect(),
            },
            State::Failed(error) => Outcome::Failed(error),
            _ => return false,
        };
        let reference = self.clients.reference(reference);
        effects.notify(reference.client, reference.future, &outcome);
        true
    }

    /// Has a worker stand in the line of its room.
    pub(super) fn enrol(&mut self, worker: WorkerId) {
        // One that is passed over stands in no line.
        let room = if self.workers.is_avoided(worker) { Room::None } else { self.room(worker) };
        self.workers.enrol(worker, room);
    }

    /// What `worker` can take.
    pub(super) fn room(&self, worker: WorkerId) -> Room {
        let Some(worker) = self.workers.find(worker) else { return Room::None };
        let (threads, outstanding) = (worker.threads as usize, worker.outstanding());
        if worker.is_paused {
            return if outstanding == 0 { Room::Idle } else { Room::None };
        }
        if outstanding < threads {
            return Room::Idle;
        }
        let short = worker.load_us < self.tuning.round_trip_us * u64::from(worker.threads);
        match short && outstanding < threads * self.tuning.depth_max as usize {
            true => Room::Spare,
            false => Room::None,
        }
    }
}
