//! What workers say: finished, failed, returned, started, holds, unavailable. (`missed` is in [`super::copies`].)

use super::clients::Standing;
use super::life::Step;
use super::task::{Origin, State};
use super::{Effects, SchedulerCore, Violation};
use crate::model::{ClientId, TaskId, WorkerId};
use crate::wire::client::{Fault, Unreachable};
use crate::wire::worker::{Failed, Finished};

/// Failed fetches of the only copy of a scattered value before it counts as lost: one may fail for reasons that
/// pass, and such a value cannot be made again.
const DOUBTS_MAX: u32 = 3;
/// Weight of the latest run in a function's mean duration.
const MEAN_WEIGHT: f32 = 0.2;

impl SchedulerCore {
    /// A task ran to its end; its value is in the report, or on the worker.
    pub fn finished<E: Effects>(
        &mut self,
        worker: WorkerId,
        report: &Finished<'_>,
        effects: &mut E,
    ) -> Result<(), Violation> {
        let Some(slot) = self.close(worker, report.task)? else {
            if report.inline.is_none() {
                effects.free(worker, report.task);
            }
            return Ok(());
        };
        self.totals.finished += 1;
        self.learn(slot, report.duration_us);
        self.learn_size(slot, if report.inline.is_none() { report.nbytes } else { 0 });
        self.deaths.remove(&slot);
        self.tasks[slot].nbytes = report.nbytes;
        if report.inline.is_none() {
            self.tasks[slot].holders.push(worker);
            self.workers.hold(worker, slot, report.nbytes);
        }
        self.let_go_of_inputs(slot);
        self.store(slot, report.inline, effects);
        self.take_steps(effects);
        Ok(())
    }

    /// A task ended in an error: it runs again while it may, else it fails.
    pub fn failed<E: Effects>(
        &mut self,
        worker: WorkerId,
        report: &Failed<'_>,
        effects: &mut E,
    ) -> Result<(), Violation> {
        let Some(slot) = self.close(worker, report.task)? else { return Ok(()) };
        self.learn(slot, report.duration_us);
        let task = &mut self.tasks[slot];
        match task.retries_left.checked_sub(1) {
            Some(left) => {
                task.retries_left = left;
                self.requeue(slot);
            }
            None => {
                self.totals.failed += 1;
                let error = self.complete_error(slot, worker, report.error);
                self.steps.push(Step::Fail(slot, error));
                self.take_steps(effects);
            }
        }
        Ok(())
    }

    /// An assigned task did not run: it was retracted or abandoned, or an input did not arrive.
    pub fn returned(&mut self, worker: WorkerId, task: TaskId) -> Result<(), Violation> {
        if let Some(slot) = self.close(worker, task)? {
            self.requeue(slot);
        }
        Ok(())
    }

    /// A task that was assigned with caution is about to run.
    pub fn started(&mut self, worker: WorkerId, task: TaskId) -> Result<(), Violation> {
        if !self.workers.live(worker).abandoned.contains_key(&task) {
            self.assigned(worker, task)?;
            self.workers.live(worker).started.insert(task);
        }
        Ok(())
    }

    /// A copy of a value is on `worker`: put there by a client, or fetched for a task.
    pub fn holds<E: Effects>(&mut self, worker: WorkerId, task: TaskId, nbytes: u64, effects: &mut E) {
        let Some(slot) = self.tasks.find(task) else { return effects.free(worker, task) };
        match self.tasks[slot].state {
            State::Receiving { worker: expected, .. } if expected == Some(worker) => {
                self.heirs.remove(&slot);
                self.tasks[slot].nbytes = nbytes;
                self.tasks[slot].holders.push(worker);
                self.workers.hold(worker, slot, nbytes);
                self.store(slot, None, effects);
                self.take_steps(effects);
            }
            State::Held => {
                if !self.tasks[slot].holders.contains(&worker) {
                    self.tasks[slot].holders.push(worker);
                }
                // All copies are booked at one size, so that what is added is what is taken off.
                self.workers.hold(worker, slot, self.tasks[slot].nbytes);
                if self.orders.contains(slot) {
                    self.copy_arrived(slot, worker, effects);
                    self.take_steps(effects);
                }
            }
            _ => effects.free(worker, task),
        }
    }

    /// `holder` did not hand out a value. Its copy counts as lost; a value without copies is computed again. The
    /// only copy of a scattered value is tried a few times.
    pub fn unavailable<E: Effects>(&mut self, task: TaskId, holder: WorkerId, effects: &mut E) {
        let Some(slot) = self.tasks.find(task) else { return };
        if !self.tasks[slot].holders.contains(&holder) || self.is_given_another_chance(slot) {
            return;
        }
        effects.free(holder, task);
        self.lose_copy(slot, holder, effects);
        self.take_steps(effects);
    }

