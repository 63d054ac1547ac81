//! Calls that name workers: where they run, who may steal them, and what becomes of them without such a worker.

use std::sync::Arc;

use super::*;
use crate::model::{Others, Placement, WorkerName};

const SECOND: u64 = 1_000_000;

fn on(workers: &[WorkerName], others: Others) -> CallOptions {
    let placement = Placement::On { workers: workers.to_vec(), others };
    CallOptions { placement: Some(Arc::new(placement)), ..CallOptions::default() }
}

pub(super) fn only(worker: u32) -> CallOptions {
    on(&[WorkerName::Id(WorkerId(worker))], Others::Refused)
}

fn share(index: u32, of: u32) -> CallOptions {
    let placement = Placement::Share { index, of };
    CallOptions { placement: Some(Arc::new(placement)), ..CallOptions::default() }
}

impl Bench {
    /// A worker on a host of its own.
    pub(super) fn join_on(&mut self, id: u32, host: &str, rank: Option<u32>) {
        let functions = [(FUNCTION, "inc".to_owned())];
        self.core.worker_joined(
            WorkerId(id),
            Seat { host, rank, threads: 1, memory_bytes_max: 0 },
            functions,
            &mut self.effects,
        );
    }

    fn place_at(&mut self, seconds: u64) -> Vec<String> {
        self.core.place(Tick(seconds * SECOND), &mut self.effects);
        self.core.check();
        self.core.check_progress();
        std::mem::take(&mut self.effects.lines)
    }

    fn assigned(&self) -> Vec<(u32, u32)> {
        self.effects.assigned.iter().map(|(worker, task)| (task.slot(), worker.0)).collect()
    }

    /// Finishes what was assigned last and places, until nothing more is assigned.
    fn work_off(&mut self) {
        let mut done = 0;
        while done < self.effects.assigned.len() {
            let (worker, task) = self.effects.assigned[done];
            self.finish(worker.0, task, Some(b"x"));
            self.place();
            done += 1;
        }
    }
}

#[test]
fn a_call_runs_on_the_worker_that_it_names_by_id_rank_or_host() {
    let mut bench = Bench::new(0);
    (0..3).for_each(|id| bench.join_on(id, &format!("node{id}"), Some(7 - id)));
    bench.submit_with(ALICE, 0, 1, &[], only(2));
    bench.submit_with(ALICE, 1, 2, &[], on(&[WorkerName::Rank(6)], Others::Refused));
    bench.submit_with(ALICE, 2, 3, &[], on(&[WorkerName::Host("node0".into())], Others::Refused));
    bench.place_at(0);
    assert_eq!(bench.assigned(), [(2, 0), (1, 1), (0, 2)]);
}

#[test]
fn what_is_for_one_worker_only_waits_for_it_and_is_not_stolen() {
    let mut bench = Bench::new(3);
    (0..6).for_each(|future| bench.submit_with(ALICE, future, u128::from(future), &[], only(1)));
    bench.place_at(0);
    assert_eq!(bench.assigned(), [(0, 1)]);
    bench.work_off();
    assert!(bench.assigned().iter().all(|(_, worker)| *worker == 1));
    assert_eq!(bench.assigned().len(), 6);
}

