//! How much memory the ranks of this host may use: what the job has, not what the host has; and where a worker puts
//! what does not fit.

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::leftovers;
use super::ranks::Setup;
use super::role::Environment;
use crate::worker::spill::SpillPlace;
use crate::worker::spill::directory::{self, Origin};

/// Bytes that a worker may use; 0 for all there is.
pub const LIMIT: &str = "DCLUSTER_MEMORY_LIMIT";
/// Where workers spill.
pub const SPILL_DIRECTORY: &str = "DCLUSTER_SPILL_DIRECTORY";
/// The part of a host's memory that is left to the scheduler and the driver,
const LEADER_FRACTION: u64 = 16;
/// and the most that it is, in bytes.
const LEADER_BYTES_MAX: u64 = 4 << 30;
/// Tells the workers of one process apart.
static SHARES: AtomicU32 = AtomicU32::new(0);

/// Where the scheduler and the driver run, seen from a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leader {
    /// On its host, as part of the same job.
    Here,
    /// On another, or not as part of the job.
    Elsewhere,
}

/// The memory of one worker.
#[derive(Debug, Clone)]
pub struct Share {
    /// What it may use, in bytes; 0 for all there is.
    pub bytes_max: u64,
    /// Where it spills.
    pub spill: SpillPlace,
    /// How many workers its process has.
    pub workers_in_process: u32,
}

impl Share {
    /// Of one of `workers_on_host` workers, `workers_in_process` of them in this process.
    pub fn new(
        setup: &Setup,
        env: &Environment,
        workers_on_host: u32,
        leader: Leader,
        workers_in_process: u32,
    ) -> Self {
        let bytes_max = bytes_max(setup, env, workers_on_host, leader);
        let base = setup.spill_directory.clone();
        let spill = match base.or_else(|| default_base(env)) {
            Some(base) => {
                let path = private_path(&base);
                leftovers::add(&path);
                sweep(base);
                SpillPlace::Directory(path)
            }
            None => SpillPlace::Nowhere(
                "the directory for temporary files is memory itself, and no other was given".to_owned(),
            ),
        };
        Self { bytes_max, spill, workers_in_process }
    }
}

/// What each of so many workers on this host may use, in bytes: what was set, or its part of what the job has.
pub fn bytes_max(setup: &Setup, env: &Environment, workers_on_host: u32, leader: Leader) -> u64 {
    let of_workers = |bytes: u64| match leader {
        Leader::Here => bytes - (bytes / LEADER_FRACTION).min(LEADER_BYTES_MAX),
        Leader::Elsewhere => bytes,
    };
    setup.memory_limit.unwrap_or_else(|| of_workers(of_host(env)) / u64::from(workers_on_host.max(1)))
}

/// Reads a size: bytes, or a number with K, M, G or T (also KiB and so on), powers of 1024.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_uppercase();
    let shift = match unit.trim_end_matches('B').trim_end_matches('I') {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("`{text}` is no size: give bytes, or a number with K, M, G or T")),
    };
    let wrong = |_| format!("`{text}` is no size: it does not begin with a number");
    match number.contains('.') {
        true => Ok((number.parse::<f64>().map_err(|_| wrong(()))? * (1u64 << shift) as f64) as u64),
        false => {
            let number = number.parse::<u64>().map_err(|_| wrong(()))?;
            number.checked_mul(1 << shift).ok_or_else(|| format!("`{text}` is more than any machine has"))
        }
    }
}

/// Where temporary files go, unless that is memory.
fn default_base(env: &Environment) -> Option<PathBuf> {
    let base = env.get("TMPDIR").filter(|path| !path.is_empty()).map_or(Path::new("/tmp"), Path::new);
    let is_memory = statfs(base).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC);
    (!is_memory).then(|| base.to_owned())
}

/// A name that no other worker has.
fn private_path(base: &Path) -> PathBuf {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let (pid, number) = (std::process::id(), SHARES.fetch_add(1, Ordering::Relaxed));
    base.join(Origin::here().name(&format!("{pid}-{number}-{since:x}")))
}

/// Removes what workers that were killed have left, beside whatever else this process does.
fn sweep(base: PathBuf) {
    let sweeping = thread::Builder::new().name("sweep".to_owned()).spawn(move || {
        for path in directory::sweep(&base, &Origin::here()) {
            tracing::warn!(path = %path.display(), "removed what a killed worker had spilled");
        }
    });
    if let Err(error) = sweeping {
        tracing::debug!(%error, "nothing is swept");
    }
}

/// Bytes for all ranks on this host: the least of cgroup, Slurm and host; 0 if nothing is known.
pub fn of_host(env: &Environment) -> u64 {
    [limit_of_cgroup(), limit_of_slurm(env), total()].into_iter().flatten().min().unwrap_or(0)
}

/// The memory limit of this process's cgroup or of one above it, in bytes.
pub fn limit_of_cgroup() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    limit_below(Path::new("/sys/fs/cgroup"), &own)
}

/// The least limit of the groups in `own`, which is like `/proc/self/cgroup`, and of those above them. They are mounted
/// at `root`.
fn limit_below(root: &Path, own: &str) -> Option<u64> {
    own.lines().filter_map(|line| limits_of_line(root, line)).flatten().min()
}

