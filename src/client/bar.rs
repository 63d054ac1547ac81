//! A bar in the terminal while large values travel: how much, how fast, how long still.
//!
//! A [`Bar`] is there for every scatter and gather; it is shown if standard error is a terminal, and if the transfer is
//! large or takes long. The lanes count bytes on its [`Meter`]; one thread of the process draws what was counted.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::transport::data::Meter;

/// A transfer of this many bytes is shown at once,
const SHOWN_BYTES_MIN: u64 = 256 << 20;
/// any other after this long.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
const REDRAWN_EVERY: Duration = Duration::from_millis(100);

const STYLE: &str = "{prefix:>20} {wide_bar:.cyan/blue} {binary_bytes:>10}/{binary_total_bytes} \
                     {binary_bytes_per_sec:>12}, {eta} left";

/// Whether bars are shown while large values travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Progress {
    /// If standard error is a terminal.
    #[default]
    Terminal,
    /// Never.
    Off,
}

impl Progress {
    /// What the environment variable `DCLUSTER_PROGRESS` says: `off`, or nothing.
    pub(super) fn of_environment() -> Self {
        match std::env::var_os("DCLUSTER_PROGRESS") {
            Some(word) if word == "off" => Self::Off,
            _ => Self::Terminal,
        }
    }
}

/// The bar of one transfer; dropping it takes it away.
pub(super) struct Bar(Option<Arc<Transfer>>);

struct Transfer {
    what: &'static str,
    begun: Instant,
    moved_bytes: Arc<AtomicU64>,
    total_bytes: AtomicU64,
    shown: Mutex<Shown>,
}

enum Shown {
    NotYet,
    Bar(ProgressBar),
    Over,
}

impl Bar {
    /// A bar for a transfer of so many bytes, or more as [`set_total`](Self::set_total) says.
    pub(super) fn new(progress: Progress, what: &'static str, total_bytes: u64) -> Self {
        if progress == Progress::Off || !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let transfer = Arc::new(Transfer {
            what,
            begun: Instant::now(),
            moved_bytes: Arc::default(),
            total_bytes: AtomicU64::new(total_bytes),
            shown: Mutex::new(Shown::NotYet),
        });
        if let Ok(drawer) = DRAWER.lock() {
            // Without the thread nothing is drawn, which harms nobody.
            let _ = drawer.send(transfer.clone());
        }
        Self(Some(transfer))
    }

    /// What counts the bytes.
    pub(super) fn meter(&self) -> Meter {
        self.0.as_ref().map_or_else(Meter::default, |transfer| Meter::on(transfer.moved_bytes.clone()))
    }

    /// Says how much it will be in all.
    pub(super) fn set_total(&self, total_bytes: u64) {
        if let Some(transfer) = &self.0 {
            transfer.total_bytes.store(total_bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(transfer) = &self.0
            && let Shown::Bar(bar) = std::mem::replace(&mut *transfer.shown(), Shown::Over)
        {
            bar.finish_and_clear();
            BARS.remove(&bar);
        }
    }
}

impl Transfer {
    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws it, if that is due; false once it is over.
    fn draw(&self) -> bool {
        let (total, moved) = (&self.total_bytes, &self.moved_bytes);
        let (total, moved) = (total.load(Ordering::Relaxed), moved.load(Ordering::Relaxed));
        let mut shown = self.shown();
        if matches!(*shown, Shown::NotYet)
            && (total >= SHOWN_BYTES_MIN || self.begun.elapsed() >= SHOWN_AFTER)
        {
            let style = ProgressStyle::with_template(STYLE).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(total).with_style(style).with_prefix(self.what);
            *shown = Shown::Bar(BARS.add(bar));
        }
        match &*shown {
            Shown::NotYet => true,
            Shown::Bar(bar) => {
                bar.set_length(total.max(moved));
                bar.set_position(moved);
                true
            }
            Shown::Over => false,
        }
    }
}

/// All bars of this process: they share the terminal.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Where the thread that draws takes transfers from.
static DRAWER: LazyLock<Mutex<mpsc::Sender<Arc<Transfer>>>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel();
    let spawned = std::thread::Builder::new().name("dcluster-bars".to_owned()).spawn(move || draw(&receiver));
    if let Err(error) = spawned {
        tracing::debug!(%error, "no thread for progress bars; none are shown");
    }
    Mutex::new(sender)
});

fn draw(receiver: &mpsc::Receiver<Arc<Transfer>>) {
    let mut transfers: Vec<Arc<Transfer>> = Vec::new();
    loop {
        let next = match transfers.is_empty() {
            true => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false => receiver.recv_timeout(REDRAWN_EVERY),
        };
        match next {
            Ok(transfer) => transfers.push(transfer),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        transfers.retain(|transfer| transfer.draw());
    }
}
