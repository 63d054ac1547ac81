//! What can be wrong with an array in a file; each message names the file and says what to do.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::model::numbers::Dtype;

/// Why an array could not be read from or written to a file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The operating system refused.
    #[error("cannot {step} {}: {source}{}", file.display(), advice(source))]
    Io {
        /// What was tried: "open", "read", "write", …
        step: &'static str,
        /// The file, or directory of a Zarr array.
        file: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The file is there, but is not what its name says, or is damaged.
    #[error("{} cannot be read: {what}; it may be of another format or damaged", file.display())]
    Malformed {
        /// The file, or directory of a Zarr array.
        file: PathBuf,
        /// What is wrong in it.
        what: String,
    },
    /// The file ends before its elements do.
    #[error(
        "{} is truncated: its header promises {bytes_expected} bytes, there are {bytes}; copy or write it again",
        file.display()
    )]
    Truncated {
        /// The file.
        file: PathBuf,
        /// The length of a complete file.
        bytes_expected: u64,
        /// Its actual length.
        bytes: u64,
    },
    /// There is no dataset of this name in an HDF5 file.
    #[error("there is no dataset {dataset} in {}: {there}", file.display())]
    NoDataset {
        /// The file.
        file: PathBuf,
        /// The dataset that was asked for.
        dataset: String,
        /// What there is instead.
        there: String,
    },
    /// The elements are of another type.
    #[error("{} holds {there}, not {asked}: ask for an array of {there} and convert it", file.display())]
    WrongDtype {
        /// The file.
        file: PathBuf,
        /// The type in the file.
        there: Dtype,
        /// The type that was asked for.
        asked: Dtype,
    },
    /// The elements are of a type that no array has, or stored in a way that cannot be read here.
    #[error("{} holds {what}, which cannot be read: convert it to one of f32, f64, i32, i64, u8, bool, complex128", file.display())]
    UnknownDtype {
        /// The file.
        file: PathBuf,
        /// The type, as the file names it.
        what: String,
    },
    /// The chunks of a Zarr array are not all alike.
    #[error("{} has the chunk grid {grid}, of which no parts are read: write it again with a regular one", file.display())]
    UnevenChunks {
        /// The array's directory.
        file: PathBuf,
        /// The grid, as Zarr names it.
        grid: String,
    },
    /// The part that was asked for is not inside the array.
    #[error("{ranges:?} is not a part of the array in {}, whose shape is {shape:?}", file.display())]
    OutOfBounds {
        /// The file.
        file: PathBuf,
        /// The part that was asked for, a range for each axis.
        ranges: Vec<Range<usize>>,
        /// The shape in the file.
        shape: Vec<usize>,
    },
    /// The memory has another length than the part.
    #[error("this part of {} is {expected} elements, not {elements}: give a slice of exactly that length", file.display())]
    WrongLength {
        /// The file.
        file: PathBuf,
        /// The elements of the part.
        expected: usize,
        /// The elements of the slice.
        elements: usize,
    },
    /// A block that is to be written has another shape than its part of the array.
    #[error("a block of shape {expected:?} belongs into {}, and one of {there:?} is there: look at the task that makes it", file.display())]
    WrongBlock {
        /// The file.
        file: PathBuf,
        /// The shape of the part.
        expected: Vec<usize>,
        /// The shape of the block.
        there: Vec<usize>,
    },
    /// A file of this name is there already.
    #[error("{} is there already: remove it, choose another name, or write with Existing::Replace", file.display())]
    Exists {
        /// The file.
        file: PathBuf,
    },
    /// A writer of a draft was killed, or failed, in the middle.
    #[error("{} was being written when a worker ended or failed, and its draft is of no use: write it again", file.display())]
    Interrupted {
        /// The file.
        file: PathBuf,
    },
    /// Not all parts of a draft were written.
    #[error(
        "{} is not whole, {bytes} of {bytes_expected} bytes were written: a worker could not write its part and says why in its log; write it again",
        file.display()
    )]
    Incomplete {
        /// The file.
        file: PathBuf,
        /// The bytes of the whole array.
        bytes_expected: u64,
        /// The bytes that were written.
        bytes: u64,
    },
    /// Chunks or blocks that this format cannot write.
    #[error("cannot write {}: {what}", file.display())]
    BadOptions {
        /// The file.
        file: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// A library of the format failed.
    #[error("cannot {step} {}: {message}{}", file.display(), library_advice(message))]
    Library {
        /// What was tried: "open", "read", "write", …
        step: &'static str,
        /// The file.
        file: PathBuf,
        /// What the library says.
        message: String,
    },
    /// This build cannot read or write the format.
    #[error("{format} is not in this build: build dcluster with the feature `{feature}`{}", needs(feature))]
    NotBuilt {
        /// The format.
        format: &'static str,
        /// The Cargo feature that brings it.
        feature: &'static str,
    },
}

impl StorageError {
    pub(super) fn io(step: &'static str, file: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { step, file: file.to_owned(), source }
    }

    pub(super) fn malformed(file: &Path, what: impl Into<String>) -> Self {
        Self::Malformed { file: file.to_owned(), what: what.into() }
    }
}

const FULL_ADVICE: &str = "; free space or write elsewhere: nothing was left under the final name";

/// The same where a library has put the system's error into words.
fn library_advice(message: &str) -> &'static str {
    let is_full = message.contains("No space left") || message.contains("quota exceeded");
    if is_full { FULL_ADVICE } else { "" }
}

/// What a person can do about it.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; check the path, and that it is on a file system that all nodes share",
        io::ErrorKind::PermissionDenied => "; check the permissions of the file and of its directories",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FULL_ADVICE,
        io::ErrorKind::ReadOnlyFilesystem => "; write to another file system",
        io::ErrorKind::IsADirectory => "; name a file, not a directory",
        _ => "",
    }
}

fn needs(feature: &str) -> &'static str {
    if feature == "hdf5" {
        " (it needs libhdf5: `libhdf5-dev`, `hdf5-devel` or `module load hdf5`)"
    } else {
        ""
    }
}
