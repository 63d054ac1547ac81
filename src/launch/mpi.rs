//! Ranks that meet through MPI; the only file of the launch that names it.
//!
//! The main thread initialises MPI (`MPI_THREAD_FUNNELED`) and is the only one to call it. After the meeting it never
//! blocks in MPI: an idle rank must not poll. `MPI_Finalize` is called on the clean path only, under a watchdog.
//!
//! The ranks exchange what they know along a tree, child to parent and back. The library's own `MPI_Allgather` has pairs
//! of ranks send to each other at the same moment; over TCP both then connect, and Open MPI 4.1 at times drops both
//! connections (once in some 200 starts) and waits for ever.

use std::fs;
use std::time::Duration;

use mpi::environment::Universe;
use mpi::point_to_point::{Destination as _, Source as _};
use mpi::topology::{Communicator as _, Process, SimpleCommunicator};
use mpi::{Rank, Threading};
use serde_bytes::ByteBuf;

use super::LaunchError;
use super::exit;
use super::meet::Meeting;
use super::watchdog::Watchdog;
use crate::topology;

/// Settings of Open MPI on any machine: no copies by CMA, which take the reader down when the other end dies in the
/// middle of one; crashes are reported by Rust; and what UCX has to say, which it does at the end of good runs as well, is
/// not mixed with what a driver prints.
const ALWAYS: [(&str, &str); 4] = [
    ("OMPI_MCA_btl_vader_single_copy_mechanism", "none"),
    ("UCX_LOG_LEVEL", "error"),
    ("UCX_LOG_FILE", "stderr"),
    ("UCX_ERROR_SIGNALS", ""),
];
/// With a fabric, the rest is as its administrators have it.
const WITH_FABRIC: [(&str, &str); 1] = [("UCX_TLS", "^cma")];
/// Without one, UCX wherever this Open MPI has it. Its own TCP transport breaks down on a message to a rank that is still
/// in `MPI_Init`, which happens under srun (once in some 250 starts of four ranks), and when a rank dies in the middle of
/// a transfer. (Debian excludes UCX by name; excluding the component `v`, which carries nothing, lets it in again, and
/// leaves the choice to Open MPI where there is none.)
const WITHOUT_FABRIC: [(&str, &str); 4] = [
    ("OMPI_MCA_pml", "^v"),
    ("OMPI_MCA_pml_ucx_tls", "any"),
    ("OMPI_MCA_pml_ucx_devices", "any"),
    ("UCX_TLS", "posix,tcp,self"),
];
/// Where Linux lists the adapters of fabrics: InfiniBand, Omni-Path, EFA; Slingshot.
const FABRIC_ADAPTERS: [&str; 2] = ["/sys/class/infiniband", "/sys/class/cxi"];

/// What the MPI library is, and what the environment tells it, among what dcluster sets.
pub fn library_and_settings() -> String {
    let all = ALWAYS.iter().chain(&WITHOUT_FABRIC);
    let settings = all.filter_map(|(name, _)| Some(format!("{name}={}", std::env::var(name).ok()?)));
    [library()].into_iter().chain(settings).collect::<Vec<_>>().join(" ")
}

/// Makes settings that suit dcluster, where the user has made none. First thing in `main`, before any thread.
pub fn set_defaults() {
    if !is_open_mpi() {
        return;
    }
    let has_adapter = |folder: &str| fs::read_dir(folder).is_ok_and(|mut adapters| adapters.next().is_some());
    let of_network = match FABRIC_ADAPTERS.into_iter().any(has_adapter) {
        true => &WITH_FABRIC[..],
        false => &WITHOUT_FABRIC[..],
    };
    let all = ALWAYS.iter().chain(of_network).copied();
    if let Err(error) = topology::set_environment(all.filter(|(name, _)| std::env::var_os(name).is_none())) {
        tracing::debug!(%error, "the settings of Open MPI are left as they are");
    }
}

/// MPI, initialised by this thread.
pub struct World {
    universe: Universe,
    communicator: SimpleCommunicator,
}

