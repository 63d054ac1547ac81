//! The directory of a worker's spilled values: private, removed at its end, and swept after a kill.
//!
//! It holds a locked file as long as its process lives, whichever way that ends. So whoever finds a directory whose
//! lock is free may remove it, also from another container with other process ids.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What names of such directories begin with.
pub const PREFIX: &str = "dcluster-spill-";
const LOCK: &str = "lock";
/// A directory without a lock may be one that is just being made, if it is no older than this.
const MAKING_MAX: Duration = Duration::from_secs(60);

/// A directory of this process; removed when this is dropped.
#[derive(Debug)]
pub(super) struct SpillDirectory {
    path: PathBuf,
    _lock: File,
}

impl SpillDirectory {
    /// Makes the directory `path`, which must not exist, for this user alone.
    pub(super) fn make(path: &Path) -> io::Result<Self> {
        DirBuilder::new().mode(0o700).create(path)?;
        let lock =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path.join(LOCK)).and_then(
                |lock| {
                    lock.try_lock()?;
                    Ok(lock)
                },
            );
        match lock {
            Ok(lock) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(error) => {
                let _ = fs::remove_dir_all(path);
                Err(error)
            }
        }
    }

    /// Where a value of this number goes.
    pub(super) fn file(&self, number: u64) -> PathBuf {
        self.path.join(format!("{number:x}"))
    }
}

impl Drop for SpillDirectory {
    fn drop(&mut self) {
        // It may be gone with everything else that a signal's handler removes.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what processes of this user that were killed have left in `base`; the paths.
pub fn sweep(base: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(base) else { return Vec::new() };
    let named = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    let is_removed = |path: &PathBuf| is_left_behind(path) && fs::remove_dir_all(path).is_ok();
    named.map(|entry| entry.path()).filter(is_removed).collect()
}

/// Whether a directory is this user's and its process is gone.
fn is_left_behind(path: &Path) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else { return false };
    if !found.is_dir() || found.uid() != nix::unistd::getuid().as_raw() {
        return false;
    }
    match File::open(path.join(LOCK)) {
        // The lock goes with this file; the directory follows at once.
        Ok(lock) => lock.try_lock().is_ok(),
        Err(_) => found.modified().is_ok_and(|time| time.elapsed().is_ok_and(|age| age > MAKING_MAX)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_with_its_worker_and_one_in_use_is_not_swept() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join(format!("{PREFIX}1"));
        let directory = SpillDirectory::make(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        fs::write(directory.file(7), "value").unwrap();
        assert_eq!(sweep(base.path()), Vec::<PathBuf>::new());
        drop(directory);
        assert!(!path.exists());
    }

    #[test]
    fn what_a_killed_worker_left_is_swept_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let dead = base.path().join(format!("{PREFIX}dead"));
        let young = base.path().join(format!("{PREFIX}young"));
        let other = base.path().join("other");
        for path in [&dead, &young, &other] {
            fs::create_dir(path).unwrap();
        }
        for path in [&dead, &other] {
            fs::write(path.join(LOCK), "").unwrap();
        }
        assert_eq!(sweep(base.path()), vec![dead]);
        assert!(young.exists() && other.exists());
    }

    #[test]
    fn nobody_plants_a_directory() {
        let base = tempfile::tempdir().unwrap();
        assert!(SpillDirectory::make(base.path()).is_err());
        assert!(base.path().exists());
    }
}
