//! Cancel: at once here, and for certain on the workers once it is acknowledged.
//!
//! What is queued then never starts, not even on a worker that was out of reach for a while. Where workers are
//! processes of their own (`DCLUSTER_WORKERS=2 target/debug/examples/cancel`), one of them is stopped to show that.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::thread::{sleep, spawn};
use std::time::Duration;

use dcluster::prelude::*;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// More threads than the cluster has.
const THREADS_MAX: u64 = 256;

#[dcluster::task(impure)]
fn process() -> u32 {
    std::process::id()
}

/// Each run leaves a byte.
#[dcluster::task(impure)]
fn leave(file: PathBuf) -> std::io::Result<()> {
    sleep(Duration::from_micros(100));
    OpenOptions::new().append(true).create(true).open(file)?.write_all(b".")
}

#[dcluster::main]
fn main(client: blocking::Client) -> dcluster::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("runs");
    let worker = client.submit(process::call()).result()?;
    let runs = client.map(leave::call, vec![file.clone(); 100_000]);
    client.wait(&runs, ReturnWhen::FirstCompleted, None)?;

    // A worker is out of reach: the cancel cannot be acknowledged, since queued tasks may start there.
    let is_apart = worker != std::process::id();
    let signal = |signal| if is_apart { kill(Pid::from_raw(worker as i32), signal) } else { Ok(()) };
    signal(Signal::SIGSTOP).map_err(std::io::Error::from)?;
    let (own, unwanted) = (client.clone(), runs.clone());
    let cancel = spawn(move || own.cancel(&unwanted, Force::No, "there are enough dots"));
    sleep(Duration::from_millis(200));
    assert!(!is_apart || !cancel.is_finished(), "a worker that has not heard of it starts nothing?");
    signal(Signal::SIGCONT).map_err(std::io::Error::from)?;
    cancel.join().expect("it does not panic")?;

    // From here on nothing starts; what had a thread by then may still write.
    let at_once = length(&file)?;
    assert!(runs.iter().all(blocking::Future::done));
    sleep(Duration::from_millis(200));
    let later = length(&file)?;
    println!(
        "{at_once} of {} ran before the cancel was acknowledged, {} were running",
        runs.len(),
        later - at_once
    );
    assert!(later - at_once <= THREADS_MAX && later < runs.len() as u64);
    println!("nothing started after the cancel");

    // The same call again is a fresh run.
    client.submit(leave::call(&file)).result()?;
    assert_eq!(length(&file)?, later + 1);
    Ok(())
}

fn length(file: &Path) -> std::io::Result<u64> {
    Ok(fs::metadata(file)?.len())
}
