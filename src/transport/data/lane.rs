//! One connection of the pool: errands go out as they come, answers are taken in their order.
//!
//! Writing and reading are two futures of one task, so that neither end waits for the other to take a large
//! value. The lane ends when the connection does; whoever waits is told, and the pool starts another.

use std::fmt;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::stream::{Broken, Brought, Meter, bring_value, receive_value, send_value, skip_value};
use super::{CONNECT_MAX, DataError, Fetched, LaneKind, LaneOffers, MpiOffer, STALL_MAX, interrupted};
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
    /// A value whose receive is posted: for who waits for that as well, and for the end of the connection.
    Word(oneshot::Sender<Answer>),
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
    let mut posted = JoinSet::new();
    let (ended, end) = watch::channel(None);
    let receiving = JoinSet::new();
    let mut answers =
        Answers { address: address.clone(), value_bytes_max, reader, pending, leases, receiving };
    let broken = {
        let mut requests = Requests { address: &address, writer, sent, posted: &mut posted, end };
        let writing = requests.write(&mut errands, ended_leases);
        let reading = answers.read();
        tokio::select! {
            broken = writing => broken,
            broken = reading => broken,
        }
    };
    tracing::debug!(address, reason = %broken, "data connection ended");
    let error = DataError::Lost { address, reason: broken.to_string() };
    // New errands open another connection; those of this one are lost with it.
    errands.close();
    answers.pending.close();
    while let Ok(sent) = answers.pending.try_recv() {
        sent.expects.fail(error.clone());
    }
    refuse_all(&mut errands, &error);
    ended.send_replace(Some(error));
    posted.detach_all();
}

fn refuse_all(errands: &mut mpsc::UnboundedReceiver<Errand>, error: &DataError) {
    errands.close();
    while let Ok(errand) = errands.try_recv() {
        errand.fail(error.clone());
    }
}

/// The sending end of a lane.
struct Requests<'a> {
    address: &'a str,
    writer: WriteHalf,
    sent: mpsc::UnboundedSender<Sent>,
    /// Who waits for values whose receive is posted.
    posted: &'a mut JoinSet<()>,
    /// For those: why the connection has ended, once it has.
    end: watch::Receiver<Option<DataError>>,
}

impl Requests<'_> {
    /// Sends requests until that fails; small ones that wait together go out together.
    async fn write(
        &mut self,
        errands: &mut mpsc::UnboundedReceiver<Errand>,
        mut ended_leases: mpsc::UnboundedReceiver<u64>,
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
            while let Some(Errand { task, request }) = next {
                let (expects, result) = match request {
                    Request::Fetch { answer, offers } => {
                        (self.fetch(task, answer, offers, &mut frames), Ok(()))
                    }
                    Request::Bring { answer, meter, bytes_max } => {
                        PeerRequest::Fetch { task, offers: Offers::default() }.append(&mut frames);
                        (Expects::Brought(answer, meter, bytes_max), Ok(()))
                    }
                    Request::Put { packed, answer, meter } => {
                        PeerRequest::Put { task, shape: Shape::of(&packed) }.append(&mut frames);
                        let result = send_value(&mut self.writer, &mut frames, &packed, &meter).await;
                        (Expects::Receipt(answer), result)
                    }
                };
                // (Only when all of it is sent can the other end be late with its answer.)
                if self.sent.send(Sent { task, expects }).is_err() {
                    return Broken::Closed;
                }
                if let Err(broken) = result {
                    return broken;
                }
                next = errands.try_recv().ok();
            }
            match tokio::time::timeout(STALL_MAX, self.writer.write_all(&mut frames)).await {
                Ok(Ok(())) => frames.clear(),
                Ok(Err(error)) => return Broken::Io(error.to_string()),
                Err(_) => return Broken::Stalled,
            }
        }
    }

    /// Asks for a value. If its receive is posted, somebody waits for the value and the answer, whichever is first.
    fn fetch(
        &mut self,
        task: TaskId,
        to: oneshot::Sender<Result<Fetched, DataError>>,
        mut offers: LaneOffers,
        frames: &mut Vec<u8>,
    ) -> Expects {
        offers.post();
        PeerRequest::Fetch { task, offers: offers.in_words() }.append(frames);
        match offers.mpi.take_if(|offer| offer.is_posted()) {
            None => Expects::Value(to, offers),
            Some(offer) => {
                while self.posted.try_join_next().is_some() {}
                let (word, answer) = oneshot::channel();
                let (address, end) = (self.address.to_owned(), self.end.clone());
                self.posted.spawn(Awaited { task, address, offer, answer, end }.tell(to));
                Expects::Word(word)
            }
        }
    }
}

/// A value whose receive is posted, and the answer to the request for it.
struct Awaited {
    task: TaskId,
    address: String,
    offer: MpiOffer,
    answer: oneshot::Receiver<Answer>,
    /// Why the connection has ended, once it has.
    end: watch::Receiver<Option<DataError>>,
}

