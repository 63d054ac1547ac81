//! Values over MPI point-to-point: between two ranks of one launch, in chunks, at the speed of the fabric.
//!
//! ```text
//!  data thread                          main thread, the only one that may call MPI
//!  MpiLane::receive, send ── Order ──►  Progress ─► in_flight: MPI_Isend, MPI_Irecv, MPI_Testsome
//!                         ◄─ oneshot ──
//! ```
//!
//! The two ends agree over TCP first (see [`crate::wire::peer`]): the receiving end names its rank and a tag that it has
//! free, the sending end answers with the shape. Only then do both post and poll, so a rank without transfers never
//! polls, and no send waits for a rank that sleeps. MPI reports no deaths: the data connection does, and what was under
//! way with a lost peer is abandoned. Next: `in_flight.rs`, which holds the memory that MPI reads and writes.

mod in_flight;
mod progress;
mod raw;
mod tags;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::model::buffer::AlignedBuffer;
use in_flight::{Memory, TransferId};
pub use progress::Progress;
pub use raw::Raw;
pub use tags::Tag;
use tags::Tags;

/// The MPI lane of a rank, used from the data thread. Clones share it.
#[derive(Clone)]
pub struct MpiLane {
    shared: Arc<Shared>,
}

struct Shared {
    rank: u32,
    next: AtomicU64,
    tags: Mutex<Tags>,
    orders: Box<dyn Fn(Order) + Send + Sync>,
}

/// Something for the main thread to do.
#[derive(Debug)]
pub struct Order(pub(in crate::transport::mpi) What);

#[derive(Debug)]
pub(in crate::transport::mpi) enum What {
    Start { id: TransferId, peer: u32, tag: Tag, memory: Memory, done: oneshot::Sender<Done> },
    Abandon(TransferId),
}

type Done = Result<Memory, MpiError>;

/// A transfer over MPI did not end well; the lane of TCP still works.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MpiError {
    /// The library says so.
    #[error("MPI failed in a transfer with rank {peer}: {reason}")]
    Failed {
        /// The other end.
        peer: u32,
        /// In the library's words.
        reason: String,
    },
    /// Nothing moved for a while.
    #[error("nothing moved over MPI to or from rank {peer} for {seconds} s")]
    Stalled {
        /// The other end.
        peer: u32,
        /// How long.
        seconds: u64,
    },
    /// This rank is about to end.
    #[error("MPI is no longer served on this rank")]
    Over,
}

impl MpiLane {
    /// The lane of `rank`; `orders` hands what is to be done to the main thread and wakes it.
    pub fn new(rank: u32, orders: impl Fn(Order) + Send + Sync + 'static) -> Self {
        let shared =
            Shared { rank, next: AtomicU64::new(0), tags: Mutex::default(), orders: Box::new(orders) };
        Self { shared: Arc::new(shared) }
    }

    /// This rank, as others name it in `MPI_COMM_WORLD`.
    pub fn rank(&self) -> u32 {
        self.shared.rank
    }

    /// A tag for a value from `peer`; None if too many are under way.
    pub fn take_tag(&self, peer: u32) -> Option<Tag> {
        self.tags().take(peer)
    }

    /// Gives a tag back that the other end has not used and will not use.
    pub fn put_tag(&self, peer: u32, tag: Tag) {
        self.tags().put(peer, tag);
    }

    /// Receives buffers of these lengths, in bytes, from `peer`. The tag is given back if they all arrive.
    ///
    /// Dropping the future abandons the transfer.
    ///
    /// # Errors
    /// [`MpiError`]; the tag is not used again then, because a late chunk may still bear it.
    pub async fn receive(
        &self,
        peer: u32,
        tag: Tag,
        lengths: impl IntoIterator<Item = usize>,
    ) -> Result<Vec<AlignedBuffer>, MpiError> {
        let buffers = lengths.into_iter().map(AlignedBuffer::for_overwrite).collect();
        match self.transfer(peer, tag, Memory::Receive(buffers)).await? {
            Memory::Receive(buffers) => {
                self.put_tag(peer, tag);
                Ok(buffers)
            }
            Memory::Send(_) => unreachable!("a transfer gives the memory back that it was given"),
        }
    }

    /// Sends buffers to `peer`, which receives with this tag.
    ///
    /// Dropping the future abandons the transfer.
    ///
    /// # Errors
    /// [`MpiError`].
    pub async fn send(&self, peer: u32, tag: Tag, buffers: Vec<Bytes>) -> Result<(), MpiError> {
        self.transfer(peer, tag, Memory::Send(buffers)).await.map(drop)
    }

    async fn transfer(&self, peer: u32, tag: Tag, memory: Memory) -> Result<Memory, MpiError> {
        let id = TransferId(self.shared.next.fetch_add(1, Ordering::Relaxed));
        let (done, ended) = oneshot::channel();
        (self.shared.orders)(Order(What::Start { id, peer, tag, memory, done }));
        let mut abandon = AbandonOnDrop { lane: self, id: Some(id) };
        let result = ended.await;
        abandon.id = None;
        result.unwrap_or(Err(MpiError::Over))
    }

    fn tags(&self) -> std::sync::MutexGuard<'_, Tags> {
        self.shared.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the main thread when nobody waits for a transfer any more.
struct AbandonOnDrop<'a> {
    lane: &'a MpiLane,
    id: Option<TransferId>,
}

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            (self.lane.shared.orders)(Order(What::Abandon(id)));
        }
    }
}

impl fmt::Debug for MpiLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MpiLane").field("rank", &self.shared.rank).finish_non_exhaustive()
    }
}
