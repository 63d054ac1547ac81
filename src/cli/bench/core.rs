//! The scheduler core alone: submit → assign → finish without sockets, encoding or threads.
//!
//! Workers are played by the loop below, which reports every assignment as finished at once; so the figure is
//! the cost of the scheduler's decisions and nothing else.

use std::time::Instant;

use smallvec::SmallVec;

use super::stage::resident_bytes;
use crate::model::{ClientId, FunctionId, FutureId, Key, RESULT_INLINE_BYTES_MAX, TaskId, Tick, WorkerId};
use crate::scheduler::core::{Effects, SchedulerCore, Seat, Tuning};
use crate::wire::client::{CallOptions, Outcome, Placed, Submission};
use crate::wire::worker::{Assignment, Finished};

const CLIENT: ClientId = ClientId(0);
const FUNCTION: FunctionId = FunctionId(1);
/// Calls per message, as a client's outbox makes them.
const BATCH: usize = 1024;
/// Inputs of each task of the all-to-all graph, and its width.
const WIDTH: u32 = 8;

/// The graph that is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Graph {
    /// Tasks without inputs.
    Independent,
    /// A binary tree: half of the tasks are leaves.
    Tree,
    /// Layers of 8 tasks, each of which takes all 8 of the layer before.
    AllToAll,
}

/// Runs a graph of so many tasks on so many workers; tasks per second.
pub fn tasks_per_second(graph: Graph, tasks: u32, workers: u32) -> f64 {
    let mut run = Run::new(workers);
    let inputs: Vec<SmallVec<[FutureId; 8]>> = (0..tasks).map(|task| inputs(graph, task, tasks)).collect();
    let started = Instant::now();
    run.run(&inputs);
    f64::from(tasks) / started.elapsed().as_secs_f64()
}

/// Holds so many finished tasks with a small argument and result; resident bytes per task.
pub fn bytes_per_task(tasks: u32) -> f64 {
    let resident = || resident_bytes(std::process::id()).expect("a process may read its own statm");
    let before = resident();
    let mut run = Run::new(4);
    for task in 0..tasks {
        run.submit(task, &[]);
        if (task as usize).is_multiple_of(BATCH) {
            run.drain();
        }
    }
    run.drain();
    assert_eq!(run.core.tasks_len(), tasks as usize, "every task is held");
    let after = resident();
    after.saturating_sub(before) as f64 / f64::from(tasks)
}

/// The inputs of one task. A tree is submitted leaves first, so the k-th task above the leaves takes tasks 2k
/// and 2k + 1; where the number of tasks is even, the last one is alone.
fn inputs(graph: Graph, task: u32, tasks: u32) -> SmallVec<[FutureId; 8]> {
    let leaves = tasks.div_ceil(2) + (tasks + 1) % 2;
    match graph {
        Graph::Independent => SmallVec::new(),
        Graph::Tree if task < leaves => SmallVec::new(),
        Graph::Tree => {
            SmallVec::from_slice(&[FutureId(2 * (task - leaves)), FutureId(2 * (task - leaves) + 1)])
        }
        Graph::AllToAll if task < WIDTH => SmallVec::new(),
        Graph::AllToAll => {
            let layer = task / WIDTH;
            (0..WIDTH).map(|place| FutureId((layer - 1) * WIDTH + place)).collect()
        }
    }
}

fn key(task: u32) -> Key {
    Key(u128::from(task).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

struct Run {
    core: SchedulerCore,
    post: Assigned,
}

/// Keeps what was assigned, and drops all else.
#[derive(Default)]
struct Assigned {
    tasks: Vec<(WorkerId, TaskId)>,
    notified: usize,
}

impl Run {
    fn new(workers: u32) -> Self {
        let mut run = Self { core: SchedulerCore::new(Tuning::default()), post: Assigned::default() };
        run.core.client_joined(CLIENT);
        for worker in 0..workers {
            let functions = [(FUNCTION, "noop".to_owned())];
            let seat = Seat { host: "localhost", rank: Some(worker + 1), threads: 1, memory_bytes_max: 0 };
            run.core.worker_joined(WorkerId(worker), seat, functions, &mut run.post);
        }
        run
    }

    fn run(&mut self, inputs: &[SmallVec<[FutureId; 8]>]) {
        for (index, inputs) in inputs.iter().enumerate() {
            self.submit(index as u32, inputs);
            if index % BATCH == BATCH - 1 {
                self.core.place(Tick(0), &mut self.post);
                self.report();
            }
        }
        self.drain();
        assert_eq!(self.post.notified, inputs.len(), "every task finished");
    }

    fn submit(&mut self, task: u32, inputs: &[FutureId]) {
        // As the scheduler's shell does, which reads a batch one call ahead.
        self.core.expect(key(task + 1));
        let call = Submission {
            future: FutureId(task),
            key: key(task),
            function: FUNCTION,
            options: CallOptions::default(),
            name: None,
            arguments: &[0, 4, 1, 206, 0, 1, 2, 3],
            inputs: SmallVec::from_slice(inputs),
        };
        self.core.submit(CLIENT, &call, &mut self.post).expect("the benchmark numbers its futures in order");
        self.core.watch(CLIENT, FutureId(task), &mut self.post).expect("it was submitted");
    }

    /// Reports everything that was assigned as finished.
    fn report(&mut self) {
        for (worker, task) in std::mem::take(&mut self.post.tasks) {
            let report = Finished { task, duration_us: 1, nbytes: 4, inline: Some(&[0, 1, 2, 3]) };
            self.core.finished(worker, &report, &mut self.post).expect("it was assigned");
        }
    }

    fn drain(&mut self) {
        loop {
            self.core.place(Tick(0), &mut self.post);
            if self.post.tasks.is_empty() {
                return;
            }
            self.report();
        }
    }
}

impl Effects for Assigned {
    fn assign(&mut self, worker: WorkerId, assignment: &Assignment<'_>) {
        self.tasks.push((worker, assignment.task));
    }

    fn retract(&mut self, _: WorkerId, _: TaskId) {}

    fn abandon(&mut self, _: WorkerId, _: TaskId) {}

    fn fence(&mut self, _: WorkerId, _: u64) {}

    fn acquire(&mut self, _worker: WorkerId, _task: TaskId, _nbytes: u64, _holders: &[WorkerId]) {}
    fn free(&mut self, _: WorkerId, _: TaskId) {}

    fn notify(&mut self, _: ClientId, _: FutureId, outcome: &Outcome<'_>) {
        debug_assert!(matches!(outcome, Outcome::Inline(bytes) if bytes.len() <= RESULT_INLINE_BYTES_MAX));
        self.notified += 1;
    }

    fn placed(&mut self, _: ClientId, _: &Placed) {}

    fn answer(&mut self, _client: ClientId, _number: u32, _answer: &Result<String, String>) {}
    fn acknowledge(&mut self, _: ClientId, _: u32) {}
}
