//! How much memory the ranks of this host may use together: what the job has, not what the host has.

use std::fs;
use std::path::{Path, PathBuf};

use super::role::Environment;

/// Bytes for all ranks on this host: the least of cgroup, Slurm and host; 0 if nothing is known.
pub fn of_host(env: &Environment) -> u64 {
    [limit_of_cgroup(), limit_of_slurm(env), total()].into_iter().flatten().min().unwrap_or(0)
}

/// The memory limit of this process's cgroup or of one above it, in bytes.
pub fn limit_of_cgroup() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    own.lines().filter_map(limits_of_line).flatten().min()
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
fn limits_of_line(line: &str) -> Option<Vec<u64>> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let (root, file) = match controllers {
        "" => ("/sys/fs/cgroup", "memory.max"),
        list if list.split(',').any(|name| name == "memory") => {
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return None,
    };
    let mut folder = PathBuf::from(format!("{root}{path}"));
    let mut limits = Vec::new();
    loop {
        // "max" is no number, and no limit.
        limits.extend(
            fs::read_to_string(folder.join(file)).ok().and_then(|text| text.trim().parse::<u64>().ok()),
        );
        if folder == Path::new(root) || !folder.pop() {
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
    fn all_of_the_memory_is_no_limit() {
        assert_eq!(limit_of_slurm(&env(&[("SLURM_MEM_PER_NODE", "0")])), None);
    }
}
