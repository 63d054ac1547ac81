//! Where a call may or should run, and where copies of a value are to be: what a caller says of it.
//!
//! The scheduler reads it; workers never see it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ids::WorkerId;

/// A worker, or all workers of a host, as a caller names them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WorkerName {
    /// By the id that the scheduler gave it.
    Id(WorkerId),
    /// By its rank in the launch.
    Rank(u32),
    /// Every worker of this host.
    Host(String),
}

/// Whether workers that were not named will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Others {
    /// The call runs on a named worker, or not at all.
    #[default]
    Refused,
    /// The call prefers the named workers.
    Allowed,
}

/// Where a call may or should run.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Placement {
    /// On one of these workers.
    On {
        /// Which.
        workers: Vec<WorkerName>,
        /// Whether others will do as well.
        others: Others,
    },
    /// It is part `index` of `of`, which spread over all workers in contiguous runs: it prefers the worker at place
    /// `index · workers / of` in the order of their ranks. Others will do.
    Share {
        /// Counted from 0.
        index: u32,
        /// How many parts there are.
        of: u32,
    },
}

/// How many copies of a value there are to be, and where.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Copies {
    /// On at least so many workers, on different hosts as far as there are enough.
    Number(u32),
    /// On all workers.
    Everywhere,
    /// At least on these.
    On(Vec<WorkerName>),
}

impl Default for Copies {
    /// One.
    fn default() -> Self {
        Self::Number(1)
    }
}

impl From<u32> for Copies {
    fn from(number: u32) -> Self {
        Self::Number(number)
    }
}

impl From<usize> for Copies {
    fn from(number: usize) -> Self {
        Self::Number(u32::try_from(number).unwrap_or(u32::MAX))
    }
}

impl From<i32> for Copies {
    /// Fewer than none are none.
    fn from(number: i32) -> Self {
        Self::Number(u32::try_from(number).unwrap_or(0))
    }
}

impl Placement {
    /// Whether workers that it does not name will do.
    pub fn others(&self) -> Others {
        match self {
            Self::On { others, .. } => *others,
            Self::Share { .. } => Others::Allowed,
        }
    }

    /// The same, where others will do.
    pub fn or_others(self) -> Self {
        match self {
            Self::On { workers, .. } => Self::On { workers, others: Others::Allowed },
            share @ Self::Share { .. } => share,
        }
    }
}

impl From<WorkerId> for WorkerName {
    fn from(id: WorkerId) -> Self {
        Self::Id(id)
    }
}

impl From<&WorkerName> for WorkerName {
    fn from(name: &WorkerName) -> Self {
        name.clone()
    }
}

impl fmt::Display for WorkerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Rank(rank) => write!(f, "rank {rank}"),
            Self::Host(host) => write!(f, "host {host}"),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On { workers, .. } if workers.is_empty() => f.write_str("no worker"),
            Self::On { workers, .. } => {
                for (place, worker) in workers.iter().enumerate() {
                    let before = if place == 0 { "" } else { " or " };
                    write!(f, "{before}{worker}")?;
                }
                Ok(())
            }
            Self::Share { index, of } => write!(f, "the worker of part {index} of {of}"),
        }
    }
}
