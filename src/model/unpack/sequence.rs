//! The parts of a value that have parts: inline sequences, maps and enum variants, and raw numbers.
//!
//! Each is what serde calls an access; [`Unpacker`] makes them and checks what they leave.

use serde::de::{self, DeserializeSeed, Deserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::Fault;
use super::deserializer::loses_precision;
use super::reader::{Raw, Unpacker};
use crate::model::element::ElementKind;

/// The elements of an inline sequence.
pub(super) struct Elements<'u, 'de> {
    pub(super) unpacker: &'u mut Unpacker<'de>,
    pub(super) remaining: usize,
}

impl<'de> de::SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Fault;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        if self.remaining == 0 {
            return Ok(None);
        }
        self.remaining -= 1;
        seed.deserialize(&mut *self.unpacker).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.remaining)
    }
}

/// The entries of a map, or the named fields of a struct.
pub(super) struct MapEntries<'u, 'de> {
    pub(super) unpacker: &'u mut Unpacker<'de>,
    pub(super) remaining: usize,
}

impl<'de> de::MapAccess<'de> for MapEntries<'_, 'de> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        if self.remaining == 0 {
            return Ok(None);
        }
        self.remaining -= 1;
        seed.deserialize(&mut *self.unpacker).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        seed.deserialize(&mut *self.unpacker)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.remaining)
    }
}

/// The only entry of a map that stands for an enum variant with content.
pub(super) struct SoleVariant<'u, 'de> {
    pub(super) unpacker: &'u mut Unpacker<'de>,
}

impl<'de> de::EnumAccess<'de> for SoleVariant<'_, 'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Fault> {
        let variant = seed.deserialize(&mut *self.unpacker)?;
        Ok((variant, self))
    }
}

impl<'de> de::VariantAccess<'de> for SoleVariant<'_, 'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        de::Deserialize::deserialize(&mut *self.unpacker)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Fault> {
        seed.deserialize(&mut *self.unpacker)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _count: usize, visitor: V) -> Result<V::Value, Fault> {
        self.unpacker.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.unpacker.deserialize_struct("enum variant", fields, visitor)
    }
}

/// Visits the numbers of a buffer one by one.
pub(super) fn raw_elements<'de, V: Visitor<'de>>(raw: Raw<'de>, visitor: V) -> Result<V::Value, Fault> {
    macro_rules! visit {
        ($number:ty, $size:literal) => {{
            let (chunks, _) = raw.memory.as_chunks::<$size>();
            let mut numbers = Numbers { numbers: chunks.iter(), read: <$number>::from_le_bytes };
            let value = visitor.visit_seq(&mut numbers)?;
            let (count, left) = (chunks.len(), numbers.numbers.len());
            if left > 0 {
                let taken = count - left;
                return Err(Fault(format!("{count} elements arrived where {taken} are expected")));
            }
            Ok(value)
        }};
    }
    match raw.kind {
        ElementKind::Bytes | ElementKind::Text | ElementKind::U8 => visit!(u8, 1),
        ElementKind::U16 => visit!(u16, 2),
        ElementKind::U32 => visit!(u32, 4),
        ElementKind::U64 => visit!(u64, 8),
        ElementKind::I8 => visit!(i8, 1),
        ElementKind::I16 => visit!(i16, 2),
        ElementKind::I32 => visit!(i32, 4),
        ElementKind::I64 => visit!(i64, 8),
        ElementKind::F32 => visit!(f32, 4),
        ElementKind::F64 => visit!(f64, 8),
        ElementKind::Bool => visit!(Flag, 1),
        ElementKind::Complex64 => visit!(Pair, 16),
    }
}

/// The numbers of a buffer that are still to be visited.
struct Numbers<'de, N, const SIZE: usize> {
    numbers: std::slice::Iter<'de, [u8; SIZE]>,
    read: fn([u8; SIZE]) -> N,
}

impl<'de, N: Element, const SIZE: usize> de::SeqAccess<'de> for Numbers<'de, N, SIZE> {
    type Error = Fault;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Fault> {
        match self.numbers.next() {
            Some(memory) => seed.deserialize(Number((self.read)(*memory))).map(Some),
            None => Ok(None),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.numbers.len())
    }
}

/// One number that is no longer in its buffer.
struct Number<N>(N);

/// A number that visitors know.
trait Element: Copy {
    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault>;

    /// Visits where an `f32` is wanted.
    fn visit_as_f32<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.visit(visitor)
    }
}

macro_rules! elements {
    ($($number:ty => $visit:ident),*) => {
        $(
            impl Element for $number {
                #[inline]
                fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
                    visitor.$visit(self)
                }
            }
        )*
    };
}

elements!(
    u8 => visit_u8, u16 => visit_u16, u32 => visit_u32, u64 => visit_u64, i8 => visit_i8, i16 => visit_i16,
    i32 => visit_i32, i64 => visit_i64, f32 => visit_f32
);

/// A `bool`, if it is 0 or 1.
#[derive(Clone, Copy)]
struct Flag(u8);

impl Flag {
    fn from_le_bytes([byte]: [u8; 1]) -> Self {
        Self(byte)
    }
}

impl Element for Flag {
    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.0 {
            0 | 1 => visitor.visit_bool(self.0 == 1),
            other => Err(Fault(format!("a bool is 0 or 1, and {other} is there"))),
        }
    }
}

/// A complex number.
#[derive(Clone, Copy)]
struct Pair([f64; 2]);

impl Pair {
    fn from_le_bytes(memory: [u8; 16]) -> Self {
        let wide = u128::from_le_bytes(memory);
        Self([wide as u64, (wide >> 64) as u64].map(f64::from_bits))
    }
}

impl Element for Pair {
    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_seq(de::value::SeqDeserializer::new(self.0.into_iter()))
    }
}

impl Element for f64 {
    #[inline]
    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_f64(self)
    }

    fn visit_as_f32<'de, V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Fault> {
        Err(loses_precision())
    }
}

impl<'de, N: Element> Deserializer<'de> for Number<N> {
    type Error = Fault;

    fn is_human_readable(&self) -> bool {
        false
    }

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.0.visit(visitor)
    }

    #[inline]
    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.0.visit_as_f32(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct map struct enum identifier ignored_any
    }
}
