//! Rules for a worker whose memory is short. Large values have 10 000 bytes.

use super::*;
use crate::worker::core::memory::Spilled;
use Effect::{Admit, LetGo, Lost, Refuse, Spill, Turn, Unspill};

impl Worker {
    pub(super) fn sampled(&mut self, bytes: u64) -> Vec<Effect> {
        self.step(|core, _| core.sampled(bytes))
    }

    pub(super) fn spilled(&mut self, outcome: Spilled) -> Vec<Effect> {
        self.step(|core, effects| core.spilled(outcome, effects))
    }

    pub(super) fn expect_put(&mut self, nbytes: u64) -> Vec<Effect> {
        self.step(|core, _| {
            core.expect_put(nbytes);
        })
    }

    pub(super) fn hurry_put(&mut self, put: u64) -> Vec<Effect> {
        self.step(|core, effects| core.hurry_put(PutId(put), effects))
    }

    /// The value that was let in as `put` is here.
    fn fill_put(&mut self, put: u64, task: u64) -> Vec<Effect> {
        self.step(|core, effects| {
            core.put(TaskId(task), 10_000, effects);
            core.end_put(PutId(put));
        })
    }

    fn unspilled(&mut self, ticket: u64, is_read: bool) -> Vec<Effect> {
        self.step(|core, effects| core.unspilled(Ticket(ticket), is_read, effects))
    }
}

/// A worker with one thread that may use 100 000 bytes and holds the values 1 to `count`. The seventh makes it spill
/// the first.
fn worker_holding(count: u64) -> Worker {
    let mut worker = Worker::with_memory(1, 100_000);
    for value in 1..=count {
        worker.put(value);
    }
    worker
}

#[test]
fn the_value_that_was_not_used_for_longest_is_spilled() {
    let mut worker = worker_holding(6);
    worker.assign(20, &[(1, From::Local)]);
    worker.finish(0, 20, Size::Small);
    assert!(worker.put(7).contains(&Spill(2)));
    assert_eq!(worker.spilled(Spilled::Written), [LetGo(2)]);
    assert_eq!(worker.put(8).last(), Some(&Spill(3)));
    assert_eq!(worker.core.memory().spilled, 10_000);
}

#[test]
fn a_task_waits_for_a_spilled_value_and_another_goes_before_it() {
    let mut worker = worker_holding(7);
    worker.spilled(Spilled::Written);
    assert_eq!(worker.assign(20, &[(1, From::Local)]), [Unspill(1, Ticket(1)), Spill(2)]);
    assert_eq!(worker.assign(21, &[]), [Start(0, 21)]);
    assert_eq!(worker.unspilled(1, true), []);
    assert_eq!(worker.finish(0, 21, Size::Small), [Done(21), Keep(21), Start(0, 20)]);
    assert_eq!(worker.core.memory().spilled, 0);
}

#[test]
fn a_value_that_is_on_disk_is_not_written_again() {
    let mut worker = worker_holding(7);
    worker.spilled(Spilled::Written);
    assert_eq!(worker.assign(20, &[(1, From::Local)]), [Unspill(1, Ticket(1)), Spill(2)]);
    assert_eq!(worker.spilled(Spilled::Written), [LetGo(2)]);
    worker.unspilled(1, true);
    worker.finish(0, 20, Size::Small);
    for value in 3..=7 {
        worker.free(value);
    }
    // 1 is the only one left in memory, and what else the process uses takes the room.
    assert_eq!(worker.sampled(70_000), [LetGo(1)]);
}

#[test]
fn values_in_use_stay() {
    let mut worker = worker_holding(6);
    worker.in_use = vec![1];
    assert!(worker.put(7).contains(&Spill(2)));
    worker.in_use = vec![1, 2];
    assert_eq!(worker.spilled(Spilled::Written), [Spill(3)], "2 is used since");
}

