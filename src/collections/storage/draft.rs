//! Arrays that are being written: parts come from any process, and the file has its name when it is whole.
//!
//! A draft is created once at its full length under a name of its own beside the final one. It is plain data: every
//! process that gets it opens the draft, writes its part and closes it. Whoever knows that all parts are written
//! finishes it, which renames it; a draft that is given up is removed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use serde::{Deserialize, Serialize};

use super::flat::{self, ByteOrder, Flat, Order};
use super::{ArrayFile, Existing, StorageError, WriteOptions, hdf5, npy, placed, region, zarr};
use crate::model::numbers::{Dtype, Element};

/// Who may write parts of a draft.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writers {
    /// Any number at once, as long as their parts do not overlap (for Zarr: lie in different chunks).
    Many,
    /// One at a time, each after the other has returned: HDF5's library without MPI-IO knows one writer.
    One,
}

/// An array that is being written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Draft {
    target: ArrayFile,
    dtype: Dtype,
    shape: Vec<usize>,
    existing: Existing,
    /// The name until it is whole.
    path: PathBuf,
    /// The number of the directory it is in, by which others see that theirs is the same.
    directory: u64,
    layout: Layout,
}

/// Where parts are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Layout {
    /// At their places behind this byte.
    Flat { start_byte: u64 },
    /// In chunks of an HDF5 file, which have their places.
    #[cfg_attr(not(feature = "hdf5"), allow(dead_code))]
    Chunks,
    /// By the format's library.
    Library,
}

impl Draft {
    pub(super) fn create(
        target: &ArrayFile,
        dtype: Dtype,
        shape: &[usize],
        options: &WriteOptions,
    ) -> Result<Self, StorageError> {
        let target_path = target.path();
        if options.existing == Existing::Keep && exists(target_path)? {
            return Err(StorageError::Exists { file: target_path.to_owned() });
        }
        if target_path.is_dir() && !matches!(target, ArrayFile::Zarr { .. }) {
            return Err(StorageError::io("replace", target_path)(io::ErrorKind::IsADirectory.into()));
        }
        options.check(target, shape)?;
        let directory =
            fs::metadata(parent(target_path)).map_err(StorageError::io("create", target_path))?.ino();
        let path = reserve_name(target)?;
        let layout = match target {
            ArrayFile::Npy { .. } => write_npy_header(&path, dtype, shape),
            ArrayFile::Hdf5 { dataset, .. } => {
                hdf5::create(&path, dataset, dtype, shape, options).and_then(|layout| {
                    if layout != Layout::Library {
                        let file = open_rw(&path)?;
                        let bytes = file.metadata().map_err(StorageError::io("read", &path))?.len();
                        flat::reserve(&file, &path, bytes)?;
                    }
                    Ok(layout)
                })
            }
            ArrayFile::Zarr { .. } => zarr::create(&path, dtype, shape, options).map(|()| Layout::Library),
        };
        let layout = layout.inspect_err(|_| remove(&path))?;
        Ok(Self {
            target: target.clone(),
            dtype,
            shape: shape.to_vec(),
            existing: options.existing,
            path,
            directory,
            layout,
        })
    }

    /// Where the array will be.
    pub fn target(&self) -> &ArrayFile {
        &self.target
    }

    /// Who may write parts.
    pub fn writers(&self) -> Writers {
        match (&self.target, self.layout) {
            (ArrayFile::Hdf5 { .. }, Layout::Library) => Writers::One,
            _ => Writers::Many,
        }
    }

    /// Writes the part `ranges` from row-major memory; when it returns, the file system has it.
    pub fn write<T: Element>(&self, ranges: &[Range<usize>], from: &[T]) -> Result<(), StorageError> {
        if T::DTYPE != self.dtype {
            return Err(StorageError::WrongDtype {
                file: self.target.path().to_owned(),
                there: self.dtype,
                asked: T::DTYPE,
            });
        }
        region::check(self.target.path(), &self.shape, ranges, from.len())?;
        if from.is_empty() {
            return Ok(());
        }
        match (&self.target, self.layout) {
            (_, Layout::Flat { start_byte }) => {
                let flat = Flat {
                    file: self.path.clone(),
                    start_byte,
                    dtype: self.dtype,
                    shape: self.shape.clone(),
                    order: Order::RowMajor,
                    byte_order: ByteOrder::Native,
                };
                flat.write(&open_rw(&self.path)?, ranges, from)
            }
            (ArrayFile::Zarr { .. }, Layout::Library) => zarr::write(&self.path, ranges, from),
            (ArrayFile::Hdf5 { dataset, .. }, Layout::Chunks) => {
                placed::write(&self.path, dataset, ranges, from)
            }
            (ArrayFile::Hdf5 { dataset, .. }, Layout::Library) => self.write_hdf5(dataset, ranges, from),
            (_, Layout::Chunks) | (ArrayFile::Npy { .. }, Layout::Library) => {
                unreachable!("only HDF5 files have such chunks, and a .npy file is flat")
            }
        }
    }

