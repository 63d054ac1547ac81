//! The reader behind the deserializer: a position in the head, the buffers not used yet, and every check of what is
//! claimed.

use bytes::Bytes;
use rmp::Marker;
use serde::de::{self, Unexpected, Visitor};

use super::sequence::{Elements, MapEntries, SoleVariant, raw_elements};
use super::{Fault, InputForms};
use crate::model::Packed;
use crate::model::buffer::AlignedBuffer;
use crate::model::element::ElementKind;
use crate::model::numbers::{Dtype, Memory};
use crate::model::pack::{DEPTH_MAX, SOME_PREFIX, extension};
use crate::model::packed::FlatForm;

/// Where the head and the buffers are.
#[derive(Clone, Copy)]
pub(super) struct Form<'de> {
    head: &'de [u8],
    buffers: Buffers<'de>,
}

#[derive(Clone, Copy)]
pub(super) enum Buffers<'de> {
    Shared(&'de [Bytes]),
    Flat(&'de [&'de [u8]]),
}

impl<'de> Form<'de> {
    pub(super) fn of(packed: &'de Packed) -> Self {
        Self { head: &packed.head, buffers: Buffers::Shared(&packed.buffers) }
    }

    pub(super) fn of_flat(flat: &'de FlatForm<'de>) -> Self {
        Self { head: flat.head, buffers: Buffers::Flat(&flat.buffers) }
    }
}

impl<'de> Buffers<'de> {
    pub(super) fn len(self) -> usize {
        match self {
            Buffers::Shared(buffers) => buffers.len(),
            Buffers::Flat(buffers) => buffers.len(),
        }
    }

    /// A buffer as it is, or a copy if it lies in a flat form.
    pub(super) fn share(self, index: usize) -> Option<Bytes> {
        match self {
            Buffers::Shared(buffers) => buffers.get(index).cloned(),
            Buffers::Flat(buffers) => {
                let mut copy = AlignedBuffer::with_capacity(buffers.get(index)?.len());
                copy.extend(buffers.get(index)?);
                Some(copy.freeze())
            }
        }
    }

    pub(super) fn get(self, index: usize) -> Option<&'de [u8]> {
        match self {
            Buffers::Shared(buffers) => buffers.get(index).map(|buffer| &**buffer),
            Buffers::Flat(buffers) => buffers.get(index).copied(),
        }
    }
}

/// What a marker says about a buffer, checked against the buffer.
#[derive(Clone, Copy)]
pub(super) struct Raw<'de> {
    pub(super) kind: ElementKind,
    pub(super) memory: &'de [u8],
}

/// The deserializer: a position in the head, and the buffers not used yet.
pub(super) struct Unpacker<'de> {
    head: &'de [u8],
    pub(super) at: usize,
    buffers: Buffers<'de>,
    pub(super) buffers_used: usize,
    inputs: Option<&'de InputForms<'de>>,
    depth: u32,
}

impl<'de> Unpacker<'de> {
    pub(super) fn new(form: Form<'de>, inputs: Option<&'de InputForms<'de>>, depth: u32) -> Self {
        Self { head: form.head, at: 0, buffers: form.buffers, buffers_used: 0, inputs, depth }
    }