#[test]
fn a_task_that_needs_a_value_keeps_it_from_leaving() {
    let mut worker = worker_holding(7);
    worker.assign(20, &[]);
    assert_eq!(worker.assign(21, &[(1, From::Local)]), []);
    assert_eq!(worker.spilled(Spilled::Written), [Spill(2)]);
    assert_eq!(worker.finish(0, 20, Size::Small), [Done(20), Keep(20), Start(0, 21)]);
}

#[test]
fn a_spilled_value_that_cannot_be_read_is_lost_and_its_tasks_are_returned() {
    let mut worker = worker_holding(7);
    worker.spilled(Spilled::Written);
    worker.assign(20, &[(1, From::Local)]);
    worker.assign(21, &[(20, From::Local)]);
    assert_eq!(worker.unspilled(1, false), [Discard(1), Lost(1), Returned(20), Returned(21)]);
    assert_eq!(worker.core.memory().spilled_values, 0);
}

#[test]
fn a_spilled_value_that_is_freed_is_gone_whatever_comes_of_reading_it() {
    let mut worker = worker_holding(7);
    worker.spilled(Spilled::Written);
    worker.assign(20, &[]);
    worker.assign(21, &[(1, From::Local)]);
    worker.abandon(21);
    assert_eq!(worker.free(1), [Discard(1)]);
    assert_eq!(worker.unspilled(1, false), []);
}

#[test]
fn above_80_percent_one_task_runs_at_a_time() {
    let mut worker = Worker::with_memory(2, 100_000);
    assert_eq!(worker.sampled(81_000), [Turn(Pressure::Paused)]);
    assert_eq!(worker.assign(1, &[]), [Start(0, 1)]);
    assert_eq!(worker.assign(2, &[]), []);
    assert_eq!(worker.finish(0, 1, Size::Small), [Done(1), Keep(1), Start(0, 2)]);
    assert_eq!(worker.assign(3, &[]), []);
    assert_eq!(worker.sampled(76_000), []);
    assert_eq!(worker.sampled(75_000), [Turn(Pressure::Open), Start(1, 3)]);
}

#[test]
fn a_paused_worker_waits_for_what_is_on_its_way_to_disk() {
    let mut worker = worker_holding(7);
    assert_eq!(worker.sampled(85_000), [Turn(Pressure::Paused)]);
    assert_eq!(worker.assign(20, &[]), []);
    assert_eq!(worker.spilled(Spilled::Written), [LetGo(1), Start(0, 20), Spill(2), Turn(Pressure::Open)]);
}

#[test]
fn a_full_disk_is_tried_again_later() {
    let mut worker = worker_holding(7);
    assert_eq!(worker.spilled(Spilled::DiskFailed), []);
    assert!(worker.core.memory().is_tight && worker.core.memory().is_disk_failing);
    assert_eq!(worker.put(8), [Holds(8), Keep(8)]);
    let attempts: Vec<Effect> = (0..20).flat_map(|_| worker.sampled(80_000)).collect();
    assert_eq!(attempts, [Spill(2)], "the one that failed stands at the end of the line");
    assert!(worker.spilled(Spilled::Written).contains(&LetGo(2)));
    assert!(!worker.core.memory().is_disk_failing);
}

/// A worker with one thread and seven values, whose disk fails and whose memory is full.
fn full_worker() -> Worker {
    let mut worker = worker_holding(7);
    worker.spilled(Spilled::DiskFailed);
    assert_eq!(worker.sampled(96_000), [Turn(Pressure::Full)]);
    worker
}

#[test]
fn a_full_worker_whose_disk_fails_runs_what_has_inputs_and_gives_the_rest_back() {
    let mut worker = worker_holding(7);
    worker.assign(20, &[]);
    worker.assign(21, &[]);
    worker.assign(22, &[(21, From::Local)]);
    worker.assign(23, &[(1, From::Local)]);
    worker.spilled(Spilled::DiskFailed);
    assert_eq!(worker.sampled(96_000), [Turn(Pressure::Full), Returned(21), Returned(22)]);
    assert_eq!(worker.finish(0, 20, Size::Small), [Done(20), Keep(20), Start(0, 23)]);
    assert_eq!(worker.assign(24, &[]), [Returned(24)]);
    assert_eq!(worker.finish(0, 23, Size::Small), [Done(23), Keep(23)]);
    assert_eq!(
        worker.assign(25, &[(30, From::Remote(vec![1]))]),
        [Fetch(30, 1)],
        "or nothing would ever go on"
    );
}

