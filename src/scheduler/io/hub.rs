//! Core and outboxes side by side: frames are booked, effects become mail.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::chronicle::{Chronicle, What};
use super::lease::Session;
use super::post::{ClientPeer, PeerId, Post, WorkerPeer};
use super::{End, SchedulerConfig, StopHandle};
use crate::model::{ClientId, Tick, WorkerId};
use crate::registry::difference;
use crate::scheduler::core::recover::Departure;
use crate::scheduler::core::{SchedulerCore, Seat, Violation};
use crate::topology::Place;
use crate::transport::tcp::Remote;
use crate::wire::client::{ClientMessage, Closing};
use crate::wire::frame::Frame;
use crate::wire::handshake::BuildHash;
use crate::wire::resume::Token;
use crate::wire::worker::{Join, Shutdown, WorkerMessage};
use crate::wire::{Peer, WireError};

/// Why a peer is dropped.
#[derive(Debug, Error)]
pub(super) enum Refusal {
    #[error("only clients and workers connect to a scheduler")]
    Role,
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("it reported before it joined")]
    NotJoined,
    #[error("it joined twice")]
    JoinedTwice,
    #[error(
        "its task functions are not those of the cluster: {0}; start all ranks with the same program and --tasks"
    )]
    OtherFunctions(String),
}

/// All that the shell keeps.
pub(super) struct Hub {
    pub(super) core: SchedulerCore,
    pub(super) post: Post,
    pub(super) started: Instant,
    pub(super) address: String,
    pub(super) place: Option<Place>,
    pub(super) chronicle: Chronicle,
    /// Clients by the tokens of their sessions.
    pub(super) sessions: BTreeMap<Token, ClientId>,
    /// How long a client may be away.
    pub(super) client_lease: Duration,
    booked: Rc<Notify>,
    stop: StopHandle,
    workers_expected: u32,
    standing_by: u32,
    workers_lost: Arc<AtomicU32>,
    next_client: u32,
    next_worker: u32,
    /// The task table of the first worker, which all others must share.
    build: Option<BuildHash>,
}

impl Hub {
    pub(super) fn new(config: &SchedulerConfig, address: &str) -> Self {
        Self {
            core: SchedulerCore::new(config.tuning),
            post: Post::default(),
            started: Instant::now(),
            address: address.to_owned(),
            place: config.place.clone(),
            chronicle: Chronicle::default(),
            sessions: BTreeMap::new(),
            client_lease: config.client_lease,
            booked: Rc::new(Notify::new()),
            stop: config.stop.clone(),
            workers_expected: config.workers_expected,
            standing_by: config.standing_by,
            workers_lost: Arc::clone(&config.workers_lost),
            next_client: 0,
            next_worker: 0,
            build: None,
        }
    }

    /// Notified when messages have been booked.
    pub(super) fn booked(&self) -> Rc<Notify> {
        Rc::clone(&self.booked)
    }

    pub(super) fn peers_len(&self) -> usize {
        self.post.clients.len() + self.post.workers.len()
    }

    pub(super) fn client_joins(&mut self, remote: &Remote, session: Session) -> ClientId {
        let client = ClientId(self.next_client);
        self.next_client += 1;
        self.core.client_joined(client);
        self.post.clients.insert(client, ClientPeer::new(remote, session));
        if let (Some(theirs), Some(ours)) = (remote.hello.build, self.build)
            && theirs != ours
        {
            debug!(%remote, "the client links other task functions than the workers; calls of unknown ones fail");
        }
        info!(%client, %remote, "client joined");
        let peers = self.worker_addresses();
        self.post.client(client, |outbox| outbox.peers(&peers));
        if let Some(shutdown) = self.stop.stopped() {
            self.post.client(client, |outbox| outbox.closing(&Closing { reason: shutdown.reason }));
            self.post.close(PeerId::Client(client));
        }
        self.booked.notify_one();
        client
    }

    /// A worker is connected; it takes part from its `Join` on.
    pub(super) fn worker_arrives(&mut self, remote: &Remote) -> PeerId {
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        self.post.workers.insert(worker, WorkerPeer::new(remote));
        if let Some(shutdown) = self.stop.stopped() {
            self.post.worker(worker, |outbox| outbox.shutdown(&shutdown));
            self.post.close(PeerId::Worker(worker));
        }
        PeerId::Worker(worker)
    }

    /// How many workers have ever connected.
    pub(super) fn workers_seen(&self) -> u32 {
        self.next_worker
    }

