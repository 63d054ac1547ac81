//! The invariants of the core, for tests and simulations.
#![allow(clippy::disallowed_methods, clippy::iter_over_hash_type)] // Nothing here depends on the order of a table.

use std::collections::BTreeSet;

use super::task::{Lifetime, TaskState, Waiter};
use super::{Counts, RECENT_MAX, WorkerCore};

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
            let absent: Vec<_> =
                record.inputs.iter().filter(|input| !self.values.contains_key(input)).collect();
            match record.state {
                TaskState::Waiting { missing, .. } => {
                    assert!(missing > 0, "{task} waits for nothing");
                    assert_eq!(missing as usize, absent.len(), "{task} counts its missing inputs");
                    let waiter = Waiter { task, arrival: record.arrival };
                    for input in absent {
                        assert!(self.is_coming(*input), "{task} waits for {input}, which does not come");
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
        for value in self.waiters.keys() {
            assert!(self.is_coming(*value), "somebody waits for {value}, which does not come");
        }
    }
}
