//! Values that peers are asked for: when, whom, and what is never asked for.
//!
//! `fetches.rs` says whose turn it is, [`super::memory`] and [`super::loans`] whether there is room.

use super::WorkerCore;
use super::effects::Effects;
use super::fetches::Next;
use crate::model::TaskId;
use crate::model::error::TaskError;
use crate::wire::worker::Failed;

impl<J> WorkerCore<J> {
    /// A value that was asked for is larger than was known, and than all memory that there is. That is no fault of its
    /// holder: the tasks that wait for the value fail.
    pub fn fetched_too_large<E: Effects<Job = J>>(&mut self, task: TaskId, nbytes: u64, effects: &mut E) {
        let failure = self.fetches.fail(task);
        self.memory.arrival_ends(failure.arriving);
        if failure.exhausted {
            self.refuse(task, nbytes, effects);
        }
        self.start_fetches(effects);
    }

    /// Asks for values, as far as the limits allow; those that no task waits for any more are let go.
    pub(super) fn start_fetches<E: Effects<Job = J>>(&mut self, effects: &mut E) {
        while let Some(next) = self.next_fetch(effects) {
            if !self.admits(&next, effects) {
                return;
            }
            self.begin_fetch(next, effects);
        }
    }

    /// Asks for the next value, whether the memory has room for it or not.
    pub(super) fn start_fetch<E: Effects<Job = J>>(&mut self, effects: &mut E) {
        if let Some(next) = self.next_fetch(effects) {
            self.begin_fetch(next, effects);
        }
    }

    /// The fetch whose turn it is, of those that are still wanted and not too large.
    pub(super) fn next_fetch<E: Effects<Job = J>>(&mut self, effects: &mut E) -> Option<Next> {
        while let Some(next) = self.fetches.next() {
            let is_missing = self.is_awaited(next.task) && !self.values.contains_key(&next.task);
            if !is_missing && !self.acquiring.contains_key(&next.task) {
                self.let_go_of(next);
            } else if !self.memory.never_admits(next.nbytes) || self.is_worth_borrowing(&next, effects) {
                return Some(next);
            } else if self.fetches.pass_over(next) {
                self.refuse(next.task, next.nbytes, effects);
            }
        }
        None
    }

    /// A value from elsewhere is larger than all memory that there is: who waits for it here fails.
    fn refuse<E: Effects<Job = J>>(&mut self, value: TaskId, nbytes: u64, effects: &mut E) {
        if self.acquiring.remove(&value).is_some() {
            effects.missed(value);
        }
        if self.is_coming(value) || self.values.contains_key(&value) {
            return;
        }
        let error = TaskError::input_too_large(nbytes, self.memory.limit()).pack();
        for waiter in self.waiters.remove(&value).unwrap_or_default() {
            if self.tasks.get(&waiter.task).is_some_and(|record| record.arrival == waiter.arrival) {
                let record = self.take_away(waiter.task);
                effects.failed(&Failed { task: waiter.task, duration_us: 0, error: &error });
                self.release(&record.inputs, effects);
                self.give_up(waiter.task, effects);
            }
        }
    }

    /// Gives up a fetch whose turn it is.
    pub(super) fn let_go_of(&mut self, next: Next) {
        self.acquiring.remove(&next.task);
        self.fetches.cancel(next);
        if !self.is_coming(next.task) && !self.values.contains_key(&next.task) {
            self.waiters.remove(&next.task);
        }
    }
}
