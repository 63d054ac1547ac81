//! A file part that is nothing but the elements of an array, one after the other: all of `.npy` behind its header, and
//! a contiguous HDF5 dataset. Parts are read and written at their places, by any number of threads and processes.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::StorageError;
use super::memory::{bytes_of, fill_bytes, swap_words, word_bytes};
use super::region::{self, Run, lengths, runs};
use crate::model::numbers::{Dtype, Element};

/// Runs closer than this are read together, and what lies between them is thrown away: a disk seek, or a round trip
/// to a file server, costs more.
const GAP_BYTES_MAX: usize = 64 * 1024;

/// The most that is read at once if some of it is thrown away.
const SPAN_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Which axis runs fastest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    RowMajor,
    ColumnMajor,
}

/// Which end of a word comes first, compared with this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ByteOrder {
    Native,
    Swapped,
}

/// Where the elements are, and how they lie there.
#[derive(Clone, Debug)]
pub(super) struct Flat {
    pub(super) file: PathBuf,
    pub(super) start_byte: u64,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) order: Order,
    pub(super) byte_order: ByteOrder,
}

impl Flat {
    /// The bytes of a complete file, if nothing follows the elements.
    pub(super) fn file_bytes(&self) -> u64 {
        let elements = self.shape.iter().map(|&length| length as u64).product::<u64>();
        self.start_byte + elements * self.dtype.size() as u64
    }

    /// Whether all elements are there.
    pub(super) fn check_complete(&self, file: &File) -> Result<(), StorageError> {
        let bytes = file.metadata().map_err(StorageError::io("read", &self.file))?.len();
        if bytes < self.file_bytes() {
            return Err(StorageError::Truncated {
                file: self.file.clone(),
                bytes_expected: self.file_bytes(),
                bytes,
            });
        }
        Ok(())
    }

    /// Reads a part of the array into row-major memory.
    pub(super) fn read<T: Element>(
        &self,
        file: &File,
        ranges: &[Range<usize>],
        into: &mut [T],
    ) -> Result<(), StorageError> {
        region::check(&self.file, &self.shape, ranges, into.len())?;
        fill_bytes(into, |bytes| {
            match self.order {
                Order::RowMajor => self.read_runs(file, &self.shape, ranges, bytes)?,
                Order::ColumnMajor => {
                    // In the file's own order, in which its axes are named in reverse.
                    let (shape, ranges) = (reversed(&self.shape), reversed(ranges));
                    let mut columns = vec![0; bytes.len()];
                    self.read_runs(file, &shape, &ranges, &mut columns)?;
                    let counts = reversed(&lengths(&ranges));
                    region::transpose(&columns, bytes, &counts, self.dtype.size());
                }
            }
            if self.byte_order == ByteOrder::Swapped {
                swap_words(bytes, word_bytes(self.dtype));
            }
            Ok(())
        })
    }

    /// Writes a part of the array from row-major memory, and waits until the file system has taken it: errors of a
    /// full or failing disk come out here and nowhere else.
    pub(super) fn write<T: Element>(
        &self,
        file: &File,
        ranges: &[Range<usize>],
        from: &[T],
    ) -> Result<(), StorageError> {
        region::check(&self.file, &self.shape, ranges, from.len())?;
        self.write_runs(file, ranges, bytes_of(from))?;
        file.sync_data().map_err(StorageError::io("write", &self.file))
    }

    /// Writes a part that is inside the array, and does not wait.
    pub(super) fn write_runs(
        &self,
        file: &File,
        ranges: &[Range<usize>],
        from: &[u8],
    ) -> Result<(), StorageError> {
        let size = self.dtype.size();
        for run in runs(&self.shape, ranges) {
            let part = &from[run.part * size..][..run.length * size];
            file.write_all_at(part, self.byte_of(run)).map_err(StorageError::io("write", &self.file))?;
        }
        Ok(())
    }

    fn read_runs(
        &self,
        file: &File,
        shape: &[usize],
        ranges: &[Range<usize>],
        into: &mut [u8],
    ) -> Result<(), StorageError> {
        let size = self.dtype.size();
        let mut runs = runs(shape, ranges).peekable();
        let mut near = Vec::new();
        let mut span = Vec::new();
        while let Some(first) = runs.next() {
            near.clear();
            near.push(first);
            let mut end = first.whole + first.length;
            while let Some(next) = runs.next_if(|next| {
                (next.whole - end) * size <= GAP_BYTES_MAX
                    && (next.whole + next.length - first.whole) * size <= SPAN_BYTES_MAX
            }) {
                end = next.whole + next.length;
                near.push(next);
            }
            if let [run] = near[..] {
                self.read_exact(file, &mut into[run.part * size..][..run.length * size], self.byte_of(run))?;
                continue;
            }
            span.resize((end - first.whole) * size, 0);
            self.read_exact(file, &mut span, self.byte_of(first))?;
            for run in &near {
                into[run.part * size..][..run.length * size]
                    .copy_from_slice(&span[(run.whole - first.whole) * size..][..run.length * size]);
            }
        }
        Ok(())
    }

    fn read_exact(&self, file: &File, into: &mut [u8], start_byte: u64) -> Result<(), StorageError> {
        file.read_exact_at(into, start_byte).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => StorageError::Truncated {
                file: self.file.clone(),
                bytes_expected: self.file_bytes(),
                bytes: file.metadata().map_or(0, |metadata| metadata.len()),
            },
            _ => StorageError::io("read", &self.file)(error),
        })
    }

    fn byte_of(&self, run: Run) -> u64 {
        self.start_byte + run.whole as u64 * self.dtype.size() as u64
    }
}

/// Reserves `bytes` for a file, so that a full disk is noticed before anything is computed.
pub(super) fn reserve(file: &File, path: &Path, bytes: u64) -> Result<(), StorageError> {
    use nix::fcntl::{FallocateFlags, fallocate};
    let failed = StorageError::io("reserve space for", path);
    let Ok(length) = i64::try_from(bytes) else {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    };
    // (Reserving would take all there is before it fails, and others write there as well.)
    let free =
        nix::sys::statvfs::fstatvfs(file).map(|system| system.blocks_available() * system.fragment_size());
    if free.is_ok_and(|free| free < bytes) {
        return Err(failed(io::ErrorKind::StorageFull.into()));
    }
    if length > 0 {
        match fallocate(file, FallocateFlags::empty(), 0, length) {
            // Not every file system can (Lustre and NFS before 4.2 cannot): the length alone, then.
            Ok(()) | Err(nix::Error::EOPNOTSUPP | nix::Error::ENOSYS | nix::Error::EINVAL) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
    file.set_len(bytes).map_err(failed)
}

fn reversed<T: Clone>(items: &[T]) -> Vec<T> {
    items.iter().rev().cloned().collect()
}
