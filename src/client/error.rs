//! What can go wrong between a program and its cluster, in words for whoever wrote the program.
//!
//! [`Error`] is what every call of the client returns; inside the client an outcome is a [`Failure`], which
//! becomes an `Error` when the future that asks has a name to put into it.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::model::error::TaskError;

/// The result of asking a cluster.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call to the cluster has no result.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum Error {
    /// The task failed, or one that it needs.
    #[error(transparent)]
    Task(Arc<TaskError>),
    /// The future was cancelled.
    #[error("`{key}` was cancelled: {reason}")]
    Cancelled {
        /// Which one.
        key: String,
        /// What whoever cancelled it gave as the reason.
        reason: Arc<str>,
    },
    /// Time ran out.
    #[error("{left} of {total} futures were not done within {after:?}")]
    Timeout {
        /// How many were not done.
        left: usize,
        /// How many were waited for.
        total: usize,
        /// For how long.
        after: Duration,
    },
    /// Fewer workers than wanted are there.
    #[error(
        "{joined} of {wanted} workers were there after {after:?}; the log of the launch says what keeps the others"
    )]
    Workers {
        /// How many are there.
        joined: usize,
        /// How many were waited for.
        wanted: usize,
        /// For how long.
        after: Duration,
    },
    /// The connection broke.
    #[error(
        "lost the scheduler at {address}: {reason}; see whether its job still runs (`squeue`, or the terminal of \
         `mpirun`) and what the log of rank 0 ends with"
    )]
    Lost {
        /// The scheduler's.
        address: Arc<str>,
        /// What the connection said.
        reason: Arc<str>,
    },
    /// The connection broke and could not be made again in time.
    #[error(
        "the connection to the scheduler at {address} was lost for {away:.1?}: {reason}; the lease of {lease:?} has \
         expired and this client's futures are gone; connect again and submit what is still wanted"
    )]
    LeaseExpired {
        /// The scheduler's.
        address: Arc<str>,
        /// For how long there was no connection.
        away: Duration,
        /// For how long the scheduler kept what the client held.
        lease: Duration,
        /// What the connection said when it broke, or the scheduler when the client came back.
        reason: Arc<str>,
    },
    /// The cluster took leave.
    #[error("the cluster at {address} has ended: {reason}")]
    Ended {
        /// The scheduler's.
        address: Arc<str>,
        /// What it gave as the reason.
        reason: Arc<str>,
    },
    /// The client was closed.
    #[error("the client of {address} is closed; connect again to go on")]
    Closed {
        /// The scheduler's.
        address: Arc<str>,
    },
    /// A future was given to a client that does not know it.
    #[error("`{key}` is a future of another client; gather it there, or submit the call to that client")]
    Foreign {
        /// Which one.
        key: String,
    },
    /// A collection's expression makes no sense.
    #[error("{0}")]
    Expression(Arc<str>),
    /// A value has no packed form.
    #[error("{0}")]
    Pack(Arc<str>),
    /// The result is not of the type that the future promises.
    #[error("the result of `{key}` is not a `{wanted}`: {reason}; are both ends of the same build?")]
    Unpack {
        /// Which one.
        key: String,
        /// The type.
        wanted: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// No holder handed a result out.
    #[error("could not fetch the result of `{key}` (attempts: {attempts}): {reason}")]
    Fetch {
        /// Which one.
        key: String,
        /// How often it was tried.
        attempts: u32,
        /// What each holder said the last time.
        reason: String,
    },
    /// A value could not be scattered.
    #[error("could not scatter to {worker}: {reason}")]
    Scatter {
        /// The worker and its address.
        worker: String,
        /// What went wrong.
        reason: String,
    },
    /// The scheduler could not answer, or could not do all that was asked.
    #[error("`{question}` failed: {reason}")]
    Refused {
        /// What was asked.
        question: &'static str,
        /// In its own words.
        reason: String,
    },
    /// No connection came about.
    #[error("{0}")]
    Connect(Arc<str>),
    /// Input or output of the program itself; so that `?` serves for it too.
    #[error("{0}")]
    Io(Arc<std::io::Error>),
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// The unhappy end of a future.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// The task's own.
    Task(Arc<TaskError>),
    /// Somebody cancelled it.
    Cancelled(Arc<str>),
    /// The client's end was the future's: lost, ended or closed.
    Gone(Error),
}

impl Failure {
    /// As the future `key` tells it.
    pub(super) fn of(&self, key: impl FnOnce() -> String) -> Error {
        match self {
            Self::Task(error) => Error::Task(error.clone()),
            Self::Cancelled(reason) => Error::Cancelled { key: key(), reason: reason.clone() },
            Self::Gone(error) => error.clone(),
        }
    }
}