impl World {
    /// Initialises MPI.
    ///
    /// # Errors
    /// [`LaunchError::Mpi`] if it was initialised before, or grants no threads beside the caller.
    pub fn initialize() -> Result<Self, LaunchError> {
        let failed = |reason: String| LaunchError::Mpi { reason };
        let (universe, granted) = mpi::initialize_with_threading(Threading::Funneled)
            .ok_or_else(|| failed("MPI was initialised before dcluster".to_owned()))?;
        if granted < Threading::Funneled {
            return Err(failed(format!("the library grants {granted:?} and dcluster needs Funneled")));
        }
        let communicator = universe.world();
        Ok(Self { universe, communicator })
    }

    /// How many ranks MPI sees; fewer than were launched if library and launcher do not speak the same PMI.
    pub fn ranks(&self) -> u32 {
        u32::try_from(self.communicator.size()).unwrap_or(0)
    }

    /// `MPI_COMM_WORLD`.
    pub fn communicator(&self) -> &SimpleCommunicator {
        &self.communicator
    }

    /// `MPI_Finalize`, which waits for all other ranks; the process ends with `code` if that takes longer than `bound`.
    pub fn finalize(self, bound: Duration, code: i32) {
        let watchdog = Watchdog::start(bound, code, || {
            tracing::debug!("MPI_Finalize did not return; leaving without it");
        });
        if watchdog.is_err() {
            exit::at_once(code);
        }
        drop(self.universe);
    }
}

/// What the MPI library says it is, on one line.
pub fn library() -> String {
    let text = mpi::environment::library_version().unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    line.split(", ").take(2).collect::<Vec<_>>().join(", ").trim().trim_end_matches('\0').to_owned()
}

/// Whether the library is Open MPI, which does not start under a PMI that it was not built with.
pub fn is_open_mpi() -> bool {
    library().contains("Open MPI")
}

impl Meeting for World {
    fn rank(&self) -> u32 {
        u32::try_from(self.communicator.rank()).unwrap_or(0)
    }

    fn size(&self) -> u32 {
        self.ranks()
    }

    fn all_gather(&mut self, _topic: &str, mine: &[u8]) -> Result<Vec<Vec<u8>>, LaunchError> {
        let (rank, size) = (self.rank(), self.size());
        let mut subtree = vec![ByteBuf::from(mine)];
        for child in children(rank, size) {
            let (packed, _) = self.peer(child).receive_vec::<u8>();
            subtree.extend(decode(&packed)?);
        }
        let mut all = rmp_serde::to_vec(&subtree).map_err(LaunchError::nonsense)?;
        if let Some(parent) = parent(rank) {
            self.peer(parent).send(&all[..]);
            all = self.peer(parent).receive_vec::<u8>().0;
        }
        for child in children(rank, size) {
            self.peer(child).send(&all[..]);
        }
        Ok(decode(&all)?.into_iter().map(ByteBuf::into_vec).collect())
    }
}

impl World {
    fn peer(&self, rank: u32) -> Process<'_> {
        self.communicator.process_at_rank(rank as Rank)
    }
}

/// The rank to which this one reports in a binomial tree; None for rank 0.
fn parent(rank: u32) -> Option<u32> {
    (rank > 0).then(|| rank & (rank - 1))
}

/// The ranks that report to this one. The subtrees of rank and children, one after the other, are ranks in their order.
fn children(rank: u32, size: u32) -> impl Iterator<Item = u32> {
    let branches = if rank == 0 { u32::BITS } else { rank.trailing_zeros() };
    (0..branches)
        .map_while(move |branch| rank.checked_add(1 << branch))
        .take_while(move |child| *child < size)
}

fn decode(packed: &[u8]) -> Result<Vec<ByteBuf>, LaunchError> {
    rmp_serde::from_slice(packed).map_err(LaunchError::nonsense)
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("rank", &self.communicator.rank()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ranks of a subtree, in the order in which they are handed on.
    fn subtree(rank: u32, size: u32) -> Vec<u32> {
        std::iter::once(rank).chain(children(rank, size).flat_map(|child| subtree(child, size))).collect()
    }

    #[test]
    fn the_tree_has_every_rank_once_and_in_order() {
        for size in 1..70 {
            assert_eq!(subtree(0, size), (0..size).collect::<Vec<_>>());
            for rank in 0..size {
                assert!(children(rank, size).all(|child| parent(child) == Some(rank)));
            }
        }
    }
}
