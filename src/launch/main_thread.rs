//! The main thread of a rank: it sleeps until it is told something, and serves MPI while a transfer is under way.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use crate::transport::mpi::{Order, Progress};

/// What a main thread is told.
pub trait Told: Sized {
    /// The order, if it is one for MPI; else what it is.
    ///
    /// # Errors
    /// Itself, for the caller.
    fn into_order(self) -> Result<Order, Self>;
}

/// The receiving end of a main thread's channel, and MPI.
#[derive(Debug)]
pub struct MainThread<T> {
    receiver: Receiver<T>,
    progress: Option<Progress>,
}

impl<T: Told> MainThread<T> {
    /// The calling thread, with MPI if there is any.
    pub fn new(receiver: Receiver<T>, progress: Option<Progress>) -> Self {
        if progress.is_some() {
            short_sleeps();
        }
        Self { receiver, progress }
    }

    /// The next thing that is not about MPI.
    ///
    /// # Errors
    /// A time-out once `until` has passed, and that all senders are gone.
    pub fn hear(&mut self, until: Option<Instant>) -> Result<T, RecvTimeoutError> {
        loop {
            let pause = self.progress.as_mut().and_then(Progress::poll);
            let told = match self.wait(pause, until) {
                Err(RecvTimeoutError::Timeout) if until.is_none_or(|until| Instant::now() < until) => {
                    continue;
                }
                told => told,
            }?;
            match (told.into_order(), &mut self.progress) {
                (Ok(order), Some(progress)) => progress.take(order),
                // Nobody else gives orders.
                (Ok(_), None) => {}
                (Err(other), _) => return Ok(other),
            }
        }
    }

    /// The end: brings what is under way to its end, so that MPI can be finalised. Whether it can.
    pub fn drain(&mut self, within: Duration) -> bool {
        let Some(progress) = &mut self.progress else { return true };
        let receiver = &self.receiver;
        progress.drain(within, || receiver.try_iter().find_map(|told| told.into_order().ok()))
    }

    fn wait(&self, pause: Option<Duration>, until: Option<Instant>) -> Result<T, RecvTimeoutError> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        match (pause, left) {
            (None, None) => self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            (Some(Duration::ZERO), _) => self.receiver.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            }),
            (Some(pause), None) => self.receiver.recv_timeout(pause),
            (pause, Some(left)) => self.receiver.recv_timeout(pause.map_or(left, |pause| pause.min(left))),
        }
    }
}

/// Lets this thread sleep for microseconds: by default Linux makes 50 more of each sleep.
fn short_sleeps() {
    if let Err(error) = nix::sys::prctl::set_timerslack(1) {
        tracing::debug!(%error, "sleeps stay long");
    }
}
