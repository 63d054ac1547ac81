//! The accepting end.
//!
//! Every incoming connection makes its handshake in a task of its own, with a time limit: a peer that
//! says nothing holds up nobody. How many may be half open is limited too; the oldest silent one makes
//! room. Whoever fails is dropped and named in the log.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, warn};

use super::connection::Connection;
use super::failure::Failure;
use super::greeting::{Manners, Rejected};
use super::reach::Reach;
use super::socket::Socket;
use crate::security::{Credentials, CredentialsError};
use crate::wire::frame::FrameLimit;
use crate::wire::handshake::Hello;

/// How long TLS and the hellos may take together.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Connections without a finished handshake.
const HALF_OPEN_MAX: usize = 128;
/// A half-open connection of this age gives way to a fresh one when the limit is reached.
const HALF_OPEN_AGE_MIN: Duration = Duration::from_secs(2);
/// Pause after the system cannot accept, for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections from processes of the same run.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    address: String,
    door: Arc<Door>,
    handshakes: JoinSet<Option<Connection>>,
    half_open: VecDeque<HalfOpen>,
}

/// A listener cannot be set up.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The credentials are of no use.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The system refuses the port.
    #[error("cannot listen on {address}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

#[derive(Clone)]
struct Door {
    acceptor: TlsAcceptor,
    manners: Manners,
    handshake_max: Duration,
}

#[derive(Debug)]
struct HalfOpen {
    since: Instant,
    handshake: AbortHandle,
}

impl Listener {
    /// Listens on `port`, or on a port that the system picks if it is 0; `hello` answers those who connect.
    pub async fn bind(
        reach: &Reach,
        port: u16,
        credentials: &Credentials,
        hello: Hello,
    ) -> Result<Self, ListenError> {
        let acceptor = TlsAcceptor::from(credentials.server_config()?);
        let wanted = SocketAddr::new(reach.bind_address(), port);
        let bound = async {
            let tcp = TcpListener::bind(wanted).await?;
            let port = tcp.local_addr()?.port();
            Ok((tcp, port))
        };
        let (tcp, port) = bound.await.map_err(|source| ListenError::Bind { address: wanted, source })?;
        Ok(Self {
            tcp,
            address: reach.published_address(port),
            door: Arc::new(Door {
                acceptor,
                manners: Manners { hello, limit: FrameLimit::default() },
                handshake_max: HANDSHAKE_MAX,
            }),
            handshakes: JoinSet::new(),
            half_open: VecDeque::new(),
        })
    }

    /// Changes the limit on frames of connections accepted from here on.
    pub fn with_limit(mut self, limit: FrameLimit) -> Self {
        Arc::make_mut(&mut self.door).manners.limit = limit;
        self
    }

    #[cfg(test)]
    pub(super) fn with_handshake_max(mut self, handshake_max: Duration) -> Self {
        Arc::make_mut(&mut self.door).handshake_max = handshake_max;
        self
    }

    /// `host:port` under which others find this listener.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for the next peer that completes the handshake.
    ///
    /// Handshakes make progress beside it; nothing is lost if the future is dropped.
    pub async fn accept(&mut self) -> Connection {
        loop {
            let room_at = self.room_at();
            tokio::select! {
                biased;
                Some(handshake) = self.handshakes.join_next() => {
                    if let Some(connection) = completed(handshake) {
                        return connection;
                    }
                }
                accepted = self.tcp.accept(), if room_at.is_none() => match accepted {
                    Ok((stream, address)) => self.greet(stream, address),
                    Err(error) => {
                        warn!(%error, address = self.address, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                () = sleep_until(room_at.unwrap_or_else(Instant::now)), if room_at.is_some() => {}
            }
        }
    }

    /// Makes room for another half-open connection, or says when to try again.
    fn room_at(&mut self) -> Option<Instant> {
        self.half_open.retain(|peer| !peer.handshake.is_finished());
        if self.half_open.len() < HALF_OPEN_MAX {
            return None;
        }
        let oldest = self.half_open.front()?;
        let replaceable_at = oldest.since + HALF_OPEN_AGE_MIN;
        if Instant::now() < replaceable_at {
            return Some(replaceable_at);
        }
        warn!(half_open = self.half_open.len(), "too many unfinished handshakes; the oldest is dropped");
        self.half_open.pop_front()?.handshake.abort();
        None
    }

    fn greet(&mut self, stream: TcpStream, address: SocketAddr) {
        let door = Arc::clone(&self.door);
        let handshake = self.handshakes.spawn(async move { door.admit(stream, address).await });
        self.half_open.push_back(HalfOpen { since: Instant::now(), handshake });
    }
}

impl Door {
    /// Makes the handshake with one peer; `None` when it failed and has been logged.
    async fn admit(&self, stream: TcpStream, address: SocketAddr) -> Option<Connection> {
        match timeout(self.handshake_max, self.handshake(stream, address)).await {
            Ok(Ok(connection)) => {
                debug!(peer = %connection.remote(), "accepted");
                Some(connection)
            }
            Ok(Err(rejected)) => {
                log(address, &rejected.failure);
                rejected.linger().await;
                None
            }
            Err(_) => {
                log(address, &Failure::Silent { seconds: self.handshake_max.as_secs() });
                None
            }
        }
    }

    async fn handshake(&self, stream: TcpStream, address: SocketAddr) -> Result<Connection, Rejected> {
        let socket = Socket::new(stream).map_err(|error| Rejected::new(error, None))?;
        let stream = self
            .acceptor
            .accept(socket)
            .into_fallible()
            .await
            .map_err(|(error, socket)| Rejected::new(error, Some(socket)))?;
        self.manners.answer(stream.into(), address).await
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("manners", &self.manners).finish_non_exhaustive()
    }
}

fn completed(handshake: Result<Option<Connection>, JoinError>) -> Option<Connection> {
    handshake.unwrap_or_else(|error| {
        if error.is_panic() {
            error!(%error, "a handshake panicked");
        }
        None
    })
}

fn log(address: SocketAddr, failure: &Failure) {
    match failure {
        // Port scans and looks at whether anyone listens end like this.
        Failure::Closed => debug!(peer = %address, "dropped a peer: {failure}"),
        _ => warn!(peer = %address, "dropped a peer: {failure}"),
    }
}
