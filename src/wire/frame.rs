//! Frames: the length and opcode before each message.
//!
//! A frame is `u32` body length, `u8` opcode, three zero bytes, body; little-endian. [`append`] writes one
//! into an outbox, [`FrameReader`] cuts received bytes into frames without copying them. No IO happens
//! here; [`super::handshake`] says what the first frame of a connection holds.

use bytes::{Buf, Bytes, BytesMut};
use thiserror::Error;

/// Bytes before a body.
pub const HEADER_BYTES: usize = 8;

/// Room for input that a reader starts with, in bytes; an idle connection keeps no more.
const CHUNK_BYTES_MIN: usize = 4 * 1024;
/// Room for input of a busy connection, in bytes.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// A header, for a sender that writes the body by itself.
pub fn header(opcode: u8, body_bytes: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = body_bytes.to_le_bytes();
    [a, b, c, d, opcode, 0, 0, 0]
}

/// Appends a frame whose body `write` appends.
pub fn append(out: &mut Vec<u8>, opcode: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&header(opcode, 0));
    write(out);
    let length =
        u32::try_from(out.len() - start - HEADER_BYTES).expect("batches are sealed long before 4 GiB");
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// A received message, not decoded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which message it is.
    pub opcode: u8,
    /// The message; shares the memory it was received in.
    pub body: Bytes,
}

/// The longest body that a reader accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimit {
    /// In bytes.
    pub body_bytes_max: u32,
}

impl FrameLimit {
    /// For the first frame of a peer.
    pub const HANDSHAKE: Self = Self { body_bytes_max: 16 * 1024 };
}

impl Default for FrameLimit {
    /// 256 MiB: batches stay far below it, one large argument fits.
    fn default() -> Self {
        Self { body_bytes_max: 256 << 20 }
    }
}

/// Bytes that are no frame; the connection they came on is closed.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The header announces more than the limit.
    #[error("a frame (opcode {opcode}) of {body_bytes} bytes is over the limit of {body_bytes_max} bytes")]
    TooLong {
        /// What the header says.
        opcode: u8,
        /// What the header says.
        body_bytes: u32,
        /// The limit.
        body_bytes_max: u32,
    },
    /// The reserved bytes of the header are not zero.
    #[error("the header {0:02x?} is not that of a frame")]
    Reserved([u8; HEADER_BYTES]),
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
pub struct FrameReader {
    received: BytesMut,
    limit: FrameLimit,
    chunk_bytes: usize,
}

impl FrameReader {
    /// A reader with nothing received.
    pub fn new(limit: FrameLimit) -> Self {
        Self { received: BytesMut::new(), limit, chunk_bytes: CHUNK_BYTES_MIN }
    }

    /// Changes the limit for the frames that follow.
    pub fn set_limit(&mut self, limit: FrameLimit) {
        self.limit = limit;
    }

    /// Where the next received bytes are to be appended, with room for some.
    ///
    /// The room grows with what arrives: to the end of an announced frame, or twofold whenever it was filled.
    pub fn buffer(&mut self) -> &mut BytesMut {
        if self.room_bytes() < self.chunk_bytes / 2 {
            self.received.reserve(self.chunk_bytes);
        }
        &mut self.received
    }

