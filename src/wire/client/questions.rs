//! What a client may ask the scheduler.

use serde::{Deserialize, Serialize};

use crate::model::{FutureId, WorkerId};

/// A question that is answered by one `Reply` of the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Workers, tasks by state, clients: `status --json`.
    Status,
    /// Where each rank is bound.
    Topology,
    /// Why a key waits, ran where it ran, holds memory.
    Explain {
        /// A user's name for a key, its display form or its hexadecimal digits.
        key: String,
    },
    /// What happened to a key.
    Story {
        /// As for `Explain`.
        key: String,
    },
    /// The workers that hold each future's value.
    WhoHas {
        /// Futures of this client.
        futures: Vec<FutureId>,
    },
    /// The values that each of these workers holds, with their sizes; of all workers if none is named.
    HasWhat {
        /// Whom to ask about.
        workers: Vec<WorkerId>,
    },
    /// The packed size of each future's value; null while it has none.
    Nbytes {
        /// Futures of this client.
        futures: Vec<FutureId>,
    },
    /// End the cluster, all ranks.
    Stop {
        /// The exit code of the ranks.
        code: i32,
    },
}
