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

/// Looks at each number, and says how many there are.
#[dcluster::task]
pub(super) fn length(numbers: &[f64]) -> u64 {
    numbers.iter().filter(|number| number.is_finite()).count() as u64
}
