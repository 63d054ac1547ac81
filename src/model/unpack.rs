//! Unpacking: a [`Packed`] in, any serde value out; bytes may come from anywhere and are believed nothing.
//!
//! Counts are checked against the bytes that are there before anything is allocated, every buffer is used
//! once and in order, nesting is limited, and nothing may be left over. A task argument may hold placeholders
//! of the task's inputs; decoding goes on in the input's own packed form there ([`InputForms`]).
//! The form is described in [`pack`](super::pack); sequences are in `unpack/sequence.rs`.

mod sequence;
#[cfg(test)]
mod tests;

use std::any::type_name;
use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use rmp::Marker;
use serde::de::{self, DeserializeOwned, Deserializer, Unexpected, Visitor};
use thiserror::Error;

use self::sequence::{Elements, MapEntries, SoleVariant, raw_elements};
use super::element::{self, ElementKind};
use super::pack::{DEPTH_MAX, SOME_PREFIX, extension};
use super::packed::{FlatForm, Packed};
use super::resident::Resident;

/// Bytes that are not a value of the type asked for.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("cannot unpack a value of type `{type_name}`: {reason}")]
pub struct UnpackError {
    /// The type that was asked for.
    pub type_name: &'static str,
    /// What does not fit.
    pub reason: String,
}

/// Unpacks a value.
///
/// # Errors
/// `UnpackError` if the bytes are damaged, or are those of a value of another shape.
pub fn unpack<T: DeserializeOwned + 'static>(packed: &Packed) -> Result<T, UnpackError> {
    let whole = || -> Result<T, Fault> {
        if let [buffer] = packed.buffers.as_slice() {
            let mut unpacker = Unpacker::new(Form::of(packed), None, 0);
            if let Some(raw) = unpacker.raw_marker()?
                && unpacker.at == packed.head.len()
                && let Some(value) = element::value_from(raw.kind, buffer)
            {
                return Ok(value);
            }
        }
        from_form(Form::of(packed), None)
    };
    whole().map_err(Fault::into_error::<T>)
}

/// Unpacks a task argument from its flat form; placeholders in it stand for inputs.
///
/// # Errors
/// As [`unpack`], and if an input is missing or cannot itself be packed or unpacked.
pub fn unpack_argument<T: DeserializeOwned>(flat: &[u8], inputs: &InputForms<'_>) -> Result<T, UnpackError> {
    let argument = || -> Result<T, Fault> {
        let flat = FlatForm::decode(flat).map_err(de::Error::custom)?;
        from_form(Form::of_flat(&flat), Some(inputs))
    };
    argument().map_err(Fault::into_error::<T>)
}

/// The elements of a list argument, each a placeholder's input or a value of its own.
///
/// # Errors
/// `UnpackError` if it is not a list, or if an element is not a `T`.
pub fn unpack_list<T: DeserializeOwned>(
    flat: &[u8],
    inputs: &InputForms<'_>,
) -> Result<Vec<ListElement<T>>, UnpackError> {
    let list = || -> Result<Vec<ListElement<T>>, Fault> {
        let flat = FlatForm::decode(flat).map_err(de::Error::custom)?;
        let mut unpacker = Unpacker::new(Form::of_flat(&flat), Some(inputs), 0);
        if unpacker.raw_marker()?.is_some() {
            let values: Vec<T> = from_form(Form::of_flat(&flat), Some(inputs))?;
            return Ok(values.into_iter().map(ListElement::Value).collect());
        }
        let marker = unpacker.marker()?;
        let Some(count) = unpacker.array_len(marker)? else {
            return Err(Fault(format!("a list is expected, and {} is there", name_of(marker))));
        };
        let mut elements = Vec::new();
        for _ in 0..count {
            elements.push(match unpacker.input_marker()? {
                Some(index) => ListElement::Input(index),
                None => ListElement::Value(T::deserialize(&mut unpacker)?),
            });
        }
        unpacker.finish()?;
        Ok(elements)
    };
    list().map_err(Fault::into_error::<Vec<T>>)
}

/// An element of a list argument.
#[derive(Debug, PartialEq, Eq)]
pub enum ListElement<T> {
    /// The input with this index.
    Input(u32),
    /// A value that is in the argument itself.
    Value(T),
}

/// The inputs of a task, and the packed forms made of them on demand.
pub struct InputForms<'a> {
    inputs: &'a [Arc<Resident>],
    packed: Box<[OnceCell<Packed>]>,
}

impl<'a> InputForms<'a> {
    /// Nothing is packed yet.
    pub fn new(inputs: &'a [Arc<Resident>]) -> Self {
        Self { inputs, packed: inputs.iter().map(|_| OnceCell::new()).collect() }
    }

