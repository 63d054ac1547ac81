//! A call of a task that is not submitted yet: the function, its packed arguments, and how it is to be run.
//!
//! `inc::call(…)` makes one, [`IntoArgument`](super::argument::IntoArgument) says what may stand between the
//! parentheses, and a client's `submit` takes it apart again with [`Call::into_parts`].

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use super::argument::ArgumentList;
use crate::model::pack::PackError;
use crate::model::{FunctionId, FutureId, Key, Others, Placement, WorkerName};
use crate::registry::{Purity, TaskDefinition};

/// A future that a call depends on.
#[derive(Clone)]
pub struct Input {
    /// The client's name of the reference.
    pub future: FutureId,
    /// The key of the task.
    pub key: Key,
    /// Keeps the reference alive until the call is submitted.
    pub hold: Arc<dyn Any + Send + Sync>,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("future", &self.future).field("key", &self.key).finish_non_exhaustive()
    }
}

/// A call that gives a `T`.
#[must_use = "a call does nothing until it is submitted"]
#[derive(Debug)]
pub struct Call<T> {
    task: &'static TaskDefinition,
    arguments: ArgumentList,
    options: CallOptions,
    result: PhantomData<fn() -> T>,
}

/// How a call is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallOptions {
    /// The name of its key, if it has one.
    pub key: Option<String>,
    /// Whether an equal call serves as well.
    pub purity: Purity,
    /// How often it is run again after an error.
    pub retries: u32,
    /// Higher goes first.
    pub priority: i32,
    /// Where it may or should run; anywhere if there is none.
    pub placement: Option<Arc<Placement>>,
}

/// A call taken apart, to be submitted.
#[derive(Debug)]
pub struct CallParts {
    /// The task.
    pub task: &'static TaskDefinition,
    /// Its id.
    pub function: FunctionId,
    /// The key of a pure or named call; an impure one is given its key when it is submitted.
    pub key: Option<Key>,
    /// The packed arguments.
    pub arguments: Vec<u8>,
    /// The futures among the arguments, in the order of their indices; one may be there more than once.
    pub inputs: Vec<Input>,
    /// How it is to be run.
    pub options: CallOptions,
}

impl<T> Call<T> {
    /// A call of `task` with these arguments. The macro's code makes sure that they fit.
    pub fn new(task: &'static TaskDefinition, arguments: ArgumentList) -> Self {
        let options =
            CallOptions { key: None, purity: task.purity, retries: 0, priority: 0, placement: None };
        Self { task, arguments, options, result: PhantomData }
    }

    /// Names the call's key; an existing key of this name is taken as it is.
    pub fn key(mut self, name: impl Into<String>) -> Self {
        self.options.key = Some(name.into());
        self
    }

    /// An equal call that was submitted before serves as well.
    pub fn pure(mut self) -> Self {
        self.options.purity = Purity::Pure;
        self
    }

    /// The call is run whether or not an equal one was.
    pub fn impure(mut self) -> Self {
        self.options.purity = Purity::Impure;
        self
    }

    /// Runs the task again after an error, up to `count` times.
    pub fn retries(mut self, count: u32) -> Self {
        self.options.retries = count;
        self
    }

    /// Calls of a higher priority go first; 0 is the default.
    pub fn priority(mut self, priority: i32) -> Self {
        self.options.priority = priority;
        self
    }

