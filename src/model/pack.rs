//! Packing: any serde value in, a [`Packed`] out.
//!
//! The head is msgpack. A sequence of numbers, a byte string or a long text of at least
//! [`OUT_OF_BAND_BYTES_MIN`] leaves the head: its memory is copied in one piece into a buffer of its own, and a
//! marker takes its place. Structs are arrays of their fields, enum variants are named, and a map carries its
//! keys, so that a value also serves types that ask what they are given (untagged enums, flattened fields).
//! The way back is [`unpack`](super::unpack); the memory of numbers is in `element`.

mod head;
mod parts;
mod serializer;

use std::any::type_name;
use std::fmt;

use bytes::Bytes;
use serde::ser::{self, Serialize};
use thiserror::Error;

use self::head::{Counted, Output};
use self::serializer::{Packer, StructForm};
use super::buffer::AlignedBuffer;
use super::element::{self, ElementKind};
use super::packed::{Packed, put_varint, varint_len};

/// From this many bytes on, a sequence of numbers gets a buffer of its own.
pub const OUT_OF_BAND_BYTES_MIN: usize = 64;

/// From this many bytes on, a text gets a buffer of its own.
pub(super) const OUT_OF_BAND_TEXT_BYTES_MIN: usize = 1024;

/// How deep containers may nest, when packing and when unpacking.
pub const DEPTH_MAX: u32 = 200;

/// The newtype whose content, an index, stands for an input of a task; see [`placeholder`].
const PLACEHOLDER_NAME: &str = "$dcluster::input";

/// Extension types of the head.
pub(super) mod extension {
    /// An out-of-band buffer: kind (u8), buffer index (u32), element count (u64).
    pub(in super::super) const BUFFER: i8 = 1;
    /// An input of a task: its index (u32).
    pub(in super::super) const INPUT: i8 = 2;
    /// An `i128`, 16 bytes.
    pub(in super::super) const I128: i8 = 3;
    /// A `u128`, 16 bytes.
    pub(in super::super) const U128: i8 = 4;
    /// The length of [`BUFFER`]'s content.
    pub(in super::super) const BUFFER_BYTES: u32 = 13;
}

/// The byte before the content of a `Some` that would otherwise read as `None`; msgpack never uses it.
pub(super) const SOME_PREFIX: u8 = 0xc1;

/// A value that cannot be packed.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("cannot pack a value of type `{type_name}`: {reason}")]
pub struct PackError {
    /// The type of the whole value.
    pub type_name: &'static str,
    /// What went wrong.
    pub reason: String,
}

/// Packs a value.
///
/// # Errors
/// `PackError` if the type's own `Serialize` fails, or if it nests deeper than [`DEPTH_MAX`].
pub fn pack<T: Serialize + 'static>(value: &T) -> Result<Packed, PackError> {
    if let Some((kind, memory)) = element::value_memory(value)
        && memory.len() >= kind.out_of_band_bytes_min()
    {
        let mut buffer = AlignedBuffer::with_capacity(memory.len());
        buffer.extend(memory);
        return Ok(single_buffer(kind, buffer.freeze()));
    }
    let mut head = Vec::new();
    let buffers = pack_head(value, &mut head, usize::MAX, Counted::All)
        .map_err(|fault| fault.into_error::<T>())?
        .unwrap_or_default();
    Ok(Packed { head: head.into(), buffers })
}

/// Packs a value if that takes at most `bytes_max` bytes, and gives up at the first byte beyond.
///
/// # Errors
/// As [`pack`].
pub fn pack_within<T: Serialize + 'static>(value: &T, bytes_max: usize) -> Result<Option<Packed>, PackError> {
    if let Some((_, memory)) = element::value_memory(value)
        && memory.len() > bytes_max
    {
        return Ok(None);
    }
    pack_limited(value, bytes_max, Counted::All)
}

/// Packs a value if its memory can be shared but for at most `bytes_max` bytes, and gives up at the first byte beyond.
///
/// # Errors
/// As [`pack`].
pub fn pack_sharing<T: Serialize + 'static>(
    value: &T,
    bytes_max: usize,
) -> Result<Option<Packed>, PackError> {
    pack_limited(value, bytes_max, Counted::Written)
}

fn pack_limited<T: Serialize>(
    value: &T,
    bytes_max: usize,
    counted: Counted,
) -> Result<Option<Packed>, PackError> {
    let mut head = Vec::new();
    let buffers = pack_head(value, &mut head, bytes_max, counted).map_err(|fault| fault.into_error::<T>())?;
    Ok(buffers.map(|buffers| Packed { head: head.into(), buffers }))
}

