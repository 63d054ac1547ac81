//! HDF5 datasets: what a file says of them, through the HDF5 library; and their elements, past it where that is possible.
//!
//! A contiguous dataset that is stored as this machine would is a row of elements at a known place of the file (`flat`),
//! so it is read by all threads and written by all workers at once, without the library. So are chunks written that are
//! not compressed (`placed`). Everything else (filters, other byte orders, virtual datasets) goes through the library,
//! which lets one thread in at a time and, built without MPI-IO, knows one writer. Of chunks that gzip has compressed it
//! hands out the bytes, and each thread unpacks its own (`packed`).

// The safe bindings read only into memory of their own; `H5Dread` and `H5Dwrite` are called here, on the caller's.
#![allow(unsafe_code)]

use std::ffi::{c_uint, c_void};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use hdf5_metno::dataset::{AllocTime, FillTime, Layout as Stored};
use hdf5_metno::types::{CompoundField, CompoundType, FloatSize, IntSize, TypeDescriptor};
use hdf5_metno::{Dataset, Dataspace, Datatype, Hyperslab, OpenMode, Selection, SliceOrIndex};
use hdf5_metno_sys::h5::herr_t;
use hdf5_metno_sys::h5d::{H5Dread, H5Dwrite};
use hdf5_metno_sys::h5i::hid_t;
use hdf5_metno_sys::h5p::H5P_DEFAULT;

use super::draft::Layout;
use super::flat::{ByteOrder, Flat, Order};
use super::memory::{bytes_of, fill_bytes};
use super::region::{copy_part, for_each_chunk, lengths};
use super::{Compression, Elements, StorageError, StoredArray, WriteOptions, region};
use crate::model::numbers::{Dtype, Element};
use packed::{Packed, function};
use placed::can_place;

mod packed;
pub(super) mod placed;

/// Without a chunk shape, compressed datasets are divided into chunks of about this many bytes.
const CHUNK_BYTES: usize = 1024 * 1024;

/// The version of the HDF5 library this process runs with.
pub fn version() -> Option<String> {
    let (major, minor, patch) = hdf5_metno::library_version();
    Some(format!("{major}.{minor}.{patch}"))
}

/// A dataset that is read through the library.
pub(super) struct Reader {
    path: PathBuf,
    dataset: Dataset,
    memory_type: Datatype,
    /// How its chunks are unpacked, if that can be done here.
    packed: Option<Packed>,
}

impl Reader {
    /// Reads the part `ranges`, which is inside the dataset and not empty.
    pub(super) fn read<T: Element>(
        &self,
        ranges: &[Range<usize>],
        into: &mut [T],
    ) -> Result<(), StorageError> {
        let size = T::DTYPE.size();
        fill_bytes(into, |bytes| match &self.packed {
            None => self.read_unpacked(ranges, bytes),
            Some(packed) => for_each_chunk(&packed.chunks, ranges, |index, in_chunk, in_part| {
                let counts = lengths(ranges);
                if let Some(chunk) = packed.read(&self.path, &self.dataset, index, size)? {
                    copy_part((&chunk, &packed.chunks, in_chunk), (bytes, &counts, in_part), size);
                    return Ok(());
                }
                // Not in the file: the library knows what its elements are.
                let ranges: Vec<_> = ranges
                    .iter()
                    .zip(in_part)
                    .map(|(range, part)| range.start + part.start..range.start + part.end)
                    .collect();
                let part_shape = lengths(in_part);
                let whole: Vec<_> = part_shape.iter().map(|&length| 0..length).collect();
                let mut part = vec![0; region::count(in_part) * size];
                self.read_unpacked(&ranges, &mut part)?;
                copy_part((&part, &part_shape, &whole), (bytes, &counts, in_part), size);
                Ok(())
            }),
        })
    }

    /// Has the library read and unpack a part.
    fn read_unpacked(&self, ranges: &[Range<usize>], bytes: &mut [u8]) -> Result<(), StorageError> {
        let failed = failed("read", &self.path);
        let (part, memory) = spaces(&self.dataset, ranges).map_err(&failed)?;
        hdf5_metno::sync::sync(|| {
            // SAFETY: all ids are of live handles, and `bytes` has room for as many elements of this type as
            // `memory` and `part` have.
            let status = unsafe {
                H5Dread(
                    self.dataset.id(),
                    self.memory_type.id(),
                    memory.id(),
                    part.id(),
                    H5P_DEFAULT,
                    bytes.as_mut_ptr().cast(),
                )
            };
            hdf5_metno::h5check(status).map(drop)
        })
        .map_err(failed)
    }
}

