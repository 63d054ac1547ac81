//! One connection of the pool: errands go out as they come, answers are taken in their order.
//!
//! Writing and reading are two futures of one task, so that neither end waits for the other to take a large
//! value. The lane ends when the connection does; whoever waits is told, and the pool starts another.

use std::fmt;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::stream::{Broken, Brought, Meter, bring_value, receive_value, send_value, skip_value};
use super::{CONNECT_MAX, DataError, Fetched, LaneKind, LaneOffers, MpiOffer, STALL_MAX};
use crate::model::error::with_causes;
use crate::model::{Packed, TaskId};
use crate::transport::mpi::MpiError;
use crate::transport::shm;
use crate::transport::tcp::{Connector, ReadHalf, WriteHalf};
use crate::wire::peer::{BufferPart, Mapping, Offers, PeerReply, PeerRequest, SegmentPart, Shape};

/// Something to do at the other end.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) task: TaskId,
    pub(super) request: Request,
}

/// What to do, and whom to tell the result.
pub(super) enum Request {
    Fetch { answer: oneshot::Sender<Result<Fetched, DataError>>, offers: LaneOffers },
    Bring { answer: oneshot::Sender<Result<Brought, DataError>>, meter: Meter, bytes_max: u64 },
    Put { packed: Packed, answer: oneshot::Sender<Result<(), DataError>>, meter: Meter },
}

/// An errand whose request was sent.
#[derive(Debug)]
struct Sent {
    task: TaskId,
    expects: Expects,
}

