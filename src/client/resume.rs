//! A lost connection to the scheduler: it is made again, and the client goes on where it was.
//!
//! A [`Dialer`] connects, for the first time and again. [`Resumption::resume`] runs on the connection's thread in
//! place of [`super::line`]'s loop while there is no connection: waits, deadlines and transfers go on, what callers
//! append stays in the outbox. What the scheduler had not received is in the line, and is sent again.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::Error;
use super::line::{self, CLOSE};
use super::session::Session;
use crate::model::error::with_causes;
use crate::transport::tcp::{ConnectError, Connection, Connector, ReadHalf};
use crate::wire::resume::{Received, SessionAnswer, SessionRequest, Token};

/// How long one attempt may take; an address that does not answer costs this.
const ATTEMPT_MAX: Duration = Duration::from_secs(5);
/// First pause between attempts; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A host that refuses for this long has no scheduler any more.
const REFUSED_MAX: Duration = Duration::from_secs(2);
/// How much a client may have to say when it comes back; one with more is given up.
const UNSENT_BYTES_MAX: u64 = 512 << 20;
/// How often it looks at that.
const LOOK: Duration = Duration::from_millis(250);

/// Connects to one scheduler.
pub(super) struct Dialer {
    /// How.
    pub(super) connector: Connector,
    /// Where, `host:port`.
    pub(super) address: Arc<str>,
}

/// No connection came about, or no session on it.
pub(super) enum DialError {
    /// There is no connection.
    Connect(ConnectError),
    /// There was one, and then this.
    Session(String),
}

/// How a client comes back after a break.
pub(super) struct Resumption {
    /// How it connects.
    pub(super) dialer: Dialer,
    /// Its session.
    pub(super) token: Token,
    /// How long the scheduler keeps the session.
    pub(super) lease: Duration,
}

impl Dialer {
    /// Connects, and asks for a session.
    pub(super) async fn dial(
        &self,
        request: SessionRequest,
        within: Duration,
    ) -> Result<(Connection, SessionAnswer), DialError> {
        let connector = self.connector.clone().with_session(request);
        let mut connection = connector.connect(&self.address, within).await.map_err(DialError::Connect)?;
        let (reader, _) = connection.halves();
        let heard = tokio::time::timeout(within, reader.frame()).await;
        let silent = || format!("it did not answer within {:.1} s", within.as_secs_f32());
        let closed = || "it closed the connection before it answered".to_owned();
        let answer = heard
            .map_err(|_| silent())
            .and_then(|frame| frame.map_err(|error| with_causes(&error))?.ok_or_else(closed))
            .and_then(|frame| {
                SessionAnswer::read(&frame).map_err(|error| format!("its answer makes no sense: {error}"))
            });
        answer.map(|answer| (connection, answer)).map_err(DialError::Session)
    }
}

impl Resumption {
    /// Brings a client back whose connection broke for this `reason`: the reader of the connection that follows.
    /// None if the client ended: because it was closed meanwhile, or because it could not come back.
    pub(super) async fn resume(
        &self,
        session: &Session,
        received: &Received,
        reason: String,
    ) -> Option<ReadHalf> {
        session.line().hang_up();
        if self.lease.is_zero() {
            tracing::debug!(address = %session.address, reason, "the connection to the scheduler is lost");
            session.ended(self.lost(&reason));
            return None;
        }
        let lease_s = self.lease.as_secs();
        tracing::warn!(address = %session.address, reason, lease_s, "the connection to the scheduler is lost; trying again");
        let since = Instant::now();
        match self.reconnected(session, received, since, &reason).await {
            Ok(Some((connection, received_bytes))) => {
                let (reader, writer) = connection.split();
                if let Err(claim) = session.line().go_on(writer, received_bytes) {
                    session.ended(self.lost(&format!("{reason}; then it made no sense: {claim}")));
                    return None;
                }
                let away_s = since.elapsed().as_secs_f32();
                tracing::info!(address = %session.address, away_s, "the connection to the scheduler is back");
                Some(reader)
            }
            Ok(None) => None,
            Err(error) => {
                session.ended(error);
                None
            }
        }
    }

    /// Keeps the client alive while connections are tried; None if it was closed and did not get through soon.
    async fn reconnected(
        &self,
        session: &Session,
        received: &Received,
        since: Instant,
        reason: &str,
    ) -> Result<Option<(Connection, u64)>, Error> {
        let mut connecting = pin!(self.connect_again(received, since, reason));
        let mut closed_until = None;
        loop {
            let unsent_bytes = session.unsent_bytes();
            if unsent_bytes > UNSENT_BYTES_MAX {
                let mib = unsent_bytes >> 20;
                return Err(self.lost(&format!(
                    "{reason}; since then the client has {mib} MiB to say, too much to keep"
                )));
            }
            let look = Instant::now() + LOOK;
            let wake_at = match line::rest(session, true) {
                Some(deadline) => deadline.map_or(look, |deadline| deadline.min(look)),
                // Its farewell spares the scheduler the lease.
                None => *closed_until.get_or_insert(Instant::now() + CLOSE),
            };
            tokio::select! {
                biased;
                connected = &mut connecting => return connected.map(Some),
                () = session.woken(), if closed_until.is_none() => {}
                () = tokio::time::sleep_until(wake_at.into()) => {
                    if closed_until.is_some() {
                        return Ok(None);
                    }
                    session.expire();
                }
            }
        }
    }

    /// Tries until the scheduler answers, its host says that it is gone, or the lease is over.
    async fn connect_again(
        &self,
        received: &Received,
        since: Instant,
        reason: &str,
    ) -> Result<(Connection, u64), Error> {
        let request = SessionRequest::Resume { token: self.token, received_bytes: received.bytes() };
        let (mut pause, mut refused_since) = (PAUSE_MIN, None);
        loop {
            let left = self.lease.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Err(self.expired(since, reason));
            }
            match self.dialer.dial(request, left.min(ATTEMPT_MAX)).await {
                Ok((connection, SessionAnswer::Resumed { received_bytes })) => {
                    return Ok((connection, received_bytes));
                }
                Ok((_, SessionAnswer::Refused { reason })) => return Err(self.expired(since, &reason)),
                Ok((_, SessionAnswer::Begun { .. })) => {
                    return Err(self.lost(&format!("{reason}; then it began another session")));
                }
                Err(DialError::Connect(error)) if error.is_refused() => {
                    let first = *refused_since.get_or_insert(Instant::now());
                    if first.elapsed() >= REFUSED_MAX {
                        return Err(self.lost(&format!("{reason}; nobody listens there any more")));
                    }
                }
                Err(DialError::Connect(error)) if error.is_other_peer() => {
                    return Err(self.lost(&format!("{reason}; then: {}", with_causes(&error))));
                }
                Err(error) => {
                    refused_since = None;
                    tracing::debug!(address = %self.dialer.address, %error, "trying again");
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn lost(&self, reason: &str) -> Error {
        Error::Lost { address: self.dialer.address.clone(), reason: reason.into() }
    }

    fn expired(&self, since: Instant, reason: &str) -> Error {
        Error::LeaseExpired {
            address: self.dialer.address.clone(),
            away: since.elapsed(),
            lease: self.lease,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(error) => f.write_str(&with_causes(error)),
            Self::Session(reason) => f.write_str(reason),
        }
    }
}
