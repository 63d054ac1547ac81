//! Random histories of a worker: whatever happens, each assignment has one outcome, and nothing is left.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::worker::core::memory::Spilled;

#[derive(Debug, Clone)]
enum Event {
    Assign { priority: i32, task: u64, inputs: Vec<(u64, From)> },
    AssignWithCaution { task: u64, inputs: Vec<(u64, From)> },
    Announced(usize),
    Retract(u64),
    Abandon(u64),
    Free(u64),
    Acquire(u64, Vec<u32>),
    Finish(usize, Size),
    Fail(usize),
    Fetched(usize, Owner),
    NotLent(usize),
    Own(u64),
    FetchFailed(usize),
    Put(u64),
    ExpectPut(u64),
    EndPut(usize, u64),
    HurryPut(u64),
    Sampled(u64),
    Spilled(Spilled),
    Unspilled(usize, bool),
    Use(u64),
    Lose(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let task = 0..24u64;
    let from = prop_oneof![
        1 => Just(From::Inline),
        4 => Just(From::Local),
        2 => Just(From::LastUse),
        3 => prop::collection::vec(holder(), 0..3).prop_map(From::Remote),
    ];
    let owner = prop_oneof![Just(Owner::Worker), Just(Owner::Lender)];
    let size = prop_oneof![Just(Size::Small), Just(Size::Large)];
    let inputs = prop::collection::vec((task.clone(), from), 0..4);
    prop_oneof![
        8 => (0..3, task.clone(), inputs.clone())
            .prop_map(|(priority, task, mut inputs)| {
                // Graphs have no cycles.
                inputs.retain(|(input, _)| *input < task);
                Event::Assign { priority, task, inputs }
            }),
        2 => (task.clone(), inputs).prop_map(|(task, mut inputs)| {
            inputs.retain(|(input, _)| *input < task);
            Event::AssignWithCaution { task, inputs }
        }),
        3 => (0..8usize).prop_map(Event::Announced),
        1 => task.clone().prop_map(Event::Retract),
        1 => task.clone().prop_map(Event::Abandon),
        1 => task.clone().prop_map(Event::Free),
        1 => (task.clone(), prop::collection::vec(holder(), 1..3))
            .prop_map(|(task, holders)| Event::Acquire(task, holders)),
        5 => (0..8usize, size).prop_map(|(index, size)| Event::Finish(index, size)),
        1 => (0..8usize).prop_map(Event::Fail),
        2 => (0..8usize, owner).prop_map(|(index, owner)| Event::Fetched(index, owner)),
        1 => (0..8usize).prop_map(Event::NotLent),
        1 => task.clone().prop_map(Event::Own),
        1 => (0..8usize).prop_map(Event::FetchFailed),
        1 => task.clone().prop_map(Event::Put),
        2 => (1..30_000u64).prop_map(Event::ExpectPut),
        2 => (0..4usize, task.clone()).prop_map(|(index, task)| Event::EndPut(index, task)),
        1 => (1..20u64).prop_map(Event::HurryPut),
        1 => (0..200_000u64).prop_map(Event::Sampled),
        3 => prop_oneof![
            4 => Just(Spilled::Written),
            1 => Just(Spilled::DiskFailed),
            1 => Just(Spilled::Unpackable)
        ].prop_map(Event::Spilled),
        3 => (0..4usize, prop::bool::weighted(0.8)).prop_map(|(index, ok)| Event::Unspilled(index, ok)),
        1 => task.clone().prop_map(Event::Use),
        1 => task.prop_map(Event::Lose),
    ]
}

/// Two that send and two that may lend.
fn holder() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![0, 1, LENDER, LENDER + 1])
}

