//! Ends the process when something that cannot be interrupted takes too long: a call into MPI that waits for others.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::exit;

/// Watches until it is dropped.
#[derive(Debug)]
pub(super) struct Watchdog {
    _called_off: mpsc::Sender<()>,
}

impl Watchdog {
    /// Ends the process with `code` in `within` from this moment; `complain` is called before.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub(super) fn start(
        within: Duration,
        code: i32,
        complain: impl FnOnce() + Send + 'static,
    ) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<()>();
        thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            if receiver.recv_timeout(within) == Err(RecvTimeoutError::Timeout) {
                complain();
                exit::at_once(code)
            }
        })?;
        Ok(Self { _called_off: sender })
    }
}
