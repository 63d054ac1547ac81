//! Where a program that is a cluster begins: `#[dcluster::main]` hands its driver over here.
//!
//! What the process is to be, in this order: what the dcluster process that started it says (`DCLUSTER_ROLE`); a client
//! if `--connect FILE` is its first argument; a rank if a launcher started it; a client if `DCLUSTER_CONNECTION_FILE`
//! is set; else the whole cluster.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use super::follow::{self, WorkerNotice, WorkerPlan};
use super::local::{self, LocalOptions, WorkerKind};
use super::outcome::{self, Outcome};
use super::ranks::{self, Announcement, Body, DriverSpec, Setup};
use super::role::{self, Environment, Launch};
use super::signals::{self, Scope};
use super::{Exit, LaunchError, code_file, exit, guard, leftovers, log, memory, process, way, with_causes};
use crate::client::{self, blocking};
use crate::security::ConnectionFile;
use crate::topology::{self, Binding, Machine, RankRequest, RankRole};
use crate::transport::tcp::Reach;

/// The value of [`process::ROLE`] for a rank that runs a program's file to have its tasks.
pub const RANK: &str = "rank";
/// Libraries of tasks, separated by colons.
pub const LIBRARIES: &str = "DCLUSTER_TASKS";
const WORKERS: &str = "DCLUSTER_WORKERS";
const THREADS: &str = "DCLUSTER_THREADS";
/// Seconds that a client may be cut off.
const CLIENT_LEASE: &str = "DCLUSTER_CLIENT_LEASE";
/// Seconds that a call waits for a worker that it may run on.
const PLACEMENT_WAIT: &str = "DCLUSTER_PLACEMENT_WAIT";
const LEVEL: &str = "warn";

/// Runs this process's part of the cluster, and the driver where the driver belongs.
pub fn main_async<F, Running, R>(driver: F) -> ExitCode
where
    F: FnOnce(client::Client) -> Running + Send + 'static,
    Running: Future<Output = R>,
    R: Outcome,
{
    enter(Box::new(move |connection_file| {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return failed(&error, Exit::Internal),
        };
        runtime.block_on(async {
            match client::Client::connect(connection_file).await {
                Ok(client) => {
                    let code = conclude(driver(client.clone()).await);
                    client.close().await;
                    code
                }
                Err(error) => failed(&error, Exit::Unavailable),
            }
        })
    }))
}

/// [`main_async`] for a driver that blocks.
pub fn main_blocking<F, R>(driver: F) -> ExitCode
where
    F: FnOnce(blocking::Client) -> R + Send + 'static,
    R: Outcome,
{
    enter(Box::new(move |connection_file| match blocking::Client::connect(connection_file) {
        Ok(client) => {
            let code = conclude(driver(client.clone()));
            client.close();
            code
        }
        Err(error) => failed(&error, Exit::Unavailable),
    }))
}

/// What this process is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// A worker that joins the cluster of this connection file.
    Worker(PathBuf),
    /// Rank 0 of a launch.
    Leader(Launch),
    /// Another rank.
    Follower(Launch),
    /// A client of the cluster of this connection file.
    Client(PathBuf),
    /// A cluster of its own.
    Local,
}

fn enter(body: Body) -> ExitCode {
    process::keep_marker();
    let env: Environment = environment();
    if env.get(process::ROLE).map(String::as_str) == Some(guard::ROLE) {
        guard::guard();
    }
    code_file::open(&env);
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if let Some((file, rest)) = connect_argument(&arguments) {
        return without_argument(&file, &rest);
    }
    let part = part_of(&env);
    let who = match &part {
        Ok(Part::Leader(launch) | Part::Follower(launch)) => format!("rank {}", launch.rank),
        Ok(Part::Worker(_)) => format!("worker {}", std::process::id()),
        _ => String::new(),
    };
    if let Err(error) = log::start(&who, LEVEL, env.get(log::DIRECTORY).map(Path::new)) {
        eprintln!("no log: {error}");
    }
    let code = match part {
        Ok(part) => play(part, &env, body).unwrap_or_else(|error| ranks::report(&error)),
        Err(text) => {
            eprintln!("error: {text}");
            Exit::Usage.code()
        }
    };
    exit::in_order(code)
}

fn play(part: Part, env: &Environment, body: Body) -> Result<i32, LaunchError> {
    let setup = setup(env);
    match part {
        Part::Worker(file) => join(&file, env, &setup, None),
        Part::Leader(launch) => ranks::lead(&launch, env, &setup, DriverSpec::Body(body)),
        Part::Follower(launch) => ranks::follow(&launch, env, &setup),
        Part::Client(file) => Ok(body(file)),
        Part::Local => local::lead(&local_options(env), &setup, DriverSpec::Body(body)),
    }
}

