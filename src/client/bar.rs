//! How far a program is, on standard error: bars in a terminal, a line now and then elsewhere.
//!
//! A [`Bar`] is there for every scatter and gather of far values: how much, how fast, how long still. In a terminal it is
//! shown if the transfer is large or takes long; elsewhere, as under `mpirun`, a line is printed every ten seconds. The
//! lanes count bytes on its [`Meter`]; one thread of the process shows what was counted. [`progress`] is a bar per
//! function for a long wait. All bars share the terminal.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{BinaryBytes, MultiProgress, ProgressBar, ProgressStyle};

use super::completed::AsCompleted;
use super::future::Status;
use crate::transport::data::Meter;

/// A smaller transfer is over before anybody could look, and not worth waking a thread.
const SEEN_BYTES_MIN: u64 = 1 << 20;
/// A transfer of this many bytes has a bar at once,
const SHOWN_BYTES_MIN: u64 = 256 << 20;
/// any other after this long.
const SHOWN_AFTER: Duration = Duration::from_secs(1);
const REDRAWN_EVERY: Duration = Duration::from_millis(100);
/// Between two lines, where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

const TRANSFER_STYLE: &str = "{prefix:>20} {wide_bar:.cyan/blue} {binary_bytes:>10}/{binary_total_bytes} \
                              {binary_bytes_per_sec:>12}, {eta} left";
const TASKS_STYLE: &str = "{prefix:>20} {wide_bar:.cyan/blue} {pos:>7}/{len} {elapsed_precise} {msg:.red}";

/// Whether standard error shows how far a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Progress {
    /// A bar in a terminal; elsewhere a line every ten seconds.
    #[default]
    On,
    /// Nothing.
    Off,
}

