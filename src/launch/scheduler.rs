//! The scheduler on a thread of its own, from the port it listens on to the end of the cluster.
//!
//! The port is bound on the main thread, because the ranks must know the address before any of them starts a thread;
//! the runtime then moves to the scheduler's thread.

use std::thread;

use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

use super::LaunchError;
use super::ending::Notice;
use crate::scheduler::io::{SchedulerConfig, StopHandle, serve};
use crate::security::Credentials;
use crate::transport::tcp::{self, Listener, Reach};
use crate::wire::handshake::Role;
use crate::wire::worker::Shutdown;

/// What a worker or client needs to reach the scheduler.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Door {
    /// `host:port`.
    pub address: String,
    /// Shown to the scheduler.
    pub credentials: Credentials,
}

/// A scheduler that listens and does not answer yet.
#[derive(Debug)]
pub struct BoundScheduler {
    runtime: Runtime,
    listener: Listener,
    door: Door,
}

/// A scheduler at work.
#[derive(Debug)]
pub struct RunningScheduler {
    stop: StopHandle,
}

impl BoundScheduler {
    /// Makes the credentials of a run and listens.
    ///
    /// # Errors
    /// [`LaunchError`] if there is no randomness, no port or no memory.
    pub fn bind(reach: &Reach) -> Result<Self, LaunchError> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let run = Credentials::generate().map_err(|error| LaunchError::Listen(Box::new(error)))?;
        let hello = tcp::hello(Role::Scheduler, None);
        let bound = runtime.block_on(Listener::bind(reach, 0, &run.scheduler, hello));
        let listener = bound.map_err(|error| LaunchError::Listen(Box::new(error)))?;
        let door = Door { address: listener.address().to_owned(), credentials: run.member };
        Ok(Self { runtime, listener, door })
    }

    /// What others need to reach it.
    pub fn door(&self) -> &Door {
        &self.door
    }

    /// Starts to answer; `notify` hears of its end.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(self, notify: impl FnOnce(Notice) + Send + 'static) -> Result<RunningScheduler, LaunchError> {
        let config = SchedulerConfig::default();
        let stop = config.stop.clone();
        let run = move || {
            let shutdown = self.runtime.block_on(serve(self.listener, config));
            notify(Notice::ClusterEnded { code: shutdown.code, reason: shutdown.reason });
        };
        thread::Builder::new().name("scheduler".to_owned()).spawn(run)?;
        Ok(RunningScheduler { stop })
    }
}

impl RunningScheduler {
    /// Ends the cluster, all ranks with this code.
    pub fn stop(&self, code: i32, reason: String) {
        self.stop.stop(Shutdown { reason, code });
    }
}
