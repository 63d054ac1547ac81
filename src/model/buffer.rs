//! Memory for bulk data: a growable byte buffer that starts on a cache line.
//!
//! Packing fills one per primitive sequence, receiving fills one per incoming buffer; either is then frozen
//! into [`Bytes`] without a copy. Which sequences get one is decided in [`pack`](super::pack). Large ones do not come
//! from the heap if the process has said where else they come from, with [`take_bulk_from`].

// A `Vec<u8>` cannot promise more than byte alignment, so the memory is managed here.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error, realloc};
use std::fmt;
use std::ptr::NonNull;
use std::sync::OnceLock;

use bytes::Bytes;

/// The alignment of buffers that are allocated here, in bytes: one cache line, and the widest vector register.
pub const BUFFER_ALIGNMENT_BYTES: usize = 64;

/// Buffers of this many bytes and more come from where [`take_bulk_from`] says.
pub const BULK_BYTES_MIN: usize = 1 << 20;

static BULK: OnceLock<&'static dyn Regions> = OnceLock::new();

/// Memory for one large buffer; given back when it is dropped.
///
/// # Safety
/// From `start` there are `bytes` initialised bytes, aligned to [`BUFFER_ALIGNMENT_BYTES`], that stay where they are and
/// that nobody else writes while the region lives.
pub unsafe trait Region: fmt::Debug + Send + Sync {
    /// Where it begins.
    fn start(&self) -> NonNull<u8>;
    /// How many bytes it has.
    fn bytes(&self) -> usize;
    /// Whether all of them are zero.
    fn is_zero(&self) -> bool;
}

/// Where large buffers come from.
pub trait Regions: Send + Sync {
    /// A region of at least so many bytes; None if the heap has to do.
    fn take(&self, bytes: usize) -> Option<Box<dyn Region>>;
}

/// Has large buffers of this process come from `regions`; the first call counts.
pub fn take_bulk_from(regions: &'static dyn Regions) {
    // Whoever comes second finds the buffers served.
    let _ = BULK.set(regions);
}

/// A growable byte buffer aligned to [`BUFFER_ALIGNMENT_BYTES`].
#[derive(Debug)]
pub struct AlignedBuffer {
    start: NonNull<u8>,
    length: usize,
    capacity: usize,
    /// Whose memory it is; the heap's if there is none.
    region: Option<Box<dyn Region>>,
}

