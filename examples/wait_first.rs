//! `wait`: until all are done, until one is, or until one has failed.
//!
//! It returns which futures are done and which are not, and moves no results. A time-out is an error that says how
//! many are left.

use std::thread::sleep;
use std::time::Duration;

use dcluster::prelude::*;

/// Impure: each call is a run of its own.
#[dcluster::task(impure)]
fn nap(milliseconds: u64) -> u64 {
    sleep(Duration::from_millis(milliseconds));
    milliseconds
}

#[dcluster::task]
fn parse(text: &str) -> Result<u64, std::num::ParseIntError> {
    text.parse()
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    // The first result of several is enough: the others are not wanted any more.
    let racers = client.map(nap::call, [20, 400, 400, 400]);
    let Done { done, not_done } = client.wait(&racers, ReturnWhen::FirstCompleted, None).await?;
    println!("first: {} done, {} not", done.len(), not_done.len());
    assert!(!done.is_empty() && done.len() + not_done.len() == racers.len());
    client.cancel(&not_done, Force::No, "another one was faster").await?;

    // All; those that were cancelled are done as well.
    let ended = client.wait(&racers, ReturnWhen::AllCompleted, None).await?;
    assert!(ended.not_done.is_empty());
    let cancelled = racers.iter().filter(|racer| racer.cancelled()).count();
    println!("all: {} done, {cancelled} of them cancelled", ended.done.len());

    // The first failure, so that no time is spent on the rest.
    let parsed = client.map(parse::call, ["12", "twelve", "13"]);
    let found = client.wait(&parsed, ReturnWhen::FirstException, None).await?;
    assert!(found.done.iter().any(|future| future.status() == Status::Error));

    // A time-out.
    let slow = client.submit(nap::call(2_000));
    let error = client.wait([&slow], ReturnWhen::AllCompleted, Some(Duration::from_millis(20))).await;
    let error = error.expect_err("it naps for longer");
    println!("{error}");
    assert!(matches!(error, Error::Timeout { left: 1, total: 1, .. }));
    Ok(())
}
