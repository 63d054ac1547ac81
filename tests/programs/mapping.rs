//! `mapping MODE`: arrays that workers of a host map from each other, with something that happens meanwhile.
//!
//! `churn` makes and drops many of them, `owner-dies` kills the worker that made one, and `lent` has a worker read one that
//! is larger than its memory limit, which the memory of another does not count for. Each says what it saw.

use std::collections::BTreeSet;
use std::time::Duration;

use dcluster::model::WorkerId;
use dcluster::model::numbers::Numbers;
use dcluster::prelude::*;
use serde_json::Value;

const LENGTH: usize = 2_000_003;
const ROUNDS: u64 = 12;
/// Of an array that is lent: 72 MB.
const LENT_LENGTH: usize = 9_000_000;

#[dcluster::task]
fn field(seed: u64, length: usize) -> Numbers<f64> {
    (0..length).map(|i| (seed * 1000) as f64 + i as f64).collect()
}

/// Looks at all numbers, and says who did and whether they are right; `number` tells calls apart, and the sleep has other
/// workers take some of them.
#[dcluster::task(impure)]
fn look(field: &Numbers<f64>, seed: u64, number: u64) -> (u32, bool) {
    std::thread::sleep(Duration::from_millis(20 + number % 2));
    let is_right = field.iter().enumerate().all(|(i, x)| *x == (seed * 1000) as f64 + i as f64);
    (std::process::id(), is_right)
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("churn") => churn(&client).await,
        Some("owner-dies") => owner_dies(&client).await,
        Some("lent") => lend(&client).await,
        mode => panic!("{mode:?} is no mode"),
    }
}

/// Arrays of many sizes come and go; each is read by several workers.
async fn churn(client: &Client) -> dcluster::Result<()> {
    for round in 0..ROUNDS {
        let length = |seed: u64| 100_000 + (seed * 7_919) as usize % 400_000;
        let seeds = round * 3..round * 3 + 3;
        let arrays: Vec<_> =
            seeds.clone().map(|seed| client.submit(field::call(seed, length(seed)))).collect();
        let calls = arrays.iter().zip(seeds);
        let calls = calls.flat_map(|(array, seed)| (0..4).map(move |number| look::call(array, seed, number)));
        let looks: Vec<_> = calls.map(|call| client.submit(call)).collect();
        let looks = client.gather(looks).await?;
        assert!(looks.iter().all(|(_, is_right)| *is_right), "the arrays are what they were");
    }
    println!("{} arrays were right wherever they were read", ROUNDS * 3);
    Ok(())
}

/// All workers read an array whose owner is killed then; those that have it mapped keep it.
async fn owner_dies(client: &Client) -> dcluster::Result<()> {
    let array = client.submit(field::call(1, LENGTH));
    client.wait([&array], ReturnWhen::AllCompleted, None).await?;
    let workers = reported(client, |workers| workers.iter().any(|worker| worker["values"] == 1)).await?;
    let owner = workers.iter().find(|worker| worker["values"] == 1).and_then(|worker| worker["pid"].as_u64());
    let owner = owner.expect("a process has the array");
    look_everywhere(client, &array, workers.len()).await?;
    kill(owner);
    let processes = look_everywhere(client, &array, workers.len() - 1).await?;
    assert!(!processes.contains(&(owner as u32)));
    println!("the owner is dead, and {} processes read the array", processes.len());
    Ok(())
}

/// Has tasks look at the array until so many processes have done so in one go; which they are.
async fn look_everywhere(
    client: &Client,
    array: &Future<Numbers<f64>>,
    processes: usize,
) -> dcluster::Result<BTreeSet<u32>> {
    loop {
        let looks = client.map(|number| look::call(array, 1, number), 0..4 * processes as u64);
        let looks = client.gather(looks).await?;
        assert!(looks.iter().all(|(_, is_right)| *is_right), "the array is what it was");
        let pids: BTreeSet<u32> = looks.iter().map(|(pid, _)| *pid).collect();
        if pids.len() >= processes {
            return Ok(pids);
        }
    }
}

/// The worker with the least memory reads an array of the one with the most, which is killed then.
async fn lend(client: &Client) -> dcluster::Result<()> {
    client.wait_for_workers(2, None).await?;
    let workers = reported(client, |_| true).await?;
    let limit = |worker: &&Value| worker["memory_bytes_max"].as_u64();
    let number = |worker: Option<&Value>| worker.and_then(|worker| worker["id"].as_u64()).unwrap_or_default();
    let owner = workers.iter().max_by_key(limit);
    let owner_pid = owner.and_then(|worker| worker["pid"].as_u64()).unwrap_or_default();
    let reader = number(workers.iter().min_by_key(limit));
    let at = |number: u64| [WorkerName::Id(WorkerId(number as u32))];

    let array = client.submit(field::call(1, LENT_LENGTH).workers(at(number(owner))));
    let read = || client.submit(look::call(&array, 1, 0).workers(at(reader)));
    assert!(read().await?.1);
    let bytes = (LENT_LENGTH * size_of::<f64>()) as u64;
    let figure = |workers: &[Value], name: &str| {
        workers
            .iter()
            .find(|worker| worker["id"] == reader)
            .and_then(|worker| worker[name].as_u64())
            .unwrap_or(0)
    };
    let is_lent =
        |workers: &[Value]| figure(workers, "lent_bytes") >= bytes && figure(workers, "running") == 0;
    let workers = reported(client, is_lent).await?;
    let worker = workers.iter().find(|worker| worker["id"] == reader).expect("the reader lives");
    println!(
        "with {} bytes of memory it reads {} that are lent",
        worker["memory_bytes_max"], worker["lent_bytes"]
    );
    println!("it has {} of its own and paused: {}", worker["managed_bytes"], worker["paused"]);
    println!("it wrote {} bytes to disk", worker["spill_written_bytes"]);

    kill(owner_pid);
    let is_own =
        |workers: &[Value]| figure(workers, "managed_bytes") + figure(workers, "spilled_bytes") >= bytes;
    reported(client, is_own).await?;
    assert!(read().await?.1);
    println!("the owner is dead, and the array is the reader's");
    Ok(())
}

/// What the status says of the workers as soon as it is as wanted: they report once a second.
async fn reported(client: &Client, is_wanted: impl Fn(&[Value]) -> bool) -> dcluster::Result<Vec<Value>> {
    loop {
        let status: Value = serde_json::from_str(&client.status().await?).expect("status is JSON");
        let workers = status["workers"].as_array().expect("a list of workers");
        if is_wanted(workers) {
            return Ok(workers.clone());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn kill(pid: u64) {
    let killed = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()), "process {pid} is there to be killed");
}
