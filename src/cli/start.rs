//! Commands that become a cluster or a part of one.
//!
//! Each returns an exit code; the work is done in [`crate::launch`].

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::arguments::{Global, Local, Topo, Worker};
use super::{ask, bench, print, start_log, topo};
use crate::launch::driver::Program;
use crate::launch::entry::{self, LIBRARIES};
use crate::launch::local::{self, LocalOptions, WorkerKind};
use crate::launch::meet::{self, Meeting};
use crate::launch::offer::Offer;
use crate::launch::process::{self, Marker};
use crate::launch::ranks::{self, Announcement, DriverSpec, Setup};
use crate::launch::role::{self, Environment, Launch};
use crate::launch::way::Met;
use crate::launch::{Exit, FINALIZE_MAX, LaunchError, with_causes};
use crate::topology::{self, HostPlacement, RankPlacement};

const LEVEL: &str = "info";

/// The part that another dcluster process has given to this one.
pub(super) fn told(env: &Environment) -> i32 {
    let log_dir = env.get(crate::launch::log::DIRECTORY).map(PathBuf::from);
    let global = Global { log_dir, ..Global::default() };
    let setup = entry::setup(env);
    let role = env.get(process::ROLE).map(String::as_str);
    match (role, env.get(process::CONNECTION_FILE), role::detect(env)) {
        (Some(bench::ZERO_WORKER), Some(file), _) => bench::zero_worker(Path::new(file)),
        (Some(local::WORKER), Some(file), _) => {
            start_log(&format!("worker {}", std::process::id()), LEVEL, &global);
            conclude(entry::join(Path::new(file), env, &setup, None))
        }
        (Some(entry::RANK), _, Some(launch)) => {
            start_log(&format!("rank {}", launch.rank), LEVEL, &global);
            conclude(ranks::follow(&launch, env, &setup))
        }
        _ => {
            eprintln!("error: {} is set by dcluster itself: unset it", process::ROLE);
            Exit::Usage.code()
        }
    }
}

/// No command: the cluster under a launcher, else help.
pub(super) fn cluster(env: &Environment, global: &Global) -> i32 {
    let Some(launch) = role::detect(env) else {
        print(super::arguments::help().as_bytes());
        return Exit::Usage.code();
    };
    start_log(&format!("rank {}", launch.rank), LEVEL, global);
    let setup = setup(global, announcement(global));
    conclude(part(&launch, env, &setup, DriverSpec::Nobody))
}

/// `run`: the cluster with a driver.
pub(super) fn run(env: &Environment, global: &Global, words: &[OsString]) -> i32 {
    let Some((program, marker)) = driver(words) else { return Exit::NotFound.code() };
    let Some(launch) = role::detect(env) else {
        start_log("", LEVEL, global);
        tracing::info!(
            "no launcher started this, so the cluster is on this machine only, as with `dcluster local`"
        );
        return local_with(global, &LocalOptions::default(), Some((program, marker)));
    };
    let mut env = env.clone();
    if marker.is_some_and(|marker| marker != Marker::OWN) {
        env.insert(process::MEETING.to_owned(), "files".to_owned());
    }
    if launch.rank > 0 && marker.is_some() {
        return become_rank(&program, &env, global);
    }
    start_log(&format!("rank {}", launch.rank), LEVEL, global);
    let setup = setup(global, Announcement::Aside);
    conclude(part(&launch, &env, &setup, DriverSpec::Program { program, works: marker.is_some() }))
}

/// `local`: the cluster on this machine.
pub(super) fn local(global: &Global, typed: &Local) -> i32 {
    start_log("", LEVEL, global);
    let options = LocalOptions { workers: typed.workers, threads: typed.threads, kind: WorkerKind::Threads };
    let driver = match typed.program.is_empty() {
        true => None,
        false => match driver(&typed.program) {
            Some(driver) => Some(driver),
            None => return Exit::NotFound.code(),
        },
    };
    local_with(global, &options, driver)
}

/// `scheduler`: one role by hand.
pub(super) fn scheduler(global: &Global) -> i32 {
    start_log("scheduler", LEVEL, global);
    conclude(local::lead_alone(&setup(global, announcement(global))))
}

/// `worker`: one role by hand.
pub(super) fn worker(env: &Environment, global: &Global, typed: &Worker) -> i32 {
    start_log(&format!("worker {}", std::process::id()), LEVEL, global);
    let file = match ask::find(global) {
        Ok((file, _)) => file,
        Err(error) => {
            eprintln!("error: {}", with_causes(&error));
            return Exit::Unavailable.code();
        }
    };
    conclude(entry::join(&file, env, &setup(global, Announcement::Silent), typed.threads))
}

/// `topo`: of the ranks of a launcher, of a cluster that is named, else of this machine.
pub(super) fn topo(env: &Environment, global: &Global, typed: &Topo) -> i32 {
    start_log("", "warn", global);
    let hosts = match role::detect(env) {
        Some(launch) => topo_of_ranks(&launch, env),
        None if typed.ranks.is_none() && (global.connection_file.is_some() || global.job.is_some()) => {
            return ask::topo(global);
        }
        None => topo::of_machine(typed.ranks).map(|host| Some(vec![host])),
    };
    match hosts {
        Ok(Some(hosts)) if global.json => {
            print(format!("{}\n", serde_json::json!({ "hosts": hosts })).as_bytes())
        }
        Ok(Some(hosts)) => print(topology::draw(&hosts).as_bytes()),
        Ok(None) => Exit::Success.code(),
        Err(error) => ranks::report(&error),
    }
}

