//! A worker's connection to the scheduler: messages in, reports out, measurements beside them.
//!
//! The loop books whatever has arrived, then writes whatever is to be reported; while a write is in flight,
//! reports gather for the next one. It sleeps when there is nothing to do: no timer runs on an idle worker
//! to which nothing is lent. [`super::engine`] is behind it.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, error, info, trace};

use super::engine::{Engine, ProtocolError, Reports};
use super::executor::{Executor, Identity};
use super::spill::{Spill, SpillPlace};
use super::transfer::{Lanes, Transfer, TransferError};
use super::usage::{ProcessMemory, cpu_us, host_bytes};
use crate::registry::Registry;
use crate::security::{Credentials, CredentialsError};
use crate::topology::{Binding, CpuSet, Machine, Place};
use crate::transport::data::DataPool;
use crate::transport::mpi::MpiLane;
use crate::transport::shm;
use crate::transport::tcp::{
    ConnectError, Connection, Connector, Listener, Reach, ReadError, ReadHalf, WriteHalf, hello,
};
use crate::wire::client::FunctionName;
use crate::wire::handshake::{BuildHash, Role};
use crate::wire::peer::HostKey;
use crate::wire::worker::{Join, MemoryMetrics, Metrics, Shutdown, ToWorkerMessage};

/// Time between measurements, while anything changes.
const METRICS_PERIOD: Duration = Duration::from_secs(1);
/// The part of a worker's memory that may lie idle, to be used again for large buffers.
pub const IDLE_FRACTION: u64 = 8;
/// How long a running task may hold up the end.
const TASK_GRACE: Duration = Duration::from_secs(2);
/// How long the last reports may take to be written.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// What a worker is started with.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// `host:port` of the scheduler.
    pub scheduler: String,
    /// A member's credentials.
    pub credentials: Credentials,
    /// The tasks it can run.
    pub registry: Arc<Registry>,
    /// Its CPUs; one executor thread per entry of `executors`, one thread without a place if there is none.
    pub binding: Binding,
    /// What the job may use of its host, if it is the one to tell.
    pub machine: Option<Machine>,
    /// Its rank in the launch, if it has one.
    pub rank: Option<u32>,
    /// Who can reach its data port.
    pub reach: Reach,
    /// The memory it may use, in bytes; 0 for all there is.
    pub memory_bytes_max: u64,
    /// Where values go when the memory is short.
    pub spill: SpillPlace,
    /// How many workers this process has; they share its memory.
    pub workers_in_process: u32,
    /// How long the scheduler may take to be reached.
    pub connect_within: Duration,
    /// MPI, if this process is a rank of a launch that has it.
    pub mpi: Option<MpiLane>,
    /// Where its memory can be mapped, if it may.
    pub shm: Option<HostKey>,
}