    /// Everything must have been used.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        if self.at < self.head.len() {
            return Err(Fault(format!("{} bytes are left over", self.head.len() - self.at)));
        }
        if self.buffers_used < self.buffers.len() {
            return Err(Fault(format!("{} buffers are left over", self.buffers.len() - self.buffers_used)));
        }
        Ok(())
    }

    pub(super) fn remaining(&self) -> usize {
        self.head.len() - self.at
    }

    pub(super) fn enter(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Fault(format!("it nests deeper than {DEPTH_MAX} levels")));
        }
        Ok(())
    }

    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }

    #[inline]
    pub(super) fn peek(&self) -> Result<u8, Fault> {
        self.head.get(self.at).copied().ok_or_else(cut_off)
    }

    #[inline]
    pub(super) fn marker(&mut self) -> Result<Marker, Fault> {
        let marker = Marker::from_u8(self.peek()?);
        self.at += 1;
        Ok(marker)
    }

    #[inline]
    pub(super) fn take(&mut self, bytes: usize) -> Result<&'de [u8], Fault> {
        let rest = self.head.get(self.at..).unwrap_or_default();
        let taken = rest.get(..bytes).ok_or_else(cut_off)?;
        self.at += bytes;
        Ok(taken)
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.take(N)?.try_into().map_err(|_| cut_off())
    }

    pub(super) fn length_8(&mut self) -> Result<usize, Fault> {
        self.array().map(|[byte]: [u8; 1]| byte as usize)
    }

    pub(super) fn length_16(&mut self) -> Result<usize, Fault> {
        self.array().map(|bytes| u16::from_be_bytes(bytes) as usize)
    }

    pub(super) fn length_32(&mut self) -> Result<usize, Fault> {
        self.array().map(|bytes| u32::from_be_bytes(bytes) as usize)
    }

    /// The count of an array whose marker was read; `None` if it is not an array.
    pub(super) fn array_len(&mut self, marker: Marker) -> Result<Option<usize>, Fault> {
        let count = match marker {
            Marker::FixArray(count) => count as usize,
            Marker::Array16 => self.length_16()?,
            Marker::Array32 => self.length_32()?,
            _ => return Ok(None),
        };
        self.check_claim(count)?;
        Ok(Some(count))
    }

    /// The number of entries of a map whose marker was read; `None` if it is not a map.
    pub(super) fn map_len(&mut self, marker: Marker) -> Result<Option<usize>, Fault> {
        let count = match marker {
            Marker::FixMap(count) => count as usize,
            Marker::Map16 => self.length_16()?,
            Marker::Map32 => self.length_32()?,
            _ => return Ok(None),
        };
        self.check_claim(count.saturating_mul(2))?;
        Ok(Some(count))
    }

    /// Each item takes a byte at least.
    pub(super) fn check_claim(&self, items: usize) -> Result<(), Fault> {
        if items > self.remaining() {
            return Err(Fault(format!(
                "{items} items are announced, and {} bytes are there",
                self.remaining()
            )));
        }
        Ok(())
    }

    /// The text of a string whose marker was read; `None` if it is not a string.
    pub(super) fn text(&mut self, marker: Marker) -> Result<Option<&'de str>, Fault> {
        let bytes = match marker {
            Marker::FixStr(length) => length as usize,
            Marker::Str8 => self.length_8()?,
            Marker::Str16 => self.length_16()?,
            Marker::Str32 => self.length_32()?,
            _ => return Ok(None),
        };
        utf8(self.take(bytes)?).map(Some)
    }

    /// The next value's buffer, if the next value is out of band.
    #[inline]
    pub(super) fn raw_marker(&mut self) -> Result<Option<Raw<'de>>, Fault> {
        let rest = self.head.get(self.at..).unwrap_or_default();
        let [0xc7, length, kind, ..] = rest else { return Ok(None) };
        if *kind as i8 != extension::BUFFER {
            return Ok(None);
        }
        if u32::from(*length) != extension::BUFFER_BYTES {
            return Err(Fault(format!("a buffer's marker has {length} bytes")));
        }
        self.at += 3;
        let [code] = self.array()?;
        let index = u32::from_le_bytes(self.array()?) as usize;
        let count = u64::from_le_bytes(self.array()?);
        let kind =
            ElementKind::from_code(code).ok_or_else(|| Fault(format!("no element type has code {code}")))?;
        if index != self.buffers_used {
            return Err(Fault(format!("buffer {index} is named where buffer {} is due", self.buffers_used)));
        }
        let Some(buffer) = self.buffers.get(index) else {
            return Err(Fault(format!("buffer {index} is named, and there are {}", self.buffers.len())));
        };
        self.buffers_used += 1;
        if count.checked_mul(kind.size() as u64) != Some(buffer.len() as u64) {
            let bytes = buffer.len();
            return Err(Fault(format!(
                "{count} elements of type {kind} are announced in a buffer of {bytes} bytes"
            )));
        }
        Ok(Some(Raw { kind, memory: buffer }))
    }

    /// The next value's buffer as the memory of numbers, shared.
    pub(super) fn shared_numbers(&mut self) -> Result<Memory, Fault> {
        let index = self.buffers_used;
        let Some(raw) = self.raw_marker()? else { return Err(Fault("no numbers are there".to_owned())) };
        let Some(dtype) = Dtype::of_kind(raw.kind) else {
            return Err(Fault(format!(
                "elements of type {} are there, of which no blocks are made",
                raw.kind
            )));
        };
        let bytes = self.buffers.share(index).ok_or_else(cut_off)?;
        Memory::checked(dtype, bytes).map_err(Fault)
    }

    /// The input whose placeholder is the next value, if it is one.
    #[inline]
    pub(super) fn input_marker(&mut self) -> Result<Option<u32>, Fault> {
        let rest = self.head.get(self.at..).unwrap_or_default();
        let [0xd6, kind, ..] = rest else { return Ok(None) };
        if *kind as i8 != extension::INPUT {
            return Ok(None);
        }
        self.at += 2;
        let index = u32::from_le_bytes(self.array()?);
        Ok(Some(index))
    }

    /// The form in which to go on, if the next value is an input's placeholder.
    #[inline]
    pub(super) fn input(&mut self) -> Result<Option<Unpacker<'de>>, Fault> {
        let Some(index) = self.input_marker()? else { return Ok(None) };
        let Some(inputs) = self.inputs else {
            return Err(Fault("it refers to a task's input, outside of a task's arguments".to_owned()));
        };
        // What is inside an input refers to no inputs: it is a result.
        Ok(Some(Unpacker::new(Form::of(inputs.packed(index)?), None, self.depth)))
    }

    pub(super) fn any<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Fault> {
        if let Some(raw) = self.raw_marker()? {
            return match raw.kind {
                ElementKind::Bytes => visitor.visit_borrowed_bytes(raw.memory),
                ElementKind::Text => visitor.visit_borrowed_str(utf8(raw.memory)?),
                _ => raw_elements(raw, visitor),
            };
        }
        if self.peek()? == SOME_PREFIX {
            return self.some(visitor);
        }
        let marker = self.marker()?;
        if let Some(text) = self.text(marker)? {
            return visitor.visit_borrowed_str(text);
        }
        if let Some(count) = self.array_len(marker)? {
            return self.elements(count, visitor);
        }
        if let Some(count) = self.map_len(marker)? {
            return self.entries(count, visitor);
        }
        match marker {
            Marker::Null => visitor.visit_unit(),
            Marker::True => visitor.visit_bool(true),
            Marker::False => visitor.visit_bool(false),
            Marker::Bin8 => self
                .length_8()
                .and_then(|length| self.take(length))
                .and_then(|b| visitor.visit_borrowed_bytes(b)),
            Marker::Bin16 => self
                .length_16()
                .and_then(|length| self.take(length))
                .and_then(|b| visitor.visit_borrowed_bytes(b)),
            Marker::Bin32 => self
                .length_32()
                .and_then(|length| self.take(length))
                .and_then(|b| visitor.visit_borrowed_bytes(b)),
            Marker::FixExt16 => self.wide_integer(visitor),
            marker => self.number(marker, visitor),
        }
    }

    #[inline]
    pub(super) fn number<V: Visitor<'de>>(&mut self, marker: Marker, visitor: V) -> Result<V::Value, Fault> {
        match marker {
            Marker::FixPos(value) => visitor.visit_u64(value.into()),
            Marker::FixNeg(value) => visitor.visit_i64(value.into()),
            Marker::U8 => visitor.visit_u64(u8::from_be_bytes(self.array()?).into()),
            Marker::U16 => visitor.visit_u64(u16::from_be_bytes(self.array()?).into()),
            Marker::U32 => visitor.visit_u64(u32::from_be_bytes(self.array()?).into()),
            Marker::U64 => visitor.visit_u64(u64::from_be_bytes(self.array()?)),
            Marker::I8 => visitor.visit_i64(i8::from_be_bytes(self.array()?).into()),
            Marker::I16 => visitor.visit_i64(i16::from_be_bytes(self.array()?).into()),
            Marker::I32 => visitor.visit_i64(i32::from_be_bytes(self.array()?).into()),
            Marker::I64 => visitor.visit_i64(i64::from_be_bytes(self.array()?)),
            Marker::F32 => visitor.visit_f32(f32::from_be_bytes(self.array()?)),
            Marker::F64 => visitor.visit_f64(f64::from_be_bytes(self.array()?)),
            other => Err(de::Error::invalid_type(Unexpected::Other(name_of(other)), &visitor)),
        }
    }

    pub(super) fn wide_integer<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Fault> {
        let [kind] = self.array()?;
        match kind as i8 {
            extension::I128 => visitor.visit_i128(i128::from_le_bytes(self.array()?)),
            extension::U128 => visitor.visit_u128(u128::from_le_bytes(self.array()?)),
            other => Err(Fault(format!("no value has the extension type {other}"))),
        }
    }

    pub(super) fn some<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Fault> {
        if self.peek()? == SOME_PREFIX {
            self.at += 1;
        }
        self.enter()?;
        let value = visitor.visit_some(&mut *self)?;
        self.leave();
        Ok(value)
    }

    pub(super) fn elements<V: Visitor<'de>>(&mut self, count: usize, visitor: V) -> Result<V::Value, Fault> {
        self.enter()?;
        let mut elements = Elements { unpacker: self, remaining: count };
        let value = visitor.visit_seq(&mut elements)?;
        let remaining = elements.remaining;
        self.leave();
        if remaining > 0 {
            let taken = count - remaining;
            return Err(Fault(format!("{count} elements arrived where {taken} are expected")));
        }
        Ok(value)
    }

    pub(super) fn entries<V: Visitor<'de>>(&mut self, count: usize, visitor: V) -> Result<V::Value, Fault> {
        self.enter()?;
        let mut entries = MapEntries { unpacker: self, remaining: count };
        let value = visitor.visit_map(&mut entries)?;
        let remaining = entries.remaining;
        self.leave();
        if remaining > 0 {
            return Err(Fault(format!("{remaining} of {count} map entries are left over")));
        }
        Ok(value)
    }

    pub(super) fn sequence<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Fault> {
        if let Some(raw) = self.raw_marker()? {
            return match raw.kind {
                ElementKind::Text => Err(de::Error::invalid_type(Unexpected::Other("text"), &visitor)),
                _ => raw_elements(raw, visitor),
            };
        }
        let marker = self.marker()?;
        if let Some(count) = self.array_len(marker)? {
            return self.elements(count, visitor);
        }
        let bytes = match marker {
            Marker::Bin8 => self.length_8()?,
            Marker::Bin16 => self.length_16()?,
            Marker::Bin32 => self.length_32()?,
            other => return Err(de::Error::invalid_type(Unexpected::Other(name_of(other)), &visitor)),
        };
        raw_elements(Raw { kind: ElementKind::Bytes, memory: self.take(bytes)? }, visitor)
    }

    pub(super) fn structure<V: Visitor<'de>>(
        &mut self,
        name: &str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        if self.raw_marker_is_next() {
            return self.sequence(visitor);
        }
        let marker = self.marker()?;
        if let Some(count) = self.map_len(marker)? {
            return self.entries(count, visitor);
        }
        let Some(count) = self.array_len(marker)? else {
            return Err(de::Error::invalid_type(Unexpected::Other(name_of(marker)), &visitor));
        };
        self.enter()?;
        let mut elements = Elements { unpacker: self, remaining: count };
        let value = visitor.visit_seq(&mut elements)?;
        let remaining = elements.remaining;
        self.leave();
        if remaining > 0 {
            let (taken, fields) = (count - remaining, fields.join(", "));
            return Err(Fault(format!(
                "struct `{name}` arrived with {count} fields and has {taken} here ({fields}); \
                 sender and receiver were built from different sources"
            )));
        }
        Ok(value)
    }

    pub(super) fn raw_marker_is_next(&self) -> bool {
        matches!(self.head.get(self.at..), Some([0xc7, ..]))
    }

    pub(super) fn variant<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Fault> {
        let marker = self.marker()?;
        if let Some(text) = self.text(marker)? {
            return visitor.visit_enum(de::value::BorrowedStrDeserializer::new(text));
        }
        match self.map_len(marker)? {
            Some(1) => {
                self.enter()?;
                let value = visitor.visit_enum(SoleVariant { unpacker: self })?;
                self.leave();
                Ok(value)
            }
            Some(count) => Err(Fault(format!("an enum variant is a map of 1 entry, and {count} are there"))),
            None => Err(de::Error::invalid_type(Unexpected::Other(name_of(marker)), &visitor)),
        }
    }
}

#[cold]
fn cut_off() -> Fault {
    Fault("the bytes end too early".to_owned())
}

fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|error| Fault(format!("a text is not UTF-8: {error}")))
}

/// What people call a value with this marker.
pub(super) fn name_of(marker: Marker) -> &'static str {
    match marker {
        Marker::Null => "nothing (unit or `None`)",
        Marker::True | Marker::False => "a boolean",
        Marker::FixPos(_) | Marker::FixNeg(_) => "an integer",
        Marker::U8 | Marker::U16 | Marker::U32 | Marker::U64 => "an integer",
        Marker::I8 | Marker::I16 | Marker::I32 | Marker::I64 => "an integer",
        Marker::F32 => "an f32",
        Marker::F64 => "an f64",
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => "text",
        Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => "bytes",
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => "a sequence or struct",
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => "a map or enum variant",
        Marker::Ext8 => "a sequence of numbers",
        Marker::FixExt16 => "a 128-bit integer",
        Marker::FixExt4 => "a future",
        _ => "an unknown marker",
    }
}
