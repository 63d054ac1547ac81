//! Clients and their connections: a client outlives a connection that breaks, for the time of its lease.
//!
//! While a client is away, its references stay and what happens goes into its mail. It comes back with the token of
//! its session, on a connection that takes the place of the former one, and is told what it has missed. When the
//! lease ends first, or too much mail has gathered, the core hears that the client has left. The streams of frames
//! are those of [`crate::wire::resume`].

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::hub::Hub;
use super::post::{ClientPeer, PeerId};
use super::{End, LEAVE_MAX, read};
use crate::model::ClientId;
use crate::security::random_bits;
use crate::transport::tcp::{Connection, Remote, WriteHalf};
use crate::wire::WireError;
use crate::wire::frame::Frame;
use crate::wire::resume::{Received, Sent, SessionAnswer, SessionRequest, Token};

/// What a client has with the scheduler, over all its connections.
pub(super) struct Session {
    token: Token,
    sent: Sent,
    received: Received,
    /// How many connections it has had.
    connections: u32,
    /// Ends the present connection in favour of another.
    replaced: Rc<Notify>,
    /// Since when it has none.
    away_since: Option<Instant>,
    /// Whether it took leave.
    pub(super) has_closed: bool,
}

/// One connection of a client.
struct Seat {
    client: ClientId,
    /// Its number among the client's connections.
    connection: u32,
    replaced: Rc<Notify>,
    mail: Rc<Notify>,
}

/// What a writer does next.
enum Next {
    /// It sleeps until there is mail.
    Wait,
    /// It says that nothing follows.
    Close,
}

/// How far a client's absence has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Absence {
    /// How long it is away.
    pub(super) away: Duration,
    /// How long it may still be.
    pub(super) left: Duration,
}

impl Session {
    fn new(token: Token) -> Self {
        Self {
            token,
            sent: Sent::default(),
            received: Received::default(),
            connections: 1,
            replaced: Rc::new(Notify::new()),
            away_since: None,
            has_closed: false,
        }
    }

    /// By which it is resumed.
    pub(super) fn token(&self) -> &Token {
        &self.token
    }

    /// What the client has not acknowledged, in bytes.
    pub(super) fn retained_bytes(&self) -> u64 {
        self.sent.retained_bytes()
    }

    /// What has been booked of the client's, in bytes.
    pub(super) fn received_bytes(&self) -> u64 {
        self.received.bytes()
    }

    /// A frame of the client's is booked; what to acknowledge. A farewell is, so that the client need not say it again.
    pub(super) fn booked(&mut self, frame: &Frame) -> Option<u64> {
        self.received.note(frame);
        if self.has_closed { Some(self.received.bytes()) } else { self.received.acknowledgement() }
    }

    /// The client acknowledges.
    pub(super) fn acknowledge(&mut self, received_bytes: u64) -> Result<(), WireError> {
        let claim = self.sent.acknowledge(received_bytes);
        claim.map_err(|claim| WireError::Malformed { message: "received", reason: claim.to_string() })
    }

    /// If the client has no connection.
    pub(super) fn absence(&self, lease: Duration) -> Option<Absence> {
        let away = self.away_since?.elapsed();
        Some(Absence { away, left: lease.saturating_sub(away) })
    }
}

/// One connection of a client, from its handshake to its end.
pub(super) async fn converse(hub: Rc<RefCell<Hub>>, connection: Connection) {
    let remote = connection.remote().clone();
    let (reader, mut writer) = connection.split();
    let arrived = hub.borrow_mut().client_arrives(&remote);
    let mut answer = Vec::new();
    let seat = match arrived {
        Ok((seat, begun)) => {
            begun.append(&mut answer);
            Rc::new(seat)
        }
        Err(reason) => {
            warn!(%remote, reason, "a client is turned away");
            SessionAnswer::Refused { reason }.append(&mut answer);
            let refusing = async {
                writer.write_all(&mut answer).await?;
                writer.close().await
            };
            let _ = tokio::time::timeout(LEAVE_MAX, refusing).await;
            return;
        }
    };
    writer.queue(&answer);
    let peer = PeerId::Client(seat.client);
    let writing = tokio::task::spawn_local(write(Rc::clone(&hub), Rc::clone(&seat), writer));
    let end = tokio::select! {
        biased;
        () = seat.replaced.notified() => End::Replaced,
        end = read(&hub, peer, reader) => end,
    };
    match hub.borrow_mut().connection_ends(&seat, &end) {
        After::Gone => {}
        After::Away(lease) => {
            writing.abort();
            let (hub, seat) = (Rc::clone(&hub), Rc::clone(&seat));
            tokio::task::spawn_local(async move {
                tokio::time::sleep(lease).await;
                hub.borrow_mut().lease_ends(&seat);
            });
            return;
        }
        After::Replaced => return writing.abort(),
    }
    // What is left to be said, a refusal for one, is still written.
    let _ = tokio::time::timeout(LEAVE_MAX, writing).await;
    hub.borrow_mut().forget(peer);
}

/// What is left of a client when one of its connections has ended.
enum After {
    /// Nothing.
    Gone,
    /// Everything, for so long.
    Away(Duration),
    /// Everything, on another connection.
    Replaced,
}

/// Writes a client's mail whenever there is some, until the client has left or has another connection.
async fn write(hub: Rc<RefCell<Hub>>, seat: Rc<Seat>, mut writer: WriteHalf) {
    let mut frames = Vec::new();
    loop {
        let wrote = poll_fn(|cx| hub.borrow_mut().poll_write(&seat, &mut writer, &mut frames, cx)).await;
        match wrote {
            Ok(Next::Wait) => seat.mail.notified().await,
            Ok(Next::Close) => {
                let _ = writer.close().await;
                return;
            }
            // The reader finds the same and books the loss.
            Err(error) => return debug!(client = %seat.client, %error, "cannot write"),
        }
    }
}

