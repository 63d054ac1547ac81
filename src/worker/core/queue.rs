//! Tasks that can start, in the order in which they should.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::model::TaskId;

/// The queue is swept when it holds this many entries of tasks that are gone, and they are the majority.
const STALE_MAX: usize = 64;

/// The ready queue. An entry of a task that was taken away stays until it comes up or the queue is swept.
#[derive(Debug, Default)]
pub(super) struct ReadyQueue {
    heap: BinaryHeap<Entry>,
    stale: usize,
}

/// A ready task. Greater starts sooner: by priority, then tasks with inputs (they free memory), then the oldest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) priority: i32,
    pub(super) has_inputs: bool,
    pub(super) arrival: u64,
    pub(super) task: TaskId,
}

impl ReadyQueue {
    pub(super) fn push(&mut self, entry: Entry) {
        self.heap.push(entry);
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        self.heap.pop()
    }

    /// Takes the tasks without inputs, and entries of tasks that are gone.
    pub(super) fn take_roots(&mut self) -> impl Iterator<Item = Entry> + use<> {
        let (others, roots): (Vec<Entry>, Vec<Entry>) = self.heap.drain().partition(|entry| entry.has_inputs);
        self.heap = others.into();
        roots.into_iter()
    }

    /// The entry that was popped was of a task that is gone.
    pub(super) fn skipped(&mut self) {
        self.stale -= 1;
    }

    /// A task that is queued is gone; `lives` tells which entries are not.
    pub(super) fn abandon(&mut self, lives: impl Fn(&Entry) -> bool) {
        self.stale += 1;
        if self.stale > STALE_MAX && self.stale * 2 > self.heap.len() {
            self.heap.retain(lives);
            self.stale = 0;
        }
    }

    /// How many tasks are in the queue.
    pub(super) fn len(&self) -> usize {
        self.heap.len() - self.stale
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |entry: &Self| (entry.priority, entry.has_inputs, std::cmp::Reverse(entry.arrival));
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
