//! Messages between a client and the scheduler.
//!
//! [`ClientOutbox`] writes what a client says, [`ClientMessage`] reads it on the scheduler. [`questions`] has what
//! may be asked, [`answers`] what the scheduler says. Next: [`super::worker`].

pub mod answers;
pub mod questions;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::WireError;
use super::batch::{BatchReader, Outbox, decode};
use super::columns::{Column, ColumnReader};
use crate::model::{Copies, FunctionId, FutureId, Key, Placement, TaskId, WorkerId, WorkerName};
pub use answers::{Closing, NotifyReader, Outcome, Placed, ToClientMessage, ToClientOutbox};
pub use questions::Query;

const SUBMIT: u8 = 1;
const WATCH: u8 = 2;
const RELEASE: u8 = 3;
const CANCEL: u8 = 4;
const RETRY: u8 = 5;
const SCATTER: u8 = 6;
const UNREACHABLE: u8 = 7;
const QUERY: u8 = 8;
const CLOSE: u8 = 9;
const FUNCTIONS: u8 = 10;
const ARRANGE: u8 = 11;
const GIVE_UP: u8 = 12;
const RECEIVED: u8 = 31;

/// One call, as a client submits it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission<'a> {
    /// The reference that the client takes on the result.
    pub future: FutureId,
    /// Equal keys are one task.
    pub key: Key,
    /// What to call.
    pub function: FunctionId,
    /// How to call it.
    pub options: CallOptions,
    /// The name that the user gave the key, if any.
    pub name: Option<&'a str>,
    /// The encoded arguments; opaque to the scheduler.
    pub arguments: &'a [u8],
    /// The futures among the arguments, in the order of their placeholders.
    pub inputs: SmallVec<[FutureId; 8]>,
}

/// What a caller can say about one call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct CallOptions {
    /// Higher runs first; 0 is usual.
    pub priority: i32,
    /// How often an error may be answered by another run.
    pub retries: u16,
    /// Where it may or should run; anywhere if there is none.
    pub placement: Option<Arc<Placement>>,
}

#[derive(Serialize, Deserialize)]
struct NamedOptions<'a> {
    options: CallOptions,
    #[serde(borrow)]
    name: Option<&'a str>,
}

/// Which futures to cancel, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    /// Comes back in the `Reply` that acknowledges it; numbered with the queries.
    pub number: u32,
    /// The futures of this client.
    pub futures: Vec<FutureId>,
    /// Whether other clients' references are cancelled too.
    pub force: bool,
    /// Comes back in the error of each cancelled future.
    pub reason: String,
}

/// Copies of values, to be made or moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrange {
    /// Comes back in the `Reply` that says that it is done, or what is missing; numbered with the queries.
    pub number: u32,
    /// The futures of this client whose values it is about.
    pub futures: Vec<FutureId>,
    /// What is to be done.
    pub how: Arrangement,
}

/// What is to be done with values on workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arrangement {
    /// There are to be so many copies. Values that are not stored are waited for.
    Copies(Copies),
    /// Workers are to have as many bytes each as moving these values makes possible; moving any, if none is named.
    Even,
}

/// Values that a client is about to send to workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scatter {
    /// One entry per value.
    pub values: Vec<ScatterValue>,
    /// The workers that may take them; empty for any.
    pub workers: Vec<WorkerName>,
    /// Whether others may if those are gone.
    pub allow_other_workers: bool,
    /// The type of the values, as their keys are shown with it.
    pub type_name: String,
}

/// One value to scatter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScatterValue {
    /// The reference that the client takes.
    pub future: FutureId,
    /// Hash of the content, or unique.
    pub key: Key,
    /// The packed size in bytes.
    pub nbytes: u64,
}

/// Workers that did not hand a client the value of a future, or did not take it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreachable {
    /// The client's reference.
    pub future: FutureId,
    /// The name under which the value was asked for, or sent.
    pub task: TaskId,
    /// Which workers, and why.
    pub workers: Vec<(WorkerId, Fault)>,
}

/// Why a worker did not hand a value out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// It says that it does not have it.
    NotHere,
    /// It was not reached, or what it sent did not arrive: that may be for where the client is.
    NotReached,
}

/// A scattered value that its client does not send any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GiveUp {
    /// The client's reference.
    pub future: FutureId,
    /// The name under which the value was sent.
    pub task: TaskId,
    /// Comes back in the error of whoever wants the value.
    pub reason: String,
}

/// A function that a client links and its cluster may not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionName {
    /// Its id in `Submission`.
    pub id: FunctionId,
    /// Its path.
    pub name: String,
}

/// What a client says, gathered until it is written.
#[derive(Debug, Default)]
pub struct ClientOutbox {
    outbox: Outbox,
    run: Run,
}

/// The run of equal functions and options at the end of the open batch.
#[derive(Debug, Default)]
struct Run {
    function: Option<(FunctionId, CallOptions, Option<String>)>,
}

