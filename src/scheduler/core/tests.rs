//! One test per rule, against a recorder of effects. The simulation in `tests/sim` covers their interplay.
#![allow(clippy::unwrap_used)]

mod binding;
mod copies;
mod shortage;
mod stealing;
mod trouble;

use smallvec::SmallVec;

use super::*;
use crate::model::Tick;
use crate::model::error::{ErrorKind, TaskError};
use crate::wire::client::{
    CallOptions, Cancel, Fault, GiveUp, Scatter, ScatterValue, Submission, Unreachable,
};
use crate::wire::worker::{Caution, Failed, Finished, Source};

const FUNCTION: FunctionId = FunctionId(7);
const ALICE: ClientId = ClientId(0);
const BOB: ClientId = ClientId(1);

/// Effects as text, in order.
#[derive(Default)]
struct Recorder {
    lines: Vec<String>,
    assigned: Vec<(WorkerId, TaskId)>,
    cautions: Vec<bool>,
}

impl Effects for Recorder {
    fn assign(&mut self, worker: WorkerId, assignment: &Assignment<'_>) {
        let inputs: Vec<String> = assignment
            .inputs
            .iter()
            .map(|input| match &input.source {
                Source::Inline(bytes) => format!("inline{bytes:?}"),
                Source::Local => format!("local {}", input.task),
                Source::LastUse => format!("last use of {}", input.task),
                Source::Remote { holders, .. } => format!("{} at {holders:?}", input.task),
            })
            .collect();
        self.lines.push(format!("assign {} to {worker} ({})", assignment.task, inputs.join(", ")));
        self.assigned.push((worker, assignment.task));
        self.cautions.push(assignment.caution == Caution::Announce);
    }

    fn retract(&mut self, worker: WorkerId, task: TaskId) {
        self.lines.push(format!("retract {task} from {worker}"));
    }

    fn abandon(&mut self, worker: WorkerId, task: TaskId) {
        self.lines.push(format!("abandon {task} on {worker}"));
    }

    fn fence(&mut self, worker: WorkerId, number: u64) {
        self.lines.push(format!("fence {number} to {worker}"));
    }

    fn acquire(&mut self, worker: WorkerId, task: TaskId, _nbytes: u64, holders: &[WorkerId]) {
        self.lines.push(format!("acquire {task} on {worker} from {holders:?}"));
    }

    fn free(&mut self, worker: WorkerId, task: TaskId) {
        self.lines.push(format!("free {task} on {worker}"));
    }

    fn notify(&mut self, client: ClientId, future: FutureId, outcome: &Outcome<'_>) {
        let outcome = match outcome {
            Outcome::Inline(bytes) => format!("value {bytes:?}"),
            Outcome::Stored { holders, .. } => format!("stored at {holders:?}"),
            Outcome::Failed(error) => format!("failed: {}", TaskError::unpack(error).message),
            Outcome::Cancelled(reason) => format!("cancelled: {reason}"),
        };
        self.lines.push(format!("{client} future {}: {outcome}", future.0));
    }

    fn placed(&mut self, _client: ClientId, placed: &Placed) {
        self.lines.push(format!("future {} goes to {:?}", placed.future.0, placed.worker));
    }

    fn acknowledge(&mut self, client: ClientId, number: u32) {
        self.lines.push(format!("{client} cancel {number} acknowledged"));
    }

    fn answer(&mut self, client: ClientId, number: u32, answer: &Result<String, String>) {
        self.lines.push(format!("{client} {number}: {answer:?}"));
    }
}

/// A core with clients Alice and Bob, and its effects.
struct Bench {
    core: SchedulerCore,
    effects: Recorder,
}

impl Bench {
    fn new(workers: u32) -> Self {
        let mut bench = Self { core: SchedulerCore::new(Tuning::default()), effects: Recorder::default() };
        bench.core.client_joined(ALICE);
        bench.core.client_joined(BOB);
        (0..workers).for_each(|id| bench.join(id));
        bench
    }

    fn join(&mut self, id: u32) {
        self.join_with_memory(id, 0);
    }