    /// Writes through HDF5's library, which changes the file in many places: one that a writer left in between, because
    /// it was killed or the disk is full, may look whole and is not. It is known by a mark beside it.
    fn write_hdf5<T: Element>(
        &self,
        dataset: &str,
        ranges: &[Range<usize>],
        from: &[T],
    ) -> Result<(), StorageError> {
        let mark = self.writing_mark();
        match OpenOptions::new().write(true).create_new(true).open(&mark) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StorageError::Interrupted { file: self.target.path().to_owned() });
            }
            marked => drop(marked.map_err(StorageError::io("create", &mark))?),
        }
        hdf5::write(&self.path, dataset, ranges, from)?;
        fs::remove_file(&mark).map_err(StorageError::io("remove", &mark))
    }

    fn writing_mark(&self) -> PathBuf {
        with_suffix(&self.path, ".writing")
    }

    /// The bytes of all elements.
    pub fn nbytes(&self) -> u64 {
        self.shape.iter().fold(self.dtype.size() as u64, |bytes, &length| bytes.saturating_mul(length as u64))
    }

    /// Whether somebody has abandoned it, so that writing its other parts fails for no reason of their own.
    pub fn is_abandoned(&self) -> bool {
        // (Where the file system is another one, the draft was never there.)
        let is_shared = fs::metadata(parent(&self.path)).is_ok_and(|there| there.ino() == self.directory);
        let is_there = match self.target {
            // (A writer makes the directories of its chunks again.)
            ArrayFile::Zarr { .. } => exists(&self.path.join("zarr.json")),
            _ => exists(&self.path),
        };
        is_shared && matches!(is_there, Ok(false))
    }

    /// Gives the whole array its name. All parts must be written by then. Where that fails the draft stays, to be finished
    /// again or [abandoned](Self::abandon).
    pub fn finish(&self) -> Result<(), StorageError> {
        let target = self.target.path();
        if !exists(&self.path)? && exists(target)? {
            return Ok(()); // it was finished already: a task that ran twice
        }
        let failed = StorageError::io("rename the finished draft to", target);
        match self.existing {
            Existing::Keep => self.rename_if_free(target)?,
            Existing::Replace if matches!(self.target, ArrayFile::Zarr { .. }) && exists(target)? => {
                self.replace_directory(target).map_err(failed)?;
            }
            Existing::Replace => fs::rename(&self.path, target).map_err(failed)?,
        }
        let directory = parent(target);
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(StorageError::io("write", directory))
    }

    /// What came to have the name meanwhile keeps it.
    fn rename_if_free(&self, target: &Path) -> Result<(), StorageError> {
        let failed = StorageError::io("rename the finished draft to", target);
        match renameat2(AT_FDCWD, &self.path, AT_FDCWD, target, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => Ok(()),
            Err(nix::Error::EEXIST) => Err(StorageError::Exists { file: target.to_owned() }),
            // Not every file system can.
            Err(nix::Error::EINVAL | nix::Error::ENOSYS) if exists(target)? => {
                Err(StorageError::Exists { file: target.to_owned() })
            }
            Err(nix::Error::EINVAL | nix::Error::ENOSYS) => fs::rename(&self.path, target).map_err(failed),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// A directory that is not empty cannot be renamed over: the two change places, or the former steps aside.
    fn replace_directory(&self, target: &Path) -> io::Result<()> {
        match renameat2(AT_FDCWD, &self.path, AT_FDCWD, target, RenameFlags::RENAME_EXCHANGE) {
            Ok(()) => remove(&self.path),
            // Not every file system can.
            Err(nix::Error::EINVAL | nix::Error::ENOSYS) => {
                let aside = with_suffix(&self.path, ".former");
                fs::rename(target, &aside)?;
                fs::rename(&self.path, target).inspect_err(|_| {
                    let _ = fs::rename(&aside, target);
                })?;
                remove(&aside);
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Removes what was written.
    pub fn abandon(&self) {
        // It is gone at once for others: nothing more gets into a directory that is being removed.
        let gone = with_suffix(&self.path, ".gone");
        remove(if fs::rename(&self.path, &gone).is_ok() { &gone } else { &self.path });
        remove(&self.writing_mark());
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn write_npy_header(path: &Path, dtype: Dtype, shape: &[usize]) -> Result<Layout, StorageError> {
    let header = npy::header(dtype, shape);
    let start_byte = header.len() as u64;
    let bytes = shape
        .iter()
        .try_fold(dtype.size() as u64, |bytes, &length| bytes.checked_mul(length as u64))
        .and_then(|bytes| bytes.checked_add(start_byte))
        .ok_or_else(|| StorageError::BadOptions {
            file: path.to_owned(),
            what: format!("an array of shape {shape:?} is larger than a file can be"),
        })?;
    let file = open_rw(path)?;
    flat::reserve(&file, path, bytes)?;
    file.write_all_at(&header, 0).map_err(StorageError::io("write", path))?;
    Ok(Layout::Flat { start_byte })
}

/// Makes an empty file (for Zarr: directory) beside the target, under a name that nobody else has.
fn reserve_name(target: &ArrayFile) -> Result<PathBuf, StorageError> {
    let path = target.path();
    let Some(name) = path.file_name() else {
        return Err(StorageError::BadOptions {
            file: path.to_owned(),
            what: "the path names no file".to_owned(),
        });
    };
    loop {
        // A name that was used before might still be written to by who has not heard that its draft was abandoned.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut draft_name = name.to_owned();
        draft_name.push(format!(".part-{}-{:x}", std::process::id(), now.as_nanos()));
        let draft = path.with_file_name(draft_name);
        let made = match target {
            ArrayFile::Zarr { .. } => fs::create_dir(&draft),
            _ => OpenOptions::new().write(true).create_new(true).open(&draft).map(drop),
        };
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(StorageError::io("create", path)(error)),
            Ok(()) => return Ok(draft),
        }
    }
}

fn open_rw(path: &Path) -> Result<File, StorageError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(StorageError::io("open", path))
}

fn exists(path: &Path) -> Result<bool, StorageError> {
    path.try_exists().map_err(StorageError::io("look for", path))
}

/// Removes a draft; one that cannot be removed is named in the log, and nothing more can be done.
fn remove(path: &Path) {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a draft could not be removed: remove it by hand");
    }
}

/// The directory that a file is in.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
