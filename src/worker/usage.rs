//! What this process uses of its machine: memory and CPU time.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::unistd::{SysconfVar, sysconf};

use crate::transport::shm;

/// Memory of this process, in bytes; 0 where the system does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessMemory {
    /// Its resident set.
    pub resident: u64,
    /// What only swap could take: what is backed neither by files nor by memory of others, its own shared segments
    /// included, and those that others have let go of and it has mapped still.
    pub own: u64,
}

impl ProcessMemory {
    /// Looks at it.
    pub fn sample() -> Self {
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let mut pages = statm.split_whitespace().skip(1).map_while(|field| field.parse::<u64>().ok());
        let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().unwrap_or(4096) as u64;
        shm::pool().adopt();
        let pool = shm::pool().usage();
        let segments = pool.used_bytes + pool.idle_bytes + pool.adopted_bytes;
        let own = resident.saturating_sub(shared) * page_bytes + segments;
        Self { resident: resident * page_bytes, own }
    }
}

/// User and system time of this process, in microseconds; 0 where the system does not tell.
pub fn cpu_us() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    usage.map_or(0, |usage| (usage.user_time() + usage.system_time()).num_microseconds() as u64)
}
