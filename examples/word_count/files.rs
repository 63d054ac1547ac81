//! Which files there are to read, and how they are shared out.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use walkdir::WalkDir;

/// Where no directory is given: one after the other, until there are `FILES_MIN` text files.
const TREES: [&str; 5] = ["/usr/share", "/usr/include", "~/.cargo/registry/src", "/usr/lib", "/usr/src"];
const FILES_MIN: usize = 25_000;
const BATCH_BYTES: u64 = 4 << 20;

/// The text files with their sizes in bytes, and how many others are left out.
#[derive(Default)]
pub(crate) struct Found {
    files: Vec<(PathBuf, u64)>,
    pub(crate) binary: u64,
    pub(crate) unreadable: u64,
    directories: Vec<PathBuf>,
}

impl Found {
    /// The text files below these directories, or below some of the machine's if there are none.
    pub(crate) fn below(directories: &[PathBuf]) -> anyhow::Result<Self> {
        let mut found = Self::default();
        for directory in directories {
            found.add(directory)?;
        }
        let home = std::env::home_dir().unwrap_or_default();
        let trees = TREES.map(|tree| tree.strip_prefix("~/").map_or(tree.into(), |tree| home.join(tree)));
        for directory in trees.iter().filter(|tree| directories.is_empty() && tree.is_dir()) {
            if found.files.len() < FILES_MIN {
                found.add(directory)?;
            }
        }
        found.files.sort_unstable();
        found.files.dedup();
        ensure!(!found.files.is_empty(), "there is nothing to count: {found}");
        Ok(found)
    }

    /// Symbolic links are not followed, so that no file is read twice.
    fn add(&mut self, directory: &Path) -> anyhow::Result<()> {
        self.directories.push(directory.to_owned());
        std::fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in WalkDir::new(directory) {
            let Ok(entry) = entry else {
                self.unreadable += 1;
                continue;
            };
            if entry.file_type().is_file() {
                match text_bytes(entry.path()) {
                    Ok(Some(bytes)) => self.files.push((entry.into_path(), bytes)),
                    Ok(None) => self.binary += 1,
                    Err(_) => self.unreadable += 1,
                }
            }
        }
        Ok(())
    }

    /// The files in batches of about `BATCH_BYTES`, in the order of their paths: neighbours have words in common.
    pub(crate) fn batches(&self) -> Vec<Vec<PathBuf>> {
        let mut batches: Vec<Vec<PathBuf>> = Vec::new();
        let mut room_bytes = 0;
        for (path, bytes) in &self.files {
            match batches.last_mut() {
                Some(batch) if *bytes <= room_bytes => {
                    batch.push(path.clone());
                    room_bytes -= bytes;
                }
                _ => {
                    batches.push(vec![path.clone()]);
                    room_bytes = BATCH_BYTES.saturating_sub(*bytes);
                }
            }
        }
        batches
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> =
            self.directories.iter().map(|directory| directory.display().to_string()).collect();
        let Self { files, binary, unreadable, .. } = self;
        write!(f, "{} text files below {}", files.len(), names.join(", "))?;
        write!(f, " (left out: {binary} binary, {unreadable} unreadable)")
    }
}

/// The size of a file that has no NUL in its first 8 KiB; None for others.
fn text_bytes(path: &Path) -> io::Result<Option<u64>> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    file.by_ref().take(8 << 10).read_to_end(&mut head)?;
    Ok(if head.contains(&0) { None } else { Some(file.metadata()?.len()) })
}
