//! Transfers under way, and the memory that MPI reads and writes meanwhile.
//!
//! A transfer is a list of buffers, moved in chunks that never span two of them; both ends cut them alike, and MPI keeps
//! the order of messages with one tag. Every transfer has a chunk posted, or two ranks that fill their room with
//! receives would wait for each other's sends; beyond that a few chunks of the oldest, up to [`REQUESTS_MAX`] in all.

// MPI reads and writes memory between two calls, and its C interface is used because the safe one borrows. Memory that a
// posted request names is owned by its `Transfer`, which keeps it for ever rather than drop it too early.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::{c_int, c_void};

use bytes::Bytes;
use mpi::ffi;
use mpi::traits::AsRaw as _;

use super::{MpiError, Tag};
use crate::model::buffer::AlignedBuffer;

/// The length of a chunk, in bytes; the last of a buffer is shorter. Part of the protocol: both ends cut alike. (Half as
/// long, they cost up to a tenth of the bandwidth where the library agrees on each, an eighth as long a third; twice as
/// long, large values fall out of the caches.)
const CHUNK_BYTES: usize = 2 << 20;
/// Chunks of one transfer that are posted at a time: the next is matched while one is copied.
const CHUNKS_PER_TRANSFER: u32 = 4;
/// Posted chunks of all transfers, but for the first of each; and how many MPI is asked about in one call.
const REQUESTS_MAX: usize = 64;
/// Abandoned chunks are looked at once in so many polls: most of them never end.
const POLLS_PER_DRAIN: u32 = 64;

/// Names a transfer of this rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TransferId(pub(super) u64);

/// What is sent, or written.
#[derive(Debug)]
pub(super) enum Memory {
    Send(Vec<Bytes>),
    Receive(Vec<AlignedBuffer>),
}

/// A transfer that has ended.
pub(super) struct Ended {
    pub(super) id: TransferId,
    pub(super) result: Result<Memory, MpiError>,
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

/// Posted requests, the oldest first, in the form in which MPI wants them.
#[derive(Default)]
struct Posted {
    requests: Vec<ffi::MPI_Request>,
    chunks: Vec<Chunk>,
}

#[derive(Clone, Copy)]
struct Chunk {
    transfer: TransferId,
    bytes: usize,
}

/// A chunk that MPI is done with.
struct Completed {
    chunk: Chunk,
    error: Option<c_int>,
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

    /// Whether there is nothing to poll for. What was abandoned does not count.
    pub(super) fn is_idle(&self) -> bool {
        self.posted.chunks.is_empty() && self.transfers.values().all(|transfer| transfer.is_abandoned)
    }

    /// Whether MPI holds no memory of ours, so that it can be finalised.
    pub(super) fn is_clean(&self) -> bool {
        self.posted.chunks.is_empty() && self.stranded.chunks.is_empty()
    }

    /// Posts nothing more of a transfer. What is posted is drained and never cancelled: a cancel of a message that is
    /// half here does not end in any library, and its memory must stay.
    pub(super) fn abandon(&mut self, id: TransferId) {
        let Some(transfer) = self.transfers.get_mut(&id) else { return };
        transfer.is_abandoned = true;
        if transfer.posted == 0 {
            self.transfers.remove(&id);
            return;
        }
        self.posted.move_into(&mut self.stranded, id);
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
                && (transfer.posted == 0 || self.posted.chunks.len() < REQUESTS_MAX)
                && transfer.has_more()
            {
                match transfer.post_chunk(self.world) {
                    Ok((request, bytes)) => self.posted.push(request, Chunk { transfer: id, bytes }),
                    Err(code) => {
                        failed.push((id, code));
                        break;
                    }
                }
            }
        }
        for (id, code) in failed {
            self.fail(id, code, polled);
        }
        // (A value may have no bytes at all.)
        let empty = |transfer: &Transfer| transfer.posted == 0 && !transfer.has_more();
        while let Some((&id, _)) = self.transfers.iter().find(|(_, transfer)| empty(transfer)) {
            self.end(id, polled);
        }
    }

    fn book(&mut self, Completed { chunk, error }: Completed, polled: &mut Polled) {
        let id = chunk.transfer;
        let transfer = self.transfers.get_mut(&id).expect("a posted chunk has its transfer");
        transfer.posted -= 1;
        if transfer.is_abandoned {
            if transfer.posted == 0 {
                self.transfers.remove(&id);
            }
            return;
        }
        match error {
            Some(code) => self.fail(id, code, polled),
            None => {
                polled.bytes_moved += chunk.bytes;
                polled.moved.push(id);
                if transfer.posted == 0 && !transfer.has_more() {
                    self.end(id, polled);
                }
            }
        }
    }

    fn end(&mut self, id: TransferId, polled: &mut Polled) {
        let mut transfer = self.transfers.remove(&id).expect("it is there");
        let memory = transfer.memory.take().expect("it has its memory until its end");
        polled.ended.push(Ended { id, result: Ok(memory) });
    }

    fn fail(&mut self, id: TransferId, code: c_int, polled: &mut Polled) {
        let peer = self.transfers[&id].peer;
        self.abandon(id);
        let error = MpiError::Failed { peer, reason: error_text(code) };
        polled.ended.push(Ended { id, result: Err(error) });
    }
}

