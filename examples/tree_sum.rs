//! Tree summation: neighbours are added until one number is left.
//!
//! A single task over all leaves would need every leaf on one worker. A tree moves each number at most once per
//! level, lets all workers take part, and never holds more than a few levels: when a level's futures are dropped,
//! the cluster forgets their results.

use dcluster::prelude::*;

const LEAVES: u64 = 1 << 10;

#[dcluster::task]
fn square(x: u64) -> u64 {
    x * x
}

#[dcluster::task]
fn add(x: u64, y: u64) -> u64 {
    x + y
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    let mut level = client.map(square::call, 0..LEAVES);
    let mut depth = 0;
    while level.len() > 1 {
        let left = level.iter().step_by(2);
        let right = level.iter().skip(1).step_by(2);
        // Each pair becomes one future. The lower level is dropped here, long before it is computed: the tasks that
        // need it keep it alive for exactly as long as they do.
        level = client.map(add::call, (left, right));
        depth += 1;
    }

    let total = level[0].result().await?;
    println!("sum of {LEAVES} squares over {depth} levels = {total}");
    assert_eq!(total, (0..LEAVES).map(square).sum::<u64>());
    Ok(())
}
