//! What rank 0 leaves for the launcher's script: its exit code, and which connection file is its own.
//!
//! Open MPI 4 ends with 0 whatever its ranks end with once it is to go on after a lost one, and Slurm may kill a step
//! with everyone who would clean up. The scripts in `launchers/` therefore make a file, name it in [`VARIABLE`], end
//! with the code in its first line, and remove the connection file that it names if it is still there. A rank 0 that
//! is killed leaves the code it has written at its start.

use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::OnceLock;

use super::exit::Exit;
use super::role::{self, Environment};

/// Names the file; it exists already.
pub const VARIABLE: &str = "DCLUSTER_EXIT_CODE_FILE";

/// The length of the first line.
const CODE_BYTES: u64 = 4;

static FILE: OnceLock<File> = OnceLock::new();

/// Opens the file if there is one and this process is rank 0, and writes the code of one that is killed.
pub fn open(env: &Environment) {
    let Some(path) = env.get(VARIABLE) else { return };
    if role::detect(env).is_none_or(|launch| launch.rank > 0) {
        return;
    }
    // Only an existing file: the variable may come from a launcher that has long ended, or from another node's.
    match OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path) {
        Ok(file) => {
            let _ = FILE.set(file);
            write(Exit::Signal(libc::SIGKILL).code());
        }
        Err(error) => eprintln!("the launcher will not learn the exit code, {VARIABLE}={path}: {error}"),
    }
}

/// Writes the code that this process ends with, as far as is known; the last one counts.
pub fn write(code: i32) {
    if let Some(file) = FILE.get() {
        // Nobody is left to be told.
        let _ = file.write_all_at(line(code).as_bytes(), 0);
    }
}

/// Writes which connection file is that of this run, and the scheduler's address, by which it is known.
pub fn write_connection(connection_file: &Path, address: &str) {
    if let (Some(file), Ok(path)) = (FILE.get(), std::path::absolute(connection_file)) {
        let text = [path.as_os_str().as_bytes(), address.as_bytes(), b""].join(&b'\n');
        let _ = file.write_all_at(&text, CODE_BYTES);
    }
}

/// Always as long, so that one write replaces another.
fn line(code: i32) -> String {
    format!("{:\n<4}", code & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_replaces_the_one_before() {
        assert_eq!(line(0), "0\n\n\n");
        assert_eq!(line(137), "137\n");
    }
}
