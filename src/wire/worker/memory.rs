//! What a worker says of its memory.

use serde::{Deserialize, Serialize};

/// Whether a worker may start tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Pressure {
    /// As many as it has threads.
    #[default]
    Open,
    /// One at a time: its memory is nearly full.
    Paused,
    /// One at a time, and only such as have inputs: its memory is full, and its disk takes nothing.
    Full,
}

/// What a worker's memory is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemoryMetrics {
    /// Bytes of the process's own memory, which only swap could take, that are not those of values: working memory of
    /// tasks, what was not given back.
    pub unmanaged_bytes: u64,
    /// Bytes of values on their way to the worker, from peers or from its disk.
    pub arriving_bytes: u64,
    /// Bytes of values that it has mapped in memory of other processes of its host, which account for them.
    pub lent_bytes: u64,
    /// Bytes of values that are on its disk only.
    pub spilled_bytes: u64,
    /// How many those are.
    pub spilled_values: u64,
    /// All bytes of values that it ever wrote to disk.
    pub written_bytes: u64,
    /// All bytes of values that it ever read from there.
    pub read_bytes: u64,
    /// The most bytes of values that it ever had in memory.
    pub managed_bytes_peak: u64,
    /// Whether it pauses.
    pub pressure: Pressure,
    /// Whether its disk takes nothing.
    pub is_disk_failing: bool,
}