#[derive(Debug)]
enum Expects {
    Value(oneshot::Sender<Result<Fetched, DataError>>, LaneOffers),
    Brought(oneshot::Sender<Result<Brought, DataError>>, Meter, u64),
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
    let (leases, ended_leases) = mpsc::unbounded_channel();
    let receiving = JoinSet::new();
    let mut answers = Answers { address, value_bytes_max, reader, pending, leases, receiving };
    let broken = {
        let writing = write(writer, &mut errands, ended_leases, sent);
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
    mut ended_leases: mpsc::UnboundedReceiver<u64>,
    sent: mpsc::UnboundedSender<Sent>,
) -> Broken {
    let mut frames = Vec::new();
    loop {
        let mut next = tokio::select! {
            errand = errands.recv() => match errand {
                Some(errand) => Some(errand),
                None => return Broken::Closed,
            },
            Some(lease) = ended_leases.recv() => {
                PeerRequest::Mapped { lease }.append(&mut frames);
                None
            }
        };
        while let Some(errand) = next {
            let (packed, mut pending) = errand.into_parts();
            let (task, offers) = (pending.task, pending.expects.offers());
            let result = match packed {
                None => {
                    PeerRequest::Fetch { task, offers }.append(&mut frames);
                    Ok(())
                }
                Some((packed, meter)) => {
                    PeerRequest::Put { task, shape: Shape::of(&packed) }.append(&mut frames);
                    send_value(&mut writer, &mut frames, &packed, &meter).await
                }
            };
            // (Only when all of it is sent can the other end be late with its answer.)
            if sent.send(pending).is_err() {
                return Broken::Closed;
            }
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
}

/// The receiving end of a lane.
struct Answers {
    address: String,
    value_bytes_max: u64,
    reader: ReadHalf,
    pending: mpsc::UnboundedReceiver<Sent>,
    /// Leases that the other end can forget.
    leases: mpsc::UnboundedSender<u64>,
    /// Who waits for values on their way over MPI. Nobody does when this connection has ended; they go on all the same.
    receiving: JoinSet<()>,
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
            let answer = self.answer(task, &expects).await;
            match (expects, answer) {
                (Expects::Brought(to, ..), Ok(Answer::Brought(brought))) => drop(to.send(Ok(brought))),
                (Expects::Value(to, offers), Ok(Answer::Value(packed))) => {
                    self.decline(offers);
                    drop(to.send(Ok(Fetched { packed, lane: LaneKind::Tcp })));
                }
                (Expects::Value(to, offers), Ok(Answer::Mapping(mapping))) if offers.shm.is_some() => {
                    self.decline(offers);
                    drop(to.send(self.map(task, mapping)));
                }
                (Expects::Value(to, LaneOffers { mpi: Some(offer), .. }), Ok(Answer::OnOffer)) => {
                    self.receive(task, offer, to);
                }
                (Expects::Value(to, offers), Ok(Answer::No(error))) => {
                    self.decline(offers);
                    drop(to.send(Err(error)));
                }
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

    async fn answer(&mut self, task: TaskId, expects: &Expects) -> Result<Answer, Broken> {
        let bytes_max = match expects {
            Expects::Brought(_, _, bytes_max) => self.value_bytes_max.min(*bytes_max),
            _ => self.value_bytes_max,
        };
        loop {
            let frame = match tokio::time::timeout(STALL_MAX, self.reader.frame()).await {
                Ok(frame) => frame.map_err(|error| Broken::Io(with_causes(&error)))?.ok_or(Broken::Closed)?,
                Err(_) => return Err(Broken::Stalled),
            };
            let reply = PeerReply::read(frame.opcode, &frame.body);
            return Ok(match reply.map_err(|error| Broken::Unexpected(error.to_string()))? {
                PeerReply::Busy => continue,
                PeerReply::Value { shape } => match shape.bytes() {
                    Some(bytes) if bytes <= bytes_max => match expects {
                        Expects::Brought(_, meter, _) => {
                            Answer::Brought(bring_value(&mut self.reader, &shape, meter).await?)
                        }
                        _ => Answer::Value(receive_value(&mut self.reader, &shape).await?),
                    },
                    bytes => {
                        skip_value(&mut self.reader, &shape).await?;
                        let bytes = bytes.unwrap_or(u64::MAX);
                        Answer::No(DataError::TooLarge { task, bytes, bytes_max })
                    }
                },
                PeerReply::Mapping(mapping) => Answer::Mapping(mapping),
                PeerReply::OnOffer => Answer::OnOffer,
                PeerReply::Stored => Answer::Stored,
                PeerReply::NotHere => Answer::No(DataError::NotHere { address: self.address.clone(), task }),
                PeerReply::Refused { reason } => {
                    Answer::No(DataError::Refused { address: self.address.clone(), task, reason })
                }
            });
        }
    }

    /// Maps a value where it lies, and ends its lease.
    fn map(&self, task: TaskId, mapping: Mapping) -> Result<Fetched, DataError> {
        let Mapping { pid, lease, head, buffers } = mapping;
        let parts: Vec<SegmentPart> = buffers.iter().filter_map(BufferPart::segment).collect();
        let mapped = shm::pool().map(pid, &parts);
        // If the other end does not hear it, it hears of the connection's end.
        let _ = self.leases.send(lease);
        let lane = LaneKind::Shm;
        match mapped {
            Ok(mapped) => {
                let mut mapped = mapped.into_iter();
                let buffers = buffers.into_iter().map(|buffer| match buffer {
                    BufferPart::Inline(bytes) => bytes.into_vec().into(),
                    BufferPart::Segment(_) => mapped.next().unwrap_or_default(),
                });
                Ok(Fetched { packed: Packed { head: head.into(), buffers: buffers.collect() }, lane })
            }
            Err(error) => {
                let (address, reason) = (self.address.clone(), with_causes(&error));
                if error.may_pass() {
                    return Err(DataError::Short { address, task, reason });
                }
                Err(DataError::Lane { lane, address, task, reason })
            }
        }
    }

    /// Receives a value over MPI, beside the answers that come here.
    fn receive(&mut self, task: TaskId, offer: MpiOffer, to: oneshot::Sender<Result<Fetched, DataError>>) {
        while self.receiving.try_join_next().is_some() {}
        let address = self.address.clone();
        self.receiving.spawn(async move {
            let lane = LaneKind::Mpi;
            let failed = |reason| DataError::Lane { lane, address, task, reason };
            let fetched = match offer.receive().await {
                Ok(Some(packed)) => Ok(Fetched { packed, lane }),
                Ok(None) => Err(failed("the other end has sent nothing".to_owned())),
                Err(MpiError::TooLarge { bytes, bytes_max }) => {
                    Err(DataError::TooLarge { task, bytes, bytes_max })
                }
                Err(error) => Err(failed(error.to_string())),
            };
            drop(to.send(fetched));
        });
    }

    /// The other end has taken none of these, or that of shared memory.
    fn decline(&mut self, offers: LaneOffers) {
        while self.receiving.try_join_next().is_some() {}
        offers.mpi.into_iter().for_each(|offer| drop(self.receiving.spawn(offer.decline())));
    }

    fn lost(&self, broken: &Broken) -> DataError {
        DataError::Lost { address: self.address.clone(), reason: broken.to_string() }
    }
}

enum Answer {
    Value(Packed),
    Brought(Brought),
    Mapping(Mapping),
    OnOffer,
    Stored,
    No(DataError),
}

impl Errand {
    /// What to send, and what to expect then.
    fn into_parts(self) -> (Option<(Packed, Meter)>, Sent) {
        let (packed, expects) = match self.request {
            Request::Fetch { answer, offers } => (None, Expects::Value(answer, offers)),
            Request::Bring { answer, meter, bytes_max } => (None, Expects::Brought(answer, meter, bytes_max)),
            Request::Put { packed, answer, meter } => (Some((packed, meter)), Expects::Receipt(answer)),
        };
        (packed, Sent { task: self.task, expects })
    }
}

impl Expects {
    /// What is offered, as the other end is about to hear it.
    fn offers(&mut self) -> Offers {
        match self {
            Self::Value(_, offers) => {
                offers.post();
                offers.in_words()
            }
            Self::Brought(..) | Self::Receipt(_) => Offers::default(),
        }
    }

    /// Tells whoever waits; nobody may.
    fn fail(self, error: DataError) {
        match self {
            Self::Value(to, _) => drop(to.send(Err(error))),
            Self::Brought(to, ..) => drop(to.send(Err(error))),
            Self::Receipt(to) => drop(to.send(Err(error))),
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fetch { .. } => "Fetch",
            Self::Bring { .. } => "Bring",
            Self::Put { .. } => "Put",
        })
    }
}
