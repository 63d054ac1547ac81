//! A disk that is soon full: a small tmpfs, which only the processes of one test see.

use std::path::PathBuf;
use std::process::Command;

/// Names the disk to the test that runs again on it.
const VARIABLE: &str = "DCLUSTER_TEST_SMALL_DISK";

/// Runs the calling test once more, in a process that has a disk of this size, and returns None when it has passed. In
/// that process, the disk's directory.
pub(crate) fn small_disk(test: &str, size: &str) -> Option<PathBuf> {
    if let Some(directory) = std::env::var_os(VARIABLE) {
        return Some(directory.into());
    }
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    // (Who is not root becomes it in a namespace.)
    let is_root = nix::unistd::geteuid().is_root();
    command.args(if is_root { &["--mount"][..] } else { &["--mount", "--map-root-user"] });
    let script = format!("mount -t tmpfs -o size={size} tmpfs \"${VARIABLE}\" && exec \"$@\"");
    command.args(["sh", "-c", &script, "sh"]).arg(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(VARIABLE, directory.path());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{test} on a small disk:\n{text}\n{errors}"
    );
    None
}
