//! Values over TCP: a pool of connections to data ports, and the moving of bytes.
//!
//! [`DataPool`] fetches values from workers and puts values there; workers and clients use it alike. It keeps
//! one connection per address; requests are sent ahead of the answers to earlier ones. `lane.rs` is one such
//! connection, [`stream`] sends and receives the bytes of one value; the accepting end is
//! `worker::transfer`.

mod lane;
pub mod stream;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::model::{Packed, TaskId};
use crate::security::{Credentials, CredentialsError};
use crate::transport::tcp::{Connector, hello};
use crate::wire::handshake::{BuildHash, Role};
use lane::{Errand, Request};
pub use stream::STALL_MAX;

/// How long a data port may take to be reached.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Connections to data ports. Clones share them; it must be used inside one tokio runtime.
#[derive(Debug, Clone)]
pub struct DataPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connector: Connector,
    value_bytes_max: u64,
    lanes: Mutex<HashMap<String, mpsc::UnboundedSender<Errand>>>,
}

/// A value did not get across.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DataError {
    /// There is no connection to the data port.
    #[error("cannot reach the data port {address}: {reason}")]
    Connect {
        /// `host:port`.
        address: String,
        /// The chain of causes.
        reason: String,
    },
    /// The connection broke before the answer was complete.
    #[error("the connection to the data port {address} broke: {reason}")]
    Lost {
        /// `host:port`.
        address: String,
        /// What happened.
        reason: String,
    },
    /// The peer does not have the value.
    #[error("{address} does not have the value of {task}")]
    NotHere {
        /// `host:port`.
        address: String,
        /// The value's name.
        task: TaskId,
    },
    /// The peer said no.
    #[error("{address} refused the value of {task}: {reason}")]
    Refused {
        /// `host:port`.
        address: String,
        /// The value's name.
        task: TaskId,
        /// In its words.
        reason: String,
    },
    /// The value is larger than this process may hold.
    #[error("the value of {task} has {bytes} bytes, more than the {bytes_max} that this process may hold")]
    TooLarge {
        /// The value's name.
        task: TaskId,
        /// Its packed size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
}

impl DataPool {
    /// A pool of a member of the run, without connections yet.
    ///
    /// Values of more than `value_bytes_max` bytes are refused before memory is taken for them.
    pub fn new(
        credentials: &Credentials,
        build: Option<BuildHash>,
        value_bytes_max: u64,
    ) -> Result<Self, CredentialsError> {
        let connector = Connector::new(credentials, hello(Role::Peer, build))?;
        Ok(Self { shared: Arc::new(Shared { connector, value_bytes_max, lanes: Mutex::default() }) })
    }

    /// Fetches the value of `task` from the data port at `address` (`host:port`).
    pub async fn fetch(&self, address: &str, task: TaskId) -> Result<Packed, DataError> {
        let (answer, received) = oneshot::channel();
        self.send(address, Errand { task, request: Request::Fetch { answer } });
        received.await.unwrap_or_else(|_| Err(interrupted(address)))
    }

    /// Puts a value under the name of `task` on the worker whose data port is at `address` (`host:port`).
    pub async fn put(&self, address: &str, task: TaskId, packed: &Packed) -> Result<(), DataError> {
        let (answer, received) = oneshot::channel();
        self.send(address, Errand { task, request: Request::Put { packed: packed.clone(), answer } });
        received.await.unwrap_or_else(|_| Err(interrupted(address)))
    }

    /// Hands an errand to the lane of `address`, which is started if it is not there or has ended.
    fn send(&self, address: &str, errand: Errand) {
        let mut lanes = self.shared.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let errand = match lanes.get(address) {
            Some(lane) => match lane.send(errand) {
                Ok(()) => return,
                Err(mpsc::error::SendError(errand)) => errand,
            },
            None => errand,
        };
        let (sender, errands) = mpsc::unbounded_channel();
        // The receiver is held here, so this cannot fail.
        let _ = sender.send(errand);
        lanes.insert(address.to_owned(), sender);
        let shared = &self.shared;
        let lane = lane::run(shared.connector.clone(), address.to_owned(), shared.value_bytes_max, errands);
        tokio::spawn(lane);
    }
}

fn interrupted(address: &str) -> DataError {
    DataError::Lost { address: address.to_owned(), reason: "the runtime shut down".to_owned() }
}
