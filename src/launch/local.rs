//! A cluster on this machine without a launcher: the scheduler in this process, workers as threads or processes.
//!
//! [`LocalCluster`] is for programs and tests; [`lead`] is the same as a process that ends with its driver.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::driver::exit_code;
use super::ending::{Manner, Notice};
use super::entry::LIBRARIES;
use super::exit;
use super::follow::{RunningWorker, WorkerPlan};
use super::guard::Guard;
use super::lead::{DriverPlan, Lead};
use super::memory::{self, Leader, Share};
use super::ranks::{self, DriverSpec, Setup};
use super::role::Environment;
use super::scheduler::{BoundScheduler, RunningScheduler};
use super::{LaunchError, leftovers, process, way};
use crate::scheduler::io::SchedulerConfig;
use crate::security::{ConnectionFile, ConnectionFileGuard};
use crate::topology::{self, Binding, Machine, RankRequest, RankRole};
use crate::transport::tcp::Reach;
use crate::wire::worker::Shutdown;
use crate::worker::WorkerError;

use std::os::unix::process::CommandExt as _;

/// The value of [`process::ROLE`] for a worker of a local cluster.
pub const WORKER: &str = "worker";
/// How long worker processes may take to end after the scheduler.
const DISMISS_MAX: Duration = Duration::from_secs(2);

/// How many workers, and of what kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalOptions {
    /// How many workers; without a number one per NUMA node.
    pub workers: Option<u32>,
    /// Threads of each; without a number one per core of its share.
    pub threads: Option<u32>,
    /// What a worker is.
    pub kind: WorkerKind,
}

/// What a worker of a local cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum WorkerKind {
    /// Threads of this process; they share its tasks.
    #[default]
    Threads,
    /// A process of this program, which must call [`main`](super::main_async) or be `dcluster`.
    Processes(PathBuf),
}

/// A cluster in this process and below it; ends when dropped.
///
/// For a program, or a test, that has a `main` of its own. Worker threads run the tasks of the program.
///
/// ```
/// use dcluster::launch::ranks::Setup;
/// use dcluster::launch::{LocalCluster, LocalOptions};
/// use dcluster::prelude::*;
///
/// #[dcluster::task]
/// fn inc(x: i64) -> i64 {
///     x + 1
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
/// #   let directory = tempfile::tempdir()?;
/// #   let setup = Setup { connection_file: Some(directory.path().join("cluster.json")), ..Setup::default() };
/// #   #[cfg(any())]
///     let setup = Setup::default();
///     let options = LocalOptions { workers: Some(2), threads: Some(1), ..LocalOptions::default() };
///     let cluster = LocalCluster::start(&options, &setup)?;
///
///     // A program in another terminal attaches by the file, whose path `DCLUSTER_CONNECTION_FILE` may hold.
///     let client = blocking::Client::connect(cluster.connection_file())?;
///     client.wait_for_workers(2, None)?;
///     assert_eq!(client.submit(inc::call(1)).result()?, 2);
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct LocalCluster {
    scheduler: RunningScheduler,
    connection: ConnectionFile,
    file: ConnectionFileGuard,
    threads: Vec<RunningWorker>,
    processes: Vec<WorkerProcess>,
}

impl LocalCluster {
    /// Starts scheduler and workers; the workers may join a little later.
    ///
    /// # Errors
    /// [`LaunchError`] if a thread, process or port cannot be had.
    pub fn start(options: &LocalOptions, setup: &Setup) -> Result<Self, LaunchError> {
        Self::start_with(options, setup, |_| {})
    }

    /// What a client needs to connect.
    pub fn connection(&self) -> &ConnectionFile {
        &self.connection
    }

    /// Where that is written for clients in other processes.
    pub fn connection_file(&self) -> &Path {
        self.file.path()
    }

