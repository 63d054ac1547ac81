//! The invariants of the core, for tests and simulations.
#![allow(clippy::disallowed_methods, clippy::iter_over_hash_type)] // Nothing here depends on the order of a table.

use std::collections::BTreeSet;

use super::task::{Form, Held, Lifetime, TaskState, Waiter};
use super::{Counts, RECENT_MAX, WorkerCore};
use crate::model::TaskId;

impl<J> WorkerCore<J> {
    /// Panics if a thread has two tasks, a task misses an input that is here or is not coming, a value is held
    /// for nobody, or a limit is passed.
    pub fn check(&self) {
        self.check_threads();
        self.check_tasks();
        self.check_values();
        self.fetches.check();
    }

    fn check_threads(&self) {
        let busy = self.tasks.values().filter_map(|task| task.thread());
        let threads: Vec<_> = busy.chain(self.idle.iter().copied()).collect();
        let distinct: BTreeSet<_> = threads.iter().collect();
        assert_eq!(threads.len(), self.threads as usize, "each thread is idle or has one task");
        assert_eq!(distinct.len(), threads.len(), "no thread is booked twice");
        let running = threads.len() - self.idle.len();
        let queued = self.tasks.len() - running;
        assert_eq!(self.counts, Counts { running: running as u32, queued: queued as u32 });
    }

    fn check_tasks(&self) {
        let mut queued = 0;
        for (&task, record) in &self.tasks {
            let absent: Vec<_> = record.inputs.iter().filter(|input| !self.is_here(**input)).collect();
            match record.state {
                TaskState::Waiting { missing, .. } => {
                    assert!(missing > 0, "{task} waits for nothing");
                    assert_eq!(missing as usize, absent.len(), "{task} counts its missing inputs");
                    let waiter = Waiter { task, arrival: record.arrival };
                    for input in absent {
                        assert!(self.is_expected(*input), "{task} waits for {input}, which does not come");
                        assert!(self.waiters[input].contains(&waiter), "{input} does not know of {task}");
                    }
                }
                TaskState::Queued { .. } => {
                    assert!(absent.is_empty(), "{task} is ready without its inputs");
                    queued += 1;
                }
                TaskState::Announced { .. } => {
                    assert!(absent.is_empty(), "{task} is announced without its inputs");
                }
                TaskState::Running { .. } | TaskState::Abandoned { .. } => {
                    assert!(record.inputs.is_empty(), "{task} runs and still counts as a user");
                }
            }
        }
        assert_eq!(queued, self.ready.len(), "the queue holds the tasks that are queued");
    }

    fn check_values(&self) {
        for (value, held) in &self.values {
            let users = self.tasks.values().flat_map(|task| &task.inputs).filter(|input| *input == value);
            assert_eq!(users.count(), held.users as usize, "{value} counts its users");
            assert!(held.users > 0 || held.lifetime != Lifetime::WhileUsed, "{value} is held for nobody");
        }
        assert!(self.recent.len() <= RECENT_MAX);
        for value in self.acquiring.keys() {
            assert!(self.fetches.contains(*value), "{value} is to be acquired, and does not come");
        }
        for value in self.waiters.keys() {
            assert!(self.is_expected(*value), "somebody waits for {value}, which does not come");
        }
        self.memory.check(self.values.iter());
        let arriving =
            self.puts.admitted_bytes() + self.memory.reading_bytes() + self.fetches.arriving_bytes();
        assert_eq!(self.memory.usage().arriving, arriving);
    }

    fn is_here(&self, value: TaskId) -> bool {
        self.values.get(&value).is_some_and(Held::is_here)
    }

    /// Whether a value that is not in memory will be.
    fn is_expected(&self, value: TaskId) -> bool {
        let is_returning = |held: &Held| matches!(held.form, Form::Wanted | Form::Returning(_));
        self.is_coming(value) || self.values.get(&value).is_some_and(is_returning)
    }

    /// Panics if nothing goes on and something could.
    pub fn check_progress(&self) {
        let is_moving = self.counts.running > 0
            || self.memory.writing.is_some()
            || self.memory.reading_len() > 0
            || self.fetches.active() > 0;
        assert!(is_moving || self.ready.len() == 0, "tasks are ready and none runs");
        assert!(
            is_moving || self.memory.is_disk_failing() || !self.puts.is_stuck(),
            "nothing runs, comes or goes, and a client's value waits"
        );
        let is_waiting = self.fetches.len() > 0
            || self.memory.wanted.iter().any(|task| {
                self.values.get(task).is_some_and(|held| held.form == Form::Wanted && held.users > 0)
            });
        assert!(
            is_moving || !is_waiting || self.counts.queued == 0,
            "nothing runs, comes or goes, and something could"
        );
    }
}
