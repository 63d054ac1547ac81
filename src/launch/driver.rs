//! A program as the driver beside rank 0: started with the connection file, ended with all it has started.
//!
//! The driver and its children form a process group. Its leader is a guard: this program again, which waits for rank 0's
//! end of a pipe to close and then ends the group. So nothing survives, not even when rank 0 is killed.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::unistd::Pid;

use super::exit::{self, Exit};
use super::process;
use crate::topology::{self, CpuSet};

/// The value of [`process::ROLE`] that makes this program a guard.
pub const GUARD: &str = "guard";
/// How long what a driver leaves behind may take to end after SIGTERM.
const LEFTOVER_GRACE: Duration = Duration::from_secs(1);
/// The same, when nobody is there any more to wait for it.
const ORPHAN_GRACE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);

/// A program to drive the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its file.
    pub path: PathBuf,
    /// What it is called with.
    pub arguments: Vec<OsString>,
}

/// A driver that runs.
#[derive(Debug)]
pub struct Driver {
    process: Pid,
    group: Pid,
}

impl Driver {
    /// Starts `program`; `on_end` is called with its exit code when it and its group are over.
    ///
    /// # Errors
    /// What the system says if it cannot be executed.
    pub fn start(
        program: &Program,
        connection_file: &Path,
        cpus: &CpuSet,
        on_end: impl FnOnce(i32) + Send + 'static,
    ) -> io::Result<Self> {
        let (answer, started) = mpsc::channel();
        let (program, connection_file, cpus) = (program.clone(), connection_file.to_owned(), cpus.clone());
        // The child ends with the thread that starts it, so that thread stays.
        thread::Builder::new().name("driver".to_owned()).spawn(move || {
            if let Err(error) = topology::pin_thread(&cpus) {
                tracing::debug!(%error, "the driver stays bound as rank 0 is");
            }
            match spawn(&program, &connection_file) {
                Ok((child, group)) => {
                    let driver = Self { process: pid(&child), group: pid(&group.guard) };
                    if answer.send(Ok(driver)).is_ok() {
                        on_end(wait(child, group));
                    }
                }
                Err(error) => drop(answer.send(Err(error))),
            }
        })?;
        started.recv().map_err(|_| io::Error::other("the driver's thread ended early"))?
    }

    /// Hands a signal to the program.
    pub fn signal(&self, number: i32) {
        if let Ok(signal) = Signal::try_from(number) {
            // It may just have ended.
            let _ = kill(self.process, signal);
        }
    }

    /// Asks the program and its group to end.
    pub fn end(&self) {
        let _ = killpg(self.group, Signal::SIGTERM);
    }

    /// Ends the program and its group.
    pub fn kill(&self) {
        let _ = killpg(self.group, Signal::SIGKILL);
    }
}

/// The exit code that stands for how a process ended.
pub fn exit_code(status: ExitStatus) -> i32 {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Driver(code).code(),
        (None, Some(signal)) => Exit::Signal(signal).code(),
        (None, None) => Exit::Failure.code(),
    }
}

/// The code for a program that does not start.
pub fn start_failure(error: &io::Error) -> Exit {
    match error.kind() {
        io::ErrorKind::NotFound => Exit::NotFound,
        _ => Exit::NotExecutable,
    }
}

/// What a guard does: waits until standard input closes, then ends its process group and itself.
pub fn guard() -> ! {
    // It outlives every polite signal to its group.
    let _ = SigSet::all().thread_block();
    let mut nothing = Vec::new();
    let _ = io::stdin().read_to_end(&mut nothing);
    let group = nix::unistd::getpgrp();
    if group == nix::unistd::getpid() {
        end_group(group, group, ORPHAN_GRACE);
        let _ = killpg(group, Signal::SIGKILL);
    }
    exit::at_once(0)
}

/// The driver's process group, kept by its guard.
struct Group {
    guard: Child,
    _pipe: Option<ChildStdin>,
    has_terminal: bool,
}

fn spawn(program: &Program, connection_file: &Path) -> io::Result<(Child, Group)> {
    let mut guard = Command::new("/proc/self/exe");
    process::strip_launcher(&mut guard);
    guard.arg("guard-of-driver").env(process::ROLE, GUARD).process_group(0);
    guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut guard = guard.spawn()?;
    let group = Group { _pipe: guard.stdin.take(), guard, has_terminal: io::stdin().is_terminal() };

    let mut command = Command::new(&program.path);
    process::strip_launcher(&mut command);
    command.args(&program.arguments).env(process::CONNECTION_FILE, connection_file);
    command.process_group(pid(&group.guard).as_raw());
    process::end_with_parent(&mut command, Signal::SIGKILL);
    if group.has_terminal {
        process::give_terminal(&mut command);
    }
    match command.spawn() {
        Ok(child) => Ok((child, group)),
        Err(error) => {
            dissolve(group);
            Err(error)
        }
    }
}

fn wait(mut child: Child, group: Group) -> i32 {
    let code = child.wait().map_or(Exit::Internal.code(), exit_code);
    let leader = pid(&group.guard);
    end_group(leader, leader, LEFTOVER_GRACE);
    dissolve(group);
    code
}

fn dissolve(mut group: Group) {
    if group.has_terminal {
        // The terminal may be gone.
        let _ = process::take_terminal();
    }
    let _ = killpg(pid(&group.guard), Signal::SIGKILL);
    let _ = group.guard.wait();
}

/// Asks everyone in `group` but `except` to end, and waits a while.
fn end_group(group: Pid, except: Pid, grace: Duration) {
    let until = Instant::now() + grace;
    if others(group, except) {
        let _ = killpg(group, Signal::SIGTERM);
    }
    while others(group, except) && Instant::now() < until {
        thread::sleep(POLL);
    }
}

/// Whether `group` has a living process besides `except`.
fn others(group: Pid, except: Pid) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    processes.flatten().any(|entry| {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            return false;
        };
        process != except.as_raw() && group_of_living(process) == Some(group.as_raw())
    })
}

/// The group of a process, unless it is a zombie.
fn group_of_living(process: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    (state != "Z" && state != "X").then_some(group)
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32)
}
