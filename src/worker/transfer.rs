//! The data port: hands values out, takes values in, and fetches those of peers.
//!
//! It has a thread and a runtime of its own, so that the bytes of large values do not delay the connection to
//! the scheduler. Values come from and go to the [`Engine`].

mod staging;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{debug, trace, warn};

use self::staging::{Staging, lendable};
use super::budget::{Budget, Room};
use super::engine::{Engine, FetchRequest, Manner, Reserved};
use crate::model::buffer::BULK_BYTES_MIN;
use crate::model::{Packed, Resident, TaskId, WorkerId};
use crate::transport::data::stream::{Broken, receive_value, send_value, skip_value};
use crate::transport::data::{DataError, DataPool, Fetched, LaneKind, LaneOffers, Meter, MpiOffer};
use crate::transport::mpi::{MpiLane, Tag, UnderWay};
use crate::transport::shm;
use crate::transport::shm::leases::Leases;
use crate::transport::tcp::{Connection, ListenError, Listener, ReadError, ReadHalf, WriteHalf};
use crate::wire::frame::Frame;
use crate::wire::peer::{HostKey, MpiEnd, Offers, PeerReply, PeerRequest, Shape};
use crate::wire::worker::{Moved, Received};
use crate::wire::{Peer, WireError};

/// Values larger than this are packed on another thread, so that transfers go on meanwhile.
const PACKED_HERE_BYTES_MAX: usize = 64 * 1024;
/// Values up to this size go over TCP, in the reply itself: another lane takes longer to be agreed on.
const TCP_BYTES_MAX: usize = 64 * 1024;
/// Fetches of at least this size are reported one by one,
const REPORTED_BYTES_MIN: u64 = 64 * 1024;
/// and no more than so many between two reports.
const REPORTED_MAX: usize = 4096;
/// Values that are handed out take up at most one such part of the memory.
const IN_FLIGHT_PART: u64 = 8;
/// How long the word that a value comes over MPI may wait, if the value says so itself. To send and read it takes 25 µs in
/// which the value could move, where the thread that has MPI shares its core; later it goes together with others.
const WORD_WAIT_MAX: Duration = Duration::from_millis(1);
/// How long a client's value waits for room in a worker whose tasks, or a failing disk, make none. Then it is taken in all
/// the same, as the client would give up, or refused.
const PUT_PATIENCE: Duration = Duration::from_secs(5);

/// How often a peer that waits for an answer hears that it is being worked on.
const BUSY_PERIOD: Duration = Duration::from_secs(10);

/// Why a client's value is not taken in.
const NO_ROOM: &str = "its memory is full, and no value can be spilled: release futures, make room on the disk, or start \
                       the workers with another --spill-directory or a larger --memory-limit";
/// Why a value does not come that was only to be lent.
const NOT_LENT: &str = "it does not lie in memory that others can map";

/// The running data port. It ends when this is dropped.
#[derive(Debug)]
pub struct Transfer {
    orders: mpsc::UnboundedSender<Order>,
    address: String,
    port: Arc<Port>,
}

/// How values may come and go, beside TCP.
#[derive(Debug, Clone, Default)]
pub struct Lanes {
    /// MPI, if this process is a rank of a launch that has it.
    pub mpi: Option<MpiLane>,
    /// Where this process can map the memory of others, and they its own.
    pub shm: Option<HostKey>,
}

#[derive(Debug)]
enum Order {
    Fetch(FetchRequest),
    Peers(Vec<Peer>),
}