    /// The next complete frame; `None` when more bytes are needed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((header, _)) = self.received.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [a, b, c, d, opcode, reserved @ ..] = *header;
        if self.room_bytes() == 0 {
            self.chunk_bytes = (self.chunk_bytes * 2).min(CHUNK_BYTES_MAX);
        }
        if reserved != [0; 3] {
            return Err(FrameError::Reserved(*header));
        }
        let body_bytes = u32::from_le_bytes([a, b, c, d]);
        let body_bytes_max = self.limit.body_bytes_max;
        if body_bytes > body_bytes_max {
            return Err(FrameError::TooLong { opcode, body_bytes, body_bytes_max });
        }
        let frame_bytes = HEADER_BYTES + body_bytes as usize;
        if self.received.len() < frame_bytes {
            self.received.reserve(frame_bytes - self.received.len());
            return Ok(None);
        }
        let mut body = self.received.split_to(frame_bytes).freeze();
        body.advance(HEADER_BYTES);
        Ok(Some(Frame { opcode, body }))
    }

    /// The header of the next frame alone, for a receiver that then takes its body by [`take`](Self::take)
    /// and from the stream; `None` when more bytes are needed.
    pub fn next_header(&mut self) -> Result<Option<(u8, u32)>, FrameError> {
        let Some((header, _)) = self.received.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [a, b, c, d, opcode, reserved @ ..] = *header;
        let (body_bytes, body_bytes_max) = (u32::from_le_bytes([a, b, c, d]), self.limit.body_bytes_max);
        if reserved != [0; 3] {
            return Err(FrameError::Reserved(*header));
        }
        if body_bytes > body_bytes_max {
            return Err(FrameError::TooLong { opcode, body_bytes, body_bytes_max });
        }
        self.received.advance(HEADER_BYTES);
        Ok(Some((opcode, body_bytes)))
    }

    /// Moves received bytes to the front of `out`; how many there were.
    pub fn take(&mut self, out: &mut [u8]) -> usize {
        let bytes = out.len().min(self.received.len());
        self.received.copy_to_slice(&mut out[..bytes]);
        bytes
    }

    /// Bytes received that belong to no complete frame taken so far.
    pub fn buffered_bytes(&self) -> usize {
        self.received.len()
    }

    fn room_bytes(&self) -> usize {
        self.received.capacity() - self.received.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn feed(reader: &mut FrameReader, bytes: &[u8]) {
        reader.buffer().extend_from_slice(bytes);
    }

    fn drain(reader: &mut FrameReader) -> Result<Vec<(u8, Vec<u8>)>, FrameError> {
        let mut frames = Vec::new();
        while let Some(Frame { opcode, body }) = reader.next_frame()? {
            frames.push((opcode, body.to_vec()));
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn any_chunking_yields_the_same_frames(
            frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 0..40),
            chunks in prop::collection::vec(1_usize..500, 1..20),
        ) {
            let mut bytes = Vec::new();
            for (opcode, body) in &frames {
                append(&mut bytes, *opcode, |out| out.extend_from_slice(body));
            }
            let mut reader = FrameReader::new(FrameLimit::default());
            let mut received = Vec::new();
            let mut rest = bytes.as_slice();
            for chunk in chunks.iter().cycle() {
                let (now, later) = rest.split_at((*chunk).min(rest.len()));
                feed(&mut reader, now);
                received.extend(drain(&mut reader).unwrap());
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(received, frames);
            prop_assert_eq!(reader.buffered_bytes(), 0);
        }

        #[test]
        fn garbage_is_an_error_or_waits_for_more(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let mut reader = FrameReader::new(FrameLimit { body_bytes_max: 512 });
            feed(&mut reader, &bytes);
            if drain(&mut reader).is_ok() {
                prop_assert!(reader.buffered_bytes() < HEADER_BYTES + 512);
            }
        }
    }

    #[test]
    fn an_oversize_frame_is_refused_before_memory_is_reserved() {
        let mut reader = FrameReader::new(FrameLimit { body_bytes_max: 1000 });
        feed(&mut reader, &header(7, u32::MAX));
        let error = reader.next_frame().unwrap_err();
        assert_eq!(error, FrameError::TooLong { opcode: 7, body_bytes: u32::MAX, body_bytes_max: 1000 });
        assert!(reader.buffer().capacity() <= 2 * CHUNK_BYTES_MIN);
    }

    #[test]
    fn a_frame_at_the_limit_is_accepted() {
        let mut reader = FrameReader::new(FrameLimit { body_bytes_max: 4 });
        feed(&mut reader, &header(1, 4));
        assert_eq!(reader.next_frame(), Ok(None));
        feed(&mut reader, b"body");
        assert_eq!(reader.next_frame(), Ok(Some(Frame { opcode: 1, body: Bytes::from_static(b"body") })));
    }

    #[test]
    fn a_header_with_reserved_bytes_is_refused() {
        let mut reader = FrameReader::new(FrameLimit::default());
        feed(&mut reader, &[0, 0, 0, 0, 1, 0, 1, 0]);
        assert_eq!(reader.next_frame(), Err(FrameError::Reserved([0, 0, 0, 0, 1, 0, 1, 0])));
    }

    #[test]
    fn bodies_share_the_memory_they_were_received_in() {
        let mut reader = FrameReader::new(FrameLimit::default());
        let mut bytes = Vec::new();
        append(&mut bytes, 1, |out| out.extend_from_slice(&[1; 100]));
        append(&mut bytes, 2, |out| out.extend_from_slice(&[2; 100]));
        feed(&mut reader, &bytes);
        let start = reader.buffer().as_ptr();
        let first = reader.next_frame().unwrap().unwrap();
        let second = reader.next_frame().unwrap().unwrap();
        assert_eq!(first.body.as_ptr(), start.wrapping_add(HEADER_BYTES));
        assert_eq!(second.body.as_ptr(), start.wrapping_add(2 * HEADER_BYTES + 100));
    }
}