impl ClientOutbox {
    /// The frames to write.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Submits one call.
    pub fn submit(&mut self, call: &Submission<'_>) {
        let batch = self.outbox.item(SUBMIT);
        let first = batch.is_first();
        let [heads, keys, arguments, inputs, runs] = &mut batch.columns;
        heads.put_delta(u64::from(call.future.0));
        if first || !self.run.is(call) {
            // A mark in the heads column would cost a byte per task; the run's length is implied by its start.
            self.run.start(call);
            runs.put_delta(u64::from(call.future.0));
            runs.put_raw(&call.function.0.to_le_bytes());
            put_options(runs, call);
        }
        keys.put_raw(&call.key.0.to_le_bytes());
        arguments.put_bytes(call.arguments);
        inputs.put(call.inputs.len() as u64);
        for input in &call.inputs {
            inputs.put_signed(i64::from(call.future.0) - i64::from(input.0));
        }
    }

    /// Asks for one `Notify` when each of these futures is done.
    pub fn watch(&mut self, future: FutureId) {
        self.outbox.item(WATCH).columns[0].put_delta(u64::from(future.0));
    }

    /// Gives a reference back.
    pub fn release(&mut self, future: FutureId) {
        self.outbox.item(RELEASE).columns[0].put_delta(u64::from(future.0));
    }

    /// Runs a failed task, and its failed ancestors, again.
    pub fn retry(&mut self, future: FutureId) {
        self.outbox.item(RETRY).columns[0].put_delta(u64::from(future.0));
    }

    /// Cancels futures; answered by one `Reply`, when no task that this stops can start any more.
    pub fn cancel(&mut self, cancel: &Cancel) {
        self.outbox.single(CANCEL, cancel);
    }

    /// Has copies of values made or moved; answered by one `Reply`, when that is done.
    pub fn arrange(&mut self, arrange: &Arrange) {
        self.outbox.single(ARRANGE, arrange);
    }

    /// Announces values; answered by `Placed`.
    pub fn scatter(&mut self, scatter: &Scatter) {
        self.outbox.single(SCATTER, scatter);
    }

    /// Says which workers did not hand out the value of a future, or did not take it; the future is watched again.
    pub fn unreachable(&mut self, unreachable: &Unreachable) {
        self.outbox.single(UNREACHABLE, unreachable);
    }

    /// Says that a value that was announced is not sent any more.
    pub fn give_up(&mut self, give_up: &GiveUp) {
        self.outbox.single(GIVE_UP, give_up);
    }

    /// Asks a question.
    pub fn query(&mut self, number: u32, query: &Query) {
        self.outbox.single(QUERY, &(number, query));
    }

    /// Names functions that the cluster may not have, so that errors can name them.
    pub fn functions(&mut self, functions: &[FunctionName]) {
        self.outbox.single(FUNCTIONS, &functions);
    }

    /// Acknowledges so much of the scheduler's stream, in bytes; see [`super::resume`].
    pub fn received(&mut self, bytes: u64) {
        self.outbox.single(RECEIVED, &bytes);
    }

    /// Takes leave: every reference is given back.
    pub fn close(&mut self) {
        self.outbox.single(CLOSE, &());
    }
}

impl Run {
    #[inline]
    fn is(&self, call: &Submission<'_>) -> bool {
        self.function.as_ref().is_some_and(|(function, options, name)| {
            *function == call.function && *options == call.options && name.as_deref() == call.name
        })
    }

    fn start(&mut self, call: &Submission<'_>) {
        self.function = Some((call.function, call.options.clone(), call.name.map(str::to_owned)));
    }
}

fn put_options(column: &mut Column, call: &Submission<'_>) {
    if call.options == CallOptions::default() && call.name.is_none() {
        return column.put(0);
    }
    let options = NamedOptions { options: call.options.clone(), name: call.name };
    column.put_bytes(&rmp_serde::to_vec(&options).expect("options serialise"));
}

