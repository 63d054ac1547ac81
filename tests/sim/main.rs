//! Deterministic simulation: the real cores and messages, a network and a workload made from a seed.
//!
//! A seed is a cluster of 1 to 1000 workers and several clients, a graph, delays and faults. [`world`] runs it;
//! [`ledger`] says what may happen, [`workload`] what everything must come to. Run one again with
//! `SIM_SEED=17 cargo nextest run -E 'binary(sim)'`, more of them with `SIM_SEEDS=10000`.

mod client;
mod ledger;
mod memory;
mod network;
mod plan;
mod random;
mod scheduler;
mod stops;
mod summary;
mod worker;
mod workload;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use self::summary::Summary;
use self::world::World;

/// Seeds that are run unless `SIM_SEEDS` says otherwise.
const SEEDS: u64 = 300;

#[test]
fn sim_random_clusters_keep_every_promise() {
    if let Some(seed) = number("SIM_SEED") {
        let summary = World::new(seed).run();
        println!("seed {seed}: {summary:?}");
        return;
    }
    let (seeds, next) = (number("SIM_SEEDS").unwrap_or(SEEDS), AtomicU64::new(0));
    let first = number("SIM_FIRST").unwrap_or(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let run = || {
        let numbers = std::iter::repeat_with(|| next.fetch_add(1, Ordering::Relaxed));
        numbers
            .take_while(|number| *number < seeds)
            .map(|number| simulate(first + number))
            .collect::<Vec<_>>()
    };
    let outcomes: Vec<Result<Summary, u64>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().flat_map(|thread| thread.join().expect("failures are caught")).collect()
    });
    let sum = outcomes.iter().flatten().fold(Summary::default(), |sum, summary| sum.plus(summary));
    println!("{seeds} seeds: {sum:?}");
    let failed: Vec<u64> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} of {seeds} seeds fail: {failed:?}", failed.len());
    assert!(seeds < SEEDS || sum.spills > 0 && sum.pauses > 0, "memory is never short: {sum:?}");
    assert!(seeds < SEEDS || sum.fills > 0 && sum.refusals > 0, "memory is never full: {sum:?}");
    // What no single seed has to show.
    assert!(seeds < SEEDS || (sum.replicated > 0 && sum.moved > 0), "no value is copied or moved: {sum:?}");
    assert!(seeds < SEEDS || sum.without_worker > 0, "no call waits in vain for a worker: {sum:?}");
    assert!(seeds < SEEDS || sum.refollowed > 0, "no follower that was given back is sent again: {sum:?}");
}

/// Runs a seed; one that breaks a promise comes back, and how to see that again is printed.
fn simulate(seed: u64) -> Result<Summary, u64> {
    catch_unwind(AssertUnwindSafe(|| World::new(seed).run())).map_err(|_| {
        eprintln!("seed {seed} fails; to run it again: SIM_SEED={seed} cargo nextest run -E 'binary(sim)'\n");
        seed
    })
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not `{text}`")))
}
