//! Rules of the worker core, one test each; `histories` are random.
#![allow(clippy::unwrap_used)]

mod histories;
mod loans;
mod shortage;

use super::loans::Owner;
use super::memory::Ticket;
use super::*;
use crate::model::{FunctionId, WorkerId};
use crate::wire::worker::Pressure;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Effect {
    Start(u32, u64),
    Keep(u64),
    Discard(u64),
    Fetch(u64, u32),
    Borrow(u64, u32),
    Finished(u64),
    Failed(u64),
    Returned(u64),
    Announce(u64),
    Fenced(u64),
    Holds(u64),
    Missed(u64),
    Unavailable(u64, u32),
    Spill(u64),
    LetGo(u64),
    Unspill(u64, Ticket),
    Admit(u64),
    Refuse(u64),
    Lost(u64),
    Turn(Pressure),
}
use Effect::{
    Announce, Borrow, Discard, Failed as FailedEffect, Fenced, Fetch, Finished as Done, Holds, Keep, Missed,
    Returned, Start, Unavailable,
};

/// Peers from this one on have memory that can be mapped.
const LENDER: u32 = 10;

/// Effects in order, which starts no thread has taken up, and which values are in use.
#[derive(Default)]
struct Recorder(Vec<Effect>, Vec<u64>, Vec<u64>);

impl Effects for Recorder {
    type Job = ();

    fn start(&mut self, thread: ThreadId, task: TaskId, (): ()) {
        self.0.push(Start(thread.0, task.0));
    }
    fn recall(&mut self, _thread: ThreadId, task: TaskId) -> bool {
        self.1.contains(&task.0)
    }
    fn keep(&mut self, task: TaskId) {
        self.0.push(Keep(task.0));
    }
    fn discard(&mut self, task: TaskId) {
        self.0.push(Discard(task.0));
    }
    fn fetch(&mut self, task: TaskId, _nbytes: u64, holder: WorkerId) {
        self.0.push(Fetch(task.0, holder.0));
    }
    fn lends(&self, holder: WorkerId, _nbytes: u64) -> bool {
        holder.0 >= LENDER
    }
    fn borrow(&mut self, task: TaskId, _nbytes: u64, holder: WorkerId) {
        self.0.push(Borrow(task.0, holder.0));
    }
    fn finished(&mut self, finished: &Finished<'_>) {
        self.0.push(Done(finished.task.0));
    }
    fn failed(&mut self, failed: &Failed<'_>) {
        self.0.push(FailedEffect(failed.task.0));
    }
    fn returned(&mut self, task: TaskId) {
        self.0.push(Returned(task.0));
    }
    fn announce(&mut self, task: TaskId) {
        self.0.push(Announce(task.0));
    }
    fn fenced(&mut self, number: u64) {
        self.0.push(Fenced(number));
    }
    fn holds(&mut self, task: TaskId, _nbytes: u64) {
        self.0.push(Holds(task.0));
    }
    fn missed(&mut self, task: TaskId) {
        self.0.push(Missed(task.0));
    }
    fn unavailable(&mut self, task: TaskId, holder: WorkerId) {
        self.0.push(Unavailable(task.0, holder.0));
    }
    fn is_in_use(&self, task: TaskId) -> bool {
        self.2.contains(&task.0)
    }
    fn spill(&mut self, task: TaskId) {
        self.0.push(Effect::Spill(task.0));
    }
    fn let_go(&mut self, task: TaskId) {
        self.0.push(Effect::LetGo(task.0));
    }
    fn unspill(&mut self, task: TaskId, ticket: Ticket) {
        self.0.push(Effect::Unspill(task.0, ticket));
    }
    fn admit(&mut self, put: PutId) {
        self.0.push(Effect::Admit(put.0));
    }
    fn refuse(&mut self, put: PutId) {
        self.0.push(Effect::Refuse(put.0));
    }
    fn lost(&mut self, task: TaskId) {
        self.0.push(Effect::Lost(task.0));
    }
    fn pressure(&mut self, pressure: Pressure) {
        self.0.push(Effect::Turn(pressure));
    }
}

