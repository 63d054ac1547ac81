//! The error of a task, as data: it is stored in place of the result and handed to every dependent.
//!
//! The task's shim (`registry::shim`) makes it, the worker adds where it ran, the scheduler makes those that no
//! task made (a lost worker, a cancel), and the client shows it.

use std::error::Error;
use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Serialize};

use super::ids::WorkerId;

/// Longer texts are cut, with a marker, before they travel.
pub const TEXT_BYTES_MAX: usize = 16 * 1024;

/// How many causes are kept of a chain.
const CAUSES_MAX: usize = 32;

/// Why a task has no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskError(Box<Failure>);

/// What is known about a failure; everything but the kind and the message may be missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What sort of failure it is.
    pub kind: ErrorKind,
    /// What happened, in one line or a few.
    pub message: String,
    /// The errors behind it, the nearest first.
    pub causes: Vec<String>,
    /// The path of the task's function.
    pub task: Option<String>,
    /// The name of the task's key, as people see it.
    pub key: Option<String>,
    /// Where it happened: the panic's position, or the function's.
    pub location: Option<Location>,
    /// The worker it ran on.
    pub worker: Option<WorkerId>,
    /// That worker's rank.
    pub rank: Option<u32>,
    /// That worker's machine.
    pub host: Option<String>,
    /// The stack, for a panic.
    pub backtrace: Option<String>,
}

/// A position in source code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// The file, as the compiler saw it.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

/// The sorts of failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The task returned an error.
    Error,
    /// The task panicked.
    Panic,
    /// An argument could not be unpacked as what its parameter wants.
    ArgumentType,
    /// The result could not be packed.
    ResultType,
    /// No program or library on the worker has the function.
    UnknownFunction,
    /// Too many workers died while they ran the task.
    WorkersDied {
        /// The workers, as people see them.
        workers: Vec<String>,
    },
    /// The only copies of scattered data are gone.
    DataLost {
        /// The key of the data.
        key: String,
        /// The worker that held the last copy or was to have it, if it was one.
        worker: Option<String>,
    },
    /// It was cancelled.
    Cancelled {
        /// Why, or by whom.
        reason: String,
    },
    /// An input is larger than all memory that the worker may use.
    InputTooLarge {
        /// The packed size of the input.
        bytes: u64,
        /// What the worker may use, in bytes.
        bytes_max: u64,
    },
    /// No worker can ever satisfy what the task asks for.
    NoValidWorker,
    /// It ran longer than allowed.
    TimeLimit,
}

