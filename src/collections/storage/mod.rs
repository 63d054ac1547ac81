//! Arrays in files: `.npy`, HDF5 datasets and Zarr arrays, read by parts and written by parts, from any number of
//! threads, processes and nodes. In: an [`ArrayFile`] and ranges along its axes. Out: elements in row-major memory.
//!
//! [`StoredArray`] is an array that is there, [`Draft`] one that is being written. `memory` shows numbers as bytes and
//! `region` the arithmetic of parts; `flat` reads and writes elements that lie side by side in a file, which is what
//! `npy` describes and `hdf5` can ask for; `stamp` tells a file from the same one after a change. `hdf5` and `zarr` hand everything else to their libraries, except that
//! `deflate` unpacks chunks of HDF5 beside it. `absent` stands for those that are not built in.
//!
//! ```
//! use dcluster::collections::storage::{ArrayFile, WriteOptions};
//! use dcluster::model::numbers::Dtype;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! let file = ArrayFile::npy(scratch.path().join("x.npy"));
//!
//! // The draft may go to other processes, and each write its part.
//! let draft = file.create(Dtype::F64, &[2, 3], &WriteOptions::default())?;
//! draft.write(&[0..1, 0..3], &[1.0, 2.0, 3.0])?;
//! draft.write(&[1..2, 0..3], &[4.0, 5.0, 6.0])?;
//! draft.finish()?; // from here on there is a file of that name
//!
//! let stored = file.open()?;
//! assert_eq!((stored.dtype(), stored.shape()), (Dtype::F64, &[2, 3][..]));
//! let mut column = [0.0; 2];
//! stored.read(&[0..2, 1..2], &mut column)?;
//! assert_eq!(column, [2.0, 5.0]);
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::numbers::{Dtype, Element};

#[cfg(not(all(feature = "hdf5", feature = "zarr")))]
mod absent;
#[cfg(feature = "hdf5")]
mod deflate;
mod draft;
mod error;
mod flat;
#[cfg(feature = "hdf5")]
mod hdf5;
mod memory;
mod npy;
mod options;
mod region;
mod stamp;
#[cfg(feature = "zarr")]
mod zarr;

pub use draft::{Draft, Writers};
pub use error::StorageError;
#[cfg(feature = "hdf5")]
pub use hdf5::version as hdf5_version;
pub use options::{Compression, Existing, WriteOptions};

#[cfg(not(feature = "hdf5"))]
pub use absent::hdf5_version;
#[cfg(not(feature = "zarr"))]
use absent::zarr;
#[cfg(not(feature = "hdf5"))]
use absent::{hdf5, placed};
use flat::Flat;
#[cfg(feature = "hdf5")]
use hdf5::placed;
pub(crate) use stamp::Stamp;

/// The name of an array in a file, whether it is there or not.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum ArrayFile {
    /// A `.npy` file.
    Npy {
        /// The file.
        file: PathBuf,
    },
    /// A dataset of an HDF5 file.
    Hdf5 {
        /// The file.
        file: PathBuf,
        /// The dataset's full name, as `/x`.
        dataset: String,
    },
    /// A Zarr array, version 2 or 3.
    Zarr {
        /// The array's directory: the one with `zarr.json` or `.zarray`.
        directory: PathBuf,
    },
}

impl ArrayFile {
    /// A `.npy` file.
    pub fn npy(file: impl Into<PathBuf>) -> Self {
        Self::Npy { file: file.into() }
    }

    /// A dataset (`/x`) of an HDF5 file.
    pub fn hdf5(file: impl Into<PathBuf>, dataset: impl Into<String>) -> Self {
        Self::Hdf5 { file: file.into(), dataset: dataset.into() }
    }

    /// The directory of a Zarr array.
    pub fn zarr(directory: impl Into<PathBuf>) -> Self {
        Self::Zarr { directory: directory.into() }
    }

    /// The file, or the directory of a Zarr array.
    pub fn path(&self) -> &Path {
        match self {
            Self::Npy { file } | Self::Hdf5 { file, .. } => file,
            Self::Zarr { directory } => directory,
        }
    }

