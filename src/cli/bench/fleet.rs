//! Ranks that do nothing: what they cost, and how long a launch takes.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Figure;
use super::stage::{Stage, cpu_seconds, descendants};

const IDLE_RANKS: u32 = 16;
const LAUNCH_RANKS: u32 = 64;
/// From the last join until things have settled.
const SETTLE: Duration = Duration::from_secs(2);

/// CPU time of all processes of an idle launch, `mpirun` included, in percent of one core.
pub(super) fn idle_cpu_percent(watch: Duration) -> anyhow::Result<Figure> {
    let mut stage = Stage::with_ranks(IDLE_RANKS)?;
    let client = stage.client(IDLE_RANKS as usize - 1)?;
    client.close();
    sleep(SETTLE);
    let processes = descendants(stage.scheduler_pid())?;
    let used = || processes.iter().map(|pid| cpu_seconds(*pid)).sum::<anyhow::Result<f64>>();
    let (before, started) = (used()?, Instant::now());
    sleep(watch);
    let percent = 100.0 * (used()? - before) / started.elapsed().as_secs_f64();
    Ok(Figure::of("idle_cpu_percent", "%", vec![percent]))
}

/// From the start of `mpirun -n 64` until every rank has joined.
pub(super) fn launch_64_ranks_s() -> anyhow::Result<Figure> {
    let started = Instant::now();
    let mut stage = Stage::with_ranks(LAUNCH_RANKS)?;
    let _client = stage.client(LAUNCH_RANKS as usize - 1)?;
    Ok(Figure::of("launch_64_ranks_s", "s", vec![started.elapsed().as_secs_f64()]))
}
