//! A connected client as its handles share it: the state, the line to the scheduler, and when to write.
//!
//! Calls lock the state, append to the outbox and return. Who writes: the caller, if nothing was written for
//! some microseconds or if it is about to wait, because a wake of the connection's thread costs more than the
//! write; that thread otherwise, so that a burst leaves in batches. Next: [`super::state`], [`super::line`].

use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot, watch};

use super::bar::{Bar, Progress};
use super::error::{Error, Failure, Result};
use super::group::{Group, Until};
use super::line::Line;
use super::scatter::PUTS_MAX;
use super::state::{Effects, Io, Job, State};
use crate::model::{FutureId, WorkerId};
use crate::transport::data::DataPool;
use crate::wire::client::{Query, ToClientMessage};
use crate::wire::{WireError, frame::Frame};

/// How soon what was appended has to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// The caller is about to wait for an answer.
    Now,
    /// With whatever else is appended meanwhile.
    Soon,
    /// Nobody waits for it.
    Later,
}

/// A connected client.
pub(crate) struct Session {
    state: Mutex<State>,
    line: Line,
    thread: ThreadId,
    /// Connections to the workers' data ports; used on the connection's thread.
    pub(super) pool: Option<DataPool>,
    /// Values that nobody waits for and that travel at the same time.
    pub(super) puts: Semaphore,
    /// The scheduler's `host:port`.
    pub(super) address: Arc<str>,
    /// Makes keys of this client that no other makes.
    pub(super) nonce: u64,
    /// Whether bars are shown while values travel.
    progress: Mutex<Progress>,
    callbacks: OnceLock<mpsc::Sender<Box<dyn FnOnce() + Send>>>,
    /// How many workers are there.
    pub(super) joined: watch::Sender<usize>,
    /// Whether the connection's thread has ended.
    pub(super) over: watch::Sender<bool>,
}

/// What every handle of a client holds; the client is closed when the last one is dropped.
pub(crate) struct Link {
    /// The client.
    pub(super) session: Arc<Session>,
    /// Where it found the cluster, if it was a file.
    pub(super) connection_file: Option<PathBuf>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.session.close();
    }
}

impl Session {
    /// A client on a line that is up; made on the connection's thread.
    pub(super) fn new(line: Line, pool: Option<DataPool>, address: Arc<str>, nonce: u64) -> Self {
        Self {
            state: Mutex::new(State::new()),
            line,
            thread: std::thread::current().id(),
            pool,
            puts: Semaphore::new(PUTS_MAX),
            address,
            nonce,
            progress: Mutex::new(Progress::of_environment()),
            callbacks: OnceLock::new(),
            joined: watch::Sender::new(0),
            over: watch::Sender::new(false),
        }
    }

    /// A client that is closed and was never connected.
    pub(super) fn detached() -> Self {
        let session = Self::new(Line::detached(), None, "nowhere".into(), 0);
        session.close();
        session
    }

    /// The state. Nothing that holds it waits, writes, or runs a user's code.
    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets go of the state, and sees to it that what was appended leaves.
    #[inline]
    pub(super) fn appended(&self, mut state: MutexGuard<'_, State>, urgency: Urgency) {
        let effects = state.effects();
        let nothing = state.outbox.outbox().is_empty() && state.jobs.is_empty();
        let by_itself = match (state.io, urgency) {
            _ if nothing => None,
            (Io::Awake, _) | (Io::Lingering, Urgency::Later) => None,
            (_, Urgency::Now) if state.jobs.is_empty() => Some(true),
            (_, Urgency::Soon) if state.jobs.is_empty() && state.is_quiet() => Some(true),
            _ => {
                state.io = Io::Awake;
                Some(false)
            }
        };
        drop(state);
        match by_itself {
            Some(true) => self.write(),
            Some(false) => self.line.wake(),
            None => {}
        }
        self.perform(effects);
    }

    /// Writes from the calling thread; the connection's thread goes on where the socket takes no more.
    fn write(&self) {
        if !matches!(self.poll_write(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(()))) {
            self.rouse();
        }
    }

    /// Writes what is in the outbox. An error is the connection's thread's to report, after what arrived.
    pub(super) fn poll_write(&self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.line.poll_write(cx, |frames| {
            let mut state = self.lock();
            state.outbox.outbox().swap_into(frames);
            state.flushed = Instant::now();
        })
    }

    /// The connection.
    pub(super) fn line(&self) -> &Line {
        &self.line
    }

    /// What the scheduler has not received for sure, in bytes.
    pub(super) fn unsent_bytes(&self) -> u64 {
        let appended_bytes = self.lock().outbox.outbox().len_bytes() as u64;
        self.line.retained_bytes() + appended_bytes
    }

