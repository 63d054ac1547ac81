//! Signals, heard on a thread of their own and handed on as plain numbers.
//!
//! Handlers rather than a blocked mask, because children reset handlers and would inherit the mask. The thread sleeps
//! in `epoll` until a signal comes.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Exit, exit, leftovers};

/// Whether the main thread acts on signals; until then one ends the process.
static HEEDED: AtomicBool = AtomicBool::new(false);

/// A signal that dcluster acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// SIGINT, SIGTERM, SIGHUP or SIGXCPU: the process is to end.
    End(i32),
    /// SIGUSR1 or SIGUSR2: for the driver.
    Forward(i32),
}

/// Which signals are listened to; the others keep their default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those that end the process.
    Ending,
    /// Those, and SIGUSR1 and SIGUSR2 for a driver in a process of its own.
    EndingAndForwarded,
}

/// From here on the main thread acts on signals.
///
/// Before, it may be inside MPI or wait for other ranks, and an ending signal ends the process at once.
pub fn heed() {
    HEEDED.store(true, Ordering::Release);
}

/// Calls `on_signal` for each signal, from when this returns until the process ends.
///
/// # Errors
/// If the thread or a handler cannot be set up.
pub fn listen(scope: Scope, on_signal: impl FnMut(Heard) + Send + 'static) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    // Handlers are in place before anything else starts.
    let signals = runtime.block_on(async { Signals::new(scope) })?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || runtime.block_on(signals.hand_on(on_signal)))?;
    Ok(())
}

struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
    /// SIGXCPU, which Open MPI's `mpirun` hands to the ranks without a second thought, unlike the others.
    limit: Signal,
    user: Option<(Signal, Signal)>,
}

impl Signals {
    fn new(scope: Scope) -> io::Result<Self> {
        let user = match scope {
            Scope::Ending => None,
            Scope::EndingAndForwarded => {
                Some((signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?))
            }
        };
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            limit: signal(SignalKind::from_raw(libc::SIGXCPU))?,
            user,
        })
    }

    async fn hand_on(mut self, mut on_signal: impl FnMut(Heard)) {
        loop {
            let heard = match &mut self.user {
                Some((first, second)) => tokio::select! {
                    _ = self.hangup.recv() => Heard::End(libc::SIGHUP),
                    _ = self.interrupt.recv() => Heard::End(libc::SIGINT),
                    _ = self.terminate.recv() => Heard::End(libc::SIGTERM),
                    _ = self.limit.recv() => Heard::End(libc::SIGXCPU),
                    _ = first.recv() => Heard::Forward(libc::SIGUSR1),
                    _ = second.recv() => Heard::Forward(libc::SIGUSR2),
                },
                None => tokio::select! {
                    _ = self.hangup.recv() => Heard::End(libc::SIGHUP),
                    _ = self.interrupt.recv() => Heard::End(libc::SIGINT),
                    _ = self.terminate.recv() => Heard::End(libc::SIGTERM),
                    _ = self.limit.recv() => Heard::End(libc::SIGXCPU),
                },
            };
            if let Heard::End(number) = heard
                && !HEEDED.load(Ordering::Acquire)
            {
                leftovers::remove_all();
                exit::at_once(Exit::Signal(number).code());
            }
            on_signal(heard);
        }
    }
}
