//! The parts of a value that have parts: sequences, which may turn out to be numbers, maps and structs.

use rmp::Marker;
use serde::ser::{self, Serialize};

use super::head::Output;
use super::serializer::Packer;
use super::{Fault, OUT_OF_BAND_BYTES_MIN};
use crate::model::buffer::AlignedBuffer;
use crate::model::element::{self, ElementKind};

/// Whether the elements may be of different types.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mixed {
    No,
    Possible,
}

/// A sequence under way: inline msgpack, or raw numbers on their way out of band.
pub(in super::super) struct Sequence<'p> {
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

impl<'p> Sequence<'p> {
    pub(super) fn new(packer: &'p mut Packer, announced: Option<usize>, mixed: Mixed) -> Self {
        Self { packer, announced, mixed, count: 0, body: Body::Undecided }
    }

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
                    None => head.begin_uncounted(Marker::Array32)?,
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

    pub(super) fn finish(mut self) -> Result<(), Fault> {
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
            Body::Inline { counted_at } => self.packer.head.fill_in_count(counted_at, self.count)?,
        }
        self.packer.leave();
        check_count("sequence", self.announced, self.count)
    }
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
pub(in super::super) struct Fields<'p> {
    packer: &'p mut Packer,
    announced: Option<usize>,
    named: bool,
    count: usize,
    /// Where the count is to be filled in, if it was not announced.
    counted_at: Option<usize>,
}

impl<'p> Fields<'p> {
    pub(super) fn new(
        packer: &'p mut Packer,
        announced: Option<usize>,
        named: bool,
        counted_at: Option<usize>,
    ) -> Self {
        Self { packer, announced, named, count: 0, counted_at }
    }

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
        self.packer.head.fill_in_count(self.counted_at, self.count)?;
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