/// Opens a file for reading and describes one of its datasets.
pub(super) fn open(path: &Path, name: &str) -> Result<StoredArray, StorageError> {
    // (The library's own words for a missing or forbidden file are harder to read.)
    let file = File::open(path).map_err(StorageError::io("open", path))?;
    let dataset = open_dataset(path, name, OpenMode::Read)?;
    let failed = failed("read the type of", path);
    let dtype = dtype_of(path, &dataset.dtype().map_err(&failed)?)?;
    let memory_type = Datatype::from_descriptor(&descriptor(dtype)).map_err(&failed)?;
    let shape = dataset.shape();
    let is_as_in_memory = dataset.dtype().map_err(&failed)? == memory_type;
    let packed = if is_as_in_memory { Packed::of(&dataset) } else { None };
    let start_byte = dataset.offset();
    // A link may lead to a dataset of another file, and it is there that its elements have their places.
    let linked = Some(PathBuf::from(dataset.filename())).filter(|linked| !is_same_file(&file, linked));
    let is_in_known_files = match dataset.layout() {
        Stored::Compact | Stored::Chunked => true,
        Stored::Contiguous => start_byte.is_some(),
        _ => false,
    };
    let files = is_in_known_files.then(|| std::iter::once(path.to_owned()).chain(linked.clone()).collect());
    let mut stored = StoredArray {
        path: path.to_owned(),
        files,
        dtype,
        shape: shape.clone(),
        chunks: dataset.chunk(),
        elements: Elements::Hdf5(Reader { path: path.to_owned(), dataset, memory_type, packed }),
    };
    if is_as_in_memory
        && let Elements::Hdf5(reader) = &stored.elements
        && reader.dataset.layout() == Stored::Contiguous
        && linked.is_none()
        && let Some(start_byte) = start_byte
    {
        let path = path.to_owned();
        let flat = Flat {
            file: path,
            start_byte,
            dtype,
            shape,
            order: Order::RowMajor,
            byte_order: ByteOrder::Native,
        };
        flat.check_complete(&file)?;
        stored.elements = Elements::Flat(file, flat);
    }
    Ok(stored)
}

fn is_same_file(file: &File, name: &Path) -> bool {
    let (opened, named) = (file.metadata(), std::fs::metadata(name));
    opened.is_ok_and(|opened| {
        named.is_ok_and(|named| (opened.dev(), opened.ino()) == (named.dev(), named.ino()))
    })
}

/// Makes a file with one dataset; how its elements are written.
pub(super) fn create(
    path: &Path,
    name: &str,
    dtype: Dtype,
    shape: &[usize],
    options: &WriteOptions,
) -> Result<Layout, StorageError> {
    let failed = failed("create", path);
    let file = hdf5_metno::File::with_options()
        .set_access_plist(&unlocked().map_err(&failed)?)
        .and_then(|options| options.open_as(path, OpenMode::Create))
        .map_err(&failed)?;
    let mut builder = file
        .new_dataset_builder()
        .empty_as(descriptor(dtype))
        .shape(shape.to_vec())
        .create_intermediate_group(true);
    let can_have_chunks = !shape.is_empty() && !shape.contains(&0);
    builder = match (&options.chunks, options.compression) {
        (None, Compression::None) => {
            builder.layout(Stored::Contiguous).alloc_time(Some(AllocTime::Early)).fill_time(FillTime::Never)
        }
        (Some(chunks), Compression::None) if can_have_chunks && can_place() => {
            builder.chunk(chunks.clone()).alloc_time(Some(AllocTime::Early)).fill_time(FillTime::Never)
        }
        (chunks, _) if can_have_chunks => {
            builder.chunk(chunks.clone().unwrap_or_else(|| region::chunks_of(dtype, shape, CHUNK_BYTES)))
        }
        _ => builder.no_chunk(),
    };
    if let Compression::Gzip(level) = options.compression
        && can_have_chunks
    {
        builder = builder.shuffle().deflate(level);
    }
    let dataset = builder.create(name).map_err(&failed)?;
    let start_byte = dataset.offset();
    drop(dataset);
    file.close().map_err(failed)?;
    Ok(match (start_byte, options.compression) {
        (Some(start_byte), _) => Layout::Flat { start_byte },
        (None, Compression::None) if can_have_chunks && can_place() => Layout::Chunks,
        _ => Layout::Library,
    })
}

/// Writes the part `ranges`, which is inside the dataset and not empty, through the library.
pub(super) fn write<T: Element>(
    path: &Path,
    name: &str,
    ranges: &[Range<usize>],
    from: &[T],
) -> Result<(), StorageError> {
    let failed = failed("write", path);
    let dataset = open_dataset(path, name, OpenMode::ReadWrite)?;
    let (part, memory) = spaces(&dataset, ranges).map_err(&failed)?;
    let memory_type = Datatype::from_descriptor(&descriptor(T::DTYPE)).map_err(&failed)?;
    hdf5_metno::sync::sync(|| {
        // SAFETY: all ids are of live handles, and `from` has as many elements of this type as `memory` and `part`.
        let status = unsafe {
            H5Dwrite(
                dataset.id(),
                memory_type.id(),
                memory.id(),
                part.id(),
                H5P_DEFAULT,
                bytes_of(from).as_ptr().cast(),
            )
        };
        hdf5_metno::h5check(status).map(drop)
    })
    .map_err(&failed)?;
    let file = dataset.file().map_err(&failed)?;
    // What the library holds back it writes when handles are closed, and nobody hears of it if it cannot.
    file.flush().map_err(&failed)?;
    drop(dataset);
    file.close().map_err(failed)?;
    File::open(path).and_then(|file| file.sync_data()).map_err(StorageError::io("write", path))
}

