//! The deserializer: what serde asks for, looked up where the reader stands, or in an input's own form.

use rmp::Marker;
use serde::de::{Deserializer, Visitor};

use super::Fault;
use super::reader::{Raw, Unpacker};
use crate::model::element::{self, ElementKind};
use crate::model::numbers::NUMBERS_NAME;

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
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        follow!(self, deserialize_newtype_struct(name, visitor));
        if name == NUMBERS_NAME
            && self.raw_marker_is_next()
            && let Some(memory) = element::made_as(|| self.shared_numbers())
        {
            return memory;
        }
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
