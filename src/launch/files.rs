//! Ranks that meet through files in a directory they share: without MPI, or where MPI does not see the launch.
//!
//! For each topic every rank writes `TOPIC.RANK`; rank 0 puts them together in `TOPIC.all`; the others take that and
//! delete their own file, and when all are gone rank 0 goes on. Each entry carries a nonce, and a rank only believes a
//! `TOPIC.all` that has its own: what an earlier run of the same name left behind is never taken for this one.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::LaunchError;
use super::meet::Meeting;

/// How long the ranks wait for each other, unless `DCLUSTER_LAUNCH_TIMEOUT` says otherwise.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
const POLL_MIN: Duration = Duration::from_millis(2);
const POLL_MAX: Duration = Duration::from_millis(50);

/// A meeting in a directory.
#[derive(Debug)]
pub struct FileMeeting {
    directory: PathBuf,
    rank: u32,
    size: u32,
    nonce: String,
    deadline: Instant,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    nonce: String,
    bytes: Vec<u8>,
}

impl FileMeeting {
    /// Rank `rank` of `size` enters the meeting in `directory`, which is made (0700) if need be.
    ///
    /// # Errors
    /// [`LaunchError::Directory`] if the directory cannot be made or belongs to someone else.
    pub fn enter(directory: &Path, rank: u32, size: u32, wait_max: Duration) -> Result<Self, LaunchError> {
        make_private(directory)
            .map_err(|source| LaunchError::Directory { directory: directory.to_owned(), source })?;
        let since_epoch = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let nonce = format!("{}-{}-{since_epoch:x}", crate::topology::host_name(), std::process::id());
        let deadline = Instant::now() + wait_max;
        Ok(Self { directory: directory.to_owned(), rank, size, nonce, deadline })
    }

    fn path(&self, topic: &str, part: impl std::fmt::Display) -> PathBuf {
        self.directory.join(format!("{topic}.{part}"))
    }

    /// Written aside and renamed: a reader sees all of it or nothing.
    fn write(&self, path: &Path, content: &impl Serialize) -> Result<(), LaunchError> {
        let failed = |source| LaunchError::Directory { directory: self.directory.clone(), source };
        let bytes = serde_json::to_vec(content).map_err(LaunchError::nonsense)?;
        let aside = self.directory.join(format!(".{}.{}", self.nonce, self.rank));
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&aside).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        fs::rename(&aside, path).map_err(failed)
    }

    /// Rank 0 puts the entries together until every other rank has taken them.
    fn collect(&self, topic: &str, mine: Entry) -> Result<Vec<Entry>, LaunchError> {
        let all = self.path(topic, "all");
        let mut entries: Vec<Option<Entry>> = vec![None; self.size as usize];
        let mut written = Vec::new();
        entries[0] = Some(mine);
        let mut pause = POLL_MIN;
        loop {
            let mut waiting = Vec::new();
            for rank in 1..self.size {
                let present = read::<Entry>(&self.path(topic, rank));
                let known = &mut entries[rank as usize];
                if present.is_some() || known.is_none() || written.is_empty() {
                    waiting.push(rank);
                }
                *known = present.or(known.take());
            }
            if entries.iter().all(Option::is_some) {
                let complete: Vec<Entry> = entries.iter().flatten().cloned().collect();
                if complete != written {
                    self.write(&all, &complete)?;
                    written = complete;
                    pause = POLL_MIN;
                } else if waiting.is_empty() {
                    return Ok(written);
                }
            }
            self.pause(&mut pause, || waiting.iter().map(u32::to_string).collect())?;
        }
    }

    /// Another rank waits for a collection with its own entry, and takes its entry back.
    fn take(&self, topic: &str, mine: &Entry) -> Result<Vec<Entry>, LaunchError> {
        let (own, all) = (self.path(topic, self.rank), self.path(topic, "all"));
        self.write(&own, mine)?;
        let mut pause = POLL_MIN;
        loop {
            if let Some(entries) = read::<Vec<Entry>>(&all)
                && entries.len() == self.size as usize
                && entries[self.rank as usize] == *mine
            {
                // Rank 0 waits for this file to go; if it cannot, rank 0's deadline says so.
                let _ = fs::remove_file(&own);
                return Ok(entries);
            }
            self.pause(&mut pause, || vec!["0".to_owned()])?;
        }
    }

    fn pause(&self, pause: &mut Duration, missing: impl Fn() -> Vec<String>) -> Result<(), LaunchError> {
        if Instant::now() >= self.deadline {
            return Err(LaunchError::Missing {
                directory: self.directory.clone(),
                rank: self.rank,
                missing: missing().join(", "),
            });
        }
        thread::sleep(*pause);
        *pause = (*pause * 2).min(POLL_MAX);
        Ok(())
    }
}

