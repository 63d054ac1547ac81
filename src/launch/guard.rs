//! A guard beside rank 0: this program again, which cleans up when rank 0 is gone without having done so.
//!
//! It waits for rank 0's end of a pipe to close. It leads the process group of the driver, and removes the connection
//! file, whose content it was told over the pipe; so nothing survives, not even when rank 0 is killed. On the ordinary
//! way rank 0 cleans up and ends the guard.

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

use super::exit;
use super::process;

/// The value of [`process::ROLE`] that makes this program a guard.
pub const ROLE: &str = "guard";
/// How long what a driver leaves behind may take to end after SIGTERM.
const LEFTOVER_GRACE: Duration = Duration::from_secs(1);
/// The same, when nobody is there any more to wait for it.
const ORPHAN_GRACE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(20);

/// A guard that runs.
#[derive(Debug)]
pub struct Guard {
    /// None once it was ended.
    child: Mutex<Option<Child>>,
    group: Pid,
    /// Closed with this process.
    _pipe: Option<ChildStdin>,
}

impl Guard {
    /// Starts a guard for this process and its connection file.
    ///
    /// # Errors
    /// What the system says if this program cannot be started again.
    pub fn start(connection_file: &Path) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        process::strip_launcher(&mut command);
        command.arg("guard").env(process::ROLE, ROLE).env(process::CONNECTION_FILE, connection_file);
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let content = fs::read(connection_file)?;
        let mut child = command.spawn()?;
        let group = Pid::from_raw(child.id() as i32);
        let mut pipe = child.stdin.take();
        // (A pipe has room for so little.)
        pipe.iter_mut().try_for_each(|pipe| pipe.write_all(&content))?;
        Ok(Self { _pipe: pipe, child: Mutex::new(Some(child)), group })
    }

    /// The process group that it leads, for the driver to join.
    pub fn group(&self) -> Pid {
        self.group
    }

    /// Ends what the driver has left behind in the group.
    pub fn clear_group(&self) {
        end_others(self.group, LEFTOVER_GRACE);
    }

    /// Ends the guard and its group at once.
    pub fn dismiss(&self) {
        // Only while the guard is not waited for is the group's number surely its own.
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = killpg(self.group, Signal::SIGKILL);
            let _ = child.wait();
        }
    }
}

/// What the guard does; does not return.
pub fn guard() -> ! {
    // It outlives every polite signal to its group.
    let _ = SigSet::all().thread_block();
    let file = env::var_os(process::CONNECTION_FILE).unwrap_or_default();
    let mut content = Vec::new();
    let _ = io::stdin().read_to_end(&mut content);
    // Another cluster may have written its own file there since.
    if !content.is_empty() && fs::read(&file).is_ok_and(|found| found == content) {
        let _ = fs::remove_file(&file);
    }
    let group = nix::unistd::getpgrp();
    if group == nix::unistd::getpid() {
        end_others(group, ORPHAN_GRACE);
        let _ = killpg(group, Signal::SIGKILL);
    }
    exit::at_once(0)
}

/// Asks everyone in `group` but its leader to end, and waits a while.
fn end_others(group: Pid, grace: Duration) {
    let until = Instant::now() + grace;
    if others(group) {
        // The leader blocks it.
        let _ = killpg(group, Signal::SIGTERM);
    }
    while others(group) && Instant::now() < until {
        thread::sleep(POLL);
    }
}

/// Whether `group` has a living process besides its leader.
fn others(group: Pid) -> bool {
    let Ok(processes) = fs::read_dir("/proc") else { return false };
    processes.flatten().any(|entry| {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            return false;
        };
        process != group.as_raw() && group_of_living(process) == Some(group.as_raw())
    })
}

/// The group of a process, unless it is a zombie.
fn group_of_living(process: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may contain anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    (state != "Z" && state != "X").then_some(group)
}
