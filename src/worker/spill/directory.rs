//! The directory of a worker's spilled values: private, removed at its end, and swept after a kill.
//!
//! It holds a locked file as long as its process lives, whichever way that ends. So whoever finds a directory whose
//! lock is free may remove it, also from another container with other process ids. Directories of other hosts are left
//! alone: where hosts share a file system, its locks may be each host's own. A directory gets its name when it is locked.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::topology;

/// What names of such directories begin with, and, behind a dot, those of directories that are being made.
const PREFIX: &str = "dcluster-spill-";
const LOCK: &str = "lock";
/// What is being made, or has lost its lock, is left alone for so long.
const MAKING_MAX: Duration = Duration::from_secs(60);

/// What tells the directories of this host from those of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The kernel's boot, which containers of a host have in common; empty if the system does not tell.
    boot: String,
    /// The name of the system, which it has again when it was booted again.
    host: String,
}

impl Origin {
    /// Of this host.
    pub fn here() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self::new(&boot, &topology::system_name())
    }

    fn new(boot: &str, host: &str) -> Self {
        let plain = |text: &str| {
            text.trim().replace(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.', "_")
        };
        Self { boot: plain(boot), host: plain(host) }
    }

    /// The name of a directory of this host; `unique` is what no other has.
    pub fn name(&self, unique: &str) -> String {
        format!("{PREFIX}{}-{}-{unique}", self.boot, self.host)
    }

    /// Whether this is the name of a directory of this host.
    fn has_named(&self, name: &str) -> bool {
        let mut parts = name.trim_start_matches('.').strip_prefix(PREFIX).unwrap_or_default().split('-');
        let (Some(boot), Some(host)) = (parts.next(), parts.next()) else { return false };
        !boot.is_empty() && boot == self.boot || host == self.host
    }
}

/// A directory of this process; removed when this is dropped.
#[derive(Debug)]
pub(super) struct SpillDirectory {
    path: PathBuf,
    _lock: File,
}

impl SpillDirectory {
    /// Makes the directory `path`, which must not exist, for this user alone.
    pub(super) fn make(path: &Path) -> io::Result<Self> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let making = path.with_file_name(format!(".{}", name.to_string_lossy()));
        DirBuilder::new().mode(0o700).create(&making)?;
        let lock = lock_in(&making).and_then(|lock| fs::rename(&making, path).map(|()| lock));
        if lock.is_err() {
            let _ = fs::remove_dir_all(&making);
        }
        Ok(Self { path: path.to_owned(), _lock: lock? })
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

/// Makes the lock of a directory, and takes it.
fn lock_in(directory: &Path) -> io::Result<File> {
    let lock = OpenOptions::new().write(true).create_new(true).mode(0o600).open(directory.join(LOCK))?;
    lock.try_lock()?;
    Ok(lock)
}

/// Removes what processes of this user on this host that were killed have left in `base`; the paths.
pub fn sweep(base: &Path, origin: &Origin) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(base) else { return Vec::new() };
    let named = entries.flatten().filter(|entry| origin.has_named(&entry.file_name().to_string_lossy()));
    let is_removed = |path: &PathBuf| is_left_behind(path) && fs::remove_dir_all(path).is_ok();
    named.map(|entry| entry.path()).filter(is_removed).collect()
}

/// Whether a directory is this user's and its process is gone.
fn is_left_behind(path: &Path) -> bool {
    let Ok(found) = fs::symlink_metadata(path) else { return false };
    if !found.is_dir() || found.uid() != nix::unistd::getuid().as_raw() {
        return false;
    }
    let is_old = || found.modified().is_ok_and(|time| time.elapsed().is_ok_and(|age| age > MAKING_MAX));
    let is_named = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX));
    match File::open(path.join(LOCK)) {
        // The lock goes with this file; the directory follows at once.
        Ok(lock) => (is_named || is_old()) && lock.try_lock().is_ok(),
        Err(_) => is_old(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_directory_goes_with_its_worker_and_one_in_use_is_not_swept() {
        let base = tempfile::tempdir().unwrap();
        let origin = Origin::here();
        let path = base.path().join(origin.name("1"));
        let directory = SpillDirectory::make(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        fs::write(directory.file(7), "value").unwrap();
        assert_eq!(sweep(base.path(), &origin), Vec::<PathBuf>::new());
        drop(directory);
        assert!(fs::read_dir(base.path()).unwrap().next().is_none());
    }

    #[test]
    fn what_a_killed_worker_left_is_swept_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let here = Origin::new("boot-1", "n1");
        let dead = base.path().join(here.name("dead"));
        let before = base.path().join(Origin::new("boot-0", "n1").name("before"));
        let container = base.path().join(Origin::new("boot-1", "c7").name("container"));
        let far = base.path().join(Origin::new("boot-2", "n2").name("far"));
        let young = base.path().join(here.name("young"));
        let making = base.path().join(format!(".{}", here.name("making")));
        let other = base.path().join("other");
        for path in [&dead, &before, &container, &far, &young, &making, &other] {
            fs::create_dir(path).unwrap();
        }
        for path in [&dead, &before, &container, &far, &making, &other] {
            fs::write(path.join(LOCK), "").unwrap();
        }
        let mut swept = sweep(base.path(), &here);
        swept.sort();
        let mut expected = vec![dead, before, container];
        expected.sort();
        assert_eq!(swept, expected, "those of this boot, and of the host before it was booted again");
        assert!(far.exists() && young.exists() && making.exists() && other.exists());
    }

    #[test]
    fn a_directory_is_never_seen_unlocked() {
        let base = tempfile::tempdir().unwrap();
        let (origin, is_over) = (Origin::here(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert_eq!(sweep(base.path(), &origin), Vec::<PathBuf>::new());
                }
            });
            let made = (0..300)
                .map(|number| SpillDirectory::make(&base.path().join(origin.name(&number.to_string()))));
            let made: Vec<_> = made.collect();
            is_over.store(true, Ordering::Relaxed);
            assert!(made.iter().all(|directory| directory.as_ref().unwrap().path.exists()));
        });
    }

    #[test]
    fn nobody_plants_a_directory() {
        let base = tempfile::tempdir().unwrap();
        assert!(SpillDirectory::make(base.path()).is_err());
        assert!(base.path().exists());
    }
}
