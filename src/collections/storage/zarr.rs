//! Zarr arrays of version 2 and 3 on a local or shared file system: chunks are files, decoded one by one into the part
//! of memory that they cover, and written by whoever has them.
//!
//! `zarrs` has the format and its codecs. It is given one chunk at a time and no threads: the tasks of a cluster are
//! the parallelism, and a chunk that is damaged can be named.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zarrs::array::codec::{GzipCodec, ZstdCodec};
use zarrs::array::{
    Array, ArrayBuilder, ArrayBytes, ArrayCreateError, ArraySubset, BytesToBytesCodecTraits, CodecOptions,
    DataType, FillValue, data_type,
};
use zarrs::filesystem::FilesystemStore;

use super::memory::{bytes_of, fill_bytes};
use super::region::{self, copy_part, for_each_chunk, lengths};
use super::{Compression, Elements, StorageError, StoredArray, WriteOptions};
use crate::model::numbers::{Dtype, Element};

/// Without a chunk shape, arrays are divided into chunks of about this many bytes.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// Chunk grids whose chunks are all alike, except that those at the far edges may be smaller.
const EVEN_GRIDS: [&str; 2] = ["regular", "zarrs.regular_bounded"];

type Opened = Array<FilesystemStore>;

/// An array whose chunks are read.
pub(super) struct Reader {
    directory: PathBuf,
    array: Opened,
}

impl Reader {
    /// Reads the part `ranges`, which is inside the array and not empty.
    pub(super) fn read<T: Element>(
        &self,
        ranges: &[Range<usize>],
        into: &mut [T],
    ) -> Result<(), StorageError> {
        let size = T::DTYPE.size();
        let counts = lengths(ranges);
        fill_bytes(into, |bytes| {
            let chunks = chunk_shape(&self.directory, &self.array)?;
            for_each_chunk(&chunks, ranges, |index, in_chunk, in_part| {
                let failed =
                    |message: String| chunk_failed("read", &self.directory, &self.array, index, message);
                let chunk: ArrayBytes<'static> = self
                    .array
                    .retrieve_chunk_subset_opt(index, &subset(in_chunk), &options())
                    .map_err(|error| failed(error.to_string()))?;
                let chunk = chunk.into_fixed().map_err(|error| failed(error.to_string()))?;
                copy_part((&chunk, &lengths(in_part), &whole(in_part)), (bytes, &counts, in_part), size);
                Ok(())
            })
        })
    }
}

/// Opens the array in `directory`.
pub(super) fn open(directory: &Path) -> Result<StoredArray, StorageError> {
    let array = open_array(directory)?;
    let dtype = dtype_of(array.data_type()).ok_or_else(|| StorageError::UnknownDtype {
        file: directory.to_owned(),
        what: format!("{:?}", array.data_type()),
    })?;
    let shape = array.shape().iter().map(|&length| length as usize).collect::<Vec<_>>();
    let chunks = chunk_shape(directory, &array)?;
    let elements = Elements::Zarr(Box::new(Reader { directory: directory.to_owned(), array }));
    let path = directory.to_owned();
    // (A directory has no time that tells of a change inside its files.)
    Ok(StoredArray { path, files: None, dtype, shape, chunks: Some(chunks), elements })
}

/// Makes an array of version 3 without chunks in `directory`, which is there and empty.
pub(super) fn create(
    directory: &Path,
    dtype: Dtype,
    shape: &[usize],
    options: &WriteOptions,
) -> Result<(), StorageError> {
    let failed =
        |message: String| StorageError::Library { step: "create", file: directory.to_owned(), message };
    let store = FilesystemStore::new(directory).map_err(|error| failed(error.to_string()))?;
    let chunks = options.chunks.clone().unwrap_or_else(|| region::chunks_of(dtype, shape, CHUNK_BYTES));
    let (data_type, zero) = data_type_of(dtype);
    let codecs: Vec<Arc<dyn BytesToBytesCodecTraits>> = match options.compression {
        Compression::None => Vec::new(),
        Compression::Gzip(level) => {
            vec![Arc::new(GzipCodec::new(level.into()).map_err(|error| failed(error.to_string()))?)]
        }
        Compression::Zstd(level) => vec![Arc::new(ZstdCodec::new(i32::from(level), false))],
    };
    let long = |lengths: &[usize]| lengths.iter().map(|&length| length as u64).collect::<Vec<_>>();
    let array = ArrayBuilder::new(long(shape), long(&chunks), data_type, zero)
        .bytes_to_bytes_codecs(codecs)
        .build(Arc::new(store), "/")
        .map_err(|error| failed(error.to_string()))?;
    array.store_metadata().map_err(|error| failed(error.to_string()))
}

