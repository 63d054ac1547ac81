//! Values on their way to disk and back, on threads of their own, and a watch on the memory while it is short.
//!
//! The core says what goes and what comes ([`super::core::memory`]); the engine passes it on as an [`Order`], and is
//! told how it ended. One thread writes and removes, another reads, so that a task that waits for a value waits for
//! no write. `file.rs` is the file of one value, [`directory`] the place of all.

// Giving free memory back to the system is a call of the C library.
#![allow(unsafe_code)]

pub mod directory;
mod file;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use self::directory::SpillDirectory;
use self::file::SpillFile;
use super::core::memory::{MemoryUse, Spilled, Ticket};
use super::engine::Engine;
use super::usage::ProcessMemory;
use crate::model::{Packed, Resident, TaskId};
use crate::transport::shm;
use crate::wire::worker::Pressure;

/// Time between two looks at the memory while that is short.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The longest that this becomes while nothing changes.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);
/// Time between two calls that give free memory back.
const TRIM_EVERY: Duration = Duration::from_millis(500);
/// Time between two messages that the worker pauses.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// Time until a value is read again for which something was lacking.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How long the threads may take to end.
const STOP_MAX: Duration = Duration::from_secs(1);

/// Where spilled values go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpillPlace {
    /// Into this directory, which is made when it is needed and removed at the end.
    Directory(PathBuf),
    /// Nowhere; why, for people.
    Nowhere(String),
}

/// What the engine asks for.
#[derive(Debug)]
pub enum Order {
    /// Write a value; answered by [`Engine::spilled`].
    Write {
        /// Its name.
        task: TaskId,
        /// The value.
        value: Arc<Resident>,
    },
    /// Read a value; answered by [`Engine::unspilled`].
    Read {
        /// Its name.
        task: TaskId,
        /// Names the reading.
        ticket: Ticket,
        /// The value.
        value: Arc<Resident>,
    },
    /// Remove a file.
    Remove(PathBuf),
    /// Look at the memory: somebody waits for room.
    Look,
    /// Look at the memory from time to time while it is short; tasks start, or only one at a time.
    Watch(Pressure),
    /// End.
    Stop,
}

/// Takes orders for the threads.
#[derive(Debug)]
pub struct Spiller {
    writes: Sender<Order>,
    reads: Sender<Order>,
}

/// How much was moved.
#[derive(Debug, Default)]
pub struct SpillTraffic {
    written_bytes: AtomicU64,
    read_bytes: AtomicU64,
}

/// The threads; they end, and the directory goes, when this is dropped.
#[derive(Debug)]
pub struct Spill {
    writes: Sender<Order>,
    reads: Sender<Order>,
    traffic: Arc<SpillTraffic>,
    /// Closed when both have ended.
    over: Receiver<()>,
}

impl Spill {
    /// Starts the threads for an engine. The process's memory is shared by `workers` of them.
    ///
    /// # Errors
    /// If the threads do not start.
    pub fn start(engine: &Arc<Engine>, place: SpillPlace, workers: u32) -> io::Result<Self> {
        let (writes, orders) = channel();
        let (reads, readings) = channel();
        let (alive, over) = channel();
        let traffic = Arc::new(SpillTraffic::default());
        let mut writer = Writer {
            engine: Arc::clone(engine),
            place,
            workers: u64::from(workers.max(1)),
            directory: None,
            files: 0,
            remover: writes.clone(),
            traffic: Arc::clone(&traffic),
            is_failing: false,
            trimmed_at: None,
            said_at: None,
            is_full_said: false,
        };
        let ended = alive.clone();
        thread::Builder::new().name("dcluster-spill".to_owned()).spawn(move || {
            writer.run(&orders);
            // The directory goes before the end is known.
            drop(writer);
            drop::<Sender<()>>(ended);
        })?;
        let (reader, read) = (Arc::clone(engine), Arc::clone(&traffic));
        thread::Builder::new().name("dcluster-unspill".to_owned()).spawn(move || {
            let _ended = alive;
            read_values(&reader, &read, &readings);
        })?;
        engine.set_spiller(Spiller { writes: writes.clone(), reads: reads.clone() });
        Ok(Self { writes, reads, traffic, over })
    }

    /// All bytes of values that were ever written, and read.
    pub fn traffic(&self) -> (u64, u64) {
        let SpillTraffic { written_bytes, read_bytes } = &*self.traffic;
        (written_bytes.load(Ordering::Relaxed), read_bytes.load(Ordering::Relaxed))
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        // They may have ended by a panic.
        let _ = (self.writes.send(Order::Stop), self.reads.send(Order::Stop));
        if self.over.recv_timeout(STOP_MAX) == Err(RecvTimeoutError::Timeout) {
            warn!("a value is still being spilled and is left behind");
        }
    }
}

impl Spiller {
    /// Passes an order on. After the end nobody takes it.
    pub(super) fn take(&self, order: Order) {
        let _ = match order {
            Order::Read { .. } => self.reads.send(order),
            _ => self.writes.send(order),
        };
    }
}

/// The thread that writes and watches.
struct Writer {
    engine: Arc<Engine>,
    place: SpillPlace,
    workers: u64,
    directory: Option<SpillDirectory>,
    files: u64,
    remover: Sender<Order>,
    traffic: Arc<SpillTraffic>,
    is_failing: bool,
    trimmed_at: Option<Instant>,
    /// When a pause was said last.
    said_at: Option<Instant>,
    /// Whether it was ever said that the memory is full.
    is_full_said: bool,
}

