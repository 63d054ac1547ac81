//! The serializer: each serde call is a piece of the head, or a buffer.

use bytes::Bytes;
use rmp::Marker;
use serde::ser::{self, Serialize};

use super::head::{Counted, Head, Output};
use super::parts::{Fields, Mixed, Sequence};
use super::{
    DEPTH_MAX, Fault, OUT_OF_BAND_BYTES_MIN, OUT_OF_BAND_TEXT_BYTES_MIN, PLACEHOLDER_NAME, SOME_PREFIX,
    extension,
};
use crate::model::buffer::AlignedBuffer;
use crate::model::element::{self, ElementKind};
use crate::model::numbers::{Memory, NUMBERS_NAME};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StructForm {
    Array,
    Map,
}

/// The serializer.
pub(in super::super) struct Packer {
    pub(super) head: Head,
    pub(super) buffers: Vec<Bytes>,
    buffer_count: u32,
    depth: u32,
    structs: StructForm,
    /// The next integer is the index of an input.
    placeholder: bool,
}

impl Packer {
    pub(super) fn new(bytes: Vec<u8>, bytes_max: usize, output: Output, structs: StructForm) -> Self {
        let head = Head { bytes, written: 0, bytes_max, counted: Counted::All, output, nil_at: None };
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
    pub(super) fn leave(&mut self) {
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

    /// Puts the memory of numbers out of band as it is.
    fn share_buffer(&mut self, numbers: &Memory) -> Result<(), Fault> {
        if self.head.counted == Counted::All {
            self.head.claim(numbers.bytes.len())?;
        }
        if self.head.output == Output::Built {
            self.buffers.push(numbers.bytes.clone());
        }
        self.write_buffer_marker(numbers.dtype.kind(), numbers.bytes.len() / numbers.dtype.size())
    }

    pub(super) fn write_buffer_marker(&mut self, kind: ElementKind, count: usize) -> Result<(), Fault> {
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
        Ok(Sequence::new(self, announced, mixed))
    }

    fn fields(&mut self, announced: Option<usize>, named: bool) -> Result<Fields<'_>, Fault> {
        self.enter()?;
        let counted_at = match announced {
            Some(count) if named => self.head.write_map_len(count).map(|()| None)?,
            Some(count) => self.head.write_array_len(count).map(|()| None)?,
            None => self.head.begin_uncounted(Marker::Map32)?,
        };
        Ok(Fields::new(self, announced, named, counted_at))
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
        if name == NUMBERS_NAME
            && let Some(numbers) = element::known_as::<T, Memory>(value)
            && numbers.bytes.len() >= OUT_OF_BAND_BYTES_MIN
        {
            return self.share_buffer(numbers);
        }
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
