//! What a loss undoes: a worker's tasks run again, its values are computed again, a client's references end.
//!
//! When a worker dies, any task that it was given and has not answered for may have been running: what its threads
//! took up last is not known here. So its death counts against all of them, once; and from then on each is run with
//! caution, its start said before it begins. So every further death counts against those that ran, and no others.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;

use super::blame::{self, Loss};
use super::life::Step;
use super::task::{Origin, State};
use super::{Effects, SchedulerCore};
use crate::model::{ClientId, TaskId, WorkerId};

/// Why a worker left, which decides whether its tasks are suspects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// It died or became unreachable: what ran on it may be the cause.
    Lost,
    /// It was asked to leave.
    Planned,
}

impl SchedulerCore {
    /// A worker is gone, with what it ran and held.
    pub fn worker_left<E: Effects>(&mut self, id: WorkerId, departure: Departure, effects: &mut E) {
        let Some(worker) = self.workers.leave(id) else { return };
        if departure == Departure::Lost {
            self.count_death(id, &worker.assigned, &worker.started);
        }
        self.unfence(id, effects);
        for slot in worker.assigned {
            let State::Assigned { missing, .. } = self.tasks[slot].state else { continue };
            self.tasks[slot].position = super::task::NONE;
            self.tasks[slot].state = match missing {
                0 => State::Ready,
                missing => State::Waiting { missing },
            };
            match self.deaths.get(&slot) {
                Some(deaths) if deaths.len() >= self.tuning.deaths_max => {
                    let error = self.blame(slot, blame::Cause::WorkersDied);
                    self.steps.push(Step::Fail(slot, error));
                }
                _ => self.requeue(slot),
            }
        }
        for mut queue in [worker.backlog, worker.bound] {
            while let Some(task) = queue.pop_front() {
                self.unplaced.push(task);
            }
        }
        if self.workers.len() == 0 {
            self.bindings.stop_clocks();
        }
        self.look_at_orders(Some(id));
        for slot in worker.holds {
            self.lose_copy(slot, id, effects);
        }
        self.send_on(id, effects);
        self.take_steps(effects);
    }

    /// A client is gone: its references are given back, and what it was sending will not arrive.
    pub fn client_left<E: Effects>(&mut self, client: ClientId, effects: &mut E) {
        self.heirs.values_mut().for_each(|heirs| heirs.retain(|(heir, _)| *heir != client));
        for reference in self.clients.of_client(client) {
            self.give_back(reference, effects);
        }
        self.clients.leave(client);
        self.take_steps(effects);
    }

    /// One copy less. The last one's loss releases the task, and if anybody wants the value it is made again.
    pub(super) fn lose_copy<E: Effects>(&mut self, slot: u32, holder: WorkerId, effects: &mut E) {
        let task = &mut self.tasks[slot];
        task.holders.retain(|other| *other != holder);
        let (left, nbytes) = (task.holders.len(), task.nbytes);
        self.workers.unhold(holder, slot, nbytes);
        if self.orders.contains(slot) {
            self.steps.push(Step::Arrange(slot));
        }
        if left > 0 || !matches!(self.tasks[slot].state, State::Held) {
            return;
        }
        self.call_off(slot, effects);
        self.tasks[slot].state = State::Released;
        self.doubts.remove(&self.tasks.id(slot));
        self.tasks.rename(slot);
        if self.tasks[slot].origin == Origin::Computed {
            self.totals.recomputed += 1;
        }
        self.steps.push(match (self.tasks[slot].is_wanted(), self.tasks[slot].origin) {
            (true, Origin::Computed) => Step::Activate(slot),
            (true, Origin::Scattered) => {
                Step::Fail(slot, self.blame(slot, blame::Cause::ScatteredDataLost(Loss::Held(holder))))
            }
            (false, _) => Step::Settle(slot),
        });
    }

    /// Counts a death against the tasks that may have been its cause: those that ran with caution, and those that
    /// were given to the worker without.
    fn count_death(&mut self, id: WorkerId, assigned: &[u32], started: &BTreeSet<TaskId>) {
        for &slot in assigned {
            match self.deaths.entry(slot) {
                Entry::Vacant(first) => drop(first.insert(vec![id])),
                Entry::Occupied(deaths) if started.contains(&self.tasks.id(slot)) => {
                    deaths.into_mut().push(id);
                }
                Entry::Occupied(_) => {}
            }
        }
    }

    /// Values on their way to a worker that is gone go to others.
    fn send_on<E: Effects>(&mut self, id: WorkerId, effects: &mut E) {
        let on_the_way = |slot: &u32| matches!(self.tasks[*slot].state, State::Receiving { worker, .. } if worker == Some(id));
        let left: Vec<u32> = self.tasks.slots().filter(on_the_way).collect();
        left.into_iter().for_each(|slot| self.send_elsewhere(slot, effects));
    }

    /// A value that a client was sending will not arrive.
    pub(super) fn lose_scattered(&mut self, slot: u32, loss: Loss) {
        let error = self.blame(slot, blame::Cause::ScatteredDataLost(loss));
        self.heirs.remove(&slot);
        self.tasks[slot].state = State::Released;
        self.tasks.rename(slot);
        self.steps.push(Step::Fail(slot, error));
    }
}
