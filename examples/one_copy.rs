//! `one_copy`: an array that every worker of a host reads is in the memory of the host once.
//!
//! A worker that needs the value of another maps the memory in which it lies. What a task takes by reference is borrowed
//! from there, so nothing is copied on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use dcluster::model::numbers::Numbers;
use dcluster::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const LENGTH: usize = 2_000_003;

#[dcluster::task]
fn field(length: usize) -> Numbers<f64> {
    (0..length).map(|i| i as f64).collect()
}

/// What a worker sees.
#[derive(Serialize, Deserialize)]
struct Look {
    pid: u32,
    is_right: bool,
    /// Its share of the memory in which large values lie: memory that three processes map counts a third for each.
    shared_bytes: u64,
}

/// Looks at all numbers; `number` tells calls apart, and the sleep has other workers take some of them.
#[dcluster::task(impure)]
fn look(field: &Numbers<f64>, number: u64) -> Look {
    std::thread::sleep(Duration::from_millis(20 + number % 2));
    let is_right = field.iter().enumerate().all(|(i, x)| *x == i as f64);
    Look { pid: std::process::id(), is_right, shared_bytes: shared_bytes() }
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    let array = client.submit(field::call(LENGTH));
    client.wait([&array], ReturnWhen::AllCompleted, None).await?;
    let status: Value = serde_json::from_str(&client.status().await?).expect("status is JSON");
    let workers = status["workers"].as_array().expect("a list of workers").iter();
    let processes = workers.map(|worker| worker["pid"].as_u64()).collect::<BTreeSet<_>>().len();
    look_everywhere(&client, &array, processes).await?;
    let shares = look_everywhere(&client, &array, processes).await?;
    let copies = shares.values().sum::<u64>() as f64 / (LENGTH * size_of::<f64>()) as f64;
    println!("{} processes read the array, copies on this host: {copies:.1}", shares.len());
    Ok(())
}

/// Has tasks look at the array until so many processes have done so in one go; what each process has of it.
async fn look_everywhere(
    client: &Client,
    array: &Future<Numbers<f64>>,
    processes: usize,
) -> dcluster::Result<BTreeMap<u32, u64>> {
    loop {
        let looks =
            client.gather(client.map(|number| look::call(array, number), 0..4 * processes as u64)).await?;
        assert!(looks.iter().all(|look| look.is_right), "the array is what it was");
        let shares: BTreeMap<u32, u64> = looks.iter().map(|look| (look.pid, look.shared_bytes)).collect();
        if shares.len() >= processes {
            return Ok(shares);
        }
    }
}

/// This process's share of mapped segments, in bytes, from `/proc/self/smaps`.
fn shared_bytes() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mut is_segment = false;
    let mut kilobytes = 0;
    for line in maps.lines() {
        if let Some(share) = line.strip_prefix("Pss:") {
            let share = share.trim().trim_end_matches(" kB").parse::<u64>();
            kilobytes += if is_segment { share.unwrap_or(0) } else { 0 };
        } else if !line.split(' ').next().is_some_and(|word| word.ends_with(':')) {
            is_segment = line.contains("/memfd:dcluster");
        }
    }
    kilobytes * 1024
}