impl Transfer {
    fn has_more(&self) -> bool {
        let lengths = |at: usize| match self.memory.as_ref() {
            Some(Memory::Send(buffers)) => buffers.get(at).map(Bytes::len),
            Some(Memory::Receive(buffers)) => buffers.get(at).map(AlignedBuffer::len),
            None => None,
        };
        let mut at = self.buffer;
        let mut offset = self.offset;
        while let Some(length) = lengths(at) {
            if offset < length {
                return true;
            }
            (at, offset) = (at + 1, 0);
        }
        false
    }

    /// Posts the next chunk; the request and its length.
    fn post_chunk(&mut self, world: ffi::MPI_Comm) -> Result<(ffi::MPI_Request, usize), c_int> {
        let (peer, tag) = (self.peer as c_int, c_int::from(self.tag.0));
        // SAFETY: a constant of the library.
        let (mut request, byte) = unsafe { (ffi::RSMPI_REQUEST_NULL, ffi::RSMPI_UINT8_T) };
        let memory = self.memory.as_mut().expect("a transfer that goes on has its memory");
        let (code, bytes) = loop {
            match memory {
                Memory::Send(buffers) => {
                    let chunk = &buffers[self.buffer][self.offset..];
                    if chunk.is_empty() {
                        (self.buffer, self.offset) = (self.buffer + 1, 0);
                        continue;
                    }
                    let bytes = chunk.len().min(CHUNK_BYTES);
                    let start = chunk.as_ptr().cast::<c_void>();
                    // SAFETY: `bytes` bytes from `start` are shared by this transfer, which keeps them until the
                    // request has ended or for ever; nobody writes to them.
                    let code = unsafe {
                        ffi::MPI_Isend(start, bytes as c_int, byte, peer, tag, world, &mut request)
                    };
                    break (code, bytes);
                }
                Memory::Receive(buffers) => {
                    let chunk = &mut buffers[self.buffer].as_mut_slice()[self.offset..];
                    if chunk.is_empty() {
                        (self.buffer, self.offset) = (self.buffer + 1, 0);
                        continue;
                    }
                    let bytes = chunk.len().min(CHUNK_BYTES);
                    let start = chunk.as_mut_ptr().cast::<c_void>();
                    // SAFETY: `bytes` bytes from `start` belong to this transfer alone, which keeps them until the
                    // request has ended or for ever, and looks at none before.
                    let code = unsafe {
                        ffi::MPI_Irecv(start, bytes as c_int, byte, peer, tag, world, &mut request)
                    };
                    break (code, bytes);
                }
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

impl Posted {
    fn push(&mut self, request: ffi::MPI_Request, chunk: Chunk) {
        self.requests.push(request);
        self.chunks.push(chunk);
    }

    /// Asks MPI which have ended, and takes those out.
    fn test(&mut self) -> Vec<Completed> {
        let mut ended = Vec::new();
        for first in (0..self.requests.len()).step_by(REQUESTS_MAX) {
            let last = self.requests.len().min(first + REQUESTS_MAX);
            test_some(&mut self.requests[first..last], |index, error| ended.push((first + index, error)));
        }
        // From the back, so that the places of the others stay.
        ended.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        ended
            .into_iter()
            .map(|(index, error)| {
                self.requests.remove(index);
                Completed { chunk: self.chunks.remove(index), error }
            })
            .collect()
    }

    fn move_into(&mut self, other: &mut Self, transfer: TransferId) {
        let mut index = 0;
        while index < self.chunks.len() {
            if self.chunks[index].transfer == transfer {
                other.push(self.requests.remove(index), self.chunks.remove(index));
            } else {
                index += 1;
            }
        }
    }
}

/// Calls `MPI_Testsome` for at most [`REQUESTS_MAX`] requests, and `ended` with the place and the fault of each that has.
fn test_some(requests: &mut [ffi::MPI_Request], mut ended: impl FnMut(usize, Option<c_int>)) {
    let mut count: c_int = 0;
    let mut indices = [0 as c_int; REQUESTS_MAX];
    // SAFETY: a status is plain numbers.
    let mut statuses: [ffi::MPI_Status; REQUESTS_MAX] = unsafe { std::mem::zeroed() };
    // SAFETY: the arrays have room for as many entries as there are requests, and the requests are ours and live.
    let code = unsafe {
        ffi::MPI_Testsome(
            requests.len() as c_int,
            requests.as_mut_ptr(),
            &mut count,
            indices.as_mut_ptr(),
            statuses.as_mut_ptr(),
        )
    };
    let in_status = code == ffi::MPI_ERR_IN_STATUS as c_int;
    // (It is `MPI_UNDEFINED`, which is negative, if there were only null requests.)
    let count = usize::try_from(count).unwrap_or(0).min(requests.len());
    for (index, status) in indices[..count].iter().zip(&statuses) {
        let error = status.MPI_ERROR;
        ended(*index as usize, (in_status && error != ffi::MPI_SUCCESS as c_int).then_some(error));
    }
}

fn error_text(code: c_int) -> String {
    let mut text = [0 as std::ffi::c_char; ffi::MPI_MAX_ERROR_STRING as usize + 1];
    let mut length: c_int = 0;
    // SAFETY: the array is as long as the longest text, and one more.
    let known = unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr(), &mut length) };
    if known != ffi::MPI_SUCCESS as c_int {
        return format!("error {code}");
    }
    let length = usize::try_from(length).unwrap_or(0).min(text.len());
    String::from_utf8_lossy(&text[..length].iter().map(|byte| *byte as u8).collect::<Vec<u8>>()).into_owned()
}
