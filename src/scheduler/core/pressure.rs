//! What follows when a worker's memory is nearly full, and when that is over.
//!
//! A worker that pauses is given nothing while another is open, but for tasks that only it may run, and those one at
//! a time; what it has not begun is asked back for the others. When all have paused, each is given one task at a time.

use super::task::State;
use super::{Effects, SchedulerCore};
use crate::model::WorkerId;
use crate::wire::worker::Pressure;

impl SchedulerCore {
    /// A worker says whether it has paused.
    pub fn pressure<E: Effects>(&mut self, id: WorkerId, pressure: Pressure, effects: &mut E) {
        if !self.workers.pause(id, pressure == Pressure::Paused) {
            return;
        }
        self.workers.mark_dirty(id);
        if pressure == Pressure::Paused && !self.workers.all_paused() {
            self.relieve(id, effects);
        }
    }

    /// Moves what the worker has not begun to where memory is left.
    fn relieve<E: Effects>(&mut self, id: WorkerId, effects: &mut E) {
        while let Some(task) = self.workers.live(id).backlog.pop_front() {
            self.unplaced.push(task);
        }
        self.workers.backlogged.remove(&id);
        for slot in self.workers.live(id).assigned.clone() {
            let task = self.tasks.id(slot);
            let is_follower = !matches!(self.tasks[slot].state, State::Assigned { missing: 0, .. });
            // Followers come along with what they follow, if that does.
            if !is_follower && self.workers.live(id).retracting.insert(task) {
                effects.retract(id, task);
            }
        }
    }
}
