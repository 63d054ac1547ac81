//! The life of a future: status, result, error, retry, cancel and release.
//!
//! A failure is data: it stays with its future, and with everything that depends on it, until somebody asks, or
//! tries again.

use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::thread::sleep;
use std::time::Duration;

use dcluster::prelude::*;

#[dcluster::task]
fn power(base: u64, exponent: u32) -> u64 {
    base.pow(exponent)
}

/// Reads a number from a file. Impure, because the file may change.
#[dcluster::task(impure)]
fn read_number(path: PathBuf) -> anyhow::Result<u64> {
    Ok(std::fs::read_to_string(path)?.trim().parse()?)
}

#[dcluster::task]
fn nap(milliseconds: u64) {
    sleep(Duration::from_millis(milliseconds));
}

#[dcluster::main]
fn main(client: blocking::Client) -> dcluster::Result<()> {
    let future = client.submit(power::call(10, 5));
    assert_eq!(future.result()?, 100_000);
    assert!(future.done() && future.status() == Status::Finished);
    println!("{future:?}");

    // Callbacks run once it is done, or at once if it is.
    let (sender, receiver) = channel();
    future.add_done_callback(move |future| drop(sender.send(future.key())));
    assert_eq!(receiver.recv().ok(), Some(future.key()));

    // Released: this program no longer wants it, so the cluster may forget it.
    future.release();

    // A file that is not there yet: the error is the future's, and that of what depends on it.
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("number");
    let number = client.submit(read_number::call(&path));
    let square = client.submit(power::call(&number, 2));
    let error = square.exception().expect("the file is missing");
    println!("{square:?}\n{error}\n{}", square.traceback().unwrap_or_default());
    assert_eq!((number.status(), square.status()), (Status::Error, Status::Error));

    // With the cause removed, the last in the chain and what it needs run again.
    std::fs::write(&path, "12")?;
    square.retry();
    assert_eq!(square.result()?, 144);

    // Cancelled is done, without a result; and not everybody's time is worth waiting for.
    let long = client.submit(nap::call(600_000));
    assert!(matches!(long.result_timeout(Duration::from_millis(10)), Err(Error::Timeout { .. })));
    long.cancel()?;
    assert!(long.done() && long.cancelled());
    println!("{}", long.result().expect_err("it was cancelled"));
    Ok(())
}