    fn start_with(
        options: &LocalOptions,
        setup: &Setup,
        notify: impl Fn(Notice) + Clone + Send + 'static,
    ) -> Result<Self, LaunchError> {
        let machine = Machine::discover()?;
        let bindings = bindings(&machine, options)?;
        let alive = Arc::new(AtomicUsize::new(bindings.len()));
        let env: Environment = std::env::vars().collect();
        let count = bindings.len() as u32;
        let memory_bytes_max = memory::bytes_max(setup, &env, count, Leader::Here);
        let registry = ranks::registry(setup)?;
        let scheduler = BoundScheduler::bind(&Reach::Machine, "local")?;
        let connection = scheduler.connection().clone();
        let file = scheduler.publish(setup.connection_file.as_deref())?;
        let config = SchedulerConfig { workers_expected: count, ..setup.scheduler() };
        let scheduler = scheduler.start(config, notify.clone())?;
        let mut cluster = Self { scheduler, connection, file, threads: Vec::new(), processes: Vec::new() };
        for (rank, binding) in (0..).zip(bindings) {
            match &options.kind {
                WorkerKind::Threads => {
                    let plan = WorkerPlan {
                        connection: cluster.connection.clone(),
                        registry: Some(registry.clone()),
                        binding,
                        machine: (rank == 0).then(|| machine.clone()),
                        rank: Some(rank),
                        reach: Reach::Machine,
                        memory: Share::new(setup, &env, count, Leader::Here, count),
                        mpi: None,
                        shm: way::shm_lane(&env),
                    };
                    cluster.threads.push(RunningWorker::start(plan, log_end)?);
                }
                WorkerKind::Processes(program) => {
                    let (alive, notify) = (Arc::clone(&alive), notify.clone());
                    let scheduler = cluster.scheduler.clone();
                    let on_end = move |code| {
                        tracing::debug!(rank, code, "worker process ended");
                        if alive.fetch_sub(1, Ordering::AcqRel) == 1 && !scheduler.is_stopping() {
                            notify(Notice::WorkersLost);
                        }
                    };
                    let post =
                        Post { program, connection_file: cluster.file.path(), setup, memory_bytes_max };
                    cluster.processes.push(WorkerProcess::start(&post, &binding, on_end)?);
                }
            }
        }
        Ok(cluster)
    }

    fn workers(&self) -> u32 {
        (self.threads.len() + self.processes.len()) as u32
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        self.scheduler.stop(0, "the local cluster is closed".to_owned());
        dismiss(std::mem::take(&mut self.processes));
    }
}

/// A local cluster as the business of this process: ends with its driver, gives the exit code.
///
/// # Errors
/// [`LaunchError`] if the cluster does not come up.
pub fn lead(options: &LocalOptions, setup: &Setup, driver: DriverSpec) -> Result<i32, LaunchError> {
    let (sender, receiver): (Sender<Notice>, Receiver<Notice>) = channel();
    if options.kind == WorkerKind::Threads {
        ranks::one_thread_per_task();
    }
    ranks::listen_as_leader(&sender, &driver)?;
    let cpus = topology::allowed_cpus()?;
    let ended = sender.clone();
    let mut cluster = LocalCluster::start_with(options, setup, move |notice| drop(ended.send(notice)))?;
    ranks::announce(setup.announcement, &cluster.connection, cluster.file.path(), cluster.workers());
    let plan = ranks::plan(driver, cluster.file.path());
    // The guard removes the file again when the cluster is dropped, if this does not come first.
    let path = cluster.file.path().to_owned();
    let close_door = Box::new(move || drop(std::fs::remove_file(path)));
    let scheduler = cluster.scheduler.clone();
    let guard = Arc::new(Guard::start(cluster.file.path())?);
    let (code, manner) = Lead { scheduler, notices: (sender, receiver), cpus, guard, close_door }.run(plan);
    dismiss(std::mem::take(&mut cluster.processes));
    leftovers::remove_all();
    if manner == Manner::AtOnce {
        exit::at_once(code);
    }
    Ok(code)
}

/// A scheduler by hand: other machines reach it, and workers join by its connection file.
///
/// # Errors
/// [`LaunchError`] if it cannot listen.
pub fn lead_alone(setup: &Setup) -> Result<i32, LaunchError> {
    let (sender, receiver) = channel();
    ranks::listen_as_leader(&sender, &DriverSpec::Nobody)?;
    let cpus = topology::allowed_cpus()?;
    let scheduler = BoundScheduler::bind(&Reach::network(), "scheduler")?;
    let connection = scheduler.connection().clone();
    let file = scheduler.publish(setup.connection_file.as_deref())?;
    let guard = Arc::new(Guard::start(file.path())?);
    let ended = sender.clone();
    let scheduler = scheduler.start(setup.scheduler(), move |notice| drop(ended.send(notice)))?;
    ranks::announce(setup.announcement, &connection, file.path(), 0);
    let close_door = Box::new(move || drop(file));
    let (code, manner) =
        Lead { scheduler, notices: (sender, receiver), cpus, guard, close_door }.run(DriverPlan::Nobody);
    leftovers::remove_all();
    if manner == Manner::AtOnce {
        exit::at_once(code);
    }
    Ok(code)
}

/// What worker processes have in common.
#[derive(Debug)]
pub struct Post<'a> {
    /// The program that they are.
    pub program: &'a Path,
    /// What they join.
    pub connection_file: &'a Path,
    /// What they are started with.
    pub setup: &'a Setup,
    /// What each may use.
    pub memory_bytes_max: u64,
}