impl Hub {
    /// A client is connected, for the first time or again; what it is told, or why it is refused.
    fn client_arrives(&mut self, remote: &Remote) -> Result<(Seat, SessionAnswer), String> {
        match remote.hello.session {
            None => Err("it asks for no session; use the same dcluster on both ends".to_owned()),
            Some(SessionRequest::Begin) => {
                let token = Token(random_bits().map_err(|error| error.to_string())?);
                let client = self.client_joins(remote, Session::new(token));
                self.sessions.insert(token, client);
                let lease_ms = u64::try_from(self.client_lease.as_millis()).unwrap_or(u64::MAX);
                Ok((self.seat(client), SessionAnswer::Begun { token, lease_ms }))
            }
            Some(SessionRequest::Resume { token, received_bytes }) => {
                let (client, received_bytes) = self.client_resumes(remote, token, received_bytes)?;
                Ok((self.seat(client), SessionAnswer::Resumed { received_bytes }))
            }
        }
    }

    /// A client is back; which, and how much of its stream was booked.
    fn client_resumes(
        &mut self,
        remote: &Remote,
        token: Token,
        received_bytes: u64,
    ) -> Result<(ClientId, u64), String> {
        let found =
            self.sessions.get(&token).and_then(|client| Some((*client, self.post.clients.get_mut(client)?)));
        let Some((client, peer)) = found else {
            return Err("its session is not known here: its lease has expired, or it never was".to_owned());
        };
        let ClientPeer { session, mailbox, .. } = peer;
        session.sent.resume(received_bytes).map_err(|claim| claim.to_string())?;
        let away = session.away_since.take().map(|since| since.elapsed());
        if away.is_none() {
            info!(%client, %remote, "the client connects again; its former connection is dropped");
            session.replaced.notify_one();
        }
        session.connections += 1;
        // Nobody but the writer of this connection is to be woken.
        (session.replaced, mailbox.mail) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let unread_bytes = session.retained_bytes();
        info!(%client, %remote, away_s = away.unwrap_or_default().as_secs_f32(), unread_bytes, "client resumed");
        peer.remote = remote.clone();
        Ok((client, peer.session.received.bytes()))
    }

    fn seat(&self, client: ClientId) -> Seat {
        let ClientPeer { session, mailbox, .. } = &self.post.clients[&client];
        Seat {
            client,
            connection: session.connections,
            replaced: Rc::clone(&session.replaced),
            mail: Rc::clone(&mailbox.mail),
        }
    }

    /// A connection of a client has ended.
    fn connection_ends(&mut self, seat: &Seat, end: &End) -> After {
        let (lease, ending) = (self.client_lease, self.is_ending());
        let client = seat.client;
        let peer = match self.post.clients.get_mut(&client) {
            Some(peer) if peer.session.connections == seat.connection => peer,
            _ => return After::Replaced,
        };
        let keeps = !lease.is_zero() && !ending && !peer.session.has_closed && peer.mailbox.open;
        let reason = match end {
            End::Replaced => return After::Replaced,
            End::Closed if keeps => "it closed the connection without taking leave",
            End::Lost(reason) if keeps => reason.as_str(),
            End::Closed | End::Lost(_) | End::Violation(_) => {
                self.leaves(PeerId::Client(client), end);
                return After::Gone;
            }
        };
        peer.session.away_since = Some(Instant::now());
        let remote = &peer.remote;
        warn!(
            %client, %remote, reason, lease_s = lease.as_secs(),
            "the connection to a client is lost; what it holds is kept for its lease"
        );
        After::Away(lease)
    }

    /// A lease is over; the client leaves unless it came back.
    fn lease_ends(&mut self, seat: &Seat) {
        let peer = self.post.clients.get(&seat.client);
        if peer.is_some_and(|peer| peer.session.connections == seat.connection) {
            self.gives_up(seat.client, "its lease is over");
        }
    }

    /// Leaves clients to themselves that are away and for whom too much mail has gathered.
    pub(super) fn give_up_absent(&mut self) {
        for client in std::mem::take(&mut self.post.cut_off) {
            if self.post.clients.get(&client).is_some_and(|peer| peer.session.away_since.is_some()) {
                self.gives_up(client, "too much mail has gathered");
            }
        }
    }

    fn gives_up(&mut self, client: ClientId, reason: &str) {
        let peer = PeerId::Client(client);
        self.leaves(peer, &End::Lost(reason.to_owned()));
        self.forget(peer);
    }

    /// Writes what the client of this connection has not received.
    fn poll_write(
        &mut self,
        seat: &Seat,
        writer: &mut WriteHalf,
        frames: &mut Vec<u8>,
        cx: &mut Context<'_>,
    ) -> Poll<std::io::Result<Next>> {
        let peer = self.post.clients.get_mut(&seat.client);
        let Some(peer) = peer.filter(|peer| peer.session.connections == seat.connection) else {
            return Poll::Ready(Ok(Next::Close));
        };
        let ClientPeer { session: Session { sent, .. }, outbox, mailbox, .. } = peer;
        loop {
            while !sent.unwritten().is_empty() {
                let bytes = ready!(writer.poll_write(cx, sent.unwritten()))?;
                sent.wrote(bytes);
            }
            ready!(writer.poll_flush(cx))?;
            outbox.outbox().swap_into(frames);
            match (frames.is_empty(), mailbox.open) {
                (false, _) => sent.push(frames),
                (true, true) => return Poll::Ready(Ok(Next::Wait)),
                (true, false) => return Poll::Ready(Ok(Next::Close)),
            }
        }
    }
}
