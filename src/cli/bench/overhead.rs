//! What the cluster costs per task: rates, latencies, memory.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::ensure;

use super::core::{self, Graph};
use super::stage::{Stage, resident_bytes};
use super::tasks::{add, noop};
use super::{Figure, Report, fleet};
use crate::client::blocking::{self, Client};

/// How much is run.
struct Size {
    core_tasks: u32,
    zero_tasks: u64,
    map_tasks: u64,
    round_trips: usize,
    chain_links: u64,
    tree_leaves: u64,
    held_tasks: u64,
    idle: Duration,
}

const FULL: Size = Size {
    core_tasks: 1 << 20,
    zero_tasks: 1_000_000,
    map_tasks: 100_000,
    round_trips: 5_000,
    chain_links: 10_000,
    tree_leaves: 1 << 15,
    held_tasks: 1_000_000,
    idle: Duration::from_secs(10),
};

const QUICK: Size = Size {
    core_tasks: 1 << 16,
    zero_tasks: 50_000,
    map_tasks: 20_000,
    round_trips: 500,
    chain_links: 1_000,
    tree_leaves: 1 << 11,
    held_tasks: 50_000,
    idle: Duration::from_secs(2),
};

/// All figures of the suite.
pub(super) fn run(repeat: usize, quick: bool) -> anyhow::Result<Report> {
    let size = if quick { QUICK } else { FULL };
    let mut figures = Vec::new();
    figures.extend(core_figures(repeat, &size));
    figures.extend(zero_worker(repeat, &size)?);
    figures.extend(one_worker(repeat, &size)?);
    let mut notes = Vec::new();
    // Not every machine has an `mpirun`, and what was measured is not lost with it.
    let fleet = [
        ("idle_cpu_percent", fleet::idle_cpu_percent(size.idle)),
        ("launch_64_ranks_s", fleet::launch_64_ranks_s()),
    ];
    for (name, figure) in fleet {
        match figure {
            Ok(figure) => figures.push(figure),
            Err(error) => notes.push(format!("{name} is not measured: {error:#}")),
        }
    }
    Ok(Report { figures, notes })
}

fn core_figures(repeat: usize, size: &Size) -> Vec<Figure> {
    let rate = |name, graph| {
        let samples = (0..repeat).map(|_| core::tasks_per_second(graph, size.core_tasks, 64)).collect();
        Figure::of(name, "tasks/s", samples)
    };
    vec![
        rate("core_tasks_per_s", Graph::Independent),
        rate("core_tree_tasks_per_s", Graph::Tree),
        rate("core_all_to_all_tasks_per_s", Graph::AllToAll),
    ]
}

/// Client and scheduler against a worker that runs nothing.
fn zero_worker(repeat: usize, size: &Size) -> anyhow::Result<Vec<Figure>> {
    let mut stage = Stage::with_zero_worker()?;
    let client = stage.client(1)?;
    let mut next = 0;
    let mut samples = Vec::new();
    for _ in 0..=repeat {
        let started = Instant::now();
        let futures = client.map(noop::call, next..next + size.zero_tasks);
        wait_for_all(&client, &futures)?;
        samples.push(size.zero_tasks as f64 / started.elapsed().as_secs_f64());
        next += size.zero_tasks;
    }
    // The first is the warm-up.
    samples.remove(0);
    drop((client, stage));
    let bytes = held_bytes(size.held_tasks)?;
    Ok(vec![
        Figure::of("zero_worker_tasks_per_s", "tasks/s", samples),
        Figure::of("scheduler_bytes_per_task", "B", vec![bytes]),
    ])
}

/// Growth of the scheduler's resident set per task that it holds, on a scheduler of its own.
fn held_bytes(tasks: u64) -> anyhow::Result<f64> {
    let mut stage = Stage::with_zero_worker()?;
    let client = stage.client(1)?;
    let before = resident_bytes(stage.scheduler_pid())?;
    let futures = client.map(noop::call, 0..tasks);
    wait_for_all(&client, &futures)?;
    let after = resident_bytes(stage.scheduler_pid())?;
    Ok(after.saturating_sub(before) as f64 / tasks as f64)
}

/// Client, scheduler and one worker as separate processes.
fn one_worker(repeat: usize, size: &Size) -> anyhow::Result<Vec<Figure>> {
    let mut stage = Stage::with_workers(1)?;
    let client = stage.client(1)?;
    let mut fresh = Fresh::default();
    let rates =
        (0..=repeat).map(|_| map_rate(&client, fresh.take(size.map_tasks))).collect::<Result<Vec<_>, _>>()?;
    let relayed = bare_exchanges(Between::Relay, size.round_trips)?;
    let trips = round_trips(&client, fresh.take(size.round_trips as u64))?;
    let chains = (0..repeat)
        .map(|_| chain_us(&client, fresh.take(1).start, size.chain_links))
        .collect::<Result<_, _>>()?;
    let trees =
        (0..repeat).map(|_| tree_rate(&client, fresh.take(size.tree_leaves))).collect::<Result<_, _>>()?;
    Ok(vec![
        Figure::of("noop_map_tasks_per_s", "tasks/s", rates[1..].to_vec()),
        percentile("socket_round_trip_p50_us", &bare_exchanges(Between::Nobody, size.round_trips)?, 50),
        percentile("bare_tcp_exchange_p50_us", &relayed, 50),
        percentile("bare_tcp_exchange_p99_us", &relayed, 99),
        percentile("roundtrip_p50_us", &trips, 50),
        percentile("roundtrip_p99_us", &trips, 99),
        Figure::of("chain_us_per_task", "us", chains),
        Figure::of("tree_tasks_per_s", "tasks/s", trees),
    ])
}

