//! What it costs to hand a large value out to workers and to bring it back, beside a bare TCP stream.
//!
//! The stream carries the same bytes into memory as fresh as theirs, without encryption or frames, in turns with what is
//! measured: a ratio of the two says more than either on a machine that does other things as well.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, ensure};

use super::Figure;
use super::overhead::socket_pair;
use super::stage::{Stage, of_workers, proportional_bytes};
use super::tasks::length;
use crate::client::blocking::{Client, Future};
use crate::client::{Progress, ScatterOptions};
use crate::model::Copies;

const WORKERS: u32 = 4;
/// How much is written to the bare stream at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// How much is moved.
struct Size {
    value_bytes: usize,
    broadcast_bytes: usize,
}

const FULL: Size = Size { value_bytes: 1 << 30, broadcast_bytes: 256 << 20 };
const QUICK: Size = Size { value_bytes: 16 << 20, broadcast_bytes: 16 << 20 };

/// All figures of the suite.
pub(super) fn run(repeat: usize, quick: bool) -> anyhow::Result<Vec<Figure>> {
    let size = if quick { QUICK } else { FULL };
    let mut stage = Stage::with_workers(WORKERS)?;
    let client = stage.client(WORKERS as usize)?;
    client.set_progress(Progress::Off);
    // First, while the workers have no memory in reserve that hides what a value takes.
    let copies = broadcast(&client, size.broadcast_bytes)?;
    let mut figures = there_and_back(&client, size.value_bytes, repeat)?;
    figures.push(copies);
    Ok(figures)
}

/// One value to a worker and back, in turns with the bare stream.
fn there_and_back(client: &Client, bytes: usize, repeat: usize) -> anyhow::Result<Vec<Figure>> {
    let value = Arc::new(numbers(bytes));
    let gib = bytes as f64 / f64::from(1 << 30);
    let (mut bare, mut scatter, mut gather) = (Vec::new(), Vec::new(), Vec::new());
    // The first turn is the warm-up.
    for _ in 0..=repeat {
        bare.push(gib / bare_stream_s(bytes)?);
        let started = Instant::now();
        let there = client.scatter_shared(value.clone(), &ScatterOptions::default())?;
        scatter.push(gib / started.elapsed().as_secs_f64());
        let started = Instant::now();
        let back = client.gather(&there)?;
        gather.push(gib / started.elapsed().as_secs_f64());
        ensure!(back == *value, "the value that came back is another one");
    }
    let mut figures = Vec::new();
    let fraction = |rates: &[f64]| rates.iter().zip(&bare).skip(1).map(|(rate, bare)| rate / bare).collect();
    figures.push(Figure::of("scatter_fraction_of_tcp", "", fraction(&scatter)));
    figures.push(Figure::of("gather_fraction_of_tcp", "", fraction(&gather)));
    let rate = |name, mut rates: Vec<f64>| Figure::of(name, "GiB/s", rates.split_off(1));
    figures.extend([
        rate("scatter_gib_per_s", scatter),
        rate("gather_gib_per_s", gather),
        rate("tcp_gib_per_s", bare),
    ]);
    Ok(figures)
}

/// A value to every worker of this machine: how often it is in memory then.
fn broadcast(client: &Client, bytes: usize) -> anyhow::Result<Figure> {
    let pids = of_workers(client, "pid")?;
    let held = || pids.iter().map(|pid| proportional_bytes(*pid)).sum::<anyhow::Result<u64>>();
    let before = held()?;
    let value = numbers(bytes);
    let count = value.len() as u64;
    let everywhere = ScatterOptions { copies: Copies::Everywhere, ..ScatterOptions::default() };
    let there = client.scatter_with(value, &everywhere)?;
    let holders = client.who_has([&there])?[&there.key()].clone();
    ensure!(holders.len() == pids.len(), "{} of {} workers have the value", holders.len(), pids.len());
    let copies = held()?.saturating_sub(before) as f64 / bytes as f64;
    let lengths: Vec<Future<u64>> = holders
        .iter()
        .map(|worker| client.submit(length::call(&there).impure().workers([*worker])))
        .collect();
    ensure!(client.gather(&lengths)?.iter().all(|length| *length == count), "a worker got another value");
    Ok(Figure::of("broadcast_copies_per_node", "", vec![copies]))
}

fn numbers(bytes: usize) -> Vec<f64> {
    (0..bytes / size_of::<f64>()).map(|index| index as f64).collect()
}

/// How long so many bytes take over a connection that does nothing but carry them into fresh memory.
fn bare_stream_s(bytes: usize) -> anyhow::Result<f64> {
    let (mut near, mut far) = socket_pair()?;
    let source = vec![1u8; bytes];
    let started = Instant::now();
    let receiving = std::thread::spawn(move || {
        let mut memory = vec![0u8; bytes];
        far.read_exact(&mut memory).map(|()| memory)
    });
    source.chunks(CHUNK_BYTES).try_for_each(|chunk| near.write_all(chunk))?;
    let memory = receiving.join().ok().context("the end of the stream ended in a panic")??;
    let seconds = started.elapsed().as_secs_f64();
    ensure!(memory.last() == Some(&1), "the stream carried something else");
    Ok(seconds)
}
