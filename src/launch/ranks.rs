//! The ranks of a launcher: each meets the others, is bound, and leads or follows.
//!
//! Order matters: environment, signals and MPI before any thread; the binding before the threads that inherit it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::driver::Program;
use super::ending::{Manner, Notice};
use super::exit::{self, Exit};
use super::follow::{self, RunningWorker, WorkerNotice, WorkerPlan};
use super::guard::Guard;
use super::lead::{DriverPlan, Lead};
use super::local::{self, Post, WorkerProcess};
use super::meet::{Agreement, agree};
use super::memory::{self, Leader, Share};
use super::offer::{self, Offer, Tasks};
use super::role::{Environment, Launch};
use super::scheduler::BoundScheduler;
use super::signals::{self, Heard, Scope};
use super::way::{Met, Over};
use super::{FINALIZE_MAX, LaunchError, leftovers, way};
use crate::collections;
use crate::registry::{Registry, RegistryError};
use crate::scheduler::core::Tuning;
use crate::scheduler::io::{CLIENT_LEASE, SchedulerConfig};
use crate::security::ConnectionFile;
use crate::topology::{self, Binding, Place};
use crate::transport::tcp::Reach;

/// What the processes of a cluster are started with.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Where the scheduler writes the connection file, unless at the default place.
    pub connection_file: Option<PathBuf>,
    /// Task libraries for the workers.
    pub libraries: Vec<PathBuf>,
    /// What is printed when the cluster runs.
    pub announcement: Announcement,
    /// How long the scheduler keeps what a client holds whose connection broke; zero for not at all, None for
    /// [`CLIENT_LEASE`].
    pub client_lease: Option<Duration>,
    /// How long a call that may run on certain workers only waits for one of them; None for a minute.
    pub placement_wait: Option<Duration>,
    /// What each worker may use, in bytes; 0 for all there is, None for its part of what the job has.
    pub memory_limit: Option<u64>,
    /// Where workers spill values, None for where temporary files go.
    pub spill_directory: Option<PathBuf>,
}

impl Setup {
    /// What its scheduler is started with, before anything is known of the workers.
    pub fn scheduler(&self) -> SchedulerConfig {
        let mut tuning = Tuning::default();
        if let Some(wait) = self.placement_wait {
            tuning.placement_wait_us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        }
        SchedulerConfig {
            tuning,
            client_lease: self.client_lease.unwrap_or(CLIENT_LEASE),
            ..SchedulerConfig::default()
        }
    }
}

/// What rank 0 prints when the cluster runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Announcement {
    /// Nothing.
    #[default]
    Silent,
    /// How to attach, on standard error, where it is not mixed with the driver's output.
    Aside,
    /// How to attach, on standard output.
    Text,
    /// One line of JSON on standard output.
    Json,
}

/// A driver in this process: gets the connection file, gives an exit code.
pub type Body = Box<dyn FnOnce(PathBuf) -> i32 + Send>;

/// What drives a cluster, before there is one.
pub enum DriverSpec {
    /// Clients that attach.
    Nobody,
    /// A program; `works` if its `main` is dcluster's, so that its processes can be the workers.
    Program {
        /// What to start.
        program: Program,
        /// Whether workers are processes of it too.
        works: bool,
    },
    /// The body of `#[dcluster::main]`.
    Body(Body),
}

/// Rank 0 of a launch, from its start to its exit code.
///
/// # Errors
/// [`LaunchError`] if the cluster does not come up.
pub fn lead(
    launch: &Launch,
    env: &Environment,
    setup: &Setup,
    driver: DriverSpec,
) -> Result<i32, LaunchError> {
    #[cfg(feature = "mpi")]
    super::mpi::set_defaults();
    let (sender, receiver) = channel();
    listen_as_leader(&sender, &driver)?;
    let scheduler = BoundScheduler::bind(&Reach::network(), &launch.run)?;
    let connection = scheduler.connection().clone();
    let mut met = Met::enter(launch, env)?;
    let size = met.meeting().size();
    let bytes = serde_json::to_vec(&connection).map_err(LaunchError::nonsense)?;
    let agreement = agree(met.meeting(), Offer { connection: Some(bytes), tasks: Tasks::None })?;
    let over = met.adjourn();
    bind(&agreement.binding, Voice::of(&agreement));
    let workers = workers(size, &agreement);
    if let Err(error) = turn_away(workers, &agreement) {
        return Ok(finish(over, report(&error), Manner::InOrder { within: FINALIZE_MAX }));
    }

    let place = Place { binding: agreement.binding.clone(), machine: agreement.machine.clone() };
    let config = SchedulerConfig {
        workers_expected: size.max(2) - 1,
        standing_by: agreement.turned_away.len() as u32,
        place: (size > 1).then_some(place),
        ..setup.scheduler()
    };
    let file = scheduler.publish(setup.connection_file.as_deref())?;
    let guard = Arc::new(Guard::start(file.path())?);
    let ended = sender.clone();
    let scheduler = scheduler.start(config, move |notice| drop(ended.send(notice)))?;
    let mut crew = Crew::default();
    if size == 1 {
        let (ended, stopped) = (sender.clone(), scheduler.clone());
        let lost = move || {
            if !stopped.is_stopping() {
                drop(ended.send(Notice::WorkersLost));
            }
        };
        crew = Crew::hire(&driver, &agreement, env, setup, (&connection, file.path()), lost)?;
    }
    announce(setup.announcement, &connection, file.path(), workers);
    let plan = plan(driver, file.path());
    let close_door = Box::new(move || drop(file));
    let cpus = agreement.cpus_at_start;
    let lead = Lead { scheduler, notices: (sender, receiver), cpus, guard, close_door };
    let (code, manner) = lead.run(plan);
    crew.dismiss();
    Ok(finish(over, code, manner))
}