/// A worker in a process of its own.
#[derive(Debug)]
pub struct WorkerProcess {
    process: Pid,
    /// Closed when it is over.
    over: Receiver<()>,
}

impl WorkerProcess {
    /// Starts one; `on_end` hears its exit code.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(
        post: &Post<'_>,
        binding: &Binding,
        on_end: impl FnOnce(i32) + Send + 'static,
    ) -> Result<Self, LaunchError> {
        let binding = serde_json::to_string(binding).map_err(LaunchError::nonsense)?;
        let mut command = Command::new(post.program);
        process::strip_launcher(&mut command);
        command
            .env(process::ROLE, WORKER)
            .env(process::CONNECTION_FILE, post.connection_file)
            .env(process::BINDING, binding)
            .env(memory::LIMIT, post.memory_bytes_max.to_string())
            // Ctrl-C is for the leader, who then ends the workers.
            .process_group(0);
        if let Ok(libraries) = std::env::join_paths(&post.setup.libraries)
            && !libraries.is_empty()
        {
            command.env(LIBRARIES, libraries);
        }
        if let Some(directory) = &post.setup.spill_directory {
            command.env(memory::SPILL_DIRECTORY, directory);
        }
        process::end_with_parent(&mut command, Signal::SIGKILL);
        let (answer, started) = mpsc::channel();
        let (alive, over) = mpsc::channel::<()>();
        // The process ends with the thread that starts it, so that thread stays.
        thread::Builder::new().name("worker-process".to_owned()).spawn(move || {
            let _alive = alive;
            match command.spawn() {
                Ok(mut child) => {
                    let _ = answer.send(Ok(Pid::from_raw(child.id() as i32)));
                    if let Ok(status) = child.wait() {
                        on_end(exit_code(status));
                    }
                }
                Err(error) => drop(answer.send(Err(error))),
            }
        })?;
        let broken = |_| std::io::Error::other("the thread of a worker process ended early");
        let process = started.recv().map_err(broken)??;
        Ok(Self { process, over })
    }
}

/// Waits for worker processes that the scheduler has told to end, and kills those that do not.
pub(super) fn dismiss(processes: Vec<WorkerProcess>) {
    let until = Instant::now() + DISMISS_MAX;
    for worker in processes {
        let left = until.saturating_duration_since(Instant::now());
        if worker.over.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!(process = %worker.process, "a worker does not end and is killed");
            let _ = kill(worker.process, Signal::SIGKILL);
            let _ = worker.over.recv_timeout(DISMISS_MAX);
        }
    }
}

/// What is said when a worker in this process is over.
pub(super) fn log_end(end: Result<Shutdown, WorkerError>) {
    if let Err(error) = end {
        tracing::error!("the worker in this process ended: {}", super::with_causes(&error));
    }
}

/// The share of each worker.
fn bindings(machine: &Machine, options: &LocalOptions) -> Result<Vec<Binding>, LaunchError> {
    let count = options.workers.unwrap_or_else(|| machine.numa_nodes().count().max(1) as u32);
    let cpus = topology::allowed_cpus()?;
    let request = |rank| RankRequest { local_rank: rank, role: RankRole::Worker, cpus: cpus.clone() };
    let requests: Vec<RankRequest> = (0..count).map(request).collect();
    let mut bindings = topology::plan(machine, &requests);
    if let Some(threads) = options.threads {
        bindings.iter_mut().for_each(|binding| with_threads(binding, threads));
    }
    Ok(bindings)
}

/// Gives a binding another number of executor threads, over the same cores.
pub(super) fn with_threads(binding: &mut Binding, threads: u32) {
    let cores = match binding.executors.is_empty() {
        true => vec![binding.cpus.clone()],
        false => std::mem::take(&mut binding.executors),
    };
    binding.executors = cores.into_iter().cycle().take(threads as usize).collect();
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_gets_the_threads_it_was_asked_for() {
        let options = LocalOptions { workers: Some(3), threads: Some(5), kind: WorkerKind::Threads };
        let bindings = bindings(&Machine::discover().unwrap(), &options).unwrap();
        assert_eq!(bindings.len(), 3);
        assert!(bindings.iter().all(|binding| binding.threads() == 5));
    }

    #[test]
    fn without_numbers_all_cores_have_a_thread() {
        let bindings = bindings(&Machine::discover().unwrap(), &LocalOptions::default()).unwrap();
        let threads: usize = bindings.iter().map(Binding::threads).sum();
        assert_eq!(threads, Machine::discover().unwrap().cores().count());
    }
}
