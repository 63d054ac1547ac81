//! By what a task tells a file from the same one after a change: the stamp of what was opened is among its arguments, so
//! that a cluster which holds what was read before reads again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::StorageError;

/// Equal to that of an array opened before if its files have not changed since.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Stamp {
    /// What the file system says of each file.
    Files(Vec<FileStamp>),
    /// Of an array whose files are too many to be looked at, or not known: each opening is another one.
    Opening { nanoseconds: u128, process: u32, number: u64 },
}

/// One file. (Not its device, which has another number on another host.)
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct FileStamp {
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds.
    content_changed: (i64, i64),
    /// The same for anything about it: who sets the time of the content back cannot set this one.
    changed: (i64, i64),
}

impl Stamp {
    /// Of an array that is in these files, if they are known.
    pub(super) fn of(files: Option<&[PathBuf]>) -> Result<Self, StorageError> {
        static OPENED: AtomicU64 = AtomicU64::new(0);
        let Some(files) = files else {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let number = OPENED.fetch_add(1, Ordering::Relaxed);
            return Ok(Self::Opening { nanoseconds: now.as_nanos(), process: std::process::id(), number });
        };
        files.iter().map(|file| FileStamp::of(file)).collect::<Result<_, _>>().map(Self::Files)
    }
}

impl FileStamp {
    fn of(file: &Path) -> Result<Self, StorageError> {
        let metadata = fs::metadata(file).map_err(StorageError::io("look at", file))?;
        Ok(Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            content_changed: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}
