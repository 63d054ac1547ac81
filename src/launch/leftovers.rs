//! Files of this process that must not outlive it, whichever way it ends.
//!
//! The owner of a file removes it in the ordinary way; this list is for an end at once, from the thread that hears
//! signals.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

static PATHS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Adds a file, or a directory with all it holds.
pub fn add(path: &Path) {
    PATHS.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
}

/// Removes every file on the list.
pub fn remove_all() {
    for path in PATHS.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        // It is gone already in most cases.
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
    }
}
