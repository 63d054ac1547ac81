//! What follows from the state of the memory: values go to disk and come back, fetches wait, the worker pauses.
//!
//! [`super::memory`] says how full it is.

use super::WorkerCore;
use super::effects::Effects;
use super::memory::{MemoryUse, Spilled, Ticket};
use super::task::{Form, Held};
use crate::model::TaskId;

/// Values that are read from disk at a time.
const READINGS_MAX: usize = 2;

impl<J> WorkerCore<J> {
    /// What the memory is used for.
    pub fn memory(&self) -> MemoryUse {
        let usage = self.memory.usage();
        MemoryUse { is_tight: usage.is_tight || self.puts.is_waiting(), ..usage }
    }

    /// The process was found to use so many bytes of memory of its own.
    pub fn sampled(&mut self, bytes: u64) {
        self.memory.sampled(bytes);
    }

    /// The answer to `spill`. A value that is needed again meanwhile stays.
    pub fn spilled<E: Effects<Job = J>>(&mut self, outcome: Spilled, effects: &mut E) {
        let task = self.memory.writing.take().expect("one value is written at a time");
        self.memory.wrote(outcome);
        let Some(held) = self.values.get_mut(&task).filter(|held| held.form == Form::Leaving) else { return };
        held.form = Form::Memory;
        match outcome {
            Spilled::Written if held.may_leave() && !effects.is_in_use(task) => {
                held.has_file = true;
                self.let_go(task, effects);
            }
            Spilled::Written => {
                held.has_file = true;
                self.memory.stand(task, held);
            }
            Spilled::DiskFailed => self.memory.stand(task, held),
            // It never stands in the line again, unless a task uses it.
            Spilled::Unpackable => {}
        }
        self.memory.note_change();
    }

    /// The answer to `unspill`: whether the value is in memory. One that is not is lost.
    pub fn unspilled<E: Effects<Job = J>>(&mut self, ticket: Ticket, is_read: bool, effects: &mut E) {
        let task = self.memory.read_ends(ticket);
        let is_awaited = |held: &&mut Held| held.form == Form::Returning(ticket);
        let Some(held) = self.values.get_mut(&task).filter(is_awaited) else { return };
        if !is_read {
            return self.lose(task, effects);
        }
        held.form = Form::Memory;
        self.memory.unspill(held.nbytes);
        self.memory.hold(task, held);
        for waiter in self.waiters.remove(&task).unwrap_or_default() {
            // It counts as a user since it was assigned.
            self.supply(waiter);
        }
    }

    /// A value on disk cannot be read. Tasks that wait for it are returned.
    pub fn lose<E: Effects<Job = J>>(&mut self, task: TaskId, effects: &mut E) {
        if self.values.get(&task).is_none_or(Held::is_here) {
            return;
        }
        let mut held = self.values.remove(&task).expect("just seen");
        self.memory.remove(&mut held);
        effects.discard(task);
        effects.lost(task);
        self.give_up(task, effects);
    }

    /// A value that tasks wait for is on disk: it is to come back.
    pub(super) fn want(&mut self, task: TaskId) {
        if let Some(held) = self.values.get_mut(&task).filter(|held| held.form == Form::Disk) {
            held.form = Form::Wanted;
            self.memory.wanted.push_back(task);
            self.memory.note_change();
        }
    }

    /// Takes what decisions the state of the memory asks for.
    pub(super) fn relieve<E: Effects<Job = J>>(&mut self, effects: &mut E) {
        self.start_readings(effects);
        self.start_fetches(effects);
        self.admit_puts(effects);
        while self.memory.is_above_spill_level() || self.is_put_waiting() {
            let can_write = self.memory.can_write();
            let suits = |task, held: &Held| (held.has_file || can_write) && !effects.is_in_use(task);
            let Some(task) = self.memory.candidate(&mut self.values, suits) else { break };
            let held = self.values.get_mut(&task).expect("candidates are held");
            if held.has_file {
                self.let_go(task, effects);
                continue;
            }
            held.form = Form::Leaving;
            self.memory.writing = Some(task);
            effects.spill(task);
        }
        self.say_pressure(effects);
    }

