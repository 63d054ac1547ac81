//! `bulk`: a large field goes to a worker and comes back, and no process holds it twice.
//!
//! `dcluster local -n 2 -- bulk 1024` moves 1 GiB, and prints how fast that was and how much memory each process had at
//! its peak. In a terminal a bar shows how far it is.

use std::error::Error;
use std::time::Instant;

use dcluster::prelude::*;

/// The sum of a field, which it borrows where it lies.
#[dcluster::task]
fn sum(field: &[f64]) -> f64 {
    field.iter().sum()
}

#[dcluster::main]
fn main(client: blocking::Client) -> Result<(), Box<dyn Error>> {
    let mib: usize = std::env::args().nth(1).map_or(Ok(64), |size| size.parse())?;
    let count = mib << 17;
    let gib = mib as f64 / 1024.0;

    let field: Vec<f64> = (0..count).map(|i| (i % 1000) as f64).collect();
    let expected: f64 = field.iter().sum();

    let started = Instant::now();
    let there = client.scatter(field)?;
    println!("scatter {:.2} GiB/s", gib / started.elapsed().as_secs_f64());
    println!("client {} MiB after the scatter", peak_mib(std::process::id())?);

    let total = client.submit(sum::call(&there)).result()?;
    assert_eq!(total, expected);

    let started = Instant::now();
    let back = client.gather(&there)?;
    println!("gather {:.2} GiB/s", gib / started.elapsed().as_secs_f64());
    assert_eq!((back.len(), back.iter().sum::<f64>()), (count, expected));
    println!("the field came back as it was");

    println!("client {} MiB", peak_mib(std::process::id())?);
    let status: serde_json::Value = serde_json::from_str(&client.status()?)?;
    println!("scheduler {} MiB", peak_mib(pid(&status["scheduler"])?)?);
    for worker in status["workers"].as_array().into_iter().flatten() {
        println!("worker-{} {} MiB", worker["id"], peak_mib(pid(worker)?)?);
    }
    Ok(())
}

fn pid(process: &serde_json::Value) -> Result<u32, Box<dyn Error>> {
    Ok(process["pid"].as_u64().ok_or("a process has an id")?.try_into()?)
}

/// The most memory that a process of this machine had so far.
fn peak_mib(pid: u32) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("the kernel tells")?;
    Ok(peak.trim().trim_end_matches(" kB").parse::<u64>()? / 1024)
}