    /// Runs it on one of these workers: by id, by rank, or on any of a host. While none of them is there it waits, and
    /// after some time (60 s, unless the cluster was started with another) it fails, as no worker is valid.
    ///
    /// ```
    /// use dcluster::prelude::*;
    ///
    /// #[dcluster::task]
    /// fn inc(x: i64) -> i64 {
    ///     x + 1
    /// }
    ///
    /// #[dcluster::main]
    /// async fn main(client: Client) -> dcluster::Result<()> {
    ///     // Workers have ids from 0; those of a launch have ranks, too.
    ///     let only_there = client.submit(inc::call(1).workers([WorkerName::Id(dcluster::model::WorkerId(0))]));
    ///     let rather_there = inc::call(2).workers([WorkerName::Host("node7".into())]).allow_other_workers();
    ///     assert_eq!(client.gather((only_there, client.submit(rather_there))).await?, (2, 3));
    ///     Ok(())
    /// }
    /// ```
    pub fn workers<W: Into<WorkerName>>(mut self, workers: impl IntoIterator<Item = W>) -> Self {
        let workers = workers.into_iter().map(Into::into).collect();
        self.options.placement = Some(Arc::new(Placement::On { workers, others: Others::Refused }));
        self
    }

    /// Makes the [`workers`](Self::workers) a preference: others take the call if none of them is there, or if they
    /// have much more to do.
    pub fn allow_other_workers(mut self) -> Self {
        self.options.placement = self.options.placement.map(|only| Arc::new((*only).clone().or_others()));
        self
    }

    /// Says that this is part `index` of `of` equal parts, which are to lie on all workers in contiguous runs: it
    /// prefers the worker at place `index · workers / of` in the order of ranks. Idle workers may take parts of those
    /// that have much more to do.
    ///
    /// ```
    /// # use dcluster::prelude::*;
    /// # #[dcluster::task] fn block(index: u32) -> Vec<f64> { vec![f64::from(index); 1024] }
    /// # #[dcluster::main] async fn main(client: Client) -> dcluster::Result<()> {
    /// let blocks = client.map(|index| block::call(index).share(index, 16), 0..16);
    /// # client.gather(&blocks).await?;
    /// # Ok(()) }
    /// ```
    pub fn share(mut self, index: u32, of: u32) -> Self {
        self.options.placement = Some(Arc::new(Placement::Share { index, of }));
        self
    }

    /// [`share`](Self::share), for a call that neither takes futures nor says where it is to run.
    pub(crate) fn share_if_free(self, index: u32, of: u32) -> Self {
        if self.options.placement.is_none() && self.arguments.has_no_inputs() {
            self.share(index, of)
        } else {
            self
        }
    }

    /// The same call, whose result is known to be something else, or not known.
    pub(crate) fn untyped<U>(self) -> Call<U> {
        let Self { task, arguments, options, .. } = self;
        Call { task, arguments, options, result: PhantomData }
    }

    /// The task that is called.
    pub fn task(&self) -> &'static TaskDefinition {
        self.task
    }

    /// What a client sends.
    ///
    /// # Errors
    /// `PackError` if an argument could not be packed.
    pub fn into_parts(self) -> Result<CallParts, PackError> {
        let Self { task, arguments, options, .. } = self;
        let (mut bytes, inputs) = arguments.into_parts()?;
        let key = match (&options.key, options.purity) {
            (Some(name), _) => Some(named_key(name)),
            (None, Purity::Pure) => Some(pure_key(task.id, &mut bytes, &inputs)),
            (None, Purity::Impure) => None,
        };
        Ok(CallParts { task, function: task.id, key, arguments: bytes, inputs, options })
    }
}

/// The key that has this name.
pub fn named_key(name: &str) -> Key {
    Key(xxh3_128(name.as_bytes()))
}

/// The key of a pure call: the hash of its arguments, its inputs' keys and its function.
///
/// Each input has an index of its own in the arguments, counted from 0, so the indices tell nothing and the keys
/// in their order tell everything.
fn pure_key(function: FunctionId, arguments: &mut Vec<u8>, inputs: &[Input]) -> Key {
    let length = arguments.len();
    for input in inputs {
        arguments.extend_from_slice(&input.key.0.to_le_bytes());
    }
    arguments.extend_from_slice(&function.0.to_le_bytes());
    let key = Key(xxh3_128(arguments));
    arguments.truncate(length);
    key
}