/// The length of the packed form in bytes, found without making it.
///
/// # Errors
/// As [`pack`].
pub fn packed_len<T: Serialize + 'static>(value: &T) -> Result<usize, PackError> {
    if let Some((kind, memory)) = element::value_memory(value)
        && memory.len() >= kind.out_of_band_bytes_min()
    {
        return Ok(memory.len() + marker_len());
    }
    let mut structs = StructForm::Array;
    loop {
        let mut packer = Packer::new(Vec::new(), usize::MAX, Output::Counted, structs);
        match value.serialize(&mut packer) {
            Ok(()) => return Ok(packer.head.written),
            Err(Fault::FieldLeftOut) if structs == StructForm::Array => structs = StructForm::Map,
            Err(fault) => return Err(fault.into_error::<T>()),
        }
    }
}

/// Appends the flat form of a value, with its length before it, to `out`.
///
/// # Errors
/// As [`pack`]; `out` is then as it was.
pub fn pack_flat<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), PackError> {
    let start = out.len();
    // A length below 128 and no buffers: two bytes, known before the value is packed.
    out.extend_from_slice(&[0, 0]);
    let buffers = match pack_head(value, out, usize::MAX, Counted::All) {
        Ok(buffers) => buffers.unwrap_or_default(),
        Err(fault) => {
            out.truncate(start);
            return Err(fault.into_error::<T>());
        }
    };
    let head_len = out.len() - start - 2;
    if buffers.is_empty() && head_len < 127 {
        out[start] = head_len as u8 + 1;
        return Ok(());
    }
    let packed = Packed { head: Bytes::copy_from_slice(&out[start + 2..]), buffers };
    out.truncate(start);
    let flat_len = packed.flat_len();
    out.reserve(flat_len + varint_len(flat_len as u64));
    put_varint(out, flat_len as u64);
    packed.encode_into(out);
    Ok(())
}

/// Serializes as the placeholder of a task's input, which [`unpack`](super::unpack) replaces by its value.
///
/// # Errors
/// Whatever the serializer says; any other than this module's would write a plain integer.
pub fn placeholder<S: ser::Serializer>(index: u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_newtype_struct(PLACEHOLDER_NAME, &index)
}

/// A packed value that is one sequence, whose memory is `buffer`.
pub(super) fn single_buffer(kind: ElementKind, buffer: Bytes) -> Packed {
    let count = (buffer.len() / kind.size()) as u64;
    Packed { head: sole_marker(kind, count).into(), buffers: vec![buffer] }
}

/// Where the kind stands in a [`sole_marker`].
pub(super) const SOLE_MARKER_KIND_AT: usize = 3;

/// The head of a value that is one sequence of so many elements out of band.
pub(super) fn sole_marker(kind: ElementKind, count: u64) -> Vec<u8> {
    let mut packer = Packer::new(Vec::new(), usize::MAX, Output::Built, StructForm::Array);
    // Building in memory without a limit does not fail.
    let written = packer.head.write_marker(kind, 0, count);
    debug_assert!(written.is_ok());
    packer.head.bytes
}

const fn marker_len() -> usize {
    3 + extension::BUFFER_BYTES as usize
}

/// Appends the head to `out` and returns the buffers; `None` beyond `bytes_max`.
fn pack_head<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
    bytes_max: usize,
    counted: Counted,
) -> Result<Option<Vec<Bytes>>, Fault> {
    let start = out.len();
    let mut structs = StructForm::Array;
    loop {
        let mut packer = Packer::new(std::mem::take(out), bytes_max, Output::Built, structs);
        packer.head.counted = counted;
        let outcome = value.serialize(&mut packer);
        *out = packer.head.bytes;
        match outcome {
            Ok(()) => return Ok(Some(packer.buffers)),
            Err(Fault::OverLimit) => return Ok(None),
            Err(Fault::FieldLeftOut) if structs == StructForm::Array => {
                out.truncate(start);
                structs = StructForm::Map;
            }
            Err(fault) => return Err(fault),
        }
    }
}

impl ElementKind {
    pub(super) const fn out_of_band_bytes_min(self) -> usize {
        match self {
            Self::Text => OUT_OF_BAND_TEXT_BYTES_MIN,
            _ => OUT_OF_BAND_BYTES_MIN,
        }
    }
}

/// Why packing stopped.
#[derive(Debug)]
pub(super) enum Fault {
    /// What the type's `Serialize` said, or a rule of the format that it broke.
    Message(String),
    /// The limit of `pack_within` is exceeded.
    OverLimit,
    /// A struct leaves out a field, so fields need their names.
    FieldLeftOut,
}

impl Fault {
    fn into_error<T: ?Sized>(self) -> PackError {
        let reason = match self {
            Fault::Message(reason) => reason,
            Fault::OverLimit => "it is larger than allowed".to_owned(),
            Fault::FieldLeftOut => "a struct leaves out a field in one pass and not in the next".to_owned(),
        };
        PackError { type_name: type_name::<T>(), reason }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Message(reason) => f.write_str(reason),
            Fault::OverLimit => f.write_str("the value is larger than allowed"),
            Fault::FieldLeftOut => f.write_str("a field is left out"),
        }
    }
}

impl std::error::Error for Fault {}

impl ser::Error for Fault {
    fn custom<M: fmt::Display>(message: M) -> Self {
        Fault::Message(message.to_string())
    }
}