/// The data port cannot be opened.
#[derive(Debug, Error)]
pub enum TransferError {
    /// The port.
    #[error("cannot open the data port")]
    Listen(#[from] ListenError),
    /// The thread or its runtime.
    #[error("cannot start the thread of the data port")]
    Thread(#[from] io::Error),
    /// The thread ended before it opened the port.
    #[error("the thread of the data port ended at once")]
    Ended,
}

/// Why a peer's connection ends.
#[derive(Debug, Error)]
enum PeerError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("cannot write")]
    Write(#[from] io::Error),
}

impl Transfer {
    /// Opens the data port with `listen` and serves it. Values over `value_bytes_max` are not taken in; large ones go
    /// on one of `lanes`, between processes that have it.
    pub async fn start<F>(
        engine: Arc<Engine>,
        pool: DataPool,
        value_bytes_max: u64,
        lanes: Lanes,
        listen: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Self, TransferError>
    where
        F: Future<Output = Result<Listener, ListenError>>,
    {
        let (opened, listening) = oneshot::channel();
        let (orders, received) = mpsc::unbounded_channel();
        let port = Arc::new(Port {
            engine,
            pool,
            value_bytes_max,
            lanes,
            departures: Budget::new(value_bytes_max / IN_FLIGHT_PART),
            distrusted: Mutex::default(),
            received: Mutex::default(),
            staging: Arc::default(),
            moved: Mutex::default(),
        });
        let served = Arc::clone(&port);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("dcluster-data".to_owned()).spawn(move || {
            runtime.block_on(async move {
                match listen().await {
                    Ok(listener) => {
                        // If nobody waits any more, the orders are closed as well and `serve` returns.
                        let _ = opened.send(Ok(listener.address().to_owned()));
                        serve(listener, served, received).await;
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
            });
            // Packing that still runs must not hold up the end.
            runtime.shutdown_background();
        })?;
        let address = listening.await.map_err(|_| TransferError::Ended)??;
        Ok(Self { orders, address, port })
    }

    /// `host:port` under which peers reach it.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Begins a fetch; the engine is told how it ends.
    pub fn fetch(&self, request: FetchRequest) {
        // The thread lives as long as this does.
        let _ = self.orders.send(Order::Fetch(request));
    }

    /// Where this process can map the memory of others, and they its own.
    pub fn shm(&self) -> Option<HostKey> {
        self.port.lanes.shm
    }

    /// What was fetched so far.
    pub fn received(&self) -> Received {
        *self.port.received()
    }

    /// Takes the large values that were fetched since the last time.
    pub fn take_moved(&self) -> Vec<Moved> {
        let moved = std::mem::take(&mut *self.port.moved());
        let with_age =
            |(moved, at): (Moved, Instant)| Moved { ago_us: at.elapsed().as_micros() as u64, ..moved };
        moved.into_iter().map(with_age).collect()
    }

    /// Learns where peers are.
    pub fn add_peers(&self, peers: Vec<Peer>) {
        let _ = self.orders.send(Order::Peers(peers));
    }
}

/// What all conversations of a data port share.
#[derive(Debug)]
struct Port {
    engine: Arc<Engine>,
    pool: DataPool,
    value_bytes_max: u64,
    lanes: Lanes,
    /// For values that are handed out.
    departures: Budget,
    /// Lanes on which values did not come from a worker; it is asked for the next lane.
    distrusted: Mutex<HashSet<(WorkerId, LaneKind)>>,
    received: Mutex<Received>,
    staging: Arc<Staging>,
    /// Large values that came since the last report, and when.
    moved: Mutex<Vec<(Moved, Instant)>>,
}

async fn serve(mut listener: Listener, port: Arc<Port>, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut peers = HashMap::new();
    loop {
        tokio::select! {
            order = orders.recv() => match order {
                Some(Order::Fetch(request)) => {
                    let holder = peers.get(&request.holder).cloned();
                    tokio::spawn(fetch(Arc::clone(&port), request, holder));
                }
                Some(Order::Peers(known)) => {
                    peers.extend(known.into_iter().map(|peer| (peer.worker, peer)));
                }
                None => return,
            },
            connection = listener.accept() => {
                tokio::spawn(attend(Arc::clone(&port), connection));
            }
        }
    }
}

async fn fetch(port: Arc<Port>, request: FetchRequest, holder: Option<Peer>) {
    let FetchRequest { task, holder: worker, .. } = request;
    let begun = Instant::now();
    let fetched = match &holder {
        Some(holder) => port.fetch(&request, holder).await,
        None => Err(DataError::Connect { address: worker.to_string(), reason: unknown_peer(worker) }),
    };
    match &fetched {
        Ok(Fetched { packed, lane }) => {
            let (bytes, us) = (packed.len() as u64, begun.elapsed().as_micros() as u64);
            trace!(%task, holder = %worker, bytes, us, ?lane, "fetched");
            port.note_moved(task, worker, *lane, bytes, us);
            let mut received = port.received();
            match lane {
                LaneKind::Tcp => received.tcp.add(bytes, us),
                LaneKind::Mpi => received.mpi.add(bytes, us),
                LaneKind::Shm => received.shm.add(bytes, us),
            }
        }
        Err(error) => {
            debug!(%task, holder = %worker, %error, "fetch failed");
            if request.manner == Manner::Lent
                && matches!(
                    error,
                    DataError::Refused { .. } | DataError::Lane { .. } | DataError::Short { .. }
                )
            {
                return port.engine.not_lent(task);
            }
            if let DataError::TooLarge { bytes, .. } = error {
                return port.engine.fetched_too_large(task, *bytes);
            }
        }
    }
    port.engine.fetched(task, fetched.ok().map(|fetched| fetched.packed));
}

impl Port {
    async fn fetch(&self, request: &FetchRequest, holder: &Peer) -> Result<Fetched, DataError> {
        let mut can_map = true;
        loop {
            let offers = self.offers(request, holder, can_map);
            match self.pool.fetch(&holder.address, request.task, offers).await {
                // It comes another way this time.
                Err(DataError::Short { .. }) if request.manner == Manner::Any => can_map = false,
                Err(error @ DataError::Lane { lane, .. }) => {
                    let holder = holder.worker;
                    if self.distrusted().insert((holder, lane)) {
                        warn!(%holder, %error, "values from this worker come on another lane from now on");
                    }
                    if request.manner == Manner::Lent {
                        return Err(error);
                    }
                }
                fetched => return fetched,
            }
        }
    }

    /// How else than over TCP the value can come.
    fn offers(&self, request: &FetchRequest, holder: &Peer, can_map: bool) -> LaneOffers {
        if request.nbytes <= TCP_BYTES_MAX as u64 {
            return LaneOffers::default();
        }
        let is_trusted = |lane| !self.distrusted().contains(&(holder.worker, lane));
        let can_map = can_map && is_trusted(LaneKind::Shm) && shm::pool().has_room();
        let shm = self.lanes.shm.filter(|_| can_map && request.nbytes >= BULK_BYTES_MIN as u64);
        let mpi = || {
            let (lane, rank) = (self.lanes.mpi.as_ref()?, holder.mpi_rank?);
            let is_possible = rank != lane.rank() && request.nbytes <= self.value_bytes_max;
            (is_possible && is_trusted(LaneKind::Mpi))
                .then(|| MpiOffer::to(lane, rank, self.value_bytes_max))?
        };
        match request.manner {
            Manner::Any => LaneOffers { shm, mpi: mpi(), only_lent: false },
            Manner::Lent => LaneOffers { shm, mpi: None, only_lent: true },
        }
    }

    /// The packed form of a value, and the room that it takes until it is gone if it had to be made for that.
    async fn packed_to_go(
        &self,
        task: TaskId,
        value: Arc<Resident>,
        can_map: bool,
    ) -> (Result<Packed, String>, Option<Room>) {
        if let Some(packed) = value.packed_already()
            && (!can_map || staging::can_be_mapped(&packed))
        {
            return (Ok(packed), None);
        }
        let room = self.departures.take(value.bytes() as u64).await;
        let packed = match can_map {
            true => self.staging.packed(task, value).await,
            false => packed(value).await,
        };
        (packed, Some(room))
    }

    fn note_moved(&self, task: TaskId, from: WorkerId, lane: LaneKind, bytes: u64, us: u64) {
        let mut moved = self.moved();
        if bytes >= REPORTED_BYTES_MIN && moved.len() < REPORTED_MAX {
            let lane = lane.name().to_owned();
            moved.push((Moved { task, from, lane, bytes, us, ago_us: 0 }, Instant::now()));
        }
    }

    fn moved(&self) -> MutexGuard<'_, Vec<(Moved, Instant)>> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn distrusted(&self) -> MutexGuard<'_, HashSet<(WorkerId, LaneKind)>> {
        self.distrusted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unknown_peer(holder: WorkerId) -> String {
    format!("the scheduler has not said where {holder} is")
}

/// Serves one peer until it leaves.
async fn attend(port: Arc<Port>, connection: Connection) {
    let (reader, writer) = connection.split();
    let remote = Arc::clone(reader.remote());
    let mut attendant = Attendant {
        port,
        reader,
        writer,
        frames: Vec::new(),
        due: None,
        leases: Leases::default(),
        sending: JoinSet::new(),
    };
    if let Err(error) = attendant.run().await {
        match error {
            // It went without a word, as a killed process does.
            PeerError::Read(ReadError::Lost { .. })
            | PeerError::Write(_)
            | PeerError::Broken(Broken::Closed | Broken::Io(_)) => {
                debug!(%remote, %error, "peer lost")
            }
            _ => warn!(%remote, %error, "dropped a peer"),
        }
    }
}

/// When answers that can wait have to go.
type Due = std::pin::Pin<Box<tokio::time::Sleep>>;

/// Sends what there is to say.
async fn flush(writer: &mut WriteHalf, frames: &mut Vec<u8>, due: &mut Option<Due>) -> io::Result<()> {
    writer.write_all(frames).await?;
    frames.clear();
    *due = None;
    Ok(())
}

struct Attendant {
    port: Arc<Port>,
    reader: ReadHalf,
    writer: WriteHalf,
    frames: Vec<u8>,
    /// Until when these can wait, if they can.
    due: Option<Due>,
    leases: Leases,
    /// Who waits for values on their way over MPI. Nobody does when this connection has ended; they go on all the same.
    sending: JoinSet<()>,
}

impl Attendant {
    async fn run(&mut self) -> Result<(), PeerError> {
        while let Some(frame) = self.next_request().await? {
            let can_wait = match PeerRequest::read(frame.opcode, &frame.body)? {
                PeerRequest::Fetch { task, offers } => self.hand_out(task, offers).await?,
                PeerRequest::Mapped { lease } => {
                    self.leases.end(lease);
                    true
                }
                PeerRequest::Put { task, shape } => {
                    self.flush().await?;
                    self.take_in(task, &shape).await?;
                    false
                }
            };
            if !can_wait {
                self.flush().await?;
            } else if !self.frames.is_empty() {
                self.due.get_or_insert_with(|| Box::pin(tokio::time::sleep(WORD_WAIT_MAX)));
            }
        }
        Ok(())
    }

    /// The next request. Answers that can wait for it go when their time has come.
    async fn next_request(&mut self) -> Result<Option<Frame>, PeerError> {
        let mut request = std::pin::pin!(self.reader.frame());
        if let Some(due) = &mut self.due {
            tokio::select! {
                biased;
                () = due => {}
                request = &mut request => return Ok(request?),
            }
            flush(&mut self.writer, &mut self.frames, &mut self.due).await?;
        }
        Ok(request.await?)
    }

    async fn flush(&mut self) -> io::Result<()> {
        flush(&mut self.writer, &mut self.frames, &mut self.due).await
    }

    /// Answers a fetch. Whether the answer can wait: a value for which a receive is posted says itself that it comes.
    async fn hand_out(&mut self, task: TaskId, offers: Offers) -> Result<bool, PeerError> {
        let lane = self.hand_out_on(task, &offers).await;
        let (Some(MpiEnd { rank, tag, is_posted: true }), Some(mpi)) = (offers.mpi, &self.port.lanes.mpi)
        else {
            return lane.map(|_| false);
        };
        let can_wait = matches!(lane, Ok(Some(LaneKind::Mpi)));
        if !can_wait {
            mpi.decline(rank, Tag(tag));
        }
        lane.map(|_| can_wait)
    }

    /// Answers a fetch. On which lane the value goes, if it does.
    async fn hand_out_on(&mut self, task: TaskId, offers: &Offers) -> Result<Option<LaneKind>, PeerError> {
        let Some(value) = self.port.engine.value(task) else {
            PeerReply::NotHere.append(&mut self.frames);
            return Ok(None);
        };
        let can_map = offers.shm.is_some() && offers.shm == self.port.lanes.shm;
        if offers.only_lent {
            let packed = if can_map { lendable(value).await } else { None };
            let mapping = packed.and_then(|packed| self.leases.grant(shm::pool(), &packed));
            let lane = mapping.is_some().then_some(LaneKind::Shm);
            let refused = || PeerReply::Refused { reason: NOT_LENT.to_owned() };
            mapping.map_or_else(refused, PeerReply::Mapping).append(&mut self.frames);
            return Ok(lane);
        }
        let port = Arc::clone(&self.port);
        let packing = port.packed_to_go(task, Arc::clone(&value), can_map);
        let (packed, room) = self.patiently(packing).await?;
        match packed {
            Ok(packed) => {
                if can_map && let Some(mapping) = self.leases.grant(shm::pool(), &packed) {
                    PeerReply::Mapping(mapping).append(&mut self.frames);
                    return Ok(Some(LaneKind::Shm));
                }
                if let (Some(MpiEnd { rank, tag, .. }), Some(lane)) = (offers.mpi, &self.port.lanes.mpi)
                    && packed.len() > TCP_BYTES_MAX
                    && let Some(sending) = lane.send(rank, Tag(tag), &packed)
                {
                    PeerReply::OnOffer.append(&mut self.frames);
                    self.see_off(sending, rank, room);
                    return Ok(Some(LaneKind::Mpi));
                }
                PeerReply::Value { shape: Shape::of(&packed) }.append(&mut self.frames);
                send_value(&mut self.writer, &mut self.frames, &packed, &Meter::default()).await?;
                Ok(Some(LaneKind::Tcp))
            }
            Err(reason) => {
                if value.is_lost() {
                    warn!(%task, reason, "a spilled value is lost");
                    self.port.engine.lose(task);
                }
                PeerReply::Refused { reason }.append(&mut self.frames);
                Ok(None)
            }
        }
    }

    /// Waits for the end of `work`, and says now and then that it goes on.
    async fn patiently<T>(&mut self, work: impl Future<Output = T>) -> Result<T, PeerError> {
        let mut work = std::pin::pin!(work);
        loop {
            if let Ok(done) = tokio::time::timeout(BUSY_PERIOD, &mut work).await {
                return Ok(done);
            }
            PeerReply::Busy.append(&mut self.frames);
            self.flush().await?;
        }
    }

    /// Waits for the end of a value that goes over MPI, beside the requests that come here.
    fn see_off(&mut self, mut sending: UnderWay, rank: u32, room: Option<Room>) {
        while self.sending.try_join_next().is_some() {}
        self.sending.spawn(async move {
            let _room = room;
            if let Err(error) = sending.end().await {
                // The other end sees nothing come, and asks again over TCP.
                debug!(rank, %error, "a value was not sent");
            }
        });
    }

    async fn take_in(&mut self, task: TaskId, shape: &Shape) -> Result<(), PeerError> {
        let bytes = shape.bytes().unwrap_or(u64::MAX);
        if bytes > self.port.value_bytes_max {
            let limit = self.port.value_bytes_max;
            let reason = format!("it has {bytes} bytes, and the worker may use {limit}; scatter it in parts");
            return self.refuse(shape, reason).await;
        }
        let Some(room) = Reserved::of(&self.port.engine, bytes, PUT_PATIENCE).await else {
            return self.refuse(shape, NO_ROOM.to_owned()).await;
        };
        let packed = receive_value(&mut self.reader, shape).await?;
        room.fill(task, packed);
        PeerReply::Stored.append(&mut self.frames);
        Ok(())
    }

    /// Lets a value pass by.
    async fn refuse(&mut self, shape: &Shape, reason: String) -> Result<(), PeerError> {
        skip_value(&mut self.reader, shape).await?;
        PeerReply::Refused { reason }.append(&mut self.frames);
        Ok(())
    }
}

/// The packed form, made on another thread if it is large and not there, or read if it is in a file.
async fn packed(value: Arc<Resident>) -> Result<Packed, String> {
    if value.bytes() <= PACKED_HERE_BYTES_MAX && !value.is_spilled() {
        return value.packed().map_err(|error| error.to_string());
    }
    if let Some(packed) = value.packed_already() {
        return Ok(packed);
    }
    packed_elsewhere(value, std::convert::identity).await
}

/// The packed form and what `then` makes of it, on another thread.
async fn packed_elsewhere(
    value: Arc<Resident>,
    then: impl FnOnce(Packed) -> Packed + Send + 'static,
) -> Result<Packed, String> {
    match tokio::task::spawn_blocking(move || value.packed().map(then)).await {
        Ok(packed) => packed.map_err(|error| error.to_string()),
        Err(_) => Err("its type panics when it is packed".to_owned()),
    }
}
