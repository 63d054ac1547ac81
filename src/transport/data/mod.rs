//! Values over TCP: a pool of connections to data ports, and the moving of bytes.
//!
//! [`DataPool`] fetches values from workers and puts values there; workers and clients use it alike. It keeps
//! one connection per address; requests are sent ahead of the answers to earlier ones. What is fetched may come over
//! MPI or be mapped instead, if that was offered. `lane.rs` is one such
//! connection, [`stream`] sends and receives the bytes of one value; the accepting end is
//! `worker::transfer`.

mod lane;
pub mod stream;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::model::{Packed, TaskId};
use crate::security::{Credentials, CredentialsError};
use crate::transport::mpi::{MpiError, MpiLane, Tag, UnderWay};
use crate::transport::tcp::{Connector, hello};
use crate::wire::handshake::{BuildHash, Role};
use crate::wire::peer::{HostKey, MpiEnd, Offers};
use lane::{Errand, Request};
pub use stream::{Brought, Meter, STALL_MAX};

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

/// A value that got across, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The value.
    pub packed: Packed,
    /// The lane it took.
    pub lane: LaneKind,
}

/// How a value travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LaneKind {
    /// In the reply.
    Tcp,
    /// Over MPI.
    Mpi,
    /// Not at all: it is mapped where it is.
    Shm,
}

impl fmt::Display for LaneKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Mpi => "MPI",
            Self::Shm => "shared memory",
        })
    }
}

impl LaneKind {
    /// As it is called in `status` and `story`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Mpi => "mpi",
            Self::Shm => "shm",
        }
    }
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
    /// It was sent on a lane that was offered, which failed.
    #[error("the value of {task} from {address} did not come over {lane}: {reason}")]
    Lane {
        /// Which one.
        lane: LaneKind,
        /// `host:port`.
        address: String,
        /// The value's name.
        task: TaskId,
        /// What happened there.
        reason: String,
    },
    /// It cannot be mapped at the moment, for lack of something in this process.
    #[error("the value of {task} from {address} cannot be mapped at the moment: {reason}")]
    Short {
        /// `host:port`.
        address: String,
        /// The value's name.
        task: TaskId,
        /// What is lacking.
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
    ///
    /// The other end may send it on another lane of those that are offered.
    pub async fn fetch(&self, address: &str, task: TaskId, offers: LaneOffers) -> Result<Fetched, DataError> {
        let (answer, received) = oneshot::channel();
        self.send(address, Errand { task, request: Request::Fetch { answer, offers } });
        received.await.unwrap_or_else(|_| Err(interrupted(address)))
    }

    /// Brings the value of `task` from the data port at `address` (`host:port`) to a program, over TCP. One of more
    /// than `bytes_max` bytes is refused.
    pub async fn bring(
        &self,
        address: &str,
        task: TaskId,
        meter: Meter,
        bytes_max: u64,
    ) -> Result<Brought, DataError> {
        let (answer, received) = oneshot::channel();
        self.send(address, Errand { task, request: Request::Bring { answer, meter, bytes_max } });
        received.await.unwrap_or_else(|_| Err(interrupted(address)))
    }

    /// Puts a value under the name of `task` on the worker whose data port is at `address` (`host:port`).
    pub async fn put(
        &self,
        address: &str,
        task: TaskId,
        packed: &Packed,
        meter: Meter,
    ) -> Result<(), DataError> {
        let (answer, received) = oneshot::channel();
        self.send(address, Errand { task, request: Request::Put { packed: packed.clone(), answer, meter } });
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

/// The lanes on which a value may come, beside TCP.
#[derive(Debug, Default)]
pub struct LaneOffers {
    /// To map it, as a process of this host.
    pub shm: Option<HostKey>,
    /// To receive it over MPI.
    pub mpi: Option<MpiOffer>,
    /// Whether it is to be refused if it cannot be mapped in the memory of the value itself.
    pub only_lent: bool,
}

impl LaneOffers {
    /// The other end is about to be asked: posts the receive over MPI, so that the value can come at once. Not beside
    /// another lane, because a value that does not come here takes a message as well.
    fn post(&mut self) {
        if self.shm.is_none() {
            self.mpi.iter_mut().for_each(MpiOffer::post);
        }
    }

    fn in_words(&self) -> Offers {
        let mpi = self.mpi.as_ref().map(MpiOffer::in_words);
        Offers { shm: self.shm, mpi, only_lent: self.only_lent }
    }
}

/// A tag taken to receive one value from a rank over MPI. It is used up unless a value comes, or the other end declines.
#[derive(Debug)]
pub struct MpiOffer {
    lane: MpiLane,
    peer: u32,
    tag: Tag,
    bytes_max: u64,
    /// The receive, if it is posted before the other end is asked.
    posted: Option<UnderWay>,
}

impl MpiOffer {
    /// An offer to the rank `peer`, for a value of at most so many bytes; None if too many from there are under way.
    pub fn to(lane: &MpiLane, peer: u32, bytes_max: u64) -> Option<Self> {
        let tag = lane.take_tag(peer)?;
        Some(Self { lane: lane.clone(), peer, tag, bytes_max, posted: None })
    }

    /// Posts the receive.
    fn post(&mut self) {
        self.posted = Some(self.lane.receive(self.peer, self.tag, self.bytes_max));
    }

    fn in_words(&self) -> MpiEnd {
        MpiEnd { rank: self.lane.rank(), tag: self.tag.0, is_posted: self.posted.is_some() }
    }

    fn is_posted(&self) -> bool {
        self.posted.is_some()
    }

    /// Waits for what a posted receive brings, be that before the other end says that it sends; for ever if none is
    /// posted. None if it has declined.
    async fn arrival(&mut self) -> Result<Option<Packed>, MpiError> {
        match &mut self.posted {
            Some(posted) => posted.end().await,
            None => std::future::pending().await,
        }
    }

    /// Receives the value, which the other end has said that it sends. None if it has declined all the same.
    async fn receive(mut self) -> Result<Option<Packed>, MpiError> {
        if self.posted.is_none() {
            self.post();
        }
        self.expect();
        let received = self.arrival().await?;
        self.put_tag();
        Ok(received)
    }

    /// The other end does not send the value there: waits until the posted receive has heard that.
    async fn decline(mut self) {
        self.expect();
        if self.arrival().await.is_ok() {
            self.put_tag();
        }
    }

    /// The other end has answered: from this moment what is posted may stall.
    fn expect(&self) {
        self.posted.iter().for_each(UnderWay::expect);
    }

    /// The tag is free again: a value has come, or nothing will.
    fn put_tag(self) {
        self.lane.put_tag(self.peer, self.tag);
    }
}

fn interrupted(address: &str) -> DataError {
    DataError::Lost { address: address.to_owned(), reason: "it ended meanwhile".to_owned() }
}
