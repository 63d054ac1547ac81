//! Chunks that gzip has compressed, taken from HDF5's library as they lie in the file: its lock is held for the reading
//! alone, and each thread unpacks its own. Next: `deflate`, which does.

// `H5Dread_chunk` has no safe binding, and functions that not every version has are looked up.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::path::Path;

use hdf5_metno::Dataset;
use hdf5_metno_sys::h5::{herr_t, hsize_t};
use hdf5_metno_sys::h5i::hid_t;
use hdf5_metno_sys::h5p::H5P_DEFAULT;

use super::failed;
use crate::collections::storage::StorageError;
use crate::collections::storage::deflate::{Filter, unpack};

/// Chunks that are read as they are in the file.
pub(super) struct Packed {
    pub(super) chunks: Vec<usize>,
    filters: Vec<Filter>,
    functions: ChunkFunctions,
}

impl Packed {
    /// What is needed to unpack the chunks of this dataset here, if gzip has compressed them and nothing else was done.
    pub(super) fn of(dataset: &Dataset) -> Option<Self> {
        let filters = dataset.filters().into_iter().map(|filter| match filter {
            hdf5_metno::filters::Filter::Shuffle => Some(Filter::Shuffle),
            hdf5_metno::filters::Filter::Deflate(_) => Some(Filter::Deflate),
            _ => None,
        });
        let filters = filters.collect::<Option<Vec<_>>>()?;
        if !filters.contains(&Filter::Deflate) {
            return None; // The library has nothing to compute.
        }
        Some(Self { chunks: dataset.chunk()?, filters, functions: ChunkFunctions::find()? })
    }

    /// The elements of a chunk; None if the file does not have it. Only the reading is done under the library's lock.
    pub(super) fn read(
        &self,
        path: &Path,
        dataset: &Dataset,
        index: &[u64],
        element_bytes: usize,
    ) -> Result<Option<Vec<u8>>, StorageError> {
        let start: Vec<u64> = index.iter().zip(&self.chunks).map(|(at, &chunk)| at * chunk as u64).collect();
        let read = hdf5_metno::sync::sync(|| {
            let mut length = 0;
            // SAFETY: the id is of a live dataset, and `start` has a number for each of its axes.
            let status = unsafe { (self.functions.size)(dataset.id(), start.as_ptr(), &mut length) };
            if status < 0 {
                length = 0; // what some versions say of a chunk that is not there
            }
            let (mut chunk, mut skipped) = (vec![0; length as usize], 0);
            if length > 0 {
                let into = chunk.as_mut_ptr().cast();
                // SAFETY: as above, and `chunk` has as many bytes as the chunk has in the file.
                let status = unsafe {
                    (self.functions.read)(dataset.id(), H5P_DEFAULT, start.as_ptr(), &mut skipped, into)
                };
                hdf5_metno::h5check(status)?;
            }
            Ok((chunk, skipped))
        });
        let (chunk, skipped) = read.map_err(failed("read", path))?;
        if chunk.is_empty() {
            return Ok(None);
        }
        let chunk_bytes = self.chunks.iter().product::<usize>() * element_bytes;
        let unpacked = unpack(chunk, &self.filters, skipped, element_bytes, chunk_bytes);
        unpacked.map(Some).map_err(|what| StorageError::Library {
            step: "read",
            file: path.to_owned(),
            message: format!("the chunk at {start:?} is damaged: {what}"),
        })
    }
}

/// Functions that the library has from 1.10.3 on.
#[derive(Clone, Copy)]
struct ChunkFunctions {
    size: ChunkSize,
    read: ChunkRead,
}

type ChunkSize = unsafe extern "C" fn(hid_t, *const hsize_t, *mut hsize_t) -> herr_t;
type ChunkRead = unsafe extern "C" fn(hid_t, hid_t, *const hsize_t, *mut u32, *mut c_void) -> herr_t;

impl ChunkFunctions {
    fn find() -> Option<Self> {
        let size = function(c"H5Dget_chunk_storage_size")?;
        // (From 2.0 on this is its name; the plain one is a macro.)
        let read = function(c"H5Dread_chunk").or_else(|| function(c"H5Dread_chunk1"))?;
        Some(Self {
            // SAFETY: this is the signature of the library's function of that name.
            size: unsafe { std::mem::transmute::<*mut c_void, ChunkSize>(size) },
            // SAFETY: as above.
            read: unsafe { std::mem::transmute::<*mut c_void, ChunkRead>(read) },
        })
    }
}

/// A function of the library that not every version has.
pub(super) fn function(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name is a C string, and the handle means all that is loaded.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}
