//! When a cancel is acknowledged, whom a worker's death is laid to, and what a stale word costs.

use super::*;
use crate::model::WorkerName;

impl Bench {
    fn cancel(&mut self, client: ClientId, number: u32, futures: &[u32], force: bool) {
        let futures = futures.iter().copied().map(FutureId).collect();
        let cancel = Cancel { number, futures, force, reason: "stop".into() };
        self.core.cancel(client, &cancel, &mut self.effects).unwrap();
    }

    fn fenced(&mut self, worker: u32, number: u64) {
        self.core.fenced(WorkerId(worker), number, &mut self.effects).unwrap();
    }

    fn leave(&mut self, worker: u32, departure: recover::Departure) {
        self.core.worker_left(WorkerId(worker), departure, &mut self.effects);
    }

    /// What has been acknowledged since the last look.
    fn acknowledged(&mut self) -> Vec<String> {
        self.place().into_iter().filter(|line| line.ends_with("acknowledged")).collect()
    }

    /// The task is assigned, said to start, and its worker dies.
    fn die_running(&mut self) {
        self.place();
        let (worker, task) = self.last();
        self.core.started(WorkerId(worker), task).unwrap();
        self.leave(worker, recover::Departure::Lost);
    }
}

#[test]
fn a_cancel_is_acknowledged_when_every_worker_that_it_concerns_has_heard_of_it() {
    let mut bench = Bench::new(3);
    (0..3).for_each(|future| bench.submit(ALICE, future, u128::from(future), &[]));
    bench.place();
    bench.cancel(ALICE, 7, &[0, 2], false);
    let lines = bench.place();
    let order = |text: &str| lines.iter().position(|line| line == text);
    for (task, worker) in [(0, 0), (2, 2)] {
        let abandon = order(&format!("abandon task-{task}.0 on worker-{worker}"));
        assert!(abandon.is_some() && abandon < order(&format!("fence 0 to worker-{worker}")), "{lines:?}");
    }
    assert!(
        !lines.iter().any(|line| line.contains("worker-1") || line.contains("acknowledged")),
        "{lines:?}"
    );
    bench.fenced(2, 0);
    assert_eq!(bench.acknowledged(), [""; 0]);
    bench.fenced(0, 0);
    assert_eq!(bench.acknowledged(), ["client-0 cancel 7 acknowledged"]);
    let again = bench.core.fenced(WorkerId(0), 0, &mut bench.effects);
    assert_eq!(again, Err(Violation::NotFenced { worker: WorkerId(0), number: 0 }));
}

#[test]
fn a_cancel_of_what_no_worker_has_is_acknowledged_at_once() {
    let mut bench = Bench::new(0);
    bench.submit(ALICE, 0, 1, &[]);
    bench.place();
    bench.cancel(ALICE, 1, &[0], false);
    assert_eq!(bench.acknowledged(), ["client-0 cancel 1 acknowledged"]);
}

#[test]
fn a_worker_that_dies_acknowledges_every_cancel() {
    let mut bench = Bench::new(2);
    (0..2).for_each(|future| bench.submit(ALICE, future, u128::from(future), &[]));
    bench.place();
    bench.cancel(ALICE, 0, &[0], false);
    bench.cancel(ALICE, 1, &[1], false);
    bench.leave(0, recover::Departure::Lost);
    assert_eq!(bench.acknowledged(), ["client-0 cancel 0 acknowledged"]);
    bench.leave(1, recover::Departure::Planned);
    assert_eq!(bench.acknowledged(), ["client-0 cancel 1 acknowledged"]);
}

#[test]
fn nothing_is_acknowledged_to_a_client_that_left() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 1, &[]);
    bench.place();
    bench.cancel(ALICE, 0, &[0], false);
    bench.core.client_left(ALICE, &mut bench.effects);
    bench.fenced(0, 0);
    assert_eq!(bench.acknowledged(), [""; 0]);
}

#[test]
fn a_second_cancel_waits_for_whom_the_first_waits_for() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 1, &[]);
    bench.submit(BOB, 0, 1, &[]);
    bench.place();
    bench.cancel(BOB, 5, &[0], true);
    bench.cancel(ALICE, 6, &[0], false);
    assert_eq!(bench.acknowledged(), [""; 0]);
    bench.fenced(0, 0);
    assert_eq!(bench.acknowledged(), ["client-1 cancel 5 acknowledged"]);
    bench.fenced(0, 1);
    assert_eq!(bench.acknowledged(), ["client-0 cancel 6 acknowledged"]);
}

