//! Connection files of clusters that were killed together with everyone who would have removed them.
//!
//! Slurm ends a step with SIGKILL, the guard of the file included. Whoever starts a cluster, or looks for one, takes
//! such files away. Only what is surely dead goes: nobody listens at its address, and its process is gone from this
//! host, or the Slurm job that it was in is over. A file of another host without a job stays.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::unistd::{SysconfVar, sysconf};

use super::output;
use crate::security::ConnectionFile;
use crate::security::run_directory::Surroundings;

/// Clocks and their rounding may put the start of a process this much after its file.
const CLOCK_SLACK: Duration = Duration::from_secs(10);

/// Removes the connection files of dead clusters of this user, and says so for each.
pub fn sweep() {
    for (path, file) in Surroundings::of_process().unanswered() {
        if let Some(reason) = death(&file)
            && file.remove(&path).unwrap_or(false)
        {
            let (path, name, host) = (path.display(), &file.name, &file.host);
            tracing::warn!(%path, "removed what the cluster `{name}` on {host} has left behind: {reason}");
        }
    }
}

/// Why the cluster of a file, at whose address nobody listens, is surely dead.
fn death(file: &ConnectionFile) -> Option<String> {
    if file.host == crate::topology::host_name() {
        let pid = file.pid;
        let latest = UNIX_EPOCH + Duration::from_secs(file.started) + CLOCK_SLACK;
        // A later process may have got the same number.
        let alive = process_start(pid).is_some_and(|start| start <= latest);
        return (!alive).then(|| format!("its process {pid} is gone"));
    }
    let job = file.job_id.as_deref().filter(|job| job.bytes().all(|byte| byte.is_ascii_digit()))?;
    let state = output::of("squeue", &["--noheader", "--format=%T", "--jobs", job])?;
    let over = state.trim().is_empty() || state.contains("Invalid job id");
    over.then(|| format!("its job {job} is over"))
}

/// When a process of this host was started.
fn process_start(pid: u32) -> Option<SystemTime> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything; the start is the 22nd field, and the state after the name the 3rd.
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let ticks_per_second = sysconf(SysconfVar::CLK_TCK).ok()??.max(1) as u64;
    Some(UNIX_EPOCH + Duration::from_secs(boot + ticks / ticks_per_second))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::security::Credentials;
    use crate::transport::tcp::hello;
    use crate::wire::handshake::Role;

    fn own_file() -> ConnectionFile {
        let credentials = Credentials::generate().unwrap().member;
        ConnectionFile::new("test", None, "127.0.0.1:1", &hello(Role::Scheduler, None), credentials)
    }

    #[test]
    fn a_living_process_is_not_dead_and_one_that_got_its_number_is_no_proof_of_life() {
        let mut file = own_file();
        assert_eq!(death(&file), None);
        file.started -= 1_000_000;
        assert!(death(&file).unwrap().contains("is gone"));
        file = own_file();
        file.pid = u32::MAX;
        assert!(death(&file).is_some());
    }

    #[test]
    fn a_file_of_another_host_without_a_job_stays() {
        let mut file = own_file();
        file.host = "elsewhere".to_owned();
        assert_eq!(death(&file), None);
    }
}