// SAFETY: the buffer owns its memory, which holds plain bytes; nothing else points to it.
unsafe impl Send for AlignedBuffer {}
// SAFETY: shared access only reads.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// An empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self::allocate(capacity, Fill::Nothing)
    }

    /// A buffer of `length` zero bytes, to be written in place.
    pub fn zeroed(length: usize) -> Self {
        let mut buffer = Self::for_overwrite(length);
        if buffer.region.as_ref().is_some_and(|region| !region.is_zero()) {
            buffer.as_mut_slice().fill(0);
        }
        buffer
    }

    /// A buffer of `length` bytes of any content, all of which are to be overwritten (by a socket, or by MPI).
    pub fn for_overwrite(length: usize) -> Self {
        // (What the heap gives is not initialised, and large pieces of it are zero at no cost.)
        let mut buffer = Self::allocate(length, Fill::Zeros);
        buffer.length = length;
        buffer
    }

    /// Appends bytes.
    #[inline(always)]
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.capacity - self.length < bytes.len() {
            self.grow(bytes.len());
        }
        // SAFETY: `grow` made sure that the end is inside the allocation.
        let end = unsafe { self.start.as_ptr().add(self.length) };
        // SAFETY: there is room for `bytes` at `end`, and `&mut self` means that `bytes` lies elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), end, bytes.len()) };
        self.length += bytes.len();
    }

    /// How many bytes it holds.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// What it holds.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `length` bytes from `start` are initialised.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }

    /// What it holds, to be overwritten.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: `length` bytes from `start` are initialised, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }

    /// Where it begins, for whoever writes to parts of it while others are being written.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Makes it shareable, without a copy.
    pub fn freeze(self) -> Bytes {
        if self.is_empty() { Bytes::new() } else { Bytes::from_owner(self) }
    }

    /// An empty buffer; memory from the heap is filled as told.
    fn allocate(capacity: usize, fill: Fill) -> Self {
        let mut buffer =
            Self { start: NonNull::<CacheLine>::dangling().cast(), length: 0, capacity: 0, region: None };
        if capacity == 0 {
            return buffer;
        }
        match region(capacity) {
            Some(region) => {
                (buffer.start, buffer.capacity) = (region.start(), region.bytes());
                buffer.region = Some(region);
            }
            None => (buffer.start, buffer.capacity) = (allocate(capacity, fill), capacity),
        }
        buffer
    }

    #[cold]
    fn grow(&mut self, more: usize) {
        let Some(needed) = self.length.checked_add(more) else {
            handle_alloc_error(Layout::new::<CacheLine>());
        };
        let capacity = needed.max(self.capacity.saturating_mul(2)).max(BUFFER_ALIGNMENT_BYTES);
        if self.capacity == 0 || self.region.is_some() || region_due(capacity) {
            let mut larger = Self::allocate(capacity, Fill::Nothing);
            larger.extend(self.as_slice());
            *self = larger;
            return;
        }
        let layout = layout(self.capacity);
        let target = self::layout(capacity);
        // SAFETY: `start` was allocated with `layout`, and `target` has the same alignment and is not empty.
        let moved = unsafe { realloc(self.start.as_ptr(), layout, target.size()) };
        let Some(moved) = NonNull::new(moved) else { handle_alloc_error(target) };
        (self.start, self.capacity) = (moved, capacity);
    }
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if self.capacity > 0 && self.region.is_none() {
            // SAFETY: `start` was allocated with this layout and is given back once.
            unsafe { dealloc(self.start.as_ptr(), layout(self.capacity)) };
        }
    }
}

#[repr(align(64))]
struct CacheLine;

enum Fill {
    Nothing,
    Zeros,
}

/// Whether so many bytes are to come from a region.
fn region_due(bytes: usize) -> bool {
    bytes >= BULK_BYTES_MIN && BULK.get().is_some()
}

fn region(bytes: usize) -> Option<Box<dyn Region>> {
    let regions = BULK.get().filter(|_| bytes >= BULK_BYTES_MIN)?;
    regions.take(bytes).filter(|region| region.bytes() >= bytes)
}

fn layout(capacity: usize) -> Layout {
    match Layout::from_size_align(capacity, BUFFER_ALIGNMENT_BYTES) {
        Ok(layout) => layout,
        Err(_) => handle_alloc_error(Layout::new::<CacheLine>()),
    }
}

fn allocate(capacity: usize, fill: Fill) -> NonNull<u8> {
    let layout = layout(capacity);
    let start = match fill {
        // SAFETY: callers ask for at least one byte.
        Fill::Nothing => unsafe { alloc(layout) },
        // SAFETY: callers ask for at least one byte.
        Fill::Zeros => unsafe { alloc_zeroed(layout) },
    };
    NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_was_appended_through_growth_and_freezing() {
        let mut buffer = AlignedBuffer::with_capacity(3);
        let mut expected = Vec::new();
        for round in 0..100u8 {
            let bytes = vec![round; round as usize];
            buffer.extend(&bytes);
            expected.extend(bytes);
        }
        assert_eq!(buffer.as_slice(), expected);
        assert_eq!(buffer.as_slice().as_ptr() as usize % BUFFER_ALIGNMENT_BYTES, 0);
        let frozen = buffer.freeze();
        assert_eq!(frozen, expected);
        assert_eq!(frozen.as_ptr() as usize % BUFFER_ALIGNMENT_BYTES, 0);
    }

    #[test]
    fn zeroed_can_be_written_in_place() {
        let mut buffer = AlignedBuffer::zeroed(10);
        buffer.as_mut_slice()[3] = 7;
        assert_eq!(buffer.as_slice(), [0, 0, 0, 7, 0, 0, 0, 0, 0, 0]);
        assert!(AlignedBuffer::zeroed(0).freeze().is_empty());
        assert_eq!(AlignedBuffer::for_overwrite(7).len(), 7);
    }
}
