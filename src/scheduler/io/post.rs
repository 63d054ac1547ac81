//! Everybody's mail: what effects and answers write, and the writers take.
//!
//! A peer's outbox fills until its writer takes it; [`Post::deliver`] wakes the writers of all who have mail.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::Notify;
use tracing::warn;

use super::lease::Session;
use crate::model::{ClientId, FutureId, TaskId, WorkerId};
use crate::scheduler::core::Effects;
use crate::transport::tcp::Remote;
use crate::wire::Outbox;
use crate::wire::client::{Outcome, Placed, ToClientOutbox};
use crate::wire::frame::Frame;
use crate::wire::worker::{Assignment, Join, Metrics, ToWorkerOutbox};

/// Mail that a peer may leave unread; one that reads more slowly than this is cut off.
const MAIL_BYTES_MAX: usize = 512 << 20;

/// A connection's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PeerId {
    Client(ClientId),
    Worker(WorkerId),
}

/// Everybody's mail.
#[derive(Default)]
pub(super) struct Post {
    pub(super) clients: BTreeMap<ClientId, ClientPeer>,
    pub(super) workers: BTreeMap<WorkerId, WorkerPeer>,
    /// Clients that were cut off.
    pub(super) cut_off: Vec<ClientId>,
    /// Whose outbox got something since the last `place`.
    with_mail: Vec<PeerId>,
}

/// A client that is connected, or away for less than its lease.
pub(super) struct ClientPeer {
    pub(super) remote: Remote,
    pub(super) session: Session,
    pub(super) outbox: ToClientOutbox,
    pub(super) mailbox: Mailbox,
}

/// A connected worker.
pub(super) struct WorkerPeer {
    pub(super) remote: Remote,
    /// What it said when it joined; None until then.
    pub(super) join: Option<Join>,
    pub(super) metrics: Metrics,
    pub(super) cpu_percent: f64,
    metrics_at: Instant,
    outbox: ToWorkerOutbox,
    mailbox: Mailbox,
}

/// How the writer is woken, and whether more mail may come.
pub(super) struct Mailbox {
    pub(super) mail: Rc<Notify>,
    /// Whether the peer is among those with mail since the last [`Post::deliver`].
    has_mail: bool,
    pub(super) open: bool,
}

impl ClientPeer {
    pub(super) fn new(remote: &Remote, session: Session) -> Self {
        let (outbox, mailbox) = (ToClientOutbox::default(), Mailbox::new());
        Self { remote: remote.clone(), session, outbox, mailbox }
    }
}

impl WorkerPeer {
    pub(super) fn new(remote: &Remote) -> Self {
        Self {
            remote: remote.clone(),
            join: None,
            metrics: Metrics::default(),
            cpu_percent: 0.0,
            metrics_at: Instant::now(),
            outbox: ToWorkerOutbox::default(),
            mailbox: Mailbox::new(),
        }
    }
}

impl Mailbox {
    fn new() -> Self {
        Self { mail: Rc::new(Notify::new()), has_mail: false, open: true }
    }
}

impl Post {
    pub(super) fn client_ids(&self) -> Vec<ClientId> {
        self.clients.keys().copied().collect()
    }

    pub(super) fn worker_ids(&self) -> Vec<WorkerId> {
        self.workers.keys().copied().collect()
    }

    /// Takes a worker's measurements; its CPU share is that since the measurements before.
    pub(super) fn note_metrics(&mut self, worker: WorkerId, metrics: Metrics) {
        let Some(peer) = self.workers.get_mut(&worker) else { return };
        let wall_us = peer.metrics_at.elapsed().as_micros().max(1) as f64;
        let cpu_us = metrics.cpu_us.saturating_sub(peer.metrics.cpu_us) as f64;
        peer.cpu_percent = if peer.metrics.cpu_us == 0 { 0.0 } else { 100.0 * cpu_us / wall_us };
        (peer.metrics, peer.metrics_at) = (metrics, Instant::now());
    }

    /// A frame of a client's is booked; it is told so now and then.
    #[inline]
    pub(super) fn client_said(&mut self, client: ClientId, frame: &Frame) {
        let Some(peer) = self.clients.get_mut(&client) else { return };
        if let Some(bytes) = peer.session.booked(frame) {
            self.client(client, |outbox| outbox.received(bytes));
        }
    }

    /// Writes to a client, unless it has left.
    #[inline]
    pub(super) fn client(&mut self, client: ClientId, write: impl FnOnce(&mut ToClientOutbox)) {
        let Some(peer) = self.clients.get_mut(&client).filter(|peer| peer.mailbox.open) else { return };
        write(&mut peer.outbox);
        if !std::mem::replace(&mut peer.mailbox.has_mail, true) {
            self.with_mail.push(PeerId::Client(client));
        }
    }

