//! Memory that other ranks of this host can map: where the bulk of values lives, and the lane that copies nothing.
//!
//! ```text
//!  holder                                             consumer, on the same host
//!  buffer ── lies in ─► segment (memfd) ◄── maps, read only ── /proc/PID/fd/N
//!        Leases::grant ─► Mapping ────── TCP ─────────► Pool::map ─► Bytes
//! ```
//!
//! [`pool`] recycles segments and knows which addresses lie in which; `segment.rs` is one of them, or a map of another
//! process's; [`leases`] keeps what others are about to map. Segments are anonymous files: whatever dies, the kernel
//! takes them back, and no mount limits their size. One that was exported is never written again, so a map is good for
//! as long as it is held, whoever has died.

pub mod leases;
mod pool;
mod segment;

use std::fs;
use std::hash::Hasher as _;
use std::sync::LazyLock;

use xxhash_rust::xxh3::Xxh3Default;

use crate::model::buffer;
use crate::wire::peer::HostKey;
pub use pool::{Age, Limits, Loan, Pool, PoolUse, raise_open_files};
pub use segment::MapError;

static POOL: LazyLock<Pool> = LazyLock::new(|| Pool::new(Limits::of_process()));

/// The pool of this process.
pub fn pool() -> &'static Pool {
    &POOL
}

/// Has large buffers of this process live in its pool, which keeps up to `idle_bytes` more of unused memory.
///
/// Not where the kernel accounts for a page of such memory when it is touched, and ends a process that touches one too
/// many: on the heap it says no in time.
pub fn use_pool(idle_bytes: u64) {
    raise_open_files();
    let overcommit = fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    if never_overcommits(&overcommit) {
        if POOL.close() {
            tracing::warn!(
                "vm.overcommit_memory is 2: large buffers live on the heap, and are copied to other ranks of this host"
            );
        }
        return;
    }
    POOL.keep_idle(idle_bytes);
    buffer::take_bulk_from(&*POOL);
}

/// Whether the kernel promises no more memory than it has, by its own setting.
fn never_overcommits(setting: &str) -> bool {
    setting.trim() == "2"
}

/// What processes have in common that can map each other's segments; None if the system does not tell.
///
/// A kernel's boot and a namespace of process ids: a process is found by the same number.
pub fn host_key() -> Option<HostKey> {
    static KEY: LazyLock<Option<HostKey>> = LazyLock::new(|| {
        let boot = fs::read("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
        let mut hasher = Xxh3Default::new();
        hasher.write(&boot);
        hasher.write(namespace.as_os_str().as_encoded_bytes());
        Some(HostKey(hasher.finish()))
    });
    *KEY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_promises_no_more_than_it_has_is_known() {
        assert!(never_overcommits("2\n"));
        assert!(!never_overcommits("0\n") && !never_overcommits("1\n") && !never_overcommits(""));
    }
}
