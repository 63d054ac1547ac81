//! What the scheduler says to a client: how futures ended, where values go, answers.
//!
//! [`ToClientOutbox`] writes it, [`ToClientMessage`] reads it.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::super::batch::{BatchReader, Outbox, decode};
use super::super::columns::ColumnReader;
use super::super::{Peer, WireError};
use crate::model::{FutureId, TaskId, WorkerId};

const NOTIFY: u8 = 33;
const PLACED: u8 = 34;
const REPLY: u8 = 35;
const PEERS: u8 = 36;
const CLOSING: u8 = 37;
const LEFT: u8 = 38;
const RECEIVED_BY_CLIENT: u8 = 63;

/// The end of a future's life: what the scheduler tells a client that watches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// Finished with a small value, which is here.
    Inline(&'a [u8]),
    /// Finished; the value stays on workers.
    Stored {
        /// The name to fetch it by.
        task: TaskId,
        /// Its packed size.
        nbytes: u64,
        /// Who has it.
        holders: SmallVec<[WorkerId; 4]>,
    },
    /// Failed; a packed [`crate::model::error::TaskError`].
    Failed(&'a [u8]),
    /// Cancelled, for this reason.
    Cancelled(&'a str),
}

/// Where a scattered value goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The client's reference.
    pub future: FutureId,
    /// The name to store it by.
    pub task: TaskId,
    /// Where to send it; none if the cluster has a value of this key.
    pub worker: Option<WorkerId>,
}

/// Why the cluster takes leave of a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// Said to the user.
    pub reason: String,
}

/// What the scheduler says to a client, gathered until it is written.
#[derive(Debug, Default)]
pub struct ToClientOutbox {
    outbox: Outbox,
}

const INLINE: u64 = 0;
const STORED: u64 = 1;
const FAILED: u64 = 2;
const CANCELLED: u64 = 3;

impl ToClientOutbox {
    /// The frames to write.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// A watched future is done.
    pub fn notify(&mut self, future: FutureId, outcome: &Outcome<'_>) {
        let batch = self.outbox.item(NOTIFY);
        let [futures, outcomes, ..] = &mut batch.columns;
        futures.put_delta(u64::from(future.0));
        match outcome {
            Outcome::Inline(bytes) => {
                outcomes.put(INLINE);
                outcomes.put_bytes(bytes);
            }
            Outcome::Stored { task, nbytes, holders } => {
                outcomes.put(STORED);
                outcomes.put(task.0);
                outcomes.put(*nbytes);
                outcomes.put(holders.len() as u64);
                holders.iter().for_each(|worker| outcomes.put(u64::from(worker.0)));
            }
            Outcome::Failed(error) => {
                outcomes.put(FAILED);
                outcomes.put_bytes(error);
            }
            Outcome::Cancelled(reason) => {
                outcomes.put(CANCELLED);
                outcomes.put_bytes(reason.as_bytes());
            }
        }
    }

    /// Answers a `Scatter`.
    pub fn placed(&mut self, placed: &[Placed]) {
        self.outbox.single(PLACED, &placed);
    }

    /// Answers a `Query` with JSON text or the reason why there is none, or ends a `Cancel` or an `Arrange`.
    pub fn reply(&mut self, number: u32, answer: &Result<String, String>) {
        self.outbox.single(REPLY, &(number, answer));
    }

    /// Workers that joined, with the addresses of their data ports.
    pub fn peers(&mut self, peers: &[Peer]) {
        self.outbox.single(PEERS, &peers);
    }

    /// Workers that are gone.
    pub fn left(&mut self, workers: &[WorkerId]) {
        self.outbox.single(LEFT, &workers);
    }

    /// Acknowledges so much of the client's stream, in bytes; see [`crate::wire::resume`].
    pub fn received(&mut self, bytes: u64) {
        self.outbox.single(RECEIVED_BY_CLIENT, &bytes);
    }

    /// The cluster ends.
    pub fn closing(&mut self, closing: &Closing) {
        self.outbox.single(CLOSING, closing);
    }
}

/// What the scheduler said, as a client reads it.
#[derive(Debug)]
pub enum ToClientMessage<'a> {
    /// Watched futures that are done.
    Notify(NotifyReader<'a>),
    /// Where scattered values go.
    Placed(Vec<Placed>),
    /// The answer to a question, to a cancel, to what was arranged.
    Reply(u32, Result<String, String>),
    /// Workers that joined.
    Peers(Vec<Peer>),
    /// Workers that are gone.
    Left(Vec<WorkerId>),
    /// The scheduler has received so much, in bytes.
    Received(u64),
    /// The cluster ends.
    Closing(Closing),
}

impl<'a> ToClientMessage<'a> {
    /// Reads a frame.
    pub fn read(opcode: u8, body: &'a [u8]) -> Result<Self, WireError> {
        Ok(match opcode {
            NOTIFY => Self::Notify(NotifyReader::new(body)?),
            PLACED => Self::Placed(decode("placed", body)?),
            REPLY => {
                let (number, answer) = decode("reply", body)?;
                Self::Reply(number, answer)
            }
            PEERS => Self::Peers(decode("peers", body)?),
            LEFT => Self::Left(decode("left", body)?),
            RECEIVED_BY_CLIENT => Self::Received(decode("received", body)?),
            CLOSING => Self::Closing(decode("closing", body)?),
            other => return Err(WireError::UnknownOpcode(other)),
        })
    }
}

/// The outcomes of one `Notify`.
#[derive(Debug)]
pub struct NotifyReader<'a> {
    batch: BatchReader<'a>,
    futures: ColumnReader<'a>,
    outcomes: ColumnReader<'a>,
}

impl<'a> NotifyReader<'a> {
    fn new(body: &'a [u8]) -> Result<Self, WireError> {
        let batch = BatchReader::new("notify", body)?;
        let (futures, outcomes) = (batch.column(0, "notify.futures"), batch.column(1, "notify.outcomes"));
        Ok(Self { batch, futures, outcomes })
    }

    /// The next outcome, or None after the last.
    #[inline]
    pub fn next_outcome(&mut self) -> Result<Option<(FutureId, Outcome<'a>)>, WireError> {
        if !self.batch.advance() {
            return Ok(None);
        }
        let future = FutureId(self.futures.take_delta_u32()?);
        let outcomes = &mut self.outcomes;
        let outcome = match outcomes.take()? {
            INLINE => Outcome::Inline(outcomes.take_bytes()?),
            STORED => {
                let (task, nbytes, count) = (TaskId(outcomes.take()?), outcomes.take()?, outcomes.take()?);
                let mut holders = SmallVec::new();
                for _ in 0..count {
                    holders.push(WorkerId(outcomes.take_u32()?));
                }
                Outcome::Stored { task, nbytes, holders }
            }
            FAILED => Outcome::Failed(outcomes.take_bytes()?),
            CANCELLED => Outcome::Cancelled(
                std::str::from_utf8(outcomes.take_bytes()?)
                    .map_err(|error| WireError::Malformed { message: "notify", reason: error.to_string() })?,
            ),
            value => return Err(WireError::OutOfRange { column: "notify.outcomes", value }),
        };
        Ok(Some((future, outcome)))
    }
}
