//! A task library: what `--tasks libmine.so` loads.

#[cfg(not(any(feature = "other-abi", feature = "no-tasks")))]
dcluster::export_tasks!();

#[cfg(feature = "other-abi")]
#[unsafe(no_mangle)]
extern "C" fn dcluster_abi() -> dcluster::registry::library::AbiText {
    dcluster::registry::library::AbiText::new("dcluster 0.0.9, rustc 1.60.0")
}

/// The sum of squares.
#[dcluster::task]
pub fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// Panics if there is nothing.
#[dcluster::task]
pub fn largest(values: Vec<f64>) -> f64 {
    values.into_iter().max_by(f64::total_cmp).expect("an empty list has no largest value")
}

/// The process that runs it.
#[dcluster::task(impure)]
pub fn process() -> u32 {
    std::process::id()
}

/// What only another version has.
#[cfg(feature = "more-tasks")]
#[dcluster::task]
pub fn smallest(values: Vec<f64>) -> f64 {
    values.into_iter().fold(f64::INFINITY, f64::min)
}
