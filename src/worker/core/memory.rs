//! How full the worker's memory is, and what follows: what is spilled, what may come in, when no task may start.
//!
//! ```text
//! level = values in memory of this process + values on their way here + what else the process uses (sampled)
//!         ├─ above 60 % of the limit: the values that were not used for longest go to disk, one at a time
//!         ├─ above 80 %: paused; nothing comes in, and tasks start only when none runs
//!         ├─ above 95 %, and the disk takes nothing: full; only tasks with inputs start, and clients' values are refused
//!         ╰─ at or below 75 %: open again
//! ```
//!
//! Values that are lent ([`super::loans`]) count for nothing. A value goes to disk if no task here is about to use it. One that was there before is only let go of. A task
//! that needs a value on disk waits for it as for a fetch. What is paused still goes on, one thing at a time: when
//! nothing runs, comes or goes, the next may come in however full it is. [`super::spill`] books what follows.

use std::collections::VecDeque;

use super::loans::Owner;
use super::task::{Form, Held, Lifetime, Table};
use crate::model::TaskId;
use crate::wire::worker::Pressure;

/// Above this percentage of the limit values are spilled.
const SPILL_PERCENT: u64 = 60;
/// Above this percentage the worker pauses.
const PAUSE_PERCENT: u64 = 80;
/// At or below this percentage a paused worker opens again.
const OPEN_PERCENT: u64 = 75;
/// Above this percentage a worker whose disk takes nothing is full.
const FULL_PERCENT: u64 = 95;
/// At or below this percentage it is not any more.
const ROOM_PERCENT: u64 = 90;
/// A worker whose values take up no more than this percentage is never full: to wait for their end makes no room.
const MADE_OF_VALUES_PERCENT: u64 = 10;
/// Samples between two attempts to write to a disk that failed.
const RETRY_SAMPLES: u32 = 10;
/// Candidates that are looked at for one decision.
const LOOK_AT_MAX: usize = 64;
/// Stale entries that the line of candidates may have beyond twice the others.
const STALE_MAX: usize = 64;

/// What the memory is used for, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryUse {
    /// What may be used; 0 for all there is.
    pub limit: u64,
    /// Values in memory of this process.
    pub held: u64,
    /// Values in memory of other processes, which account for them.
    pub lent: u64,
    /// Values on their way here, from peers, clients or disk.
    pub arriving: u64,
    /// What else the process used when that was looked at last.
    pub unmanaged: u64,
    /// Values on disk only.
    pub spilled: u64,
    /// How many those are.
    pub spilled_values: u64,
    /// Whether tasks start.
    pub pressure: Pressure,
    /// The most that values in memory ever were.
    pub held_peak: u64,
    /// Whether the disk failed when a value was to go there last.
    pub is_disk_failing: bool,
    /// Whether values should be on disk and are not, or the worker pauses: it is worth looking again soon.
    pub is_tight: bool,
}

/// How a value's way to disk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spilled {
    /// It is there.
    Written,
    /// It cannot be packed, and stays.
    Unpackable,
    /// The disk is full or does not work.
    DiskFailed,
}

/// Names one reading from disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

#[derive(Debug, Default)]
pub(super) struct Memory {
    usage: MemoryUse,
    /// Values that may go to disk, the one that was not used for longest first. An entry with another stamp than
    /// its value's is stale.
    line: VecDeque<(u64, TaskId)>,
    stamps: u64,
    /// How many of the values have a place in the line.
    standing: usize,
    /// The value that is being written.
    pub(super) writing: Option<TaskId>,
    disk: Disk,
    is_disk_failing: bool,
    /// Values that tasks wait for, to be read from disk.
    pub(super) wanted: VecDeque<TaskId>,
    /// Readings under way.
    reading: Vec<(Ticket, TaskId, u64)>,
    tickets: u64,
    /// Whether anything has changed that decisions depend on.
    has_changed: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Disk {
    #[default]
    Works,
    /// So many samples until it is tried again.
    Failed(u32),
}

impl Memory {
    pub(super) fn new(limit: u64) -> Self {
        Self { usage: MemoryUse { limit, ..MemoryUse::default() }, ..Self::default() }
    }

    pub(super) fn usage(&self) -> MemoryUse {
        let is_full = self.is_above(SPILL_PERCENT);
        let is_tight = self.is_paused() || is_full && (self.standing > 0 || self.writing.is_some());
        MemoryUse { is_tight, is_disk_failing: self.is_disk_failing, ..self.usage }
    }

    pub(super) fn is_disk_failing(&self) -> bool {
        self.is_disk_failing
    }

    pub(super) fn is_paused(&self) -> bool {
        self.usage.pressure != Pressure::Open
    }

    /// Whether only tasks that have inputs may start: others make values for which there is no room, here or on disk.
    pub(super) fn refuses_roots(&self) -> bool {
        self.usage.pressure == Pressure::Full || self.is_full()
    }

    /// Whether so many bytes more would fill the memory, and nothing can make room for them.
    pub(super) fn is_out_of_room_for(&self, bytes: u64) -> bool {
        self.usage.limit > 0 && self.level() + bytes > self.share(FULL_PERCENT) && self.is_disk_stuck()
    }