    /// A worker cannot read a value that it had spilled, or has dropped one after its last use: that copy is gone.
    /// Who has come to want it meanwhile has it computed again.
    pub fn lost<E: Effects>(&mut self, worker: WorkerId, task: TaskId, effects: &mut E) {
        let Some(slot) = self.tasks.find(task) else { return };
        if self.tasks[slot].holders.contains(&worker) {
            self.lose_copy(slot, worker, effects);
            self.take_steps(effects);
        }
    }

    /// Whether a value that was not handed out is too precious to be given up yet.
    fn is_given_another_chance(&mut self, slot: u32) -> bool {
        let task = &self.tasks[slot];
        if task.origin == Origin::Computed || task.holders.len() > 1 {
            return false;
        }
        let doubts = self.doubts.entry(self.tasks.id(slot)).or_default();
        *doubts += 1;
        *doubts < DOUBTS_MAX
    }

    /// A client could not fetch the value of a future, which is watched again, or could not send it and sends it to
    /// another worker. What a worker says that it does not have is [`unavailable`](Self::unavailable) there. That a
    /// client does not reach a worker says nothing of the copy: others may reach it, and if it is dead, that is heard
    /// from its own connection.
    pub fn unreachable<E: Effects>(
        &mut self,
        client: ClientId,
        unreachable: &Unreachable,
        effects: &mut E,
    ) -> Result<(), Violation> {
        let Unreachable { future, task, ref workers } = *unreachable;
        for (worker, fault) in workers {
            let Standing::Task { slot, .. } = self.clients.standing(client, future) else { break };
            if self.tasks.id(slot) != task {
                break;
            }
            match (&self.tasks[slot].state, fault) {
                (State::Receiving { worker: former, sender, .. }, _) => {
                    if *former == Some(*worker) && *sender == (client, future) {
                        self.send_elsewhere(slot, effects);
                        self.take_steps(effects);
                    }
                }
                (_, Fault::NotHere) => self.unavailable(task, *worker, effects),
                (_, Fault::NotReached) => {}
            }
        }
        self.watch(client, future, effects)
    }

    /// Takes an assignment off the books: its slot, or None if it had been abandoned.
    fn close(&mut self, id: WorkerId, task: TaskId) -> Result<Option<u32>, Violation> {
        self.workers.mark_dirty(id);
        let worker = self.workers.live(id);
        worker.retracting.remove(&task);
        if !worker.started.is_empty() {
            worker.started.remove(&task);
        }
        if let Some(estimate_us) = worker.abandoned.remove(&task) {
            worker.load_us = worker.load_us.saturating_sub(u64::from(estimate_us));
            return Ok(None);
        }
        let slot = self.assigned(id, task)?;
        let State::Assigned { missing, .. } = self.tasks[slot].state else { unreachable!("just matched") };
        self.workers.unbook(&mut self.tasks, id, slot, missing > 0);
        self.workers.forget_inbound(&self.tasks, id, slot);
        self.tasks[slot].state = match missing {
            0 => State::Ready,
            missing => State::Waiting { missing },
        };
        Ok(Some(slot))
    }

    /// The slot of a task that is assigned to this worker.
    fn assigned(&self, id: WorkerId, task: TaskId) -> Result<u32, Violation> {
        let is_there =
            |slot: &u32| matches!(self.tasks[*slot].state, State::Assigned { worker, .. } if worker == id);
        self.tasks.find(task).filter(is_there).ok_or(Violation::NotAssigned { worker: id, task })
    }

    /// A task that was taken off the books is to be placed again.
    pub(super) fn requeue(&mut self, slot: u32) {
        match self.tasks[slot].state {
            State::Ready => self.ready(slot),
            _ => self.unfollowed.push(self.tasks.id(slot)),
        }
    }

    /// Takes a run time into the mean of its function.
    fn learn(&mut self, slot: u32, duration_us: u64) {
        let function = &mut self.functions[self.tasks[slot].function as usize];
        let duration = duration_us as f32;
        function.mean_us =
            Some(function.mean_us.map_or(duration, |mean| mean + MEAN_WEIGHT * (duration - mean)));
    }

    /// Takes the size of a result into the mean of its function.
    fn learn_size(&mut self, slot: u32, nbytes: u64) {
        let function = &mut self.functions[self.tasks[slot].function as usize];
        function.mean_bytes += MEAN_WEIGHT * (nbytes as f32 - function.mean_bytes);
    }
}