impl TaskError {
    /// A failure of this kind, about which nothing else is known.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Failure {
            kind,
            message: cut(message.into()),
            causes: Vec::new(),
            task: None,
            key: None,
            location: None,
            worker: None,
            rank: None,
            host: None,
            backtrace: None,
        }))
    }

    /// The failure of a task that returned this error, with the chain of its sources.
    pub fn returned(error: &(dyn Error + 'static)) -> Self {
        let mut failure = Self::new(ErrorKind::Error, error.to_string());
        let chain = std::iter::successors(error.source(), |cause: &&(dyn Error + 'static)| (*cause).source());
        failure.causes = chain.take(CAUSES_MAX).map(|cause| cut(cause.to_string())).collect();
        failure
    }

    /// The failure of a task that was cancelled.
    pub fn cancelled(reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::new(ErrorKind::Cancelled { reason: reason.clone() }, format!("cancelled: {reason}"))
    }

    /// The failure of a task with an input of so many bytes, on a worker that may use only `bytes_max`.
    pub fn input_too_large(bytes: u64, bytes_max: u64) -> Self {
        let message = format!(
            "an input has {bytes} bytes, and the worker may use {bytes_max} in all; make it in parts, give workers more \
             memory (--memory-limit, or fewer of them per host), or have the task run where the value is (`workers`)"
        );
        Self::new(ErrorKind::InputTooLarge { bytes, bytes_max }, message)
    }

    /// A result of this type that could not be packed.
    pub fn unpackable_result(reason: impl fmt::Display) -> Self {
        Self::new(ErrorKind::ResultType, format!("the result cannot leave the worker: {reason}"))
    }

    /// The bytes in which it travels.
    pub fn pack(&self) -> Vec<u8> {
        rmp_serde::to_vec(self).expect("an error is strings and numbers")
    }

    /// What [`pack`](Self::pack) made; of other bytes, an error that says so.
    pub fn unpack(bytes: &[u8]) -> Self {
        rmp_serde::from_slice(bytes).unwrap_or_else(|error| {
            Self::new(ErrorKind::Error, format!("the task failed, and its error cannot be read: {error}"))
        })
    }

    /// What is known about it.
    pub fn into_failure(self) -> Failure {
        *self.0
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        matches!(self.kind, ErrorKind::Cancelled { .. })
    }

    /// Adds the stack; a long one is cut.
    #[must_use]
    pub fn with_backtrace(mut self, backtrace: String) -> Self {
        self.backtrace = Some(cut(backtrace));
        self
    }
}

impl Deref for TaskError {
    type Target = Failure;

    fn deref(&self) -> &Failure {
        &self.0
    }
}

impl DerefMut for TaskError {
    fn deref_mut(&mut self) -> &mut Failure {
        &mut self.0
    }
}

impl Error for TaskError {}

/// What happened, why, in which code, and where; `{:#}` adds the stack.
impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.kind {
            ErrorKind::Panic => "panicked",
            ErrorKind::Cancelled { .. } => "has no result",
            _ => "failed",
        };
        match (&self.key, &self.task) {
            (Some(key), _) => write!(f, "task `{key}` {verb}: ")?,
            (None, Some(task)) => write!(f, "task `{task}` {verb}: ")?,
            (None, None) => (),
        }
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, "\n  caused by: {cause}")?;
        }
        match (&self.task, &self.location) {
            (Some(task), Some(location)) => {
                write!(f, "\n  in {task} at {}:{}", location.file, location.line)?
            }
            (Some(task), None) => write!(f, "\n  in {task}")?,
            (None, Some(location)) => write!(f, "\n  at {}:{}", location.file, location.line)?,
            (None, None) => (),
        }
        if let Some(worker) = self.worker {
            write!(f, "\n  on {worker}")?;
            if let Some(rank) = self.rank {
                write!(f, ", rank {rank}")?;
            }
            if let Some(host) = &self.host {
                write!(f, ", host {host}")?;
            }
        }
        match &self.backtrace {
            Some(backtrace) if f.alternate() => write!(f, "\n  backtrace:\n{backtrace}"),
            _ => Ok(()),
        }
    }
}

/// An error and its causes, in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Cuts a text to [`TEXT_BYTES_MAX`] and says so.
pub fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let end = text.floor_char_boundary(TEXT_BYTES_MAX);
        let left_out = text.len() - end;
        text.truncate(end);
        text.push_str(&format!("\n… ({left_out} bytes cut)"));
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::pack::pack;
    use crate::model::unpack::unpack;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot load {path}")]
    struct LoadError {
        path: String,
        source: std::io::Error,
    }

    fn load_failure() -> TaskError {
        let source = std::io::Error::other("disk on fire");
        let mut error = TaskError::returned(&LoadError { path: "wind.csv".into(), source });
        error.task = Some("weather::load".into());
        error.key = Some("load-1f0c".into());
        error.location = Some(Location { file: "src/main.rs".into(), line: 12 });
        error.worker = Some(WorkerId(3));
        error.rank = Some(4);
        error.host = Some("node17".into());
        error.with_backtrace("0: weather::load".into())
    }

    #[test]
    fn says_what_why_and_where() {
        insta::assert_snapshot!(load_failure(), @r"
        task `load-1f0c` failed: cannot load wind.csv
          caused by: disk on fire
          in weather::load at src/main.rs:12
          on worker-3, rank 4, host node17
        ");
        assert!(format!("{:#}", load_failure()).ends_with("\n  backtrace:\n0: weather::load"));
    }

    #[test]
    fn travels_unchanged() {
        for error in [load_failure(), TaskError::cancelled("by client-2")] {
            assert_eq!(unpack::<TaskError>(&pack(&error).unwrap()).unwrap(), error);
        }
    }

    #[test]
    fn long_texts_are_cut_at_a_character_and_say_so() {
        let error = TaskError::new(ErrorKind::Error, "é".repeat(TEXT_BYTES_MAX));
        assert!(error.message.ends_with("… (16384 bytes cut)"), "{}", &error.message[TEXT_BYTES_MAX..]);
        assert!(error.message.len() < TEXT_BYTES_MAX + 40);
    }
}