    fn say_pressure<E: Effects<Job = J>>(&mut self, effects: &mut E) {
        if let Some(pressure) = self.memory.turn() {
            effects.pressure(pressure);
        }
    }

    /// When nothing runs, comes or goes, a value that a client sends and whatever tasks wait for may come in, however
    /// full the memory is. What is only to be acquired may not: that it does not come is said.
    pub(super) fn keep_going<E: Effects<Job = J>>(&mut self, effects: &mut E) {
        if !self.is_at_rest() {
            return;
        }
        self.admit_put_at_rest(effects);
        if self.counts.queued == 0 {
            return self.decline(effects);
        }
        if let Some(task) = self.next_wanted() {
            self.begin_reading(task, effects);
        } else {
            self.start_fetch(effects);
        }
    }

    /// Gives tasks back that have no inputs, while those only make what there is no room for.
    pub(super) fn return_roots<E: Effects<Job = J>>(&mut self, effects: &mut E) {
        if !self.memory.refuses_roots() {
            return;
        }
        // The scheduler hears why before it hears of them, or it would send them again.
        self.say_pressure(effects);
        if !self.memory.refuses_roots() {
            return;
        }
        for entry in self.ready.take_roots() {
            match self.tasks.get(&entry.task).is_some_and(|record| record.arrival == entry.arrival) {
                true => {
                    let record = self.tasks.remove(&entry.task).expect("just seen");
                    self.counts.queued -= 1;
                    effects.returned(entry.task);
                    debug_assert!(record.inputs.is_empty());
                    self.give_up(entry.task, effects);
                }
                false => self.ready.skipped(),
            }
        }
    }

    /// Whether a task may start: one always may when none runs and nothing is on its way to disk.
    pub(super) fn may_start(&self) -> bool {
        !self.memory.is_paused() || self.counts.running == 0 && self.memory.writing.is_none()
    }

    /// Says of values that are to be acquired and for which there is no room that they do not come.
    fn decline<E: Effects<Job = J>>(&mut self, effects: &mut E) {
        while !self.acquiring.is_empty()
            && let Some(next) = self.next_fetch(effects)
        {
            if self.admits(&next, effects) {
                return self.begin_fetch(next, effects);
            }
            self.let_go_of(next);
            effects.missed(next.task);
        }
    }

    fn is_at_rest(&self) -> bool {
        self.counts.running == 0
            && self.memory.writing.is_none()
            && self.memory.reading_len() == 0
            && self.fetches.active() == 0
    }

    fn let_go<E: Effects<Job = J>>(&mut self, task: TaskId, effects: &mut E) {
        let held = self.values.get_mut(&task).expect("only what is held is let go");
        held.form = Form::Disk;
        self.memory.leave(held.nbytes);
        effects.let_go(task);
    }

    fn start_readings<E: Effects<Job = J>>(&mut self, effects: &mut E) {
        while self.memory.reading_len() < READINGS_MAX
            && let Some(task) = self.next_wanted()
        {
            let nbytes = self.values[&task].nbytes;
            if !self.memory.admits(nbytes) {
                self.memory.wanted.push_front(task);
                return;
            }
            self.begin_reading(task, effects);
        }
    }

    /// The next value that a task still waits for.
    fn next_wanted(&mut self) -> Option<TaskId> {
        while let Some(task) = self.memory.wanted.pop_front() {
            let Some(held) = self.values.get_mut(&task).filter(|held| held.form == Form::Wanted) else {
                continue;
            };
            if held.users > 0 {
                return Some(task);
            }
            held.form = Form::Disk;
            self.waiters.remove(&task);
        }
        None
    }

    fn begin_reading<E: Effects<Job = J>>(&mut self, task: TaskId, effects: &mut E) {
        let held = self.values.get_mut(&task).expect("what is wanted is held");
        let ticket = self.memory.read(task, held.nbytes);
        held.form = Form::Returning(ticket);
        effects.unspill(task, ticket);
    }
}