/// What an onlooker knows of a worker from its effects alone.
#[derive(Default)]
struct Onlooker {
    open: BTreeSet<u64>,
    running: BTreeMap<u32, u64>,
    started: BTreeSet<u64>,
    fetching: BTreeSet<u64>,
    /// Those of them that are only to be lent.
    borrowing: BTreeSet<u64>,
    announced: BTreeSet<u64>,
    kept: BTreeSet<u64>,
    /// What is being written, and whether it is still the value that is held under this name.
    spilling: Option<(u64, bool)>,
    /// Values with a file.
    written: BTreeSet<u64>,
    unspilling: Vec<Ticket>,
    puts: u64,
    expected: BTreeSet<u64>,
    admitted: Vec<u64>,
}

impl Onlooker {
    fn watch(&mut self, threads: u32, effects: &[Effect]) {
        for effect in effects {
            match *effect {
                Start(thread, task) => {
                    assert!(thread < threads && self.open.contains(&task), "{task} was not assigned");
                    assert_eq!(self.running.insert(thread, task), None, "thread {thread} is overbooked");
                    assert!(self.started.insert(task), "{task} was started twice");
                }
                Done(task) | FailedEffect(task) | Returned(task) => {
                    assert!(self.open.remove(&task), "{task} was reported twice");
                    self.started.remove(&task);
                    self.announced.remove(&task);
                }
                Keep(task) => assert!(self.kept.insert(task), "{task} is held already"),
                Discard(task) => {
                    assert!(self.kept.remove(&task), "{task} is not held");
                    self.written.remove(&task);
                    if let Some((_, is_held)) = self.spilling.as_mut().filter(|(other, _)| *other == task) {
                        *is_held = false;
                    }
                }
                Effect::Spill(task) => {
                    assert!(self.kept.contains(&task) && !self.written.contains(&task));
                    assert_eq!(self.spilling.replace((task, true)), None, "one value is written at a time");
                }
                Effect::LetGo(task) => assert!(self.written.contains(&task), "{task} is on no disk"),
                Effect::Unspill(task, ticket) => {
                    assert!(self.written.contains(&task), "{task} is on no disk");
                    self.unspilling.push(ticket);
                }
                Effect::Admit(put) => {
                    assert!(self.expected.remove(&put), "{put} is let in twice");
                    self.admitted.push(put);
                }
                Effect::Refuse(put) => assert!(self.expected.remove(&put), "{put} is refused, and is over"),
                Fetch(task, _) => assert!(self.fetching.insert(task), "{task} is fetched twice"),
                Borrow(task, holder) => {
                    assert!(holder >= LENDER && self.fetching.insert(task), "{task} is fetched twice");
                    self.borrowing.insert(task);
                }
                Announce(task) => assert!(self.announced.insert(task), "{task} is announced twice"),
                Holds(_) | Missed(_) | Unavailable(..) | Fenced(_) | Effect::Lost(_) | Effect::Turn(_) => {}
            }
        }
    }