    fn is_full(&self) -> bool {
        self.is_above(FULL_PERCENT) && self.is_made_of_values() && self.is_disk_stuck()
    }

    /// Whether a full worker has room again, or all that can go to disk has gone there.
    fn has_room_again(&self) -> bool {
        let is_spilled = self.standing == 0 && self.writing.is_none() && !self.is_disk_stuck();
        !self.is_above(ROOM_PERCENT) || !self.is_made_of_values() || is_spilled
    }

    fn is_made_of_values(&self) -> bool {
        self.usage.held > self.share(MADE_OF_VALUES_PERCENT)
    }

    /// Whether the disk took nothing last, and is not to be tried again yet, or is being tried.
    fn is_disk_stuck(&self) -> bool {
        self.is_disk_failing && (self.disk != Disk::Works || self.writing.is_some())
    }

    /// Whether decisions are due.
    #[inline]
    pub(super) fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    pub(super) fn note_change(&mut self) {
        self.has_changed = true;
    }

    /// The process was found to use so many bytes of its own.
    pub(super) fn sampled(&mut self, bytes: u64) {
        self.usage.unmanaged = bytes.saturating_sub(self.usage.held + self.usage.arriving);
        if let Disk::Failed(samples) = self.disk {
            self.disk = samples.checked_sub(1).map_or(Disk::Works, Disk::Failed);
        }
        self.has_changed = true;
    }

    /// Whether values should go to disk.
    pub(super) fn is_above_spill_level(&self) -> bool {
        self.is_above(SPILL_PERCENT)
    }

    /// Whether a value that is to be written can be.
    pub(super) fn can_write(&self) -> bool {
        self.writing.is_none() && self.disk == Disk::Works
    }

    pub(super) fn wrote(&mut self, outcome: Spilled) {
        self.is_disk_failing = outcome == Spilled::DiskFailed;
        if self.is_disk_failing {
            self.disk = Disk::Failed(RETRY_SAMPLES);
        }
    }

    /// Whether so many bytes more may come in.
    pub(super) fn admits(&self, bytes: u64) -> bool {
        self.usage.limit == 0 || self.level() + bytes <= self.share(PAUSE_PERCENT)
    }

    /// Whether so many bytes do not fit, however empty the memory is.
    pub(super) fn never_admits(&self, bytes: u64) -> bool {
        self.usage.limit > 0 && bytes > self.usage.limit
    }

    pub(super) fn limit(&self) -> u64 {
        self.usage.limit
    }

    /// Whether so many bytes more make no value go to disk.
    pub(super) fn has_plenty(&self, bytes: u64) -> bool {
        self.usage.limit == 0 || self.level() + bytes <= self.share(SPILL_PERCENT)
    }

    /// The pressure, if it is another than it was.
    pub(super) fn turn(&mut self) -> Option<Pressure> {
        let turned = match self.usage.pressure {
            Pressure::Open if self.is_full() => Some(Pressure::Full),
            Pressure::Open => self.is_above(PAUSE_PERCENT).then_some(Pressure::Paused),
            Pressure::Paused | Pressure::Full if !self.is_above(OPEN_PERCENT) => Some(Pressure::Open),
            Pressure::Paused => self.is_full().then_some(Pressure::Full),
            Pressure::Full => self.has_room_again().then_some(Pressure::Paused),
        }?;
        self.usage.pressure = turned;
        Some(turned)
    }

    /// A value is in memory. Small results that are only held for a while do not count.
    pub(super) fn hold(&mut self, task: TaskId, held: &mut Held) {
        if held.owner == Owner::Lender {
            self.usage.lent += held.nbytes;
        } else if held.nbytes > 0 {
            self.usage.held += held.nbytes;
            self.usage.held_peak = self.usage.held_peak.max(self.usage.held);
            self.has_changed = true;
            self.stand(task, held);
        }
    }

    /// A value that was lent takes up memory here.
    pub(super) fn own(&mut self, task: TaskId, held: &mut Held) {
        self.usage.lent -= held.nbytes;
        held.owner = Owner::Worker;
        self.hold(task, held);
    }

    /// A value that no task here is about to use stands at the end of the line.
    pub(super) fn stand(&mut self, task: TaskId, held: &mut Held) {
        if self.usage.limit == 0 || held.nbytes == 0 || !held.may_leave() {
            return;
        }
        self.standing += usize::from(held.stamp == 0);
        self.stamps += 1;
        held.stamp = self.stamps;
        self.line.push_back((self.stamps, task));
    }

    /// A value that may stand in the line does, once.
    pub(super) fn stand_again(&mut self, task: TaskId, held: &mut Held) {
        if held.stamp == 0 {
            self.stand(task, held);
        }
    }

    /// A value is about to be used, or leaves.
    pub(super) fn step_out(&mut self, held: &mut Held) {
        if std::mem::take(&mut held.stamp) != 0 {
            self.standing -= 1;
        }
    }