/// The hosts with their ranks; on rank 0 only.
fn topo_of_ranks(launch: &Launch, env: &Environment) -> Result<Option<Vec<HostPlacement>>, LaunchError> {
    let mut met = Met::enter(launch, env)?;
    let meeting = met.meeting();
    let (rank, size) = (meeting.rank(), meeting.size());
    let offer = Offer { connection: (rank == 0).then(Vec::new), ..Offer::default() };
    let agreement = meet::agree(meeting, offer)?;
    let placement = RankPlacement { rank, role: meet::role_of(rank, size), binding: agreement.binding };
    let hosts = gather_hosts(meeting, placement, agreement.machine)?;
    met.adjourn().finalize(FINALIZE_MAX, Exit::Success.code());
    Ok((rank == 0).then_some(hosts))
}

fn gather_hosts(
    meeting: &mut dyn Meeting,
    mine: RankPlacement,
    machine: Option<topology::Machine>,
) -> Result<Vec<HostPlacement>, LaunchError> {
    type Piece = (String, Option<topology::Machine>, RankPlacement);
    let piece: Piece = (crate::topology::host_name(), machine, mine);
    let bytes = serde_json::to_vec(&piece).map_err(LaunchError::nonsense)?;
    let mut hosts: Vec<HostPlacement> = Vec::new();
    for bytes in meeting.all_gather("placement", &bytes)? {
        let (host, machine, rank): Piece = serde_json::from_slice(&bytes).map_err(LaunchError::nonsense)?;
        match (hosts.iter_mut().find(|known| known.host == host), machine) {
            (Some(known), _) => known.ranks.push(rank),
            // The first rank of each host brings its machine.
            (None, Some(machine)) => hosts.push(HostPlacement { host, machine, ranks: vec![rank] }),
            (None, None) => return Err(LaunchError::nonsense(format!("no rank has looked at {host}"))),
        }
    }
    Ok(hosts)
}

fn part(launch: &Launch, env: &Environment, setup: &Setup, driver: DriverSpec) -> Result<i32, LaunchError> {
    match launch.rank {
        0 => ranks::lead(launch, env, setup, driver),
        _ => ranks::follow(launch, env, setup),
    }
}

fn local_with(global: &Global, options: &LocalOptions, driver: Option<(Program, Option<Marker>)>) -> i32 {
    let mut options = options.clone();
    // Workers of a program with tasks are processes of it, others processes of this one.
    let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    options.kind = WorkerKind::Processes(match &driver {
        Some((program, Some(_))) => program.path.clone(),
        _ => own,
    });
    let (spec, announcement) = match driver {
        Some((program, marker)) => {
            (DriverSpec::Program { program, works: marker.is_some() }, Announcement::Aside)
        }
        None => (DriverSpec::Nobody, announcement(global)),
    };
    conclude(local::lead(&options, &setup(global, announcement), spec))
}

/// Replaces this process by PROGRAM as a worker rank, which has PROGRAM's tasks.
fn become_rank(program: &Program, env: &Environment, global: &Global) -> i32 {
    let mut command = std::process::Command::new(&program.path);
    command.args(&program.arguments).envs(env).env(process::ROLE, entry::RANK);
    if let Ok(libraries) = std::env::join_paths(&global.tasks)
        && !libraries.is_empty()
    {
        command.env(LIBRARIES, libraries);
    }
    if let Some(directory) = &global.log_dir {
        command.env(crate::launch::log::DIRECTORY, directory);
    }
    let error = command.exec();
    eprintln!("error: cannot execute {}: {error}", program.path.display());
    Exit::NotExecutable.code()
}

/// PROGRAM, found, and whether its `main` is dcluster's.
fn driver(words: &[OsString]) -> Option<(Program, Option<Marker>)> {
    let (name, arguments) = words.split_first()?;
    let Some(path) = process::find_program(name) else {
        eprintln!("error: {}: no such program", Path::new(name).display());
        return None;
    };
    let marker = Marker::of(&path);
    Some((Program { path, arguments: arguments.to_vec() }, marker))
}

fn setup(global: &Global, announcement: Announcement) -> Setup {
    Setup {
        connection_file: global.connection_file.clone(),
        libraries: global.tasks.clone(),
        announcement,
        client_lease: global.client_lease.map(Duration::from_secs),
        placement_wait: global.placement_wait.map(Duration::from_secs),
        memory_limit: global.memory_limit,
        spill_directory: global.spill_directory.clone(),
    }
}

fn announcement(global: &Global) -> Announcement {
    if global.json { Announcement::Json } else { Announcement::Text }
}

fn conclude(code: Result<i32, LaunchError>) -> i32 {
    code.unwrap_or_else(|error| ranks::report(&error))
}
