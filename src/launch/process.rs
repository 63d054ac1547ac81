//! Child processes: an environment without the launcher's variables, programs that link dcluster, worker processes.
//!
//! A program that calls dcluster's `main` carries a section `.dcluster` in its file; [`Marker::of`] reads it, so that
//! `dcluster run -- PROGRAM` can make workers of PROGRAM itself, with its tasks.

#![allow(unsafe_code)] // a link section, and the step between fork and exec

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use super::code_file;

/// What a process is to be, said by the dcluster process that starts it: `worker`, `rank` or `guard`.
pub const ROLE: &str = "DCLUSTER_ROLE";
/// The connection file to use.
pub const CONNECTION_FILE: &str = "DCLUSTER_CONNECTION_FILE";
/// JSON of a worker's [`crate::topology::Binding`], from the process that planned it.
pub const BINDING: &str = "DCLUSTER_BINDING";
/// How the ranks meet, if it is not for each to find out: `mpi` or `files`.
pub const MEETING: &str = "DCLUSTER_MEETING";

#[cfg(feature = "mpi")]
const MARK: [u8; 8] = *b"1 mpi\0\0\0";
#[cfg(not(feature = "mpi"))]
const MARK: [u8; 8] = *b"1 files\0";

/// In every program that calls dcluster's `main`; in others, such as a client with a `main` of its own, nothing refers
/// to it and the linker leaves it out.
// SAFETY: the section holds only this constant, and nothing but `Marker::of` reads it.
#[unsafe(link_section = ".dcluster")]
static MARKER: [u8; 8] = MARK;

/// Keeps the marker in the program of whoever calls this.
#[inline(never)]
pub fn keep_marker() {
    std::hint::black_box(&MARKER);
}

/// What a program's file says about the dcluster in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    /// Its ranks can meet over MPI.
    Mpi,
    /// It was built without MPI.
    Files,
}

impl Marker {
    /// What this very program has.
    pub const OWN: Self = if cfg!(feature = "mpi") { Self::Mpi } else { Self::Files };

    /// Reads the marker of the program at `path`; None for scripts and programs that do not call dcluster's `main`.
    pub fn of(path: &Path) -> Option<Self> {
        match elf_section(path, b".dcluster")?.get(..5)? {
            b"1 mpi" => Some(Self::Mpi),
            b"1 fil" => Some(Self::Files),
            _ => None,
        }
    }
}

/// Finds PROGRAM as a shell does: as it is if it has a slash, else on `PATH`.
pub fn find_program(program: &OsStr) -> Option<PathBuf> {
    let path = Path::new(program);
    if path.components().count() > 1 || program.as_encoded_bytes().contains(&b'/') {
        return path.exists().then(|| path.to_owned());
    }
    let executable = |path: &PathBuf| {
        use std::os::unix::fs::PermissionsExt as _;
        path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(program)).find(executable)
}

/// Takes out of `command`'s environment what would make the child think it is a rank.
pub fn strip_launcher(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_of_launcher) {
            command.env_remove(name);
        }
    }
    for name in [ROLE, BINDING, MEETING, CONNECTION_FILE, code_file::VARIABLE] {
        command.env_remove(name);
    }
}

/// Whether a variable belongs to one launch; the job's own variables stay, so that `srun` works in a driver.
fn is_of_launcher(name: &str) -> bool {
    const KEPT: &[&str] = &["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"];
    const PREFIXES: &[&str] = &[
        "OMPI_",
        "PMIX_",
        "PMI_",
        "PRTE_",
        "HYDI_",
        "HYDRA_",
        "MPI_LOCAL",
        "SLURM_STEP",
        "SLURM_SRUN_COMM_",
    ];
    const NAMES: &[&str] = &[
        "PMI2_FD",
        "SLURM_PROCID",
        "SLURM_LOCALID",
        "SLURM_NODEID",
        "SLURM_GTIDS",
        "SLURM_TASK_PID",
        "SLURM_LAUNCH_NODE_IPADDR",
        "SLURM_MPI_TYPE",
        "SLURM_CPU_BIND",
        "SLURM_CPU_BIND_LIST",
        "SLURM_CPU_BIND_TYPE",
        "SLURM_CPU_BIND_VERBOSE",
        "SLURM_DISTRIBUTION",
    ];
    let of_slurm_pmi = name.starts_with("SLURM_PMI");
    !KEPT.contains(&name)
        && (of_slurm_pmi || NAMES.contains(&name) || PREFIXES.iter().any(|p| name.starts_with(p)))
}

