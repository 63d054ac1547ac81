//! Where ranks run: what the machine looks like, which share of it each rank gets, and how that is applied.
//!
//! ```text
//! hwloc or /sys ──► Machine ─┐
//!                            ├─► plan ──► Binding per rank ──► apply (affinity, memory policy, threads)
//! launcher's cpusets ────────┘                  └────────────► map (the text of `dcluster topo`)
//! ```
//!
//! Every rank reports the CPUs it was started on ([`allowed_cpus`]); one rank per host discovers the
//! [`Machine`] and calls [`plan`]; each rank then applies its own [`Binding`]. Only `hwloc.rs` knows hwloc, and
//! only `apply.rs` changes the process. Start with [`machine`].

pub mod apply;
pub mod binding;
pub mod cpuset;
mod host;
#[cfg(feature = "hwloc")]
mod hwloc;
pub mod machine;
pub mod map;
mod share;
mod sysfs;
mod verdict;

pub use apply::{allowed_cpus, pin_thread, set_environment, set_thread_environment, thread_environment};
pub use binding::{
    Binding, DecidedBy, MemoryPolicy, RankRequest, RankRole, Sharing, Warning, WarningKind, plan,
};
pub use cpuset::CpuSet;
pub use host::host_name;
pub use machine::{Core, Machine, NumaId, NumaNode, Origin, Package, PackageId};
pub use map::{HostPlacement, RankPlacement, draw};

/// What can go wrong between the machine and a rank's share of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// Neither hwloc nor `/sys` described a single usable core.
    #[error("no usable core found by {method}: {reason}; run `lstopo` to see what this job may use")]
    NoCores {
        /// Who looked: `hwloc` or the `/sys` directory.
        method: String,
        /// What it said.
        reason: String,
    },
    /// A list of CPUs that is not in the kernel's list format.
    #[error("{text:?} is not a list of CPUs such as 0-3,8: {reason}")]
    CpuList {
        /// The text as given.
        text: String,
        /// The first thing wrong with it.
        reason: String,
    },
    /// A description of a machine that is not understood.
    #[error(
        "{text:?} does not describe a machine: {reason}; write for example \"package:2 numa:4 core:16 pu:1\""
    )]
    Synthetic {
        /// The text as given.
        text: String,
        /// The first thing wrong with it.
        reason: String,
    },
    /// The kernel refused to read or change this thread's affinity.
    #[error("cannot {action} CPUs {cpus} for this thread")]
    Affinity {
        /// `read the allowed` or `set the affinity to`.
        action: &'static str,
        /// The CPUs asked for.
        cpus: String,
        /// The kernel's answer.
        #[source]
        source: nix::Error,
    },
    /// The environment can only be changed while one thread runs.
    #[error("{threads} threads run already: set the thread environment first thing in main")]
    ThreadsRunning {
        /// Threads of this process, this one included.
        threads: usize,
    },
}