/// A core and its recorder; each call books one event, starts what is ready and returns the effects.
struct Worker {
    core: WorkerCore<()>,
    in_use: Vec<u64>,
}

#[derive(Debug, Clone)]
enum From {
    Inline,
    Local,
    LastUse,
    Remote(Vec<u32>),
}

#[derive(Debug, Clone, Copy)]
enum Size {
    Small,
    Large,
}

impl Worker {
    fn new(threads: u32) -> Self {
        Self::with_memory(threads, 0)
    }

    fn with_memory(threads: u32, memory_bytes_max: u64) -> Self {
        Self { core: WorkerCore::with_memory(threads, memory_bytes_max), in_use: Vec::new() }
    }

    fn step(&mut self, event: impl FnOnce(&mut WorkerCore<()>, &mut Recorder)) -> Vec<Effect> {
        let mut effects = Recorder { 2: self.in_use.clone(), ..Recorder::default() };
        event(&mut self.core, &mut effects);
        self.core.start_ready(&mut effects);
        self.core.check();
        self.core.check_progress();
        effects.0
    }

    fn assign(&mut self, task: u64, inputs: &[(u64, From)]) -> Vec<Effect> {
        self.assign_at(0, task, inputs)
    }

    fn assign_at(&mut self, priority: i32, task: u64, inputs: &[(u64, From)]) -> Vec<Effect> {
        self.step(|core, effects| core.assign(&assignment(priority, task, inputs), (), effects).unwrap())
    }

    fn finish(&mut self, thread: u32, task: u64, size: Size) -> Vec<Effect> {
        let (nbytes, inline) = match size {
            Size::Small => (1, Some(&b"x"[..])),
            Size::Large => (10_000, None),
        };
        let finished = Finished { task: TaskId(task), duration_us: 1, nbytes, inline };
        self.step(|core, effects| core.finished(ThreadId(thread), &finished, effects))
    }

    fn fail(&mut self, thread: u32, task: u64) -> Vec<Effect> {
        let failed = Failed { task: TaskId(task), duration_us: 1, error: b"e" };
        self.step(|core, effects| core.failed(ThreadId(thread), &failed, effects))
    }

    fn assign_with_caution(&mut self, task: u64, inputs: &[(u64, From)]) -> Vec<Effect> {
        let assignment = Assignment { caution: Caution::Announce, ..assignment(0, task, inputs) };
        self.step(|core, effects| core.assign(&assignment, (), effects).unwrap())
    }

    fn announced(&mut self, task: u64) -> Vec<Effect> {
        self.step(|core, effects| core.announced(TaskId(task), effects))
    }

    fn retract(&mut self, task: u64) -> Vec<Effect> {
        self.step(|core, effects| core.retract(TaskId(task), effects))
    }

    fn abandon(&mut self, task: u64) -> Vec<Effect> {
        self.step(|core, effects| core.abandon(TaskId(task), effects))
    }

    fn free(&mut self, task: u64) -> Vec<Effect> {
        self.step(|core, effects| core.free(TaskId(task), effects))
    }

    fn fetched(&mut self, task: u64) -> Vec<Effect> {
        self.step(|core, effects| core.fetched(TaskId(task), 10_000, Owner::Worker, effects))
    }

    fn fetch_failed(&mut self, task: u64) -> Vec<Effect> {
        self.step(|core, effects| core.fetch_failed(TaskId(task), effects))
    }

    fn put(&mut self, task: u64) -> Vec<Effect> {
        self.step(|core, effects| core.put(TaskId(task), 10_000, effects))
    }
}

fn assignment(priority: i32, task: u64, inputs: &[(u64, From)]) -> Assignment<'static> {
    let inputs = inputs.iter().map(|(input, from)| {
        let source = match from {
            From::Inline => Source::Inline(b"i"),
            From::Local => Source::Local,
            From::LastUse => Source::LastUse,
            From::Remote(holders) => {
                Source::Remote { nbytes: 10_000, holders: holders.iter().copied().map(WorkerId).collect() }
            }
        };
        Input { task: TaskId(*input), source }
    });
    Assignment {
        task: TaskId(task),
        function: FunctionId(7),
        priority,
        caution: Caution::None,
        arguments: b"",
        inputs: inputs.collect(),
    }
}