/// Makes the child end with `signal` when the thread that starts it is gone.
pub fn end_with_parent(command: &mut Command, signal: Signal) {
    let arm = move || nix::sys::prctl::set_pdeathsig(signal).map_err(io::Error::from);
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(arm) };
}

/// Makes the child's process group, which it has joined, that of the terminal on standard input.
pub fn give_terminal(command: &mut Command) {
    let take = || take_terminal().or(Ok(()));
    // SAFETY: between fork and exec the closure makes system calls on its own stack only.
    unsafe { command.pre_exec(take) };
}

/// Makes this process's group that of the terminal on standard input.
///
/// # Errors
/// What the system says, for example that standard input is no terminal.
pub fn take_terminal() -> io::Result<()> {
    use nix::sys::signal::{SigSet, SigmaskHow};
    let mut output = SigSet::empty();
    output.add(Signal::SIGTTOU);
    // A group in the background is stopped for this, unless it blocks the signal.
    let before = output.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    let taken = nix::unistd::tcsetpgrp(io::stdin(), nix::unistd::getpgrp());
    before.thread_set_mask()?;
    taken.map_err(io::Error::from)
}

/// The content of one section of a little-endian 64-bit ELF file.
fn elf_section(path: &Path, name: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 64;
    const SECTION_BYTES_MAX: u64 = 1 << 20;
    let mut file = File::open(path).ok()?;
    let header = read_at(&mut file, 0, HEADER as u64)?;
    if header.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (table, entry) = (number(&header, 0x28, 8)?, number(&header, 0x3a, 2)?);
    let (count, names) = (number(&header, 0x3c, 2)?, number(&header, 0x3e, 2)?);
    let sections = read_at(&mut file, table, entry.checked_mul(count)?)?;
    let section = |index: u64| sections.get((index * entry) as usize..)?.get(..entry as usize);
    let mut content = |section: &[u8]| {
        let length = number(section, 0x20, 8)?;
        (length <= SECTION_BYTES_MAX).then(|| read_at(&mut file, number(section, 0x18, 8)?, length))?
    };
    let names = content(section(names)?)?;
    let is_named = |section: &&[u8]| {
        let start = number(section, 0, 4).map(|at| at as usize);
        let rest = start.and_then(|start| names.get(start..));
        rest.is_some_and(|rest| rest.strip_prefix(name).is_some_and(|after| after.first() == Some(&0)))
    };
    content((0..count).filter_map(section).find(is_named)?)
}

fn read_at(file: &mut File, offset: u64, length: u64) -> Option<Vec<u8>> {
    file.seek(SeekFrom::Start(offset)).ok()?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 == length).then_some(bytes)
}

fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let little_endian = bytes.get(at..at + width)?;
    Some(little_endian.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_links_dcluster_is_recognised() {
        keep_marker();
        assert_eq!(Marker::of(&std::env::current_exe().unwrap()), Some(Marker::OWN));
    }

    #[test]
    fn other_programs_and_files_are_not() {
        assert_eq!(Marker::of(Path::new("/bin/sh")), None);
        assert_eq!(Marker::of(Path::new("/etc/passwd")), None);
        assert_eq!(Marker::of(Path::new("/nowhere")), None);
    }

    #[test]
    fn the_variables_of_the_launch_are_stripped_and_those_of_the_job_stay() {
        for name in
            ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_FD", "PRTE_LAUNCHED", "SLURM_PROCID", "SLURM_STEP_ID"]
        {
            assert!(is_of_launcher(name), "{name}");
        }
        for name in ["SLURM_JOB_ID", "SLURM_NTASKS", "PATH", "OMPI_ALLOW_RUN_AS_ROOT", "UCX_TLS"] {
            assert!(!is_of_launcher(name), "{name}");
        }
    }

    #[test]
    fn a_program_is_found_on_the_path_or_by_its_path() {
        assert!(find_program(OsStr::new("sh")).unwrap().is_absolute());
        assert_eq!(find_program(OsStr::new("/bin/sh")), Some(PathBuf::from("/bin/sh")));
        assert_eq!(find_program(OsStr::new("no-such-program-here")), None);
    }
}
