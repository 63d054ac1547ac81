//! Transfers under way, and the memory that MPI reads and writes meanwhile.
//!
//! A transfer is an [`Opening`] and a list of buffers, moved in chunks that never span two of them; both ends cut them
//! alike, and MPI keeps the order of messages with one tag. What its buffers are the receiving end learns from the opening.
//! Every transfer has a chunk posted, or two ranks that fill their room with receives would wait for each other's sends;
//! beyond that a few chunks of the oldest, up to [`REQUESTS_MAX`] in all. Next: `posted.rs`.

// MPI reads and writes memory between two calls, and its C interface is used because the safe one borrows. Memory that a
// posted request names is owned by its `Transfer`, which keeps it for ever rather than drop it too early.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};

use bytes::Bytes;
use mpi::ffi;
use mpi::traits::AsRaw as _;

use super::posted::{Chunk, Completed, Posted, REQUESTS_MAX, error_text, is_cancelled};
use super::{MpiError, Tag};
use crate::model::Packed;
use crate::model::buffer::AlignedBuffer;
use crate::wire::peer::Opening;

/// The length of a chunk, in bytes; the last of a buffer is shorter. Part of the protocol: both ends cut alike. (Half as
/// long, they cost a value of 4 MiB 8 % of its speed, and longer ones nothing; a sixteenth as long, all of them a third,
/// where the library agrees on each.)
const CHUNK_BYTES: usize = 4 << 20;
/// Chunks of one transfer that are posted at a time: the next is matched while one is copied.
const CHUNKS_PER_TRANSFER: u32 = 4;
/// Abandoned chunks are looked at once in so many polls: most of them never end.
const POLLS_PER_DRAIN: u32 = 64;

/// Names a transfer of this rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TransferId(pub(super) u64);

/// What is sent, or written.
#[derive(Debug)]
pub(super) enum Memory {
    Send(Vec<Bytes>),
    Receive(Incoming),
}

/// What arrives.
#[derive(Debug)]
pub(super) enum Incoming {
    /// Nobody knows yet; a value of more than so many bytes is not taken in.
    Opening { message: AlignedBuffer, bytes_max: u64 },
    /// The buffers of a value; the first is its head unless that is here.
    Parts { head: Option<Bytes>, parts: Vec<AlignedBuffer> },
}

/// A transfer that has ended, with what arrived.
pub(super) struct Ended {
    pub(super) id: TransferId,
    pub(super) result: Result<Option<Packed>, MpiError>,
}

/// What a poll came to.
#[derive(Default)]
pub(super) struct Polled {
    pub(super) bytes_moved: usize,
    pub(super) ended: Vec<Ended>,
    /// Transfers of which a chunk was moved.
    pub(super) moved: Vec<TransferId>,
}

/// All transfers of this rank.
pub(super) struct InFlight {
    world: ffi::MPI_Comm,
    /// By id, hence oldest first.
    transfers: BTreeMap<TransferId, Transfer>,
    posted: Posted,
    /// Chunks of abandoned transfers.
    stranded: Posted,
    polls: u32,
}

struct Transfer {
    peer: u32,
    tag: Tag,
    memory: Option<Memory>,
    /// Where the next chunk begins.
    buffer: usize,
    offset: usize,
    posted: u32,
    is_abandoned: bool,
}

impl InFlight {
    /// No transfers. MPI must be initialised, and errors come back as codes from this moment.
    pub(super) fn new(world: &mpi::topology::SimpleCommunicator) -> Self {
        let world = world.as_raw();
        // SAFETY: the communicator is the world, which lives as long as MPI; the handler is one of MPI's own.
        unsafe { ffi::MPI_Comm_set_errhandler(world, ffi::RSMPI_ERRORS_RETURN) };
        Self {
            world,
            transfers: BTreeMap::new(),
            posted: Posted::default(),
            stranded: Posted::default(),
            polls: 0,
        }
    }

    /// Begins a transfer; its chunks are posted by [`poll`](Self::poll).
    pub(super) fn start(&mut self, id: TransferId, peer: u32, tag: Tag, memory: Memory) {
        let transfer = Transfer {
            peer,
            tag,
            memory: Some(memory),
            buffer: 0,
            offset: 0,
            posted: 0,
            is_abandoned: false,
        };
        self.transfers.insert(id, transfer);
    }

    /// Whether there is nothing to poll for. What was given up does not count.
    pub(super) fn is_idle(&self) -> bool {
        self.posted.is_empty() && self.transfers.values().all(|transfer| transfer.is_abandoned)
    }

