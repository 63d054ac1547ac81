//! Values that peers are about to map: told where they lie, and kept until they are mapped.

use std::collections::HashMap;

use serde_bytes::ByteBuf;

use super::Pool;
use crate::model::Packed;
use crate::wire::peer::{BufferPart, Mapping};

/// What a mapping may carry itself, in bytes.
const INLINE_BYTES_MAX: usize = 64 * 1024;

/// The values that the other end of one connection is about to map. They are given up with it.
#[derive(Debug, Default)]
pub struct Leases {
    next: u64,
    held: HashMap<u64, Packed>,
}

impl Leases {
    /// Where the other end finds a value; None if more than a little of it lies in no segment.
    pub fn grant(&mut self, pool: &Pool, packed: &Packed) -> Option<Mapping> {
        let mut inline_bytes = packed.head.len();
        let mut buffers = Vec::with_capacity(packed.buffers.len());
        for buffer in &packed.buffers {
            buffers.push(match pool.locate(buffer) {
                Some(part) => BufferPart::Segment(part),
                None => {
                    inline_bytes += buffer.len();
                    BufferPart::Inline(ByteBuf::new())
                }
            });
            if inline_bytes > INLINE_BYTES_MAX {
                return None;
            }
        }
        if !buffers.iter().any(|buffer| matches!(buffer, BufferPart::Segment(_))) {
            return None;
        }
        for (part, buffer) in buffers.iter_mut().zip(&packed.buffers) {
            match part {
                BufferPart::Segment(_) => pool.export(buffer),
                BufferPart::Inline(bytes) => bytes.extend_from_slice(buffer),
            }
        }
        let lease = self.next;
        self.next += 1;
        self.held.insert(lease, packed.clone());
        Some(Mapping { pid: std::process::id(), lease, head: packed.head.to_vec(), buffers })
    }

    /// The other end has mapped it, or will not.
    pub fn end(&mut self, lease: u64) {
        self.held.remove(&lease);
    }
}
