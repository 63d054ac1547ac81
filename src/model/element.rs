//! Which sequences go out of band: the primitive element types, and how a slice of one is seen as bytes.
//!
//! [`pack`](super::pack) asks here for the raw bytes of an element or of a whole slice, and
//! [`unpack`](super::unpack) for the way back.

// Serde hides the element type behind a generic parameter; once its identity is established by `TypeId`,
// the reference is cast to it. Numbers are also viewed as their bytes.
#![allow(unsafe_code)]

use std::any::{Any, TypeId};
use std::fmt;

use bytes::Bytes;

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
    Bool = 12,
    Complex64 = 13,
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
            12 => Self::Bool,
            13 => Self::Complex64,
            _ => return None,
        })
    }

    #[inline(always)]
    pub(crate) const fn size(self) -> usize {
        match self {
            Self::Bytes | Self::Text | Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::Complex64 => 16,
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
            Self::Bool => "bool",
            Self::Complex64 => "Complex64",
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

/// The memory of a slice of numbers, to be overwritten.
pub(crate) fn memory_of_mut<N: Number>(numbers: &mut [N]) -> &mut [u8] {
    // SAFETY: a `Number` has no padding, any bytes are valid as one, and the borrow is exclusive.
    unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(numbers)) }
}

/// A vector of numbers as one of another type of the same size and alignment.
///
/// # Errors
/// Its memory, if sizes or alignments differ.
pub(crate) fn reinterpreted<A: Number, B: Number>(numbers: Vec<A>) -> Result<Vec<B>, Bytes> {
    if (size_of::<A>(), align_of::<A>()) != (size_of::<B>(), align_of::<B>()) {
        return Err(Bytes::copy_from_slice(memory_of(&numbers)));
    }
    let mut numbers = std::mem::ManuallyDrop::new(numbers);
    let (start, length, capacity) = (numbers.as_mut_ptr(), numbers.len(), numbers.capacity());
    // SAFETY: the parts are those of a vector that is not used again; its elements have the same layout as the
    // others, for which any bits are valid.
    Ok(unsafe { Vec::from_raw_parts(start.cast(), length, capacity) })
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

/// `value` itself, if it is a `Known`.
pub(crate) fn known_as<T: ?Sized, Known: 'static>(value: &T) -> Option<&Known> {
    // SAFETY: `T` is `Known`.
    (typeid::of::<T>() == TypeId::of::<Known>())
        .then(|| unsafe { &*std::ptr::from_ref(value).cast::<Known>() })
}

/// `value` itself, if a `T` is asked for and it is one; `make` is called only then.
pub(crate) fn made_as<T, Known: 'static, E>(make: impl FnOnce() -> Result<Known, E>) -> Option<Result<T, E>> {
    if typeid::of::<T>() != TypeId::of::<Known>() {
        return None;
    }
    Some(make().map(|value| {
        let value = std::mem::ManuallyDrop::new(value);
        // SAFETY: `T` is `Known`, and the original is not dropped.
        unsafe { std::ptr::from_ref(&value).cast::<T>().read() }
    }))
}

/// Whether `T` is a number of this kind.
pub(crate) fn is_of_kind<T: 'static>(kind: ElementKind) -> bool {
    let identity = TypeId::of::<T>();
    macro_rules! probe {
        ($($number:ty => $kind:ident),*) => {
            $(
                if kind == ElementKind::$kind && identity == TypeId::of::<$number>() {
                    return true;
                }
            )*
        };
    }
    numbers!(probe);
    false
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
