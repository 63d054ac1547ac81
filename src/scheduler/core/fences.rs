//! Cancels on their way to workers: each is acknowledged when no task that it stopped can start any more.
//!
//! A cancel abandons what is with workers, and asks each of these workers for a word behind that (a *fence*). When
//! the last of them has answered or is gone, the client is told.

use std::collections::{BTreeMap, BTreeSet};

use super::{Effects, SchedulerCore, Violation};
use crate::model::{ClientId, WorkerId};

/// Cancels that are not acknowledged, and whom the one that is being booked concerns.
#[derive(Debug, Default)]
pub(super) struct Fences {
    next: u64,
    open: BTreeMap<u64, Fence>,
    /// Workers from which something was taken since [`Fences::begin`].
    told: BTreeSet<WorkerId>,
}

/// One cancel.
#[derive(Debug)]
struct Fence {
    client: ClientId,
    /// The client's number of the cancel.
    number: u32,
    /// Whose answers are awaited.
    workers: BTreeSet<WorkerId>,
}

impl Fences {
    /// A cancel is about to be booked.
    pub(super) fn begin(&mut self) {
        self.told.clear();
    }

    /// Something was taken away from `worker`.
    pub(super) fn told(&mut self, worker: WorkerId) {
        self.told.insert(worker);
    }

    /// What was cancelled before is cancelled again: whoever has not heard of that is concerned, too.
    pub(super) fn again(&mut self) {
        self.told.extend(self.open.values().flat_map(|fence| &fence.workers));
    }

    /// Panics unless each fence waits for somebody who lives.
    pub(super) fn check(&self, is_live: impl Fn(WorkerId) -> bool) {
        for fence in self.open.values() {
            assert!(!fence.workers.is_empty(), "{fence:?} waits for nobody");
            assert!(fence.workers.iter().all(|worker| is_live(*worker)), "{fence:?} waits for the dead");
        }
    }
}

impl SchedulerCore {
    /// The cancel of this number is booked: it is acknowledged when the workers concerned have heard of it.
    pub(super) fn fence<E: Effects>(&mut self, client: ClientId, number: u32, effects: &mut E) {
        let workers = std::mem::take(&mut self.fences.told);
        if workers.is_empty() {
            return effects.acknowledge(client, number);
        }
        let fence = self.fences.next;
        self.fences.next += 1;
        workers.iter().for_each(|worker| effects.fence(*worker, fence));
        self.fences.open.insert(fence, Fence { client, number, workers });
    }

    /// A worker has booked all that was said to it before the fence.
    pub fn fenced<E: Effects>(
        &mut self,
        worker: WorkerId,
        number: u64,
        effects: &mut E,
    ) -> Result<(), Violation> {
        let open = self.fences.open.get_mut(&number);
        if !open.is_some_and(|fence| fence.workers.remove(&worker)) {
            return Err(Violation::NotFenced { worker, number });
        }
        self.acknowledge(effects);
        Ok(())
    }

    /// A worker that is gone starts nothing.
    pub(super) fn unfence<E: Effects>(&mut self, worker: WorkerId, effects: &mut E) {
        for fence in self.fences.open.values_mut() {
            fence.workers.remove(&worker);
        }
        self.acknowledge(effects);
    }

    fn acknowledge<E: Effects>(&mut self, effects: &mut E) {
        for (_, fence) in self.fences.open.extract_if(.., |_, fence| fence.workers.is_empty()) {
            if self.clients.contains(fence.client) {
                effects.acknowledge(fence.client, fence.number);
            }
        }
    }
}
