//! `exchange`: blocks that lie on different workers meet in one task, and travel there on the fastest lane there is.
//!
//! A result stays on the worker that made it. A task that needs it elsewhere has it fetched: on the same host its memory
//! is mapped, between the ranks of one launch it comes over MPI, else over TCP. `dcluster status --json` counts what came
//! over which lane, worker by worker, and `story` tells of each transfer of one value.
//!
//! `exchange [LENGTH [ROUNDS [FILE]]]`. A worker that dies meanwhile costs time and no result, if its launcher lets the
//! others live. With a FILE the rounds go on until it is there.

use std::path::Path;
use std::time::{Duration, Instant};

use dcluster::prelude::*;
use serde_json::Value;

const BLOCKS: u64 = 6;
const LANES: [&str; 3] = ["shm", "mpi", "tcp"];

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
async fn main(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    let argument = |position, name, usual| match std::env::args().nth(position) {
        None => Ok(usual),
        Some(text) => match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("{name} is a number from 1 on, not {text:?}")),
        },
    };
    let (length, rounds) = (argument(1, "LENGTH", 200_003)? as usize, argument(2, "ROUNDS", 1)?);
    let end = std::env::args().nth(3);
    let is_over = |round| round >= rounds && end.as_ref().is_none_or(|file| Path::new(file).exists());
    let mut blocks = Vec::new();
    for round in (0..).take_while(|round| !is_over(*round)) {
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

    // Workers report once a second, each in its own time: all have when as many transfers are known as there are copies.
    let holders = client.who_has(&blocks).await?;
    let copies = holders.values().map(|on| on.len().saturating_sub(1) as u64).sum::<u64>();
    let first = blocks[0].key();
    let deadline = Instant::now() + Duration::from_secs(20);
    let (story, status) = loop {
        let story: Value = serde_json::from_str(&client.story(&first).await?)?;
        let status: Value = serde_json::from_str(&client.status().await?)?;
        let known = LANES.iter().map(|lane| received(&status, lane, "values")).sum::<u64>();
        let is_told = holders[&first].len() < 2 || events(&story).any(|event| event["event"] == "moved");
        if known >= copies && is_told || Instant::now() > deadline {
            break (story, status);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    println!("the first block: {} events", events(&story).count());
    for event in events(&story) {
        println!("  {event}");
    }
    for lane in LANES {
        let (values, bytes) = (received(&status, lane, "values"), received(&status, lane, "bytes"));
        if values > 0 {
            let gb_per_s = bytes as f64 / 1e3 / received(&status, lane, "us").max(1) as f64;
            println!("over {lane}: {values} blocks, {bytes} bytes, {gb_per_s:.2} GB/s each");
        }
    }
    Ok(())
}

fn events(story: &Value) -> impl Iterator<Item = &Value> {
    story["events"].as_array().into_iter().flatten()
}

/// What all workers have received over a lane.
fn received(status: &Value, lane: &str, field: &str) -> u64 {
    let workers = status["workers"].as_array().into_iter().flatten();
    workers.filter_map(|worker| worker["received"][lane][field].as_u64()).sum()
}
