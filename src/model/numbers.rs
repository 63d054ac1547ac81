//! A shared run of numbers: what the blocks of an array are made of.
//!
//! [`Numbers`] is immutable and owns nothing but a handle on its memory. Packing hands that memory on as one
//! out-of-band buffer and unpacking takes it over, so between two ranks of a node no number is copied. Kernels write
//! into [`NumbersMut`] and freeze it. The memory is a [`buffer`](super::buffer); the way through serde is at the end.

// Bytes are viewed as the numbers whose memory they are; both constructors check length, alignment and validity.
#![allow(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

use bytes::Bytes;
use num_complex::Complex64;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

use super::buffer::AlignedBuffer;
use super::element::ElementKind;

/// The newtype through which serde's serializers see the memory of a run; this crate's share it.
pub(super) const NUMBERS_NAME: &str = "$dcluster::numbers";

/// The type of the numbers of a run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum Dtype {
    /// `bool`, one byte, 0 or 1.
    Bool,
    /// `u8`
    U8,
    /// `i32`
    I32,
    /// `i64`
    I64,
    /// `f32`
    F32,
    /// `f64`
    F64,
    /// [`Complex64`], two `f64`: real part first.
    Complex64,
}

/// A type of number that arrays are made of; no others can be added.
pub trait Element: sealed::Plain + Copy + Default + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// Which one it is.
    const DTYPE: Dtype;
}

mod sealed {
    /// # Safety
    /// The type has no padding, and every bit pattern is one of its values, except that `bool` is 0 or 1.
    pub unsafe trait Plain {}
}

macro_rules! elements {
    ($($number:ty => $name:ident),*) => {
        $(
            // SAFETY: a primitive number, or two of them in C's layout.
            unsafe impl sealed::Plain for $number {}

            impl Element for $number {
                const DTYPE: Dtype = Dtype::$name;
            }
        )*

        impl Dtype {
            /// The bytes of one number.
            pub const fn size(self) -> usize {
                match self {
                    $(Self::$name => size_of::<$number>(),)*
                }
            }

            const fn alignment(self) -> usize {
                match self {
                    $(Self::$name => align_of::<$number>(),)*
                }
            }

            pub(super) const fn kind(self) -> ElementKind {
                match self {
                    $(Self::$name => ElementKind::$name,)*
                }
            }

            pub(super) const fn of_kind(kind: ElementKind) -> Option<Self> {
                match kind {
                    $(ElementKind::$name => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

elements!(bool => Bool, u8 => U8, i32 => I32, i64 => I64, f32 => F32, f64 => F64, Complex64 => Complex64);

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind().fmt(f)
    }
}

/// An immutable run of numbers; a clone shares the memory.
///
/// ```
/// use dcluster::model::numbers::Numbers;
///
/// let numbers: Numbers<f64> = (0..100).map(f64::from).collect();
/// assert_eq!(numbers[99], 99.0);
/// assert_eq!(numbers.slice(10..12)[..], [10.0, 11.0]); // without a copy
/// ```
pub struct Numbers<T> {
    /// A whole number of `T`s, aligned for `T`, each valid.
    memory: Bytes,
    element: PhantomData<fn() -> T>,
}

impl<T: Element> Numbers<T> {
    /// The numbers whose memory this is; they are copied only if it is not aligned.
    ///
    /// # Errors
    /// The reason, if it is not a whole number of them, or if a `bool` is neither 0 nor 1.
    pub fn from_bytes(memory: Bytes) -> Result<Self, String> {
        Memory::checked(T::DTYPE, memory).map(Self::of)
    }

    /// The memory, shared.
    pub fn bytes(&self) -> Bytes {
        self.memory.clone()
    }

    /// A part of the run, which shares its memory.
    ///
    /// # Panics
    /// If the range goes beyond the end, as a slice does.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let (from, to) = (range.start * size_of::<T>(), range.end * size_of::<T>());
        Self { memory: self.memory.slice(from..to), element: PhantomData }
    }

    /// The numbers.
    pub fn as_slice(&self) -> &[T] {
        // (Empty `Bytes` point anywhere.)
        if self.memory.is_empty() {
            return &[];
        }
        // SAFETY: `Memory::checked`, or `NumbersMut`, made sure of length, alignment and validity.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.memory.len() / size_of::<T>()) }
    }

    /// `memory` is of this type.
    fn of(memory: Memory) -> Self {
        Self { memory: memory.bytes, element: PhantomData }
    }
}

impl<T> Clone for Numbers<T> {
    fn clone(&self) -> Self {
        Self { memory: self.memory.clone(), element: PhantomData }
    }
}

impl<T: Element> Deref for Numbers<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.as_slice()
    }
}

impl<T: Element> From<&[T]> for Numbers<T> {
    fn from(numbers: &[T]) -> Self {
        let mut copy = NumbersMut::for_overwrite(numbers.len());
        copy.copy_from_slice(numbers);
        copy.freeze()
    }
}

impl<T: Element> From<Vec<T>> for Numbers<T> {
    fn from(numbers: Vec<T>) -> Self {
        Self::from(numbers.as_slice())
    }
}

impl<T: Element> FromIterator<T> for Numbers<T> {
    fn from_iter<I: IntoIterator<Item = T>>(numbers: I) -> Self {
        Self::from(numbers.into_iter().collect::<Vec<_>>())
    }
}

impl<T: Element> PartialEq for Numbers<T> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<T: Element> fmt::Debug for Numbers<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        write!(f, "Numbers<{}; {}>", T::DTYPE, self.len())?;
        let mut list = f.debug_list();
        list.entries(self.iter().take(SHOWN));
        if self.len() > SHOWN { list.finish_non_exhaustive() } else { list.finish() }
    }
}