    fn join_with_memory(&mut self, id: u32, memory_bytes_max: u64) {
        let functions = [(FUNCTION, "inc".to_owned())];
        let seat = Seat { host: "host", rank: Some(id + 1), threads: 1, memory_bytes_max };
        self.core.worker_joined(WorkerId(id), seat, functions, &mut self.effects);
    }

    fn submit(&mut self, client: ClientId, future: u32, key: u128, inputs: &[u32]) {
        self.submit_with(client, future, key, inputs, CallOptions::default());
    }

    fn submit_with(
        &mut self,
        client: ClientId,
        future: u32,
        key: u128,
        inputs: &[u32],
        options: CallOptions,
    ) {
        let call = Submission {
            future: FutureId(future),
            key: Key(key),
            function: FUNCTION,
            options,
            name: None,
            arguments: b"arguments",
            inputs: inputs.iter().map(|input| FutureId(*input)).collect::<SmallVec<_>>(),
        };
        self.core.submit(client, &call, &mut self.effects).unwrap();
        self.core.watch(client, FutureId(future), &mut self.effects).unwrap();
    }

    fn scatter(&mut self, client: ClientId, future: u32, key: u128) {
        let value = ScatterValue { future: FutureId(future), key: Key(key), nbytes: 8 };
        let scatter = Scatter {
            values: vec![value],
            workers: vec![],
            allow_other_workers: false,
            type_name: "Vec".to_owned(),
        };
        self.core.scatter(client, &scatter, &mut self.effects).unwrap();
        self.core.watch(client, FutureId(future), &mut self.effects).unwrap();
    }

    fn release(&mut self, client: ClientId, future: u32) {
        self.core.release(client, FutureId(future), &mut self.effects).unwrap();
    }

    /// Places, checks, and hands out what happened since the last call.
    fn place(&mut self) -> Vec<String> {
        self.core.place(Tick(0), &mut self.effects);
        self.core.check();
        std::mem::take(&mut self.effects.lines)
    }

    fn finish(&mut self, worker: u32, task: TaskId, inline: Option<&[u8]>) {
        self.finish_after(10, worker, task, inline);
    }

    fn finish_after(&mut self, duration_us: u64, worker: u32, task: TaskId, inline: Option<&[u8]>) {
        let report = Finished { task, duration_us, nbytes: 1 << 20, inline };
        self.core.finished(WorkerId(worker), &report, &mut self.effects).unwrap();
    }

    fn fail(&mut self, worker: u32, task: TaskId) {
        let error = TaskError::new(ErrorKind::Error, "division by zero").pack();
        let report = Failed { task, duration_us: 10, error: &error };
        self.core.failed(WorkerId(worker), &report, &mut self.effects).unwrap();
    }

    fn unreachable(&mut self, client: ClientId, future: u32, task: TaskId, worker: u32, fault: Fault) {
        let workers = vec![(WorkerId(worker), fault)];
        let unreachable = Unreachable { future: FutureId(future), task, workers };
        self.core.unreachable(client, &unreachable, &mut self.effects).unwrap();
    }

    fn lose(&mut self, worker: u32) {
        self.core.worker_left(WorkerId(worker), recover::Departure::Lost, &mut self.effects);
        self.core.check();
    }

    /// The latest assignment.
    fn last(&self) -> (u32, TaskId) {
        let (worker, task) = *self.effects.assigned.last().unwrap();
        (worker.0, task)
    }
}

#[test]
fn a_call_runs_and_its_small_value_comes_with_the_notification() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 1, &[]);
    assert_eq!(bench.place(), ["assign task-0.0 to worker-0 ()"]);
    bench.finish(0, TaskId(0), Some(b"x"));
    assert_eq!(bench.place(), ["client-0 future 0: value [120]"]);
}

#[test]
fn equal_keys_are_one_task_for_all_clients() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 1, &[]);
    bench.submit(BOB, 0, 1, &[]);
    assert_eq!(bench.place(), ["assign task-0.0 to worker-0 ()"]);
    bench.finish(0, TaskId(0), None);
    let mut notified = bench.place();
    notified.sort();
    assert_eq!(
        notified,
        ["client-0 future 0: stored at [WorkerId(0)]", "client-1 future 0: stored at [WorkerId(0)]"]
    );
}