impl Writer {
    fn run(&mut self, orders: &Receiver<Order>) {
        let mut pause: Option<Duration> = None;
        let mut before = MemoryUse::default();
        loop {
            let order = match pause {
                Some(pause) => orders.recv_timeout(pause),
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match order {
                Ok(Order::Write { task, value }) => self.write(task, value),
                Ok(Order::Remove(path)) => file::remove(&path),
                Ok(Order::Watch(pressure)) => self.say_pressure(pressure),
                Ok(Order::Look | Order::Read { .. }) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
            let usage = self.look();
            pause = match usage.is_tight {
                true if usage == before => pause.map(|pause| (pause * 2).min(LOOK_EVERY_MAX)),
                true => Some(LOOK_EVERY),
                false => None,
            };
            before = usage;
        }
    }

    /// Tells the engine what the process uses.
    fn look(&mut self) -> MemoryUse {
        let usage = self.engine.sampled(ProcessMemory::sample().own / self.workers);
        let is_wasteful = usage.is_tight && usage.unmanaged > usage.limit / 10;
        if is_wasteful && self.trimmed_at.is_none_or(|at| at.elapsed() >= TRIM_EVERY) {
            self.trimmed_at = Some(Instant::now());
            shm::pool().trim();
            trim();
            return self.engine.sampled(ProcessMemory::sample().own / self.workers);
        }
        usage
    }

    fn write(&mut self, task: TaskId, value: Arc<Resident>) {
        let bytes = value.bytes() as u64;
        // A type's own `Serialize` may panic.
        let packed = catch_unwind(AssertUnwindSafe(|| value.packed()));
        let outcome = match packed {
            Ok(Ok(packed)) => match self.write_file(&packed) {
                Ok(file) => {
                    value.set_file(Arc::new(file));
                    self.traffic.written_bytes.fetch_add(bytes, Ordering::Relaxed);
                    debug!(%task, bytes, "spilled");
                    Spilled::Written
                }
                Err(reason) => {
                    self.say_failure(&reason);
                    Spilled::DiskFailed
                }
            },
            Ok(Err(error)) => {
                debug!(%task, %error, "cannot be spilled");
                Spilled::Unpackable
            }
            Err(_) => Spilled::Unpackable,
        };
        if outcome == Spilled::Written && std::mem::take(&mut self.is_failing) {
            info!("values are spilled again");
        }
        // Whoever else has it uses it.
        drop(value);
        self.engine.spilled(outcome);
    }

    fn write_file(&mut self, packed: &Packed) -> Result<SpillFile, String> {
        let path = match &self.place {
            SpillPlace::Directory(path) => path.clone(),
            SpillPlace::Nowhere(reason) => return Err(reason.clone()),
        };
        let written = match self.write_below(&path, packed) {
            // Somebody has tidied up: the directory is made again.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.directory.take().is_some() => {
                self.write_below(&path, packed)
            }
            written => written,
        };
        written.map_err(|error| format!("{}: {error}", path.display()))
    }

    fn write_below(&mut self, path: &Path, packed: &Packed) -> io::Result<SpillFile> {
        let directory = match &mut self.directory {
            Some(directory) => directory,
            none => none.insert(SpillDirectory::make(path)?),
        };
        self.files += 1;
        SpillFile::write(directory.file(self.files), packed, self.remover.clone())
    }

    /// Says that the worker pauses, now and then: it may come and go many times a second.
    fn say_pressure(&mut self, pressure: Pressure) {
        let usage = self.look();
        let is_time = self.said_at.is_none_or(|at| at.elapsed() >= SAY_EVERY);
        let is_news = pressure == Pressure::Full && !std::mem::replace(&mut self.is_full_said, true);
        if pressure == Pressure::Open || !is_time && !is_news {
            return debug!(?pressure, ?usage, "memory");
        }
        self.said_at = Some(Instant::now());
        let mib = |bytes: u64| bytes >> 20;
        if pressure == Pressure::Full {
            return warn!(
                limit_mib = mib(usage.limit),
                values_mib = mib(usage.held),
                other_mib = mib(usage.unmanaged),
                "memory is full and no value can be spilled: this worker runs only tasks that have inputs, and takes no \
                 values of clients, until values are freed (release futures, make room on the disk, or set \
                 --spill-directory or a larger --memory-limit)"
            );
        }
        info!(
            limit_mib = mib(usage.limit),
            values_mib = mib(usage.held),
            lent_mib = mib(usage.lent),
            arriving_mib = mib(usage.arriving),
            other_mib = mib(usage.unmanaged),
            spilled_mib = mib(usage.spilled),
            "memory is nearly full: this worker runs one task at a time until values are spilled or freed"
        );
    }

    /// Says once that the disk does not work.
    fn say_failure(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.is_failing, true) {
            warn!(
                reason,
                "values cannot be spilled and stay in memory; this worker goes on slowly, and tries again from time \
                 to time (set --spill-directory to a local disk with room)"
            );
        }
    }
}

/// The thread that reads.
fn read_values(engine: &Engine, traffic: &SpillTraffic, orders: &Receiver<Order>) {
    while let Ok(Order::Read { task, ticket, value }) = orders.recv() {
        let bytes = value.bytes() as u64;
        let mut read = value.restore();
        while let Err(reason) = &read
            && !value.is_lost()
        {
            warn!(%task, reason, "a spilled value cannot be read at the moment; it is tried again");
            thread::sleep(READ_AGAIN_AFTER);
            read = value.restore();
        }
        drop(value);
        match &read {
            Ok(()) => {
                traffic.read_bytes.fetch_add(bytes, Ordering::Relaxed);
                debug!(%task, bytes, "read back");
            }
            Err(reason) => warn!(%task, reason, "a spilled value is lost"),
        }
        engine.unspilled(ticket, read.is_ok());
    }
}

/// Gives memory that the allocator keeps for later back to the system.
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call has no preconditions and may run beside any other use of the allocator.
    let _ = unsafe { libc::malloc_trim(0) };
}
