//! Workers whose memory is nearly full, and functions whose outputs are large.

use super::*;
use crate::wire::worker::Pressure;

impl Bench {
    fn pressure(&mut self, worker: u32, pressure: Pressure) {
        self.core.pressure(WorkerId(worker), pressure, &mut self.effects);
    }

    /// To whom tasks are assigned, in order, from now to the end of the next placing.
    fn newly_assigned(&mut self) -> Vec<u32> {
        let before = self.effects.assigned.len();
        self.place();
        self.core.check_progress();
        self.effects.assigned[before..].iter().map(|(worker, _)| worker.0).collect()
    }

    fn submit_roots(&mut self, futures: std::ops::Range<u32>) {
        futures.for_each(|future| self.submit(ALICE, future, u128::from(future) + 1, &[]));
    }
}

#[test]
fn a_paused_worker_is_given_nothing_while_another_is_open() {
    let mut bench = Bench::new(2);
    bench.pressure(0, Pressure::Paused);
    bench.submit_roots(0..2);
    assert_eq!(bench.newly_assigned(), [1], "the second waits for worker 1");
    bench.pressure(0, Pressure::Open);
    assert_eq!(bench.newly_assigned(), [0]);
}

#[test]
fn what_a_worker_has_not_begun_when_it_pauses_goes_to_others() {
    let mut bench = Bench::new(1);
    bench.submit_roots(0..1);
    bench.place();
    bench.finish(0, TaskId(0), Some(b"x"));
    bench.submit_roots(1..4);
    assert_eq!(bench.newly_assigned(), [0, 0, 0], "short tasks are queued ahead");
    bench.join(1);
    bench.place();
    bench.pressure(0, Pressure::Paused);
    let queued = bench.last().1;
    assert!(bench.effects.lines.contains(&format!("retract {queued} from worker-0")));
    bench.core.returned(WorkerId(0), queued).unwrap();
    assert_eq!(bench.newly_assigned(), [1]);
}

#[test]
fn a_task_goes_where_memory_is_left_though_its_input_is_elsewhere() {
    let mut bench = Bench::new(2);
    bench.submit(ALICE, 0, 1, &[]);
    bench.place();
    let (holder, task) = bench.last();
    bench.finish(holder, task, None);
    bench.pressure(holder, Pressure::Paused);
    bench.submit(ALICE, 1, 2, &[0]);
    assert_eq!(bench.newly_assigned(), [1 - holder]);
}

#[test]
fn when_all_have_paused_each_is_given_one_task_at_a_time() {
    let mut bench = Bench::new(2);
    bench.pressure(0, Pressure::Paused);
    bench.pressure(1, Pressure::Paused);
    bench.submit_roots(0..6);
    let mut assigned = bench.newly_assigned();
    assigned.sort_unstable();
    assert_eq!(assigned, [0, 1]);
    let (worker, task) = bench.last();
    bench.finish(worker, task, Some(b"x"));
    assert_eq!(bench.newly_assigned(), [worker]);
    let explanation = bench.core.explain(Key(6)).unwrap();
    assert!(explanation.why.starts_with("paused: memory"), "{}", explanation.why);
    assert!(bench.core.worker_summaries().iter().all(|worker| worker.is_paused));
    bench.join(2);
    assert_eq!(bench.newly_assigned(), [2, 2, 2], "a worker with memory is given what there is");
}

#[test]
fn a_full_worker_is_given_only_tasks_with_inputs_and_explain_says_so() {
    let mut bench = Bench::new(1);
    bench.submit_roots(0..1);
    bench.place();
    bench.finish(0, TaskId(0), None);
    bench.pressure(0, Pressure::Full);
    bench.submit_roots(1..3);
    bench.submit_with(ALICE, 3, 4, &[], binding::only(0));
    assert!(bench.newly_assigned().is_empty());
    for key in [2, 4] {
        let why = bench.core.explain(Key(key)).unwrap().why;
        assert!(why.starts_with("no room: memory of ") && why.contains("--spill-directory"), "{why}");
    }
    assert!(bench.core.worker_summaries()[0].is_full);
    bench.submit(ALICE, 4, 5, &[0]);
    assert_eq!(bench.newly_assigned(), [0]);
    let (worker, task) = bench.last();
    bench.finish(worker, task, Some(b"x"));
    assert!(bench.newly_assigned().is_empty());
    bench.pressure(0, Pressure::Paused);
    assert_eq!(bench.newly_assigned(), [0], "one at a time");
}

#[test]
fn a_full_worker_passes_tasks_over_for_those_that_have_inputs() {
    let mut bench = Bench::new(1);
    bench.submit_roots(0..1);
    bench.place();
    bench.finish(0, TaskId(0), Some(b"x"));
    bench.pressure(0, Pressure::Full);
    bench.submit_roots(1..9);
    bench.submit(ALICE, 9, 10, &[0]);
    assert_eq!(bench.newly_assigned(), [0]);
    assert_eq!(bench.core.explain(Key(10)).unwrap().state, "assigned");
}

#[test]
fn a_task_goes_to_its_input_which_is_too_large_for_others_though_memory_is_short_there() {
    let mut bench = Bench::new(0);
    bench.join_with_memory(0, 500);
    bench.submit(ALICE, 0, 1, &[]);
    bench.place();
    bench.finish(0, TaskId(0), None);
    bench.join_with_memory(1, 500);
    bench.pressure(0, Pressure::Paused);
    (1..4).for_each(|future| bench.submit(ALICE, future, 1 + u128::from(future), &[0]));
    assert_eq!(bench.newly_assigned(), [0]);
    let (worker, task) = bench.last();
    bench.finish(worker, task, Some(b"x"));
    assert_eq!(bench.newly_assigned(), [0], "and nobody steals it");
}

#[test]
fn scattered_values_go_to_workers_with_memory() {
    let mut bench = Bench::new(2);
    bench.pressure(1, Pressure::Paused);
    (0..3).for_each(|future| bench.scatter(ALICE, future, u128::from(future) + 1));
    let lines = bench.place();
    assert!(lines.iter().all(|line| line.contains("goes to Some(WorkerId(0))")), "{lines:?}");
}

#[test]
fn a_function_with_large_outputs_is_not_run_far_ahead() {
    let mut bench = Bench::new(1);
    bench.submit_roots(0..1);
    bench.place();
    bench.finish(0, TaskId(0), None);
    bench.submit_roots(1..10);
    assert_eq!(bench.newly_assigned(), [0, 0], "one runs, and one is next");
    let first = bench.effects.assigned[1].1;
    bench.finish(0, first, None);
    assert_eq!(bench.newly_assigned(), [0]);
}

#[test]
fn a_copy_that_cannot_be_read_is_lost_and_made_again() {
    let mut bench = Bench::new(1);
    bench.submit_roots(0..1);
    bench.place();
    bench.finish(0, TaskId(0), None);
    bench.place();
    bench.core.lost(WorkerId(0), TaskId(0), &mut bench.effects);
    assert_eq!(bench.newly_assigned(), [0]);
    assert_eq!(bench.core.totals().recomputed, 1);
}
