//! The scheduler's shell: connections in, the core's decisions out.
//!
//! One thread does everything. A reader per connection books all that has arrived; one *placer* then lets the
//! core place once and wakes the writers of those who have something to hear. While a write is under way,
//! its outbox keeps filling, so load makes batches and idleness makes none.
//! [`hub`] joins the core with [`post`], everybody's mail; [`lease`] has the clients' connections and what outlives
//! them; [`answers`] tells people what the core knows, and [`chronicle`] what happened.

mod answers;
mod chronicle;
mod hub;
mod lease;
mod post;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use self::hub::{Hub, Refusal};
use self::post::PeerId;
use super::core::Tuning;
use crate::model::error::with_causes;
use crate::topology::Place;
use crate::transport::tcp::{Connection, Listener, ReadError, ReadHalf, WriteHalf};
use crate::wire::handshake::Role;
use crate::wire::worker::Shutdown;

/// How long peers may take to leave once the cluster ends.
const LEAVE_MAX: Duration = Duration::from_secs(3);

/// The exit code of a cluster whose workers have all died.
pub const WORKERS_LOST: i32 = 75;
/// The exit code of a worker whose tasks are not those of the cluster.
pub const TURNED_AWAY: i32 = 71;

/// How long a client may be away, unless the configuration says otherwise.
pub const CLIENT_LEASE: Duration = Duration::from_secs(60);

/// What a scheduler is started with.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// How it schedules.
    pub tuning: Tuning,
    /// Ends it from outside.
    pub stop: StopHandle,
    /// How many workers are on their way from the start: an early end waits for them, so that each is told, and the
    /// death of all is the end. With 0 workers come and go.
    pub workers_expected: u32,
    /// How many of those connect and never join, because they have no tasks that they can run.
    pub standing_by: u32,
    /// Where the scheduler itself runs, if it is a rank, for `topo`.
    pub place: Option<Place>,
    /// Counts workers that left before the end.
    pub workers_lost: Arc<AtomicU32>,
    /// How long what a client holds is kept after its connection broke; zero for not at all.
    pub client_lease: Duration,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            tuning: Tuning::default(),
            stop: StopHandle::default(),
            workers_expected: 0,
            standing_by: 0,
            place: None,
            workers_lost: Arc::default(),
            client_lease: CLIENT_LEASE,
        }
    }
}

/// How a peer's connection ended.
#[derive(Debug)]
enum End {
    /// In order, as far as the connection goes.
    Closed,
    /// It broke.
    Lost(String),
    /// The peer said what it may not say.
    Violation(String),
    /// The peer has another.
    Replaced,
}

/// Ends a scheduler, and with it the cluster, from any thread. The first reason counts.
#[derive(Debug, Clone)]
pub struct StopHandle {
    sender: watch::Sender<Option<Shutdown>>,
}

impl StopHandle {
    /// A handle that has not been used.
    pub fn new() -> Self {
        Self { sender: watch::Sender::new(None) }
    }

    /// Ends the cluster; `shutdown.code` becomes the exit code of its ranks.
    pub fn stop(&self, shutdown: Shutdown) {
        self.sender.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(shutdown);
            }
            first
        });
    }

    /// Why it was stopped, if it was.
    pub fn stopped(&self) -> Option<Shutdown> {
        self.sender.borrow().clone()
    }

    async fn wait(&self) -> Shutdown {
        let mut receiver = self.sender.subscribe();
        let stopped = receiver.wait_for(Option::is_some).await;
        stopped.ok().and_then(|shutdown| shutdown.clone()).expect("the sender lives as long as this handle")
    }
}

