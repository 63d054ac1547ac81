//! The names of things: one newtype per kind of id, so that no two can be mixed up.
//!
//! A client names its references by [`FutureId`], people and purity by [`Key`]; the scheduler and the workers
//! speak of a [`TaskId`], which is dense so that tables are arrays.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One client connection, counted by the scheduler from 0 and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct ClientId(pub u32);

/// One worker process, counted by the scheduler from 0 and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct WorkerId(pub u32);

/// One reference that a client holds, counted by that client from 0 and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct FutureId(pub u32);

/// A task function: the hash of its path and signature, the same in every process that links it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct FunctionId(pub u64);

/// The identity of a result: equal keys are the same task.
///
/// A pure call's key is a 128-bit hash of its function and arguments, a named call's the hash of its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key(pub u128);

/// A task in the scheduler's table: the slot in the low 32 bits, the slot's generation in the high 32.
///
/// A slot is reused when its task is forgotten; the generation keeps late messages about the former task
/// apart from its successor.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId(pub u64);

impl Key {
    /// The key as people see it: the function's last name and the first digits, `inc-1f0c2d3e`.
    pub fn shown(self, function: &str) -> String {
        format!("{}-{:08x}", last_name(function), (self.0 >> 96) as u32)
    }

    /// The key with all its digits, as a future has it.
    pub fn in_full(self, function: &str) -> String {
        format!("{}-{self}", last_name(function))
    }
}

fn last_name(path: &str) -> &str {
    path.rsplit("::").next().unwrap_or(path)
}

impl TaskId {
    /// The id of the task in `slot` in its `generation`-th use.
    pub const fn new(slot: u32, generation: u32) -> Self {
        Self((generation as u64) << 32 | slot as u64)
    }

    /// The index in the task table.
    pub const fn slot(self) -> u32 {
        self.0 as u32
    }

    /// How many tasks had this slot before.
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client-{}", self.0)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker-{}", self.0)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task-{}.{}", self.slot(), self.generation())
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