/// A worker cannot start, or ends before it was told to.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The credentials are of no use.
    #[error("the worker's credentials are of no use")]
    Credentials(#[from] CredentialsError),
    /// The data port cannot be opened.
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// Executor threads cannot be started.
    #[error("cannot start executor threads")]
    Threads(#[source] io::Error),
    /// The scheduler cannot be reached.
    #[error("the worker cannot join the cluster")]
    Connect(#[from] ConnectError),
    /// The scheduler is gone.
    #[error("the scheduler at {scheduler} is gone")]
    SchedulerLost {
        /// Its address.
        scheduler: String,
        /// What the connection said; none if it was closed in an orderly way.
        source: Option<ReadError>,
    },
    /// The scheduler takes no more reports.
    #[error("cannot write to the scheduler at {scheduler}")]
    Write {
        /// Its address.
        scheduler: String,
        /// What the system said.
        source: io::Error,
    },
    /// The scheduler sent something that makes no sense.
    #[error("the scheduler at {scheduler} broke the protocol")]
    Protocol {
        /// Its address.
        scheduler: String,
        /// What it sent.
        source: ProtocolError,
    },
    /// A bug: an executor thread panicked outside a task.
    #[error("an executor thread broke down; this is a bug in dcluster, the log has its panic")]
    Broken,
}

/// Runs a worker until the scheduler shuts it down, `stop` is ready, or the scheduler is lost.
///
/// Belongs on a current-thread runtime. Returns within a few seconds also when a task does not end; the
/// process should exit then.
pub async fn run(
    config: WorkerConfig,
    stop: impl Future<Output = Shutdown>,
) -> Result<Shutdown, WorkerError> {
    let build = BuildHash(config.registry.table_hash());
    shm::use_pool(idle_bytes_max(&config));
    let hello = hello(Role::Worker, Some(build));
    let identity = Arc::new(Identity { rank: config.rank, host: hello.host.clone(), ..Identity::default() });
    let cpus = match config.binding.executors.as_slice() {
        [] => vec![CpuSet::default()],
        executors => executors.to_vec(),
    };
    let engine = Arc::new(Engine::with_memory(cpus.len() as u32, config.memory_bytes_max));
    let spill = Spill::start(&engine, config.spill.clone(), config.workers_in_process);
    let spill = spill.map_err(WorkerError::Threads)?;
    let transfer = open_data_port(&config, &engine, build).await?;
    let connector = Connector::new(&config.credentials, hello)?;
    let connection = connector.connect(&config.scheduler, config.connect_within).await?;
    let executor =
        Executor::start(&engine, &cpus, &config.registry, &identity).map_err(WorkerError::Threads)?;
    engine.report(|outbox| outbox.join(&join(&config, &identity, &transfer, cpus.len())));
    info!(scheduler = config.scheduler, data_port = transfer.address(), threads = cpus.len(), "joined");

    let mut worker = Worker {
        scheduler: config.scheduler,
        engine,
        transfer,
        spill,
        workers_in_process: u64::from(config.workers_in_process.max(1)),
        identity,
        metrics_at: None,
    };
    let ended = worker.serve(connection, stop).await;
    match &ended {
        Ok(shutdown) => info!(reason = shutdown.reason, code = shutdown.code, "shutting down"),
        Err(error) => error!(%error, "the worker ends"),
    }
    executor.stop(TASK_GRACE);
    ended
}

/// How much memory may lie idle. Without a limit it is as for one that is the worker's part of the host, by its threads.
fn idle_bytes_max(config: &WorkerConfig) -> u64 {
    let threads = config.binding.executors.len().max(1) as u64;
    let cores = std::thread::available_parallelism().map_or(threads, |cores| cores.get() as u64).max(threads);
    match config.memory_bytes_max {
        0 => host_bytes() / cores * threads / IDLE_FRACTION,
        limit => limit / IDLE_FRACTION,
    }
}

async fn open_data_port(
    config: &WorkerConfig,
    engine: &Arc<Engine>,
    build: BuildHash,
) -> Result<Transfer, WorkerError> {
    let value_bytes_max = match config.memory_bytes_max {
        0 => u64::MAX,
        limit => limit,
    };
    let pool = DataPool::new(&config.credentials, Some(build), value_bytes_max)?;
    let (reach, credentials) = (config.reach.clone(), config.credentials.clone());
    let listen =
        move || async move { Listener::bind(&reach, 0, &credentials, hello(Role::Peer, Some(build))).await };
    let lanes = Lanes { mpi: config.mpi.clone(), shm: config.shm };
    Ok(Transfer::start(Arc::clone(engine), pool, value_bytes_max, lanes, listen).await?)
}

fn join(config: &WorkerConfig, identity: &Identity, transfer: &Transfer, threads: usize) -> Join {
    let functions = config.registry.describe().iter();
    let place = Place { binding: config.binding.clone(), machine: config.machine.clone() };
    Join {
        rank: config.rank,
        host: identity.host.clone(),
        pid: std::process::id(),
        address: transfer.address().to_owned(),
        mpi_rank: config.mpi.as_ref().map(MpiLane::rank),
        shm: config.shm,
        threads: threads as u32,
        memory_bytes_max: config.memory_bytes_max,
        place: serde_json::to_string(&place).expect("a place serialises"),
        functions: functions.map(|task| FunctionName { id: task.id, name: task.name.to_owned() }).collect(),
    }
}

/// A worker that has joined.
struct Worker {
    scheduler: String,
    engine: Arc<Engine>,
    transfer: Transfer,
    spill: Spill,
    workers_in_process: u64,
    identity: Arc<Identity>,
    /// When measurements are due; none while nothing has changed since the last ones.
    metrics_at: Option<Instant>,
}

impl Worker {
    async fn serve(
        &mut self,
        connection: Connection,
        stop: impl Future<Output = Shutdown>,
    ) -> Result<Shutdown, WorkerError> {
        let (mut reader, mut writer) = connection.split();
        let mut reports = Reports::default();
        let mut writing = false;
        tokio::pin!(stop);
        loop {
            if self.engine.is_broken() {
                return Err(WorkerError::Broken);
            }
            if !writing {
                self.engine.take_reports(&mut reports);
                reports.fetches.drain(..).for_each(|fetch| self.transfer.fetch(fetch));
                writer.queue(&reports.frames);
                writing = !reports.frames.is_empty();
                reports.frames.clear();
            }
            let metrics_at = self.metrics_at;
            tokio::select! {
                filled = reader.fill() => match filled {
                    Ok(true) => {
                        if let Some(shutdown) = self.book_frames(&mut reader)? {
                            self.take_leave(&mut writer).await;
                            return Ok(shutdown);
                        }
                    }
                    Ok(false) => return Err(self.lost(None)),
                    Err(error) => return Err(self.lost(Some(error))),
                },
                flushed = writer.flush(), if writing => {
                    flushed.map_err(|source| WorkerError::Write { scheduler: self.scheduler.clone(), source })?;
                    writing = false;
                    if !reports.announced.is_empty() {
                        self.engine.announced(reports.announced.drain(..));
                    }
                }
                () = self.engine.reported(), if !writing => self.note_change(),
                () = sleep_until(metrics_at.unwrap_or_else(Instant::now)), if metrics_at.is_some() => {
                    self.metrics_at = None;
                    let (metrics, moved) = (self.measure(), self.transfer.take_moved());
                    self.engine.report(|outbox| outbox.metrics(&metrics));
                    if !moved.is_empty() {
                        self.engine.report(|outbox| outbox.moved(&moved));
                    }
                }
                shutdown = &mut stop => {
                    self.take_leave(&mut writer).await;
                    return Ok(shutdown);
                }
            }
        }
    }

    /// Books everything that has arrived; the end, if it was said.
    fn book_frames(&mut self, reader: &mut ReadHalf) -> Result<Option<Shutdown>, WorkerError> {
        while let Some(frame) = reader.next_frame().map_err(|error| self.lost(Some(error)))? {
            let booked = self.book(frame.opcode, &frame.body);
            let shutdown = booked
                .map_err(|source| WorkerError::Protocol { scheduler: self.scheduler.clone(), source })?;
            if shutdown.is_some() {
                return Ok(shutdown);
            }
        }
        Ok(None)
    }

    fn book(&mut self, opcode: u8, body: &Bytes) -> Result<Option<Shutdown>, ProtocolError> {
        let mut message = ToWorkerMessage::read(opcode, body)?;
        trace!(opcode, bytes = body.len(), "message");
        match message {
            ToWorkerMessage::Assign(batch) => self.engine.assign(batch, body)?,
            ToWorkerMessage::Retract(_)
            | ToWorkerMessage::Abandon(_)
            | ToWorkerMessage::Free(_)
            | ToWorkerMessage::Acquire(_)
            | ToWorkerMessage::Fence(_) => {
                self.engine.withdraw(&mut message)?;
            }
            ToWorkerMessage::Peers(peers) => {
                debug!(peers = peers.len(), "workers joined");
                let own = peers.iter().find(|peer| peer.address == self.transfer.address());
                if let Some(peer) = own {
                    // Each worker is told of itself once.
                    let _ = self.identity.worker.set(peer.worker);
                }
                let shm = self.transfer.shm();
                let lenders = peers.iter().filter(|peer| shm.is_some() && peer.shm == shm);
                self.engine.add_lenders(lenders.map(|peer| peer.worker));
                self.transfer.add_peers(peers);
                return Ok(None);
            }
            ToWorkerMessage::Shutdown(shutdown) => return Ok(Some(shutdown)),
        }
        self.note_change();
        Ok(None)
    }

    /// Measurements are due some time after a change.
    fn note_change(&mut self) {
        self.metrics_at.get_or_insert_with(|| Instant::now() + METRICS_PERIOD);
    }

    /// Looks at what the worker has and uses. That is done again while tasks run, and while it has what the owner may let
    /// go of.
    fn measure(&mut self) -> Metrics {
        let process = ProcessMemory::sample();
        self.engine.sampled(process.own / self.workers_in_process);
        let load = self.engine.load();
        if load.counts.running > 0 || load.memory.lent > 0 {
            self.note_change();
        }
        let memory = load.memory;
        let (written_bytes, read_bytes) = self.spill.traffic();
        Metrics {
            resident_bytes: process.resident,
            managed_bytes: memory.held,
            values: load.values,
            running: load.counts.running,
            queued: load.counts.queued,
            cpu_us: cpu_us(),
            received: self.transfer.received(),
            memory: MemoryMetrics {
                unmanaged_bytes: memory.unmanaged,
                arriving_bytes: memory.arriving,
                lent_bytes: memory.lent,
                spilled_bytes: memory.spilled,
                spilled_values: memory.spilled_values,
                written_bytes,
                read_bytes,
                managed_bytes_peak: memory.held_peak,
                pressure: memory.pressure,
                is_disk_failing: memory.is_disk_failing,
            },
        }
    }

    /// Writes the last reports, if the scheduler still takes them.
    async fn take_leave(&self, writer: &mut WriteHalf) {
        let mut reports = Reports::default();
        self.engine.take_reports(&mut reports);
        writer.queue(&reports.frames);
        match timeout(FAREWELL_MAX, writer.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "the last reports were not written"),
            Err(_) => debug!("the scheduler does not take the last reports"),
        }
    }

    fn lost(&self, source: Option<ReadError>) -> WorkerError {
        WorkerError::SchedulerLost { scheduler: self.scheduler.clone(), source }
    }
}
