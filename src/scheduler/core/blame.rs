//! Errors that the scheduler itself has to state.

use std::sync::Arc;

use super::SchedulerCore;

/// What went wrong with a task that no run of it reports.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cause {
    /// A client sent the value, and no worker has it any more.
    ScatteredDataLost,
    /// No worker can run the function.
    UnknownFunction,
    /// So many workers died under the task that it is taken for the cause.
    WorkersDied,
}

impl SchedulerCore {
    /// The packed error that states `cause` for the task in `slot`.
    pub(super) fn blame(&self, slot: u32, cause: Cause) -> Arc<[u8]> {
        Arc::from(format!("{} {cause:?}", self.tasks.id(slot)).into_bytes())
    }

    /// A worker's error, completed by what only the scheduler knows.
    pub(super) fn complete_error(&self, _slot: u32, error: &[u8]) -> Arc<[u8]> {
        Arc::from(error)
    }
}
