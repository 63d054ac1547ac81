//! A vector of numbers whose type is known only when the program runs: where a value that is one lands.
//!
//! The head of a packed value says what its buffer holds before the buffer arrives. If that is a vector of numbers, or
//! a text, its bytes can be received into the very vector that the program is given, and are never copied. Memory for
//! everything else is in [`buffer`](super::buffer).

use std::any::{Any, TypeId};
use std::fmt;

use bytes::Bytes;

use super::element::{self, ElementKind, Number};
use super::pack;

/// A vector of numbers, or the bytes of a text.
pub struct NumberVec {
    kind: ElementKind,
    vector: Box<dyn Vector>,
}

/// A `Vec` of some type of number.
trait Vector: Any + Send {
    fn memory_mut(&mut self) -> &mut [u8];
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
    fn into_bytes(self: Box<Self>) -> Bytes;
}

impl NumberVec {
    /// Zeros for a packed value with this head and one buffer of so many bytes, if the value is that buffer and
    /// nothing else.
    pub fn for_head(head: &[u8], buffer_bytes: usize) -> Option<Self> {
        let kind = ElementKind::from_code(*head.get(pack::SOLE_MARKER_KIND_AT)?)?;
        let count = buffer_bytes / kind.size();
        if !buffer_bytes.is_multiple_of(kind.size()) || *head != *pack::sole_marker(kind, count as u64) {
            return None;
        }
        let vector: Box<dyn Vector> = match kind {
            ElementKind::Bytes | ElementKind::Bool | ElementKind::Complex64 => return None,
            ElementKind::Text | ElementKind::U8 => Box::new(vec![0u8; count]),
            ElementKind::U16 => Box::new(vec![0u16; count]),
            ElementKind::U32 => Box::new(vec![0u32; count]),
            ElementKind::U64 => Box::new(vec![0u64; count]),
            ElementKind::I8 => Box::new(vec![0i8; count]),
            ElementKind::I16 => Box::new(vec![0i16; count]),
            ElementKind::I32 => Box::new(vec![0i32; count]),
            ElementKind::I64 => Box::new(vec![0i64; count]),
            ElementKind::F32 => Box::new(vec![0f32; count]),
            ElementKind::F64 => Box::new(vec![0f64; count]),
        };
        Some(Self { kind, vector })
    }

    /// Its memory, to be written.
    pub fn memory_mut(&mut self) -> &mut [u8] {
        self.vector.memory_mut()
    }

    /// The value itself, without a copy, if `T` is the vector of these numbers or this text.
    ///
    /// # Errors
    /// Its memory, if `T` is anything else.
    pub fn into_value<T: 'static>(self) -> Result<T, Bytes> {
        let wanted = TypeId::of::<T>();
        let held = {
            let any: &dyn Any = &*self.vector;
            any.type_id()
        };
        let value: Box<dyn Any> = if self.kind == ElementKind::Text {
            if wanted != TypeId::of::<String>() {
                return Err(self.vector.into_bytes());
            }
            // Bytes that are no text are refused by whoever unpacks them.
            Box::new(String::from_utf8(take(self.vector)).map_err(|error| error.into_bytes())?)
        } else if held == wanted {
            self.vector.into_any()
        } else if self.kind == ElementKind::U64 && wanted == TypeId::of::<Vec<usize>>() {
            Box::new(element::reinterpreted::<u64, usize>(take(self.vector))?)
        } else if self.kind == ElementKind::I64 && wanted == TypeId::of::<Vec<isize>>() {
            Box::new(element::reinterpreted::<i64, isize>(take(self.vector))?)
        } else {
            return Err(self.vector.into_bytes());
        };
        Ok(*value.downcast::<T>().expect("it was made as this type"))
    }
}

/// The vector, whose type follows from its kind.
fn take<N: Number>(vector: Box<dyn Vector>) -> Vec<N> {
    *vector.into_any().downcast().expect("a vector is of its kind")
}

impl<N: Number> Vector for Vec<N> {
    fn memory_mut(&mut self) -> &mut [u8] {
        element::memory_of_mut(self)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    fn into_bytes(self: Box<Self>) -> Bytes {
        Bytes::from_owner(Memory(*self))
    }
}

struct Memory<N>(Vec<N>);

impl<N: Number> AsRef<[u8]> for Memory<N> {
    fn as_ref(&self) -> &[u8] {
        element::memory_of(&self.0)
    }
}

impl fmt::Debug for NumberVec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NumberVec({})", self.kind)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::pack::pack;
    use crate::model::{Data, Packed};

    /// A value as it lands.
    fn landed(packed: &Packed) -> Option<NumberVec> {
        let [buffer] = packed.buffers.as_slice() else { return None };
        let mut numbers = NumberVec::for_head(&packed.head, buffer.len())?;
        numbers.memory_mut().copy_from_slice(buffer);
        Some(numbers)
    }

    fn assert_lands<T: Data + PartialEq + fmt::Debug>(value: T) {
        let mut numbers = landed(&pack(&value).unwrap()).unwrap();
        let memory = numbers.memory_mut().as_ptr();
        let taken: T = numbers.into_value().unwrap();
        assert_eq!(taken, value);
        let packed = crate::model::Value::new(taken).pack().unwrap();
        assert_eq!(packed.buffers[0].as_ptr(), memory, "nothing was copied");
    }

    #[test]
    fn numbers_and_texts_become_what_they_were_without_a_copy() {
        assert_lands(vec![1.5f64; 100]);
        assert_lands(vec![-1.5f32; 101]);
        assert_lands((0..200u8).collect::<Vec<_>>());
        assert_lands((0..200i16).collect::<Vec<_>>());
        assert_lands((0..200usize).collect::<Vec<_>>());
        assert_lands((-9..200isize).collect::<Vec<_>>());
        assert_lands("π".repeat(1000));
    }

    #[test]
    fn another_type_is_given_the_memory() {
        let packed = pack(&vec![7u32; 50]).unwrap();
        let memory = landed(&packed).unwrap().into_value::<Vec<i32>>().unwrap_err();
        assert_eq!(memory, packed.buffers[0]);
        let text = pack(&"x".repeat(2000)).unwrap();
        assert!(landed(&text).unwrap().into_value::<Vec<u8>>().is_err());
    }

    #[test]
    fn a_value_with_anything_else_in_it_is_not_numbers() {
        assert!(landed(&pack(&(1u8, vec![1.0f64; 100])).unwrap()).is_none());
        let packed = pack(&vec![1.0f64; 100]).unwrap();
        assert!(NumberVec::for_head(&packed.head, 792).is_none(), "another count");
        assert!(NumberVec::for_head(&packed.head, 801).is_none(), "a number is cut off");
        assert!(NumberVec::for_head(&[], 800).is_none());
    }
}
