//! By which way the ranks of a launch meet: over MPI where library and launcher fit together, else through files.
//!
//! A launcher and an MPI library that do not speak the same PMI give N processes that each believe to be alone. That is
//! detected here, said once, and answered by meeting through files.

use std::path::PathBuf;
use std::time::Duration;

#[cfg(feature = "mpi")]
use super::exit::Exit;
use super::files::{self, FileMeeting};
use super::meet::Meeting;
use super::role::{Environment, Launch, Launcher};
#[cfg(feature = "mpi")]
use super::watchdog::Watchdog;
use super::{LaunchError, process};
use crate::security::Surroundings;
use crate::transport::mpi::{MpiLane, Order, Progress, Raw};
use crate::transport::shm;
use crate::wire::peer::HostKey;

/// Seconds that ranks wait for each other.
pub const TIMEOUT: &str = "DCLUSTER_LAUNCH_TIMEOUT";
/// `off` has values travel over TCP between ranks, too.
pub const MPI_LANE: &str = "DCLUSTER_MPI_LANE";
/// `off` has values travel on another lane between processes of one host, too.
pub const SHM_LANE: &str = "DCLUSTER_SHM_LANE";
/// How much longer other ranks wait than rank 0, which says what is wrong and whose end ends them.
#[cfg(feature = "mpi")]
const OTHERS_GRACE: Duration = Duration::from_secs(5);

/// What processes of this host have in common that map each other's values, unless the user wants none to.
pub fn shm_lane(env: &Environment) -> Option<HostKey> {
    is_wanted(env, SHM_LANE).then(shm::host_key)?
}

fn is_wanted(env: &Environment, lane: &str) -> bool {
    env.get(lane).is_none_or(|choice| choice != "off")
}

/// A way to meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Over MPI.
    Mpi,
    /// Through files.
    Files,
}

/// What is known of the MPI library before it is initialised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// This program was built without MPI.
    Absent,
    /// Open MPI, which ends the process if Slurm offers it only PMI 2.
    OpenMpi,
    /// MPICH or one of its kin.
    Other,
}

impl Library {
    /// The library of this program.
    pub fn own() -> Self {
        #[cfg(feature = "mpi")]
        return if super::mpi::is_open_mpi() { Self::OpenMpi } else { Self::Other };
        #[cfg(not(feature = "mpi"))]
        Self::Absent
    }
}

