//! No-op tasks through the worker's engine and executor threads, without sockets.
//!
//! The main thread stands for the IO loop: it decodes assignments out of frames and takes reports, with at most
//! [`AHEAD_MAX`] tasks ahead. Prints tasks per second for one executor thread on another core, one on the same
//! core, and for a chain, each the median of some runs.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dcluster::model::TaskId;
use dcluster::registry::Registry;
use dcluster::registry::arguments::{put_input, put_value};
use dcluster::topology::{CpuSet, allowed_cpus, pin_thread};
use dcluster::wire::frame::{FrameLimit, FrameReader};
use dcluster::wire::worker::{
    Assignment, Caution, Input, Source, ToWorkerMessage, ToWorkerOutbox, WorkerMessage,
};
use dcluster::worker::engine::{Engine, Reports};
use dcluster::worker::executor::Executor;
use smallvec::SmallVec;

const TASKS: u64 = 300_000;
/// Tasks that are assigned in one frame.
const FRAME_TASKS: u64 = 64;
/// Tasks that are assigned and not reported.
const AHEAD_MAX: u64 = 256;
const RUNS: usize = 5;

#[dcluster::task]
fn same(x: u64) -> u64 {
    x
}

#[derive(Clone, Copy)]
enum Graph {
    Independent,
    Chain,
}

fn main() {
    let cpus: Vec<u32> = allowed_cpus().unwrap().iter().collect();
    let (first, last) = (cpus[0], *cpus.last().unwrap());
    let cases = [
        ("worker_noop_tasks_per_s", Graph::Independent, last),
        ("worker_noop_same_core_tasks_per_s", Graph::Independent, first),
        ("worker_chain_tasks_per_s", Graph::Chain, last),
        ("worker_chain_same_core_tasks_per_s", Graph::Chain, first),
    ];
    pin_thread(&[first].into_iter().collect()).unwrap();
    for (name, graph, cpu) in cases {
        let mut rates: Vec<f64> = (0..RUNS).map(|_| run(graph, cpu)).collect();
        rates.sort_by(f64::total_cmp);
        println!("{name}: {:.0} (min {:.0}, max {:.0})", rates[RUNS / 2], rates[0], rates[RUNS - 1]);
    }
}

fn run(graph: Graph, cpu: u32) -> f64 {
    let frames = frames(graph);
    let engine = Arc::new(Engine::new(1));
    let registry = Arc::new(Registry::of([&same::DEFINITION]).unwrap());
    let cpus: CpuSet = [cpu].into_iter().collect();
    let executor = Executor::start(&engine, &[cpus], &registry, &Arc::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let begun = Instant::now();
    runtime.block_on(drive(&engine, &frames));
    let seconds = begun.elapsed().as_secs_f64();
    executor.stop(Duration::from_secs(1));
    TASKS as f64 / seconds
}

async fn drive(engine: &Engine, frames: &[(u8, Bytes)]) {
    let mut frames = frames.iter();
    let mut reports = Reports::default();
    let mut reader = FrameReader::new(FrameLimit::default());
    let (mut assigned, mut finished) = (0, 0);
    while finished < TASKS {
        while assigned - finished + FRAME_TASKS <= AHEAD_MAX
            && let Some((opcode, body)) = frames.next()
        {
            let ToWorkerMessage::Assign(batch) = ToWorkerMessage::read(*opcode, body).unwrap() else {
                panic!("only assignments were written")
            };
            engine.assign(batch, body).unwrap();
            assigned += FRAME_TASKS;
        }
        engine.reported().await;
        engine.take_reports(&mut reports);
        reader.buffer().extend_from_slice(&reports.frames);
        reports.frames.clear();
        while let Some(frame) = reader.next_frame().unwrap() {
            finished += count(frame.opcode, &frame.body);
        }
    }
}

fn count(opcode: u8, body: &[u8]) -> u64 {
    match WorkerMessage::read(opcode, body).unwrap() {
        WorkerMessage::Finished(mut batch) => {
            std::iter::from_fn(|| batch.next_finished().unwrap()).count() as u64
        }
        other => panic!("each task finishes, but: {other:?}"),
    }
}

/// The assignments as the scheduler would send them.
fn frames(graph: Graph) -> Vec<(u8, Bytes)> {
    let mut outbox = ToWorkerOutbox::default();
    let mut reader = FrameReader::new(FrameLimit::default());
    let mut frames = Vec::new();
    for task in 0..TASKS {
        let mut arguments = Vec::new();
        let mut inputs = SmallVec::new();
        match (graph, task % FRAME_TASKS) {
            (Graph::Independent, _) | (Graph::Chain, 0) => put_value(&mut arguments, &task).unwrap(),
            (Graph::Chain, _) => {
                put_input(&mut arguments, 0);
                inputs.push(Input { task: TaskId(task - 1), source: Source::Local });
            }
        }
        let function = same::DEFINITION.id;
        let arguments = &arguments;
        outbox.assign(&Assignment {
            task: TaskId(task),
            function,
            priority: 0,
            caution: Caution::None,
            arguments,
            inputs,
        });
        if (task + 1) % FRAME_TASKS == 0 || task + 1 == TASKS {
            let mut bytes = Vec::new();
            outbox.outbox().swap_into(&mut bytes);
            reader.buffer().extend_from_slice(&bytes);
            let frame = reader.next_frame().unwrap().unwrap();
            frames.push((frame.opcode, frame.body));
        }
    }
    frames
}
