//! Rank 0 from the first thread to the exit code: notices in, steps out.
//!
//! The main thread sleeps here on a channel. [`super::ending`] decides; this file carries out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Instant;

use super::code_file;
use super::driver::{Driver, Program, start_failure};
use super::ending::{DriverState, Ending, Manner, Notice, Step};
use super::exit::Exit;
use super::guard::Guard;
use super::scheduler::RunningScheduler;
use super::signals;
use crate::topology::{self, CpuSet};

/// A driver in this process: gives an exit code.
pub type Body = Box<dyn FnOnce() -> i32 + Send>;

/// What drives a cluster.
pub enum DriverPlan {
    /// Clients that attach.
    Nobody,
    /// A program in a process of its own.
    Program {
        /// What to start.
        program: Program,
        /// What it is told.
        connection_file: std::path::PathBuf,
    },
    /// The body of `#[dcluster::main]`.
    Body(Body),
}

/// What rank 0 leads.
pub struct Lead {
    /// The scheduler, at work.
    pub scheduler: RunningScheduler,
    /// Where notices come in; the sender is kept so that there is always one.
    pub notices: (Sender<Notice>, Receiver<Notice>),
    /// The CPUs this process was started on, for the driver, which is not bound as rank 0 is.
    pub cpus: CpuSet,
    /// Cleans up if this process cannot.
    pub guard: Arc<Guard>,
    /// Removes the connection file.
    pub close_door: Box<dyn FnOnce()>,
}

impl Lead {
    /// Starts the driver and returns when everything is over: the exit code, and how to leave.
    pub fn run(self, plan: DriverPlan) -> (i32, Manner) {
        let Self { scheduler, notices: (sender, receiver), cpus, guard, close_door } = self;
        signals::heed();
        let mut close_door = Some(close_door);
        let driver = start(plan, &sender, &cpus, &guard);
        let state = if driver.is_some() { DriverState::Running } else { DriverState::Absent };
        let mut ending = Ending::new(state);
        loop {
            let steps = next_steps(&mut ending, &receiver);
            if let Some(code) = ending.code() {
                code_file::write(code);
            }
            for step in steps {
                match step {
                    Step::CloseDoor => {
                        if let Some(close) = close_door.take() {
                            close();
                        }
                    }
                    Step::SignalDriver(number) => driver.iter().for_each(|driver| driver.signal(number)),
                    Step::EndDriver => driver.iter().for_each(Driver::end),
                    Step::KillDriver => driver.iter().for_each(Driver::kill),
                    Step::StopCluster { code, reason } => scheduler.stop(code, reason),
                    Step::Leave { code, manner } => {
                        if let Some(close) = close_door.take() {
                            close();
                        }
                        guard.dismiss();
                        // After a death MPI_Finalize may never return.
                        let manner = if scheduler.has_lost_workers() { Manner::AtOnce } else { manner };
                        return (code, manner);
                    }
                }
            }
        }
    }
}

fn next_steps(ending: &mut Ending, receiver: &Receiver<Notice>) -> Vec<Step> {
    let notice = match ending.deadline() {
        None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some(at) => receiver.recv_timeout(at.saturating_duration_since(Instant::now())),
    };
    match notice {
        Ok(notice) => {
            tracing::debug!(?notice, "heard");
            ending.hear(Instant::now(), notice)
        }
        Err(RecvTimeoutError::Timeout) => ending.passed(Instant::now()),
        Err(RecvTimeoutError::Disconnected) => {
            vec![Step::Leave { code: Exit::Internal.code(), manner: Manner::AtOnce }]
        }
    }
}

/// Starts what drives the cluster; gives it if it is a process, which can be signalled.
fn start(plan: DriverPlan, sender: &Sender<Notice>, cpus: &CpuSet, guard: &Arc<Guard>) -> Option<Driver> {
    let ended = sender.clone();
    // The receiver lives as long as the process.
    let on_end = move |code| drop(ended.send(Notice::DriverEnded(code)));
    match plan {
        DriverPlan::Nobody => None,
        DriverPlan::Program { program, connection_file } => {
            match Driver::start(&program, &connection_file, cpus, guard, on_end) {
                Ok(driver) => Some(driver),
                Err(error) => {
                    let exit = start_failure(&error);
                    tracing::error!(program = %program.path.display(), %error, "the driver does not start");
                    let _ = sender.send(Notice::DriverEnded(exit.code()));
                    None
                }
            }
        }
        DriverPlan::Body(body) => {
            let cpus = cpus.clone();
            let run = move || {
                if let Err(error) = topology::pin_thread(&cpus) {
                    tracing::debug!(%error, "the driver stays bound as this rank is");
                }
                // The panic has been printed by the hook.
                on_end(catch_unwind(AssertUnwindSafe(body)).unwrap_or(Exit::Panic.code()));
            };
            if let Err(error) = thread::Builder::new().name("driver".to_owned()).spawn(run) {
                tracing::error!(%error, "the driver's thread does not start");
                let _ = sender.send(Notice::DriverEnded(Exit::Internal.code()));
            }
            None
        }
    }
}