/// All memory of the host, in bytes.
pub fn total() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

/// What Slurm gives the job on this node, in bytes; both variables are in MiB, and 0 means everything.
fn limit_of_slurm(env: &Environment) -> Option<u64> {
    let number = |name: &str| env.get(name)?.parse::<u64>().ok();
    let per_node = number("SLURM_MEM_PER_NODE");
    let per_cpu = || Some(number("SLURM_MEM_PER_CPU")? * number("SLURM_CPUS_ON_NODE")?);
    per_node.or_else(per_cpu).filter(|mebibytes| *mebibytes > 0).map(|mebibytes| mebibytes << 20)
}

/// The limits of one line of `/proc/self/cgroup`, from its own group up to the root.
fn limits_of_line(root: &Path, line: &str) -> Option<Vec<u64>> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    // From `memory.high` on the kernel takes memory back, and slows down whoever wants more.
    let (root, files) = match controllers {
        "" => (root.to_owned(), ["memory.max", "memory.high"].as_slice()),
        list if list.split(',').any(|name| name == "memory") => {
            (root.join("memory"), ["memory.limit_in_bytes"].as_slice())
        }
        _ => return None,
    };
    // A group outside of this process's namespace is shown by a way up, and none of its files is to be seen here.
    let inside = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_)));
    let mut folder = root.join(inside.collect::<PathBuf>());
    let mut limits = Vec::new();
    loop {
        // "max" is no number, and no limit.
        let number = |file: &&str| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok();
        limits.extend(files.iter().filter_map(number));
        if folder == root || !folder.pop() {
            return Some(limits);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Environment {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn the_job_limits_before_the_host_does() {
        let total = total().unwrap();
        assert!(of_host(&Environment::new()) <= total);
        assert_eq!(of_host(&env(&[("SLURM_MEM_PER_NODE", "10")])), 10 << 20);
        assert_eq!(of_host(&env(&[("SLURM_MEM_PER_CPU", "10"), ("SLURM_CPUS_ON_NODE", "3")])), 30 << 20);
    }

    #[test]
    fn a_limit_that_was_set_goes_before_all() {
        let setup = Setup { memory_limit: Some(7), ..Setup::default() };
        assert_eq!(bytes_max(&setup, &env(&[("SLURM_MEM_PER_NODE", "10")]), 2, Leader::Here), 7);
    }

    #[test]
    fn workers_share_what_the_scheduler_and_the_driver_do_not_need() {
        let of_16_mib = |workers, leader| {
            bytes_max(&Setup::default(), &env(&[("SLURM_MEM_PER_NODE", "16")]), workers, leader)
        };
        assert_eq!(of_16_mib(2, Leader::Elsewhere), 8 << 20);
        assert_eq!(of_16_mib(3, Leader::Here), 5 << 20);
    }

    #[test]
    fn sizes_have_units_of_1024() {
        for (text, bytes) in
            [("7", 7), ("64MiB", 64 << 20), ("2g", 2 << 30), ("1.5 K", 1536), ("3TB", 3 << 40)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "7 parsecs", "-1", "99999999999T"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    /// A tree of groups with these files.
    fn groups(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    #[test]
    fn the_least_limit_up_the_hierarchy_counts() {
        let root = groups(&[
            ("memory.max", "9000\n"),
            ("job/memory.max", "3000\n"),
            ("job/memory.high", "max\n"),
            ("job/step/memory.max", "max\n"),
            ("job/step/task/memory.max", "5000\n"),
            ("soft/memory.max", "8000\n"),
            ("soft/memory.high", "7000\n"),
        ]);
        let limit = |own| limit_below(root.path(), own);
        assert_eq!(limit("0::/job/step/task\n"), Some(3000));
        assert_eq!(limit("0::/job/step\n"), Some(3000));
        assert_eq!(limit("0::/soft\n"), Some(7000), "beyond which the kernel slows a process down");
        assert_eq!(limit("0::/\n"), Some(9000));
        assert_eq!(limit("0::/gone/since\n"), Some(9000));
        assert_eq!(limit("0::/../../job\n"), Some(3000), "seen from inside a namespace");
        assert_eq!(limit_below(groups(&[("a/memory.max", "max")]).path(), "0::/a\n"), None);
    }

    #[test]
    fn in_version_1_and_where_both_are_mounted_the_memory_controller_limits() {
        let root = groups(&[
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory/slurm/job/memory.limit_in_bytes", "4000\n"),
            ("cpu/slurm/job/memory.limit_in_bytes", "1\n"),
            ("unified/slurm/job/cgroup.procs", "\n"),
        ]);
        let own = "4:cpu,cpuacct:/slurm/job\n3:memory:/slurm/job\n0::/slurm/job\n";
        assert_eq!(limit_below(root.path(), "3:memory:/slurm/job\n"), Some(4000));
        assert_eq!(limit_below(root.path(), own), Some(4000));
        assert_eq!(limit_below(root.path(), "4:cpu,cpuacct:/slurm/job\n"), None);
    }

    #[test]
    fn all_of_the_memory_is_no_limit() {
        assert_eq!(limit_of_slurm(&env(&[("SLURM_MEM_PER_NODE", "0")])), None);
    }
}
