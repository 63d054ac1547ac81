//! Directories for what a benchmark writes, which are gone when it is over, however it ends.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};

/// Makes the directory, says so, and waits until the process that holds the other end of standard input is over, or says
/// that nothing is left. (So there is no moment in which the directory is there and nobody to remove it.) Processes that
/// it has started may still write then, for a moment.
const SWEEP: &str = r#"
trap "" HUP INT PIPE TERM
mkdir -m 700 -- "$1" || exit
echo
read -r _ && exit
for _ in 1 2 3 4 5; do rm -rf -- "$1"; sleep 1; [ -e "$1" ] || exit; done
"#;
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
    /// A directory whose name tells what it is for: the first of this name and a number that is not there, since what is
    /// there may be somebody else's.
    pub(super) fn new(purpose: &str) -> anyhow::Result<Self> {
        let name = format!("dcluster-bench-{purpose}-{}", std::process::id());
        for number in 0..NAMES_MAX {
            let path = std::env::temp_dir().join(format!("{name}-{number}"));
            if path.symlink_metadata().is_ok() {
                continue;
            }
            let mut sweeper = Command::new("sh");
            sweeper.args(["-c", SWEEP, "sh"]).arg(&path);
            sweeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut sweeper = sweeper.spawn().context("cannot start sh")?;
            let is_there = sweeper.stdout.take().is_some_and(|mut said| said.read_exact(&mut [0]).is_ok());
            if is_there {
                return Ok(Self { path, sweeper });
            }
            let end = sweeper.wait_with_output()?;
            // Somebody else may have been faster.
            if path.symlink_metadata().is_err() {
                bail!("cannot create {}: {}", path.display(), String::from_utf8_lossy(&end.stderr).trim());
            }
        }
        bail!("{NAMES_MAX} directories {name}-… are in {} already", std::env::temp_dir().display())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let is_gone = std::fs::remove_dir_all(&self.path).is_ok();
        if let Some(mut sweeper) = self.sweeper.stdin.take()
            && is_gone
        {
            // It sweeps if it does not hear this.
            let _ = sweeper.write_all(b"\n");
        }
        let _ = self.sweeper.wait();
    }
}
