//! A program as the driver beside rank 0: started with the connection file, ended with all it has started.
//!
//! The driver and its children are in the process group that the [`super::guard`] leads.

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, mpsc};
use std::thread;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::exit::Exit;
use super::guard::Guard;
use super::process;
use crate::topology::{self, CpuSet};

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
    guard: Arc<Guard>,
}

impl Driver {
    /// Starts `program`; `on_end` is called with its exit code when it and what it has started are over.
    ///
    /// # Errors
    /// What the system says if it cannot be executed.
    pub fn start(
        program: &Program,
        connection_file: &Path,
        cpus: &CpuSet,
        guard: &Arc<Guard>,
        on_end: impl FnOnce(i32) + Send + 'static,
    ) -> io::Result<Self> {
        let (answer, started) = mpsc::channel();
        let (program, connection_file, cpus) = (program.clone(), connection_file.to_owned(), cpus.clone());
        let guarded = Arc::clone(guard);
        // The child ends with the thread that starts it, so that thread stays.
        thread::Builder::new().name("driver".to_owned()).spawn(move || {
            if let Err(error) = topology::pin_thread(&cpus) {
                tracing::debug!(%error, "the driver stays bound as rank 0 is");
            }
            let has_terminal = io::stdin().is_terminal();
            match spawn(&program, &connection_file, guarded.group(), has_terminal) {
                Ok(child) => {
                    let process = Pid::from_raw(child.id() as i32);
                    if answer.send(Ok(process)).is_ok() {
                        on_end(wait(child, &guarded, has_terminal));
                    }
                }
                Err(error) => drop(answer.send(Err(error))),
            }
        })?;
        let process = started.recv().map_err(|_| io::Error::other("the driver's thread ended early"))??;
        Ok(Self { process, guard: Arc::clone(guard) })
    }

    /// Hands a signal to the program.
    pub fn signal(&self, number: i32) {
        if let Ok(signal) = Signal::try_from(number) {
            // It may just have ended.
            let _ = kill(self.process, signal);
        }
    }

    /// Asks the program and what it has started to end.
    pub fn end(&self) {
        let _ = killpg(self.guard.group(), Signal::SIGTERM);
    }

    /// Ends the program and what it has started.
    pub fn kill(&self) {
        self.guard.dismiss();
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

fn spawn(program: &Program, connection_file: &Path, group: Pid, has_terminal: bool) -> io::Result<Child> {
    let mut command = Command::new(&program.path);
    process::strip_launcher(&mut command);
    command.args(&program.arguments).env(process::CONNECTION_FILE, connection_file);
    command.process_group(group.as_raw());
    process::end_with_parent(&mut command, Signal::SIGKILL);
    if has_terminal {
        process::give_terminal(&mut command);
    }
    command.spawn()
}

fn wait(mut child: Child, guard: &Guard, has_terminal: bool) -> i32 {
    let code = child.wait().map_or(Exit::Internal.code(), exit_code);
    guard.clear_group();
    if has_terminal {
        // The terminal may be gone.
        let _ = process::take_terminal();
    }
    code
}