/// What the user should know about a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remark {
    /// How it is.
    Note(&'static str),
    /// What may not be meant.
    Warning(&'static str),
}

/// The way to try, and what the user should know about it.
///
/// Without any PMI there is nobody whom `MPI_Init` could ask, and Open MPI ends the process there; so only variables
/// of a PMI lead to MPI.
pub fn choose(launch: &Launch, library: Library, env: &Environment) -> (Way, Option<Remark>) {
    if let Some(way) = env.get(process::MEETING) {
        return (if way == "mpi" { Way::Mpi } else { Way::Files }, None);
    }
    let in_step = env.contains_key("SLURM_STEP_ID") || env.contains_key("SLURM_STEPID");
    match (launch.launcher, library) {
        (_, Library::Absent) => (Way::Files, None),
        (Launcher::Slurm, _) => {
            let text = "srun offers no PMI: the ranks meet without MPI, and large values go over shared \
                        memory or TCP; the cluster \
                        outlives a lost rank if srun does (--kill-on-bad-exit=0)";
            (Way::Files, Some(Remark::Note(text)))
        }
        (Launcher::Pmi, Library::OpenMpi) if in_step && !env.contains_key("PMIX_RANK") => {
            let text = "srun offers PMI 2 and this Open MPI speaks PMIx: large values go over shared memory or TCP; \
                        use srun --mpi=pmix for MPI, or --mpi=none to do without it";
            (Way::Files, Some(Remark::Warning(text)))
        }
        (Launcher::Pmix, _) if in_step => {
            let text = "srun --mpi=pmix ends all ranks when one dies; to outlive that, use launchers/mpirun.sh inside \
                        the job, or srun --mpi=none --kill-on-bad-exit=0";
            (Way::Mpi, Some(Remark::Note(text)))
        }
        _ => (Way::Mpi, None),
    }
}

/// The ranks of a launch, met; over MPI with the world they share.
#[derive(Debug)]
pub struct Met {
    /// Until the ranks have met over MPI, whose calls return when it pleases.
    #[cfg(feature = "mpi")]
    watchdog: Option<Watchdog>,
    files: Option<FileMeeting>,
    #[cfg(feature = "mpi")]
    world: Option<super::mpi::World>,
}

impl Met {
    /// Enters the meeting of `launch`; on the main thread, before any other runs.
    ///
    /// # Errors
    /// [`LaunchError`] if neither way works.
    pub fn enter(launch: &Launch, env: &Environment) -> Result<Self, LaunchError> {
        let (way, remark) = choose(launch, Library::own(), env);
        let mut met = Self {
            #[cfg(feature = "mpi")]
            watchdog: None,
            files: None,
            #[cfg(feature = "mpi")]
            world: None,
        };
        match remark.filter(|_| launch.rank == 0) {
            Some(Remark::Note(text)) => tracing::info!("{text}"),
            Some(Remark::Warning(text)) => tracing::warn!("{text}"),
            None => {}
        }
        #[cfg(feature = "mpi")]
        if way == Way::Mpi {
            met.watchdog = Some(watch(launch, wait_max(env))?);
            let world = super::mpi::World::initialize()?;
            let seen = world.ranks();
            met.world = Some(world);
            if launch.size.is_none_or(|size| size == seen) {
                return Ok(met);
            }
            met.watchdog = None;
        }
        let _ = way;
        let size =
            launch.size.ok_or_else(|| LaunchError::nonsense("the launcher does not say how many ranks"))?;
        let directory = directory(launch)?;
        #[cfg(feature = "mpi")]
        if let Some(world) = &met.world
            && launch.rank == 0
        {
            tracing::warn!(
                "{} started {size} ranks but MPI came up with {}: the library ({}) and the launcher do not speak the \
                 same PMI; the ranks meet over TCP through {}; start with the mpirun of that library, or with an \
                 srun --mpi= that it knows",
                launch.launcher.name(),
                world.ranks(),
                super::mpi::library(),
                directory.display(),
            );
        }
        if launch.rank == 0 {
            super::leftovers::add(&directory);
        }
        met.files = Some(FileMeeting::enter(&directory, launch.rank, size, wait_max(env))?);
        Ok(met)
    }

    /// The meeting.
    pub fn meeting(&mut self) -> &mut dyn Meeting {
        #[cfg(feature = "mpi")]
        if self.files.is_none()
            && let Some(world) = &mut self.world
        {
            return world;
        }
        self.files.as_mut().expect("a meeting is over MPI or through files")
    }

    /// Ends the meeting: leaves its directory if it was one through files; MPI stays.
    pub fn adjourn(self) -> Over {
        Over {
            #[cfg(feature = "mpi")]
            sees_all_ranks: self.files.is_none(),
            #[cfg(feature = "mpi")]
            world: self.world,
        }
    }
}

/// What is left of a meeting: the world, to be finalised at the end.
#[derive(Debug)]
pub struct Over {
    #[cfg(feature = "mpi")]
    sees_all_ranks: bool,
    #[cfg(feature = "mpi")]
    world: Option<super::mpi::World>,
}

impl Over {
    /// The lane for values between the ranks that met over MPI, unless the user wants none, and what serves it on this
    /// thread; `orders` brings the orders here.
    pub fn lane(
        &self,
        env: &Environment,
        orders: impl Fn(Order) + Send + Sync + 'static,
    ) -> (Option<MpiLane>, Option<Progress>) {
        let is_wanted = is_wanted(env, MPI_LANE);
        #[cfg(feature = "mpi")]
        if let Some(world) = self.world.as_ref().filter(|_| self.sees_all_ranks && is_wanted) {
            let lane = MpiLane::new(world.rank(), world.size(), orders);
            return (Some(lane), Some(Progress::new(world.communicator())));
        }
        let _ = (is_wanted, orders);
        (None, None)
    }

    /// Blocking messages between the ranks that met over MPI, to compare the lane with.
    pub fn raw(&self) -> Option<Raw<'_>> {
        #[cfg(feature = "mpi")]
        return self
            .world
            .as_ref()
            .filter(|_| self.sees_all_ranks)
            .map(|world| Raw::new(world.communicator()));
        #[cfg(not(feature = "mpi"))]
        None
    }

    /// Ends MPI, if it was started: collective, and bounded.
    pub fn finalize(self, within: Duration, code: i32) {
        #[cfg(feature = "mpi")]
        if let Some(world) = self.world {
            world.finalize(within, code);
        }
        #[cfg(not(feature = "mpi"))]
        let _ = (within, code);
    }
}

