//! One connection of the pool: errands go out as they come, answers are taken in their order.
//!
//! Writing and reading are two futures of one task, so that neither end waits for the other to take a large
//! value. The lane ends when the connection does; whoever waits is told, and the pool starts another.

use std::fmt;

use tokio::sync::{mpsc, oneshot};

use super::stream::{Broken, receive_value, send_value, skip_value};
use super::{CONNECT_MAX, DataError, STALL_MAX};
use crate::model::error::with_causes;
use crate::model::{Packed, TaskId};
use crate::transport::tcp::{Connector, ReadHalf, WriteHalf};
use crate::wire::peer::{PeerReply, PeerRequest, Shape};

/// Something to do at the other end.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) task: TaskId,
    pub(super) request: Request,
}

/// What to do, and whom to tell the result.
pub(super) enum Request {
    Fetch { answer: oneshot::Sender<Result<Packed, DataError>> },
    Put { packed: Packed, answer: oneshot::Sender<Result<(), DataError>> },
}

/// An errand whose request was sent.
#[derive(Debug)]
struct Sent {
    task: TaskId,
    expects: Expects,
}

#[derive(Debug)]
enum Expects {
    Value(oneshot::Sender<Result<Packed, DataError>>),
    Receipt(oneshot::Sender<Result<(), DataError>>),
}

/// Connects and serves errands until the connection or the pool ends.
pub(super) async fn run(
    connector: Connector,
    address: String,
    value_bytes_max: u64,
    mut errands: mpsc::UnboundedReceiver<Errand>,
) {
    let connection = match connector.connect(&address, CONNECT_MAX).await {
        Ok(connection) => connection,
        Err(error) => {
            let error = DataError::Connect { address, reason: with_causes(&error) };
            return refuse_all(&mut errands, &error);
        }
    };
    let (reader, writer) = connection.split();
    let (sent, pending) = mpsc::unbounded_channel();
    let mut answers = Answers { address, value_bytes_max, reader, pending };
    let broken = {
        let writing = write(writer, &mut errands, sent);
        let reading = answers.read();
        tokio::select! {
            broken = writing => broken,
            broken = reading => broken,
        }
    };
    let error = DataError::Lost { address: answers.address.clone(), reason: broken.to_string() };
    tracing::debug!(address = answers.address, reason = %broken, "data connection ended");
    // New errands open another connection; those of this one are lost with it.
    errands.close();
    answers.pending.close();
    while let Ok(sent) = answers.pending.try_recv() {
        sent.expects.fail(error.clone());
    }
    refuse_all(&mut errands, &error);
}

fn refuse_all(errands: &mut mpsc::UnboundedReceiver<Errand>, error: &DataError) {
    errands.close();
    while let Ok(errand) = errands.try_recv() {
        errand.into_parts().1.expects.fail(error.clone());
    }
}

/// Sends requests until that fails; small ones that wait together go out together.
async fn write(
    mut writer: WriteHalf,
    errands: &mut mpsc::UnboundedReceiver<Errand>,
    sent: mpsc::UnboundedSender<Sent>,
) -> Broken {
    let mut frames = Vec::new();
    while let Some(errand) = errands.recv().await {
        let mut next = Some(errand);
        while let Some(errand) = next {
            let (packed, pending) = errand.into_parts();
            let task = pending.task;
            if sent.send(pending).is_err() {
                return Broken::Closed;
            }
            let result = match packed {
                None => {
                    PeerRequest::Fetch { task }.append(&mut frames);
                    Ok(())
                }
                Some(packed) => {
                    PeerRequest::Put { task, shape: Shape::of(&packed) }.append(&mut frames);
                    send_value(&mut writer, &mut frames, &packed).await
                }
            };
            if let Err(broken) = result {
                return broken;
            }
            next = errands.try_recv().ok();
        }
        match tokio::time::timeout(STALL_MAX, writer.write_all(&mut frames)).await {
            Ok(Ok(())) => frames.clear(),
            Ok(Err(error)) => return Broken::Io(error.to_string()),
            Err(_) => return Broken::Stalled,
        }
    }
    Broken::Closed
}