/// Arguments that no call had before, so that no result is known yet.
#[derive(Default)]
struct Fresh {
    next: u64,
}

impl Fresh {
    fn take(&mut self, count: u64) -> std::ops::Range<u64> {
        let first = self.next;
        self.next += count;
        first..self.next
    }
}

fn map_rate(client: &Client, range: std::ops::Range<u64>) -> anyhow::Result<f64> {
    let (count, last) = (range.end - range.start, range.end - 1);
    let started = Instant::now();
    let results = client.gather(client.map(noop::call, range))?;
    let rate = count as f64 / started.elapsed().as_secs_f64();
    ensure!(results.last() == Some(&last), "the last result is {:?}, not {last}", results.last());
    Ok(rate)
}

/// Who stands between the two ends of a bare exchange.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Between {
    /// Nobody: two hops, there and back.
    Nobody,
    /// A thread that passes every message on, as the scheduler does: four hops, as many as a task takes.
    Relay,
}

/// Times of a bare exchange of 32 bytes between threads over loopback, in microseconds, ascending: what a
/// machine's sockets and wake-ups cost before anything is computed.
fn bare_exchanges(between: Between, count: usize) -> anyhow::Result<Vec<f64>> {
    let (mut near, mut far) = socket_pair()?;
    let mut threads = Vec::new();
    if between == Between::Relay {
        let (mut onward, end) = socket_pair()?;
        let mut inward = std::mem::replace(&mut far, end);
        threads.push(std::thread::spawn(move || {
            while pass(&mut inward, &mut onward) && pass(&mut onward, &mut inward) {}
        }));
    }
    threads.push(std::thread::spawn(move || {
        let mut message = [0; 32];
        while far.read_exact(&mut message).is_ok() && far.write_all(&message).is_ok() {}
    }));
    let mut times = Vec::with_capacity(count);
    let mut message = [0; 32];
    for _ in 0..count {
        let started = Instant::now();
        near.write_all(&message)?;
        near.read_exact(&mut message)?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    drop(near);
    for thread in threads {
        ensure!(thread.join().is_ok(), "a thread of the exchange ended in a panic");
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// Passes one message on; false if it cannot.
fn pass(from: &mut TcpStream, to: &mut TcpStream) -> bool {
    let mut message = [0; 32];
    from.read_exact(&mut message).is_ok() && to.write_all(&message).is_ok()
}

/// Both ends of a connection over loopback.
pub(super) fn socket_pair() -> anyhow::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    Ok((near, far))
}

/// Times from submit to result, in microseconds, ascending.
fn round_trips(client: &Client, range: std::ops::Range<u64>) -> anyhow::Result<Vec<f64>> {
    let mut times = Vec::new();
    for argument in range {
        let started = Instant::now();
        let result = client.submit(noop::call(argument)).result()?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
        ensure!(result == argument, "noop({argument}) gave {result}");
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn percentile(name: &'static str, ascending: &[f64], percent: usize) -> Figure {
    let value = ascending[(ascending.len() * percent / 100).min(ascending.len() - 1)];
    let (min, max) = (ascending[0], ascending[ascending.len() - 1]);
    Figure { name: name.into(), value, unit: "us", min, max, samples: ascending.len() }
}

fn chain_us(client: &Client, first: u64, links: u64) -> anyhow::Result<f64> {
    let started = Instant::now();
    let mut last = client.submit(add::call(first, 1));
    for _ in 1..links {
        last = client.submit(add::call(&last, 1));
    }
    let result = last.result()?;
    ensure!(result == first + links, "the chain from {first} gave {result}, not {}", first + links);
    Ok(started.elapsed().as_secs_f64() * 1e6 / links as f64)
}

fn tree_rate(client: &Client, leaves: std::ops::Range<u64>) -> anyhow::Result<f64> {
    let expected: u64 = leaves.clone().sum();
    let started = Instant::now();
    let mut tasks = leaves.end - leaves.start;
    let mut level: Vec<blocking::Future<u64>> = client.map(noop::call, leaves);
    while level.len() > 1 {
        level =
            level.chunks(2).map(|pair| client.submit(add::call(&pair[0], &pair[pair.len() - 1]))).collect();
        tasks += level.len() as u64;
    }
    let sum = level[0].result()?;
    ensure!(sum == expected, "the tree gave {sum}, not {expected}");
    Ok(tasks as f64 / started.elapsed().as_secs_f64())
}

fn wait_for_all(client: &Client, futures: &[blocking::Future<u64>]) -> anyhow::Result<()> {
    client.wait(futures, crate::client::ReturnWhen::AllCompleted, Some(Duration::from_secs(120)))?;
    Ok(())
}
