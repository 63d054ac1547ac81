//! Connecting: from a connection file to a session, or to words about what to do.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::error::{Error, Result};
use super::line::{self, Connected};
use super::resume::{DialError, Dialer, Resumption};
use super::session::Session;
use crate::model::error::with_causes;
use crate::security::{ConnectionFile, Selector, Surroundings};
use crate::transport::data::DataPool;
use crate::transport::tcp::{ConnectError, Connector, hello};
use crate::wire::handshake::Role;
use crate::wire::resume::{SessionAnswer, SessionRequest};

/// How long a scheduler may take to answer; it may still be starting.
const CONNECT: Duration = Duration::from_secs(10);

/// Reads a connection file.
pub(super) fn read_file(path: &Path) -> Result<ConnectionFile> {
    ConnectionFile::load(path).map_err(|error| Error::Connect(with_causes(&error).into()))
}

/// Finds the connection file that `selector` means.
pub(super) fn find(selector: &Selector) -> Result<(PathBuf, ConnectionFile)> {
    let found = Surroundings::of_process().find(selector);
    found.map_err(|error| Error::Connect(with_causes(&error).into()))
}

/// Connects as a connection file says; `path` is where it was found, if it came from there.
pub(super) async fn connect(file: ConnectionFile, path: Option<&Path>) -> Result<Arc<Session>> {
    let address: Arc<str> = file.scheduler.as_str().into();
    let path = path.map(Path::to_owned);
    let connect = async move || dial(&file, path.as_deref()).await;
    match line::start(address, nonce(), connect)?.await {
        Ok(connected) => connected,
        Err(_) => Err(Error::Connect("the connection's thread ended before it was connected".into())),
    }
}

async fn dial(file: &ConnectionFile, path: Option<&Path>) -> Result<Connected> {
    let in_words = |error: &dyn std::error::Error| Error::Connect(with_causes(error).into());
    // No hash of tasks: a client may know fewer tasks than its cluster, or more. A call of one that the
    // workers lack is an error of that call.
    let connector = Connector::new(&file.credentials, hello(Role::Client, None)).map_err(|e| in_words(&e))?;
    let dialer = Dialer { connector, address: file.scheduler.as_str().into() };
    let dialed = dialer.dial(SessionRequest::Begin, CONNECT).await.map_err(|error| match (&error, path) {
        (DialError::Connect(ConnectError::Unreachable { source, .. }), Some(path)) => {
            Error::Connect(file.describe_stale(path, source).into())
        }
        (DialError::Connect(error), _) => in_words(error),
        (DialError::Session(reason), _) => no_session(&dialer.address, reason),
    })?;
    let (connection, (token, lease_ms)) = match dialed {
        (connection, SessionAnswer::Begun { token, lease_ms }) => (connection, (token, lease_ms)),
        (_, SessionAnswer::Refused { reason }) => return Err(no_session(&dialer.address, &reason)),
        (_, SessionAnswer::Resumed { .. }) => {
            return Err(no_session(&dialer.address, "it takes this for another"));
        }
    };
    let pool = DataPool::new(&file.credentials, None, u64::MAX).map_err(|error| in_words(&error))?;
    let resumption = Resumption { dialer, token, lease: Duration::from_millis(lease_ms) };
    Ok(Connected { connection, pool, resumption })
}

fn no_session(address: &str, reason: &str) -> Error {
    Error::Connect(format!("no session with the scheduler at {address}: {reason}").into())
}

/// A number that no other client of this cluster has, but for an accident of one in 2⁶⁴.
fn nonce() -> u64 {
    RandomState::new().build_hasher().finish()
}
