//! Values on their way from peers: one fetch per value, limited per peer and in all, holders in turn.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};

use smallvec::SmallVec;

use super::task::Table;
use crate::model::{TaskId, WorkerId};

/// Fetches from one peer at a time.
pub const FETCHES_PER_PEER_MAX: u32 = 4;
/// Fetches at a time.
pub const FETCHES_MAX: u32 = 16;

/// All fetches, those that wait for their turn included.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    fetches: Table<Fetch>,
    lanes: BTreeMap<WorkerId, Lane>,
    active: u32,
    /// The peer that was asked last; the next one has the next turn.
    last: Option<WorkerId>,
}

#[derive(Debug)]
struct Fetch {
    nbytes: u64,
    active: bool,
    /// Who has the value; the front one is asked.
    holders: SmallVec<[WorkerId; 4]>,
}

/// What is fetched from one peer. Gone when empty.
#[derive(Debug, Default)]
struct Lane {
    active: u32,
    waiting: VecDeque<TaskId>,
}

/// A fetch that may begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Next {
    pub(super) task: TaskId,
    pub(super) nbytes: u64,
    pub(super) holder: WorkerId,
}

/// A holder that did not deliver.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) holder: WorkerId,
    /// Whether it was the last.
    pub(super) exhausted: bool,
}

impl Fetches {
    pub(super) fn contains(&self, task: TaskId) -> bool {
        !self.fetches.is_empty() && self.fetches.contains_key(&task)
    }

    /// Wants a value from one of `holders`, which are not none; they join those that are known.
    pub(super) fn request(&mut self, task: TaskId, nbytes: u64, holders: &[WorkerId]) {
        if let Some(fetch) = self.fetches.get_mut(&task) {
            for holder in holders {
                if !fetch.holders.contains(holder) {
                    fetch.holders.push(*holder);
                }
            }
            return;
        }
        self.fetches.insert(task, Fetch { nbytes, active: false, holders: holders.into() });
        self.lanes.entry(holders[0]).or_default().waiting.push_back(task);
    }

    /// The fetch whose turn it is; the caller then calls `begin` or `cancel`.
    pub(super) fn next(&self) -> Option<Next> {
        if self.active >= FETCHES_MAX || self.fetches.len() == self.active as usize {
            return None;
        }
        let after = self.last.map_or(Unbounded, Excluded);
        let turns = self.lanes.range((after, Unbounded)).chain(self.lanes.iter());
        let open = turns.filter(|(_, lane)| lane.active < FETCHES_PER_PEER_MAX);
        let (&holder, task) =
            open.filter_map(|(holder, lane)| Some((holder, *lane.waiting.front()?))).next()?;
        Some(Next { task, nbytes: self.fetches[&task].nbytes, holder })
    }

    pub(super) fn begin(&mut self, next: Next) {
        let lane = self.lanes.get_mut(&next.holder).expect("it has a turn");
        lane.waiting.pop_front();
        lane.active += 1;
        self.active += 1;
        self.last = Some(next.holder);
        self.fetches.get_mut(&next.task).expect("it waits").active = true;
    }

    pub(super) fn cancel(&mut self, next: Next) {
        self.lanes.get_mut(&next.holder).expect("it has a turn").waiting.pop_front();
        self.remove_empty(next.holder);
        self.fetches.remove(&next.task);
    }

    /// The value arrived.
    pub(super) fn end(&mut self, task: TaskId) {
        let fetch = self.fetches.remove(&task).expect("only what was asked for arrives");
        self.leave(fetch.holders[0]);
    }

    /// The holder that was asked does not deliver; the next one gets in line.
    pub(super) fn fail(&mut self, task: TaskId) -> Failure {
        let fetch = self.fetches.get_mut(&task).expect("only what was asked for fails");
        let holder = fetch.holders.remove(0);
        fetch.active = false;
        let next = fetch.holders.first().copied();
        self.leave(holder);
        match next {
            Some(next) => self.lanes.entry(next).or_default().waiting.push_back(task),
            None => drop(self.fetches.remove(&task)),
        }
        Failure { holder, exhausted: next.is_none() }
    }

    fn leave(&mut self, holder: WorkerId) {
        self.active -= 1;
        self.lanes.get_mut(&holder).expect("a fetch is active there").active -= 1;
        self.remove_empty(holder);
    }

    fn remove_empty(&mut self, holder: WorkerId) {
        if self.lanes.get(&holder).is_some_and(|lane| lane.active == 0 && lane.waiting.is_empty()) {
            self.lanes.remove(&holder);
        }
    }

    /// Panics unless the limits hold and the lanes agree with the fetches.
    pub(super) fn check(&self) {
        assert!(self.active <= FETCHES_MAX);
        let (mut active, mut waiting) = (0, 0);
        for (holder, lane) in &self.lanes {
            assert!(lane.active <= FETCHES_PER_PEER_MAX);
            assert!(lane.active > 0 || !lane.waiting.is_empty(), "an empty lane to {holder} is left");
            active += lane.active;
            waiting += lane.waiting.len();
            for task in &lane.waiting {
                let fetch = &self.fetches[task];
                assert!(!fetch.active && fetch.holders[0] == *holder, "{task} is in the wrong lane");
            }
        }
        assert_eq!(active, self.active);
        assert_eq!(active as usize + waiting, self.fetches.len());
    }
}