/// This process's variables; those that are not text matter to nobody here.
pub fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn part_of(env: &Environment) -> Result<Part, String> {
    let file = env.get(process::CONNECTION_FILE).filter(|file| !file.is_empty()).map(PathBuf::from);
    let launch = role::detect(env);
    match (env.get(process::ROLE).map(String::as_str), launch, file) {
        (Some(local::WORKER), _, Some(file)) => Ok(Part::Worker(file)),
        (Some(RANK), Some(launch), _) => Ok(Part::Follower(launch)),
        (Some(role), ..) => Err(format!("{}={role} is set by dcluster itself: unset it", process::ROLE)),
        (None, Some(launch), None) if launch.rank == 0 => Ok(Part::Leader(launch)),
        (None, Some(launch), None) => Ok(Part::Follower(launch)),
        (None, Some(launch), Some(file)) => match launch.size {
            Some(1) => Ok(Part::Client(file)),
            _ => Err(format!(
                "this is rank {} of {}, and {} names a cluster that runs already: every rank would drive it; start one \
                 process without a launcher, or unset the variable to start a cluster of these ranks",
                launch.rank,
                launch.launcher.name(),
                process::CONNECTION_FILE
            )),
        },
        (None, None, Some(file)) => Ok(Part::Client(file)),
        (None, None, None) => Ok(Part::Local),
    }
}

/// `--connect FILE` or `--connect=FILE` as the first argument, and the arguments without it.
fn connect_argument(arguments: &[OsString]) -> Option<(OsString, Vec<OsString>)> {
    const NAME: &str = "--connect";
    let first = arguments.get(1)?;
    let (file, used) = match first.to_str() {
        Some(NAME) => (arguments.get(2)?.clone(), 3),
        Some(text) => (OsString::from(text.strip_prefix(NAME)?.strip_prefix('=')?), 2),
        None => return None,
    };
    let rest = arguments.iter().take(1).chain(&arguments[used..]).cloned().collect();
    Some((file, rest))
}

/// Starts this program again without `--connect`, so that its own parser never sees it.
fn without_argument(file: &OsString, arguments: &[OsString]) -> ExitCode {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(arguments.first().cloned().unwrap_or_default()).args(arguments.iter().skip(1));
    let error = command.env(process::CONNECTION_FILE, file).exec();
    exit::in_order(failed(&error, Exit::Internal))
}

/// A worker by hand or of a local cluster: joins the cluster of a connection file, and ends with it.
///
/// # Errors
/// [`LaunchError`] if it cannot start; what follows is its exit code.
pub fn join(file: &Path, env: &Environment, setup: &Setup, threads: Option<u32>) -> Result<i32, LaunchError> {
    ranks::one_thread_per_task();
    let (sender, receiver) = follow::notices();
    let heard = sender.clone();
    signals::listen(Scope::Ending, move |signal| drop(heard.send(WorkerNotice::Signal(signal))))?;
    let connection = match ConnectionFile::load(file) {
        Ok(connection) => connection,
        Err(error) => return Ok(failed(&error, Exit::Unavailable)),
    };
    let planned = env.get(process::BINDING).and_then(|text| serde_json::from_str(text).ok());
    let reach = if planned.is_some() { Reach::Machine } else { Reach::network() };
    let (mut binding, machine) = match planned {
        Some(binding) => (binding, None),
        None => binding_alone().map(|(binding, machine)| (binding, Some(machine)))?,
    };
    if let Some(threads) = threads {
        local::with_threads(&mut binding, threads);
    }
    ranks::bind(&binding, ranks::Voice::Quiet);
    let memory = memory::Share::new(setup, env, 1, memory::Leader::Elsewhere, 1);
    let registry = ranks::registry(setup)?;
    let registry = Some(registry);
    let plan = WorkerPlan {
        connection,
        registry,
        binding,
        machine,
        rank: None,
        reach,
        memory,
        mpi: None,
        shm: way::shm_lane(env),
    };
    let (code, _) = follow::follow(plan, (sender, receiver), None)?;
    leftovers::remove_all();
    Ok(code)
}

/// The binding of a worker that has its host to itself, and the host.
fn binding_alone() -> Result<(Binding, Machine), LaunchError> {
    let ranks = [RankRequest { local_rank: 0, role: RankRole::Worker, cpus: topology::allowed_cpus()? }];
    let machine = Machine::discover()?;
    let binding = topology::plan(&machine, &ranks).into_iter().next();
    Ok((binding.ok_or_else(|| LaunchError::nonsense("the plan for one worker is empty"))?, machine))
}

