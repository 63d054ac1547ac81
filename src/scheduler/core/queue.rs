//! A queue of ready tasks: higher priority first, then first come, first served.
//!
//! Entries are ids, so a task that stops being ready is simply not found when its turn comes.

use std::cmp::Reverse;
use std::collections::btree_map::OccupiedEntry;
use std::collections::{BTreeMap, VecDeque};

use crate::model::TaskId;

/// Ready tasks with their estimated run times.
#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    /// Priority 0, which nearly all tasks have.
    usual: Level,
    /// All other priorities that there are.
    others: BTreeMap<Reverse<i32>, Level>,
    len: usize,
    estimate_us: u64,
}

type Level = VecDeque<(TaskId, u32)>;

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

    /// Entries, stale ones included.
    pub(super) fn iter(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.others.values().flatten().chain(&self.usual).map(|(task, _)| *task)
    }

    #[inline]
    pub(super) fn push_back(&mut self, priority: i32, task: TaskId, estimate_us: u32) {
        self.level(priority).push_back((task, estimate_us));
        self.len += 1;
        self.estimate_us += u64::from(estimate_us);
    }

    /// For a task that was here before, or that should run before those that arrived earlier.
    #[inline]
    pub(super) fn push_front(&mut self, priority: i32, task: TaskId, estimate_us: u32) {
        self.level(priority).push_front((task, estimate_us));
        self.len += 1;
        self.estimate_us += u64::from(estimate_us);
    }

    /// The priority of the entry at the front.
    pub(super) fn first_priority(&self) -> Option<i32> {
        let usual = if self.usual.is_empty() { None } else { Some(0) };
        let other = self.others.first_key_value().map(|(priority, _)| priority.0);
        usual.max(other)
    }

    #[inline]
    pub(super) fn pop_front(&mut self) -> Option<TaskId> {
        let popped = match self.others.first_entry() {
            Some(level) if level.key().0 > 0 || self.usual.is_empty() => pop(level, Level::pop_front),
            _ => self.usual.pop_front(),
        };
        self.take(popped)
    }

    /// Takes all entries, in the order of their turns.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = TaskId> + use<> {
        let mut drained = std::mem::take(self);
        std::iter::from_fn(move || drained.pop_front())
    }

    pub(super) fn pop_back(&mut self) -> Option<TaskId> {
        let popped = match self.others.last_entry() {
            Some(level) if level.key().0 < 0 || self.usual.is_empty() => pop(level, Level::pop_back),
            _ => self.usual.pop_back(),
        };
        self.take(popped)
    }

    #[inline]
    fn level(&mut self, priority: i32) -> &mut Level {
        match priority {
            0 => &mut self.usual,
            other => self.others.entry(Reverse(other)).or_default(),
        }
    }

    #[inline]
    fn take(&mut self, popped: Option<(TaskId, u32)>) -> Option<TaskId> {
        let (task, estimate_us) = popped?;
        self.len -= 1;
        self.estimate_us -= u64::from(estimate_us);
        Some(task)
    }
}

/// Takes an entry of a level; without any more, the level goes.
fn pop(
    mut level: OccupiedEntry<'_, Reverse<i32>, Level>,
    end: impl Fn(&mut Level) -> Option<(TaskId, u32)>,
) -> Option<(TaskId, u32)> {
    let popped = end(level.get_mut());
    if level.get().is_empty() {
        level.remove();
    }
    popped
}
