//! The records of the core: a task, a value, and the tables they are in.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use smallvec::SmallVec;

use super::effects::ThreadId;
use super::loans::Owner;
use super::memory::Ticket;
use super::queue::Entry;
use crate::model::TaskId;
use crate::wire::worker::Caution;

/// A table by task. Never iterated outside `check`.
pub(super) type Table<V> = HashMap<TaskId, V, BuildHasherDefault<TaskHasher>>;

/// An assigned task.
#[derive(Debug)]
pub(super) struct Task<J> {
    /// Position among all assignments; tells this assignment from others of the same task.
    pub(super) arrival: u64,
    pub(super) priority: i32,
    pub(super) has_inputs: bool,
    pub(super) caution: Caution,
    /// The inputs that did not come with the assignment; emptied at the start.
    pub(super) inputs: SmallVec<[TaskId; 2]>,
    /// Those of them that nobody else wants.
    pub(super) last_uses: SmallVec<[TaskId; 1]>,
    pub(super) state: TaskState<J>,
}

/// Where a task is in its life.
#[derive(Debug)]
pub(super) enum TaskState<J> {
    /// `missing` inputs are not here.
    Waiting { missing: u32, job: J },
    /// In the ready queue.
    Queued { job: J },
    /// Next on a thread, as soon as that is written.
    Announced { thread: ThreadId, job: J },
    /// On a thread.
    Running { thread: ThreadId },
    /// On a thread, and nobody wants the result.
    Abandoned { thread: ThreadId },
}

/// A task that waits for a value: stale if the task's record has another arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) task: TaskId,
    pub(super) arrival: u64,
}

/// A value that is here, in memory or on disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Inputs of tasks that have not started.
    pub(super) users: u32,
    pub(super) lifetime: Lifetime,
    pub(super) form: Form,
    pub(super) owner: Owner,
    /// Whether it is on disk, besides where it is otherwise.
    pub(super) has_file: bool,
    /// Its packed size; 0 for a small result, which is not accounted for.
    pub(super) nbytes: u64,
    /// Its place in the line of those that may go to disk; 0 for none.
    pub(super) stamp: u64,
}

/// Where a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// In memory.
    Memory,
    /// In memory, and being written to disk.
    Leaving,
    /// On disk only.
    Disk,
    /// On disk, and a task waits for it.
    Wanted,
    /// Being read from disk.
    Returning(Ticket),
}

impl Held {
    pub(super) fn new(users: u32, lifetime: Lifetime, nbytes: u64) -> Self {
        Self { users, lifetime, form: Form::Memory, owner: Owner::Worker, has_file: false, nbytes, stamp: 0 }
    }

    /// Whether tasks can use it as it is.
    #[inline]
    pub(super) fn is_here(&self) -> bool {
        matches!(self.form, Form::Memory | Form::Leaving)
    }

    /// Whether it may go to disk.
    pub(super) fn may_leave(&self) -> bool {
        self.users == 0
            && self.form == Form::Memory
            && self.owner == Owner::Worker
            && self.lifetime == Lifetime::UntilFreed
    }
}

/// How long a value is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// Until the scheduler says `free`.
    UntilFreed,
    /// Until enough small results came after it and the last task that uses it has started.
    Recent,
    /// Until the last task that uses it has started.
    WhileUsed,
}

impl<J> Task<J> {
    pub(super) fn thread(&self) -> Option<ThreadId> {
        match self.state {
            TaskState::Waiting { .. } | TaskState::Queued { .. } => None,
            TaskState::Announced { thread, .. }
            | TaskState::Running { thread }
            | TaskState::Abandoned { thread } => Some(thread),
        }
    }

    pub(super) fn is_abandoned(&self) -> bool {
        matches!(self.state, TaskState::Abandoned { .. })
    }

    pub(super) fn entry(&self, task: TaskId) -> Entry {
        Entry { priority: self.priority, has_inputs: self.has_inputs, arrival: self.arrival, task }
    }

    /// One input less is missing. True when that was the last; the task is queued then.
    pub(super) fn supply(&mut self) -> bool {
        let TaskState::Waiting { missing, .. } = &mut self.state else {
            unreachable!("only waiting tasks have inputs missing")
        };
        *missing -= 1;
        if *missing > 0 {
            return false;
        }
        // The thread is a stand-in for the moment between taking the job out and putting it back.
        let state = std::mem::replace(&mut self.state, TaskState::Abandoned { thread: ThreadId(0) });
        if let TaskState::Waiting { job, .. } = state {
            self.state = TaskState::Queued { job };
        }
        true
    }
}

/// Spreads task ids, which count up, over a table.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct TaskHasher(u64);

impl Hasher for TaskHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    #[inline]
    fn write_u64(&mut self, value: u64) {
        // 2^64 over the golden ratio; the table takes its bits from both ends.
        let mixed = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}