#[test]
fn a_key_that_is_submitted_again_does_not_hold_the_acknowledgement_up() {
    let mut bench = Bench::new(1);
    bench.submit(ALICE, 0, 1, &[]);
    bench.place();
    bench.cancel(ALICE, 0, &[0], false);
    bench.submit(ALICE, 1, 1, &[]);
    bench.fenced(0, 0);
    assert_eq!(bench.acknowledged(), ["client-0 cancel 0 acknowledged"]);
    bench.core.returned(WorkerId(0), TaskId(0)).unwrap();
    assert_eq!(bench.place(), ["assign task-0.2 to worker-0 ()"]);
}

#[test]
fn a_task_under_which_three_workers_died_is_blamed() {
    let mut bench = Bench::new(4);
    bench.submit(ALICE, 0, 1, &[]);
    bench.place();
    bench.leave(0, recover::Departure::Lost);
    bench.die_running();
    bench.die_running();
    let lines = bench.place();
    assert_eq!(lines.len(), 1);
    let blame = "client-0 future 0: failed: 3 workers died under it (worker-0, worker-1, worker-2)";
    assert!(lines[0].starts_with(blame), "{lines:?}");
}

#[test]
fn tasks_that_did_not_start_are_not_blamed_however_many_workers_die() {
    let mut bench = Bench::new(2);
    bench.submit(ALICE, 0, 1, &[]);
    for worker in 2..10 {
        bench.place();
        let (last, _) = bench.last();
        bench.join(worker);
        bench.leave(last, recover::Departure::Lost);
    }
    assert!(bench.place()[0].starts_with("assign"), "it is tried again");
    assert_eq!(bench.effects.cautions, [false, true, true, true, true, true, true, true, true]);
}

#[test]
fn a_task_that_finishes_is_cleared_of_all_deaths() {
    let mut bench = Bench::new(3);
    bench.submit(ALICE, 0, 1, &[]);
    bench.place();
    bench.leave(0, recover::Departure::Lost);
    bench.die_running();
    bench.place();
    bench.finish(2, bench.last().1, None);
    bench.place();
    (3..6).for_each(|worker| bench.join(worker));
    bench.leave(2, recover::Departure::Lost);
    bench.place();
    let (worker, _) = bench.last();
    bench.leave(worker, recover::Departure::Lost);
    bench.die_running();
    assert!(bench.place()[0].starts_with("assign"), "two deaths are not three");
}

#[test]
fn planned_departures_are_not_counted_against_a_task() {
    let mut bench = Bench::new(4);
    bench.submit(ALICE, 0, 1, &[]);
    for _ in 0..3 {
        bench.place();
        let (worker, _) = bench.last();
        bench.leave(worker, recover::Departure::Planned);
    }
    assert_eq!(bench.place().len(), 1, "it is assigned to the last worker");
    assert_eq!(bench.effects.cautions, [false; 4]);
}

#[test]
fn a_start_of_what_was_abandoned_is_no_violation_and_one_of_what_was_not_given_is() {
    let mut bench = Bench::new(2);
    bench.submit(ALICE, 0, 1, &[]);
    bench.place();
    bench.leave(0, recover::Departure::Lost);
    bench.place();
    let (worker, task) = bench.last();
    bench.cancel(ALICE, 0, &[0], false);
    bench.core.started(WorkerId(worker), task).unwrap();
    bench.core.returned(WorkerId(worker), task).unwrap();
    let again = bench.core.started(WorkerId(worker), task);
    assert_eq!(again, Err(Violation::NotAssigned { worker: WorkerId(worker), task }));
    bench.place();
}

#[test]
fn a_failed_fetch_of_a_value_that_was_made_again_costs_no_copy() {
    let mut bench = Bench::new(2);
    bench.submit(ALICE, 0, 1, &[]);
    bench.place();
    bench.finish(0, TaskId(0), None);
    bench.place();
    bench.leave(0, recover::Departure::Lost);
    bench.join(0);
    bench.place();
    let (worker, again) = bench.last();
    bench.finish(worker, again, None);
    bench.place();
    let holder = WorkerId(worker);
    bench.unreachable(ALICE, 0, TaskId(0), worker, Fault::NotHere);
    assert_eq!(bench.place(), [format!("client-0 future 0: stored at [{holder:?}]")]);
    bench.unreachable(ALICE, 0, again, worker, Fault::NotHere);
    assert_eq!(bench.place()[0], format!("free {again} on {holder}"));
}

