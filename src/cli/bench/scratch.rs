//! Directories for what a benchmark writes, which are gone when it is over, however it ends.

use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};

/// Waits until the process that holds the other end of standard input is over. Processes that it has started may still
/// write then, for a moment.
const SWEEP: &str =
    r#"trap "" HUP INT TERM; read -r _; for _ in 1 2 3 4 5; do rm -rf -- "$1" && exit; sleep 1; done"#;
/// Directories of one name that are tried.
const NAMES_MAX: u32 = 1000;

/// A new directory below that for temporary files, which only its owner can enter.
///
/// It is removed when this is dropped, and by a process of its own where a signal has ended this one.
pub(super) struct Scratch {
    path: PathBuf,
    sweeper: Child,
}

impl Scratch {
    /// A directory whose name tells what it is for.
    pub(super) fn new(purpose: &str) -> anyhow::Result<Self> {
        let path = create(&format!("dcluster-bench-{purpose}-{}", std::process::id()))?;
        let mut sweeper = Command::new("sh");
        sweeper.args(["-c", SWEEP, "sh"]).arg(&path);
        sweeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        match sweeper.spawn() {
            Ok(sweeper) => Ok(Self { path, sweeper }),
            Err(error) => {
                let _ = std::fs::remove_dir(&path);
                Err(error).context("cannot start sh")
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
        drop(self.sweeper.stdin.take());
        let _ = self.sweeper.wait();
    }
}

/// Creates the first directory of this name, or of the name and a number, that is not there: what is there may be
/// somebody else's.
fn create(name: &str) -> anyhow::Result<PathBuf> {
    for number in 0..NAMES_MAX {
        let path = std::env::temp_dir().join(format!("{name}-{number}"));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| format!("cannot create {}", path.display())),
        }
    }
    bail!("{NAMES_MAX} directories {name}-… are in {} already", std::env::temp_dir().display())
}