    /// Books all that a frame says.
    pub(super) fn book(&mut self, peer: PeerId, frame: &Frame) -> Result<(), Refusal> {
        match peer {
            PeerId::Client(client) => {
                let message = ClientMessage::read(frame.opcode, &frame.body)?;
                tracing::trace!(%client, opcode = frame.opcode, bytes = frame.body.len(), "from client");
                self.book_client(client, message)?;
                self.post.client_said(client, frame);
                Ok(())
            }
            PeerId::Worker(worker) => {
                let message = WorkerMessage::read(frame.opcode, &frame.body)?;
                tracing::trace!(%worker, opcode = frame.opcode, bytes = frame.body.len(), "from worker");
                self.book_worker(worker, message)
            }
        }
    }

    fn book_client(&mut self, client: ClientId, message: ClientMessage<'_>) -> Result<(), Refusal> {
        let (core, post) = (&mut self.core, &mut self.post);
        match message {
            ClientMessage::Submit(mut calls) => {
                let mut next = calls.next_call()?;
                while let Some(call) = next {
                    next = calls.next_call()?;
                    if let Some(next) = &next {
                        core.expect(next.key);
                    }
                    core.submit(client, &call, post)?;
                }
            }
            ClientMessage::Watch(mut futures) => {
                while let Some(future) = futures.next_future()? {
                    core.watch(client, future, post)?;
                }
            }
            ClientMessage::Release(mut futures) => {
                while let Some(future) = futures.next_future()? {
                    core.release(client, future, post)?;
                }
            }
            ClientMessage::Retry(mut futures) => {
                while let Some(future) = futures.next_future()? {
                    core.retry(client, future, post)?;
                }
            }
            ClientMessage::Cancel(cancel) => core.cancel(client, &cancel, post)?,
            ClientMessage::Arrange(arrange) => core.arrange(client, arrange, post)?,
            ClientMessage::Scatter(scatter) => core.scatter(client, &scatter, post)?,
            ClientMessage::Unreachable(unreachable) => core.unreachable(client, &unreachable, post)?,
            ClientMessage::GiveUp(give_up) => core.give_up(client, &give_up, post)?,
            ClientMessage::Query(number, query) => {
                let answer = self.answer(client, query);
                self.post.client(client, |outbox| outbox.reply(number, &answer));
            }
            ClientMessage::Functions(functions) => {
                core.name_functions(functions.into_iter().map(|function| (function.id, function.name)));
            }
            ClientMessage::Received(bytes) => {
                if let Some(peer) = post.clients.get_mut(&client) {
                    peer.session.acknowledge(bytes)?;
                }
            }
            ClientMessage::Close => {
                if let Some(peer) = post.clients.get_mut(&client) {
                    peer.session.has_closed = true;
                }
                core.client_left(client, post);
            }
        }
        Ok(())
    }

    fn book_worker(&mut self, worker: WorkerId, message: WorkerMessage<'_>) -> Result<(), Refusal> {
        let joined = self.post.workers.get(&worker).is_some_and(|peer| peer.join.is_some());
        if let WorkerMessage::Join(join) = message {
            return if joined { Err(Refusal::JoinedTwice) } else { self.worker_joins(worker, *join) };
        }
        if !joined {
            return Err(Refusal::NotJoined);
        }
        let (core, post, chronicle) = (&mut self.core, &mut self.post, &mut self.chronicle);
        let at = self.started.elapsed();
        match message {
            WorkerMessage::Join(_) => unreachable!("handled above"),
            WorkerMessage::Finished(mut reports) => {
                while let Some(report) = reports.next_finished()? {
                    // Small values are too many to tell of each.
                    if report.inline.is_none()
                        && let Some(key) = core.key_of(report.task)
                    {
                        let (bytes, us) = (report.nbytes, report.duration_us);
                        chronicle.note(at, report.task, Some(key), worker, What::Made { bytes, us });
                    }
                    core.finished(worker, &report, post)?;
                }
            }
            WorkerMessage::Failed(mut reports) => {
                while let Some(report) = reports.next_failed()? {
                    if let Some(key) = core.key_of(report.task) {
                        let us = report.duration_us;
                        chronicle.note(at, report.task, Some(key), worker, What::Failed { us });
                    }
                    core.failed(worker, &report, post)?;
                }
            }
            WorkerMessage::Returned(mut tasks) => {
                while let Some(task) = tasks.next_task()? {
                    core.returned(worker, task)?;
                }
            }
            WorkerMessage::Started(mut tasks) => {
                while let Some(task) = tasks.next_task()? {
                    core.started(worker, task)?;
                }
            }
            WorkerMessage::Fenced(mut numbers) => {
                while let Some(number) = numbers.next_number()? {
                    core.fenced(worker, number, post)?;
                }
            }
            WorkerMessage::Holds(mut pairs) => {
                while let Some((task, nbytes)) = pairs.next_pair()? {
                    if let Some(key) = core.key_of(task) {
                        chronicle.note(at, task, Some(key), worker, What::Held { bytes: nbytes });
                    }
                    core.holds(worker, task, nbytes, post);
                }
            }
            WorkerMessage::Missed(mut tasks) => {
                while let Some(task) = tasks.next_task()? {
                    debug!(%worker, %task, "a copy was not acquired");
                    core.missed(worker, task, post);
                }
            }
            WorkerMessage::Unavailable(mut pairs) => {
                while let Some((task, holder)) = pairs.next_pair()? {
                    let holder = u32::try_from(holder).map_err(|_| WireError::OutOfRange {
                        column: "unavailable.holders",
                        value: holder,
                    })?;
                    debug!(%worker, %task, holder, "a value could not be fetched");
                    let what = What::Unavailable { from: WorkerId(holder) };
                    chronicle.note(at, task, core.key_of(task), worker, what);
                    core.unavailable(task, WorkerId(holder), post);
                }
            }
            WorkerMessage::Lost(mut tasks) => {
                while let Some(task) = tasks.next_task()? {
                    core.lost(worker, task, post);
                }
            }
            WorkerMessage::Pressure(pressure) => core.pressure(worker, pressure, post),
            WorkerMessage::Metrics(metrics) => post.note_metrics(worker, metrics),
            WorkerMessage::Moved(moved) => {
                for moved in moved {
                    let at = at.saturating_sub(Duration::from_micros(moved.ago_us));
                    let (task, what) = (moved.task, What::Moved(moved));
                    chronicle.note(at, task, core.key_of(task), worker, what);
                }
            }
        }
        Ok(())
    }