impl Default for StopHandle {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs a scheduler on the current-thread runtime of the caller until it is stopped, by its handle or by a client.
///
/// Every peer is then told, and has a few seconds to leave. Returns why it was stopped.
pub async fn serve(listener: Listener, config: SchedulerConfig) -> Shutdown {
    LocalSet::new().run_until(serve_locally(listener, config)).await
}

async fn serve_locally(mut listener: Listener, config: SchedulerConfig) -> Shutdown {
    let hub = Rc::new(RefCell::new(Hub::new(&config, listener.address())));
    let mut connections = JoinSet::new();
    let placer = tokio::task::spawn_local(place(Rc::clone(&hub)));
    let shutdown = loop {
        tokio::select! {
            connection = listener.accept() => {
                connections.spawn_local(converse(Rc::clone(&hub), connection));
            }
            shutdown = config.stop.wait() => break shutdown,
            Some(_) = connections.join_next() => {}
        }
    };
    info!(reason = shutdown.reason, code = shutdown.code, "the cluster ends");
    hub.borrow_mut().begin_shutdown(&shutdown);
    let all_left = async {
        while hub.borrow().workers_seen() < config.workers_expected {
            tokio::select! {
                connection = listener.accept() => {
                    connections.spawn_local(converse(Rc::clone(&hub), connection));
                }
                Some(_) = connections.join_next() => {}
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    };
    if tokio::time::timeout(LEAVE_MAX, all_left).await.is_err() {
        warn!(peers = hub.borrow().peers_len(), "some peers did not leave in time; they are cut off");
    }
    placer.abort();
    shutdown
}

/// Lets the core place once per batch of messages and when it has a deadline, and wakes the writers of those who then have mail.
async fn place(hub: Rc<RefCell<Hub>>) {
    let booked = hub.borrow().booked();
    loop {
        let deadline = hub.borrow().deadline();
        tokio::select! {
            biased;
            () = booked.notified() => {}
            () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {}
        }
        hub.borrow_mut().place();
    }
}

/// One connection, from its handshake to its end.
async fn converse(hub: Rc<RefCell<Hub>>, connection: Connection) {
    let remote = connection.remote().clone();
    let peer = match remote.hello.role {
        Role::Client => return lease::converse(hub, connection).await,
        Role::Worker => Ok(hub.borrow_mut().worker_arrives(&remote)),
        Role::Scheduler | Role::Peer => Err(Refusal::Role),
    };
    let peer = match peer {
        Ok(peer) => peer,
        Err(refusal) => return warn!(%remote, %refusal, "a peer is turned away"),
    };
    let (reader, writer) = connection.split();
    let writing = tokio::task::spawn_local(write(Rc::clone(&hub), peer, writer));
    let end = read(&hub, peer, reader).await;
    hub.borrow_mut().leaves(peer, &end);
    // What is left to be said, a refusal for one, is still written.
    let _ = tokio::time::timeout(LEAVE_MAX, writing).await;
    hub.borrow_mut().forget(peer);
}

/// Books what a peer says until it leaves; how that ended.
async fn read(hub: &Rc<RefCell<Hub>>, peer: PeerId, mut reader: ReadHalf) -> End {
    loop {
        match reader.fill().await {
            Ok(true) => {}
            Ok(false) => return End::Closed,
            Err(error) => return error.into(),
        }
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => {
                    if let Err(refusal) = hub.borrow_mut().book(peer, &frame) {
                        return End::Violation(refusal.to_string());
                    }
                }
                Ok(None) => break,
                Err(error) => return error.into(),
            }
        }
        hub.borrow().booked().notify_one();
    }
}

impl From<ReadError> for End {
    fn from(error: ReadError) -> Self {
        let reason = with_causes(&error);
        match error {
            ReadError::Frame { .. } => Self::Violation(reason),
            ReadError::Truncated { .. } | ReadError::Lost { .. } => Self::Lost(reason),
        }
    }
}

impl End {
    /// Ok if it was in order.
    fn as_result(&self) -> Result<(), &str> {
        match self {
            Self::Closed | Self::Replaced => Ok(()),
            Self::Lost(reason) | Self::Violation(reason) => Err(reason),
        }
    }
}

/// Writes a peer's outbox whenever there is something in it, until the peer has left.
async fn write(hub: Rc<RefCell<Hub>>, peer: PeerId, mut writer: WriteHalf) {
    let Some(mail) = hub.borrow().mail(peer) else { return };
    let mut frames = Vec::new();
    loop {
        let open = hub.borrow_mut().take_mail(peer, &mut frames);
        if !frames.is_empty() {
            if let Err(error) = writer.write_all(&mut frames).await {
                // The reader finds the same and books the loss.
                tracing::debug!(%error, "cannot write");
                return;
            }
            frames.clear();
            continue;
        }
        if !open {
            let _ = writer.close().await;
            return;
        }
        mail.notified().await;
    }
}
