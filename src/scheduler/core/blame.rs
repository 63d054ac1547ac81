//! Errors that the scheduler itself has to state, and what it adds to those of workers.

use std::sync::Arc;

use super::SchedulerCore;
use crate::model::WorkerId;
use crate::model::error::{ErrorKind, TaskError};

/// What went wrong with a task that no run of it reports.
#[derive(Debug, Clone)]
pub(super) enum Cause {
    /// A client sent the value, and no worker has it.
    ScatteredDataLost(Loss),
    /// No worker can run the function.
    UnknownFunction,
    /// None of the workers that the task may run on has been there for long.
    NoValidWorker,
    /// So many workers died under the task that it is taken for the cause.
    WorkersDied,
}

/// How scattered data is lost.
#[derive(Debug, Clone)]
pub(super) enum Loss {
    /// The last copy was on this worker.
    Held(WorkerId),
    /// The value was to go to this worker, and to no other.
    OnItsWay(WorkerId),
    /// It was to go to these workers, and to no others.
    Absent(String),
    /// The client does not send it any more.
    Unsent,
    /// Nor could it, for this reason.
    GivenUp(String),
    /// It was lost while nobody wanted it.
    Before,
}

impl SchedulerCore {
    /// The packed error that states `cause` for the task in `slot`.
    pub(super) fn blame(&self, slot: u32, cause: Cause) -> Arc<[u8]> {
        let key = self.shown_key(slot);
        let error = match cause {
            Cause::ScatteredDataLost(loss) => {
                let (worker, message) = match loss {
                    Loss::Held(worker) => (
                        Some(worker),
                        format!(
                            "the last copy was on {worker}; scatter it again, with more copies if workers are likely \
                             to die"
                        ),
                    ),
                    Loss::OnItsWay(worker) => (
                        Some(worker),
                        format!(
                            "{worker} is gone and no other was to take it; scatter it again, and allow other workers"
                        ),
                    ),
                    Loss::Absent(names) => (
                        None,
                        format!(
                            "none of {names} is there and no other was to take it; scatter it again, and allow other workers"
                        ),
                    ),
                    Loss::Unsent => {
                        (None, "its client gave it up while sending it; scatter it again".to_owned())
                    }
                    Loss::GivenUp(reason) => (None, format!("it did not get to a worker: {reason}")),
                    Loss::Before => (None, "no worker has it any more; scatter it again".to_owned()),
                };
                let worker = worker.map(|worker| worker.to_string());
                TaskError::new(
                    ErrorKind::DataLost { key, worker },
                    format!("scattered data is lost: {message}"),
                )
            }
            Cause::UnknownFunction => TaskError::new(
                ErrorKind::UnknownFunction,
                format!(
                    "no worker has a task function `{}`; start the workers with the program or the --tasks \
                     library that defines it",
                    self.function_name(slot)
                ),
            ),
            Cause::NoValidWorker => TaskError::new(
                ErrorKind::NoValidWorker,
                format!(
                    "it may run on {} only, and {} s went by without such a worker; name others, or allow other \
                     workers",
                    self.bindings.find(slot).map(ToString::to_string).unwrap_or_default(),
                    self.tuning.placement_wait_us / 1_000_000
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
    pub(super) fn complete_error(&self, slot: u32, worker: WorkerId, error: &[u8]) -> Arc<[u8]> {
        let mut error = TaskError::unpack(error);
        error.worker.get_or_insert(worker);
        self.pack_error(slot, error)
    }

    fn pack_error(&self, slot: u32, mut error: TaskError) -> Arc<[u8]> {
        error.key = Some(self.shown_key(slot));
        if error.task.is_none() {
            error.task = Some(self.function_name(slot));
        }
        Arc::from(error.pack())
    }

    /// The key as people see it: the name that a user gave it, or `inc-1f0c2d3e`.
    pub(super) fn shown_key(&self, slot: u32) -> String {
        let key = self.tasks[slot].key;
        self.names.get(&key).cloned().unwrap_or_else(|| key.shown(&self.function_name(slot)))
    }
}
