//! A queue of ready tasks: higher priority first, then first come, first served.
//!
//! Entries are ids, so a task that stops being ready is simply not found when its turn comes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use crate::model::TaskId;

/// Ready tasks with their estimated run times.
#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    levels: BTreeMap<Reverse<i32>, VecDeque<(TaskId, u32)>>,
    len: usize,
    estimate_us: u64,
}

impl ReadyQueue {
    /// Entries, stale ones included.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The sum of the estimates.
    pub(super) fn estimate_us(&self) -> u64 {
        self.estimate_us
    }

    /// Entries, stale ones included, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.levels.values().flatten().map(|(task, _)| *task)
    }

    pub(super) fn push_back(&mut self, priority: i32, task: TaskId, estimate_us: u32) {
        self.levels.entry(Reverse(priority)).or_default().push_back((task, estimate_us));
        self.len += 1;
        self.estimate_us += u64::from(estimate_us);
    }

    /// For a task that was here before, or that should run before those that arrived earlier.
    pub(super) fn push_front(&mut self, priority: i32, task: TaskId, estimate_us: u32) {
        self.levels.entry(Reverse(priority)).or_default().push_front((task, estimate_us));
        self.len += 1;
        self.estimate_us += u64::from(estimate_us);
    }

    pub(super) fn pop_front(&mut self) -> Option<TaskId> {
        let mut level = self.levels.first_entry()?;
        let popped = level.get_mut().pop_front();
        if level.get().is_empty() {
            level.remove();
        }
        self.take(popped)
    }

    pub(super) fn pop_back(&mut self) -> Option<TaskId> {
        let mut level = self.levels.last_entry()?;
        let popped = level.get_mut().pop_back();
        if level.get().is_empty() {
            level.remove();
        }
        self.take(popped)
    }

    fn take(&mut self, popped: Option<(TaskId, u32)>) -> Option<TaskId> {
        let (task, estimate_us) = popped?;
        self.len -= 1;
        self.estimate_us -= u64::from(estimate_us);
        Some(task)
    }
}
