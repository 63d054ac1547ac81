//! Packing: any serde value in, a [`Packed`] out.
//!
//! The head is msgpack. A sequence of numbers, a byte string or a long text of at least
//! [`OUT_OF_BAND_BYTES_MIN`] leaves the head: its memory is copied in one piece into a buffer of its own, and a
//! marker takes its place. Structs are arrays of their fields, enum variants are named, and a map carries its
//! keys, so that a value also serves types that ask what they are given (untagged enums, flattened fields).
//! The way back is [`unpack`](super::unpack); the memory of numbers is in `element`.

use std::any::type_name;
use std::fmt;
use std::io;

use bytes::Bytes;
use serde::ser::{self, Serialize};
use thiserror::Error;

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
    let buffers =
        pack_head(value, &mut head, usize::MAX).map_err(|fault| fault.into_error::<T>())?.unwrap_or_default();
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
    let mut head = Vec::new();
    let buffers = pack_head(value, &mut head, bytes_max).map_err(|fault| fault.into_error::<T>())?;
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
    let buffers = match pack_head(value, out, usize::MAX) {
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
    let mut head =
        Head { bytes: Vec::new(), written: 0, bytes_max: usize::MAX, output: Output::Built, nil_at: None };
    let count = (buffer.len() / kind.size()) as u64;
    // Building in memory without a limit does not fail.
    let written = head.write_marker(kind, 0, count);
    debug_assert!(written.is_ok());
    Packed { head: head.bytes.into(), buffers: vec![buffer] }
}

const fn marker_len() -> usize {
    3 + extension::BUFFER_BYTES as usize
}