    /// Whether all that is under way are openings: the other ends may not have been asked yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.transfers.values().all(|transfer| transfer.is_abandoned || transfer.is_waiting())
    }

    /// Whether MPI holds no memory of ours, so that it can be finalised.
    pub(super) fn is_clean(&self) -> bool {
        self.transfers.is_empty()
    }

    /// Posts nothing more of a transfer: the other end is dead, or as good as that. What is posted is drained and never
    /// cancelled: a cancel of a message that is half here does not end in any library, and its memory must stay.
    pub(super) fn abandon(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get_mut(&id) else { return };
        transfer.is_abandoned = true;
        if transfer.posted == 0 {
            self.transfers.remove(&id);
            return;
        }
        self.posted.move_into(&mut self.stranded, id);
    }

    /// Takes back the receives of all openings that have not come. (Unlike a message that is half here, one of which nothing
    /// is here can be cancelled in any library.)
    pub(super) fn cancel_openings(&mut self) {
        let transfers = &self.transfers;
        self.posted.cancel(|id| transfers[&id].is_waiting());
    }

    /// Posts what may be posted, and books what MPI is done with.
    pub(super) fn poll(&mut self) -> Polled {
        let mut polled = Polled::default();
        self.post(&mut polled);
        for completed in self.posted.test() {
            self.book(completed, &mut polled);
        }
        self.polls = self.polls.wrapping_add(1);
        if self.polls.is_multiple_of(POLLS_PER_DRAIN) {
            for completed in self.stranded.test() {
                self.book(completed, &mut polled);
            }
        }
        polled
    }

    fn post(&mut self, polled: &mut Polled) {
        let mut failed = Vec::new();
        for (&id, transfer) in &mut self.transfers {
            while !transfer.is_abandoned
                && transfer.posted < CHUNKS_PER_TRANSFER
                && (transfer.posted == 0 || self.posted.len() < REQUESTS_MAX)
                && transfer.has_more()
            {
                match transfer.post_chunk(self.world) {
                    Ok((request, bytes)) => self.posted.push(request, Chunk { transfer: id, bytes }),
                    Err(code) => {
                        failed.push((id, transfer.failed(code)));
                        break;
                    }
                }
            }
        }
        for (id, error) in failed {
            self.give_up(id, error, polled);
        }
    }

    fn book(&mut self, Completed { chunk, status }: Completed, polled: &mut Polled) {
        let id = chunk.transfer;
        let transfer = self.transfers.get_mut(&id).expect("a posted chunk has its transfer");
        transfer.posted -= 1;
        if transfer.is_abandoned {
            if transfer.posted == 0 {
                self.transfers.remove(&id);
            }
            return;
        }
        if let Err(error) =
            status.map_err(|code| transfer.failed(code)).and_then(|status| transfer.judge(chunk, &status))
        {
            return self.give_up(id, error, polled);
        }
        polled.bytes_moved += chunk.bytes;
        polled.moved.push(id);
        if transfer.posted == 0 && !transfer.has_more() {
            match transfer.open() {
                Ok(Step::GoesOn) => {}
                Ok(Step::Ended) => self.end(id, polled),
                Err(error) => self.give_up(id, error, polled),
            }
        }
    }

    fn end(&mut self, id: TransferId, polled: &mut Polled) {
        let mut transfer = self.transfers.remove(&id).expect("it is there");
        let memory = transfer.memory.take().expect("it has its memory until its end");
        polled.ended.push(Ended { id, result: Ok(memory.into_value()) });
    }

    fn give_up(&mut self, id: TransferId, error: MpiError, polled: &mut Polled) {
        self.abandon(id);
        polled.ended.push(Ended { id, result: Err(error) });
    }
}

/// What follows when all that was known of a transfer has moved.
enum Step {
    GoesOn,
    Ended,
}

impl Memory {
    /// How many bytes its part at this place has; None behind the last.
    fn part_bytes(&self, at: usize) -> Option<usize> {
        match self {
            Self::Send(parts) => parts.get(at).map(Bytes::len),
            Self::Receive(Incoming::Opening { message, .. }) => (at == 0).then_some(message.len()),
            Self::Receive(Incoming::Parts { parts, .. }) => parts.get(at).map(AlignedBuffer::len),
        }
    }

    /// What has arrived, if that is a value.
    fn into_value(self) -> Option<Packed> {
        match self {
            Self::Send(_) | Self::Receive(Incoming::Opening { .. }) => None,
            Self::Receive(Incoming::Parts { head, parts }) => {
                let mut parts = parts.into_iter().map(AlignedBuffer::freeze);
                let head = head.or_else(|| parts.next()).unwrap_or_default();
                Some(Packed { head, buffers: parts.collect() })
            }
        }
    }
}

impl Transfer {
    /// Whether its opening has not come.
    fn is_waiting(&self) -> bool {
        matches!(self.memory, Some(Memory::Receive(Incoming::Opening { .. })))
    }

    fn has_more(&self) -> bool {
        let part_bytes = |at: usize| self.memory.as_ref().and_then(|memory| memory.part_bytes(at));
        let mut at = self.buffer;
        let mut offset = self.offset;
        while let Some(bytes) = part_bytes(at) {
            if offset < bytes {
                return true;
            }
            (at, offset) = (at + 1, 0);
        }
        false
    }