/// Any other rank of a launch, from its start to its exit code.
///
/// # Errors
/// [`LaunchError`] if it does not find the others.
pub fn follow(launch: &Launch, env: &Environment, setup: &Setup) -> Result<i32, LaunchError> {
    #[cfg(feature = "mpi")]
    super::mpi::set_defaults();
    one_thread_per_task();
    let (sender, receiver) = follow::notices();
    let heard = sender.clone();
    signals::listen(Scope::Ending, move |signal| drop(heard.send(WorkerNotice::Signal(signal))))?;
    let registry = registry(setup);
    let mut met = Met::enter(launch, env)?;
    let size = met.meeting().size();
    let agreement = agree(met.meeting(), Offer { connection: None, tasks: Tasks::of(&registry) })?;
    let over = met.adjourn();
    if workers(size, &agreement) == 0 {
        // Rank 0 says so for all.
        return Ok(finish(over, Exit::Launch.code(), Manner::InOrder { within: FINALIZE_MAX }));
    }
    bind(&agreement.binding, Voice::of(&agreement));
    let connection: ConnectionFile =
        serde_json::from_slice(&agreement.connection).map_err(LaunchError::nonsense)?;
    let takes_part = agreement.turned_away.iter().all(|one| one.rank != launch.rank);
    let orders = sender.clone();
    // The receiver lives as long as the process.
    let (mpi, progress) = over.lane(env, move |order| drop(orders.send(WorkerNotice::Mpi(order))));
    let plan = WorkerPlan {
        connection,
        registry: registry.ok().filter(|_| takes_part),
        rank: Some(launch.rank),
        reach: Reach::network(),
        memory: Share::new(setup, env, agreement.workers_on_host, agreement.leader, 1),
        binding: agreement.binding,
        machine: agreement.machine,
        mpi,
        shm: way::shm_lane(env),
    };
    let (code, manner) = follow::follow(plan, (sender, receiver), progress)?;
    Ok(finish(over, code, manner))
}

/// How many ranks of `size` work.
fn workers(size: u32, agreement: &Agreement) -> u32 {
    if size == 1 { 1 } else { size - 1 - agreement.turned_away.len() as u32 }
}

/// Says on rank 0 which ranks do not work, and why.
fn turn_away(workers: u32, agreement: &Agreement) -> Result<(), LaunchError> {
    let sentences = offer::in_words(&agreement.turned_away);
    if workers == 0 {
        return Err(LaunchError::NoWorker { reasons: sentences.join("; ") });
    }
    for sentence in sentences {
        tracing::warn!(workers, "turned away, the others run on: {sentence}");
    }
    Ok(())
}

/// The tasks of this program and of its libraries.
///
/// # Errors
/// `RegistryError` if two tasks are in each other's way, or a library is of no use.
pub fn registry(setup: &Setup) -> Result<Arc<Registry>, RegistryError> {
    collections::array::link_tasks();
    let mut registry = Registry::load()?;
    // An empty DCLUSTER_TASKS names one library without a name.
    for library in setup.libraries.iter().filter(|path| !path.as_os_str().is_empty()) {
        registry.add_library(library)?;
    }
    Ok(Arc::new(registry))
}

/// Workers in or below the process of a lone rank 0.
#[derive(Default)]
struct Crew {
    processes: Vec<WorkerProcess>,
    worker: Option<RunningWorker>,
}