#[test]
fn an_idle_worker_that_is_named_too_takes_its_part() {
    let mut bench = Bench::new(1);
    let both = || on(&[WorkerName::Id(WorkerId(0)), WorkerName::Id(WorkerId(1))], Others::Refused);
    (0..8).for_each(|future| bench.submit_with(ALICE, future, u128::from(future), &[], both()));
    bench.place_at(0);
    (1..3).for_each(|id| bench.join(id));
    bench.place_at(0);
    assert_eq!(bench.assigned().iter().map(|(_, worker)| *worker).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn a_call_does_not_follow_its_input_to_a_worker_that_it_may_not_run_on() {
    let mut bench = Bench::new(2);
    bench.submit_with(ALICE, 0, 1, &[], only(0));
    bench.submit_with(ALICE, 1, 2, &[0], only(1));
    bench.submit_with(ALICE, 2, 3, &[1], only(1));
    assert_eq!(bench.place_at(0), ["assign task-0.0 to worker-0 ()"]);
    bench.finish(0, TaskId(0), None);
    let lines = bench.place_at(0);
    assert_eq!(
        lines[1..],
        [
            "assign task-1.0 to worker-1 (task-0.0 at [WorkerId(0)])",
            "assign task-2.0 to worker-1 (local task-1.0)",
        ]
    );
}

#[test]
fn without_its_worker_a_call_waits_is_explained_and_fails_after_a_time() {
    let mut bench = Bench::new(1);
    let placement = on(&[WorkerName::Rank(9), WorkerName::Host("b".into())], Others::Refused);
    bench.submit_with(ALICE, 0, 1, &[], placement);
    assert!(bench.place_at(5).is_empty());
    let why = bench.core.explain(Key(1)).unwrap().why;
    assert_eq!(why, "it may run on rank 9 or host b only, and no such worker is there; after 60 s it fails");
    assert_eq!(bench.core.next_deadline(), Some(Tick(65 * SECOND)));
    assert!(bench.place_at(64).is_empty());
    let lines = bench.place_at(65);
    let error = "client-0 future 0: failed: it may run on rank 9 or host b only, and 60 s went by without such a worker";
    assert!(lines[0].starts_with(error), "{lines:?}");
    assert_eq!(bench.core.next_deadline(), None);
    bench.core.retry(ALICE, FutureId(0), &mut bench.effects).unwrap();
    bench.join_on(5, "b", None);
    assert_eq!(bench.place_at(66), ["assign task-0.1 to worker-5 ()"]);
}

#[test]
fn a_call_whose_worker_dies_waits_for_another_of_that_name() {
    let mut bench = Bench::new(1);
    bench.join_on(1, "b", Some(2));
    let named = || on(&[WorkerName::Host("b".into())], Others::Refused);
    (0..3).for_each(|future| bench.submit_with(ALICE, future, u128::from(future), &[], named()));
    bench.place_at(0);
    bench.lose(1);
    assert!(bench.place_at(1).is_empty());
    bench.join_on(2, "b", Some(2));
    assert_eq!(bench.place_at(2).len(), 1);
    assert_eq!(bench.assigned().last().unwrap().1, 2);
}

#[test]
fn the_clock_stands_still_while_there_are_no_workers() {
    let mut bench = Bench::new(0);
    bench.submit_with(ALICE, 0, 1, &[], only(1));
    assert!(bench.place_at(0).is_empty());
    assert_eq!(bench.core.next_deadline(), None);
    bench.join(0);
    assert!(bench.place_at(100).is_empty());
    assert_eq!(bench.core.next_deadline(), Some(Tick(160 * SECOND)));
    bench.lose(0);
    assert!(bench.place_at(1000).is_empty());
    bench.join(1);
    assert_eq!(bench.place_at(1001).len(), 1);
}

#[test]
fn a_preference_yields_when_the_preferred_worker_is_gone() {
    let mut bench = Bench::new(3);
    let rather = || on(&[WorkerName::Id(WorkerId(2))], Others::Allowed);
    bench.submit_with(ALICE, 0, 1, &[], rather());
    bench.place_at(0);
    assert_eq!(bench.assigned(), [(0, 2)]);
    bench.lose(2);
    bench.place_at(0);
    assert_ne!(bench.assigned()[1].1, 2);
    bench.submit_with(ALICE, 1, 2, &[], rather());
    bench.place_at(0);
    assert_eq!(bench.assigned().len(), 3);
}

#[test]
fn a_preferred_worker_keeps_what_it_will_soon_get_to_and_loses_what_it_will_not() {
    let mut bench = Bench::new(2);
    let rather = || on(&[WorkerName::Id(WorkerId(0))], Others::Allowed);
    (0..3).for_each(|future| bench.submit_with(ALICE, future, u128::from(future), &[], rather()));
    bench.place_at(0);
    assert_eq!(bench.assigned(), [(0, 0)]);
    (3..20).for_each(|future| bench.submit_with(ALICE, future, u128::from(future), &[], rather()));
    bench.place_at(0);
    assert_eq!(bench.assigned()[1..].iter().map(|(_, worker)| *worker).collect::<Vec<_>>(), [1]);
}

#[test]
fn shares_lie_in_contiguous_runs_by_rank() {
    let mut bench = Bench::new(0);
    [3, 1, 4, 2].into_iter().zip(0..).for_each(|(rank, id)| bench.join_on(id, "node", Some(rank)));
    (0..8).for_each(|part| bench.submit_with(ALICE, part, u128::from(part), &[], share(part, 8)));
    bench.place_at(0);
    bench.work_off();
    let mut assigned = bench.assigned();
    assigned.sort_unstable();
    assert_eq!(assigned, [(0, 1), (1, 1), (2, 3), (3, 3), (4, 0), (5, 0), (6, 2), (7, 2)]);
}

#[test]
fn shares_stay_where_they_are_when_the_first_of_them_take_less_time_than_was_assumed() {
    let mut bench = Bench::new(3);
    (0..12).for_each(|part| bench.submit_with(ALICE, part, u128::from(part), &[], share(part, 12)));
    bench.place_at(0);
    for part in 0..4 {
        bench.finish(0, TaskId(part), None);
        bench.place_at(0);
    }
    let on_first = bench.assigned().into_iter().filter(|(_, worker)| *worker == 0);
    assert_eq!(on_first.map(|(part, _)| part).collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn shares_that_still_wait_are_shared_out_anew_when_workers_join() {
    let mut bench = Bench::new(1);
    (0..12).for_each(|part| bench.submit_with(ALICE, part, u128::from(part), &[], share(part, 12)));
    bench.place_at(0);
    bench.join(1);
    bench.join(2);
    bench.place_at(0);
    bench.work_off();
    let mut assigned = bench.assigned();
    assigned.sort_unstable();
    assert_eq!(
        assigned.iter().map(|(_, worker)| *worker).collect::<Vec<_>>(),
        [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    );
}

#[test]
fn fewer_parts_than_workers_lie_apart() {
    let mut bench = Bench::new(8);
    (0..4).for_each(|part| bench.submit_with(ALICE, part, u128::from(part), &[], share(part, 4)));
    bench.place_at(0);
    let mut assigned = bench.assigned();
    assigned.sort_unstable();
    assert_eq!(assigned, [(0, 0), (1, 2), (2, 4), (3, 6)]);
}

#[test]
fn free_tasks_are_stolen_past_a_queue_of_named_ones() {
    let mut bench = Bench::new(1);
    (0..30).for_each(|future| bench.submit_with(ALICE, future, u128::from(future), &[], only(0)));
    bench.submit(ALICE, 30, 30, &[]);
    bench.place_at(0);
    bench.join(1);
    bench.place_at(0);
    assert_eq!(bench.assigned().last(), Some(&(30, 1)));
}