    fn worker_joins(&mut self, worker: WorkerId, join: Join) -> Result<(), Refusal> {
        let peer = self.post.workers.get_mut(&worker).expect("it is connected");
        let build = peer.remote.hello.build;
        match self.build {
            Some(ours) if build != Some(ours) => {
                let refusal = Refusal::OtherFunctions(self.other_functions(&join));
                let shutdown = Shutdown { reason: refusal.to_string(), code: super::TURNED_AWAY };
                self.post.worker(worker, |outbox| outbox.shutdown(&shutdown));
                return Err(refusal);
            }
            _ => self.build = build,
        }
        info!(%worker, rank = join.rank, host = join.host, pid = join.pid, threads = join.threads, "worker joined");
        let functions: Vec<_> =
            join.functions.iter().map(|function| (function.id, function.name.clone())).collect();
        let (host, rank, threads) = (join.host.clone(), join.rank, join.threads);
        let memory_bytes_max = join.memory_bytes_max;
        let newcomer = [as_peer(worker, &join)];
        let known = self.worker_addresses();
        self.post.workers.get_mut(&worker).expect("it is connected").join = Some(join);
        self.post.worker(worker, |outbox| outbox.peers(&known));
        let (clients, workers) = (self.post.client_ids(), self.post.worker_ids());
        clients.into_iter().for_each(|client| self.post.client(client, |outbox| outbox.peers(&newcomer)));
        workers.into_iter().for_each(|other| self.post.worker(other, |outbox| outbox.peers(&newcomer)));
        let seat = Seat { host: &host, rank, threads, memory_bytes_max };
        self.core.worker_joined(worker, seat, functions, &mut self.post);
        Ok(())
    }

    /// In words: how the tasks of a worker differ from those of the cluster.
    fn other_functions(&self, join: &Join) -> String {
        let names = |join: &Join| -> Vec<String> {
            join.functions.iter().map(|function| function.name.clone()).collect()
        };
        let first = self.post.workers.values().find_map(|peer| peer.join.as_ref());
        difference(&names(join), &first.map(names).unwrap_or_default())
    }

    fn worker_addresses(&self) -> Vec<Peer> {
        let joined =
            self.post.workers.iter().filter_map(|(worker, peer)| Some((*worker, peer.join.as_ref()?)));
        joined.map(|(worker, join)| as_peer(worker, join)).collect()
    }

    /// Whether the cluster ends.
    pub(super) fn is_ending(&self) -> bool {
        self.stop.stopped().is_some()
    }