    fn apply(&mut self, worker: &mut Worker, event: &Event) -> Vec<Effect> {
        match event {
            Event::Assign { priority, task, inputs } => {
                if !self.open.insert(*task) {
                    return vec![];
                }
                worker.assign_at(*priority, *task, inputs)
            }
            Event::AssignWithCaution { task, inputs } => {
                if !self.open.insert(*task) {
                    return vec![];
                }
                worker.assign_with_caution(*task, inputs)
            }
            Event::Announced(index) => {
                let Some(&task) = self.announced.iter().nth(*index) else { return vec![] };
                self.announced.remove(&task);
                worker.announced(task)
            }
            Event::Retract(task) => worker.retract(*task),
            Event::Abandon(task) => worker.abandon(*task),
            Event::Free(task) => worker.free(*task),
            Event::Acquire(task, holders) => worker.acquire(*task, holders),
            Event::Put(task) => worker.put(*task),
            Event::ExpectPut(nbytes) => {
                self.puts += 1;
                self.expected.insert(self.puts);
                worker.expect_put(*nbytes)
            }
            Event::EndPut(index, task) if *index < self.admitted.len() => {
                let put = self.admitted.swap_remove(*index);
                worker.step(|core, effects| {
                    core.put(TaskId(*task), 10_000, effects);
                    core.end_put(PutId(put));
                })
            }
            Event::EndPut(..) => vec![],
            Event::HurryPut(put) => worker.hurry_put(*put),
            Event::Finish(index, size) => match self.take_running(*index) {
                Some((thread, task)) => worker.finish(thread, task, *size),
                None => vec![],
            },
            Event::Fail(index) => match self.take_running(*index) {
                Some((thread, task)) => worker.fail(thread, task),
                None => vec![],
            },
            Event::Fetched(index, owner) => {
                let Some(task) = self.take_fetch(*index) else { return vec![] };
                worker.step(|core, effects| core.fetched(TaskId(task), 10_000, *owner, effects))
            }
            Event::NotLent(index) => {
                let Some(&task) = self.borrowing.iter().nth(*index) else { return vec![] };
                self.fetching.remove(&task);
                self.borrowing.remove(&task);
                worker.not_lent(task)
            }
            Event::Own(task) => worker.own(*task),
            Event::Sampled(bytes) => worker.sampled(*bytes),
            Event::Spilled(outcome) => {
                let Some((task, is_held)) = self.spilling.take() else { return vec![] };
                if *outcome == Spilled::Written && is_held {
                    self.written.insert(task);
                }
                worker.spilled(*outcome)
            }
            Event::Unspilled(index, is_read) if *index < self.unspilling.len() => {
                let ticket = self.unspilling.swap_remove(*index);
                worker.step(|core, effects| core.unspilled(ticket, *is_read, effects))
            }
            Event::Unspilled(..) => vec![],
            Event::Use(task) => {
                worker.in_use = vec![*task];
                vec![]
            }
            Event::Lose(task) => worker.step(|core, effects| core.lose(TaskId(*task), effects)),
            Event::FetchFailed(index) => {
                self.take_fetch(*index).map_or(vec![], |task| worker.fetch_failed(task))
            }
        }
    }

    /// Whether nothing is under way.
    fn is_quiet(&self) -> bool {
        self.running.is_empty()
            && self.fetching.is_empty()
            && self.announced.is_empty()
            && self.spilling.is_none()
            && self.unspilling.is_empty()
            && self.admitted.is_empty()
    }

    fn take_running(&mut self, index: usize) -> Option<(u32, u64)> {
        let (&thread, &task) = self.running.iter().nth(index)?;
        self.running.remove(&thread);
        Some((thread, task))
    }

    fn take_fetch(&mut self, index: usize) -> Option<u64> {
        let task = *self.fetching.iter().nth(index)?;
        self.fetching.remove(&task);
        self.borrowing.remove(&task);
        Some(task)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_assignment_has_one_outcome(
        threads in 1..4u32,
        memory_bytes_max in prop_oneof![Just(0u64), 1..100_000u64],
        events in prop::collection::vec(event(), 0..200),
    ) {
        let mut worker = Worker::with_memory(threads, memory_bytes_max);
        let mut onlooker = Onlooker::default();
        for event in &events {
            let effects = onlooker.apply(&mut worker, event);
            onlooker.watch(threads, &effects);
        }
        while !onlooker.is_quiet() {
            let events = [
                Event::Announced(0),
                Event::NotLent(0),
                Event::Fetched(0, Owner::Worker),
                Event::Unspilled(0, true),
                Event::Spilled(Spilled::Written),
                Event::Finish(0, Size::Large),
                Event::EndPut(0, 0),
            ];
            for event in events {
                let effects = onlooker.apply(&mut worker, &event);
                onlooker.watch(threads, &effects);
            }
        }
        prop_assert_eq!(&onlooker.open, &BTreeSet::new(), "tasks without an outcome are left");
        prop_assert_eq!(worker.core.counts(), Counts::default());
        if !worker.core.memory().is_disk_failing {
            prop_assert_eq!(&onlooker.expected, &BTreeSet::new(), "values of clients wait, and nothing goes on");
        }
        for task in 0..24 {
            let effects = worker.free(task);
            onlooker.watch(threads, &effects);
        }
        prop_assert_eq!(&onlooker.kept, &BTreeSet::new(), "values are left after they were freed");
    }
}
