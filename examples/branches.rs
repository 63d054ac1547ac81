//! Loops and branches: ordinary control flow decides which task is submitted.
//!
//! Nothing has to be declared as a graph beforehand. The sequential loop turns into a parallel one by `submit`
//! alone; the results come back in the order of the loop.

use std::thread::sleep;
use std::time::{Duration, Instant};

use dcluster::prelude::*;

const WORK: Duration = Duration::from_millis(50);

#[dcluster::task]
fn slow_power(base: u64, exponent: u32) -> u64 {
    sleep(WORK);
    base.pow(exponent)
}

#[dcluster::task]
fn slow_add(x: u64, y: u64) -> u64 {
    sleep(WORK);
    x + y
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    let started = Instant::now();
    let mut alone = Vec::new();
    for number in 1..=10 {
        alone.push(if number % 2 == 0 { slow_power(number, 2) } else { slow_add(number, 1) });
    }
    println!("one after the other: {:?}", started.elapsed());

    let started = Instant::now();
    let mut futures = Vec::new();
    for number in 1..=10 {
        futures.push(if number % 2 == 0 {
            client.submit(slow_power::call(number, 2))
        } else {
            client.submit(slow_add::call(number, 1))
        });
    }
    let together = client.gather(&futures).await?;
    println!("on the cluster: {:?}", started.elapsed());

    println!("{together:?}");
    assert_eq!(together, alone);
    assert_eq!(together, [2, 4, 4, 16, 6, 36, 8, 64, 10, 100]);
    Ok(())
}