/// What the variables say that a process gets from the dcluster process that started it.
pub fn setup(env: &Environment) -> Setup {
    let libraries = env.get(LIBRARIES).into_iter().flat_map(|list| list.split(':'));
    Setup {
        connection_file: None,
        libraries: libraries.filter(|path| !path.is_empty()).map(PathBuf::from).collect(),
        announcement: Announcement::Silent,
        client_lease: seconds(env, CLIENT_LEASE),
        placement_wait: seconds(env, PLACEMENT_WAIT),
        memory_limit: env.get(memory::LIMIT).and_then(|text| memory_limit(text)),
        spill_directory: env.get(memory::SPILL_DIRECTORY).filter(|path| !path.is_empty()).map(PathBuf::from),
    }
}

/// The limit that a variable sets; nonsense is said, and sets none.
fn memory_limit(text: &str) -> Option<u64> {
    match memory::parse(text) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            tracing::warn!("{} is not heeded: {error}", memory::LIMIT);
            None
        }
    }
}

fn seconds(env: &Environment, name: &str) -> Option<Duration> {
    env.get(name).and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs)
}

/// One worker in this process, or as many processes of this program as `DCLUSTER_WORKERS` says.
fn local_options(env: &Environment) -> LocalOptions {
    let number =
        |name: &str| env.get(name).and_then(|text| text.parse::<u32>().ok()).filter(|number| *number > 0);
    let workers = number(WORKERS).unwrap_or(1);
    let kind = match std::env::current_exe() {
        Ok(program) if workers > 1 => WorkerKind::Processes(program),
        _ => WorkerKind::Threads,
    };
    LocalOptions { workers: Some(workers), threads: number(THREADS), kind }
}

fn conclude(outcome: impl Outcome) -> i32 {
    match outcome.into_exit() {
        Ok(code) => outcome::number(code),
        Err(text) => {
            eprintln!("error: {text}");
            Exit::Failure.code()
        }
    }
}

fn failed(error: &dyn std::error::Error, exit: Exit) -> i32 {
    eprintln!("error: {}", with_causes(error));
    exit.code()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn part(text: &str) -> Result<Part, String> {
        let pair =
            |word: &str| word.split_once('=').map(|(name, value)| (name.into(), value.into())).unwrap();
        part_of(&text.split_whitespace().map(pair).collect())
    }

    #[test]
    fn a_program_started_by_hand_is_a_cluster_of_its_own() {
        assert_eq!(part(""), Ok(Part::Local));
    }

    #[test]
    fn a_connection_file_makes_it_a_client() {
        assert_eq!(part("DCLUSTER_CONNECTION_FILE=/c.json"), Ok(Part::Client("/c.json".into())));
    }

    #[test]
    fn the_ranks_of_a_launcher_never_all_become_clients() {
        let ranks = "OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=4 DCLUSTER_CONNECTION_FILE=/c.json";
        assert!(part(ranks).unwrap_err().contains("every rank would drive it"));
    }

    #[test]
    fn rank_0_leads_and_the_others_follow() {
        let rank = |rank: u32| part(&format!("OMPI_COMM_WORLD_RANK={rank} OMPI_COMM_WORLD_SIZE=4"));
        assert!(matches!(rank(0), Ok(Part::Leader(_))));
        assert!(matches!(rank(1), Ok(Part::Follower(_))));
    }

    #[test]
    fn what_dcluster_says_comes_first() {
        let told = "DCLUSTER_ROLE=worker DCLUSTER_CONNECTION_FILE=/c.json";
        assert_eq!(part(told), Ok(Part::Worker("/c.json".into())));
        assert!(matches!(part("DCLUSTER_ROLE=rank PMI_RANK=0 PMI_SIZE=2"), Ok(Part::Follower(_))));
        assert!(part("DCLUSTER_ROLE=king").is_err());
    }

    #[test]
    fn connect_is_taken_out_of_the_arguments_if_it_is_first() {
        let words = |text: &str| text.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let rest = Some((OsString::from("c.json"), words("app -x")));
        assert_eq!(connect_argument(&words("app --connect c.json -x")), rest);
        assert_eq!(connect_argument(&words("app --connect=c.json -x")), rest);
        assert_eq!(connect_argument(&words("app -x --connect c.json")), None);
        assert_eq!(connect_argument(&words("app --connected c.json")), None);
    }
}