#[test]
fn a_chain_is_given_to_one_worker_at_once() {
    let mut bench = Bench::new(2);
    bench.submit(ALICE, 0, 1, &[]);
    bench.submit(ALICE, 1, 2, &[0]);
    bench.submit(ALICE, 2, 3, &[1]);
    assert_eq!(
        bench.place(),
        [
            "assign task-0.0 to worker-0 ()",
            "assign task-1.0 to worker-0 (local task-0.0)",
            "assign task-2.0 to worker-0 (local task-1.0)",
        ]
    );
}

#[test]
fn a_value_that_is_for_one_task_alone_goes_with_it() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 1, &[]);
    bench.submit(ALICE, 1, 2, &[0]);
    bench.core.release(ALICE, FutureId(0), &mut bench.effects).unwrap();
    assert_eq!(
        bench.place(),
        ["assign task-0.0 to worker-0 ()", "assign task-1.0 to worker-0 (last use of task-0.0)"]
    );
    bench.finish(0, TaskId(0), None);
    bench.finish(0, TaskId(1), None);
    bench.core.lost(WorkerId(0), TaskId(0), &mut bench.effects);
    let free = bench.place();
    assert!(free.contains(&"free task-0.0 on worker-0".to_owned()), "{free:?}");
}

#[test]
fn a_value_that_somebody_came_to_want_after_its_last_use_is_computed_again() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 1, &[]);
    bench.submit(ALICE, 1, 2, &[0]);
    bench.core.release(ALICE, FutureId(0), &mut bench.effects).unwrap();
    bench.place();
    bench.finish(0, TaskId(0), None);
    bench.submit(BOB, 0, 1, &[]);
    bench.finish(0, TaskId(1), None);
    bench.place();
    bench.core.lost(WorkerId(0), TaskId(0), &mut bench.effects);
    assert_eq!(bench.place(), ["assign task-0.1 to worker-0 ()"]);
}

#[test]
fn a_released_value_is_freed_on_its_holder_and_its_record_forgotten() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 1, &[]);
    bench.place();
    bench.finish(0, TaskId(0), None);
    bench.place();
    bench.core.release(ALICE, FutureId(0), &mut bench.effects).unwrap();
    assert_eq!(bench.place(), ["free task-0.0 on worker-0"]);
    assert_eq!(bench.core.tasks_len(), 0);
}

#[test]
fn an_unwanted_task_that_was_assigned_is_abandoned_and_its_slot_stays_busy_until_the_worker_answers() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 1, &[]);
    bench.place();
    bench.core.release(ALICE, FutureId(0), &mut bench.effects).unwrap();
    assert_eq!(bench.place(), ["abandon task-0.0 on worker-0"]);
    bench.submit(ALICE, 1, 2, &[]);
    assert!(bench.place().is_empty(), "the worker's thread is not reported free");
    bench.core.returned(WorkerId(0), TaskId(0)).unwrap();
    assert_eq!(bench.place(), ["assign task-0.2 to worker-0 ()"]);
}

#[test]
fn dependents_of_a_failed_task_fail_with_its_error() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 1, &[]);
    bench.submit(ALICE, 1, 2, &[0]);
    bench.place();
    bench.fail(0, TaskId(0));
    let lines = bench.place();
    assert!(lines.contains(&"client-0 future 0: failed: division by zero".to_owned()), "{lines:?}");
    assert!(lines.contains(&"client-0 future 1: failed: division by zero".to_owned()), "{lines:?}");
}

#[test]
fn retries_run_a_failed_task_again_and_then_no_more() {
    let mut bench = Bench::new(1);
    bench.submit_with(ALICE, 0, 1, &[], CallOptions { retries: 2, ..CallOptions::default() });
    for _ in 0..2 {
        assert_eq!(bench.place(), ["assign task-0.0 to worker-0 ()"]);
        bench.fail(0, TaskId(0));
    }
    assert_eq!(bench.place(), ["assign task-0.0 to worker-0 ()"]);
    bench.fail(0, TaskId(0));
    assert_eq!(bench.place(), ["client-0 future 0: failed: division by zero"]);
}

