//! From a process that was just started to a rank, a client or a local cluster, and to the end of it.
//!
//! ```text
//! role (environment) ─► meet (mpi or files) ─► lead (rank 0: scheduler, driver) ─► ending ─► exit code
//!                                          └─► follow (other ranks: worker)
//! ```
//!
//! [`role`] reads the launcher, [`meet`] brings the ranks together, [`ending`] decides how it all ends. Start with
//! [`role`].

pub mod code_file;
pub mod driver;
pub mod ending;
pub mod entry;
pub mod exit;
pub mod files;
pub mod follow;
pub mod guard;
pub mod lead;
pub mod leftovers;
pub mod local;
pub mod log;
pub mod main_thread;
pub mod meet;
pub mod memory;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod offer;
mod outcome;
pub mod output;
pub mod process;
pub mod ranks;
pub mod role;
pub mod scheduler;
pub mod signals;
pub mod sweep;
#[cfg(feature = "mpi")]
mod watchdog;
pub mod way;

pub use crate::model::error::with_causes;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::registry::RegistryError;
use crate::security::FindError;
use crate::topology::TopologyError;

pub use entry::{main_async, main_blocking};
pub use exit::Exit;
pub use local::{LocalCluster, LocalOptions, WorkerKind};
pub use outcome::Outcome;

/// How long an ending may take in all, from its cause to the last rank.
pub const ENDING_MAX: Duration = Duration::from_secs(9);
/// How long `MPI_Finalize` may take on a rank that has only heard of the end.
pub const FINALIZE_MAX: Duration = Duration::from_secs(5);

/// Why the ranks of a launch did not become a cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The machine cannot be read.
    #[error("cannot find out which cores this rank may use")]
    Topology(#[from] TopologyError),
    /// The directory in which ranks meet is not usable.
    #[error(
        "the ranks cannot meet in {}: set DCLUSTER_RUN_DIR to a directory that all nodes share and only you can enter",
        directory.display()
    )]
    Directory {
        /// Which one.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no directory in which ranks could meet.
    #[error("the ranks have nowhere to meet")]
    Nowhere(#[source] FindError),
    /// Other ranks did not come.
    #[error(
        "rank {rank} waited in {} and did not hear from rank {missing}: check that all nodes share this directory, or \
         set DCLUSTER_RUN_DIR to one that they share; DCLUSTER_LAUNCH_TIMEOUT sets the seconds to wait",
        directory.display()
    )]
    Missing {
        /// Where they meet.
        directory: PathBuf,
        /// Who waited.
        rank: u32,
        /// Who did not come.
        missing: String,
    },
    /// MPI does not do what it should.
    #[error("MPI does not start: {reason}")]
    Mpi {
        /// What the library said.
        reason: String,
    },
    /// Another rank said something that makes no sense.
    #[error("the ranks do not understand each other ({reason}): start the same program on every rank")]
    Nonsense {
        /// What does not fit.
        reason: String,
    },
    /// The scheduler cannot listen.
    #[error("the scheduler cannot listen")]
    Listen(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection file cannot be written.
    #[error("cannot publish the connection file: {0}")]
    ConnectionFile(String),
    /// The task table or a task library is of no use.
    #[error("cannot set up the tasks")]
    Tasks(#[from] RegistryError),
    /// No rank has tasks that it can run.
    #[error("no rank can work: {reasons}")]
    NoWorker {
        /// Why each is turned away.
        reasons: String,
    },
    /// Signal handlers or threads cannot be set up.
    #[error("cannot set up this process")]
    Process(#[from] io::Error),
}

impl LaunchError {
    pub(crate) fn nonsense(reason: impl ToString) -> Self {
        Self::Nonsense { reason: reason.to_string() }
    }
}
