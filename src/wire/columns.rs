//! Columns: integers as variable-length bytes, ids as differences, byte strings with their length before them.
//!
//! A batch is a few columns side by side; each is one msgpack `bin`, so that a message of a thousand tasks
//! costs a handful of msgpack values. Integers are little-endian base 128.

use super::WireError;

/// A column under construction. `clear` keeps its memory for the next batch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Column {
    bytes: Vec<u8>,
    last: u64,
}

impl Column {
    /// Appends an integer: 1 byte below 128, 10 at the most.
    #[inline]
    pub fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Appends a signed integer, small magnitudes in few bytes.
    #[inline]
    pub fn put_signed(&mut self, value: i64) {
        self.put(((value << 1) ^ (value >> 63)) as u64);
    }

    /// Appends an id as its difference from the id before it.
    #[inline]
    pub fn put_delta(&mut self, id: u64) {
        self.put_signed(id.wrapping_sub(self.last) as i64);
        self.last = id;
    }

    /// Appends a byte string with its length.
    #[inline]
    pub fn put_bytes(&mut self, bytes: &[u8]) {
        self.put(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends bytes whose number the reader knows.
    #[inline]
    pub fn put_raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The encoded bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Empties the column, keeping its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.last = 0;
    }
}

/// Reads a column from its front.
#[derive(Debug, Clone)]
pub struct ColumnReader<'a> {
    name: &'static str,
    bytes: &'a [u8],
    last: u64,
}

impl<'a> ColumnReader<'a> {
    /// A reader of `bytes`; `name` appears in errors.
    pub fn new(name: &'static str, bytes: &'a [u8]) -> Self {
        Self { name, bytes, last: 0 }
    }

    /// The next integer.
    #[inline]
    pub fn take(&mut self) -> Result<u64, WireError> {
        if let [first, rest @ ..] = self.bytes
            && *first < 0x80
        {
            self.bytes = rest;
            return Ok(u64::from(*first));
        }
        self.take_long()
    }

    fn take_long(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for (index, byte) in self.bytes.iter().enumerate().take(10) {
            let bits = u64::from(byte & 0x7f);
            if index == 9 && bits > 1 {
                return Err(WireError::OutOfRange { column: self.name, value: bits });
            }
            value |= bits << (7 * index);
            if byte & 0x80 == 0 {
                self.bytes = &self.bytes[index + 1..];
                return Ok(value);
            }
        }
        match self.bytes.len() {
            0..10 => Err(WireError::Truncated { column: self.name }),
            _ => Err(WireError::OutOfRange { column: self.name, value }),
        }
    }

    /// The next integer, which must fit 32 bits.
    #[inline]
    pub fn take_u32(&mut self) -> Result<u32, WireError> {
        let value = self.take()?;
        u32::try_from(value).map_err(|_| WireError::OutOfRange { column: self.name, value })
    }

    /// The next signed integer.
    #[inline]
    pub fn take_signed(&mut self) -> Result<i64, WireError> {
        let value = self.take()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    /// The next id of a column written with [`Column::put_delta`].
    #[inline]
    pub fn take_delta(&mut self) -> Result<u64, WireError> {
        self.last = self.last.wrapping_add(self.take_signed()? as u64);
        Ok(self.last)
    }

    /// The next id, which must fit 32 bits.
    #[inline]
    pub fn take_delta_u32(&mut self) -> Result<u32, WireError> {
        let value = self.take_delta()?;
        u32::try_from(value).map_err(|_| WireError::OutOfRange { column: self.name, value })
    }

    /// The next byte string.
    #[inline]
    pub fn take_bytes(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.take()?;
        self.take_raw(usize::try_from(length).unwrap_or(usize::MAX))
    }

    /// The next `length` bytes.
    #[inline]
    pub fn take_raw(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let Some((front, rest)) = self.bytes.split_at_checked(length) else {
            return Err(WireError::Truncated { column: self.name });
        };
        self.bytes = rest;
        Ok(front)
    }

    /// Whether everything was read.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Ok if everything was read.
    pub fn finish(&self) -> Result<(), WireError> {
        match self.bytes.len() {
            0 => Ok(()),
            bytes => Err(WireError::Trailing { column: self.name, bytes }),
        }
    }
}