#[test]
fn task_starts_on_an_idle_thread_and_the_next_when_it_ends() {
    let mut worker = Worker::new(1);
    assert_eq!(worker.assign(1, &[]), [Start(0, 1)]);
    assert_eq!(worker.assign(2, &[]), []);
    assert_eq!(worker.finish(0, 1, Size::Small), [Done(1), Keep(1), Start(0, 2)]);
}

#[test]
fn queue_goes_by_priority_then_inputs_then_arrival() {
    let mut worker = Worker::new(1);
    worker.assign(1, &[]);
    worker.assign(2, &[]);
    worker.assign(3, &[]);
    worker.assign(4, &[(100, From::Inline)]);
    worker.assign_at(5, 5, &[]);
    let mut order = vec![1];
    for _ in 0..5 {
        let effects = worker.finish(0, *order.last().unwrap(), Size::Small);
        order.extend(effects.iter().filter_map(|effect| match effect {
            Start(_, task) => Some(*task),
            _ => None,
        }));
    }
    assert_eq!(order, [1, 5, 4, 2, 3]);
}

#[test]
fn assigning_a_task_that_is_here_is_refused() {
    let mut worker = Worker::new(1);
    worker.assign(1, &[]);
    let again = worker.core.assign(&assignment(0, 1, &[]), (), &mut Recorder::default());
    assert_eq!(again, Err(ContractError::AssignedTwice(TaskId(1))));
}

#[test]
fn follower_starts_the_moment_its_input_is_made() {
    let mut worker = Worker::new(1);
    worker.assign(1, &[]);
    assert_eq!(worker.assign(2, &[(1, From::Local)]), []);
    assert_eq!(worker.finish(0, 1, Size::Small), [Done(1), Keep(1), Start(0, 2)]);
}

#[test]
fn follower_gets_ahead_of_roots_that_wait_longer() {
    let mut worker = Worker::new(1);
    worker.assign(1, &[]);
    worker.assign(3, &[]);
    worker.assign(2, &[(1, From::Local)]);
    assert_eq!(worker.finish(0, 1, Size::Small), [Done(1), Keep(1), Start(0, 2)]);
}

#[test]
fn small_result_is_held_for_followers_that_are_on_their_way_and_then_let_go() {
    let mut worker = Worker::new(1);
    worker.assign(0, &[]);
    worker.finish(0, 0, Size::Small);
    assert_eq!(worker.assign(1, &[(0, From::Local)]), [Start(0, 1)]);
    for task in 1..RECENT_MAX as u64 {
        worker.finish(0, task, Size::Small);
        worker.assign(task + 1, &[]);
    }
    let last = RECENT_MAX as u64;
    assert_eq!(worker.finish(0, last, Size::Small), [Done(last), Keep(last), Discard(0)]);
    assert_eq!(worker.assign(1000, &[(0, From::Local)]), [Returned(1000)]);
}

#[test]
fn large_result_is_held_until_freed() {
    let mut worker = Worker::new(1);
    worker.assign(1, &[]);
    assert_eq!(worker.finish(0, 1, Size::Large), [Done(1), Keep(1)]);
    assert_eq!(worker.assign(2, &[(1, From::Local)]), [Start(0, 2)]);
    assert_eq!(worker.free(1), [Discard(1)]);
}

#[test]
fn large_result_goes_with_its_last_use_if_that_ends_well() {
    let mut worker = Worker::new(1);
    worker.assign(1, &[]);
    worker.assign(2, &[(1, From::LastUse)]);
    assert_eq!(worker.finish(0, 1, Size::Large), [Done(1), Keep(1), Start(0, 2)]);
    assert_eq!(worker.fail(0, 2), [FailedEffect(2)]);
    worker.assign(2, &[(1, From::LastUse)]);
    assert_eq!(worker.finish(0, 2, Size::Small), [Done(2), Discard(1), Effect::Lost(1), Keep(2)]);
    assert_eq!(worker.free(1), []);
}

