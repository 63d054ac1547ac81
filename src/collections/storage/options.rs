//! How an array is to be written: its pieces, their compression, and what becomes of a file that is there. Next: `draft`.

use serde::{Deserialize, Serialize};

use super::{ArrayFile, StorageError};

/// How an array is laid out in its file, and what becomes of a file that is there.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WriteOptions {
    /// The shape of the pieces that HDF5 and Zarr keep. Without it, HDF5 keeps the array in one piece and Zarr in
    /// pieces of a few MiB.
    pub chunks: Option<Vec<usize>>,
    /// How each chunk is compressed.
    pub compression: Compression,
    /// What becomes of a file of this name.
    pub existing: Existing,
}

/// How the chunks of an array are compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Compression {
    /// Not at all: as fast as the disk, and HDF5 can be written in parallel.
    #[default]
    None,
    /// As gzip does, level 1 to 9: HDF5 and Zarr.
    Gzip(u8),
    /// Zstandard, level 1 to 22: Zarr.
    Zstd(u8),
}

/// What becomes of a file that has the name already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Existing {
    /// It stays, and creating the draft is an error.
    #[default]
    Keep,
    /// The finished draft takes its place; until then it stays.
    Replace,
}

impl WriteOptions {
    /// Whether an array of this shape can be written so.
    pub(crate) fn check(&self, target: &ArrayFile, shape: &[usize]) -> Result<(), StorageError> {
        let bad = |what: String| Err(StorageError::BadOptions { file: target.path().to_owned(), what });
        if let Some(chunks) = &self.chunks
            && (chunks.len() != shape.len() || chunks.contains(&0))
        {
            return bad(format!(
                "chunks of {chunks:?} do not divide an array of shape {shape:?}: one length, not 0, for each axis"
            ));
        }
        match (target, self.compression) {
            (ArrayFile::Npy { .. }, Compression::Gzip(_) | Compression::Zstd(_)) => {
                bad("a .npy file is not compressed: write HDF5 or Zarr".to_owned())
            }
            (ArrayFile::Npy { .. }, _) if self.chunks.is_some() => {
                bad("a .npy file has no chunks: write HDF5 or Zarr".to_owned())
            }
            (ArrayFile::Hdf5 { .. }, Compression::Zstd(_)) => {
                bad("HDF5 has no Zstandard without a plug-in: use gzip".to_owned())
            }
            (_, Compression::Gzip(level)) if !(1..=9).contains(&level) => {
                bad(format!("gzip has the levels 1 to 9, not {level}"))
            }
            (_, Compression::Zstd(level)) if !(1..=22).contains(&level) => {
                bad(format!("Zstandard has the levels 1 to 22, not {level}"))
            }
            _ => Ok(()),
        }
    }
}
