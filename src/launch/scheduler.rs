//! The scheduler on a thread of its own, from the port it listens on to the end of the cluster.
//!
//! The port is bound on the main thread, because the ranks must know the address before any of them starts a thread;
//! the runtime then moves to the scheduler's thread.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::LaunchError;
use super::ending::Notice;
use crate::scheduler::io::{CLIENT_LEASE, SchedulerConfig, StopHandle, serve};
use crate::security::run_directory::Surroundings;
use crate::security::{ConnectionFile, ConnectionFileGuard, Credentials};
use crate::transport::tcp::{self, Listener, Reach};
use crate::wire::handshake::Role;
use crate::wire::worker::Shutdown;

/// A scheduler that listens and does not answer yet.
#[derive(Debug)]
pub struct BoundScheduler {
    runtime: Runtime,
    listener: Listener,
    connection: ConnectionFile,
}

/// A scheduler at work.
#[derive(Debug, Clone)]
pub struct RunningScheduler {
    stop: StopHandle,
    workers_lost: Arc<AtomicU32>,
}

impl BoundScheduler {
    /// Makes the credentials of the run `name` and listens.
    ///
    /// # Errors
    /// [`LaunchError`] if there is no randomness, no port or no memory.
    pub fn bind(reach: &Reach, name: &str) -> Result<Self, LaunchError> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let run = Credentials::generate().map_err(|error| LaunchError::Listen(Box::new(error)))?;
        let hello = tcp::hello(Role::Scheduler, None);
        let bound = runtime.block_on(Listener::bind(reach, 0, &run.scheduler, hello.clone()));
        let listener = bound.map_err(|error| LaunchError::Listen(Box::new(error)))?;
        let job = Surroundings::of_process().job_id;
        let connection = ConnectionFile::new(name, job, listener.address(), &hello, run.member);
        Ok(Self { runtime, listener, connection })
    }

    /// What workers and clients need to reach it.
    pub fn connection(&self) -> &ConnectionFile {
        &self.connection
    }

    /// Writes the connection file, at `path` or where clients look first.
    ///
    /// # Errors
    /// [`LaunchError::ConnectionFile`] if it cannot be written.
    pub fn publish(&self, path: Option<&Path>) -> Result<ConnectionFileGuard, LaunchError> {
        let failed = |error: &dyn std::error::Error| LaunchError::ConnectionFile(super::with_causes(error));
        let path = match path {
            Some(path) => path.to_owned(),
            None => default_path().map_err(|error| failed(&error))?,
        };
        let guard = self.connection.write(&path).map_err(|error| failed(&error))?;
        super::leftovers::add(guard.path());
        Ok(guard)
    }

    /// Starts to answer; `notify` hears of its end.
    ///
    /// `workers_expected` are on their way: an early end waits for them, so that each hears of it. What a client holds
    /// whose connection breaks is kept for `client_lease`, or for the usual time.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(
        self,
        workers_expected: u32,
        client_lease: Option<Duration>,
        notify: impl FnOnce(Notice) + Send + 'static,
    ) -> Result<RunningScheduler, LaunchError> {
        let client_lease = client_lease.unwrap_or(CLIENT_LEASE);
        let config = SchedulerConfig { workers_expected, client_lease, ..SchedulerConfig::default() };
        let (stop, workers_lost) = (config.stop.clone(), Arc::clone(&config.workers_lost));
        let run = move || {
            let shutdown = self.runtime.block_on(serve(self.listener, config));
            notify(Notice::ClusterEnded { code: shutdown.code, reason: shutdown.reason });
        };
        thread::Builder::new().name("scheduler".to_owned()).spawn(run)?;
        Ok(RunningScheduler { stop, workers_lost })
    }
}

impl RunningScheduler {
    /// Ends the cluster, all ranks with this code.
    pub fn stop(&self, code: i32, reason: String) {
        self.stop.stop(Shutdown { reason, code });
    }

    /// Whether a worker left before the end.
    pub fn has_lost_workers(&self) -> bool {
        self.workers_lost.load(Ordering::Relaxed) > 0
    }
}

fn default_path() -> Result<PathBuf, crate::security::run_directory::FindError> {
    Surroundings::of_process().default_path(&crate::topology::host_name(), std::process::id())
}