#[test]
fn last_use_that_another_task_came_after_is_none() {
    let mut worker = Worker::new(1);
    worker.put(9);
    worker.assign(1, &[(9, From::LastUse)]);
    worker.assign(2, &[(9, From::Local)]);
    assert_eq!(worker.finish(0, 1, Size::Small), [Done(1), Keep(1), Start(0, 2)]);
    assert_eq!(worker.free(9), [Discard(9)]);
}

#[test]
fn freed_value_serves_the_tasks_that_count_on_it() {
    let mut worker = Worker::new(1);
    worker.put(9);
    worker.assign(1, &[]);
    worker.assign(2, &[(9, From::Local)]);
    assert_eq!(worker.free(9), []);
    assert_eq!(worker.finish(0, 1, Size::Small), [Done(1), Keep(1), Start(0, 2), Discard(9)]);
}

#[test]
fn local_input_that_is_not_here_returns_the_task() {
    let mut worker = Worker::new(1);
    assert_eq!(worker.assign(1, &[(9, From::Local)]), [Returned(1)]);
    assert_eq!(worker.assign(1, &[(9, From::Remote(vec![]))]), [Returned(1)]);
}

#[test]
fn followers_of_a_failed_task_are_returned_behind_it() {
    let mut worker = Worker::new(1);
    worker.assign(1, &[]);
    worker.assign(2, &[(1, From::Local)]);
    worker.assign(3, &[(2, From::Local)]);
    worker.assign(4, &[(1, From::Local)]);
    assert_eq!(worker.fail(0, 1), [FailedEffect(1), Returned(2), Returned(4), Returned(3)]);
}

#[test]
fn retracted_task_takes_its_followers_along() {
    let mut worker = Worker::new(1);
    worker.assign(1, &[]);
    worker.assign(2, &[]);
    worker.assign(3, &[(2, From::Local)]);
    assert_eq!(worker.retract(2), [Returned(2), Returned(3)]);
    assert_eq!(worker.finish(0, 1, Size::Small), [Done(1), Keep(1)]);
}

#[test]
fn running_task_is_not_retracted() {
    let mut worker = Worker::new(1);
    worker.assign(1, &[]);
    assert_eq!(worker.retract(1), []);
    assert_eq!(worker.finish(0, 1, Size::Small), [Done(1), Keep(1)]);
    assert_eq!(worker.retract(1), []);
}

#[test]
fn abandoned_queued_task_never_starts() {
    let mut worker = Worker::new(1);
    worker.assign(1, &[]);
    worker.assign(2, &[]);
    assert_eq!(worker.abandon(2), [Returned(2)]);
    assert_eq!(worker.finish(0, 1, Size::Small), [Done(1), Keep(1)]);
}

#[test]
fn abandoned_running_task_keeps_its_thread_and_loses_its_result() {
    let mut worker = Worker::new(1);
    worker.assign(1, &[]);
    worker.assign(2, &[]);
    worker.assign(3, &[(1, From::Local)]);
    assert_eq!(worker.abandon(1), [Returned(3)]);
    assert_eq!(worker.abandon(1), []);
    assert_eq!(worker.finish(0, 1, Size::Large), [Returned(1), Start(0, 2)]);
}

#[test]
fn abandoned_task_that_no_thread_has_taken_up_never_starts() {
    let mut worker = Worker::new(1);
    worker.assign(1, &[]);
    worker.assign(2, &[(1, From::Local)]);
    let effects = worker.step(|core, effects| {
        effects.1.push(1);
        core.abandon(TaskId(1), effects);
        core.fence(9, effects);
    });
    assert_eq!(effects, [Returned(1), Returned(2), Fenced(9)]);
    assert_eq!(worker.assign(3, &[]), [Start(0, 3)]);
}