    /// The inputs themselves.
    pub fn inputs(&self) -> &'a [Arc<Resident>] {
        self.inputs
    }

    fn packed(&self, index: u32) -> Result<&Packed, Fault> {
        let (Some(input), Some(cell)) = (self.inputs.get(index as usize), self.packed.get(index as usize))
        else {
            return Err(Fault(format!("input {index} is named, and there are {}", self.inputs.len())));
        };
        if let Some(packed) = cell.get() {
            return Ok(packed);
        }
        let packed = input.packed().map_err(|error| Fault(error.to_string()))?;
        Ok(cell.get_or_init(|| packed))
    }
}

fn from_form<T: DeserializeOwned>(form: Form<'_>, inputs: Option<&InputForms<'_>>) -> Result<T, Fault> {
    let mut unpacker = Unpacker::new(form, inputs, 0);
    let value = T::deserialize(&mut unpacker)?;
    unpacker.finish()?;
    Ok(value)
}

/// Why unpacking stopped.
#[derive(Debug)]
pub(super) struct Fault(String);

impl Fault {
    fn into_error<T: ?Sized>(self) -> UnpackError {
        UnpackError { type_name: type_name::<T>(), reason: self.0 }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<M: fmt::Display>(message: M) -> Self {
        Fault(message.to_string())
    }
}

/// Where the head and the buffers are.
#[derive(Clone, Copy)]
struct Form<'de> {
    head: &'de [u8],
    buffers: Buffers<'de>,
}

#[derive(Clone, Copy)]
enum Buffers<'de> {
    Shared(&'de [Bytes]),
    Flat(&'de [&'de [u8]]),
}

impl<'de> Form<'de> {
    fn of(packed: &'de Packed) -> Self {
        Self { head: &packed.head, buffers: Buffers::Shared(&packed.buffers) }
    }

    fn of_flat(flat: &'de FlatForm<'de>) -> Self {
        Self { head: flat.head, buffers: Buffers::Flat(&flat.buffers) }
    }
}

impl<'de> Buffers<'de> {
    fn len(self) -> usize {
        match self {
            Buffers::Shared(buffers) => buffers.len(),
            Buffers::Flat(buffers) => buffers.len(),
        }
    }

    fn get(self, index: usize) -> Option<&'de [u8]> {
        match self {
            Buffers::Shared(buffers) => buffers.get(index).map(|buffer| &**buffer),
            Buffers::Flat(buffers) => buffers.get(index).copied(),
        }
    }
}

/// What a marker says about a buffer, checked against the buffer.
#[derive(Clone, Copy)]
pub(super) struct Raw<'de> {
    kind: ElementKind,
    memory: &'de [u8],
}

/// The deserializer: a position in the head, and the buffers not used yet.
pub(super) struct Unpacker<'de> {
    head: &'de [u8],
    at: usize,
    buffers: Buffers<'de>,
    buffers_used: usize,
    inputs: Option<&'de InputForms<'de>>,
    depth: u32,
}

impl<'de> Unpacker<'de> {
    fn new(form: Form<'de>, inputs: Option<&'de InputForms<'de>>, depth: u32) -> Self {
        Self { head: form.head, at: 0, buffers: form.buffers, buffers_used: 0, inputs, depth }
    }

    /// Everything must have been used.
    fn finish(&self) -> Result<(), Fault> {
        if self.at < self.head.len() {
            return Err(Fault(format!("{} bytes are left over", self.head.len() - self.at)));
        }
        if self.buffers_used < self.buffers.len() {
            return Err(Fault(format!("{} buffers are left over", self.buffers.len() - self.buffers_used)));
        }
        Ok(())
    }

    fn remaining(&self) -> usize {
        self.head.len() - self.at
    }

