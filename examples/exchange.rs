//! `exchange`: blocks that lie on different workers meet in one task, and travel there on the fastest lane there is.
//!
//! A result stays on the worker that made it. A task that needs it elsewhere has it fetched: on the same host its memory
//! is mapped, between the ranks of one launch it comes over MPI, else over TCP. `dcluster status --json` counts what came
//! over which lane, worker by worker, and `story` tells of each transfer of one value.
//!
//! `exchange [LENGTH [ROUNDS]]`. A worker that dies meanwhile costs time and no result, if its launcher lets the others
//! live.

use std::time::{Duration, Instant};

use dcluster::prelude::*;
use serde_json::Value;

const BLOCKS: u64 = 6;

#[dcluster::task]
fn block(seed: u64, length: usize) -> Vec<f64> {
    (0..length).map(|i| (seed * 1000) as f64 + i as f64).collect()
}

/// The largest difference of two entries at the same place; NaN if the lengths differ.
#[dcluster::task]
fn distance(a: &[f64], b: &[f64]) -> f64 {
    if a.len() != b.len() {
        return f64::NAN;
    }
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    let argument = |position| std::env::args().nth(position).and_then(|number| number.parse().ok());
    let (length, rounds): (usize, u64) = (argument(1).unwrap_or(200_003), argument(2).unwrap_or(1) as u64);
    let mut blocks = Vec::new();
    for round in 0..rounds {
        blocks = client.map(|seed| block::call(seed, length), round * BLOCKS..(round + 1) * BLOCKS);
        client.wait(&blocks, ReturnWhen::AllCompleted, None).await?;

        let begun = Instant::now();
        let pairs = (0..BLOCKS as usize).flat_map(|i| (0..BLOCKS as usize).map(move |j| (i, j)));
        let calls = pairs.clone().map(|(i, j)| client.submit(distance::call(&blocks[i], &blocks[j])));
        let distances = client.gather(calls.collect::<Vec<_>>()).await?;
        let elapsed = begun.elapsed();
        for ((i, j), distance) in pairs.zip(distances) {
            assert_eq!(distance, 1000.0 * i.abs_diff(j) as f64, "blocks {i} and {j}");
        }
        println!("round {round}: all distances are right, in {:.1} ms", elapsed.as_secs_f64() * 1e3);
    }

    // Workers report once a second.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let story: Value = serde_json::from_str(&client.story(&blocks[0].key()).await?).expect("a story is JSON");
    println!("the first block: {} events", story["events"].as_array().map_or(0, Vec::len));
    for event in story["events"].as_array().into_iter().flatten() {
        println!("  {event}");
    }
    let status: Value = serde_json::from_str(&client.status().await?).expect("status is JSON");
    for lane in ["shm", "mpi", "tcp"] {
        let workers = status["workers"].as_array().expect("a list of workers");
        let sum =
            |field: &str| workers.iter().filter_map(|w| w["received"][lane][field].as_u64()).sum::<u64>();
        let (values, bytes, us) = (sum("values"), sum("bytes"), sum("us"));
        if values > 0 {
            let gb_per_s = bytes as f64 / 1e3 / us.max(1) as f64;
            println!("over {lane}: {values} blocks, {bytes} bytes, {gb_per_s:.2} GB/s each");
        }
    }
    Ok(())
}