impl Meeting for FileMeeting {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn size(&self) -> u32 {
        self.size
    }

    fn all_gather(&mut self, topic: &str, mine: &[u8]) -> Result<Vec<Vec<u8>>, LaunchError> {
        let mine = Entry { nonce: self.nonce.clone(), bytes: mine.to_vec() };
        let entries = if self.rank == 0 { self.collect(topic, mine)? } else { self.take(topic, &mine)? };
        Ok(entries.into_iter().map(|entry| entry.bytes).collect())
    }
}

impl Drop for FileMeeting {
    /// Rank 0 leaves last, because it waits for the others in each topic.
    fn drop(&mut self) {
        if self.rank == 0 {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// Makes a directory that only this user can enter, or checks that it is one.
///
/// # Errors
/// What the system says, or that others can enter it.
pub fn make_private(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let metadata = fs::symlink_metadata(directory)?;
    let mine = metadata.is_dir() && metadata.uid() == nix::unistd::geteuid().as_raw();
    if !mine || metadata.mode() & 0o077 != 0 {
        let reason = "not a directory that only this user can enter";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    Ok(())
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn meet(directory: &Path, size: u32) -> Vec<Vec<Vec<u8>>> {
        let rank = |rank: u32| {
            let directory = directory.to_owned();
            thread::spawn(move || {
                let mut meeting = FileMeeting::enter(&directory, rank, size, WAIT_MAX).unwrap();
                meeting.all_gather("first", format!("first {rank}").as_bytes()).unwrap();
                meeting.all_gather("second", format!("second {rank}").as_bytes()).unwrap()
            })
        };
        let threads: Vec<_> = (0..size).map(rank).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }

    #[test]
    fn every_rank_hears_every_rank_and_nothing_is_left() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("run");
        for heard in meet(&directory, 5) {
            assert_eq!(heard[3], b"second 3");
            assert_eq!(heard.len(), 5);
        }
        assert!(!directory.exists());
    }

    #[test]
    fn what_an_earlier_run_left_is_not_believed() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("run");
        let stale = FileMeeting::enter(&directory, 1, 2, WAIT_MAX).unwrap();
        let entry = Entry { nonce: "old".to_owned(), bytes: b"stale".to_vec() };
        for topic in ["first", "second"] {
            stale.write(&stale.path(topic, 1), &entry).unwrap();
            stale.write(&stale.path(topic, "all"), &vec![entry.clone(), entry.clone()]).unwrap();
        }
        for heard in meet(&directory, 2) {
            assert_eq!(heard, [b"second 0".to_vec(), b"second 1".to_vec()]);
        }
    }

    #[test]
    fn a_rank_that_does_not_come_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("run");
        let mut meeting = FileMeeting::enter(&directory, 0, 3, Duration::from_millis(50)).unwrap();
        let error = meeting.all_gather("first", b"").unwrap_err().to_string();
        assert!(error.contains("1, 2"), "{error}");
    }

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let error = FileMeeting::enter(parent.path(), 0, 1, WAIT_MAX).unwrap_err();
        let text = crate::launch::with_causes(&error);
        assert!(text.contains("only this user"), "{text}");
    }
}