/// A run of numbers under construction, in memory that can be frozen without a copy.
#[derive(Debug)]
pub struct NumbersMut<T> {
    /// A whole number of `T`s; an aligned buffer is aligned for all of them.
    memory: AlignedBuffer,
    element: PhantomData<fn() -> T>,
}

impl<T: Element> NumbersMut<T> {
    /// Memory for `count` numbers of any value, all of which are to be overwritten.
    ///
    /// # Panics
    /// If so many cannot be addressed.
    pub fn for_overwrite(count: usize) -> Self {
        if T::DTYPE == Dtype::Bool {
            // (Not every byte is one.)
            return Self::zeroed(count);
        }
        let bytes = count.checked_mul(size_of::<T>()).expect("a run of numbers fits in memory");
        Self { memory: AlignedBuffer::for_overwrite(bytes), element: PhantomData }
    }

    /// `count` zeros.
    ///
    /// # Panics
    /// If so many cannot be addressed.
    pub fn zeroed(count: usize) -> Self {
        let bytes = count.checked_mul(size_of::<T>()).expect("a run of numbers fits in memory");
        Self { memory: AlignedBuffer::zeroed(bytes), element: PhantomData }
    }

    /// Makes it shareable, without a copy.
    pub fn freeze(self) -> Numbers<T> {
        Numbers { memory: self.memory.freeze(), element: PhantomData }
    }
}

impl<T: Element> Deref for NumbersMut<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let memory = self.memory.as_slice();
        // SAFETY: the buffer was made for whole, aligned `T`s, and is initialised with valid ones.
        unsafe { std::slice::from_raw_parts(memory.as_ptr().cast(), memory.len() / size_of::<T>()) }
    }
}

impl<T: Element> DerefMut for NumbersMut<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        let memory = self.memory.as_mut_slice();
        let count = memory.len() / size_of::<T>();
        // SAFETY: as above, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), count) }
    }
}

/// The memory of a run on its way through serde, whatever the type of its numbers.
pub(super) struct Memory {
    pub(super) dtype: Dtype,
    pub(super) bytes: Bytes,
}

