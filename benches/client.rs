//! The client alone, over real TLS on loopback, against a peer that knows every answer: nanoseconds per call
//! of `map` and per result of `gather`, and the round trip of one call.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::{Duration, Instant};

use dcluster::client::blocking::Client;
use dcluster::model::pack::pack;
use dcluster::security::{ConnectionFile, Credentials};
use dcluster::transport::tcp::{Connection, Listener, Reach, hello};
use dcluster::wire::client::{ClientMessage, Outcome, ToClientOutbox};
use dcluster::wire::handshake::Role;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

const CALLS: usize = 100_000;
const ROUNDS: usize = 5;
const ROUND_TRIPS: usize = 20_000;

#[dcluster::task]
fn inc(x: i64) -> i64 {
    x + 1
}

fn main() {
    let client = Client::connect_with(start_peer()).unwrap();
    let mut figures = Vec::new();
    for _ in 0..ROUNDS {
        figures.push(map_and_gather(&client));
    }
    for (index, name) in ["map_wall_ns", "map_cpu_ns", "gather_wall_ns", "gather_cpu_ns", "drop_wall_ns"]
        .into_iter()
        .enumerate()
    {
        let mut column: Vec<f64> = figures.iter().map(|row| row[index]).collect();
        column.sort_by(f64::total_cmp);
        println!("{name:>16} {:8.0} median {:8.0} min", column[ROUNDS / 2], column[0]);
    }
    let mut trips: Vec<Duration> = (0..ROUND_TRIPS as i64).map(|x| round_trip(&client, x)).collect();
    trips.sort();
    println!(
        "{:>16} {:8.1} p50 {:8.1} p99 µs",
        "round_trip",
        us(trips[ROUND_TRIPS / 2]),
        us(trips[ROUND_TRIPS / 100 * 99])
    );
}

/// Nanoseconds per call: map (wall, CPU of this thread), gather (the same), drop.
fn map_and_gather(client: &Client) -> [f64; 5] {
    let (futures, map_wall, map_cpu) = timed(|| client.map(inc::call, 0..CALLS as i64));
    let (results, gather_wall, gather_cpu) = timed(|| client.gather(&futures).unwrap());
    assert_eq!(results.len(), CALLS);
    let ((), drop_wall, _) = timed(|| drop(futures));
    [map_wall, map_cpu, gather_wall, gather_cpu, drop_wall]
}

fn round_trip(client: &Client, x: i64) -> Duration {
    let start = Instant::now();
    assert_eq!(client.submit(inc::call(x)).result().unwrap(), 7);
    start.elapsed()
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64, f64) {
    let (cpu, wall) = (cpu_ns(), Instant::now());
    let output = work();
    let (wall, cpu) = (wall.elapsed().as_nanos() as f64, cpu_ns() - cpu);
    (output, wall / CALLS as f64, cpu / CALLS as f64)
}

fn cpu_ns() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
    (usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 * 1000.0
}

fn us(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}

fn start_peer() -> ConnectionFile {
    let run = Credentials::generate().unwrap();
    let (sender, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let hello = hello(Role::Scheduler, None);
            let mut listener = Listener::bind(&Reach::Machine, 0, &run.scheduler, hello).await.unwrap();
            sender.send((listener.address().to_owned(), run.member)).unwrap();
            let connection = listener.accept().await;
            answer(connection).await;
        });
    });
    let (address, member) = address.recv().unwrap();
    ConnectionFile::new("bench", None, &address, &hello(Role::Scheduler, None), member)
}

/// Says at once that whatever is watched is done.
async fn answer(connection: Connection) {
    let (mut reader, mut writer) = connection.split();
    let mut out = ToClientOutbox::default();
    let mut frames = Vec::new();
    let seven = pack(&7i64).unwrap().encode();
    while reader.fill().await.unwrap_or(false) {
        while let Some(frame) = reader.next_frame().unwrap() {
            match ClientMessage::read(frame.opcode, &frame.body).unwrap() {
                ClientMessage::Watch(mut futures) => {
                    while let Some(future) = futures.next_future().unwrap() {
                        out.notify(future, &Outcome::Inline(&seven));
                    }
                }
                ClientMessage::Submit(mut calls) => while calls.next_call().unwrap().is_some() {},
                _ => {}
            }
        }
        frames.clear();
        out.outbox().swap_into(&mut frames);
        writer.write_all(&mut frames).await.unwrap();
    }
}
