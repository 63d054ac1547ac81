//! Rules for values that are lent. They have 10 000 bytes, and the worker may use 100 000.

use super::*;
use crate::worker::core::memory::Spilled;
use Effect::{Spill, Turn};

impl Worker {
    fn lent(&mut self, task: u64) -> Vec<Effect> {
        self.step(|core, effects| core.fetched(TaskId(task), 10_000, Owner::Lender, effects))
    }

    pub(super) fn not_lent(&mut self, task: u64) -> Vec<Effect> {
        self.step(|core, effects| core.not_lent(TaskId(task), effects))
    }

    pub(super) fn own(&mut self, task: u64) -> Vec<Effect> {
        self.step(|core, _| core.own(TaskId(task)))
    }

    fn held_lent_arriving(&self) -> [u64; 3] {
        let memory = self.core.memory();
        [memory.held, memory.lent, memory.arriving]
    }
}

/// A worker with one thread whose own values take up so many percent.
fn worker_with(percent: u64) -> Worker {
    let mut worker = Worker::with_memory(1, 100_000);
    (1..=percent / 10).for_each(|value| drop(worker.put(value)));
    worker
}

#[test]
fn any_number_of_values_is_lent_to_a_worker_without_a_value_of_its_own_going_to_disk() {
    let mut worker = worker_with(60);
    for value in 20..40 {
        assert_eq!(worker.acquire(value, &[LENDER]), [Borrow(value, LENDER)]);
        assert_eq!(worker.lent(value), [Holds(value), Keep(value)]);
    }
    assert_eq!(worker.held_lent_arriving(), [60_000, 200_000, 0]);
    assert!(!worker.core.memory().is_tight);
    assert_eq!(worker.assign(50, &[(20, From::Local), (39, From::Local)]), [Start(0, 50)]);
    assert_eq!(worker.free(20), [Discard(20)]);
    assert_eq!(worker.held_lent_arriving(), [60_000, 190_000, 0]);
}

#[test]
fn a_lent_value_stays_when_the_memory_is_short() {
    let mut worker = worker_with(0);
    worker.acquire(20, &[LENDER]);
    worker.lent(20);
    assert_eq!(worker.sampled(85_000), [Turn(Pressure::Paused)]);
    assert_eq!(worker.assign(50, &[(21, From::Remote(vec![LENDER]))]), [Borrow(21, LENDER)]);
    assert_eq!(worker.lent(21), [Holds(21), Keep(21), Start(0, 50)]);
}

#[test]
fn while_there_is_plenty_of_room_a_value_may_come_as_it_will() {
    let mut worker = worker_with(50);
    assert_eq!(worker.assign(50, &[(20, From::Remote(vec![LENDER]))]), [Fetch(20, LENDER)]);
    assert_eq!(worker.held_lent_arriving(), [50_000, 0, 10_000]);
    assert_eq!(worker.lent(20), [Holds(20), Keep(20), Start(0, 50)]);
    assert_eq!(worker.held_lent_arriving(), [50_000, 10_000, 0]);
}

#[test]
fn what_is_not_lent_is_sent_when_there_is_room() {
    let mut worker = worker_with(0);
    worker.sampled(75_000);
    worker.assign(50, &[]);
    assert_eq!(worker.assign(51, &[(20, From::Remote(vec![LENDER]))]), [Borrow(20, LENDER)]);
    assert_eq!(worker.not_lent(20), []);
    assert_eq!(worker.sampled(70_000), [Fetch(20, LENDER)]);
    assert_eq!(worker.held_lent_arriving(), [0, 0, 10_000]);
    assert_eq!(worker.fetched(20), [Holds(20), Keep(20)]);
    assert_eq!(worker.held_lent_arriving(), [10_000, 0, 0]);
}

#[test]
fn a_value_that_nobody_else_accounts_for_counts_and_may_go_to_disk() {
    let mut worker = worker_with(60);
    worker.acquire(20, &[LENDER]);
    worker.lent(20);
    assert_eq!(worker.own(20), [Spill(1)]);
    assert_eq!(worker.held_lent_arriving(), [70_000, 0, 0]);
    assert_eq!(worker.own(20), [], "said twice");
    (1..=6).for_each(|value| drop(worker.free(value)));
    assert_eq!(worker.spilled(Spilled::Written), []);
    assert_eq!(worker.sampled(70_000), [Spill(20)]);
}
