//! What this process uses of its machine: memory and CPU time.

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::unistd::{SysconfVar, sysconf};

use crate::transport::shm;

/// Time between two looks at what other processes have let go of.
const ADOPT_EVERY: Duration = Duration::from_millis(100);

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
        if is_time_to_adopt() {
            shm::pool().adopt();
        }
        let pool = shm::pool().usage();
        let segments = pool.used_bytes + pool.idle_bytes + pool.adopted_bytes;
        let own = resident.saturating_sub(shared) * page_bytes + segments;
        Self { resident: resident * page_bytes, own }
    }
}

/// Whether the last look at what others have let go of was a while ago: it asks the system about every map.
fn is_time_to_adopt() -> bool {
    static LOOKED_AT: Mutex<Option<Instant>> = Mutex::new(None);
    let mut looked_at = LOOKED_AT.lock().unwrap_or_else(PoisonError::into_inner);
    let is_time = looked_at.is_none_or(|at| at.elapsed() >= ADOPT_EVERY);
    if is_time {
        *looked_at = Some(Instant::now());
    }
    is_time
}

/// All memory of the host, in bytes; 0 where the system does not tell.
pub fn host_bytes() -> u64 {
    let figure = |name| sysconf(name).ok().flatten().unwrap_or(0) as u64;
    figure(SysconfVar::_PHYS_PAGES) * figure(SysconfVar::PAGE_SIZE)
}

/// User and system time of this process, in microseconds; 0 where the system does not tell.
pub fn cpu_us() -> u64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF);
    usage.map_or(0, |usage| (usage.user_time() + usage.system_time()).num_microseconds() as u64)
}