#[test]
fn a_value_on_its_way_to_a_worker_that_dies_is_sent_to_another() {
    let mut bench = Bench::new(2);
    bench.scatter(ALICE, 0, 9);
    assert_eq!(bench.place(), ["future 0 goes to Some(WorkerId(0))"]);
    bench.core.worker_left(WorkerId(0), recover::Departure::Lost, &mut bench.effects);
    assert_eq!(bench.place(), ["future 0 goes to Some(WorkerId(1))"]);
    let task = bench.core.tasks.id(0);
    bench.core.holds(WorkerId(1), task, 8, &mut bench.effects);
    assert_eq!(bench.place(), ["client-0 future 0: stored at [WorkerId(1)]"]);
}

#[test]
fn a_value_on_its_way_to_the_last_worker_waits_for_the_next() {
    let mut bench = Bench::new(1);
    bench.scatter(ALICE, 0, 9);
    bench.core.worker_left(WorkerId(0), recover::Departure::Lost, &mut bench.effects);
    assert_eq!(bench.place(), ["future 0 goes to Some(WorkerId(0))"]);
    bench.join(1);
    assert_eq!(bench.place(), ["future 0 goes to Some(WorkerId(1))"]);
}

#[test]
fn a_value_that_its_client_cannot_send_goes_to_another_worker_and_a_late_copy_is_freed() {
    let mut bench = Bench::new(2);
    bench.scatter(ALICE, 0, 9);
    bench.place();
    let task = TaskId(0);
    bench.unreachable(ALICE, 0, task, 0, Fault::NotReached);
    assert_eq!(bench.place(), ["future 0 goes to Some(WorkerId(1))"]);
    // Said once more, of the worker that is not meant any more.
    bench.unreachable(ALICE, 0, task, 0, Fault::NotReached);
    bench.core.holds(WorkerId(0), task, 8, &mut bench.effects);
    assert_eq!(bench.place(), ["free task-0.0 on worker-0"]);
}

#[test]
fn a_client_that_reaches_no_worker_costs_others_no_copy() {
    let mut bench = Bench::new(2);
    bench.submit(ALICE, 0, 1, &[]);
    bench.place();
    bench.finish(0, TaskId(0), None);
    bench.scatter(ALICE, 1, 9);
    let scattered = bench.core.tasks.id(1);
    bench.core.holds(WorkerId(0), scattered, 8, &mut bench.effects);
    bench.place();
    for _ in 0..10 {
        bench.unreachable(ALICE, 0, TaskId(0), 0, Fault::NotReached);
        bench.unreachable(ALICE, 1, scattered, 0, Fault::NotReached);
        let again =
            ["client-0 future 0: stored at [WorkerId(0)]", "client-0 future 1: stored at [WorkerId(0)]"];
        assert_eq!(bench.place(), again);
    }
    bench.lose(0);
    let lines = bench.place();
    assert!(lines.iter().any(|line| line.starts_with("assign")), "it is made again: {lines:?}");
}

#[test]
fn a_value_that_its_client_gives_up_fails_whoever_waits_for_it_with_the_reason() {
    let mut bench = Bench::new(1);
    bench.scatter(ALICE, 0, 9);
    bench.submit(ALICE, 1, 2, &[0]);
    bench.place();
    let give_up = GiveUp { future: FutureId(0), task: TaskId(0), reason: "it is too large".to_owned() };
    bench.core.give_up(ALICE, &give_up, &mut bench.effects).unwrap();
    let lines = bench.place();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in lines {
        assert!(
            line.contains("failed: scattered data is lost") && line.contains("it is too large"),
            "{line}"
        );
    }
    bench.core.give_up(ALICE, &give_up, &mut bench.effects).unwrap();
    assert_eq!(bench.place(), [""; 0], "said twice");
}

#[test]
fn equal_content_is_sent_by_the_next_client_when_the_first_one_leaves() {
    let mut bench = Bench::new(1);
    bench.scatter(ALICE, 0, 9);
    bench.scatter(BOB, 5, 9);
    bench.submit(BOB, 6, 2, &[5]);
    assert_eq!(bench.place(), ["future 0 goes to Some(WorkerId(0))", "future 5 goes to None"]);
    bench.core.client_left(ALICE, &mut bench.effects);
    assert_eq!(bench.place(), ["future 5 goes to Some(WorkerId(0))"]);
    bench.core.holds(WorkerId(0), TaskId(0), 8, &mut bench.effects);
    assert_eq!(bench.place(), ["free task-0.0 on worker-0"], "what Alice had sent is not the whole");
    let task = bench.core.tasks.id(0);
    bench.core.holds(WorkerId(0), task, 8, &mut bench.effects);
    let lines = bench.place();
    assert_eq!(lines[0], "client-1 future 5: stored at [WorkerId(0)]");
    assert!(lines[1].starts_with("assign"), "{lines:?}");
}