#[test]
fn higher_priority_runs_first() {
    let mut bench = Bench::new(0);
    bench.submit(ALICE, 0, 1, &[]);
    bench.submit_with(ALICE, 1, 2, &[], CallOptions { priority: 5, ..CallOptions::default() });
    bench.join(0);
    assert_eq!(bench.place(), ["assign task-1.0 to worker-0 ()"]);
}

#[test]
fn a_lost_workers_task_runs_elsewhere_and_its_lost_value_is_computed_again() {
    let mut bench = Bench::new(2);
    bench.submit(ALICE, 0, 1, &[]);
    bench.place();
    let (worker, task) = bench.last();
    bench.finish(worker, task, None);
    bench.submit(ALICE, 1, 2, &[0]);
    bench.place();
    bench.core.worker_left(WorkerId(worker), recover::Departure::Lost, &mut bench.effects);
    let other = 1 - worker;
    assert_eq!(
        bench.place(),
        [
            format!("assign task-0.1 to worker-{other} ()"),
            format!("assign task-1.0 to worker-{other} (local task-0.1)")
        ]
    );
}

#[test]
fn cancel_spares_what_another_client_wants() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 1, &[]);
    bench.submit(BOB, 0, 1, &[]);
    bench.place();
    let cancel =
        Cancel { number: 4, futures: vec![FutureId(0)], force: false, reason: "changed my mind".into() };
    bench.core.cancel(ALICE, &cancel, &mut bench.effects).unwrap();
    assert_eq!(
        bench.place(),
        ["client-0 future 0: cancelled: changed my mind", "client-0 cancel 4 acknowledged"]
    );
    bench.finish(0, TaskId(0), Some(b"x"));
    assert_eq!(bench.place(), ["client-1 future 0: value [120]"]);
}

#[test]
fn forced_cancel_is_for_everyone_and_takes_dependents_along() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 1, &[]);
    bench.submit(BOB, 0, 1, &[]);
    bench.submit(BOB, 1, 2, &[0]);
    bench.place();
    let cancel = Cancel { number: 4, futures: vec![FutureId(0)], force: true, reason: "stop".into() };
    bench.core.cancel(ALICE, &cancel, &mut bench.effects).unwrap();
    let lines = bench.place();
    assert_eq!(lines.iter().filter(|line| line.ends_with("cancelled: stop")).count(), 3, "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("abandon")).count(), 2, "{lines:?}");
    assert_eq!(bench.core.tasks_len(), 0);
}

#[test]
fn a_cancelled_key_that_is_submitted_again_runs_afresh() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 1, &[]);
    bench.place();
    let cancel = Cancel { number: 4, futures: vec![FutureId(0)], force: false, reason: "stop".into() };
    bench.core.cancel(ALICE, &cancel, &mut bench.effects).unwrap();
    bench.submit(ALICE, 1, 1, &[]);
    bench.core.returned(WorkerId(0), TaskId(0)).unwrap();
    let lines = bench.place();
    assert_eq!(lines.last().unwrap(), "assign task-0.2 to worker-0 ()");
}

#[test]
fn retry_runs_a_failed_task_and_its_failed_ancestors() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 1, &[]);
    bench.submit(ALICE, 1, 2, &[0]);
    bench.place();
    bench.fail(0, TaskId(0));
    bench.core.returned(WorkerId(0), TaskId(1)).unwrap();
    bench.place();
    bench.core.retry(ALICE, FutureId(1), &mut bench.effects).unwrap();
    let lines = bench.place();
    assert_eq!(lines.iter().filter(|line| line.starts_with("assign")).count(), 2, "{lines:?}");
}

