//! Ranks that meet through MPI; the only file of the launch that names it.
//!
//! The main thread initialises MPI (`MPI_THREAD_FUNNELED`) and is the only one to call it. After the meeting it never
//! blocks in MPI: an idle rank must not poll. `MPI_Finalize` is called on the clean path only, under a watchdog.

use std::thread;
use std::time::Duration;

use mpi::collective::CommunicatorCollectives as _;
use mpi::datatype::PartitionMut;
use mpi::environment::Universe;
use mpi::topology::{Communicator as _, SimpleCommunicator};
use mpi::{Count, Threading};

use super::LaunchError;
use super::exit;
use super::meet::Meeting;

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

    /// `MPI_Finalize`, which waits for all other ranks; the process ends with `code` if that takes longer than `bound`.
    pub fn finalize(self, bound: Duration, code: i32) {
        let watchdog = thread::Builder::new().name("finalize-watchdog".to_owned()).spawn(move || {
            thread::sleep(bound);
            tracing::debug!("MPI_Finalize did not return; leaving without it");
            exit::at_once(code)
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
        let length = Count::try_from(mine.len()).map_err(LaunchError::nonsense)?;
        let mut lengths: Vec<Count> = vec![0; self.ranks() as usize];
        self.communicator.all_gather_into(&length, &mut lengths[..]);
        let ends: Vec<Count> = lengths
            .iter()
            .scan(0, |end: &mut Count, length| {
                *end += length;
                Some(*end)
            })
            .collect();
        let starts: Vec<Count> = ends.iter().zip(&lengths).map(|(end, length)| end - length).collect();
        let mut all = vec![0u8; ends.last().copied().unwrap_or(0) as usize];
        {
            let mut parts = PartitionMut::new(&mut all[..], &lengths[..], &starts[..]);
            self.communicator.all_gather_varcount_into(mine, &mut parts);
        }
        let part = |(start, end): (&Count, &Count)| all[*start as usize..*end as usize].to_vec();
        Ok(starts.iter().zip(&ends).map(part).collect())
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("rank", &self.communicator.rank()).finish_non_exhaustive()
    }
}