    /// Whether the caller is the connection's thread, which must not wait for itself.
    pub(super) fn is_own_thread(&self) -> bool {
        std::thread::current().id() == self.thread
    }

    /// Runs `work` on the connection's thread, where the pool lives; None if the client ends first.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        self.start(Box::pin(async move { drop(sender.send(work.await)) }));
        receiver.await.ok()
    }

    /// Has the connection's thread do a job, unless the client has ended.
    pub(super) fn start(&self, job: Job) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.jobs.push(job);
        }
        self.appended(state, Urgency::Now);
    }

    /// Expires the waits whose deadline has passed.
    pub(super) fn expire(&self) {
        let mut state = self.lock();
        state.expire(Instant::now());
        let effects = state.effects();
        drop(state);
        self.perform(effects);
    }

    /// Wakes the connection's thread whatever it does.
    pub(super) fn rouse(&self) {
        self.lock().io = Io::Awake;
        self.line.wake();
    }

    /// Wakes waiters and passes callbacks on; the state is not locked.
    pub(super) fn perform(&self, mut effects: Effects) {
        effects.wake();
        for callback in effects.callbacks {
            let queue = self.callbacks.get_or_init(spawn_callbacks);
            let _ = queue.send(callback);
        }
    }

    /// Books a frame of the scheduler's.
    pub(super) fn receive(&self, frame: &Frame) -> Result<(), WireError> {
        let message = ToClientMessage::read(frame.opcode, &frame.body)?;
        if let ToClientMessage::Received(bytes) = message {
            return self.line.acknowledge(bytes);
        }
        let mut state = self.lock();
        let booked = match message {
            ToClientMessage::Notify(mut reader) => state.notified(&mut reader),
            ToClientMessage::Placed(placed) => {
                state.placed(placed);
                Ok(())
            }
            ToClientMessage::Reply(number, answer) => {
                state.replied(number, answer);
                Ok(())
            }
            ToClientMessage::Peers(peers) => {
                state.joined(peers);
                self.joined.send_replace(state.peers.len());
                Ok(())
            }
            ToClientMessage::Left(workers) => {
                state.left(&workers);
                self.joined.send_replace(state.peers.len());
                Ok(())
            }
            ToClientMessage::Received(_) => Ok(()),
            ToClientMessage::Closing(closing) => {
                let (address, reason) = (self.address.clone(), closing.reason.into());
                state.ended(Failure::Gone(Error::Ended { address, reason }));
                Ok(())
            }
        };
        let effects = state.effects();
        drop(state);
        self.perform(effects);
        booked
    }

    /// Ends the client: whatever is pending fails with `error`, unless it has ended before.
    pub(super) fn ended(&self, error: Error) {
        let mut state = self.lock();
        state.ended(Failure::Gone(error));
        let effects = state.effects();
        drop(state);
        self.perform(effects);
        self.joined.send_modify(|_| {});
    }

    /// Takes leave of the scheduler: what was appended still leaves, the rest is over.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.outbox.close();
            state.ended(Failure::Gone(Error::Closed { address: self.address.clone() }));
        }
        let effects = state.effects();
        drop(state);
        self.perform(effects);
        self.joined.send_modify(|_| {});
        self.write();
        self.rouse();
    }

    /// Whether the client was closed by its own side.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.lock().end, Some(Failure::Gone(Error::Closed { .. })))
    }

    /// Why nothing works any more, if so.
    pub(super) fn check(&self) -> Result<()> {
        match &self.lock().end {
            Some(end) => Err(end.of(String::new)),
            None => Ok(()),
        }
    }

    /// Why nothing works any more; for when an answer did not come.
    pub(super) fn end(&self) -> Error {
        let closed = || Error::Closed { address: self.address.clone() };
        self.check().err().unwrap_or_else(closed)
    }

    /// Asks a question.
    pub(super) async fn query(&self, question: &'static str, query: &Query) -> Result<String> {
        self.check()?;
        match self.ask(query).await {
            Ok(answer) => answer.map_err(|reason| Error::Refused { question, reason }),
            Err(_) => Err(self.end()),
        }
    }

    /// Sends a question; the receiver fails if the client ends before the answer.
    fn ask(&self, query: &Query) -> oneshot::Receiver<Result<String, String>> {
        let mut state = self.lock();
        let (number, reply) = state.expect_reply();
        state.outbox.query(number, query);
        self.appended(state, Urgency::Now);
        reply
    }

    /// Shows bars while values travel, or does not.
    pub(super) fn set_progress(&self, progress: Progress) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// A bar for a transfer of so many bytes.
    pub(super) fn bar(&self, what: &'static str, total_bytes: u64) -> Bar {
        Bar::new(*self.progress.lock().unwrap_or_else(PoisonError::into_inner), what, total_bytes)
    }

    /// The data address of a worker.
    pub(super) fn peer(&self, worker: WorkerId) -> Option<Arc<str>> {
        self.lock().peers.get(&worker).map(|place| Arc::clone(&place.address))
    }

    /// Whether all workers can map the memory of all others.
    pub(super) fn is_on_one_host(&self) -> bool {
        let peers = &self.lock().peers;
        let mut hosts = peers.values().map(|place| place.host);
        let first = hosts.next().flatten();
        first.is_some() && hosts.all(|host| host == first)
    }

    /// Waits for futures together.
    pub(super) fn wait(
        self: &Arc<Self>,
        ids: impl Iterator<Item = FutureId>,
        until: Until,
        after: Option<Duration>,
    ) -> Wait {
        let mut state = self.lock();
        let group = state.open_group(ids, until, after.map(|after| Instant::now() + after));
        let urgency = if state.groups.group(group).is_met() { Urgency::Soon } else { Urgency::Now };
        self.deadline_moved(&mut state, after.is_some());
        self.appended(state, urgency);
        Wait { session: self.clone(), group, after }
    }

    /// Lets the connection's thread look at the deadlines again.
    pub(super) fn deadline_moved(&self, state: &mut State, moved: bool) {
        if moved && state.io != Io::Awake {
            state.io = Io::Awake;
            self.line.wake();
        }
    }

    /// Sleeps until the connection's thread is woken.
    pub(super) async fn woken(&self) {
        self.line.woken().await;
    }
}

