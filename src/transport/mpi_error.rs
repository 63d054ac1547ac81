//! Why a value does not come over MPI; the same with MPI and without.

use thiserror::Error;

/// A transfer over MPI did not end well; the lane of TCP still works.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MpiError {
    /// The library says so.
    #[error("MPI failed in a transfer with rank {peer}: {reason}")]
    Failed {
        /// The other end.
        peer: u32,
        /// In the library's words.
        reason: String,
    },
    /// Nothing moved for a while.
    #[error("nothing moved over MPI to or from rank {peer} for {seconds} s")]
    Stalled {
        /// The other end.
        peer: u32,
        /// How long.
        seconds: u64,
    },
    /// The value is larger than this process may hold.
    #[error("it has {bytes} bytes, more than the {bytes_max} that this process may hold")]
    TooLarge {
        /// Its packed size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// This rank is about to end.
    #[error("MPI is no longer served on this rank")]
    Over,
}
