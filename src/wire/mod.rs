//! What crosses a connection: columnar batches and the messages made of them.
//!
//! [`columns`] packs integers and byte strings; [`client`] holds the messages between a client and the
//! scheduler, [`worker`] those between a worker and the scheduler. A sender appends messages one by one; runs
//! of the same kind become one batch, and the order of messages is the order on the wire.

mod batch;
pub mod client;
pub mod columns;
pub mod frame;
pub mod handshake;
pub mod peer;
pub mod resume;
#[cfg(test)]
mod tests;
pub mod worker;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::peer::HostKey;
use crate::model::WorkerId;
pub use batch::Outbox;

/// A worker, as others reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its id.
    pub worker: WorkerId,
    /// `host:port` of its data port.
    pub address: String,
    /// Its rank in `MPI_COMM_WORLD`, if it serves MPI.
    pub mpi_rank: Option<u32>,
    /// Where its memory can be mapped, if it may.
    pub shm: Option<HostKey>,
}

/// A message that a peer sent and that makes no sense; the connection it came on is closed.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum WireError {
    /// A column ended before the batch did.
    #[error("column `{column}` ends too early")]
    Truncated {
        /// The column's name.
        column: &'static str,
    },
    /// A value is outside its range.
    #[error("column `{column}` holds the value {value}, which is out of range")]
    OutOfRange {
        /// The column's name.
        column: &'static str,
        /// What was read.
        value: u64,
    },
    /// Bytes are left over when the batch is complete.
    #[error("column `{column}` has {bytes} bytes too many")]
    Trailing {
        /// The column's name.
        column: &'static str,
        /// How many are left.
        bytes: usize,
    },
    /// The body is not the msgpack of its message.
    #[error("malformed `{message}` message: {reason}")]
    Malformed {
        /// The message's name.
        message: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// No message has this opcode.
    #[error("opcode {0} is not known in this direction")]
    UnknownOpcode(u8),
}