/// Where the ranks of `launch` meet without MPI.
fn directory(launch: &Launch) -> Result<PathBuf, LaunchError> {
    let parent = Surroundings::of_process().directory().map_err(LaunchError::Nowhere)?;
    Ok(parent.join("meetings").join(&launch.run))
}

/// Ends this rank if the ranks have not met over MPI in time. Rank 0 speaks for all.
#[cfg(feature = "mpi")]
fn watch(launch: &Launch, within: Duration) -> Result<Watchdog, LaunchError> {
    let rank = launch.rank;
    let grace = if rank == 0 { Duration::ZERO } else { OTHERS_GRACE };
    let watchdog = Watchdog::start(within + grace, Exit::Launch.code(), move || {
        let what = "the ranks did not meet over MPI";
        let seconds = within.as_secs();
        match rank {
            0 => tracing::error!(
                "{what} within {seconds} s: one of them did not start, or the network between them does not connect \
                 ({}); {TIMEOUT} sets the seconds to wait",
                super::mpi::library(),
            ),
            _ => tracing::debug!("{what} within {seconds} s, and rank 0 has not ended this one"),
        }
    });
    Ok(watchdog?)
}

fn wait_max(env: &Environment) -> Duration {
    env.get(TIMEOUT).and_then(|seconds| seconds.parse().ok()).map_or(files::WAIT_MAX, Duration::from_secs)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    enum Said {
        Nothing,
        Note,
        Warning,
    }

    fn chosen(vars: &[(&str, &str)], library: Library) -> (Way, Said) {
        let env: Environment =
            vars.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let launch = super::super::role::detect(&env).unwrap();
        let (way, remark) = choose(&launch, library, &env);
        let said = match remark {
            None => Said::Nothing,
            Some(Remark::Note(_)) => Said::Note,
            Some(Remark::Warning(_)) => Said::Warning,
        };
        (way, said)
    }

    const STEP: [(&str, &str); 4] =
        [("SLURM_JOB_ID", "7"), ("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "2")];

    #[test]
    fn srun_without_pmi_meets_through_files_and_says_so_without_a_warning() {
        assert_eq!(chosen(&STEP, Library::OpenMpi), (Way::Files, Said::Note));
        assert_eq!(chosen(&STEP, Library::Other), (Way::Files, Said::Note));
    }

    #[test]
    fn srun_with_pmix_meets_over_mpi() {
        let vars = [&STEP[..], &[("PMIX_RANK", "0")]].concat();
        assert_eq!(chosen(&vars, Library::OpenMpi), (Way::Mpi, Said::Note));
    }

    #[test]
    fn open_mpi_under_pmi2_is_told_before_it_ends_the_process() {
        let vars = [&STEP[..], &[("PMI_RANK", "0"), ("PMI_SIZE", "2")]].concat();
        assert_eq!(chosen(&vars, Library::OpenMpi), (Way::Files, Said::Warning));
        assert_eq!(chosen(&vars, Library::Other), (Way::Mpi, Said::Nothing));
    }

    #[test]
    fn without_mpi_there_is_only_one_way() {
        let vars = [("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "2")];
        assert_eq!(chosen(&vars, Library::Absent), (Way::Files, Said::Nothing));
        assert_eq!(chosen(&vars, Library::OpenMpi), (Way::Mpi, Said::Nothing));
    }
}
