//! Rebalancing: moves of values until workers have about as many bytes each.
//!
//! The plan moves each value at most once: from the worker with the most bytes to the one with the fewest, the largest
//! that leaves neither worse than the other was. A move is a copy on the one and then, when that is there, a copy less
//! on the other; unless a task there uses the value, or it would be the only one. What is planned is the same for the
//! same tables.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::task::State;
use super::{Effects, SchedulerCore};
use crate::model::{TaskId, WorkerId};

/// A worker that has so much more than the mean, in parts of the mean, is left alone.
const TOLERANCE_PARTS: u64 = 20;
/// Values of one worker that are looked at for one move.
const LOOK_AT_MAX: usize = 16;

/// A value that changes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) task: TaskId,
    pub(super) nbytes: u64,
    pub(super) from: WorkerId,
    pub(super) to: WorkerId,
}

/// The moves of one request.
#[derive(Debug, Default)]
pub(super) struct Moves {
    queue: VecDeque<Move>,
    under_way: usize,
    moved: u64,
    moved_bytes: u64,
    left: u64,
}

impl Moves {
    /// The next move, if fewer than `limit` are under way.
    pub(super) fn begin(&mut self, limit: usize) -> Option<Move> {
        if self.under_way >= limit.max(1) {
            return None;
        }
        let next = self.queue.pop_front()?;
        self.under_way += 1;
        Some(next)
    }

    /// A move is over.
    pub(super) fn ended(&mut self, step: Move, is_moved: bool) {
        self.under_way -= 1;
        match is_moved {
            true => (self.moved, self.moved_bytes) = (self.moved + 1, self.moved_bytes + step.nbytes),
            false => self.left += 1,
        }
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    pub(super) fn is_over(&self) -> bool {
        self.under_way == 0 && self.queue.is_empty()
    }

    /// What they came to, as JSON: moved values and their bytes, and values that stayed after all.
    pub(super) fn summary(&self) -> String {
        format!(r#"{{"moved":{},"bytes":{},"stayed":{}}}"#, self.moved, self.moved_bytes, self.left)
    }
}

impl SchedulerCore {
    /// Plans moves of the values in `among`, or of all.
    pub(super) fn plan_moves(&self, among: Option<&BTreeSet<u32>>) -> Moves {
        let mut bytes: BTreeSet<(u64, WorkerId)> =
            self.workers.iter().map(|(id, worker)| (worker.held_bytes, id)).collect();
        let total: u64 = bytes.iter().map(|(bytes, _)| bytes).sum();
        let mean = total / (bytes.len() as u64).max(1);
        let mut movable = BTreeMap::new();
        let mut queue = VecDeque::new();
        // Those that have nothing to give any more.
        let mut done = BTreeSet::new();
        while let Some(&(most, from)) = bytes.iter().rev().find(|(_, worker)| !done.contains(worker))
            && most > mean + mean / TOLERANCE_PARTS
            && let Some(&(fewest, to)) = bytes.first()
            && from != to
        {
            let values = movable.entry(from).or_insert_with(|| self.movable(from, among));
            let Some(value) = self.best(values, most - fewest, to) else {
                done.insert(from);
                continue;
            };
            values.remove(&value);
            let (nbytes, slot) = value;
            queue.push_back(Move { task: self.tasks.id(slot), nbytes, from, to });
            bytes.remove(&(most, from));
            bytes.remove(&(fewest, to));
            bytes.insert((most - nbytes, from));
            bytes.insert((fewest + nbytes, to));
        }
        Moves { queue, ..Moves::default() }
    }

    /// Values that may leave a worker, by size.
    fn movable(&self, worker: WorkerId, among: Option<&BTreeSet<u32>>) -> BTreeSet<(u64, u32)> {
        let used = self.used_on(worker);
        let holds = self.workers.find(worker).into_iter().flat_map(|worker| &worker.holds).copied();
        let may_move = |slot: &u32| !used.contains(slot) && among.is_none_or(|among| among.contains(slot));
        holds.filter(may_move).map(|slot| (self.tasks[slot].nbytes, slot)).collect()
    }

    /// The value to move across this difference to a worker that does not have it: the largest of at most half of it,
    /// else the smallest that still leaves less of a difference.
    fn best(&self, values: &BTreeSet<(u64, u32)>, difference: u64, to: WorkerId) -> Option<(u64, u32)> {
        let half = (difference / 2, u32::MAX);
        let is_new = |value: &&(u64, u32)| value.0 > 0 && !self.tasks[value.1].holders.contains(&to);
        let below = values.range(..=half).rev().take(LOOK_AT_MAX).find(is_new);
        let above = || values.range(half..).take(LOOK_AT_MAX).find(is_new);
        below.or_else(above).filter(|value| value.0 < difference).copied()
    }

    /// Inputs of the tasks that were assigned to a worker.
    fn used_on(&self, worker: WorkerId) -> BTreeSet<u32> {
        let assigned = self.workers.find(worker).into_iter().flat_map(|worker| &worker.assigned);
        assigned.flat_map(|slot| &self.tasks[*slot].inputs).copied().collect()
    }

    /// The copy of a value that moves is where it goes: the other one is dropped, unless it is needed there. Whether
    /// it was.
    pub(super) fn complete_move<E: Effects>(&mut self, step: Move, effects: &mut E) -> bool {
        let slot = step.task.slot();
        let holders = &self.tasks[slot].holders;
        let is_there = self.tasks.find(step.task).is_some() && matches!(self.tasks[slot].state, State::Held);
        if !is_there || !holders.contains(&step.to) || !holders.contains(&step.from) {
            return false;
        }
        if self.used_on(step.from).contains(&slot) {
            return false;
        }
        effects.free(step.from, step.task);
        self.lose_copy(slot, step.from, effects);
        true
    }
}
