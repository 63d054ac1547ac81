//! Errors that the scheduler itself has to state, and what it adds to those of workers.

use std::sync::Arc;

use super::SchedulerCore;
use crate::model::error::{ErrorKind, TaskError};

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
        let key = self.shown_key(slot);
        let error = match cause {
            Cause::ScatteredDataLost => TaskError::new(
                ErrorKind::DataLost { key, worker: self.last_holder(slot) },
                "scattered data is lost: the only worker that held it is gone; scatter it again, \
                 with replicas if workers are likely to die",
            ),
            Cause::UnknownFunction => TaskError::new(
                ErrorKind::UnknownFunction,
                format!(
                    "no worker has a task function `{}`; start the workers with the program or the --tasks \
                     library that defines it",
                    self.function_name(slot)
                ),
            ),
            Cause::WorkersDied => {
                let workers: Vec<String> =
                    self.deaths.get(&slot).into_iter().flatten().map(ToString::to_string).collect();
                let message = format!(
                    "{} workers died under it ({}); it is not run again, as it may be the cause",
                    workers.len(),
                    workers.join(", ")
                );
                TaskError::new(ErrorKind::WorkersDied { workers }, message)
            }
        };
        self.pack_error(slot, error)
    }

    /// A worker's error, completed by what only the scheduler knows.
    pub(super) fn complete_error(&self, slot: u32, error: &[u8]) -> Arc<[u8]> {
        self.pack_error(slot, TaskError::unpack(error))
    }

    fn pack_error(&self, slot: u32, mut error: TaskError) -> Arc<[u8]> {
        error.key = Some(self.shown_key(slot));
        if error.task.is_none() {
            error.task = Some(self.function_name(slot));
        }
        Arc::from(error.pack())
    }

    fn shown_key(&self, slot: u32) -> String {
        let key = self.tasks[slot].key;
        self.names.get(&key).cloned().unwrap_or_else(|| key.shown(&self.function_name(slot)))
    }

    /// The worker to which the value was sent, as people see it.
    fn last_holder(&self, slot: u32) -> String {
        match (&self.tasks[slot].state, self.tasks[slot].holders.first()) {
            (super::task::State::Receiving { worker: Some(worker), .. }, _) => worker.to_string(),
            (_, Some(holder)) => holder.to_string(),
            _ => "a worker that is gone".to_owned(),
        }
    }
}
