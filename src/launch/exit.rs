//! The exit codes of every dcluster process, in one place, and the two ways out.
//!
//! The table is printed by `dcluster --help`. A driver's own code passes through unchanged.

#![allow(unsafe_code)] // `_exit` has no safe wrapper

use std::fmt::Write as _;
use std::process::ExitCode;

use super::code_file;

/// Why a process ends, as its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// All went well.
    Success,
    /// The driver returned an error, or the command failed.
    Failure,
    /// The command line is wrong.
    Usage,
    /// No cluster is reachable: no connection file, a stale one, or nobody answers.
    Unavailable,
    /// A bug in dcluster.
    Internal,
    /// The ranks of a launch did not find each other.
    Launch,
    /// A worker lost its scheduler.
    SchedulerLost,
    /// The last worker died.
    WorkersLost,
    /// The driver panicked.
    Panic,
    /// A time limit passed.
    Timeout,
    /// PROGRAM cannot be executed.
    NotExecutable,
    /// PROGRAM was not found.
    NotFound,
    /// A signal, or a driver killed by one.
    Signal(i32),
    /// What the driver said.
    Driver(i32),
}

const DOCUMENTED: &[(Exit, &str)] = &[
    (Exit::Success, "success"),
    (Exit::Failure, "the driver returned an error, or the command failed"),
    (Exit::Usage, "the command line is wrong"),
    (Exit::Unavailable, "no cluster is reachable: no connection file, an old one, or nobody answers"),
    (Exit::Internal, "a bug in dcluster; please report it"),
    (Exit::Launch, "the ranks of the launch did not find each other, or have no tasks in common"),
    (Exit::SchedulerLost, "a worker lost its scheduler"),
    (Exit::WorkersLost, "the last worker died"),
    (Exit::Panic, "the driver panicked"),
    (Exit::Timeout, "a time limit passed"),
    (Exit::NotExecutable, "PROGRAM cannot be executed"),
    (Exit::NotFound, "PROGRAM was not found"),
    (Exit::Signal(1), "ended by SIGHUP"),
    (Exit::Signal(2), "ended by SIGINT (Ctrl-C)"),
    (Exit::Signal(9), "the driver was killed (128 + signal number for any signal)"),
    (Exit::Signal(15), "ended by SIGTERM"),
];

impl Exit {
    /// The number that the parent process sees.
    pub fn code(self) -> i32 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Launch => crate::scheduler::io::TURNED_AWAY,
            Self::SchedulerLost => 74,
            Self::WorkersLost => crate::scheduler::io::WORKERS_LOST,
            Self::Panic => 101,
            Self::Timeout => 124,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
            Self::Signal(number) => 128 + number,
            Self::Driver(code) => code & 0xff,
        }
    }
}

/// The table of codes as text, one line each.
pub fn table() -> String {
    DOCUMENTED.iter().fold(String::new(), |mut text, (exit, meaning)| {
        let _ = writeln!(text, "  {:>3}  {meaning}", exit.code());
        text
    })
}

/// What `main` returns to end with `code`.
pub fn in_order(code: i32) -> ExitCode {
    code_file::write(code);
    super::outcome::exit_code(code)
}

/// Ends the process at once: no destructor, no `atexit`, hence no `MPI_Finalize`.
pub fn at_once(code: i32) -> ! {
    code_file::write(code);
    // SAFETY: `_exit` takes any number and does not return; nothing of this process is used after it.
    unsafe { libc::_exit(code) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_documented_code_means_one_thing() {
        let mut codes: Vec<i32> = DOCUMENTED.iter().map(|(exit, _)| exit.code()).collect();
        let count = codes.len();
        codes.dedup();
        assert_eq!(codes.len(), count);
        assert!(codes.is_sorted());
    }

    #[test]
    fn a_drivers_code_passes_unchanged() {
        assert_eq!(Exit::Driver(7).code(), 7);
        assert_eq!(Exit::Signal(15).code(), 143);
    }
}