impl Crew {
    /// One worker: a process of PROGRAM if it has tasks of its own, else threads of this process.
    fn hire(
        driver: &DriverSpec,
        agreement: &Agreement,
        env: &Environment,
        setup: &Setup,
        (connection, connection_file): (&ConnectionFile, &std::path::Path),
        lost: impl FnOnce() + Send + 'static,
    ) -> Result<Self, LaunchError> {
        let binding = agreement.binding.clone();
        if let DriverSpec::Program { program, works: true } = driver {
            let memory_bytes_max = memory::bytes_max(setup, env, 1, Leader::Here);
            let post = Post { program: &program.path, connection_file, setup, memory_bytes_max };
            let worker = WorkerProcess::start(&post, &binding, move |code| {
                tracing::debug!(code, "the worker process ended");
                lost();
            })?;
            return Ok(Self { processes: vec![worker], worker: None });
        }
        let plan = WorkerPlan {
            connection: connection.clone(),
            registry: Some(registry(setup)?),
            binding,
            machine: agreement.machine.clone(),
            rank: Some(0),
            reach: Reach::network(),
            memory: Share::new(setup, env, 1, Leader::Here, 1),
            // It has no peers, only clients.
            mpi: None,
            shm: way::shm_lane(env),
        };
        let worker = RunningWorker::start(plan, local::log_end)?;
        Ok(Self { processes: Vec::new(), worker: Some(worker) })
    }

    fn dismiss(self) {
        local::dismiss(self.processes);
        drop(self.worker);
    }
}

/// Says how to attach.
pub(super) fn announce(how: Announcement, connection: &ConnectionFile, file: &std::path::Path, workers: u32) {
    let path = file.display();
    let text = format!(
        "cluster of {workers} {} at {}\n  dcluster --connection-file {path} status\n  DCLUSTER_CONNECTION_FILE={path} \
         ./my_client\n",
        if workers == 1 { "worker" } else { "workers" },
        connection.scheduler,
    );
    match how {
        Announcement::Silent => {}
        Announcement::Aside => eprint!("{text}"),
        Announcement::Text => print!("{text}"),
        Announcement::Json => println!(
            "{}",
            serde_json::json!({"address": connection.scheduler, "connection_file": file, "workers": workers})
        ),
    }
}

/// The driver, when the cluster runs.
pub(super) fn plan(driver: DriverSpec, file: &std::path::Path) -> DriverPlan {
    match driver {
        DriverSpec::Nobody => DriverPlan::Nobody,
        DriverSpec::Program { program, .. } => {
            DriverPlan::Program { program, connection_file: file.to_owned() }
        }
        DriverSpec::Body(body) => {
            let connection_file = file.to_owned();
            DriverPlan::Body(Box::new(move || body(connection_file)))
        }
    }
}

/// Signals become notices.
pub(super) fn listen_as_leader(
    sender: &std::sync::mpsc::Sender<Notice>,
    driver: &DriverSpec,
) -> Result<(), LaunchError> {
    let scope = match driver {
        DriverSpec::Program { .. } => Scope::EndingAndForwarded,
        DriverSpec::Nobody | DriverSpec::Body(_) => Scope::Ending,
    };
    let sender = sender.clone();
    signals::listen(scope, move |heard| {
        let notice = match heard {
            Heard::End(number) => Notice::Signal(number),
            Heard::Forward(number) => Notice::Forward(number),
        };
        // The receiver lives as long as the process.
        let _ = sender.send(notice);
    })?;
    Ok(())
}

/// Numeric libraries in tasks use one thread each, because there is one task per core.
pub(super) fn one_thread_per_task() {
    if let Err(error) = topology::set_thread_environment(1) {
        tracing::debug!(%error, "OMP_NUM_THREADS and its kin are left as they are");
    }
}

/// How loud a rank is about what is wrong with the bindings of its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    /// It speaks for its host.
    Loud,
    /// Another rank does.
    Quiet,
}

impl Voice {
    fn of(agreement: &Agreement) -> Self {
        if agreement.machine.is_some() { Self::Loud } else { Self::Quiet }
    }
}

/// Binds this process, and says what is not as it should be.
pub(super) fn bind(binding: &Binding, voice: Voice) {
    let refused = binding.apply_to_process();
    for warning in binding.warnings.iter().chain(&refused) {
        match voice {
            Voice::Loud => tracing::warn!("{}", warning.text),
            Voice::Quiet => tracing::debug!("{}", warning.text),
        }
    }
}

/// Leaves MPI, in order or not.
fn finish(over: Over, code: i32, manner: Manner) -> i32 {
    leftovers::remove_all();
    match manner {
        Manner::InOrder { within } => {
            over.finalize(within, code);
            code
        }
        Manner::AtOnce => exit::at_once(code),
    }
}

/// The exit code of a launch that failed, after saying why.
pub fn report(error: &LaunchError) -> i32 {
    tracing::error!("{}", super::with_causes(error));
    leftovers::remove_all();
    Exit::Launch.code()
}