impl Progress {
    /// What the environment variable `DCLUSTER_PROGRESS` says: `off`, or nothing.
    pub(super) fn of_environment() -> Self {
        match std::env::var_os("DCLUSTER_PROGRESS") {
            Some(word) if word == "off" => Self::Off,
            _ => Self::On,
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
    /// Whether the thread that shows transfers knows of it.
    is_seen: AtomicBool,
    shown: Mutex<Shown>,
}

enum Shown {
    NotYet,
    Bar(ProgressBar),
    /// So many lines were printed.
    Lines(u32),
    Over,
}

impl Bar {
    /// A bar for a transfer of so many bytes, or more as [`set_total`](Self::set_total) says.
    pub(super) fn new(progress: Progress, what: &'static str, total_bytes: u64) -> Self {
        if progress == Progress::Off {
            return Self(None);
        }
        let shown = if std::io::stderr().is_terminal() { Shown::NotYet } else { Shown::Lines(0) };
        let bar = Self(Some(Arc::new(Transfer {
            what,
            begun: Instant::now(),
            moved_bytes: Arc::default(),
            total_bytes: AtomicU64::new(0),
            is_seen: AtomicBool::new(false),
            shown: Mutex::new(shown),
        })));
        bar.set_total(total_bytes);
        bar
    }

    /// What counts the bytes.
    pub(super) fn meter(&self) -> Meter {
        self.0.as_ref().map_or_else(Meter::default, |transfer| Meter::on(transfer.moved_bytes.clone()))
    }

    /// Says how much it will be in all.
    pub(super) fn set_total(&self, total_bytes: u64) {
        let Some(transfer) = &self.0 else { return };
        transfer.total_bytes.store(total_bytes, Ordering::Relaxed);
        if total_bytes >= SEEN_BYTES_MIN
            && !transfer.is_seen.swap(true, Ordering::Relaxed)
            && let Ok(shower) = SHOWER.lock()
        {
            // Without the thread nothing is shown, which harms nobody.
            let _ = shower.send(transfer.clone());
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

    /// Shows it, if that is due; false once it is over.
    fn show(&self) -> bool {
        let (total, moved) = (&self.total_bytes, &self.moved_bytes);
        let (total, moved) = (total.load(Ordering::Relaxed), moved.load(Ordering::Relaxed));
        let elapsed = self.begun.elapsed();
        let mut shown = self.shown();
        if matches!(*shown, Shown::NotYet) && (total >= SHOWN_BYTES_MIN || elapsed >= SHOWN_AFTER) {
            let bar = bar(TRANSFER_STYLE, total).with_prefix(self.what);
            *shown = Shown::Bar(BARS.add(bar));
        }
        match &mut *shown {
            Shown::NotYet => {}
            Shown::Bar(bar) => {
                bar.set_length(total.max(moved));
                bar.set_position(moved);
            }
            Shown::Lines(printed) => {
                if elapsed >= LINE_EVERY * (*printed + 1) {
                    *printed = (elapsed.as_secs() / LINE_EVERY.as_secs()) as u32;
                    eprintln!("{}", line(self.what, moved, total.max(moved), elapsed));
                }
            }
            Shown::Over => return false,
        }
        true
    }
}

/// How far a transfer is, for people who read a log.
fn line(what: &str, moved: u64, total: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    let rate = moved as f64 / seconds;
    let left = match moved {
        0 => "nothing has arrived yet".to_owned(),
        _ => format!("about {:.0} s left", (total - moved) as f64 / rate),
    };
    let (moved, total, rate) = (BinaryBytes(moved), BinaryBytes(total), BinaryBytes(rate as u64));
    format!("{what}: {moved} of {total} in {seconds:.0} s, {rate}/s, {left}")
}

fn bar(style: &str, length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}

/// All bars of this process: they share the terminal.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Where the thread that shows transfers takes them from.
static SHOWER: LazyLock<Mutex<mpsc::Sender<Arc<Transfer>>>> = LazyLock::new(|| {
    let (sender, receiver) = mpsc::channel();
    let spawned = std::thread::Builder::new().name("dcluster-bars".to_owned()).spawn(move || show(&receiver));
    if let Err(error) = spawned {
        tracing::debug!(%error, "no thread for progress bars; none are shown");
    }
    Mutex::new(sender)
});

fn show(receiver: &mpsc::Receiver<Arc<Transfer>>) {
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
        transfers.retain(|transfer| transfer.show());
    }
}

/// Waits until all are done, and shows how far they are if standard error is a terminal.
pub(super) async fn progress<T>(mut futures: AsCompleted<T>, counts: BTreeMap<String, u64>) {
    let terminal = std::io::stderr().is_terminal();
    let mut bars: BTreeMap<String, (ProgressBar, u64)> = counts
        .into_iter()
        .filter(|_| terminal)
        .map(|(name, count)| {
            let bar = BARS.add(bar(TASKS_STYLE, count).with_prefix(name.clone()));
            bar.tick();
            (name, (bar, 0))
        })
        .collect();
    while let Some(batch) = futures.next_batch().await {
        for future in batch {
            let reference = future.reference();
            let Some((bar, failed)) = bars.get_mut(reference.group()) else { continue };
            if reference.status() != Status::Finished {
                *failed += 1;
                bar.set_message(format!("{failed} failed"));
            }
            bar.inc(1);
        }
    }
    bars.values().for_each(|(bar, _)| bar.abandon());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_much_how_fast_and_how_long_still() {
        let told = line("gather", 1 << 30, 4 << 30, Duration::from_secs(10));
        assert_eq!(told, "gather: 1.00 GiB of 4.00 GiB in 10 s, 102.40 MiB/s, about 30 s left");
        assert!(line("scatter", 0, 1 << 30, Duration::from_secs(20)).ends_with("nothing has arrived yet"));
    }

    #[test]
    fn without_a_terminal_a_long_transfer_is_told_of_every_ten_seconds() {
        let begun = Instant::now().checked_sub(Duration::from_secs(25)).unwrap_or_else(Instant::now);
        let transfer = Transfer {
            what: "scatter",
            begun,
            moved_bytes: Arc::default(),
            total_bytes: AtomicU64::new(1 << 30),
            is_seen: AtomicBool::new(true),
            shown: Mutex::new(Shown::Lines(0)),
        };
        assert!(transfer.show() && transfer.show());
        assert!(matches!(*transfer.shown(), Shown::Lines(2)));
        *transfer.shown() = Shown::Over;
        assert!(!transfer.show());
    }

    #[test]
    fn a_small_transfer_wakes_no_thread() {
        let bar = Bar::new(Progress::On, "gather", SEEN_BYTES_MIN - 1);
        let is_seen = || bar.0.as_ref().is_some_and(|transfer| transfer.is_seen.load(Ordering::Relaxed));
        assert!(!is_seen());
        bar.set_total(SEEN_BYTES_MIN);
        assert!(is_seen());
        assert!(Bar::new(Progress::Off, "gather", 1 << 40).0.is_none());
    }
}