    fn failed(&self, code: c_int) -> MpiError {
        MpiError::Failed { peer: self.peer, reason: error_text(code) }
    }

    /// Whether a chunk has come, and is as long as the other end should have sent it.
    fn judge(&self, chunk: Chunk, status: &ffi::MPI_Status) -> Result<(), MpiError> {
        match self.memory {
            Some(Memory::Receive(Incoming::Opening { .. })) if is_cancelled(status) => {
                return Err(MpiError::Over);
            }
            Some(Memory::Receive(Incoming::Parts { .. })) => {}
            _ => return Ok(()),
        }
        // SAFETY: a constant of the library.
        let byte = unsafe { ffi::RSMPI_UINT8_T };
        let mut bytes: c_int = 0;
        // SAFETY: the status was written when the receive ended, and the type is the one it was posted with.
        let code = unsafe { ffi::MPI_Get_count(status, byte, &mut bytes) };
        if code != ffi::MPI_SUCCESS as c_int {
            return Err(self.failed(code));
        }
        if usize::try_from(bytes) != Ok(chunk.bytes) {
            let reason = format!("a chunk of {} bytes came with {bytes}", chunk.bytes);
            return Err(MpiError::Failed { peer: self.peer, reason });
        }
        Ok(())
    }

    /// Takes memory for what an opening that has arrived tells of.
    fn open(&mut self) -> Result<Step, MpiError> {
        let Some(Memory::Receive(Incoming::Opening { message, bytes_max })) = &self.memory else {
            return Ok(Step::Ended);
        };
        let nonsense = |reason| MpiError::Failed { peer: self.peer, reason };
        let (shape, head) = match Opening::read(message.as_slice()) {
            Ok(Opening::Value { shape, head }) => (shape, head),
            Ok(Opening::Declined) => return Ok(Step::Ended),
            Err(error) => return Err(nonsense(error.to_string())),
        };
        let bytes = shape.bytes().unwrap_or(u64::MAX);
        if bytes > *bytes_max {
            return Err(MpiError::TooLarge { bytes, bytes_max: *bytes_max });
        }
        let head = head.map(|head| Bytes::from(head.into_vec()));
        let first = head.is_none().then_some(shape.head_bytes);
        let parts = first.into_iter().chain(shape.buffers_bytes);
        let parts = parts.map(|bytes| AlignedBuffer::for_overwrite(bytes as usize)).collect();
        self.memory = Some(Memory::Receive(Incoming::Parts { head, parts }));
        (self.buffer, self.offset) = (0, 0);
        Ok(if self.has_more() { Step::GoesOn } else { Step::Ended })
    }

    /// Posts the next chunk; the request and its length.
    fn post_chunk(&mut self, world: ffi::MPI_Comm) -> Result<(ffi::MPI_Request, usize), c_int> {
        let (peer, tag) = (self.peer as c_int, c_int::from(self.tag.0));
        // SAFETY: a constant of the library.
        let (mut request, byte) = unsafe { (ffi::RSMPI_REQUEST_NULL, ffi::RSMPI_UINT8_T) };
        let memory = self.memory.as_mut().expect("a transfer that goes on has its memory");
        let left = loop {
            let part = memory.part_bytes(self.buffer).expect("who calls this knows that there is more");
            if self.offset < part {
                break part - self.offset;
            }
            (self.buffer, self.offset) = (self.buffer + 1, 0);
        };
        let bytes = left.min(CHUNK_BYTES);
        let code = match memory {
            Memory::Send(parts) => {
                let start = parts[self.buffer][self.offset..].as_ptr().cast::<c_void>();
                // SAFETY: `bytes` bytes from `start` are shared by this transfer, which keeps them until the request
                // has ended or for ever; nobody writes to them.
                unsafe { ffi::MPI_Isend(start, bytes as c_int, byte, peer, tag, world, &mut request) }
            }
            Memory::Receive(incoming) => {
                let part = match incoming {
                    Incoming::Opening { message, .. } => message,
                    Incoming::Parts { parts, .. } => &mut parts[self.buffer],
                };
                // (No slice: MPI may be writing to what comes before.)
                let start = part.as_mut_ptr().wrapping_add(self.offset).cast::<c_void>();
                // SAFETY: `bytes` bytes from `start` lie in a part of this transfer, which keeps it until the request
                // has ended or for ever, and looks at none of them before.
                unsafe { ffi::MPI_Irecv(start, bytes as c_int, byte, peer, tag, world, &mut request) }
            }
        };
        if code != ffi::MPI_SUCCESS as c_int {
            return Err(code);
        }
        self.offset += bytes;
        self.posted += 1;
        Ok((request, bytes))
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if self.posted > 0 {
            // MPI may still write there.
            std::mem::forget(self.memory.take());
        }
    }
}
