//! A value in the form in which it travels: a msgpack head and the buffers it refers to.
//!
//! [`pack`](super::pack) makes it, [`unpack`](super::unpack) reads it. Large values are sent buffer by buffer;
//! a small one is flattened into a single byte string with [`Packed::encode_into`].

use bytes::{Buf, Bytes};
use thiserror::Error;

/// A packed value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Msgpack, with markers in place of the sequences that are in `buffers`.
    pub head: Bytes,
    /// The memory of primitive sequences, in the order in which the head mentions them.
    pub buffers: Vec<Bytes>,
}

/// Bytes that are not the flat form of a packed value.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a flat value of {bytes} bytes is cut off or malformed")]
pub struct FlatError {
    /// How many bytes there were.
    pub bytes: usize,
}

impl Packed {
    /// The bytes of head and buffers together.
    pub fn len(&self) -> usize {
        self.head.len() + self.buffers.iter().map(Bytes::len).sum::<usize>()
    }

    /// Whether there is nothing in it, not even a head.
    pub fn is_empty(&self) -> bool {
        self.head.is_empty() && self.buffers.is_empty()
    }

    /// The length of the flat form, in bytes.
    pub fn flat_len(&self) -> usize {
        let lengths: usize = self.buffers.iter().map(|buffer| varint_len(buffer.len() as u64)).sum();
        varint_len(self.buffers.len() as u64) + lengths + self.len()
    }

    /// Appends the flat form: the number of buffers, the length of each, their bytes, and the head.
    ///
    /// A value without buffers is its head after one zero byte. The length is not in it: the reader is given
    /// exactly these bytes.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.reserve(self.flat_len());
        put_varint(out, self.buffers.len() as u64);
        for buffer in &self.buffers {
            put_varint(out, buffer.len() as u64);
        }
        for buffer in &self.buffers {
            out.extend_from_slice(buffer);
        }
        out.extend_from_slice(&self.head);
    }

    /// The flat form as one byte string.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        Bytes::from(out)
    }

    /// Reads the flat form; head and buffers are slices of `flat`, nothing is copied.
    ///
    /// # Errors
    /// `FlatError` if the lengths do not fit the bytes.
    pub fn decode(flat: Bytes) -> Result<Self, FlatError> {
        let parts = FlatForm::decode(&flat)?;
        let buffers = parts.buffers.iter().map(|buffer| flat.slice_ref(buffer)).collect();
        Ok(Self { head: flat.slice_ref(parts.head), buffers })
    }
}

/// The parts of a flat form, borrowed from it.
pub(crate) struct FlatForm<'a> {
    pub(crate) head: &'a [u8],
    pub(crate) buffers: Vec<&'a [u8]>,
}

impl<'a> FlatForm<'a> {
    pub(crate) fn decode(mut flat: &'a [u8]) -> Result<Self, FlatError> {
        let error = FlatError { bytes: flat.len() };
        let Some(count) = take_varint(&mut flat) else { return Err(error) };
        if count > flat.len() as u64 {
            return Err(error);
        }
        let mut lengths = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let Some(length) = take_varint(&mut flat) else { return Err(error) };
            lengths.push(length);
        }
        let mut buffers = Vec::with_capacity(lengths.len());
        for length in lengths {
            let Some((buffer, rest)) = usize::try_from(length).ok().and_then(|at| flat.split_at_checked(at))
            else {
                return Err(error);
            };
            buffers.push(buffer);
            flat = rest;
        }
        Ok(Self { head: flat, buffers })
    }
}

/// Appends an integer in base 128, low digits first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads what [`put_varint`] wrote; `None` if the bytes end early or the number does not fit.
pub(crate) fn take_varint<B: Buf>(from: &mut B) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = from.try_get_u8().ok()?;
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

pub(crate) const fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn flat_form_round_trips(head in any::<Vec<u8>>(), buffers in any::<Vec<Vec<u8>>>()) {
            let packed = Packed { head: head.into(), buffers: buffers.into_iter().map(Bytes::from).collect() };
            let flat = packed.encode();
            prop_assert_eq!(flat.len(), packed.flat_len());
            prop_assert_eq!(Packed::decode(flat).unwrap(), packed);
        }

        #[test]
        fn random_bytes_never_panic(bytes in any::<Vec<u8>>()) {
            let _ = Packed::decode(bytes.into());
        }

        #[test]
        fn integers_round_trip(value in any::<u64>()) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_len(value));
            prop_assert_eq!(take_varint(&mut out.as_slice()), Some(value));
        }
    }

    #[test]
    fn a_claim_of_more_than_is_there_is_refused() {
        let mut flat = Vec::new();
        put_varint(&mut flat, 1);
        put_varint(&mut flat, u64::MAX);
        assert_eq!(Packed::decode(flat.into()), Err(FlatError { bytes: 11 }));
    }
}