/// The receiving end of a lane.
struct Answers {
    address: String,
    value_bytes_max: u64,
    reader: ReadHalf,
    pending: mpsc::UnboundedReceiver<Sent>,
}

impl Answers {
    /// Takes answers until that fails.
    async fn read(&mut self) -> Broken {
        loop {
            let sent = tokio::select! {
                biased;
                sent = self.pending.recv() => sent,
                // Between answers a peer has nothing to say: this is its farewell.
                filled = self.reader.fill() => return match filled {
                    Ok(true) => Broken::Unexpected("an answer that nobody asked for".to_owned()),
                    Ok(false) => Broken::Closed,
                    Err(error) => Broken::Io(with_causes(&error)),
                },
            };
            let Some(Sent { task, expects }) = sent else { return Broken::Closed };
            let answer = self.answer(task).await;
            match (expects, answer) {
                (Expects::Value(to), Ok(Answer::Value(packed))) => drop(to.send(Ok(packed))),
                (Expects::Receipt(to), Ok(Answer::Stored)) => drop(to.send(Ok(()))),
                (expects, Ok(Answer::No(error))) => expects.fail(error),
                (expects, Ok(_)) => {
                    let broken = Broken::Unexpected("an answer to another question".to_owned());
                    expects.fail(self.lost(&broken));
                    return broken;
                }
                (expects, Err(broken)) => {
                    expects.fail(self.lost(&broken));
                    return broken;
                }
            }
        }
    }

    async fn answer(&mut self, task: TaskId) -> Result<Answer, Broken> {
        let frame = match tokio::time::timeout(STALL_MAX, self.reader.frame()).await {
            Ok(frame) => frame.map_err(|error| Broken::Io(with_causes(&error)))?.ok_or(Broken::Closed)?,
            Err(_) => return Err(Broken::Stalled),
        };
        let reply = PeerReply::read(frame.opcode, &frame.body);
        Ok(match reply.map_err(|error| Broken::Unexpected(error.to_string()))? {
            PeerReply::Value { shape } => match shape.bytes() {
                Some(bytes) if bytes <= self.value_bytes_max => {
                    Answer::Value(receive_value(&mut self.reader, &shape).await?)
                }
                bytes => {
                    skip_value(&mut self.reader, &shape).await?;
                    let bytes = bytes.unwrap_or(u64::MAX);
                    Answer::No(DataError::TooLarge { task, bytes, bytes_max: self.value_bytes_max })
                }
            },
            PeerReply::Stored => Answer::Stored,
            PeerReply::NotHere => Answer::No(DataError::NotHere { address: self.address.clone(), task }),
            PeerReply::Refused { reason } => {
                Answer::No(DataError::Refused { address: self.address.clone(), task, reason })
            }
        })
    }

    fn lost(&self, broken: &Broken) -> DataError {
        DataError::Lost { address: self.address.clone(), reason: broken.to_string() }
    }
}

enum Answer {
    Value(Packed),
    Stored,
    No(DataError),
}

impl Errand {
    /// What to send, and what to expect then.
    fn into_parts(self) -> (Option<Packed>, Sent) {
        let (packed, expects) = match self.request {
            Request::Fetch { answer } => (None, Expects::Value(answer)),
            Request::Put { packed, answer } => (Some(packed), Expects::Receipt(answer)),
        };
        (packed, Sent { task: self.task, expects })
    }
}

impl Expects {
    /// Tells whoever waits; nobody may.
    fn fail(self, error: DataError) {
        match self {
            Self::Value(to) => drop(to.send(Err(error))),
            Self::Receipt(to) => drop(to.send(Err(error))),
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fetch { .. } => "Fetch",
            Self::Put { .. } => "Put",
        })
    }
}
