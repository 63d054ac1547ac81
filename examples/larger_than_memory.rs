//! A dataset larger than the memory of the workers, kept, squared and added up along a tree.
//!
//! `dcluster local -n 3 --memory-limit 64MiB -- target/debug/examples/larger_than_memory 600` takes 600 MiB through 192.
//! With `hold` as the second argument it prints `ready` when all is loaded, and keeps it until the cluster ends; with
//! `stream` it keeps nothing, so that blocks go as soon as they are added up.

use std::time::Duration;

use dcluster::prelude::*;
use serde_json::Value;

/// Of one block: 4 MiB.
const NUMBERS: u64 = 1 << 19;

#[dcluster::task]
fn load(block: u64) -> Vec<f64> {
    (0..NUMBERS).map(|index| ((index + block) % 7) as f64).collect()
}

#[dcluster::task]
fn square(numbers: &[f64]) -> Vec<f64> {
    numbers.iter().map(|number| number * number).collect()
}

#[dcluster::task]
fn add(x: &[f64], y: &[f64]) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| x + y).collect()
}

#[dcluster::task]
fn total(numbers: &[f64]) -> f64 {
    numbers.iter().sum()
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mib: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(100);
    let how = arguments.next().unwrap_or_default();
    let count = mib.div_ceil(4);
    let mut blocks = client.map(load::call, 0..count);
    if how != "stream" {
        client.wait(&blocks, ReturnWhen::AllCompleted, None).await?;
    }
    if how == "hold" {
        println!("ready");
        return std::future::pending().await;
    }
    let mut level: Vec<Future<Vec<f64>>> =
        blocks.iter().map(|block| client.submit(square::call(block))).collect();
    if how == "stream" {
        blocks.clear();
    }
    while level.len() > 1 {
        let pair = |pair: &[Future<Vec<f64>>]| match pair {
            [x, y] => client.submit(add::call(x, y)),
            rest => rest[0].clone(),
        };
        level = level.chunks(2).map(pair).collect();
    }
    let sum = client.submit(total::call(&level[0])).result().await?;
    let right = (0..count).map(|block| (0..NUMBERS).map(|index| ((index + block) % 7).pow(2)).sum::<u64>());
    let verdict = if sum == right.sum::<u64>() as f64 { "right" } else { "wrong" };
    // Workers report what they have every second.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let status: Value = serde_json::from_str(&client.status().await?).unwrap_or_default();
    let mib = |figure: &str| {
        let workers = status["workers"].as_array().into_iter().flatten();
        workers.filter_map(|worker| worker[figure].as_u64()).sum::<u64>() >> 20
    };
    println!(
        "{sum}, which is {verdict}; spilled {} MiB, at most {} MiB of values in memory at a time",
        mib("spill_written_bytes"),
        mib("managed_bytes_peak")
    );
    Ok(())
}