fn open_dataset(path: &Path, name: &str, mode: OpenMode) -> Result<Dataset, StorageError> {
    let file = unlocked()
        .and_then(|access| hdf5_metno::File::with_options().set_access_plist(&access)?.open_as(path, mode))
        .map_err(failed("open", path))?;
    file.dataset(name).map_err(|_| {
        let names = file.datasets().map(|all| all.iter().map(|dataset| dataset.name()).collect::<Vec<_>>());
        StorageError::NoDataset {
            file: path.to_owned(),
            dataset: name.to_owned(),
            there: match names {
                Ok(names) if !names.is_empty() => format!("there is {}", names.join(", ")),
                _ => "look with h5ls -r".to_owned(),
            },
        }
    })
}

/// The part of the file, and the same part in memory.
fn spaces(dataset: &Dataset, ranges: &[Range<usize>]) -> hdf5_metno::Result<(Dataspace, Dataspace)> {
    let slices = ranges
        .iter()
        .map(|range| SliceOrIndex::SliceCount { start: range.start, step: 1, count: range.len(), block: 1 })
        .collect::<Vec<_>>();
    let counts = lengths(ranges);
    let part = match ranges {
        [] => dataset.space()?,
        _ => dataset.space()?.select(Selection::from(Hyperslab::from(slices)))?,
    };
    Ok((part, Dataspace::try_new(counts)?))
}

/// The type as h5py writes it: a truth value is an enumeration, a complex number a compound of r and i.
fn descriptor(dtype: Dtype) -> TypeDescriptor {
    let part = |name: &str, offset, index| {
        CompoundField::new(name, TypeDescriptor::Float(FloatSize::U8), offset, index)
    };
    match dtype {
        Dtype::F32 => TypeDescriptor::Float(FloatSize::U4),
        Dtype::F64 => TypeDescriptor::Float(FloatSize::U8),
        Dtype::I32 => TypeDescriptor::Integer(IntSize::U4),
        Dtype::I64 => TypeDescriptor::Integer(IntSize::U8),
        Dtype::U8 => TypeDescriptor::Unsigned(IntSize::U1),
        Dtype::Bool => TypeDescriptor::Boolean,
        Dtype::Complex64 => TypeDescriptor::Compound(CompoundType {
            fields: vec![part("r", 0, 0), part("i", 8, 1)],
            size: 16,
        }),
    }
}

fn dtype_of(path: &Path, there: &Datatype) -> Result<Dtype, StorageError> {
    let unknown = |what: String| StorageError::UnknownDtype { file: path.to_owned(), what };
    let described = there.to_descriptor().map_err(|error| unknown(error.to_string()))?;
    [Dtype::F32, Dtype::F64, Dtype::I32, Dtype::I64, Dtype::U8, Dtype::Bool, Dtype::Complex64]
        .into_iter()
        .find(|&dtype| descriptor(dtype) == described)
        .ok_or_else(|| unknown(described.to_string()))
}

/// How a file is opened: without locks where the library lets that be chosen (1.10.7 on), because parallel file
/// systems often have none, and neither reading nor the writers of a draft need them. `HDF5_USE_FILE_LOCKING` decides
/// if it is set.
fn unlocked() -> hdf5_metno::Result<hdf5_metno::plist::FileAccess> {
    type SetFileLocking = unsafe extern "C" fn(hid_t, c_uint, c_uint) -> herr_t;
    let access = hdf5_metno::plist::FileAccess::try_new()?;
    if let Some(found) = function(c"H5Pset_file_locking") {
        // SAFETY: this is the library's function of that name, whose signature is the same in all its versions.
        let set_file_locking = unsafe { std::mem::transmute::<*mut c_void, SetFileLocking>(found) };
        hdf5_metno::sync::sync(|| {
            // SAFETY: the id is of a live file access list, and this thread holds the library's lock.
            hdf5_metno::h5check(unsafe { set_file_locking(access.id(), 0, 1) })
        })?;
    }
    Ok(access)
}

fn failed(step: &'static str, path: &Path) -> impl Fn(hdf5_metno::Error) -> StorageError {
    let file = path.to_owned();
    move |error| StorageError::Library { step, file: file.clone(), message: error.to_string() }
}