/// Appends the head to `out` and returns the buffers; `None` beyond `bytes_max`.
fn pack_head<T: Serialize + ?Sized>(
    value: &T,
    out: &mut Vec<u8>,
    bytes_max: usize,
) -> Result<Option<Vec<Bytes>>, Fault> {
    let start = out.len();
    let mut structs = StructForm::Array;
    loop {
        let mut packer = Packer::new(std::mem::take(out), bytes_max, Output::Built, structs);
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

#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    Built,
    Counted,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum StructForm {
    Array,
    Map,
}

/// The msgpack head under construction, or only its length.
struct Head {
    bytes: Vec<u8>,
    /// Bytes of head and buffers so far.
    written: usize,
    bytes_max: usize,
    output: Output,
    /// Where the last nil, or the last [`SOME_PREFIX`], was written; to find a `Some` that looks like `None`.
    nil_at: Option<usize>,
}

impl Head {
    #[inline]
    fn claim(&mut self, bytes: usize) -> Result<(), Fault> {
        self.written = self.written.saturating_add(bytes);
        if self.written > self.bytes_max { Err(Fault::OverLimit) } else { Ok(()) }
    }

    /// Writes with one of rmp's functions; these fail only because [`Head::write_all`] does.
    #[inline]
    fn put<E>(&mut self, write: impl FnOnce(&mut Self) -> Result<(), E>) -> Result<(), Fault> {
        write(self).map_err(|_| Fault::OverLimit)
    }

    fn write_nil(&mut self) -> Result<(), Fault> {
        self.nil_at = Some(self.written);
        self.put(|head| rmp::encode::write_nil(head))
    }

    fn write_array_len(&mut self, count: usize) -> Result<(), Fault> {
        let count = length_u32(count)?;
        self.put(|head| rmp::encode::write_array_len(head, count).map(drop))
    }

    fn write_map_len(&mut self, count: usize) -> Result<(), Fault> {
        let count = length_u32(count)?;
        self.put(|head| rmp::encode::write_map_len(head, count).map(drop))
    }

    fn write_str(&mut self, text: &str) -> Result<(), Fault> {
        length_u32(text.len())?;
        self.put(|head| rmp::encode::write_str(head, text))
    }

    fn write_extension(&mut self, kind: i8, content: &[u8]) -> Result<(), Fault> {
        self.put(|head| rmp::encode::write_ext_meta(head, content.len() as u32, kind).map(drop))?;
        self.put(|head| io::Write::write_all(head, content))
    }

    fn write_marker(&mut self, kind: ElementKind, index: u32, count: u64) -> Result<(), Fault> {
        let mut content = [0; extension::BUFFER_BYTES as usize];
        content[0] = kind as u8;
        content[1..5].copy_from_slice(&index.to_le_bytes());
        content[5..].copy_from_slice(&count.to_le_bytes());
        self.write_extension(extension::BUFFER, &content)
    }

    /// Writes a number whose memory is `memory`.
    fn write_number(&mut self, kind: ElementKind, memory: &[u8]) -> Result<(), Fault> {
        macro_rules! read {
            ($number:ty) => {
                memory.try_into().map(<$number>::from_le_bytes).map_err(|_| bad_length(kind, memory))?
            };
        }
        match kind {
            ElementKind::Bytes | ElementKind::Text | ElementKind::U8 => self.write_unsigned(read!(u8).into()),
            ElementKind::U16 => self.write_unsigned(read!(u16).into()),
            ElementKind::U32 => self.write_unsigned(read!(u32).into()),
            ElementKind::U64 => self.write_unsigned(read!(u64)),
            ElementKind::I8 => self.write_signed(read!(i8).into()),
            ElementKind::I16 => self.write_signed(read!(i16).into()),
            ElementKind::I32 => self.write_signed(read!(i32).into()),
            ElementKind::I64 => self.write_signed(read!(i64)),
            ElementKind::F32 => self.put(|head| rmp::encode::write_f32(head, read_f32(memory))),
            ElementKind::F64 => self.put(|head| rmp::encode::write_f64(head, read_f64(memory))),
        }
    }

    #[inline]
    fn write_unsigned(&mut self, value: u64) -> Result<(), Fault> {
        self.put(|head| rmp::encode::write_uint(head, value).map(drop))
    }

    #[inline]
    fn write_signed(&mut self, value: i64) -> Result<(), Fault> {
        self.put(|head| rmp::encode::write_sint(head, value).map(drop))
    }
}

fn bad_length(kind: ElementKind, memory: &[u8]) -> Fault {
    Fault::Message(format!("an element of type {kind} has {} bytes", memory.len()))
}

fn read_f32(memory: &[u8]) -> f32 {
    memory.try_into().map_or(f32::NAN, f32::from_le_bytes)
}

fn read_f64(memory: &[u8]) -> f64 {
    memory.try_into().map_or(f64::NAN, f64::from_le_bytes)
}

impl io::Write for Head {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.claim(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
        if self.output == Output::Built {
            self.bytes.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(bytes).map(drop)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn length_u32(length: usize) -> Result<u32, Fault> {
    u32::try_from(length).map_err(|_| {
        Fault::Message(format!("a sequence, map or text of {length} items is too long, 2^32 is the limit"))
    })
}

/// The serializer.
pub(super) struct Packer {
    head: Head,
    buffers: Vec<Bytes>,
    buffer_count: u32,
    depth: u32,
    structs: StructForm,
    /// The next integer is the index of an input.
    placeholder: bool,
}

impl Packer {
    fn new(bytes: Vec<u8>, bytes_max: usize, output: Output, structs: StructForm) -> Self {
        let head = Head { bytes, written: 0, bytes_max, output, nil_at: None };
        Self { head, buffers: Vec::new(), buffer_count: 0, depth: 0, structs, placeholder: false }
    }

    #[inline]
    fn enter(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Fault::Message(format!("it nests deeper than {DEPTH_MAX} levels")));
        }
        Ok(())
    }

    #[inline]
    fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Puts `memory` out of band.
    fn write_buffer(&mut self, kind: ElementKind, memory: &[u8]) -> Result<(), Fault> {
        self.head.claim(memory.len())?;
        if self.head.output == Output::Built {
            let mut buffer = AlignedBuffer::with_capacity(memory.len());
            buffer.extend(memory);
            self.buffers.push(buffer.freeze());
        }
        self.write_buffer_marker(kind, memory.len() / kind.size())
    }

    fn write_buffer_marker(&mut self, kind: ElementKind, count: usize) -> Result<(), Fault> {
        let index = self.buffer_count;
        self.buffer_count += 1;
        self.head.write_marker(kind, index, count as u64)
    }

    /// Begins `{variant: …}`.
    fn write_variant(&mut self, variant: &str) -> Result<(), Fault> {
        self.head.write_map_len(1)?;
        self.head.write_str(variant)
    }

    fn sequence(&mut self, announced: Option<usize>, mixed: Mixed) -> Result<Sequence<'_>, Fault> {
        self.enter()?;
        Ok(Sequence { packer: self, announced, mixed, count: 0, body: Body::Undecided })
    }

    fn fields(&mut self, announced: Option<usize>, named: bool) -> Result<Fields<'_>, Fault> {
        self.enter()?;
        let counted_at = match announced {
            Some(count) if named => self.head.write_map_len(count).map(|()| None)?,
            Some(count) => self.head.write_array_len(count).map(|()| None)?,
            None => {
                let at = self.head.bytes.len();
                self.head.put(|head| io::Write::write_all(head, &[0xdf, 0, 0, 0, 0]))?;
                Some(at)
            }
        };
        Ok(Fields { packer: self, announced, named, count: 0, counted_at })
    }
}

impl<'p> ser::Serializer for &'p mut Packer {
    type Ok = ();
    type Error = Fault;
    type SerializeSeq = Sequence<'p>;
    type SerializeTuple = Sequence<'p>;
    type SerializeTupleStruct = Sequence<'p>;
    type SerializeTupleVariant = Sequence<'p>;
    type SerializeMap = Fields<'p>;
    type SerializeStruct = Fields<'p>;
    type SerializeStructVariant = Fields<'p>;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, value: bool) -> Result<(), Fault> {
        self.head.put(|head| rmp::encode::write_bool(head, value))
    }

    #[inline]
    fn serialize_i8(self, value: i8) -> Result<(), Fault> {
        self.head.write_signed(value.into())
    }

    #[inline]
    fn serialize_i16(self, value: i16) -> Result<(), Fault> {
        self.head.write_signed(value.into())
    }

    #[inline]
    fn serialize_i32(self, value: i32) -> Result<(), Fault> {
        self.head.write_signed(value.into())
    }

    #[inline]
    fn serialize_i64(self, value: i64) -> Result<(), Fault> {
        self.head.write_signed(value)
    }

    fn serialize_i128(self, value: i128) -> Result<(), Fault> {
        self.head.write_extension(extension::I128, &value.to_le_bytes())
    }

    #[inline]
    fn serialize_u8(self, value: u8) -> Result<(), Fault> {
        self.head.write_unsigned(value.into())
    }

    #[inline]
    fn serialize_u16(self, value: u16) -> Result<(), Fault> {
        self.head.write_unsigned(value.into())
    }

    #[inline]
    fn serialize_u32(self, value: u32) -> Result<(), Fault> {
        if std::mem::take(&mut self.placeholder) {
            return self.head.write_extension(extension::INPUT, &value.to_le_bytes());
        }
        self.head.write_unsigned(value.into())
    }

    #[inline]
    fn serialize_u64(self, value: u64) -> Result<(), Fault> {
        self.head.write_unsigned(value)
    }

    fn serialize_u128(self, value: u128) -> Result<(), Fault> {
        self.head.write_extension(extension::U128, &value.to_le_bytes())
    }

    #[inline]
    fn serialize_f32(self, value: f32) -> Result<(), Fault> {
        self.head.put(|head| rmp::encode::write_f32(head, value))
    }

    #[inline]
    fn serialize_f64(self, value: f64) -> Result<(), Fault> {
        self.head.put(|head| rmp::encode::write_f64(head, value))
    }

    fn serialize_char(self, value: char) -> Result<(), Fault> {
        self.head.write_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Fault> {
        if value.len() >= OUT_OF_BAND_TEXT_BYTES_MIN {
            return self.write_buffer(ElementKind::Text, value.as_bytes());
        }
        self.head.write_str(value)
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Fault> {
        if value.len() >= OUT_OF_BAND_BYTES_MIN {
            return self.write_buffer(ElementKind::Bytes, value);
        }
        self.head.put(|head| rmp::encode::write_bin(head, value))
    }

    fn serialize_none(self) -> Result<(), Fault> {
        self.head.write_nil()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Fault> {
        self.enter()?;
        let (position, at) = (self.head.written, self.head.bytes.len());
        value.serialize(&mut *self)?;
        self.leave();
        if self.head.nil_at == Some(position) {
            self.head.claim(1)?;
            if self.head.output == Output::Built {
                self.head.bytes.insert(at, SOME_PREFIX);
            }
        }
        Ok(())
    }

    fn serialize_unit(self) -> Result<(), Fault> {
        self.head.write_nil()
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Fault> {
        self.head.write_nil()
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Result<(), Fault> {
        self.head.write_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        self.placeholder = name == PLACEHOLDER_NAME;
        self.enter()?;
        value.serialize(&mut *self)?;
        self.leave();
        Ok(())
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Fault> {
        self.enter()?;
        self.write_variant(variant)?;
        value.serialize(&mut *self)?;
        self.leave();
        Ok(())
    }

    fn serialize_seq(self, count: Option<usize>) -> Result<Sequence<'p>, Fault> {
        self.sequence(count, Mixed::No)
    }

    fn serialize_tuple(self, count: usize) -> Result<Sequence<'p>, Fault> {
        self.sequence(Some(count), Mixed::Possible)
    }

    fn serialize_tuple_struct(self, _name: &'static str, count: usize) -> Result<Sequence<'p>, Fault> {
        self.sequence(Some(count), Mixed::Possible)
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        count: usize,
    ) -> Result<Sequence<'p>, Fault> {
        self.write_variant(variant)?;
        self.sequence(Some(count), Mixed::Possible)
    }

    fn serialize_map(self, count: Option<usize>) -> Result<Fields<'p>, Fault> {
        self.fields(count, true)
    }

    fn serialize_struct(self, _name: &'static str, count: usize) -> Result<Fields<'p>, Fault> {
        let named = self.structs == StructForm::Map;
        self.fields(Some(count), named)
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _index: u32,
        variant: &'static str,
        count: usize,
    ) -> Result<Fields<'p>, Fault> {
        self.write_variant(variant)?;
        self.serialize_struct(name, count)
    }

    #[inline]
    fn collect_seq<I>(self, iterable: I) -> Result<(), Fault>
    where
        I: IntoIterator,
        <I as IntoIterator>::Item: Serialize,
    {
        if let Some((kind, memory)) = element::iterable_memory(&iterable)
            && memory.len() >= OUT_OF_BAND_BYTES_MIN
        {
            return self.write_buffer(kind, memory);
        }
        let mut items = iterable.into_iter();
        let announced = match items.size_hint() {
            (low, Some(high)) if low == high => Some(low),
            _ => None,
        };
        let mut sequence = self.sequence(announced, Mixed::No)?;
        items.try_for_each(|item| ser::SerializeSeq::serialize_element(&mut sequence, &item))?;
        sequence.finish()
    }
}

/// Whether the elements may be of different types.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mixed {
    No,
    Possible,
}

/// A sequence under way: inline msgpack, or raw numbers on their way out of band.
pub(super) struct Sequence<'p> {
    packer: &'p mut Packer,
    announced: Option<usize>,
    mixed: Mixed,
    count: usize,
    body: Body,
}

enum Body {
    Undecided,
    /// In the head; where the count is to be filled in, if it was not announced.
    Inline {
        counted_at: Option<usize>,
    },
    /// Copied element by element.
    Raw {
        kind: ElementKind,
        memory: AlignedBuffer,
    },
    /// Only the length matters, and it is known.
    Counted {
        kind: ElementKind,
    },
}

impl Sequence<'_> {
    #[inline]
    fn push<T: Serialize + ?Sized>(&mut self, element: &T) -> Result<(), Fault> {
        if let Some((kind, memory)) = element::element_memory(element) {
            if let Body::Raw { kind: expected, memory: collected } = &mut self.body
                && *expected == kind
            {
                collected.extend(memory);
                self.count += 1;
                return Ok(());
            }
            return self.push_number(kind, memory);
        }
        self.inline()?;
        self.count += 1;
        element.serialize(&mut *self.packer)
    }

    /// A number that is the first of its sequence, or that is not collected.
    fn push_number(&mut self, kind: ElementKind, memory: &[u8]) -> Result<(), Fault> {
        if matches!(self.body, Body::Undecided) {
            self.body = self.decide(kind)?;
        }
        self.count += 1;
        match &mut self.body {
            Body::Raw { kind: expected, memory: collected } if *expected == kind => collected.extend(memory),
            Body::Counted { kind: expected } if *expected == kind => (),
            _ => {
                self.count -= 1;
                self.inline()?;
                self.count += 1;
                return self.packer.head.write_number(kind, memory);
            }
        }
        Ok(())
    }

    /// The form of a sequence whose first element is a number of this kind.
    fn decide(&mut self, kind: ElementKind) -> Result<Body, Fault> {
        let Some(announced) = self.announced else {
            return Ok(Body::Raw { kind, memory: AlignedBuffer::with_capacity(0) });
        };
        let bytes = announced.saturating_mul(kind.size());
        if bytes < OUT_OF_BAND_BYTES_MIN {
            self.packer.head.write_array_len(announced)?;
            return Ok(Body::Inline { counted_at: None });
        }
        if self.mixed == Mixed::No {
            if self.packer.head.written.saturating_add(bytes) > self.packer.head.bytes_max {
                return Err(Fault::OverLimit);
            }
            if self.packer.head.output == Output::Counted {
                return Ok(Body::Counted { kind });
            }
        }
        Ok(Body::Raw { kind, memory: AlignedBuffer::with_capacity(bytes) })
    }

    /// Makes sure that the sequence is in the head, with everything collected so far.
    fn inline(&mut self) -> Result<(), Fault> {
        let head = &mut self.packer.head;
        match std::mem::replace(&mut self.body, Body::Inline { counted_at: None }) {
            Body::Inline { counted_at } => {
                self.body = Body::Inline { counted_at };
                return Ok(());
            }
            Body::Counted { kind } => {
                return Err(Fault::Message(format!(
                    "a sequence begins with {kind} and goes on with something else"
                )));
            }
            collected => {
                let counted_at = match self.announced {
                    Some(count) => head.write_array_len(count).map(|()| None)?,
                    None => {
                        let at = head.bytes.len();
                        head.put(|head| io::Write::write_all(head, &[0xdd, 0, 0, 0, 0]))?;
                        Some(at)
                    }
                };
                self.body = Body::Inline { counted_at };
                if let Body::Raw { kind, memory } = collected {
                    for element in memory.as_slice().chunks_exact(kind.size()) {
                        head.write_number(kind, element)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), Fault> {
        match std::mem::replace(&mut self.body, Body::Undecided) {
            Body::Undecided if self.announced.is_none() => self.packer.head.write_array_len(0)?,
            Body::Undecided => self.inline()?,
            Body::Raw { kind, memory }
                if memory.len() < OUT_OF_BAND_BYTES_MIN && self.announced.is_none() =>
            {
                self.packer.head.write_array_len(self.count)?;
                for element in memory.as_slice().chunks_exact(kind.size()) {
                    self.packer.head.write_number(kind, element)?;
                }
            }
            Body::Raw { kind, memory } => {
                self.packer.head.claim(memory.len())?;
                if self.packer.head.output == Output::Built {
                    self.packer.buffers.push(memory.freeze());
                }
                self.packer.write_buffer_marker(kind, self.count)?;
            }
            Body::Counted { kind } => {
                self.packer.head.claim(self.count * kind.size())?;
                self.packer.write_buffer_marker(kind, self.count)?;
            }
            Body::Inline { counted_at } => fill_in_count(&mut self.packer.head, counted_at, self.count)?,
        }
        self.packer.leave();
        check_count("sequence", self.announced, self.count)
    }
}

fn fill_in_count(head: &mut Head, counted_at: Option<usize>, count: usize) -> Result<(), Fault> {
    let Some(at) = counted_at else { return Ok(()) };
    let count = length_u32(count)?;
    if head.output == Output::Built {
        head.bytes[at + 1..at + 5].copy_from_slice(&count.to_be_bytes());
    }
    Ok(())
}

fn check_count(what: &str, announced: Option<usize>, count: usize) -> Result<(), Fault> {
    match announced {
        Some(announced) if announced != count => {
            Err(Fault::Message(format!("a {what} announces {announced} items and gives {count}")))
        }
        _ => Ok(()),
    }
}

/// A map or struct under way.
pub(super) struct Fields<'p> {
    packer: &'p mut Packer,
    announced: Option<usize>,
    named: bool,
    count: usize,
    /// Where the count is to be filled in, if it was not announced.
    counted_at: Option<usize>,
}

impl Fields<'_> {
    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Fault> {
        if self.named {
            self.packer.head.write_str(name)?;
        }
        self.count += 1;
        value.serialize(&mut *self.packer)
    }

    fn leave_out(&mut self) -> Result<(), Fault> {
        if self.named { Ok(()) } else { Err(Fault::FieldLeftOut) }
    }

    fn finish(self) -> Result<(), Fault> {
        fill_in_count(&mut self.packer.head, self.counted_at, self.count)?;
        self.packer.leave();
        check_count("map or struct", self.announced, self.count)
    }
}

macro_rules! sequence {
    ($($trait:ident :: $push:ident),*) => {
        $(
            impl ser::$trait for Sequence<'_> {
                type Ok = ();
                type Error = Fault;

                #[inline]
                fn $push<T: Serialize + ?Sized>(&mut self, element: &T) -> Result<(), Fault> {
                    self.push(element)
                }

                fn end(self) -> Result<(), Fault> {
                    self.finish()
                }
            }
        )*
    };
}

sequence!(
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);

macro_rules! structure {
    ($($trait:ident),*) => {
        $(
            impl ser::$trait for Fields<'_> {
                type Ok = ();
                type Error = Fault;

                fn serialize_field<T: Serialize + ?Sized>(
                    &mut self,
                    name: &'static str,
                    value: &T,
                ) -> Result<(), Fault> {
                    self.field(name, value)
                }

                fn skip_field(&mut self, _name: &'static str) -> Result<(), Fault> {
                    self.leave_out()
                }

                fn end(self) -> Result<(), Fault> {
                    self.finish()
                }
            }
        )*
    };
}

structure!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Fields<'_> {
    type Ok = ();
    type Error = Fault;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Fault> {
        self.count += 1;
        key.serialize(&mut *self.packer)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Fault> {
        value.serialize(&mut *self.packer)
    }

    fn end(self) -> Result<(), Fault> {
        self.finish()
    }
}
