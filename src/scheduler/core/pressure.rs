//! What follows when a worker's memory is nearly full, and when that is over.
//!
//! A worker that pauses is given nothing while another is open, but for tasks that only it may run, and those one at
//! a time; what it has not begun is asked back for the others. When all have paused, each is given one task at a time.
//! One that is full, too, gives tasks without inputs back and is given none: they wait until it has room, or for ever,
//! and `explain` says so.

use smallvec::SmallVec;

use super::queue::ReadyQueue;
use super::task::State;
use super::{Effects, SchedulerCore};
use crate::model::{TaskId, WorkerId};
use crate::wire::worker::Pressure;

/// Tasks without inputs that are passed over for one that has some.
const ROOTS_PASSED_MAX: usize = 64;

impl SchedulerCore {
    /// A worker says whether it has paused.
    pub fn pressure<E: Effects>(&mut self, id: WorkerId, pressure: Pressure, effects: &mut E) {
        if !self.workers.pause(id, pressure) {
            return;
        }
        self.workers.mark_dirty(id);
        if pressure != Pressure::Open && !self.workers.all_paused() {
            self.relieve(id, effects);
        }
    }

    /// The next task that waits for this worker and that it takes.
    pub(super) fn next_waiting(&mut self, id: WorkerId) -> Option<TaskId> {
        if !self.workers.is_full(id) {
            return self.workers.live(id).next_waiting();
        }
        let drawn = self.workers.live(id).backlog.pop_front();
        drawn.or_else(|| {
            let mut bound = std::mem::take(&mut self.workers.live(id).bound);
            let next = self.next_with_inputs(&mut bound);
            self.workers.live(id).bound = bound;
            next
        })
    }

    /// The next task of the pool that a worker takes.
    pub(super) fn next_of_pool(&mut self, id: WorkerId) -> Option<TaskId> {
        if !self.workers.is_full(id) {
            return self.pool.pop_front();
        }
        let mut pool = std::mem::take(&mut self.pool);
        let next = self.next_with_inputs(&mut pool);
        self.pool = pool;
        next
    }

    /// Takes the next task that has inputs out of a queue, if it is not far behind.
    fn next_with_inputs(&self, queue: &mut ReadyQueue) -> Option<TaskId> {
        let mut passed = SmallVec::<[TaskId; ROOTS_PASSED_MAX]>::new();
        let mut found = None;
        while passed.len() < ROOTS_PASSED_MAX
            && let Some(id) = queue.pop_front()
        {
            let Some(slot) = self.ready_slot(id) else { continue };
            if !self.tasks[slot].inputs.is_empty() {
                found = Some(id);
                break;
            }
            passed.push(id);
        }
        for id in passed.into_iter().rev() {
            let slot = self.ready_slot(id).expect("it was ready a moment ago");
            let (priority, estimate_us) = self.rank_of(slot);
            queue.push_front(priority, id, estimate_us);
        }
        found
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
