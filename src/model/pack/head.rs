//! The msgpack head of a packed value: written, or only measured.

use std::io;

use rmp::Marker;

use super::{Fault, extension};
use crate::model::element::ElementKind;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    Built,
    Counted,
}

/// What the limit of a packed value is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Counted {
    /// All bytes.
    All,
    /// Those that are written: not the memory that is shared.
    Written,
}

/// The msgpack head under construction, or only its length.
pub(super) struct Head {
    pub(super) bytes: Vec<u8>,
    /// Bytes of head and buffers so far.
    pub(super) written: usize,
    pub(super) bytes_max: usize,
    pub(super) counted: Counted,
    pub(super) output: Output,
    /// Where the last nil, or the last [`SOME_PREFIX`], was written; to find a `Some` that looks like `None`.
    pub(super) nil_at: Option<usize>,
}

impl Head {
    #[inline]
    pub(super) fn claim(&mut self, bytes: usize) -> Result<(), Fault> {
        self.written = self.written.saturating_add(bytes);
        if self.written > self.bytes_max { Err(Fault::OverLimit) } else { Ok(()) }
    }

    /// Writes with one of rmp's functions; these fail only because [`Head::write_all`] does.
    #[inline]
    pub(super) fn put<E>(&mut self, write: impl FnOnce(&mut Self) -> Result<(), E>) -> Result<(), Fault> {
        write(self).map_err(|_| Fault::OverLimit)
    }

    pub(super) fn write_nil(&mut self) -> Result<(), Fault> {
        self.nil_at = Some(self.written);
        self.put(rmp::encode::write_nil)
    }

    pub(super) fn write_array_len(&mut self, count: usize) -> Result<(), Fault> {
        let count = length_u32(count)?;
        self.put(|head| rmp::encode::write_array_len(head, count).map(drop))
    }

    pub(super) fn write_map_len(&mut self, count: usize) -> Result<(), Fault> {
        let count = length_u32(count)?;
        self.put(|head| rmp::encode::write_map_len(head, count).map(drop))
    }

    pub(super) fn write_str(&mut self, text: &str) -> Result<(), Fault> {
        length_u32(text.len())?;
        self.put(|head| rmp::encode::write_str(head, text))
    }

    pub(super) fn write_extension(&mut self, kind: i8, content: &[u8]) -> Result<(), Fault> {
        self.put(|head| rmp::encode::write_ext_meta(head, content.len() as u32, kind).map(drop))?;
        self.put(|head| io::Write::write_all(head, content))
    }

    pub(super) fn write_marker(&mut self, kind: ElementKind, index: u32, count: u64) -> Result<(), Fault> {
        let mut content = [0; extension::BUFFER_BYTES as usize];
        content[0] = kind as u8;
        content[1..5].copy_from_slice(&index.to_le_bytes());
        content[5..].copy_from_slice(&count.to_le_bytes());
        self.write_extension(extension::BUFFER, &content)
    }

    /// Writes a number whose memory is `memory`.
    pub(super) fn write_number(&mut self, kind: ElementKind, memory: &[u8]) -> Result<(), Fault> {
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
            ElementKind::Bool => {
                let value = read!(u8) != 0;
                self.put(|head| rmp::encode::write_bool(head, value))
            }
            ElementKind::Complex64 => {
                let Some((real, imaginary)) = memory.split_at_checked(8) else {
                    return Err(bad_length(kind, memory));
                };
                self.write_array_len(2)?;
                self.write_number(ElementKind::F64, real)?;
                self.write_number(ElementKind::F64, imaginary)
            }
        }
    }

    #[inline]
    pub(super) fn write_unsigned(&mut self, value: u64) -> Result<(), Fault> {
        self.put(|head| rmp::encode::write_uint(head, value).map(drop))
    }

    #[inline]
    pub(super) fn write_signed(&mut self, value: i64) -> Result<(), Fault> {
        self.put(|head| rmp::encode::write_sint(head, value).map(drop))
    }

    /// Fills in the count of an array or map that was begun without one.
    pub(super) fn fill_in_count(&mut self, counted_at: Option<usize>, count: usize) -> Result<(), Fault> {
        let Some(at) = counted_at else { return Ok(()) };
        let count = length_u32(count)?;
        if self.output == Output::Built {
            self.bytes[at + 1..at + 5].copy_from_slice(&count.to_be_bytes());
        }
        Ok(())
    }

    /// Begins an array or map (its 32-bit marker) whose count is not known; returns where the count belongs.
    pub(super) fn begin_uncounted(&mut self, marker: Marker) -> Result<Option<usize>, Fault> {
        let at = self.bytes.len();
        self.put(|head| io::Write::write_all(head, &[marker.to_u8(), 0, 0, 0, 0]))?;
        Ok(Some(at))
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

pub(super) fn length_u32(length: usize) -> Result<u32, Fault> {
    u32::try_from(length).map_err(|_| {
        Fault::Message(format!("a sequence, map or text of {length} items is too long, 2^32 is the limit"))
    })
}
