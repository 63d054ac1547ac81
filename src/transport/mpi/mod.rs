//! Values over MPI point-to-point: between two ranks of one launch, in chunks, at the speed of the fabric.
//!
//! ```text
//!  data thread                          main thread, the only one that may call MPI
//!  MpiLane::receive, send ── Order ──►  Progress ─► in_flight: MPI_Isend, MPI_Irecv, MPI_Testsome
//!                         ◄─ oneshot ──
//! ```
//!
//! The two ends agree over TCP (see [`crate::wire::peer`]): the receiving end names its rank and a tag that it has
//! free, and may have posted the receive of the opening by then; the sending end sends that, and the value behind it. A
//! rank without transfers never polls, and no send waits for a rank that sleeps. MPI reports no deaths: the data
//! connection does; what was under way with a lost peer is asked for elsewhere, and stalls here. Next: `in_flight.rs`,
//! which holds the memory that MPI reads and writes.

mod in_flight;
mod posted;
mod progress;
mod raw;
mod tags;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

pub use super::mpi_error::MpiError;
use crate::model::Packed;
use crate::model::buffer::AlignedBuffer;
use crate::wire::peer::Opening;
use in_flight::{Incoming, Memory, TransferId};
pub use progress::Progress;
pub use raw::Raw;
pub use tags::Tag;
use tags::{TAG_MAX, Tags};

/// The MPI lane of a rank, used from the data thread. Clones share it.
#[derive(Clone)]
pub struct MpiLane {
    shared: Arc<Shared>,
}

struct Shared {
    rank: u32,
    size: u32,
    next: AtomicU64,
    tags: Mutex<Tags>,
    orders: Box<dyn Fn(Order) + Send + Sync>,
}

/// Something for the main thread to do.
#[derive(Debug)]
pub struct Order(pub(in crate::transport::mpi) What);

#[derive(Debug)]
pub(in crate::transport::mpi) enum What {
    Start {
        id: TransferId,
        peer: u32,
        tag: Tag,
        memory: Memory,
        done: oneshot::Sender<Done>,
    },
    /// From this moment it may stall.
    Expect(TransferId),
}

/// What arrived, if that is a value.
type Done = Result<Option<Packed>, MpiError>;

impl MpiLane {
    /// The lane of `rank` among `size`; `orders` hands what is to be done to the main thread and wakes it.
    pub fn new(rank: u32, size: u32, orders: impl Fn(Order) + Send + Sync + 'static) -> Self {
        let (next, tags) = (AtomicU64::new(0), Mutex::default());
        let shared = Shared { rank, size, next, tags, orders: Box::new(orders) };
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

    /// Receives a value of at most so many bytes from `peer`, which may not have been asked yet: it counts as stalled
    /// only after it is [expected](UnderWay::expect).
    pub fn receive(&self, peer: u32, tag: Tag, bytes_max: u64) -> UnderWay {
        let message = AlignedBuffer::for_overwrite(Opening::BYTES_MAX);
        self.start(peer, tag, Memory::Receive(Incoming::Opening { message, bytes_max }))
    }

    /// Sends a value to `peer`, which receives with this tag. None if it has too many parts for this lane, or nobody can
    /// have asked for that.
    pub fn send(&self, peer: u32, tag: Tag, packed: &Packed) -> Option<UnderWay> {
        if !self.can_be(peer, tag) {
            return None;
        }
        let opening = Opening::of(packed);
        let head = match &opening {
            Opening::Value { head: None, .. } => Some(packed.head.clone()),
            _ => None,
        };
        let message = Bytes::from(opening.message()?);
        let parts = std::iter::once(message).chain(head).chain(packed.buffers.iter().cloned());
        Some(self.start(peer, tag, Memory::Send(parts.collect())))
    }

    /// Tells `peer`, which receives with this tag, that nothing comes.
    pub fn decline(&self, peer: u32, tag: Tag) {
        if self.can_be(peer, tag)
            && let Some(message) = Opening::Declined.message()
        {
            self.start(peer, tag, Memory::Send(vec![message.into()]));
        }
    }

    /// Whether a receive of `peer` can have this tag. (Numbers beyond have meanings of their own to MPI.)
    fn can_be(&self, peer: u32, tag: Tag) -> bool {
        peer < self.shared.size && peer != self.shared.rank && tag.0 <= TAG_MAX
    }

    fn start(&self, peer: u32, tag: Tag, memory: Memory) -> UnderWay {
        let id = TransferId(self.shared.next.fetch_add(1, Ordering::Relaxed));
        let (done, ended) = oneshot::channel();
        (self.shared.orders)(Order(What::Start { id, peer, tag, memory, done }));
        UnderWay { lane: self.clone(), id, ended }
    }

    fn tags(&self) -> std::sync::MutexGuard<'_, Tags> {
        self.shared.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A value that goes or comes. If this is dropped, it goes on until it has arrived or stalls: the other end does so too.
#[derive(Debug)]
pub struct UnderWay {
    lane: MpiLane,
    id: TransferId,
    ended: oneshot::Receiver<Done>,
}

impl UnderWay {
    /// The other end has said that it sends: from this moment it may stall.
    pub fn expect(&self) {
        if self.ended.is_empty() && !self.ended.is_terminated() {
            (self.lane.shared.orders)(Order(What::Expect(self.id)));
        }
    }

    /// Waits for the end, once. What arrived, if that is a value.
    ///
    /// # Errors
    /// [`MpiError`]; the tag is not used again then, because a late chunk may still bear it.
    pub async fn end(&mut self) -> Result<Option<Packed>, MpiError> {
        (&mut self.ended).await.unwrap_or(Err(MpiError::Over))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.expect();
    }
}

impl fmt::Debug for MpiLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MpiLane").field("rank", &self.shared.rank).finish_non_exhaustive()
    }
}
