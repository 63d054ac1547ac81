//! What lets a client outlive its connection: each direction is a stream of frames, counted in bytes.
//!
//! A sender keeps in [`Sent`] what it wrote until the other end has acknowledged it; a receiver counts in
//! [`Received`] what it booked, and acknowledges it now and then with a message of the stream itself. When a
//! connection breaks, each end says on the next one how much it has received, and is sent the rest: every frame is
//! booked once, in order. The first frame of the scheduler on a connection, a [`SessionAnswer`] to the
//! [`SessionRequest`] in the client's hello, belongs to no stream. No IO happens here.
//!
//! What is kept has no bound of its own, since a receiver that must send before it may receive could wait for itself;
//! the ends look at [`Sent::retained_bytes`] beside their outbox and give the other up when it is too much.

use std::collections::VecDeque;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::WireError;
use super::batch::decode;
use super::frame::{Frame, HEADER_BYTES, append};

/// A receiver acknowledges whenever it has received this much, in bytes.
pub const ACKNOWLEDGE_EVERY_BYTES: u64 = 64 << 10;

/// What is written in smaller pieces is kept in chunks of this size, in bytes.
const CHUNK_BYTES: usize = 64 << 10;
/// Longer pieces are kept as they come; shorter ones are copied into a chunk.
const COPY_BYTES_MAX: usize = 16 << 10;
/// Memory up to this is used again, in bytes.
const SPARE_BYTES_MAX: usize = 1 << 20;

const SESSION: u8 = 0xE0;

/// Proves that a client is the one that began a session: 256 random bits, which only the two ends know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Token(pub [u8; 32]);

/// What a client asks for in its hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionRequest {
    /// A session of its own.
    Begin,
    /// The one it has.
    Resume {
        /// Which.
        token: Token,
        /// How much of the scheduler's stream it has booked.
        received_bytes: u64,
    },
}

/// The scheduler's answer: its first frame on a client's connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionAnswer {
    /// The session begins.
    Begun {
        /// By which it can be resumed.
        token: Token,
        /// For how long after a break, in milliseconds; 0 for not at all.
        lease_ms: u64,
    },
    /// The session goes on.
    Resumed {
        /// How much of the client's stream the scheduler has booked.
        received_bytes: u64,
    },
    /// There is no session for this client; the connection ends.
    Refused {
        /// Said to the user.
        reason: String,
    },
}

/// An end that claims to have received what it cannot have.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
#[error(
    "it says that it has received {received_bytes} bytes, which is not between {acknowledged_bytes} and {sent_bytes}"
)]
pub struct ClaimError {
    /// What it says.
    pub received_bytes: u64,
    /// What it has acknowledged before, and cannot have again.
    pub acknowledged_bytes: u64,
    /// What there is.
    pub sent_bytes: u64,
}

/// The sending end of a stream.
#[derive(Debug, Default)]
pub struct Sent {
    /// What is not acknowledged; none is empty.
    chunks: VecDeque<Vec<u8>>,
    /// Where in the stream the first chunk starts.
    start: u64,
    acknowledged: u64,
    end: u64,
    /// What comes next on the present connection.
    next: Place,
    /// Its place in the stream.
    written: u64,
    spare: Vec<u8>,
}

/// A place among the chunks.
#[derive(Debug, Default, Clone, Copy)]
struct Place {
    chunk: usize,
    offset: usize,
}

/// The receiving end of a stream.
#[derive(Debug, Default, Clone, Copy)]
pub struct Received {
    bytes: u64,
    acknowledged: u64,
}

impl Sent {
    /// Takes frames that are to be written, and leaves `frames` empty with memory for others.
    pub fn push(&mut self, frames: &mut Vec<u8>) {
        self.end += frames.len() as u64;
        let has_room = |chunk: &Vec<u8>| chunk.len() + frames.len() <= CHUNK_BYTES;
        match self.chunks.back_mut() {
            Some(last) if has_room(last) => last.append(frames),
            _ if frames.len() > COPY_BYTES_MAX => {
                let spare = std::mem::take(&mut self.spare);
                self.chunks.push_back(std::mem::replace(frames, spare));
            }
            _ => {
                let mut chunk = std::mem::take(&mut self.spare);
                chunk.append(frames);
                self.chunks.push_back(chunk);
            }
        }
        self.settle();
    }

