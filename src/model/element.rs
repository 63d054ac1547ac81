//! Which sequences go out of band: the primitive element types, and how a slice of one is seen as bytes.
//!
//! [`pack`](super::pack) asks here for the raw bytes of an element or of a whole slice, and
//! [`unpack`](super::unpack) for the way back.

// Serde hides the element type behind a generic parameter; once its identity is established by `TypeId`,
// the reference is cast to it. Numbers are also viewed as their bytes.
#![allow(unsafe_code)]

use std::any::{Any, TypeId};
use std::fmt;

#[cfg(target_endian = "big")]
compile_error!("packed buffers are little-endian memory; a big-endian machine would need to swap them");

/// The type of the elements of an out-of-band buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum ElementKind {
    Bytes = 0,
    Text = 1,
    U8 = 2,
    U16 = 3,
    U32 = 4,
    U64 = 5,
    I8 = 6,
    I16 = 7,
    I32 = 8,
    I64 = 9,
    F32 = 10,
    F64 = 11,
}

impl ElementKind {
    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Bytes,
            1 => Self::Text,
            2 => Self::U8,
            3 => Self::U16,
            4 => Self::U32,
            5 => Self::U64,
            6 => Self::I8,
            7 => Self::I16,
            8 => Self::I32,
            9 => Self::I64,
            10 => Self::F32,
            11 => Self::F64,
            _ => return None,
        })
    }

    #[inline(always)]
    pub(crate) const fn size(self) -> usize {
        match self {
            Self::Bytes | Self::Text | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

impl fmt::Display for ElementKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Text => "text",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::F32 => "f32",
            Self::F64 => "f64",
        })
    }
}

/// A number type whose memory is its packed form: no padding, no invalid bit pattern.
pub(crate) trait Number: Copy + Send + Sync + 'static {}

macro_rules! numbers {
    ($visit:ident) => {
        $visit! {
            u8 => U8, u16 => U16, u32 => U32, u64 => U64, i8 => I8, i16 => I16, i32 => I32, i64 => I64,
            f32 => F32, f64 => F64
        }
        #[cfg(target_pointer_width = "64")]
        $visit! { usize => U64, isize => I64 }
    };
}

macro_rules! implement {
    ($($number:ty => $kind:ident),*) => {
        $(impl Number for $number {})*
    };
}

numbers!(implement);

/// The memory of a slice of numbers.
#[inline(always)]
pub(crate) fn memory_of<N: Number>(numbers: &[N]) -> &[u8] {
    // SAFETY: a `Number` has no padding, and any initialised memory is valid as bytes.
    unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
}

/// The numbers whose memory `bytes` is; what is left over at the end is ignored.
pub(crate) fn numbers_from<N: Number>(bytes: &[u8]) -> Vec<N> {
    let count = bytes.len() / size_of::<N>();
    let mut numbers = Vec::<N>::with_capacity(count);
    // SAFETY: there is room for `count` numbers, `bytes` has their memory, and the two do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), numbers.as_mut_ptr().cast(), count * size_of::<N>())
    };
    // SAFETY: `count` numbers were just written, and every bit pattern is a `Number`.
    unsafe { numbers.set_len(count) };
    numbers
}

/// The memory of one sequence element, if it is a number or a reference to one.
#[inline(always)]
pub(crate) fn element_memory<T: ?Sized>(element: &T) -> Option<(ElementKind, &[u8])> {
    let identity = typeid::of::<T>();
    macro_rules! probe {
        ($($number:ty => $kind:ident),*) => {
            $(
                if identity == TypeId::of::<$number>() {
                    // SAFETY: `T` is this number.
                    let number = unsafe { &*std::ptr::from_ref(element).cast::<$number>() };
                    return Some((ElementKind::$kind, memory_of(std::slice::from_ref(number))));
                }
                if identity == TypeId::of::<&'static $number>() {
                    // SAFETY: `T` is a reference to this number, and its lifetime is at least that of `element`.
                    let number = unsafe { *std::ptr::from_ref(element).cast::<&$number>() };
                    return Some((ElementKind::$kind, memory_of(std::slice::from_ref(number))));
                }
            )*
        };
    }
    numbers!(probe);
    None
}

/// The memory of everything an iterable would yield, if it is a reference to a vector or slice of numbers.
#[inline(always)]
pub(crate) fn iterable_memory<I>(iterable: &I) -> Option<(ElementKind, &[u8])> {
    let identity = typeid::of::<I>();
    macro_rules! probe {
        ($($number:ty => $kind:ident),*) => {
            $(
                if identity == TypeId::of::<&'static Vec<$number>>() {
                    // SAFETY: `I` is a reference to this vector, valid for as long as `iterable`.
                    let numbers = unsafe { *std::ptr::from_ref(iterable).cast::<&Vec<$number>>() };
                    return Some((ElementKind::$kind, memory_of(numbers)));
                }
                if identity == TypeId::of::<&'static [$number]>() {
                    // SAFETY: `I` is a reference to this slice, valid for as long as `iterable`.
                    let numbers = unsafe { *std::ptr::from_ref(iterable).cast::<&[$number]>() };
                    return Some((ElementKind::$kind, memory_of(numbers)));
                }
            )*
        };
    }
    numbers!(probe);
    None
}

/// The memory of a whole value, if it is a vector of numbers or a string.
pub(crate) fn value_memory(value: &dyn Any) -> Option<(ElementKind, &[u8])> {
    if let Some(text) = value.downcast_ref::<String>() {
        return Some((ElementKind::Text, text.as_bytes()));
    }
    macro_rules! probe {
        ($($number:ty => $kind:ident),*) => {
            $(
                if let Some(numbers) = value.downcast_ref::<Vec<$number>>() {
                    return Some((ElementKind::$kind, memory_of(numbers)));
                }
            )*
        };
    }
    numbers!(probe);
    None
}

/// The value whose memory `bytes` is, if `T` is the vector of exactly this kind of number.
pub(crate) fn value_from<T: 'static>(kind: ElementKind, bytes: &[u8]) -> Option<T> {
    let identity = TypeId::of::<T>();
    macro_rules! probe {
        ($($number:ty => $kind:ident),*) => {
            $(
                if kind == ElementKind::$kind && identity == TypeId::of::<Vec<$number>>() {
                    let mut numbers = Some(numbers_from::<$number>(bytes));
                    let slot: &mut dyn Any = &mut numbers;
                    return slot.downcast_mut::<Option<T>>().and_then(Option::take);
                }
            )*
        };
    }
    numbers!(probe);
    None
}
