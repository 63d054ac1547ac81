//! Random histories of a worker: whatever happens, each assignment has one outcome, and nothing is left.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Event {
    Assign { priority: i32, task: u64, inputs: Vec<(u64, From)> },
    AssignWithCaution { task: u64, inputs: Vec<(u64, From)> },
    Announced(usize),
    Retract(u64),
    Abandon(u64),
    Free(u64),
    Finish(usize, Size),
    Fail(usize),
    Fetched(usize),
    FetchFailed(usize),
    Put(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let task = 0..24u64;
    let from = prop_oneof![
        1 => Just(From::Inline),
        4 => Just(From::Local),
        3 => prop::collection::vec(0..4u32, 0..3).prop_map(From::Remote),
    ];
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
        5 => (0..8usize, size).prop_map(|(index, size)| Event::Finish(index, size)),
        1 => (0..8usize).prop_map(Event::Fail),
        2 => (0..8usize).prop_map(Event::Fetched),
        1 => (0..8usize).prop_map(Event::FetchFailed),
        1 => task.prop_map(Event::Put),
    ]
}

/// What an onlooker knows of a worker from its effects alone.
#[derive(Default)]
struct Onlooker {
    open: BTreeSet<u64>,
    running: BTreeMap<u32, u64>,
    started: BTreeSet<u64>,
    fetching: BTreeSet<u64>,
    announced: BTreeSet<u64>,
    kept: BTreeSet<u64>,
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
                Discard(task) => assert!(self.kept.remove(&task), "{task} is not held"),
                Fetch(task, _) => assert!(self.fetching.insert(task), "{task} is fetched twice"),
                Announce(task) => assert!(self.announced.insert(task), "{task} is announced twice"),
                Holds(_) | Unavailable(..) | Fenced(_) => {}
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
            Event::Put(task) => worker.put(*task),
            Event::Finish(index, size) => match self.take_running(*index) {
                Some((thread, task)) => worker.finish(thread, task, *size),
                None => vec![],
            },
            Event::Fail(index) => match self.take_running(*index) {
                Some((thread, task)) => worker.fail(thread, task),
                None => vec![],
            },
            Event::Fetched(index) => self.take_fetch(*index).map_or(vec![], |task| worker.fetched(task)),
            Event::FetchFailed(index) => {
                self.take_fetch(*index).map_or(vec![], |task| worker.fetch_failed(task))
            }
        }
    }

    fn take_running(&mut self, index: usize) -> Option<(u32, u64)> {
        let (&thread, &task) = self.running.iter().nth(index)?;
        self.running.remove(&thread);
        Some((thread, task))
    }

    fn take_fetch(&mut self, index: usize) -> Option<u64> {
        let task = *self.fetching.iter().nth(index)?;
        self.fetching.remove(&task);
        Some(task)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_assignment_has_one_outcome(threads in 1..4u32, events in prop::collection::vec(event(), 0..200)) {
        let mut worker = Worker::new(threads);
        let mut onlooker = Onlooker::default();
        for event in &events {
            let effects = onlooker.apply(&mut worker, event);
            onlooker.watch(threads, &effects);
        }
        while !(onlooker.running.is_empty() && onlooker.fetching.is_empty() && onlooker.announced.is_empty()) {
            for event in [Event::Announced(0), Event::Fetched(0), Event::Finish(0, Size::Large)] {
                let effects = onlooker.apply(&mut worker, &event);
                onlooker.watch(threads, &effects);
            }
        }
        prop_assert_eq!(&onlooker.open, &BTreeSet::new(), "tasks without an outcome are left");
        prop_assert_eq!(worker.core.counts(), Counts::default());
        for task in 0..24 {
            let effects = worker.free(task);
            onlooker.watch(threads, &effects);
        }
        prop_assert_eq!(&onlooker.kept, &BTreeSet::new(), "values are left after they were freed");
    }
}