#[test]
fn a_scattered_value_that_is_lost_is_an_error_and_not_a_hang() {
    let mut bench = Bench::new(1);
    bench.scatter(ALICE, 0, 9);
    bench.core.holds(WorkerId(0), TaskId(0), 8, &mut bench.effects);
    assert_eq!(
        bench.place(),
        ["future 0 goes to Some(WorkerId(0))", "client-0 future 0: stored at [WorkerId(0)]"]
    );
    bench.core.worker_left(WorkerId(0), recover::Departure::Lost, &mut bench.effects);
    bench.submit(ALICE, 1, 2, &[0]);
    let lines = bench.place();
    assert!(lines[0].starts_with("client-0 future 1: failed"), "{lines:?}");
}

#[test]
fn an_idle_worker_gets_half_of_what_another_has_queued() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 0, &[]);
    bench.place();
    bench.finish(0, TaskId(0), Some(b"x"));
    (1..20).for_each(|future| bench.submit(ALICE, future, u128::from(future), &[]));
    let assigned = bench.place().iter().filter(|line| line.starts_with("assign")).count();
    assert_eq!(assigned, 19, "short tasks are queued ahead");
    let (_, task) = bench.effects.assigned[1];
    let report = Finished { task, duration_us: 1_000_000, nbytes: 1, inline: Some(b"x") };
    bench.core.finished(WorkerId(0), &report, &mut bench.effects).unwrap();
    bench.place();
    bench.join(1);
    let lines = bench.place();
    assert_eq!(lines.iter().filter(|line| line.starts_with("retract")).count(), 9, "{lines:?}");
    bench.core.returned(WorkerId(0), bench.last().1).unwrap();
    assert!(bench.place().iter().any(|line| line.contains("to worker-1")));
}

#[test]
fn a_client_that_leaves_gives_everything_back() {
    let mut bench = Bench::new(1);
    for future in 0..10 {
        bench.submit(ALICE, future, u128::from(future), &[]);
    }
    bench.place();
    bench.core.client_left(ALICE, &mut bench.effects);
    bench.place();
    assert_eq!(bench.core.tasks_len(), 0);
}

#[test]
fn a_report_on_a_task_that_was_not_given_is_a_violation() {
    let mut bench = Bench::new(1);
    let report = Finished { task: TaskId(3), duration_us: 1, nbytes: 1, inline: None };
    let answer = bench.core.finished(WorkerId(0), &report, &mut bench.effects);
    assert_eq!(answer, Err(Violation::NotAssigned { worker: WorkerId(0), task: TaskId(3) }));
}

#[test]
fn a_value_scattered_before_the_first_worker_can_be_watched_used_and_given_back() {
    let mut bench = Bench::new(0);
    bench.scatter(ALICE, 0, 9);
    bench.submit(ALICE, 1, 2, &[0]);
    bench.scatter(ALICE, 2, 10);
    bench.release(ALICE, 2);
    assert!(bench.place().is_empty());
    bench.join(0);
    assert_eq!(bench.place(), ["future 0 goes to Some(WorkerId(0))"]);
    bench.core.holds(WorkerId(0), TaskId(0), 8, &mut bench.effects);
    assert_eq!(
        bench.place(),
        ["client-0 future 0: stored at [WorkerId(0)]", "assign task-1.0 to worker-0 (local task-0.0)"]
    );
}

#[test]
fn a_value_whose_sender_gives_up_is_an_error_for_those_that_count_on_it() {
    let mut bench = Bench::new(1);
    bench.scatter(ALICE, 0, 9);
    bench.submit(ALICE, 1, 2, &[0]);
    bench.place();
    bench.release(ALICE, 0);
    let lines = bench.place();
    assert!(lines[0].starts_with("client-0 future 1: failed: scattered data is lost"), "{lines:?}");
    bench.core.holds(WorkerId(0), TaskId(0), 8, &mut bench.effects);
    assert_eq!(bench.place(), ["free task-0.0 on worker-0"], "it arrives after all");
}