impl Memory {
    /// Whole, aligned, valid numbers of this type; copied if they were not aligned.
    pub(super) fn checked(dtype: Dtype, bytes: Bytes) -> Result<Self, String> {
        if !bytes.len().is_multiple_of(dtype.size()) {
            return Err(format!("{} bytes are no whole number of {dtype}", bytes.len()));
        }
        if dtype == Dtype::Bool
            && let Some(other) = bytes.iter().find(|byte| **byte > 1)
        {
            return Err(format!("a bool is 0 or 1, and {other} is there"));
        }
        if !(bytes.as_ptr() as usize).is_multiple_of(dtype.alignment()) {
            return Ok(Self { dtype, bytes: aligned(&bytes) });
        }
        Ok(Self { dtype, bytes })
    }

    fn view<T: Element>(&self) -> Numbers<T> {
        Numbers { memory: self.bytes.clone(), element: PhantomData }
    }
}

fn aligned(bytes: &[u8]) -> Bytes {
    let mut buffer = AlignedBuffer::with_capacity(bytes.len());
    buffer.extend(bytes);
    buffer.freeze()
}

/// Runs `$body` with `$number` as the type that `$dtype` means.
macro_rules! for_dtype {
    ($dtype:expr, $number:ident => $body:expr) => {
        match $dtype {
            $crate::model::numbers::Dtype::Bool => {
                type $number = bool;
                $body
            }
            $crate::model::numbers::Dtype::U8 => {
                type $number = u8;
                $body
            }
            $crate::model::numbers::Dtype::I32 => {
                type $number = i32;
                $body
            }
            $crate::model::numbers::Dtype::I64 => {
                type $number = i64;
                $body
            }
            $crate::model::numbers::Dtype::F32 => {
                type $number = f32;
                $body
            }
            $crate::model::numbers::Dtype::F64 => {
                type $number = f64;
                $body
            }
            $crate::model::numbers::Dtype::Complex64 => {
                type $number = num_complex::Complex64;
                $body
            }
        }
    };
}

pub(crate) use for_dtype;

/// The slice itself, if a `T` is a `U`.
pub(crate) fn same_type<T: Element, U: Element>(numbers: &mut [T]) -> Option<&mut [U]> {
    if T::DTYPE != U::DTYPE {
        return None;
    }
    // SAFETY: each `Dtype` belongs to one type, so `T` is `U`.
    Some(unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), numbers.len()) })
}

impl<T: Element> Serialize for Numbers<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let memory = Memory { dtype: T::DTYPE, bytes: self.memory.clone() };
        serializer.serialize_newtype_struct(NUMBERS_NAME, &memory)
    }
}

/// For short runs, and for serializers that know no shared memory.
impl Serialize for Memory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        for_dtype!(self.dtype, Number => serializer.collect_seq(self.view::<Number>().as_slice()))
    }
}

impl<'de, T: Element> Deserialize<'de> for Numbers<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let memory = deserializer.deserialize_newtype_struct(NUMBERS_NAME, MemoryVisitor(T::DTYPE))?;
        if memory.dtype != T::DTYPE {
            let (got, wanted) = (memory.dtype, T::DTYPE);
            return Err(de::Error::custom(format!("{got} numbers arrived where {wanted} are expected")));
        }
        Ok(Self::of(memory))
    }
}

/// Takes what does not come as shared memory.
struct MemoryVisitor(Dtype);

