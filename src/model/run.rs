//! The numbers of a packed value, seen where they lie: what a task borrows that takes a slice.
//!
//! A value that is one vector of numbers travels as their memory, and what arrives is aligned. A task that only wants a
//! slice needs no vector: [`Run`] is a slice that keeps the memory alive. Anything else is unpacked.

// The memory of a packed buffer is viewed as the numbers it holds; kind, length and alignment are checked first.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Deref;

use bytes::Bytes;

use super::element::{self, ElementKind};
use super::pack;
use super::packed::Packed;

/// A slice of numbers that shares the memory of a packed value.
pub struct Run<T> {
    memory: Bytes,
    element: PhantomData<T>,
}

impl<T: 'static> Run<T> {
    /// The numbers of a packed value, if it is a vector of `T` and nothing else, and `T` is a number.
    pub fn of(packed: &Packed) -> Option<Self> {
        let [memory] = packed.buffers.as_slice() else { return None };
        let kind = ElementKind::from_code(*packed.head.get(pack::SOLE_MARKER_KIND_AT)?)?;
        if !element::is_of_kind::<T>(kind) {
            return None;
        }
        let count = (memory.len() / kind.size()) as u64;
        let is_whole = *packed.head == *pack::sole_marker(kind, count)
            && memory.len().is_multiple_of(kind.size())
            && memory.as_ptr().cast::<T>().is_aligned();
        is_whole.then(|| Self { memory: memory.clone(), element: PhantomData })
    }
}

impl<T> Deref for Run<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        let count = self.memory.len() / size_of::<T>();
        // SAFETY: `of` made sure that `T` is a number, which any bits are, and that the memory is aligned for it and a
        // whole number of them; `Bytes` neither move nor change.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), count) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::buffer::AlignedBuffer;
    use crate::model::pack::pack;

    #[test]
    fn a_vector_of_numbers_is_seen_where_it_lies() {
        let packed = pack(&(0..100).map(f64::from).collect::<Vec<_>>()).unwrap();
        let run = Run::<f64>::of(&packed).unwrap();
        assert_eq!(run.len(), 100);
        assert_eq!(run[99], 99.0);
        assert_eq!(run.as_ptr().cast(), packed.buffers[0].as_ptr());
        assert!(Run::<f32>::of(&packed).is_none());
        assert!(Run::<u64>::of(&packed).is_none());
        assert!(Run::<String>::of(&packed).is_none());
    }

    #[test]
    fn anything_else_is_left_to_unpacking() {
        let packed = pack(&vec![1.0f64; 100]).unwrap();
        let of_buffer =
            |buffer: Bytes| Run::<f64>::of(&Packed { head: packed.head.clone(), buffers: vec![buffer] });
        let aligned = AlignedBuffer::zeroed(808).freeze();
        assert!(of_buffer(aligned.slice(..800)).is_some());
        assert!(of_buffer(aligned.slice(4..804)).is_none(), "misaligned");
        assert!(of_buffer(packed.buffers[0].slice(..792)).is_none(), "cut off");
        assert!(Run::<f64>::of(&pack(&(vec![1.0f64; 100], 1u8)).unwrap()).is_none());
        assert!(Run::<f64>::of(&pack(&vec![1.0f64; 3]).unwrap()).is_none(), "in the head");
    }
}
