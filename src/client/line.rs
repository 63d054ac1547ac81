//! The connection of a client to its scheduler, and the thread that lives on it.
//!
//! The thread reads frames and books them in the [`Session`], expires waits, runs fetches and puts, and
//! writes what callers have appended. Callers may also write, through [`Line::poll_write`].

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use super::error::Error;
use super::resume::Resumption;
use super::session::Session;
use super::state::Io;
use crate::model::error::with_causes;
use crate::transport::data::DataPool;
use crate::transport::tcp::{Connection, ReadError, ReadHalf, WriteHalf};
use crate::wire::WireError;
use crate::wire::client::ToClientMessage;
use crate::wire::resume::{ClaimError, Received, Sent};

/// How long the thread watches the outbox after it was busy, for messages that nobody wakes it for.
const LINGER: Duration = Duration::from_millis(2);
/// How long the scheduler has to close its end after this one was closed.
pub(super) const CLOSE: Duration = Duration::from_secs(2);

/// What callers and the connection's thread share of a connection.
pub(super) struct Line {
    writer: Mutex<Writer>,
    wake: Notify,
}

#[derive(Default)]
struct Writer {
    /// None while there is no connection.
    half: Option<WriteHalf>,
    /// How much of a failed write has left is not known, so nothing follows it on its connection.
    has_failed: bool,
    /// What the scheduler may not have received.
    sent: Sent,
    frames: Vec<u8>,
}

impl Writer {
    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        take: &mut impl FnMut(&mut Vec<u8>),
    ) -> Poll<io::Result<()>> {
        let Self { half: Some(half), sent, frames, .. } = self else { return Poll::Ready(Ok(())) };
        loop {
            while !sent.unwritten().is_empty() {
                let bytes = ready!(half.poll_write(cx, sent.unwritten()))?;
                sent.wrote(bytes);
            }
            ready!(half.poll_flush(cx))?;
            take(frames);
            if frames.is_empty() {
                return Poll::Ready(Ok(()));
            }
            sent.push(frames);
        }
    }
}

/// A client that is connected for the first time.
pub(super) struct Connected {
    /// Where to, with nothing said but what began the session.
    pub(super) connection: Connection,
    /// Connections to the workers.
    pub(super) pool: DataPool,
    /// What to do when the connection breaks.
    pub(super) resumption: Resumption,
}

/// Why the thread stops.
enum Stop {
    /// The client was closed, or the cluster has ended.
    Over,
    /// The connection broke, for this reason.
    Lost(String),
    /// The scheduler said what it may not say.
    Nonsense(String),
}

impl Line {
    /// A line to nowhere.
    pub(super) fn detached() -> Self {
        Self { writer: Mutex::default(), wake: Notify::new() }
    }

    /// Wakes the connection's thread.
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Sleeps until woken.
    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Writes what `take` puts into its argument, until it puts nothing.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&mut Vec<u8>),
    ) -> Poll<io::Result<()>> {
        let mut writer = self.writer();
        if writer.has_failed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let wrote = writer.poll_write(cx, &mut take);
        writer.has_failed = matches!(wrote, Poll::Ready(Err(_)));
        wrote
    }

    /// The scheduler has received so much.
    pub(super) fn acknowledge(&self, received_bytes: u64) -> Result<(), WireError> {
        let claim = self.writer().sent.acknowledge(received_bytes);
        claim.map_err(|claim| WireError::Malformed { message: "received", reason: claim.to_string() })
    }

    /// What the scheduler has not acknowledged, in bytes.
    pub(super) fn retained_bytes(&self) -> u64 {
        self.writer().sent.retained_bytes()
    }

    /// The connection is of no more use; until there is another, nothing is written.
    pub(super) fn hang_up(&self) {
        let mut writer = self.writer();
        (writer.half, writer.has_failed) = (None, false);
    }

    /// Goes on with another connection, from what the scheduler has received.
    pub(super) fn go_on(&self, half: WriteHalf, received_bytes: u64) -> Result<(), ClaimError> {
        let mut writer = self.writer();
        writer.sent.resume(received_bytes)?;
        (writer.half, writer.has_failed) = (Some(half), false);
        Ok(())
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the scheduler that nothing follows.
    pub(super) async fn close(&self) -> io::Result<()> {
        poll_fn(|cx| {
            let Some(half) = &mut self.writer().half else { return Poll::Ready(Ok(())) };
            // Closing goes on where an earlier attempt stopped.
            pin!(half.close()).poll(cx)
        })
        .await
    }
}

/// Starts the thread of a client: it connects with `connect`, and hands the session to the receiver.
pub(super) fn start<C>(
    address: Arc<str>,
    nonce: u64,
    connect: C,
) -> Result<oneshot::Receiver<Result<Arc<Session>, Error>>, Error>
where
    C: AsyncFnOnce() -> Result<Connected, Error> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new().name("dcluster-client".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => return drop(sender.send(Err(error.into()))),
        };
        runtime.block_on(async {
            let Connected { connection, pool, resumption } = match connect().await {
                Ok(connected) => connected,
                Err(error) => return drop(sender.send(Err(error))),
            };
            let (reader, half) = connection.split();
            let writer = Writer { half: Some(half), ..Writer::default() };
            let line = Line { writer: Mutex::new(writer), wake: Notify::new() };
            let session = Arc::new(Session::new(line, Some(pool), address, nonce));
            if sender.send(Ok(session.clone())).is_err() {
                session.close();
            }
            live(&session, reader, &resumption).await;
        });
    })?;
    Ok(receiver)
}