#[test]
fn a_full_worker_runs_everything_again_when_values_are_freed_or_spilled() {
    let mut worker = full_worker();
    assert_eq!(worker.free(1), [Discard(1), Turn(Pressure::Paused)]);
    assert_eq!(worker.assign(20, &[]), [Start(0, 20)]);

    let mut worker = full_worker();
    let tries: Vec<Effect> = (0..12).flat_map(|_| worker.sampled(96_000)).collect();
    assert_eq!(tries, [Spill(2)]);
    assert_eq!(worker.spilled(Spilled::Written), [LetGo(2), Turn(Pressure::Paused), Spill(3)]);
}

#[test]
fn memory_that_is_full_of_other_things_than_values_does_not_stop_what_has_no_inputs() {
    let mut worker = worker_holding(7);
    worker.spilled(Spilled::DiskFailed);
    (2..=7).for_each(|value| drop(worker.free(value)));
    assert_eq!(worker.sampled(96_000), [Turn(Pressure::Paused)]);
    assert_eq!(worker.assign(20, &[]), [Start(0, 20)]);
}

#[test]
fn a_full_worker_whose_disk_fails_refuses_values_of_clients() {
    let mut worker = worker_holding(7);
    worker.spilled(Spilled::DiskFailed);
    assert_eq!(worker.sampled(70_000), []);
    assert_eq!(worker.expect_put(20_000), []);
    assert_eq!(worker.hurry_put(1), [Admit(1), Turn(Pressure::Paused)], "it fits below 95 percent");
    assert_eq!(worker.expect_put(6_000), []);
    assert_eq!(worker.hurry_put(2), [Refuse(2)]);
    assert_eq!(worker.expect_put(6_000), [Refuse(3)], "from then on without a wait");
    assert_eq!(worker.free(7), [Discard(7)]);
    assert_eq!(worker.expect_put(6_000), []);
    assert_eq!(worker.hurry_put(4), [Admit(4)]);
}

#[test]
fn what_comes_in_waits_for_room() {
    let mut worker = worker_holding(7);
    worker.spilled(Spilled::DiskFailed);
    worker.assign(20, &[]);
    worker.sampled(75_000);
    assert_eq!(worker.assign(21, &[(30, From::Remote(vec![1]))]), []);
    assert_eq!(worker.free(7), [Discard(7), Fetch(30, 1)]);
}

#[test]
fn when_nothing_goes_on_one_thing_comes_in_however_full_it_is() {
    let mut worker = worker_holding(7);
    worker.spilled(Spilled::Written);
    assert_eq!(worker.put(8), [Holds(8), Keep(8), Spill(2)]);
    worker.spilled(Spilled::DiskFailed);
    worker.sampled(200_000);
    assert_eq!(worker.assign(20, &[(1, From::Local)]), [Unspill(1, Ticket(1))]);
    assert_eq!(worker.assign(21, &[(30, From::Remote(vec![1]))]), []);
    worker.in_use = vec![1];
    assert_eq!(worker.unspilled(1, true), [Start(0, 20)]);
    assert_eq!(worker.finish(0, 20, Size::Small), [Done(20), Keep(20), Fetch(30, 1)]);
}

impl Worker {
    fn fetched_too_large(&mut self, task: u64, nbytes: u64) -> Vec<Effect> {
        self.step(|core, effects| core.fetched_too_large(TaskId(task), nbytes, effects))
    }
}