    /// What comes next on the present connection; empty when all is written.
    pub fn unwritten(&self) -> &[u8] {
        self.chunks.get(self.next.chunk).map_or(&[], |chunk| &chunk[self.next.offset..])
    }

    /// So much of [`unwritten`](Self::unwritten) is written.
    pub fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
        self.next.offset += bytes;
        self.settle();
    }

    /// The other end has so much, and will not ask for it again.
    ///
    /// # Errors
    /// If it cannot have so much.
    pub fn acknowledge(&mut self, received_bytes: u64) -> Result<(), ClaimError> {
        if received_bytes > self.end {
            return Err(self.claim(received_bytes));
        }
        // What was sent again may hold older acknowledgements.
        self.acknowledged = self.acknowledged.max(received_bytes);
        while let Some(first) = self.chunks.pop_front() {
            let behind = self.start + first.len() as u64;
            if behind > self.acknowledged {
                self.chunks.push_front(first);
                break;
            }
            self.start = behind;
            self.recycle(first);
        }
        // A write that failed may have got further than it said.
        self.go_to(self.written.max(self.acknowledged));
        Ok(())
    }

    /// Goes on over another connection, with what the other end has not received.
    ///
    /// # Errors
    /// If it cannot have so much, or has asked for what it acknowledged.
    pub fn resume(&mut self, received_bytes: u64) -> Result<(), ClaimError> {
        if received_bytes < self.acknowledged {
            return Err(self.claim(received_bytes));
        }
        self.acknowledge(received_bytes)?;
        self.go_to(received_bytes);
        Ok(())
    }

    /// How much is kept for an end that might not have received it.
    pub fn retained_bytes(&self) -> u64 {
        self.end - self.acknowledged
    }

    fn claim(&self, received_bytes: u64) -> ClaimError {
        ClaimError { received_bytes, acknowledged_bytes: self.acknowledged, sent_bytes: self.end }
    }

    /// Writes from here.
    fn go_to(&mut self, written: u64) {
        self.written = written;
        self.next = Place { chunk: 0, offset: (written - self.start) as usize };
        self.settle();
    }

    /// Keeps the memory of a chunk for another, if it is more than there is and not too much.
    fn recycle(&mut self, mut chunk: Vec<u8>) {
        if chunk.capacity() <= SPARE_BYTES_MAX && chunk.capacity() > self.spare.capacity() {
            chunk.clear();
            self.spare = chunk;
        }
    }

    /// Steps over the ends of chunks.
    fn settle(&mut self) {
        while let Some(chunk) = self.chunks.get(self.next.chunk)
            && self.next.offset >= chunk.len()
            && self.next.chunk + 1 < self.chunks.len()
        {
            self.next = Place { chunk: self.next.chunk + 1, offset: self.next.offset - chunk.len() };
        }
    }
}

impl Received {
    /// A frame was booked.
    pub fn note(&mut self, frame: &Frame) {
        self.bytes += (HEADER_BYTES + frame.body.len()) as u64;
    }

    /// How much was booked.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What to acknowledge, if it is time for that.
    pub fn acknowledgement(&mut self) -> Option<u64> {
        (self.bytes - self.acknowledged >= ACKNOWLEDGE_EVERY_BYTES).then(|| {
            self.acknowledged = self.bytes;
            self.bytes
        })
    }
}

impl SessionAnswer {
    /// Appends the frame that says this.
    pub fn append(&self, out: &mut Vec<u8>) {
        append(out, SESSION, |out| {
            rmp_serde::encode::write(out, self).expect("an answer serialises, and memory takes it");
        });
    }

    /// Reads the scheduler's first frame.
    ///
    /// # Errors
    /// If it is something else.
    pub fn read(frame: &Frame) -> Result<Self, WireError> {
        match frame.opcode {
            SESSION => decode("session", &frame.body),
            other => Err(WireError::UnknownOpcode(other)),
        }
    }
}

impl fmt::Debug for Token {
    /// Nothing of it: logs are read by many.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests;