#[test]
fn task_under_caution_starts_when_its_announcement_is_written() {
    let mut worker = Worker::new(1);
    worker.assign(1, &[]);
    assert_eq!(worker.assign_with_caution(2, &[(1, From::Local)]), []);
    assert_eq!(worker.finish(0, 1, Size::Large), [Done(1), Keep(1), Announce(2)]);
    assert_eq!(worker.retract(2), [], "it is as good as started");
    worker.free(1);
    assert_eq!(worker.announced(2), [Start(0, 2), Discard(1)]);
    assert_eq!(worker.announced(2), []);
    assert_eq!(worker.finish(0, 2, Size::Small), [Done(2), Keep(2)]);
}

#[test]
fn abandoned_announcement_frees_the_thread_and_never_starts() {
    let mut worker = Worker::new(1);
    assert_eq!(worker.assign_with_caution(1, &[]), [Announce(1)]);
    assert_eq!(worker.assign(2, &[]), []);
    assert_eq!(worker.abandon(1), [Returned(1), Start(0, 2)]);
    assert_eq!(worker.announced(1), []);
}

#[test]
fn retracted_task_can_be_assigned_again_and_starts_once() {
    let mut worker = Worker::new(1);
    worker.assign(1, &[]);
    worker.assign(2, &[]);
    worker.retract(2);
    worker.assign(2, &[]);
    assert_eq!(worker.finish(0, 1, Size::Small), [Done(1), Keep(1), Start(0, 2)]);
    assert_eq!(worker.finish(0, 2, Size::Small), [Done(2), Keep(2)]);
}

#[test]
fn stale_queue_entries_are_swept() {
    let mut worker = Worker::new(1);
    worker.assign(1, &[]);
    for _ in 0..1000 {
        worker.assign(2, &[]);
        worker.retract(2);
    }
    worker.assign(3, &[]);
    assert_eq!(worker.finish(0, 1, Size::Small), [Done(1), Keep(1), Start(0, 3)]);
}

#[test]
fn value_is_fetched_once_for_all_its_tasks() {
    let mut worker = Worker::new(2);
    assert_eq!(worker.assign(1, &[(9, From::Remote(vec![5]))]), [Fetch(9, 5)]);
    assert_eq!(worker.assign(2, &[(9, From::Remote(vec![5, 6]))]), []);
    assert_eq!(worker.fetched(9), [Holds(9), Keep(9), Start(0, 1), Start(1, 2)]);
    worker.finish(0, 1, Size::Small);
    assert_eq!(worker.assign(3, &[(9, From::Local)]), [Start(0, 3)]);
    assert_eq!(worker.free(9), [Discard(9)]);
}

#[test]
fn holders_are_tried_in_turn_and_then_the_tasks_return() {
    let mut worker = Worker::new(1);
    assert_eq!(worker.assign(1, &[(9, From::Remote(vec![5, 6]))]), [Fetch(9, 5)]);
    assert_eq!(worker.assign(2, &[(1, From::Local)]), []);
    assert_eq!(worker.fetch_failed(9), [Unavailable(9, 5), Fetch(9, 6)]);
    assert_eq!(worker.fetch_failed(9), [Unavailable(9, 6), Returned(1), Returned(2)]);
}

#[test]
fn fetches_from_one_peer_are_limited_and_other_peers_go_on() {
    let mut worker = Worker::new(1);
    let limit = u64::from(FETCHES_PER_PEER_MAX);
    for task in 0..limit {
        assert_eq!(worker.assign(task, &[(100 + task, From::Remote(vec![5]))]), [Fetch(100 + task, 5)]);
    }
    assert_eq!(worker.assign(50, &[(150, From::Remote(vec![5]))]), []);
    assert_eq!(worker.assign(51, &[(151, From::Remote(vec![6]))]), [Fetch(151, 6)]);
    let effects = worker.fetched(100);
    assert_eq!(effects, [Holds(100), Keep(100), Fetch(150, 5), Start(0, 0)]);
}