    /// Who may write parts of it at once, if it is written with these options.
    pub fn writers(&self, options: &WriteOptions) -> Writers {
        let is_placed =
            options.compression == Compression::None && (options.chunks.is_none() || placed::can_place());
        match self {
            Self::Hdf5 { .. } if !is_placed => Writers::One,
            _ => Writers::Many,
        }
    }

    /// Reads what the array is, and not its elements.
    pub fn open(&self) -> Result<StoredArray, StorageError> {
        match self {
            Self::Npy { file } => {
                let (opened, flat) = npy::open(file)?;
                Ok(StoredArray {
                    path: file.clone(),
                    files: Some(vec![file.clone()]),
                    dtype: flat.dtype,
                    shape: flat.shape.clone(),
                    chunks: None,
                    elements: Elements::Flat(opened, flat),
                })
            }
            Self::Hdf5 { file, dataset } => hdf5::open(file, dataset),
            Self::Zarr { directory } => zarr::open(directory),
        }
    }

    /// Begins to write an array of this type and shape, under another name until it is whole.
    pub fn create(
        &self,
        dtype: Dtype,
        shape: &[usize],
        options: &WriteOptions,
    ) -> Result<Draft, StorageError> {
        Draft::create(self, dtype, shape, options)
    }
}

impl fmt::Display for ArrayFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Npy { file } => file.display().fmt(f),
            Self::Hdf5 { file, dataset } => write!(f, "{}:{dataset}", file.display()),
            Self::Zarr { directory } => directory.display().fmt(f),
        }
    }
}

/// An array that is in a file, open for reading.
pub struct StoredArray {
    path: PathBuf,
    /// All files that it is in, if they are known and few.
    files: Option<Vec<PathBuf>>,
    dtype: Dtype,
    shape: Vec<usize>,
    chunks: Option<Vec<usize>>,
    elements: Elements,
}

/// How the elements of a [`StoredArray`] are had.
#[cfg_attr(not(all(feature = "hdf5", feature = "zarr")), allow(dead_code))]
enum Elements {
    Flat(File, Flat),
    Hdf5(hdf5::Reader),
    Zarr(Box<zarr::Reader>),
}

impl StoredArray {
    /// The type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// The length of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The shape of the pieces in which the file holds it, if it does: parts that are whole chunks read fastest.
    pub fn chunks(&self) -> Option<&[usize]> {
        self.chunks.as_deref()
    }

    /// Whether the first axis is the one whose elements lie side by side in the file, and not the last.
    pub(crate) fn is_column_major(&self) -> bool {
        matches!(&self.elements, Elements::Flat(_, flat) if flat.order == flat::Order::ColumnMajor)
    }

    /// What tells it from the array that the same name gives after a change.
    pub(crate) fn stamp(&self) -> Result<Stamp, StorageError> {
        Stamp::of(self.files.as_deref())
    }

    /// Reads the part `ranges` (one for each axis) into row-major memory of exactly that many elements.
    ///
    /// Threads may do so at once; HDF5's library, which compressed and chunked datasets need, lets one at a time in. (What
    /// gzip has compressed is unpacked outside it.)
    pub fn read<T: Element>(&self, ranges: &[Range<usize>], into: &mut [T]) -> Result<(), StorageError> {
        if T::DTYPE != self.dtype {
            return Err(StorageError::WrongDtype {
                file: self.path.clone(),
                there: self.dtype,
                asked: T::DTYPE,
            });
        }
        region::check(&self.path, &self.shape, ranges, into.len())?;
        if into.is_empty() {
            return Ok(());
        }
        match &self.elements {
            Elements::Flat(file, flat) => flat.read(file, ranges, into),
            Elements::Hdf5(reader) => reader.read(ranges, into),
            Elements::Zarr(reader) => reader.read(ranges, into),
        }
    }
}

impl fmt::Debug for StoredArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} in {}", self.dtype, self.shape, self.path.display())
    }
}
