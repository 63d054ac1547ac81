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
    /// What of it counts as on its way here.
    arriving: u64,
    /// Whether nobody has declined to lend it.
    may_be_lent: bool,
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
    pub(super) may_be_lent: bool,
}

/// A holder that did not deliver.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) holder: WorkerId,
    /// What of the value counted as on its way here.
    pub(super) arriving: u64,
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
        let fetch = Fetch { nbytes, active: false, arriving: 0, may_be_lent: true, holders: holders.into() };
        self.fetches.insert(task, fetch);
        self.lanes.entry(holders[0]).or_default().waiting.push_back(task);
    }

    /// Fetches, those that wait for their turn included.
    pub(super) fn len(&self) -> usize {
        self.fetches.len()
    }

    /// Values that are being asked for at this moment.
    pub(super) fn active(&self) -> u32 {
        self.active
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
        let Fetch { nbytes, may_be_lent, .. } = self.fetches[&task];
        Some(Next { task, nbytes, holder, may_be_lent })
    }

    /// A value is asked for; so many bytes of it count as on their way.
    pub(super) fn begin(&mut self, next: Next, arriving: u64) {
        let lane = self.lanes.get_mut(&next.holder).expect("it has a turn");
        lane.waiting.pop_front();
        lane.active += 1;
        self.active += 1;
        self.last = Some(next.holder);
        let fetch = self.fetches.get_mut(&next.task).expect("it waits");
        (fetch.active, fetch.arriving) = (true, arriving);
    }

    /// The holder whose turn it is cannot give the value to this worker; the next one gets in line. Whether it was the
    /// last.
    pub(super) fn pass_over(&mut self, next: Next) -> bool {
        let fetch = self.fetches.get_mut(&next.task).expect("it waits");
        fetch.holders.remove(0);
        fetch.may_be_lent = true;
        let other = fetch.holders.first().copied();
        self.lanes.get_mut(&next.holder).expect("it has a turn").waiting.pop_front();
        self.remove_empty(next.holder);
        match other {
            Some(other) => self.lanes.entry(other).or_default().waiting.push_back(next.task),
            None => drop(self.fetches.remove(&next.task)),
        }
        other.is_none()
    }

    pub(super) fn cancel(&mut self, next: Next) {
        self.lanes.get_mut(&next.holder).expect("it has a turn").waiting.pop_front();
        self.remove_empty(next.holder);
        self.fetches.remove(&next.task);
    }

    /// The value arrived: what of it counted as on its way.
    pub(super) fn end(&mut self, task: TaskId) -> u64 {
        let fetch = self.fetches.remove(&task).expect("only what was asked for arrives");
        self.leave(fetch.holders[0]);
        fetch.arriving
    }

    /// The holder that was asked does not deliver; the next one gets in line.
    pub(super) fn fail(&mut self, task: TaskId) -> Failure {
        let fetch = self.fetches.get_mut(&task).expect("only what was asked for fails");
        let holder = fetch.holders.remove(0);
        fetch.active = false;
        let arriving = std::mem::take(&mut fetch.arriving);
        let next = fetch.holders.first().copied();
        self.leave(holder);
        match next {
            Some(next) => self.lanes.entry(next).or_default().waiting.push_back(task),
            None => drop(self.fetches.remove(&task)),
        }
        Failure { holder, arriving, exhausted: next.is_none() }
    }

    /// The holder that was asked does not lend the value; it gets in line again, to send it.
    pub(super) fn insist(&mut self, task: TaskId) {
        let fetch = self.fetches.get_mut(&task).expect("only what was asked for is declined");
        (fetch.active, fetch.may_be_lent) = (false, false);
        let holder = fetch.holders[0];
        self.leave(holder);
        self.lanes.entry(holder).or_default().waiting.push_back(task);
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

    /// What of all values counts as on its way here, by what each has.
    #[allow(clippy::disallowed_methods)] // A sum does not depend on the order.
    pub(super) fn arriving_bytes(&self) -> u64 {
        self.fetches.values().map(|fetch| fetch.arriving).sum()
    }
}
