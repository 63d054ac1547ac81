//! Values that were mapped in memory of other processes: which they are, and when that is over.

use std::collections::{BTreeMap, BTreeSet};

use super::{Engine, Job};
use crate::model::buffer::BULK_BYTES_MIN;
use crate::model::{TaskId, WorkerId};
use crate::transport::shm::{self, Loan};
use crate::worker::core::WorkerCore;

/// Loans of the values that are held.
#[derive(Debug, Default)]
pub(super) struct Loans {
    /// Workers that map this one's memory, and it theirs.
    lenders: BTreeSet<WorkerId>,
    held: BTreeMap<TaskId, Loan>,
    /// How many loans of the process had ended when these were looked at.
    seen: Option<u64>,
}

impl Engine {
    /// Learns of workers whose memory can be mapped.
    pub fn add_lenders(&self, workers: impl Iterator<Item = WorkerId>) {
        self.lock().floor.loans.lenders.extend(workers);
    }

    /// Books that a peer does not lend a value.
    pub fn not_lent(&self, task: TaskId) {
        self.book(|core, floor| core.not_lent(task, floor));
    }
}

impl Loans {
    pub(super) fn lends(&self, holder: WorkerId, nbytes: u64) -> bool {
        nbytes >= BULK_BYTES_MIN as u64 && self.lenders.contains(&holder)
    }

    pub(super) fn enter(&mut self, task: TaskId, loan: Loan) {
        self.held.insert(task, loan);
        self.seen = None;
    }

    pub(super) fn remove(&mut self, task: TaskId) {
        if !self.held.is_empty() {
            self.held.remove(&task);
        }
    }

    /// Books values that are not lent any more: their owner has let go of them, or a task has made copies.
    pub(super) fn settle(&mut self, core: &mut WorkerCore<Job>) {
        if self.held.is_empty() {
            return;
        }
        let ended = shm::pool().loans_ended();
        if self.seen.replace(ended) == Some(ended) {
            return;
        }
        for (task, _) in self.held.extract_if(.., |_, loan| !loan.is_lent()) {
            core.own(task);
        }
    }
}
