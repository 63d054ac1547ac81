//! Cancel and retry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::clients::{Standing, Watch};
use super::life::Step;
use super::task::State;
use super::{Effects, SchedulerCore, Violation};
use crate::model::{ClientId, FutureId};
use crate::wire::client::Cancel;

impl SchedulerCore {
    /// Cancels futures of `client`, and what depends on them.
    ///
    /// A key that other clients want goes on for them, unless forced. The futures of `client` are cancelled in
    /// any case. What nobody wants then is stopped; the cancel is acknowledged when none of that can start.
    pub fn cancel<E: Effects>(
        &mut self,
        client: ClientId,
        cancel: &Cancel,
        effects: &mut E,
    ) -> Result<(), Violation> {
        self.fences.begin();
        let mut slots = Vec::with_capacity(cancel.futures.len());
        for &future in &cancel.futures {
            match self.clients.standing(client, future) {
                Standing::Task { slot, .. } => slots.push(slot),
                Standing::Cancelled(_) => self.fences.again(),
                Standing::Unknown => return Err(Violation::UnknownFuture { client, future }),
            }
        }
        let reason: Arc<str> = Arc::from(cancel.reason.as_str());
        for slot in self.cancelled_with(slots, client, cancel.force) {
            self.cancel_task(slot, client, cancel.force, &reason, effects);
        }
        self.take_steps(effects);
        self.fence(client, cancel.number, effects);
        Ok(())
    }

    /// Runs a failed task again, and those of its ancestors that failed.
    pub fn retry<E: Effects>(
        &mut self,
        client: ClientId,
        future: FutureId,
        effects: &mut E,
    ) -> Result<(), Violation> {
        let slot = match self.clients.standing(client, future) {
            Standing::Task { slot, .. } => slot,
            Standing::Cancelled(_) => return Ok(()),
            Standing::Unknown => return Err(Violation::UnknownFuture { client, future }),
        };
        let (mut revive, mut seen) = (vec![slot], BTreeSet::new());
        while let Some(slot) = revive.pop() {
            if !matches!(self.tasks[slot].state, State::Failed(_)) || !seen.insert(slot) {
                continue;
            }
            self.tasks[slot].state = State::Released;
            self.steps.push(Step::Activate(slot));
            revive.extend(&self.tasks[slot].inputs);
        }
        self.take_steps(effects);
        Ok(())
    }

    /// The tasks on which a cancel acts: the given ones, and the dependents of those that it may stop.
    fn cancelled_with(&self, slots: Vec<u32>, client: ClientId, force: bool) -> BTreeSet<u32> {
        let has_dependents = slots.iter().any(|slot| self.tasks[*slot].dependents > 0);
        let dependents = if has_dependents { self.dependents() } else { BTreeMap::new() };
        let (mut work, mut found) = (slots, BTreeSet::new());
        while let Some(slot) = work.pop() {
            if found.insert(slot) && (force || self.wanted_by_only(slot, client)) {
                work.extend(dependents.get(&slot).into_iter().flatten());
            }
        }
        found
    }

    /// Every task with its dependents. Records keep only their inputs, since nothing but a cancel asks for this.
    fn dependents(&self) -> BTreeMap<u32, Vec<u32>> {
        let mut dependents = BTreeMap::<u32, Vec<u32>>::new();
        for slot in self.tasks.slots() {
            for input in &self.tasks[slot].inputs {
                dependents.entry(*input).or_default().push(slot);
            }
        }
        dependents
    }

    fn wanted_by_only(&self, slot: u32, client: ClientId) -> bool {
        self.clients.of_task(&self.tasks, slot).all(|index| self.clients.reference(index).client == client)
    }

    fn cancel_task<E: Effects>(
        &mut self,
        slot: u32,
        client: ClientId,
        force: bool,
        reason: &Arc<str>,
        effects: &mut E,
    ) {
        let references: Vec<u32> = self.clients.of_task(&self.tasks, slot).collect();
        for index in references {
            if force || self.clients.reference(index).client == client {
                self.clients.watch(index, Watch::No);
                self.cancel_reference(index, reason, effects);
            }
        }
    }
}
