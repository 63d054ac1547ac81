//! A task that kills its worker: it is found out after three deaths, and whatever was near it gets its result.
//!
//! `dcluster local -n 4 -- target/debug/examples/deadly_task`: the workers have to be processes of their own, and
//! three of them die.

use std::thread::sleep;
use std::time::Duration;

use dcluster::prelude::*;

#[dcluster::task]
fn harmless(x: u64) -> u64 {
    sleep(Duration::from_micros(x % 7 * 100));
    x
}

/// As a bug in a library for numerics would: no panic, no error, just the end of the process.
#[dcluster::task]
fn deadly(x: u64) -> u64 {
    if x < u64::MAX { std::process::abort() } else { x }
}

#[dcluster::task(impure)]
fn process() -> u32 {
    std::process::id()
}

#[dcluster::main]
fn main(client: blocking::Client) -> dcluster::Result<()> {
    let four = client.wait_for_workers(4, Some(Duration::from_secs(10))).is_ok();
    let is_apart = client.submit(process::call()).result()? != std::process::id();

    let before = client.map(harmless::call, 0..200);
    // It begins the moment that its input is done, which its worker then has no time to report.
    let last = (four && is_apart).then(|| client.submit(deadly::call(&before[100])));
    let after = client.map(harmless::call, 200..400);
    match last {
        Some(last) => {
            let error = last.exception().expect("it has no result");
            println!("{error}");
            assert!(error.to_string().contains("3 workers died under it"));
        }
        None => println!("too few worker processes to kill three of them"),
    }
    let (before, after) = client.gather((before, after))?;
    let sum: u64 = before.iter().chain(&after).sum();
    println!("sum of the others: {sum}");
    assert_eq!(sum, 399 * 400 / 2);
    Ok(())
}