/// What a client said, as the scheduler reads it.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it is read where it is made, and never stored")]
pub enum ClientMessage<'a> {
    /// Calls to book.
    Submit(SubmitReader<'a>),
    /// Futures whose end the client wants to hear of.
    Watch(FutureReader<'a>),
    /// References given back.
    Release(FutureReader<'a>),
    /// Failed futures to run again.
    Retry(FutureReader<'a>),
    /// Futures to cancel.
    Cancel(Cancel),
    /// Copies to make or move.
    Arrange(Arrange),
    /// Values to place.
    Scatter(Scatter),
    /// Workers that were asked for a value, or sent one, in vain.
    Unreachable(Unreachable),
    /// A scattered value that does not come.
    GiveUp(GiveUp),
    /// A question and its number.
    Query(u32, Query),
    /// Names of functions.
    Functions(Vec<FunctionName>),
    /// It has received so much, in bytes.
    Received(u64),
    /// The client leaves.
    Close,
}

impl<'a> ClientMessage<'a> {
    /// Reads a frame.
    pub fn read(opcode: u8, body: &'a [u8]) -> Result<Self, WireError> {
        Ok(match opcode {
            SUBMIT => Self::Submit(SubmitReader::new(body)?),
            WATCH => Self::Watch(FutureReader::new("watch", body)?),
            RELEASE => Self::Release(FutureReader::new("release", body)?),
            RETRY => Self::Retry(FutureReader::new("retry", body)?),
            CANCEL => Self::Cancel(decode("cancel", body)?),
            ARRANGE => Self::Arrange(decode("arrange", body)?),
            SCATTER => Self::Scatter(decode("scatter", body)?),
            UNREACHABLE => Self::Unreachable(decode("unreachable", body)?),
            GIVE_UP => Self::GiveUp(decode("give_up", body)?),
            QUERY => {
                let (number, query) = decode("query", body)?;
                Self::Query(number, query)
            }
            FUNCTIONS => Self::Functions(decode("functions", body)?),
            RECEIVED => Self::Received(decode("received", body)?),
            CLOSE => Self::Close,
            other => return Err(WireError::UnknownOpcode(other)),
        })
    }
}

/// The calls of one `Submit`.
#[derive(Debug)]
pub struct SubmitReader<'a> {
    batch: BatchReader<'a>,
    heads: ColumnReader<'a>,
    keys: ColumnReader<'a>,
    arguments: ColumnReader<'a>,
    inputs: ColumnReader<'a>,
    runs: ColumnReader<'a>,
    next_run: Option<u32>,
    function: FunctionId,
    options: CallOptions,
    name: Option<&'a str>,
}

impl<'a> SubmitReader<'a> {
    fn new(body: &'a [u8]) -> Result<Self, WireError> {
        let batch = BatchReader::new("submit", body)?;
        let mut reader = Self {
            heads: batch.column(0, "submit.futures"),
            keys: batch.column(1, "submit.keys"),
            arguments: batch.column(2, "submit.arguments"),
            inputs: batch.column(3, "submit.inputs"),
            runs: batch.column(4, "submit.runs"),
            batch,
            next_run: None,
            function: FunctionId(0),
            options: CallOptions::default(),
            name: None,
        };
        reader.next_run = Some(reader.runs.take_delta_u32()?);
        Ok(reader)
    }

    /// The next call, or None after the last.
    #[inline]
    pub fn next_call(&mut self) -> Result<Option<Submission<'a>>, WireError> {
        if !self.batch.advance() {
            return Ok(None);
        }
        let future = self.heads.take_delta_u32()?;
        if self.next_run == Some(future) {
            self.start_run()?;
        }
        let key = self.keys.take_raw(16)?;
        let arguments = self.arguments.take_bytes()?;
        let count = self.inputs.take()?;
        let mut inputs = SmallVec::new();
        for _ in 0..count {
            let difference = self.inputs.take_signed()?;
            let input = i64::from(future).wrapping_sub(difference);
            let input = u32::try_from(input)
                .map_err(|_| WireError::OutOfRange { column: "submit.inputs", value: input as u64 })?;
            inputs.push(FutureId(input));
        }
        Ok(Some(Submission {
            future: FutureId(future),
            key: Key(u128::from_le_bytes(key.try_into().expect("16 bytes were taken"))),
            function: self.function,
            options: self.options.clone(),
            name: self.name,
            arguments,
            inputs,
        }))
    }

    fn start_run(&mut self) -> Result<(), WireError> {
        let function = self.runs.take_raw(8)?;
        self.function = FunctionId(u64::from_le_bytes(function.try_into().expect("8 bytes were taken")));
        let NamedOptions { options, name } = match self.runs.take_bytes()? {
            [] => NamedOptions { options: CallOptions::default(), name: None },
            bytes => decode("submit.options", bytes)?,
        };
        (self.options, self.name) = (options, name);
        self.next_run = if self.runs.is_empty() { None } else { Some(self.runs.take_delta_u32()?) };
        Ok(())
    }
}

/// A list of futures.
#[derive(Debug)]
pub struct FutureReader<'a> {
    batch: BatchReader<'a>,
    futures: ColumnReader<'a>,
}

impl<'a> FutureReader<'a> {
    fn new(message: &'static str, body: &'a [u8]) -> Result<Self, WireError> {
        let batch = BatchReader::new(message, body)?;
        let futures = batch.column(0, "futures");
        Ok(Self { batch, futures })
    }

    /// The next future, or None after the last.
    #[inline]
    pub fn next_future(&mut self) -> Result<Option<FutureId>, WireError> {
        if !self.batch.advance() {
            return Ok(None);
        }
        self.futures.take_delta_u32().map(|id| Some(FutureId(id)))
    }
}
