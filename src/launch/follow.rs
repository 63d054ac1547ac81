//! A worker, as one process: from its connection to its exit code.
//!
//! The worker runs on threads of its own; the main thread sleeps on a channel and hears of its end and of signals.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::ending::{DRIVER_GRACE, Manner};
use super::exit::Exit;
use super::main_thread::{MainThread, Told};
use super::memory::Share;
use super::signals::{self, Heard};
use super::{FINALIZE_MAX, LaunchError, with_causes};
use crate::registry::Registry;
use crate::security::ConnectionFile;
use crate::topology::{Binding, Machine};
use crate::transport::mpi::{MpiLane, Order, Progress};
use crate::transport::tcp::{Connector, Reach, hello};
use crate::wire::handshake::Role;
use crate::wire::peer::HostKey;
use crate::wire::worker::{Shutdown, ToWorkerMessage};
use crate::worker::{self, WorkerConfig, WorkerError};

/// How long the scheduler may take to be reached.
pub const CONNECT_MAX: Duration = Duration::from_secs(8);
/// How long a worker that got a signal waits for the scheduler to end it in order: the driver needs it until then.
const SIGNAL_GRACE: Duration = DRIVER_GRACE.saturating_add(Duration::from_millis(500));
/// How long it may then take to end by itself.
const LEAVE_MAX: Duration = Duration::from_secs(4);
/// How long values that are on their way over MPI at the end may take to arrive: without `MPI_Finalize` a launcher takes
/// an end in order for a failure.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// What a worker is given.
#[derive(Debug, Clone)]
pub struct WorkerPlan {
    /// Its scheduler.
    pub connection: ConnectionFile,
    /// Its tasks; without any it only stands by.
    pub registry: Option<Arc<Registry>>,
    /// Where it runs.
    pub binding: Binding,
    /// What the job may use of its host, if it is the one to tell.
    pub machine: Option<Machine>,
    /// Its rank, if it has one.
    pub rank: Option<u32>,
    /// Who reaches its data port.
    pub reach: Reach,
    /// What it may use.
    pub memory: Share,
    /// MPI, which the main thread serves.
    pub mpi: Option<MpiLane>,
    /// Where its memory can be mapped, if it may.
    pub shm: Option<HostKey>,
}

/// What the main thread of a worker hears.
#[derive(Debug)]
pub enum WorkerNotice {
    /// A signal.
    Signal(Heard),
    /// Something to do with MPI, which belongs to the main thread.
    Mpi(Order),
    /// The worker is over.
    Ended(Result<Shutdown, WorkerError>),
}

/// A worker that runs in this process.
#[derive(Debug)]
pub struct RunningWorker {
    stop: Option<oneshot::Sender<Shutdown>>,
}

impl RunningWorker {
    /// Starts it; `notify` hears of its end.
    ///
    /// # Errors
    /// If its thread cannot be started.
    pub fn start(
        plan: WorkerPlan,
        notify: impl FnOnce(Result<Shutdown, WorkerError>) + Send + 'static,
    ) -> Result<Self, LaunchError> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let told = async {
            match stopped.await {
                Ok(shutdown) => shutdown,
                // Whoever could stop it is gone, and so is every reason to.
                Err(_) => std::future::pending().await,
            }
        };
        thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || notify(runtime.block_on(run(plan, told))))?;
        Ok(Self { stop: Some(stop) })
    }

    /// Ends it.
    pub fn stop(&mut self, shutdown: Shutdown) {
        if let Some(stop) = self.stop.take() {
            // It may be over already.
            let _ = stop.send(shutdown);
        }
    }
}

async fn run(plan: WorkerPlan, told: impl Future<Output = Shutdown>) -> Result<Shutdown, WorkerError> {
    let Some(registry) = plan.registry else {
        return tokio::select! {
            end = stand_by(&plan.connection) => end,
            shutdown = told => Ok(shutdown),
        };
    };
    let config = WorkerConfig {
        scheduler: plan.connection.scheduler.clone(),
        credentials: plan.connection.credentials,
        registry,
        binding: plan.binding,
        machine: plan.machine,
        rank: plan.rank,
        reach: plan.reach,
        memory_bytes_max: plan.memory.bytes_max,
        spill: plan.memory.spill,
        workers_in_process: plan.memory.workers_in_process,
        connect_within: CONNECT_MAX,
        mpi: plan.mpi,
        shm: plan.shm,
    };
    worker::run(config, told).await
}