/// Writes the part `ranges`, which is inside the array and not empty. A chunk that is covered in part is read, changed
/// and written, so nobody else may write that one at the same time.
pub(super) fn write<T: Element>(
    directory: &Path,
    ranges: &[Range<usize>],
    from: &[T],
) -> Result<(), StorageError> {
    let array = open_array(directory)?;
    let size = T::DTYPE.size();
    let counts = lengths(ranges);
    let bytes = bytes_of(from);
    let chunks = chunk_shape(directory, &array)?;
    for_each_chunk(&chunks, ranges, |index, in_chunk, in_part| {
        // Up to where the array ends, a chunk is whole: what a killed writer left of it need not be read.
        let is_whole = in_chunk.iter().zip(&chunks).zip(index.iter().zip(array.shape())).all(
            |((range, &chunk), (&at, &length))| {
                range.start == 0 && range.end == chunk.min(length as usize - at as usize * chunk)
            },
        );
        let (shape, part) =
            if is_whole { (chunks.clone(), in_chunk.to_vec()) } else { (lengths(in_part), whole(in_part)) };
        let mut stored = vec![0; shape.iter().product::<usize>() * size];
        copy_part((bytes, &counts, in_part), (&mut stored, &shape, &part), size);
        let stored = ArrayBytes::new_flen(stored);
        let stored = match is_whole {
            true => array.store_chunk_opt(index, stored, &options()),
            false => array.store_chunk_subset_opt(index, &subset(in_chunk), stored, &options()),
        };
        stored.map_err(|error| chunk_failed("write", directory, &array, index, error.to_string()))
    })
}

fn open_array(directory: &Path) -> Result<Opened, StorageError> {
    // (Without metadata zarrs says no more than that there is none.)
    std::fs::read_dir(directory).map_err(StorageError::io("open", directory))?;
    let malformed = |what: String| StorageError::malformed(directory, what);
    let store = FilesystemStore::new(directory).map_err(|error| malformed(error.to_string()))?;
    let array = Array::open(Arc::new(store), "/").map_err(|error| match error {
        ArrayCreateError::MissingMetadata => {
            malformed("there is no array in it: neither zarr.json nor .zarray".to_owned())
        }
        other => malformed(other.to_string()),
    })?;
    let grid = array.chunk_grid().name_v3().unwrap_or_default();
    if !EVEN_GRIDS.contains(&grid.as_ref()) {
        let (file, grid) = (directory.to_owned(), grid.into_owned());
        return Err(StorageError::UnevenChunks { file, grid });
    }
    Ok(array)
}

/// The shape of all chunks but those at the far edges.
fn chunk_shape(directory: &Path, array: &Opened) -> Result<Vec<usize>, StorageError> {
    array
        .chunk_shape(&vec![0; array.dimensionality()])
        .map(|chunks| chunks.iter().map(|length| length.get() as usize).collect())
        .map_err(|error| StorageError::malformed(directory, error.to_string()))
}

fn chunk_failed(
    step: &'static str,
    directory: &Path,
    array: &Opened,
    index: &[u64],
    message: String,
) -> StorageError {
    StorageError::Library { step, file: directory.join(array.chunk_key(index).as_str()), message }
}

/// One thread: this one.
fn options() -> CodecOptions {
    CodecOptions::default().with_concurrent_target(1)
}

fn subset(ranges: &[Range<usize>]) -> ArraySubset {
    ArraySubset::new_with_ranges(
        &ranges.iter().map(|range| range.start as u64..range.end as u64).collect::<Vec<_>>(),
    )
}

/// All of an array that has the extents of `ranges`.
fn whole(ranges: &[Range<usize>]) -> Vec<Range<usize>> {
    ranges.iter().map(|range| 0..range.len()).collect()
}

/// The type as Zarr names it, and its zero.
fn data_type_of(dtype: Dtype) -> (DataType, FillValue) {
    let data_type = match dtype {
        Dtype::F32 => data_type::float32(),
        Dtype::F64 => data_type::float64(),
        Dtype::I32 => data_type::int32(),
        Dtype::I64 => data_type::int64(),
        Dtype::U8 => data_type::uint8(),
        Dtype::Bool => data_type::bool(),
        Dtype::Complex64 => data_type::complex128(),
    };
    (data_type, FillValue::new(vec![0; dtype.size()]))
}

fn dtype_of(there: &DataType) -> Option<Dtype> {
    [Dtype::F32, Dtype::F64, Dtype::I32, Dtype::I64, Dtype::U8, Dtype::Bool, Dtype::Complex64]
        .into_iter()
        .find(|&dtype| data_type_of(dtype).0 == *there)
}