impl<'de> Visitor<'de> for MemoryVisitor {
    type Value = Memory;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a sequence of {}", self.0)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Memory, D::Error> {
        for_dtype!(self.0, Number => {
            let numbers = Numbers::from(Vec::<Number>::deserialize(deserializer)?);
            Ok(Memory { dtype: self.0, bytes: numbers.memory })
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Packed;
    use crate::model::pack::{OUT_OF_BAND_BYTES_MIN, pack, pack_flat, pack_within, packed_len};
    use crate::model::packed::FlatForm;
    use crate::model::packed::take_varint;
    use crate::model::unpack::unpack;

    fn round_trip<T: Element + Serialize>(numbers: Vec<T>) {
        let run = Numbers::from(numbers);
        let packed = pack(&run).unwrap();
        assert_eq!(packed_len(&run).unwrap(), packed.len());
        assert_eq!(pack_within(&run, packed.len()).unwrap().unwrap(), packed);
        assert!(pack_within(&run, packed.len() - 1).unwrap().is_none());
        let back: Numbers<T> = unpack(&packed).unwrap();
        assert_eq!(back, run);
        if run.memory.len() >= OUT_OF_BAND_BYTES_MIN {
            assert_eq!(packed.buffers.len(), 1, "one buffer");
            assert_eq!(packed.buffers[0].as_ptr(), run.memory.as_ptr(), "packed without a copy");
            assert_eq!(back.memory.as_ptr(), run.memory.as_ptr(), "unpacked without a copy");
        }
        let mut flat = Vec::new();
        pack_flat(&run, &mut flat).unwrap();
        let mut rest = flat.as_slice();
        take_varint(&mut rest).unwrap();
        let decoded = Packed::decode(Bytes::copy_from_slice(rest)).unwrap();
        assert!(FlatForm::decode(rest).is_ok());
        assert_eq!(unpack::<Numbers<T>>(&decoded).unwrap(), run);
    }

    proptest! {
        #[test]
        fn runs_of_every_type_round_trip(
            floats in prop::collection::vec(-1e300..1e300f64, 0..40), flags in any::<Vec<bool>>(),
            bytes in any::<Vec<u8>>(), integers in any::<Vec<i32>>(), longs in any::<Vec<i64>>(),
        ) {
            round_trip(floats.iter().map(|x| *x as f32).collect());
            round_trip(floats.iter().map(|x| Complex64::new(*x, -*x)).collect());
            round_trip(floats);
            round_trip(flags);
            round_trip(bytes);
            round_trip(integers);
            round_trip(longs);
        }
    }

    #[test]
    fn memory_that_is_not_aligned_is_copied_and_a_false_bool_refused() {
        let bytes = Bytes::from_owner(AlignedBuffer::zeroed(100));
        let numbers = Numbers::<f64>::from_bytes(bytes.slice(1..81)).unwrap();
        assert_eq!(numbers[..], [0.0; 10]);
        assert!(Numbers::<f64>::from_bytes(bytes.slice(1..80)).is_err());
        let error = Numbers::<bool>::from_bytes(Bytes::from_static(&[0, 1, 2])).unwrap_err();
        assert_eq!(error, "a bool is 0 or 1, and 2 is there");
        let mut packed = pack(&Numbers::from(vec![true; 100])).unwrap();
        packed.buffers[0] = Bytes::from(vec![7; 100]);
        assert!(unpack::<Numbers<bool>>(&packed).unwrap_err().reason.contains("0 or 1"));
        assert!(unpack::<Vec<bool>>(&packed).is_err());
    }

    #[test]
    fn vectors_and_other_formats_take_runs_and_other_types_are_named() {
        let run: Numbers<f64> = (0..50).map(f64::from).collect();
        let packed = pack(&run).unwrap();
        assert_eq!(unpack::<Vec<f64>>(&packed).unwrap(), run[..]);
        assert_eq!(unpack::<Numbers<f64>>(&pack(&run.to_vec()).unwrap()).unwrap(), run);
        let error = unpack::<Numbers<f32>>(&packed).unwrap_err();
        assert!(error.reason.contains("f64 numbers arrived where f32 are expected"), "{error}");
        let json = serde_json::to_string(&run.slice(0..3)).unwrap();
        assert_eq!(json, "[0.0,1.0,2.0]");
        assert_eq!(serde_json::from_str::<Numbers<f64>>(&json).unwrap(), run.slice(0..3));
        let waves = Numbers::from(vec![Complex64::new(0.0, 1.0); 9]);
        assert_eq!(unpack::<Vec<Complex64>>(&pack(&waves).unwrap()).unwrap(), waves[..]);
        let flags = Numbers::from(vec![true; 99]);
        assert_eq!(unpack::<Vec<bool>>(&pack(&flags).unwrap()).unwrap(), flags[..]);
    }
}