    fn enter(&mut self) -> Result<(), Fault> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(Fault(format!("it nests deeper than {DEPTH_MAX} levels")));
        }
        Ok(())
    }

    fn leave(&mut self) {
        self.depth -= 1;
    }

    #[inline]
    fn peek(&self) -> Result<u8, Fault> {
        self.head.get(self.at).copied().ok_or_else(cut_off)
    }

    #[inline]
    fn marker(&mut self) -> Result<Marker, Fault> {
        let marker = Marker::from_u8(self.peek()?);
        self.at += 1;
        Ok(marker)
    }

    #[inline]
    fn take(&mut self, bytes: usize) -> Result<&'de [u8], Fault> {
        let rest = self.head.get(self.at..).unwrap_or_default();
        let taken = rest.get(..bytes).ok_or_else(cut_off)?;
        self.at += bytes;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.take(N)?.try_into().map_err(|_| cut_off())
    }

    fn length_8(&mut self) -> Result<usize, Fault> {
        self.array().map(|[byte]: [u8; 1]| byte as usize)
    }

    fn length_16(&mut self) -> Result<usize, Fault> {
        self.array().map(|bytes| u16::from_be_bytes(bytes) as usize)
    }

    fn length_32(&mut self) -> Result<usize, Fault> {
        self.array().map(|bytes| u32::from_be_bytes(bytes) as usize)
    }

    /// The count of an array whose marker was read; `None` if it is not an array.
    fn array_len(&mut self, marker: Marker) -> Result<Option<usize>, Fault> {
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
    fn map_len(&mut self, marker: Marker) -> Result<Option<usize>, Fault> {
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
    fn check_claim(&self, items: usize) -> Result<(), Fault> {
        if items > self.remaining() {
            return Err(Fault(format!(
                "{items} items are announced, and {} bytes are there",
                self.remaining()
            )));
        }
        Ok(())
    }

    /// The text of a string whose marker was read; `None` if it is not a string.
    fn text(&mut self, marker: Marker) -> Result<Option<&'de str>, Fault> {
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
    fn raw_marker(&mut self) -> Result<Option<Raw<'de>>, Fault> {
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

    /// The input whose placeholder is the next value, if it is one.
    #[inline]
    fn input_marker(&mut self) -> Result<Option<u32>, Fault> {
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
    fn input(&mut self) -> Result<Option<Unpacker<'de>>, Fault> {
        let Some(index) = self.input_marker()? else { return Ok(None) };
        let Some(inputs) = self.inputs else {
            return Err(Fault("it refers to a task's input, outside of a task's arguments".to_owned()));
        };
        // What is inside an input refers to no inputs: it is a result.
        Ok(Some(Unpacker::new(Form::of(inputs.packed(index)?), None, self.depth)))
    }

    fn any<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Fault> {
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
    fn number<V: Visitor<'de>>(&mut self, marker: Marker, visitor: V) -> Result<V::Value, Fault> {
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

    fn wide_integer<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Fault> {
        let [kind] = self.array()?;
        match kind as i8 {
            extension::I128 => visitor.visit_i128(i128::from_le_bytes(self.array()?)),
            extension::U128 => visitor.visit_u128(u128::from_le_bytes(self.array()?)),
            other => Err(Fault(format!("no value has the extension type {other}"))),
        }
    }

    fn some<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Fault> {
        if self.peek()? == SOME_PREFIX {
            self.at += 1;
        }
        self.enter()?;
        let value = visitor.visit_some(&mut *self)?;
        self.leave();
        Ok(value)
    }

    fn elements<V: Visitor<'de>>(&mut self, count: usize, visitor: V) -> Result<V::Value, Fault> {
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

    fn entries<V: Visitor<'de>>(&mut self, count: usize, visitor: V) -> Result<V::Value, Fault> {
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

    fn sequence<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Fault> {
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

    fn structure<V: Visitor<'de>>(
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

    fn raw_marker_is_next(&self) -> bool {
        matches!(self.head.get(self.at..), Some([0xc7, ..]))
    }

    fn variant<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Fault> {
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
fn name_of(marker: Marker) -> &'static str {
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

/// Goes on in an input's form at a placeholder, and at the next value otherwise.
macro_rules! follow {
    ($self:ident, $method:ident ( $($argument:expr),* )) => {
        if let Some(mut input) = $self.input()? {
            let value = (&mut input).$method($($argument),*)?;
            input.finish()?;
            return Ok(value);
        }
    };
}

macro_rules! forward_to_any {
    ($($method:ident)*) => {
        $(
            #[inline]
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
                self.deserialize_any(visitor)
            }
        )*
    };
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(
            #[inline]
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
                follow!(self, $method(visitor));
                let marker = self.marker()?;
                self.number(marker, visitor)
            }
        )*
    };
}

impl<'de> Deserializer<'de> for &mut Unpacker<'de> {
    type Error = Fault;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        follow!(self, deserialize_any(visitor));
        self.any(visitor)
    }

    forward_to_any! {
        deserialize_bool deserialize_i128 deserialize_u128 deserialize_char deserialize_str deserialize_string
        deserialize_unit deserialize_map deserialize_identifier deserialize_ignored_any
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_f64
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        follow!(self, deserialize_f32(visitor));
        match self.marker()? {
            Marker::F64 => Err(loses_precision()),
            marker => self.number(marker, visitor),
        }
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        follow!(self, deserialize_bytes(visitor));
        let at = self.at;
        match self.raw_marker()? {
            Some(Raw { kind: ElementKind::Bytes | ElementKind::U8, memory }) => {
                visitor.visit_borrowed_bytes(memory)
            }
            Some(_) => {
                self.at = at;
                self.buffers_used -= 1;
                self.any(visitor)
            }
            None => self.any(visitor),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        follow!(self, deserialize_option(visitor));
        if self.peek()? == Marker::Null.to_u8() {
            self.at += 1;
            return visitor.visit_none();
        }
        self.some(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        follow!(self, deserialize_newtype_struct(_name, visitor));
        self.enter()?;
        let value = visitor.visit_newtype_struct(&mut *self)?;
        self.leave();
        Ok(value)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        follow!(self, deserialize_seq(visitor));
        self.sequence(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _count: usize, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _count: usize,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        follow!(self, deserialize_struct(name, fields, visitor));
        self.structure(name, fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        follow!(self, deserialize_enum(name, variants, visitor));
        self.variant(visitor)
    }
}

pub(super) fn loses_precision() -> Fault {
    Fault("an f64 arrived where an f32 is expected".to_owned())
}