#[test]
fn a_value_scattered_under_the_key_of_a_call_that_was_dropped_is_computed() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 1, &[]);
    bench.submit(ALICE, 1, 2, &[0]);
    bench.place();
    bench.finish(0, TaskId(0), None);
    bench.release(ALICE, 0);
    bench.finish(0, TaskId(1), None);
    assert!(bench.place().contains(&"free task-0.0 on worker-0".to_owned()));
    bench.scatter(BOB, 0, 1);
    assert_eq!(bench.place(), ["future 0 goes to None", "assign task-0.1 to worker-0 ()"]);
}

#[test]
fn a_copy_that_is_reported_after_its_value_was_dropped_is_dropped() {
    let mut bench = Bench::new(2);
    bench.submit(ALICE, 0, 1, &[]);
    bench.submit(ALICE, 1, 2, &[0]);
    bench.place();
    bench.finish(0, TaskId(0), None);
    bench.finish(0, TaskId(1), None);
    bench.release(ALICE, 0);
    bench.submit(ALICE, 2, 1, &[]);
    bench.place();
    let (worker, again) = bench.last();
    assert_ne!(again, TaskId(0), "a value made again has a name of its own");
    bench.finish(worker, again, None);
    bench.place();
    bench.core.holds(WorkerId(1), TaskId(0), 8, &mut bench.effects);
    assert_eq!(bench.place(), ["free task-0.0 on worker-1"]);
}

#[test]
fn the_only_copy_of_scattered_data_survives_two_failed_fetches() {
    let mut bench = Bench::new(1);
    bench.scatter(ALICE, 0, 9);
    bench.core.holds(WorkerId(0), TaskId(0), 8, &mut bench.effects);
    bench.place();
    for _ in 0..2 {
        bench.unreachable(ALICE, 0, TaskId(0), 0, Fault::NotHere);
        assert_eq!(bench.place(), ["client-0 future 0: stored at [WorkerId(0)]"]);
    }
    bench.unreachable(ALICE, 0, TaskId(0), 0, Fault::NotHere);
    let lines = bench.place();
    assert_eq!(lines[0], "free task-0.0 on worker-0");
    assert!(lines[1].starts_with("client-0 future 0: failed: scattered data is lost"), "{lines:?}");
}

#[test]
fn a_client_that_has_left_takes_no_future() {
    let mut bench = Bench::new(1);
    bench.core.client_left(ALICE, &mut bench.effects);
    let call = Submission {
        future: FutureId(0),
        key: Key(1),
        function: FUNCTION,
        options: CallOptions::default(),
        name: None,
        arguments: b"",
        inputs: SmallVec::new(),
    };
    let answer = bench.core.submit(ALICE, &call, &mut bench.effects);
    assert_eq!(answer, Err(Violation::Left { client: ALICE }));
    assert_eq!(bench.core.tasks_len(), 0);
}

#[test]
fn a_worker_that_is_fed_from_its_backlog_stands_in_line_once() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 0, &[]);
    bench.place();
    bench.finish(0, TaskId(0), None);
    for future in 1..50 {
        bench.submit(ALICE, future, u128::from(future), &[0]);
        bench.place();
        bench.finish(0, bench.last().1, Some(b"x"));
        bench.place();
    }
    assert_eq!(bench.core.workers.roomy_len(), 1);
}

#[test]
fn sizes_and_holders_are_told_of_what_has_a_value() {
    let mut bench = Bench::new(2);
    bench.scatter(ALICE, 0, 1);
    bench.submit(ALICE, 1, 2, &[0]);
    assert_eq!(bench.core.nbytes(ALICE, FutureId(0)), None);
    bench.core.holds(WorkerId(0), TaskId(0), 800, &mut bench.effects);
    bench.place();
    assert_eq!(bench.core.nbytes(ALICE, FutureId(0)), Some(800));
    assert_eq!(bench.core.nbytes(ALICE, FutureId(1)), None);
    assert_eq!(bench.core.nbytes(BOB, FutureId(0)), None);
    let held = bench.core.has_what(WorkerId(0)).unwrap();
    assert_eq!(held.iter().map(|value| value.nbytes).collect::<Vec<_>>(), [800]);
    assert_eq!(bench.core.has_what(WorkerId(1)), Some(vec![]));
    assert_eq!(bench.core.has_what(WorkerId(2)), None);
}