impl Awaited {
    /// Tells whoever waits what came, or that the connection has ended before anything did.
    async fn tell(self, to: oneshot::Sender<Result<Fetched, DataError>>) {
        let Self { task, address, offer, answer, mut end } = self;
        tokio::select! {
            biased;
            (fetched, left) = first_of(task, &address, offer, answer) => {
                drop(to.send(fetched));
                if let Some(offer) = left {
                    offer.decline().await;
                }
            }
            error = why(&mut end) => {
                drop(to.send(Err(error.unwrap_or_else(|| interrupted(&address)))));
            }
        }
    }
}

/// Waits for the end of a connection. Why it came, if anybody can say.
async fn why(end: &mut watch::Receiver<Option<DataError>>) -> Option<DataError> {
    end.wait_for(Option::is_some).await.ok().and_then(|error| error.clone())
}

/// Waits for a value whose receive is posted or for the answer, whichever is first: it may be here before the word that
/// it comes. An offer that was not taken is left.
async fn first_of(
    task: TaskId,
    address: &str,
    mut offer: MpiOffer,
    answer: oneshot::Receiver<Answer>,
) -> (Result<Fetched, DataError>, Option<MpiOffer>) {
    let mut answer = std::pin::pin!(async {
        match answer.await {
            Ok(answer) => answer,
            // The connection ends, and who waits hears why.
            Err(_) => std::future::pending().await,
        }
    });
    tokio::select! {
        arrived = offer.arrival() => {
            if arrived.is_ok() {
                offer.put_tag();
            }
            match arrived {
                // Declined: the answer brings it, or says why not.
                Ok(None) => (without_mpi(task, address, answer.await), None),
                arrived => (over_mpi(task, address, arrived), None),
            }
        }
        answer = &mut answer => match answer {
            Answer::OnOffer => (over_mpi(task, address, offer.receive().await), None),
            answer => (without_mpi(task, address, answer), Some(offer)),
        }
    }
}

/// What came over MPI.
fn over_mpi(
    task: TaskId,
    address: &str,
    received: Result<Option<Packed>, MpiError>,
) -> Result<Fetched, DataError> {
    let lane = LaneKind::Mpi;
    let failed = |reason| DataError::Lane { lane, address: address.to_owned(), task, reason };
    match received {
        Ok(Some(packed)) => Ok(Fetched { packed, lane }),
        Ok(None) => Err(failed("the other end has sent nothing".to_owned())),
        Err(MpiError::TooLarge { bytes, bytes_max }) => Err(DataError::TooLarge { task, bytes, bytes_max }),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// What the answer brought, though MPI was offered.
fn without_mpi(task: TaskId, address: &str, answer: Answer) -> Result<Fetched, DataError> {
    match answer {
        Answer::Value(packed) => Ok(Fetched { packed, lane: LaneKind::Tcp }),
        Answer::No(error) => Err(error),
        _ => over_mpi(task, address, Ok(None)),
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
                    offers.mpi.into_iter().for_each(MpiOffer::put_tag);
                    drop(to.send(Ok(Fetched { packed, lane: LaneKind::Tcp })));
                }
                (Expects::Value(to, offers), Ok(Answer::Mapping(mapping))) if offers.shm.is_some() => {
                    offers.mpi.into_iter().for_each(MpiOffer::put_tag);
                    drop(to.send(self.map(task, mapping)));
                }
                (Expects::Value(to, LaneOffers { mpi: Some(offer), .. }), Ok(Answer::OnOffer)) => {
                    self.receive(task, offer, to);
                }
                (Expects::Word(to), Ok(answer @ (Answer::OnOffer | Answer::Value(_) | Answer::No(_)))) => {
                    drop(to.send(answer));
                }
                (Expects::Value(to, offers), Ok(Answer::No(error))) => {
                    offers.mpi.into_iter().for_each(MpiOffer::put_tag);
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
            drop(to.send(over_mpi(task, &address, offer.receive().await)));
        });
    }

    fn lost(&self, broken: &Broken) -> DataError {
        DataError::Lost { address: self.address.clone(), reason: broken.to_string() }
    }
}

#[derive(Debug)]
enum Answer {
    Value(Packed),
    Brought(Brought),
    Mapping(Mapping),
    OnOffer,
    Stored,
    No(DataError),
}

impl Errand {
    /// It cannot be done.
    fn fail(self, error: DataError) {
        match self.request {
            Request::Fetch { answer, .. } => drop(answer.send(Err(error))),
            Request::Bring { answer, .. } => drop(answer.send(Err(error))),
            Request::Put { answer, .. } => drop(answer.send(Err(error))),
        }
    }
}

impl Expects {
    /// Tells whoever waits; nobody may.
    fn fail(self, error: DataError) {
        match self {
            Self::Value(to, _) => drop(to.send(Err(error))),
            Self::Word(_) => {}
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
