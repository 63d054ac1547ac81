//! The connecting end.
//!
//! A refused or broken attempt is repeated until the time is up, because the other end may still be
//! starting; a peer that answers and is the wrong one is an error at once.

use std::fmt;
use std::io;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsConnector;

use super::connection::Connection;
use super::failure::Failure;
use super::greeting::{Manners, Rejected};
use super::socket::Socket;
use crate::security::{Credentials, CredentialsError, TlsRole};
use crate::wire::frame::FrameLimit;
use crate::wire::handshake::{Hello, Role};
use crate::wire::resume::SessionRequest;

/// First pause between attempts; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Connects to processes of the same run.
#[derive(Clone)]
pub struct Connector {
    tls: TlsConnector,
    manners: Manners,
    expected: TlsRole,
}

/// A connection cannot be made.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Nobody can be reached there.
    #[error("cannot reach {address}")]
    Unreachable {
        /// `host:port`.
        address: String,
        /// What the system said last.
        source: io::Error,
    },
    /// Somebody is there, but the handshake failed.
    #[error("no connection to {address}")]
    Peer {
        /// `host:port`.
        address: String,
        /// What happened.
        source: Failure,
    },
    /// The time was up during an attempt.
    #[error("{address} did not answer within {seconds:.1} s")]
    TimedOut {
        /// `host:port`.
        address: String,
        /// How long it had.
        seconds: f32,
    },
}

impl Connector {
    /// A connector that shows `credentials` and says `hello`; the role in it decides whom it expects to find.
    pub fn new(credentials: &Credentials, hello: Hello) -> Result<Self, CredentialsError> {
        let tls = TlsConnector::from(credentials.client_config()?);
        let expected = match hello.role {
            Role::Client | Role::Worker => TlsRole::Scheduler,
            Role::Scheduler | Role::Peer => TlsRole::Member,
        };
        Ok(Self { tls, manners: Manners { hello, limit: FrameLimit::default() }, expected })
    }

    /// Insists on the scheduler's certificate whatever the role.
    #[cfg(test)]
    pub(super) fn expecting_scheduler(mut self) -> Self {
        self.expected = TlsRole::Scheduler;
        self
    }

    /// Changes the limit on frames of connections made from here on.
    pub fn with_limit(mut self, limit: FrameLimit) -> Self {
        self.manners.limit = limit;
        self
    }

    /// Asks the scheduler for this session on connections made from here on.
    pub fn with_session(mut self, request: SessionRequest) -> Self {
        self.manners.hello.session = Some(request);
        self
    }

    /// Connects to `address` (`host:port`), trying for as long as `within` unless the host says that nobody
    /// listens there.
    pub async fn connect(&self, address: &str, within: Duration) -> Result<Connection, ConnectError> {
        let deadline = Instant::now() + within;
        let mut pause = PAUSE_MIN;
        loop {
            let Ok(attempt) = timeout_at(deadline, self.attempt(address)).await else {
                return Err(ConnectError::TimedOut {
                    address: address.to_owned(),
                    seconds: within.as_secs_f32(),
                });
            };
            match attempt {
                Err(error) if error.is_transient() && Instant::now() + pause < deadline => {
                    tracing::debug!(address, %error, "trying again");
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                done => return done,
            }
        }
    }

    async fn attempt(&self, address: &str) -> Result<Connection, ConnectError> {
        let unreachable = |source| ConnectError::Unreachable { address: address.to_owned(), source };
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        let remote = stream.peer_addr().map_err(unreachable)?;
        let socket = Socket::new(stream).map_err(unreachable)?;
        let greeted = async {
            let stream = self
                .tls
                .connect(self.expected.expected_name(), socket)
                .into_fallible()
                .await
                .map_err(|(error, socket)| Rejected::new(error, Some(socket)))?;
            self.manners.introduce(stream.into(), remote).await
        };
        match greeted.await {
            Ok(connection) => Ok(connection),
            Err(rejected) => {
                let source = rejected.linger().await;
                Err(ConnectError::Peer { address: address.to_owned(), source })
            }
        }
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("manners", &self.manners).finish_non_exhaustive()
    }
}

impl ConnectError {
    /// Whether its host says that nobody listens there.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Unreachable { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused)
    }

    /// Whether somebody is there who cannot be the one that was.
    pub fn is_other_peer(&self) -> bool {
        matches!(self, Self::Peer { source, .. } if !source.is_transient())
    }

    fn is_transient(&self) -> bool {
        match self {
            // An address is told only once somebody listens there: a refusal means that this is over.
            Self::Unreachable { source, .. } => source.kind() != io::ErrorKind::ConnectionRefused,
            Self::Peer { source, .. } => source.is_transient(),
            Self::TimedOut { .. } => false,
        }
    }
}
