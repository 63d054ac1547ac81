//! Chunks that are not compressed: the library has reserved a place for each when the file was made, and elements are
//! written there past it, by any number of writers. It is only asked where the places are, which no writer changes.

// `H5Dget_chunk_info_by_coord` has no safe binding, and not every version has it.
#![allow(unsafe_code)]

use std::ffi::{c_uint, c_void};
use std::fs::OpenOptions;
use std::ops::Range;
use std::path::Path;

use hdf5_metno::{Dataset, OpenMode};
use hdf5_metno_sys::h5::{haddr_t, herr_t, hsize_t};
use hdf5_metno_sys::h5i::hid_t;

use super::{failed, function, open_dataset};
use crate::collections::storage::StorageError;
use crate::collections::storage::flat::{ByteOrder, Flat, Order};
use crate::collections::storage::memory::bytes_of;
use crate::collections::storage::region::{copy_part, count, for_each_chunk, lengths};
use crate::model::numbers::Element;

/// Tells where a chunk is; the library has it from 1.10.5 on.
type ChunkInfo =
    unsafe extern "C" fn(hid_t, *const hsize_t, *mut c_uint, *mut haddr_t, *mut hsize_t) -> herr_t;

/// Whether this library tells where chunks are.
pub(in crate::collections::storage) fn can_place() -> bool {
    chunk_info().is_some()
}

/// Writes the part `ranges`, which is inside the dataset and not empty, into chunks that have their places; waits until
/// the file system has taken it.
pub(in crate::collections::storage) fn write<T: Element>(
    path: &Path,
    name: &str,
    ranges: &[Range<usize>],
    from: &[T],
) -> Result<(), StorageError> {
    let dataset = open_dataset(path, name, OpenMode::Read)?;
    let chunks = dataset.chunk().ok_or_else(|| unplaced(path))?;
    let file =
        OpenOptions::new().read(true).write(true).open(path).map_err(StorageError::io("open", path))?;
    let counts = lengths(ranges);
    let (from, size) = (bytes_of(from), T::DTYPE.size());
    let mut part = Vec::new();
    for_each_chunk(&chunks, ranges, |index, in_chunk, in_part| {
        let chunk = Flat {
            file: path.to_owned(),
            start_byte: place(path, &dataset, &chunks, index)?,
            dtype: T::DTYPE,
            shape: chunks.clone(),
            order: Order::RowMajor,
            byte_order: ByteOrder::Native,
        };
        let shape = lengths(in_part);
        let whole: Vec<_> = shape.iter().map(|&length| 0..length).collect();
        part.resize(count(in_part) * size, 0);
        copy_part((from, &counts, in_part), (&mut part, &shape, &whole), size);
        chunk.write_runs(&file, in_chunk, &part)
    })?;
    file.sync_data().map_err(StorageError::io("write", path))
}

/// The byte at which a chunk begins.
fn place(path: &Path, dataset: &Dataset, chunks: &[usize], index: &[u64]) -> Result<u64, StorageError> {
    let chunk_info = chunk_info().ok_or_else(|| unplaced(path))?;
    let start: Vec<u64> = index.iter().zip(chunks).map(|(at, &chunk)| at * chunk as u64).collect();
    let (mut filters, mut start_byte, mut bytes) = (0, 0, 0);
    hdf5_metno::sync::sync(|| {
        // SAFETY: the id is of a live dataset, `start` has a number for each of its axes, and the others are one each.
        let status =
            unsafe { chunk_info(dataset.id(), start.as_ptr(), &mut filters, &mut start_byte, &mut bytes) };
        hdf5_metno::h5check(status)
    })
    .map_err(failed("write", path))?;
    let is_reserved = bytes > 0 && start_byte != haddr_t::MAX;
    is_reserved.then_some(start_byte).ok_or_else(|| unplaced(path))
}

fn unplaced(path: &Path) -> StorageError {
    StorageError::Library {
        step: "write",
        file: path.to_owned(),
        message: "the places of its chunks are not reserved, or this version of HDF5 does not tell them; use one from \
                  1.10.5 on, the same on all ranks"
            .to_owned(),
    }
}

fn chunk_info() -> Option<ChunkInfo> {
    let found = function(c"H5Dget_chunk_info_by_coord")?;
    // SAFETY: this is the signature of the library's function of that name.
    Some(unsafe { std::mem::transmute::<*mut c_void, ChunkInfo>(found) })
}