    /// Writes to a worker, unless it has left.
    #[inline]
    pub(super) fn worker(&mut self, worker: WorkerId, write: impl FnOnce(&mut ToWorkerOutbox)) {
        let Some(peer) = self.workers.get_mut(&worker).filter(|peer| peer.mailbox.open) else { return };
        write(&mut peer.outbox);
        if !std::mem::replace(&mut peer.mailbox.has_mail, true) {
            self.with_mail.push(PeerId::Worker(worker));
        }
    }

    /// Nothing more goes to this peer; what is in its outbox still does.
    pub(super) fn close(&mut self, peer: PeerId) {
        if let Some((_, mailbox)) = self.parts(peer) {
            mailbox.open = false;
            mailbox.mail.notify_one();
        }
    }

    /// Wakes the writers of all who have mail; one who never reads is cut off.
    pub(super) fn deliver(&mut self) {
        for peer in std::mem::take(&mut self.with_mail) {
            let retained_bytes = self.retained_bytes(peer);
            let Some((outbox, mailbox)) = self.parts(peer) else { continue };
            let unread_bytes = outbox.len_bytes() + retained_bytes;
            mailbox.mail.notify_one();
            // More mail is looked at again, taken or not.
            mailbox.has_mail = false;
            if unread_bytes > MAIL_BYTES_MAX {
                mailbox.open = false;
                warn!(?peer, unread_bytes, "a peer does not read its mail and is cut off");
                if let PeerId::Client(client) = peer {
                    self.cut_off.push(client);
                }
            }
        }
    }

    /// What a client was written and has not acknowledged.
    fn retained_bytes(&self, peer: PeerId) -> usize {
        match peer {
            PeerId::Client(client) => {
                self.clients.get(&client).map_or(0, |peer| peer.session.retained_bytes() as usize)
            }
            PeerId::Worker(_) => 0,
        }
    }

    pub(super) fn mailbox(&self, peer: PeerId) -> Option<&Mailbox> {
        match peer {
            PeerId::Client(client) => self.clients.get(&client).map(|peer| &peer.mailbox),
            PeerId::Worker(worker) => self.workers.get(&worker).map(|peer| &peer.mailbox),
        }
    }

    pub(super) fn parts(&mut self, peer: PeerId) -> Option<(&mut Outbox, &mut Mailbox)> {
        match peer {
            PeerId::Client(client) => {
                self.clients.get_mut(&client).map(|peer| (peer.outbox.outbox(), &mut peer.mailbox))
            }
            PeerId::Worker(worker) => {
                self.workers.get_mut(&worker).map(|peer| (peer.outbox.outbox(), &mut peer.mailbox))
            }
        }
    }
}

impl Effects for Post {
    #[inline]
    fn assign(&mut self, worker: WorkerId, assignment: &Assignment<'_>) {
        self.worker(worker, |outbox| outbox.assign(assignment));
    }

    fn retract(&mut self, worker: WorkerId, task: TaskId) {
        self.worker(worker, |outbox| outbox.retract(task));
    }

    fn abandon(&mut self, worker: WorkerId, task: TaskId) {
        self.worker(worker, |outbox| outbox.abandon(task));
    }

    fn fence(&mut self, worker: WorkerId, number: u64) {
        self.worker(worker, |outbox| outbox.fence(number));
    }

    fn acquire(&mut self, worker: WorkerId, task: TaskId, nbytes: u64, holders: &[WorkerId]) {
        self.worker(worker, |outbox| outbox.acquire(task, nbytes, holders));
    }

    fn free(&mut self, worker: WorkerId, task: TaskId) {
        self.worker(worker, |outbox| outbox.free(task));
    }

    #[inline]
    fn notify(&mut self, client: ClientId, future: FutureId, outcome: &Outcome<'_>) {
        self.client(client, |outbox| outbox.notify(future, outcome));
    }

    fn placed(&mut self, client: ClientId, placed: &Placed) {
        self.client(client, |outbox| outbox.placed(std::slice::from_ref(placed)));
    }

    fn acknowledge(&mut self, client: ClientId, number: u32) {
        self.client(client, |outbox| outbox.reply(number, &Ok(String::new())));
    }

    fn answer(&mut self, client: ClientId, number: u32, answer: &Result<String, String>) {
        self.client(client, |outbox| outbox.reply(number, answer));
    }
}