/// A rank that cannot work waits for the end of the cluster, because many a launcher ends all ranks when one does.
///
/// To the scheduler it is a worker that never joins.
async fn stand_by(connection: &ConnectionFile) -> Result<Shutdown, WorkerError> {
    let scheduler = &connection.scheduler;
    let connector = Connector::new(&connection.credentials, hello(Role::Worker, None))?;
    let (mut reader, _writer) = connector.connect(scheduler, CONNECT_MAX).await?.split();
    let lost = |source| WorkerError::SchedulerLost { scheduler: scheduler.clone(), source };
    while reader.fill().await.map_err(|error| lost(Some(error)))? {
        while let Some(frame) = reader.next_frame().map_err(|error| lost(Some(error)))? {
            if let Ok(ToWorkerMessage::Shutdown(end)) = ToWorkerMessage::read(frame.opcode, &frame.body) {
                return Ok(end);
            }
        }
    }
    Err(lost(None))
}

/// The channel of a worker's main thread, made before its signals are listened to.
pub fn notices() -> (Sender<WorkerNotice>, Receiver<WorkerNotice>) {
    channel()
}

/// Runs a worker to its end on the main thread, and MPI with it: the exit code, and how to leave.
///
/// # Errors
/// If its thread cannot be started.
pub fn follow(
    plan: WorkerPlan,
    (sender, receiver): (Sender<WorkerNotice>, Receiver<WorkerNotice>),
    progress: Option<Progress>,
) -> Result<(i32, Manner), LaunchError> {
    let mut main = MainThread::new(receiver, progress);
    let ended = sender.clone();
    let mut worker = RunningWorker::start(plan, move |end| drop(ended.send(WorkerNotice::Ended(end))))?;
    signals::heed();
    // The sender stays, so that the channel never closes.
    let _sender = sender;
    let mut signal: Option<(i32, Instant)> = None;
    let mut stopping = false;
    loop {
        let notice = main.hear(signal.map(|(_, until)| until));
        match (notice, signal) {
            (Ok(WorkerNotice::Mpi(_)), _) => {}
            (Ok(WorkerNotice::Ended(end)), _) => {
                let (code, manner) = verdict(end);
                // Who leaves alone finds nobody in MPI_Finalize, and who owes MPI memory does not come out of it.
                let in_order = manner != Manner::AtOnce && !stopping && main.drain(DRAIN_MAX);
                return Ok((code, if in_order { manner } else { Manner::AtOnce }));
            }
            (Ok(WorkerNotice::Signal(Heard::End(libc::SIGINT))), Some((number, _))) => {
                return Ok((Exit::Signal(number).code(), Manner::AtOnce));
            }
            (Ok(WorkerNotice::Signal(Heard::End(number))), None) => {
                signal = Some((number, Instant::now() + SIGNAL_GRACE));
            }
            (Ok(WorkerNotice::Signal(_)), _) => {}
            (Err(RecvTimeoutError::Timeout), Some((number, _))) if !stopping => {
                stopping = true;
                signal = Some((number, Instant::now() + LEAVE_MAX));
                let reason = format!("this worker got signal {number}");
                worker.stop(Shutdown { reason, code: Exit::Signal(number).code() });
            }
            (Err(_), signal) => {
                let code = signal.map_or(Exit::Internal, |(number, _)| Exit::Signal(number)).code();
                return Ok((code, Manner::AtOnce));
            }
        }
    }
}

impl Told for WorkerNotice {
    fn into_order(self) -> Result<Order, Self> {
        match self {
            Self::Mpi(order) => Ok(order),
            other => Err(other),
        }
    }
}

/// How a worker's end is seen from outside.
fn verdict(end: Result<Shutdown, WorkerError>) -> (i32, Manner) {
    match end {
        Ok(shutdown) => (shutdown.code, Manner::InOrder { within: FINALIZE_MAX }),
        Err(error) => {
            tracing::error!("{}", with_causes(&error));
            let exit = match error {
                WorkerError::Connect(_) => Exit::Unavailable,
                WorkerError::SchedulerLost { .. } | WorkerError::Write { .. } => Exit::SchedulerLost,
                _ => Exit::Internal,
            };
            (exit.code(), Manner::AtOnce)
        }
    }
}