/// A wait for a group of futures; dropping it gives the wait up.
pub(crate) struct Wait {
    session: Arc<Session>,
    group: u32,
    after: Option<Duration>,
}

impl Wait {
    /// Waits until the group's condition is met, or fails with a time-out.
    pub(super) async fn met(&self) -> Result<()> {
        poll_fn(|cx| self.poll_met(cx)).await
    }

    /// [`met`](Self::met), polled.
    pub(super) fn poll_met(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let mut state = self.session.lock();
        let group = state.groups.group(self.group);
        if group.is_met() {
            return Poll::Ready(Ok(()));
        }
        if group.expired {
            let after = self.after.unwrap_or_default();
            return Poll::Ready(Err(Error::Timeout {
                left: group.pending,
                total: group.members.len(),
                after,
            }));
        }
        let parked = group.park(cx.waker());
        drop(state);
        drop(parked);
        Poll::Pending
    }

    /// Looks at the group, or changes it.
    pub(super) fn group<R>(&self, look: impl FnOnce(&mut Group) -> R) -> R {
        look(self.session.lock().groups.group(self.group))
    }

    /// Adds futures to the group.
    pub(super) fn join_all(&self, ids: impl Iterator<Item = FutureId>) {
        let mut state = self.session.lock();
        ids.for_each(|id| state.join_group(self.group, id));
        self.session.appended(state, Urgency::Soon);
    }

    /// The client whose futures these are.
    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Sets the deadline `after` from this moment.
    pub(super) fn set_deadline(&mut self, after: Duration) {
        self.after = Some(after);
        let mut state = self.session.lock();
        state.groups.set_deadline(self.group, Instant::now() + after);
        self.session.deadline_moved(&mut state, true);
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let closed = self.session.lock().close_group(self.group);
        drop(closed);
    }
}

/// The result of `future`, or None once `after` has passed.
pub(super) async fn within<T>(
    session: &Arc<Session>,
    after: Option<Duration>,
    future: impl Future<Output = T>,
) -> Option<T> {
    let Some(after) = after else { return Some(future.await) };
    // A group that waits for each of no futures is met never and expires in time.
    let timer = session.wait(std::iter::empty(), Until::Each, Some(after));
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => timer.poll_met(cx).map(|_| None),
    })
    .await
}

/// Callbacks run one after the other on a thread of their own, which ends with the client.
fn spawn_callbacks() -> mpsc::Sender<Box<dyn FnOnce() + Send>> {
    let (sender, receiver) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
    let spawned = std::thread::Builder::new().name("dcluster-callback".to_owned()).spawn(move || {
        for callback in receiver {
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(callback)).is_err() {
                tracing::warn!("a callback of a future panicked");
            }
        }
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "no thread for the callbacks of futures; they are not called");
    }
    sender
}
