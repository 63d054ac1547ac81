//! The built-in tasks that the benchmarks run.

/// Does nothing with a number.
#[dcluster::task]
pub(super) fn noop(x: u64) -> u64 {
    x
}

/// Adds two numbers.
#[dcluster::task]
pub(super) fn add(x: u64, y: u64) -> u64 {
    x.wrapping_add(y)
}
