//! The benchmark suite: every figure by name, with its unit.
//!
//! [`overhead`] is what the cluster costs per task, [`fleet`] what its ranks cost while they do nothing and
//! how long they take to start, [`core`] the scheduler's decisions alone; [`transfer`] is what values cost on their
//! way between ranks, [`collective`] on their way between a client and the workers; [`dataflow`] is what programs of
//! arrays get from all that. [`stage`] starts the processes that are measured, [`scratch`] has what they write. A figure
//! is the median of its samples, all from one run.

mod collective;
pub mod core;
mod dataflow;
mod fleet;
mod overhead;
mod scratch;
mod stage;
mod tasks;
pub(super) mod transfer;
mod zero_worker;

use std::borrow::Cow;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::json;

use super::arguments::{Bench, Suite};
use crate::launch::Exit;
use crate::launch::role::Environment;

pub(super) use self::stage::ZERO_WORKER;
pub(super) use self::zero_worker::run as zero_worker;

/// One measured quantity.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// Its name, with the unit last unless it is a rate.
    pub name: Cow<'static, str>,
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
    pub fn of(name: impl Into<Cow<'static, str>>, unit: &'static str, mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let (min, max) = (samples[0], samples[samples.len() - 1]);
        Self { name: name.into(), value: samples[samples.len() / 2], unit, min, max, samples: samples.len() }
    }
}

/// The median of samples, of which there is at least one.
fn median(samples: Vec<f64>) -> f64 {
    Figure::of("", "", samples).value
}

/// The figures of a suite, and what has to be known to read them.
#[derive(Debug, Default)]
struct Report {
    figures: Vec<Figure>,
    notes: Vec<String>,
}

impl From<Vec<Figure>> for Report {
    fn from(figures: Vec<Figure>) -> Self {
        Self { figures, notes: Vec::new() }
    }
}

/// Runs a suite and prints its figures; the exit code.
pub(super) fn run(env: &Environment, typed: &Bench, as_json: bool) -> i32 {
    let report = match typed.suite {
        Suite::Overhead => overhead::run(typed.repeat, typed.quick),
        Suite::Collective => collective::run(typed.repeat, typed.quick).map(Report::from),
        Suite::Dataflow => dataflow::run(typed.repeat, typed.quick),
        Suite::Transfer => return transfer::run(env, typed, as_json),
    };
    match report.context("the benchmark did not finish") {
        Ok(report) => show(&report, as_json),
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::Failure.code()
        }
    }
}

/// Prints figures; the exit code.
fn show(report: &Report, as_json: bool) -> i32 {
    let Report { figures, notes } = report;
    match as_json {
        true => {
            let output = json!({ "results": figures, "notes": notes, "environment": environment() });
            super::print(format!("{output}\n").as_bytes())
        }
        false => super::print(table(report).as_bytes()),
    }
}

fn table(Report { figures, notes }: &Report) -> String {
    let line = |figure: &Figure| {
        let Figure { name, value, unit, min, max, samples } = figure;
        format!("{name:38} {value:>14.2} {unit:10} (min {min:.2}, max {max:.2}, {samples} samples)\n")
    };
    let notes = notes.iter().map(|note| format!("({note})\n"));
    figures.iter().map(line).chain(notes).collect()
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