    /// A peer has left: its connection ended in order, or otherwise.
    pub(super) fn leaves(&mut self, peer: PeerId, end: &End) {
        let ending = self.is_ending();
        let end = end.as_result();
        match peer {
            PeerId::Client(client) => {
                let ClientPeer { remote, session, .. } = &self.post.clients[&client];
                self.sessions.remove(session.token());
                match end {
                    Ok(()) => info!(%client, %remote, "client left"),
                    Err(error) => warn!(%client, %remote, error, "client lost; what it held is released"),
                }
                if let Err(reason) = end {
                    let closing = Closing { reason: reason.to_owned() };
                    self.post.client(client, |outbox| outbox.closing(&closing));
                }
                self.core.client_left(client, &mut self.post);
            }
            PeerId::Worker(worker) => {
                let peer = &self.post.workers[&worker];
                let (remote, has_joined) = (&peer.remote, peer.join.is_some());
                match end {
                    _ if ending => debug!(%worker, %remote, "worker left"),
                    Ok(()) => {
                        warn!(%worker, %remote, "worker left; what it ran and held is made again elsewhere")
                    }
                    Err(error) if !has_joined => warn!(%worker, %remote, error, "worker turned away"),
                    Err(error) => {
                        warn!(%worker, %remote, error, "worker lost; what it ran and held is made again elsewhere");
                    }
                }
                if let Err(reason) = end {
                    let shutdown = Shutdown { reason: reason.to_owned(), code: 70 };
                    self.post.worker(worker, |outbox| outbox.shutdown(&shutdown));
                }
                self.chronicle.note_lost(self.started.elapsed(), worker);
                match has_joined {
                    true => {
                        let clients = self.post.client_ids().into_iter();
                        clients.for_each(|client| self.post.client(client, |outbox| outbox.left(&[worker])));
                    }
                    false => self.standing_by = self.standing_by.saturating_sub(1),
                }
                if !ending {
                    self.workers_lost.fetch_add(1, Ordering::Relaxed);
                    self.end_without_workers();
                }
                self.core.worker_left(worker, Departure::Lost, &mut self.post);
            }
        }
        self.post.close(peer);
        self.booked.notify_one();
    }

    /// Ends a cluster that was started with workers when none is left: nobody starts others.
    fn end_without_workers(&self) {
        let all_came = self.workers_expected > 0 && self.next_worker >= self.workers_expected;
        if all_came && self.workers_lost.load(Ordering::Relaxed) + self.standing_by >= self.next_worker {
            let reason = "all workers have died".to_owned();
            self.stop.stop(Shutdown { reason, code: super::WORKERS_LOST });
        }
    }

    /// Tells everybody that the cluster ends.
    pub(super) fn begin_shutdown(&mut self, shutdown: &Shutdown) {
        let closing = Closing { reason: shutdown.reason.clone() };
        for client in self.post.client_ids() {
            self.post.client(client, |outbox| outbox.closing(&closing));
            self.post.close(PeerId::Client(client));
        }
        for worker in self.post.worker_ids() {
            self.post.worker(worker, |outbox| outbox.shutdown(shutdown));
            self.post.close(PeerId::Worker(worker));
        }
        self.post.deliver();
    }

    /// Ends the cluster on a client's behalf.
    pub(super) fn stop(&self, shutdown: Shutdown) {
        self.stop.stop(shutdown);
    }

    /// Lets the core place, and wakes the writers of those with mail.
    pub(super) fn place(&mut self) {
        let now = Tick(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX));
        self.core.place(now, &mut self.post);
        self.post.deliver();
        self.give_up_absent();
    }

    /// When the core has something to do though nothing happens.
    pub(super) fn deadline(&self) -> Option<tokio::time::Instant> {
        let Tick(us) = self.core.next_deadline()?;
        self.started.checked_add(Duration::from_micros(us)).map(Into::into)
    }

    /// Notified when `peer` has mail.
    pub(super) fn mail(&self, peer: PeerId) -> Option<Rc<Notify>> {
        self.post.mailbox(peer).map(|mailbox| Rc::clone(&mailbox.mail))
    }

    /// Moves a peer's mail into `frames`; whether more may come.
    pub(super) fn take_mail(&mut self, peer: PeerId, frames: &mut Vec<u8>) -> bool {
        let Some((outbox, mailbox)) = self.post.parts(peer) else { return false };
        outbox.swap_into(frames);
        mailbox.open || !frames.is_empty()
    }

    /// The peer's connection is done with.
    pub(super) fn forget(&mut self, peer: PeerId) {
        match peer {
            PeerId::Client(client) => drop(self.post.clients.remove(&client)),
            PeerId::Worker(worker) => drop(self.post.workers.remove(&worker)),
        }
    }
}

/// A worker, as others reach it.
fn as_peer(worker: WorkerId, join: &Join) -> Peer {
    Peer { worker, address: join.address.clone(), mpi_rank: join.mpi_rank, shm: join.shm }
}
