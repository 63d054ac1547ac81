//! The bytes of one value on a connection: sent from where they lie, received where they stay.
//!
//! A value's shape went before it, in a `Value` or a `Put`; see [`crate::wire::peer`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::time::timeout;

use crate::model::Packed;
use crate::model::buffer::AlignedBuffer;
use crate::model::error::with_causes;
use crate::model::number_vec::NumberVec;
use crate::transport::tcp::{ReadHalf, WriteHalf};
use crate::wire::frame;
use crate::wire::peer::{CHUNK, CHUNK_BYTES_MAX, Shape};

/// A transfer that moves no chunk for this long is given up.
pub const STALL_MAX: Duration = Duration::from_secs(30);
/// Values up to this size, in bytes, are copied into one write with what is said around them.
const COPIED_BYTES_MAX: usize = 64 * 1024;

/// Why nothing more can be moved on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Broken {
    /// It was closed in an orderly way.
    #[error("the peer closed it")]
    Closed,
    /// Nothing moved for [`STALL_MAX`].
    #[error("nothing moved for {} s", STALL_MAX.as_secs())]
    Stalled,
    /// What arrived makes no sense.
    #[error("the peer sent {0}")]
    Unexpected(String),
    /// The system or the TLS session says so.
    #[error("{0}")]
    Io(String),
}

/// Counts the bytes of values as they pass, for somebody who watches.
#[derive(Debug, Clone, Default)]
pub struct Meter(Option<Arc<AtomicU64>>);

impl Meter {
    /// A meter that adds to `bytes`.
    pub fn on(bytes: Arc<AtomicU64>) -> Self {
        Self(Some(bytes))
    }

    /// Counts so many.
    pub fn add(&self, bytes: usize) {
        if let Some(total) = &self.0 {
            total.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}

/// A value that was received for a program, which wants it live.
#[derive(Debug)]
pub enum Brought {
    /// To be unpacked.
    Packed(Packed),
    /// It is one vector of numbers, or a text, with this head.
    Numbers(Bytes, NumberVec),
}

/// Sends the chunks of a value. Small ones are appended to `frames`, which the caller writes; before a large
/// one `frames` is written.
pub async fn send_value(
    writer: &mut WriteHalf,
    frames: &mut Vec<u8>,
    packed: &Packed,
    meter: &Meter,
) -> Result<(), Broken> {
    let parts = std::iter::once(&packed.head).chain(&packed.buffers);
    let chunks = parts.flat_map(|part| part.chunks(CHUNK_BYTES_MAX));
    if packed.len() <= COPIED_BYTES_MAX {
        chunks.for_each(|chunk| frame::append(frames, CHUNK, |out| out.extend_from_slice(chunk)));
        meter.add(packed.len());
        return Ok(());
    }
    for chunk in chunks {
        meter.add(chunk.len());
        frames.extend_from_slice(&frame::header(CHUNK, chunk.len() as u32));
        if chunk.len() <= COPIED_BYTES_MAX {
            frames.extend_from_slice(chunk);
            continue;
        }
        let write = async {
            writer.write_all(frames).await?;
            frames.clear();
            writer.write_body(chunk).await
        };
        match timeout(STALL_MAX, write).await {
            Ok(written) => written.map_err(|error| Broken::Io(error.to_string()))?,
            Err(_) => return Err(Broken::Stalled),
        }
    }
    Ok(())
}

/// Receives the chunks of a value into memory that is taken here. The caller has judged the size.
pub async fn receive_value(reader: &mut ReadHalf, shape: &Shape) -> Result<Packed, Broken> {
    let head = receive_part(reader, shape.head_bytes).await?;
    let mut buffers = Vec::with_capacity(shape.buffers_bytes.len());
    for bytes in &shape.buffers_bytes {
        buffers.push(receive_part(reader, *bytes).await?);
    }
    Ok(Packed { head, buffers })
}

/// Receives a value for a program. Numbers land in the vector that the program is given.
pub async fn bring_value(reader: &mut ReadHalf, shape: &Shape, meter: &Meter) -> Result<Brought, Broken> {
    let head = receive_part(reader, shape.head_bytes).await?;
    if let [bytes] = *shape.buffers_bytes
        && let Some(mut numbers) = NumberVec::for_head(&head, addressable(bytes)?)
    {
        receive_into(reader, numbers.memory_mut(), meter).await?;
        return Ok(Brought::Numbers(head, numbers));
    }
    let mut buffers = Vec::with_capacity(shape.buffers_bytes.len());
    for bytes in &shape.buffers_bytes {
        let mut memory = AlignedBuffer::for_overwrite(addressable(*bytes)?);
        receive_into(reader, memory.as_mut_slice(), meter).await?;
        buffers.push(memory.freeze());
    }
    Ok(Brought::Packed(Packed { head, buffers }))
}

/// Receives the chunks of a value that is not wanted, and drops them.
pub async fn skip_value(reader: &mut ReadHalf, shape: &Shape) -> Result<(), Broken> {
    let mut scrap = Vec::new();
    for &bytes in std::iter::once(&shape.head_bytes).chain(&shape.buffers_bytes) {
        let mut left = bytes;
        while left > 0 {
            let length = chunk_header(reader, left).await?;
            scrap.resize(length, 0);
            body(reader, &mut scrap).await?;
            left -= length as u64;
        }
    }
    Ok(())
}

async fn receive_part(reader: &mut ReadHalf, bytes: u64) -> Result<Bytes, Broken> {
    let mut memory = AlignedBuffer::for_overwrite(addressable(bytes)?);
    receive_into(reader, memory.as_mut_slice(), &Meter::default()).await?;
    Ok(memory.freeze())
}

/// Receives chunks until `room` is full.
async fn receive_into(reader: &mut ReadHalf, mut room: &mut [u8], meter: &Meter) -> Result<(), Broken> {
    while !room.is_empty() {
        let length = chunk_header(reader, room.len() as u64).await?;
        let (chunk, rest) = room.split_at_mut(length);
        body(reader, chunk).await?;
        meter.add(length);
        room = rest;
    }
    Ok(())
}

fn addressable(bytes: u64) -> Result<usize, Broken> {
    usize::try_from(bytes).map_err(|_| {
        Broken::Unexpected(format!("a buffer of {bytes} bytes, which this machine cannot address"))
    })
}

/// The length of the next chunk, which is between 1 and `left`.
async fn chunk_header(reader: &mut ReadHalf, left: u64) -> Result<usize, Broken> {
    let Ok(header) = timeout(STALL_MAX, reader.header()).await else { return Err(Broken::Stalled) };
    let header = header.map_err(|error| Broken::Io(with_causes(&error)))?;
    let Some((opcode, bytes)) = header else { return Err(Broken::Closed) };
    let fits = (1..=left).contains(&u64::from(bytes)) && bytes as usize <= CHUNK_BYTES_MAX;
    if opcode != CHUNK || !fits {
        let what =
            format!("a frame (opcode {opcode}, {bytes} bytes) where a chunk of at most {left} was due");
        return Err(Broken::Unexpected(what));
    }
    Ok(bytes as usize)
}

async fn body(reader: &mut ReadHalf, out: &mut [u8]) -> Result<(), Broken> {
    match timeout(STALL_MAX, reader.read_body(out)).await {
        Ok(read) => read.map_err(|error| Broken::Io(with_causes(&error))),
        Err(_) => Err(Broken::Stalled),
    }
}