    /// The value that was not used for longest, of those that `suits`.
    pub(super) fn candidate(
        &mut self,
        values: &mut Table<Held>,
        mut suits: impl FnMut(TaskId, &Held) -> bool,
    ) -> Option<TaskId> {
        self.tidy(values);
        for _ in 0..self.standing.min(LOOK_AT_MAX) {
            let (stamp, held, task) = self.first(values)?;
            if suits(task, held) {
                self.step_out(held);
                return Some(task);
            }
            self.line.push_back((stamp, task));
        }
        None
    }

    /// Takes the first entry that is not stale.
    fn first<'a>(&mut self, values: &'a mut Table<Held>) -> Option<(u64, &'a mut Held, TaskId)> {
        loop {
            let (stamp, task) = self.line.pop_front()?;
            if values.get(&task).is_some_and(|held| held.stamp == stamp) {
                return values.get_mut(&task).map(|held| (stamp, held, task));
            }
        }
    }

    /// A value in memory has left it for the disk.
    pub(super) fn leave(&mut self, nbytes: u64) {
        self.usage.held -= nbytes;
        self.usage.spilled += nbytes;
        self.usage.spilled_values += 1;
        self.has_changed = true;
    }

    /// A value is dropped, wherever it is.
    pub(super) fn remove(&mut self, held: &mut Held) {
        self.step_out(held);
        if held.owner == Owner::Lender {
            self.usage.lent -= held.nbytes;
        } else if held.is_here() {
            self.usage.held -= held.nbytes;
        } else {
            self.unspill(held.nbytes);
        }
        self.has_changed |= held.nbytes > 0;
    }

    /// A value is not on disk alone any more.
    pub(super) fn unspill(&mut self, nbytes: u64) {
        self.usage.spilled -= nbytes;
        self.usage.spilled_values -= 1;
    }

    /// A value is on its way here, or that is over.
    pub(super) fn arrival_begins(&mut self, nbytes: u64) {
        self.usage.arriving += nbytes;
    }

    pub(super) fn arrival_ends(&mut self, nbytes: u64) {
        self.usage.arriving -= nbytes;
        self.has_changed = true;
    }

    /// A reading begins.
    pub(super) fn read(&mut self, task: TaskId, nbytes: u64) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        self.usage.arriving += nbytes;
        self.reading.push((ticket, task, nbytes));
        ticket
    }

    /// A reading is over.
    pub(super) fn read_ends(&mut self, ticket: Ticket) -> TaskId {
        let place = self.reading.iter().position(|(other, ..)| *other == ticket);
        let (_, task, nbytes) = self.reading.swap_remove(place.expect("only what was asked for is read"));
        self.usage.arriving -= nbytes;
        self.has_changed = true;
        task
    }

    pub(super) fn reading_len(&self) -> usize {
        self.reading.len()
    }

    pub(super) fn reading_bytes(&self) -> u64 {
        self.reading.iter().map(|(_, _, nbytes)| nbytes).sum()
    }

    fn level(&self) -> u64 {
        self.usage.held + self.usage.arriving + self.usage.unmanaged
    }

    fn share(&self, percent: u64) -> u64 {
        (u128::from(self.usage.limit) * u128::from(percent) / 100) as u64
    }

    fn is_above(&self, percent: u64) -> bool {
        self.usage.limit > 0 && self.level() > self.share(percent)
    }

    /// Drops stale entries when they are many.
    fn tidy(&mut self, values: &Table<Held>) {
        if self.line.len() > 2 * self.standing + STALE_MAX {
            let stands =
                |entry: &(u64, TaskId)| values.get(&entry.1).is_some_and(|held| held.stamp == entry.0);
            self.line.retain(stands);
        }
    }

    /// Panics unless the sums are those of the values.
    pub(super) fn check<'a>(&self, values: impl Iterator<Item = (&'a TaskId, &'a Held)>) {
        let (mut held, mut lent, mut spilled, mut spilled_values, mut standing) = (0, 0, 0, 0, 0);
        for (task, value) in values {
            assert!(
                value.owner == Owner::Worker || value.form == Form::Memory,
                "{task} is lent, and {value:?}"
            );
            match (value.owner, value.is_here()) {
                (Owner::Lender, _) => lent += value.nbytes,
                (Owner::Worker, true) => held += value.nbytes,
                (Owner::Worker, false) => {
                    (spilled, spilled_values) = (spilled + value.nbytes, spilled_values + 1)
                }
            }
            if value.stamp != 0 {
                standing += 1;
                assert!(self.line.contains(&(value.stamp, *task)), "{task} stands in the line");
            }
            let may_stand = self.usage.limit > 0
                && value.nbytes > 0
                && value.users == 0
                && value.owner == Owner::Worker
                && value.form == Form::Memory
                && value.lifetime == Lifetime::UntilFreed;
            assert!(may_stand || value.stamp == 0, "{task} stands in the line, and is {value:?}");
        }
        assert_eq!(
            (held, lent, spilled, spilled_values),
            (self.usage.held, self.usage.lent, self.usage.spilled, self.usage.spilled_values)
        );
        assert_eq!(standing, self.standing);
    }
}