#[test]
fn equal_content_is_lost_when_every_client_that_had_it_is_gone() {
    let mut bench = Bench::new(1);
    bench.scatter(ALICE, 0, 9);
    bench.scatter(ALICE, 1, 9);
    bench.submit(BOB, 0, 2, &[]);
    bench.release(ALICE, 1);
    bench.scatter(BOB, 5, 9);
    bench.place();
    bench.release(ALICE, 0);
    assert_eq!(
        bench.place(),
        ["future 5 goes to Some(WorkerId(0))"],
        "the one that was released is passed over"
    );
    bench.release(BOB, 5);
    assert_eq!(bench.core.tasks_len(), 1);
    bench.place();
}

/// A value that Alice sends, for worker 1 first.
fn for_worker_1(allow_other_workers: bool) -> Scatter {
    let value = ScatterValue { future: FutureId(0), key: Key(9), nbytes: 8 };
    let workers = vec![WorkerId(1).into()];
    Scatter { values: vec![value], workers, allow_other_workers, type_name: "Vec".to_owned() }
}

#[test]
fn a_value_on_its_way_to_a_named_worker_that_dies_is_lost_by_name() {
    let mut bench = Bench::new(2);
    bench.core.scatter(ALICE, &for_worker_1(false), &mut bench.effects).unwrap();
    bench.core.watch(ALICE, FutureId(0), &mut bench.effects).unwrap();
    bench.core.worker_left(WorkerId(1), recover::Departure::Lost, &mut bench.effects);
    let lines = bench.place();
    assert_eq!(lines[0], "future 0 goes to Some(WorkerId(1))");
    assert!(lines[1].starts_with("client-0 future 0: failed"), "{lines:?}");
    assert!(lines[1].contains("worker-1 is gone"), "{lines:?}");
}

#[test]
fn a_value_for_a_named_worker_that_is_gone_already_is_lost_by_name() {
    let mut bench = Bench::new(2);
    bench.core.worker_left(WorkerId(1), recover::Departure::Lost, &mut bench.effects);
    bench.core.scatter(ALICE, &for_worker_1(false), &mut bench.effects).unwrap();
    bench.core.watch(ALICE, FutureId(0), &mut bench.effects).unwrap();
    let lines = bench.place();
    assert!(lines[0].starts_with("client-0 future 0: failed"), "{lines:?}");
    assert!(lines[0].contains("none of worker-1 is there"), "{lines:?}");
}

#[test]
fn a_value_goes_to_workers_that_are_named_by_rank_or_host() {
    let mut bench = Bench::new(1);
    let seat = Seat { host: "other", rank: Some(9), threads: 1, memory_bytes_max: 0 };
    bench.core.worker_joined(WorkerId(1), seat, [(FUNCTION, "inc".to_owned())], &mut bench.effects);
    for (future, name) in [WorkerName::Rank(9), WorkerName::Host("other".into())].into_iter().enumerate() {
        let (future, key) = (FutureId(future as u32), Key(future as u128 + 9));
        let values = vec![ScatterValue { future, key, nbytes: 8 }];
        let scatter = Scatter { workers: vec![name], values, ..for_worker_1(false) };
        bench.core.scatter(ALICE, &scatter, &mut bench.effects).unwrap();
    }
    assert_eq!(bench.place(), ["future 0 goes to Some(WorkerId(1))", "future 1 goes to Some(WorkerId(1))"]);
}

#[test]
fn a_value_goes_to_others_than_the_named_worker_if_they_are_allowed() {
    let mut bench = Bench::new(2);
    bench.core.scatter(ALICE, &for_worker_1(true), &mut bench.effects).unwrap();
    bench.core.worker_left(WorkerId(1), recover::Departure::Lost, &mut bench.effects);
    assert_eq!(bench.place(), ["future 0 goes to Some(WorkerId(1))", "future 0 goes to Some(WorkerId(0))"]);
}

#[test]
fn the_last_holder_of_scattered_data_is_named_when_it_is_gone() {
    let mut bench = Bench::new(2);
    bench.scatter(ALICE, 0, 9);
    bench.core.holds(WorkerId(0), TaskId(0), 8, &mut bench.effects);
    bench.place();
    bench.core.worker_left(WorkerId(0), recover::Departure::Lost, &mut bench.effects);
    bench.core.watch(ALICE, FutureId(0), &mut bench.effects).unwrap();
    let lines = bench.place();
    assert!(lines[0].starts_with("client-0 future 0: failed"), "{lines:?}");
    assert!(lines[0].contains("the last copy was on worker-0"), "{lines:?}");
}
