//! What a worker measures of itself and reports about once a second: load, memory, and the values that it fetched.

use serde::{Deserialize, Serialize};

use super::MemoryMetrics;
use crate::model::{TaskId, WorkerId};

/// What a worker measures of itself, every second or so while anything changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Metrics {
    /// Resident set of the process.
    pub resident_bytes: u64,
    /// Bytes of stored values that are in its memory.
    pub managed_bytes: u64,
    /// Values stored.
    pub values: u64,
    /// Tasks that are running.
    pub running: u32,
    /// Tasks that wait for a thread or an input.
    pub queued: u32,
    /// User and system time of the process, in microseconds.
    pub cpu_us: u64,
    /// Values that it fetched from others.
    pub received: Received,
    /// What its memory is used for.
    pub memory: MemoryMetrics,
}

/// Values that a worker fetched, by the lane that they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Received {
    /// Over TCP.
    pub tcp: Traffic,
    /// Over MPI.
    pub mpi: Traffic,
    /// Mapped in the memory of another process of the host.
    pub shm: Traffic,
}

/// What came over one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// How many values.
    pub values: u64,
    /// Their packed size in bytes.
    pub bytes: u64,
    /// From each request to its last byte, in microseconds, added up.
    pub us: u64,
}

impl Traffic {
    /// Adds a value.
    pub fn add(&mut self, bytes: u64, us: u64) {
        (self.values, self.bytes, self.us) = (self.values + 1, self.bytes + bytes, self.us + us);
    }
}

/// A large value that a worker fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Its name.
    pub task: TaskId,
    /// Where it came from.
    pub from: WorkerId,
    /// The lane it took, as people call it.
    pub lane: String,
    /// Its packed size.
    pub bytes: u64,
    /// From the request to the last byte, in microseconds.
    pub us: u64,
    /// How long before this report it was here, in microseconds.
    pub ago_us: u64,
}