/// Serves one connection after the other until the client ends, and tells whoever waits.
async fn live(session: &Arc<Session>, mut reader: ReadHalf, resumption: &Resumption) {
    let mut received = Received::default();
    let mut close_until = None;
    loop {
        let reason = match serve(session, &mut reader, &mut received).await {
            Stop::Over => {
                let until = *close_until.get_or_insert(Instant::now() + CLOSE);
                match tokio::time::timeout_at(until.into(), close(session, &mut reader)).await {
                    Ok(Err(reason)) if Instant::now() < until => reason,
                    _ => break,
                }
            }
            Stop::Lost(reason) => reason,
            Stop::Nonsense(reason) => {
                tracing::debug!(address = %session.address, reason, "the scheduler makes no sense");
                session.ended(Error::Lost { address: session.address.clone(), reason: reason.into() });
                break;
            }
        };
        match resumption.resume(session, &received, reason).await {
            Some(again) => reader = again,
            None => break,
        }
    }
    session.over.send_replace(true);
}

async fn serve(session: &Arc<Session>, reader: &mut ReadHalf, received: &mut Received) -> Stop {
    let mut broken: Option<io::Error> = None;
    // Some may have come with the answer to the handshake.
    if let Err(reason) = read(session, reader, received) {
        return Stop::Nonsense(reason);
    }
    loop {
        let blocked = match &broken {
            Some(_) => false,
            None => match poll_fn(|cx| Poll::Ready(session.poll_write(cx))).await {
                Poll::Ready(Ok(())) => false,
                Poll::Pending => true,
                // What the scheduler said before it went is read first.
                Poll::Ready(Err(error)) => {
                    broken = Some(error);
                    false
                }
            },
        };
        let Some(deadline) = rest(session, blocked || broken.is_some()) else { return Stop::Over };
        tokio::select! {
            biased;
            filled = reader.fill() => match filled {
                Ok(true) => if let Err(reason) = read(session, reader, received) {
                    return Stop::Nonsense(reason);
                },
                Ok(false) => return Stop::Lost("it closed the connection".to_owned()),
                Err(error @ ReadError::Frame { .. }) => return Stop::Nonsense(with_causes(&error)),
                Err(error) => return Stop::Lost(match broken {
                    Some(broken) => format!("{error} ({broken})"),
                    None => with_causes(&error),
                }),
            },
            () = session.woken() => {}
            _ = poll_fn(|cx| session.poll_write(cx)), if blocked => {}
            () = sleep_until(deadline) => session.expire(),
        }
    }
}

/// Books every frame that has arrived.
fn read(session: &Session, reader: &mut ReadHalf, received: &mut Received) -> Result<(), String> {
    session.lock().io = Io::Awake;
    while let Some(frame) = reader.next_frame().map_err(|error| with_causes(&error))? {
        session.receive(&frame).map_err(|error| format!("it sent a message that makes no sense: {error}"))?;
        received.note(&frame);
    }
    if let Some(bytes) = received.acknowledgement() {
        let mut state = session.lock();
        if state.end.is_none() {
            state.outbox.received(bytes);
        }
    }
    Ok(())
}

/// Starts jobs and decides how long to sleep: the next deadline, or None inside if there is none. None if the
/// client has ended.
#[allow(clippy::option_option)]
pub(super) fn rest(session: &Session, stuck: bool) -> Option<Option<Instant>> {
    let mut state = session.lock();
    state.jobs.drain(..).for_each(|job| drop(tokio::spawn(job)));
    if state.end.is_some() && (stuck || state.outbox.outbox().is_empty()) {
        return None;
    }
    let deadline = state.groups.next_deadline();
    if !stuck && !state.outbox.outbox().is_empty() {
        return Some(Some(Instant::now()));
    }
    match state.io {
        Io::Awake => {
            state.io = Io::Lingering;
            let linger = Instant::now() + LINGER;
            Some(Some(deadline.map_or(linger, |deadline| deadline.min(linger))))
        }
        Io::Lingering | Io::Asleep => {
            state.io = Io::Asleep;
            Some(deadline)
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Writes what is left, closes this end, and waits for the other to do so; why the scheduler may not have received the
/// client's farewell, which spares it the lease.
async fn close(session: &Session, reader: &mut ReadHalf) -> Result<(), String> {
    let closing = async {
        poll_fn(|cx| session.poll_write(cx)).await?;
        session.line().close().await
    };
    let mut end: Result<(), String> = closing.await.map_err(|error| error.to_string());
    let mut is_over = !session.is_closed();
    while end.is_ok() {
        match reader.fill().await {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => end = Err(with_causes(&error)),
        }
        while let Ok(Some(frame)) = reader.next_frame() {
            match ToClientMessage::read(frame.opcode, &frame.body) {
                Ok(ToClientMessage::Received(bytes)) => drop(session.line().acknowledge(bytes)),
                Ok(ToClientMessage::Closing(_)) => is_over = true,
                _ => {}
            }
        }
    }
    match is_over || session.line().retained_bytes() == 0 {
        true => Ok(()),
        false => Err(end.err().unwrap_or_else(|| "it closed the connection".to_owned())),
    }
}
