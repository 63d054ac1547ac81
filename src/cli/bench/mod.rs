//! The benchmark suite: every figure by name, with its unit.
//!
//! [`overhead`] is what the cluster costs per task, [`fleet`] what its ranks cost while they do nothing and
//! how long they take to start, [`core`] the scheduler's decisions alone. [`stage`] starts the processes that
//! are measured. A figure is the median of its samples, all from one run.

pub mod core;
mod fleet;
mod overhead;
mod stage;
mod tasks;
mod zero_worker;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::json;

use super::arguments::{Bench, Suite};
use crate::launch::Exit;

pub(super) use self::stage::ZERO_WORKER;
pub(super) use self::zero_worker::run as zero_worker;

/// One measured quantity.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Its name, with the unit last unless it is a rate.
    pub name: &'static str,
    /// The median of the samples.
    pub value: f64,
    /// Of `value`.
    pub unit: &'static str,
    /// Smallest sample.
    pub min: f64,
    /// Largest sample.
    pub max: f64,
    /// How many samples.
    pub samples: usize,
}

impl Figure {
    /// The median of `samples`, of which there is at least one.
    pub fn of(name: &'static str, unit: &'static str, mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let (min, max) = (samples[0], samples[samples.len() - 1]);
        Self { name, value: samples[samples.len() / 2], unit, min, max, samples: samples.len() }
    }
}

/// Runs a suite and prints its figures; the exit code.
pub(super) fn run(typed: &Bench, as_json: bool) -> i32 {
    let figures = match typed.suite {
        Suite::Overhead => overhead::run(typed.repeat, typed.quick),
    };
    match figures.context("the benchmark did not finish") {
        Ok(figures) if as_json => {
            let output = json!({ "results": figures, "environment": environment() });
            super::print(format!("{output}\n").as_bytes())
        }
        Ok(figures) => super::print(table(&figures).as_bytes()),
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::Failure.code()
        }
    }
}

fn table(figures: &[Figure]) -> String {
    let line = |figure: &Figure| {
        let Figure { name, value, unit, min, max, samples } = figure;
        format!("{name:32} {value:>14.2} {unit:10} (min {min:.2}, max {max:.2}, {samples} samples)\n")
    };
    figures.iter().map(line).collect()
}

/// What the figures depend on.
fn environment() -> serde_json::Value {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "host": sysinfo::System::host_name().ok(),
        "kernel": sysinfo::System::kernel_version().ok(),
        "cores": cores,
        "load_1min": load.split(' ').next().and_then(|load| load.parse::<f64>().ok()),
        "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
    })
}