#[test]
fn fetches_are_limited_in_all() {
    let mut worker = Worker::new(1);
    let count = u64::from(FETCHES_MAX) + 3;
    let fetches: usize = (0..count)
        .map(|task| worker.assign(task, &[(100 + task, From::Remote(vec![task as u32]))]).len())
        .sum();
    assert_eq!(fetches, FETCHES_MAX as usize);
}

#[test]
fn fetch_that_nobody_awaits_is_neither_begun_nor_kept() {
    let mut worker = Worker::new(1);
    for task in 0..=u64::from(FETCHES_PER_PEER_MAX) {
        worker.assign(task, &[(100 + task, From::Remote(vec![5]))]);
        assert_eq!(worker.retract(task), [Returned(task)]);
    }
    assert_eq!(worker.fetched(100), []);
}

#[test]
fn put_value_is_held_and_reported() {
    let mut worker = Worker::new(1);
    assert_eq!(worker.put(9), [Holds(9), Keep(9)]);
    assert_eq!(worker.put(9), [Holds(9)]);
    assert_eq!(worker.assign(1, &[(9, From::Local), (9, From::Local)]), [Start(0, 1)]);
    assert_eq!(worker.free(9), [Discard(9)]);
}

#[test]
fn put_value_serves_tasks_that_wait_for_its_fetch() {
    let mut worker = Worker::new(1);
    worker.assign(1, &[(9, From::Remote(vec![5]))]);
    assert_eq!(worker.put(9), [Holds(9), Keep(9), Start(0, 1)]);
    assert_eq!(worker.fetched(9), []);
}

impl Worker {
    fn acquire(&mut self, task: u64, holders: &[u32]) -> Vec<Effect> {
        let holders = holders.iter().copied().map(WorkerId).collect();
        let acquisition = Acquisition { task: TaskId(task), nbytes: 100, holders };
        self.step(|core, effects| core.acquire(&acquisition, effects))
    }
}

#[test]
fn an_acquired_value_is_fetched_kept_and_reported() {
    let mut worker = Worker::new(1);
    assert_eq!(worker.acquire(7, &[1, 2]), [Fetch(7, 1)]);
    assert_eq!(worker.step(|core, effects| core.fetch_failed(TaskId(7), effects)), [Fetch(7, 2)]);
    assert_eq!(
        worker.step(|core, effects| core.fetched(TaskId(7), 100, Owner::Worker, effects)),
        [Holds(7), Keep(7)]
    );
    assert_eq!(worker.acquire(7, &[1]), [Holds(7)]);
    assert_eq!(worker.step(|core, effects| core.free(TaskId(7), effects)), [Discard(7)]);
}

#[test]
fn a_value_that_cannot_be_acquired_is_said_to_be_missed_and_nobody_is_blamed() {
    let mut worker = Worker::new(1);
    worker.acquire(7, &[1]);
    assert_eq!(worker.step(|core, effects| core.fetch_failed(TaskId(7), effects)), [Missed(7)]);
    worker.assign(8, &[(7, From::Remote(vec![1]))]);
    worker.acquire(7, &[1]);
    let failed = worker.step(|core, effects| core.fetch_failed(TaskId(7), effects));
    assert_eq!(failed, [Unavailable(7, 1), Missed(7), Returned(8)]);
}

#[test]
fn a_value_that_is_freed_while_it_is_acquired_is_not_kept() {
    let mut worker = Worker::new(1);
    worker.acquire(7, &[1]);
    assert_eq!(worker.step(|core, effects| core.free(TaskId(7), effects)), []);
    assert_eq!(worker.step(|core, effects| core.fetched(TaskId(7), 100, Owner::Worker, effects)), []);
    worker.assign(8, &[(7, From::Remote(vec![1]))]);
    worker.acquire(7, &[1]);
    worker.step(|core, effects| core.free(TaskId(7), effects));
    let fetched = worker.step(|core, effects| core.fetched(TaskId(7), 100, Owner::Worker, effects));
    assert_eq!(fetched[..2], [Holds(7), Keep(7)], "a task waits for it");
}