#[test]
fn a_task_whose_input_is_larger_than_the_memory_fails_and_no_holder_is_doubted() {
    let mut worker = Worker::with_memory(1, 9_000);
    assert_eq!(worker.assign(20, &[(30, From::Remote(vec![1, 2]))]), [FailedEffect(20)]);
    let acquisition =
        Acquisition { task: TaskId(30), nbytes: 10_000, holders: [WorkerId(1)].as_slice().into() };
    assert_eq!(worker.step(|core, effects| core.acquire(&acquisition, effects)), [Missed(30)]);
    assert_eq!(
        worker.assign(21, &[(30, From::Remote(vec![LENDER]))]),
        [Borrow(30, LENDER)],
        "which needs no room"
    );
    worker.assign(22, &[(21, From::Local)]);
    assert_eq!(worker.not_lent(30), [FailedEffect(21), Returned(22)]);
    assert_eq!(worker.core.counts(), Counts::default());
}

#[test]
fn a_value_that_turns_out_to_be_too_large_fails_its_task_and_no_holder_is_doubted() {
    let mut worker = Worker::with_memory(1, 100_000);
    assert_eq!(worker.assign(20, &[(30, From::Remote(vec![1, 2]))]), [Fetch(30, 1)]);
    assert_eq!(worker.fetched_too_large(30, 100_001), [Fetch(30, 2)]);
    assert_eq!(worker.fetched_too_large(30, 100_001), [FailedEffect(20)]);
    assert_eq!(worker.core.memory().arriving, 0);
}

#[test]
fn values_that_clients_send_at_once_do_not_exceed_the_memory_together() {
    let mut worker = worker_holding(5);
    let admitted: Vec<Effect> = (0..5).flat_map(|_| worker.expect_put(10_000)).collect();
    assert_eq!(admitted, [Admit(1), Admit(2), Spill(1), Admit(3)], "up to 80 percent");
    assert_eq!(worker.spilled(Spilled::Written), [LetGo(1), Admit(4), Spill(2)]);
    assert_eq!(worker.core.memory().arriving, 40_000);
    assert_eq!(worker.spilled(Spilled::Written), [LetGo(2), Admit(5), Spill(3)]);
    assert_eq!(worker.fill_put(1, 11), [Holds(11), Keep(11)]);
    assert_eq!(worker.core.memory().arriving, 40_000);
}

#[test]
fn room_is_made_for_a_value_that_a_client_sends() {
    let mut worker = worker_holding(5);
    assert_eq!(worker.expect_put(40_000), [Spill(1)]);
    assert_eq!(worker.spilled(Spilled::Written), [LetGo(1), Admit(1), Spill(2)]);
}

#[test]
fn a_value_that_a_client_gives_up_leaves_its_room_and_its_place() {
    let mut worker = worker_holding(5);
    worker.in_use = (1..=5).collect();
    worker.assign(20, &[]);
    assert_eq!(worker.expect_put(25_000), [Admit(1)]);
    assert_eq!((worker.expect_put(40_000), worker.expect_put(10_000)), (vec![], vec![]));
    let end = |worker: &mut Worker, put| worker.step(|core, _| core.end_put(PutId(put)));
    assert_eq!(end(&mut worker, 2), []);
    assert_eq!(end(&mut worker, 1), [Admit(3)]);
    assert_eq!(worker.core.memory().arriving, 10_000);
}

#[test]
fn while_tasks_run_a_value_waits_for_room_until_it_is_hurried() {
    let mut worker = worker_holding(7);
    worker.spilled(Spilled::DiskFailed);
    worker.assign(20, &[]);
    assert_eq!(worker.expect_put(20_000), []);
    assert_eq!(worker.hurry_put(1), [Admit(1), Turn(Pressure::Paused)]);
    assert_eq!(worker.hurry_put(1), []);
}

#[test]
fn when_waiting_makes_no_room_one_value_comes_in_after_the_other() {
    let mut worker = Worker::with_memory(1, 100_000);
    worker.sampled(200_000);
    assert_eq!(worker.expect_put(10_000), [Admit(1)]);
    assert_eq!(worker.expect_put(10_000), []);
    assert_eq!(worker.fill_put(1, 11), [Holds(11), Keep(11), Spill(11)]);
    assert_eq!(worker.spilled(Spilled::Written), [LetGo(11), Admit(2)]);
}
