//! Batches and the outbox they gather in: messages of one kind in a row become one frame.
//!
//! An [`Outbox`] belongs to one direction of one connection. Pushing a message appends to the open batch, or
//! seals that batch first when the kind differs; so order is kept and runs are cheap. The frames that a
//! shell writes are taken with [`Outbox::swap_into`].

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_bytes::Bytes;
use smallvec::SmallVec;

use super::columns::{Column, ColumnReader};
use super::{WireError, frame};

/// A batch is sealed when it holds this many items, so that the receiver can start on it.
const ITEMS_MAX: u32 = 4096;
/// A batch is sealed when its columns hold this many bytes.
const BYTES_MAX: usize = 256 * 1024;
/// No message has more columns than this.
const COLUMNS_MAX: usize = 5;

/// Opcode of an outbox without an open batch.
const NONE: u8 = 0;

/// Frames on their way to one peer.
#[derive(Debug, Default)]
pub struct Outbox {
    sealed: Vec<u8>,
    open: Batch,
}

/// A batch under construction: items, spread over columns.
#[derive(Debug, Default)]
pub(super) struct Batch {
    opcode: u8,
    count: u32,
    pub(super) columns: [Column; COLUMNS_MAX],
}

impl Outbox {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.open.count == 0
    }

    /// Bytes that wait here, the open batch included.
    pub fn len_bytes(&self) -> usize {
        self.sealed.len() + self.open.bytes()
    }

    /// Seals what is open and swaps all frames into `frames`, which must be empty; its memory is kept for
    /// the frames to come.
    pub fn swap_into(&mut self, frames: &mut Vec<u8>) {
        debug_assert!(frames.is_empty());
        self.seal();
        std::mem::swap(&mut self.sealed, frames);
    }

    /// The batch of `opcode`, with room for one item, which the caller then writes.
    #[inline]
    pub(super) fn item(&mut self, opcode: u8) -> &mut Batch {
        if self.open.opcode != opcode || self.open.count >= ITEMS_MAX || self.open.bytes() >= BYTES_MAX {
            self.seal();
            self.open.opcode = opcode;
        }
        self.open.count += 1;
        &mut self.open
    }

    /// Appends a message that does not batch.
    pub(super) fn single<T: Serialize>(&mut self, opcode: u8, body: &T) {
        self.seal();
        frame::append(&mut self.sealed, opcode, |out| {
            rmp_serde::encode::write(out, body).expect("our own messages serialise, and memory takes them");
        });
    }

    fn seal(&mut self) {
        if self.open.count == 0 {
            return;
        }
        let used =
            self.open.columns.iter().rposition(|column| !column.as_bytes().is_empty()).map_or(0, |i| i + 1);
        let body = Body {
            count: self.open.count,
            columns: self.open.columns[..used].iter().map(|column| Bytes::new(column.as_bytes())).collect(),
        };
        frame::append(&mut self.sealed, self.open.opcode, |out| {
            rmp_serde::encode::write(out, &body).expect("a batch serialises, and memory takes it");
        });
        drop(body);
        self.open.opcode = NONE;
        self.open.count = 0;
        self.open.columns[..used].iter_mut().for_each(Column::clear);
    }
}

impl Batch {
    /// Whether the item under construction is the batch's first.
    #[inline]
    pub(super) fn is_first(&self) -> bool {
        self.count == 1
    }

    #[inline]
    fn bytes(&self) -> usize {
        self.columns.iter().map(|column| column.as_bytes().len()).sum()
    }
}

#[derive(Serialize, Deserialize)]
struct Body<'a> {
    count: u32,
    #[serde(borrow, deserialize_with = "few_columns")]
    columns: SmallVec<[&'a Bytes; COLUMNS_MAX]>,
}

/// Reads columns without believing how many are announced.
fn few_columns<'de: 'a, 'a, D: Deserializer<'de>>(
    from: D,
) -> Result<SmallVec<[&'a Bytes; COLUMNS_MAX]>, D::Error> {
    struct Columns<'a>(PhantomData<&'a Bytes>);

    impl<'de: 'a, 'a> Visitor<'de> for Columns<'a> {
        type Value = SmallVec<[&'a Bytes; COLUMNS_MAX]>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {COLUMNS_MAX} columns")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Self::Value, A::Error> {
            if let Some(announced) = from.size_hint().filter(|announced| *announced > COLUMNS_MAX) {
                return Err(A::Error::invalid_length(announced, &self));
            }
            let mut columns = SmallVec::new();
            while let Some(column) = from.next_element()? {
                columns.push(column);
            }
            Ok(columns)
        }
    }

    from.deserialize_seq(Columns(PhantomData))
}

/// The columns of a received batch.
#[derive(Debug, Clone)]
pub(super) struct BatchReader<'a> {
    remaining: u32,
    columns: SmallVec<[&'a Bytes; COLUMNS_MAX]>,
}

impl<'a> BatchReader<'a> {
    /// Splits a frame's body into columns. `message` appears in errors.
    pub(super) fn new(message: &'static str, body: &'a [u8]) -> Result<Self, WireError> {
        let Body { count, columns } = decode(message, body)?;
        Ok(Self { remaining: count, columns })
    }

    /// A reader of column `index`; a column that was not sent is empty.
    pub(super) fn column(&self, index: usize, name: &'static str) -> ColumnReader<'a> {
        ColumnReader::new(name, self.columns.get(index).map_or(&[], |column| column))
    }

    /// Counts one item down; false when all were read.
    #[inline]
    pub(super) fn advance(&mut self) -> bool {
        let more = self.remaining > 0;
        self.remaining = self.remaining.saturating_sub(1);
        more
    }
}

/// Decodes the body of a message that does not batch.
pub(super) fn decode<'a, T: Deserialize<'a>>(message: &'static str, body: &'a [u8]) -> Result<T, WireError> {
    rmp_serde::from_slice(body).map_err(|error| WireError::Malformed { message, reason: error.to_string() })
}
