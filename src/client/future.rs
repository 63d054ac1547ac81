//! A future: the handle on the result of a call, or on a scattered value.
//!
//! Handles of one future share a [`Reference`]; dropping the last gives the reference back to the cluster.
//! Large results are fetched by [`super::fetch`].

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::Force;
use super::call::Input;
use super::cancel::{self, Cancelling};
use super::error::{Error, Failure, Result};
use super::fetch;
use super::gather;
use super::group::Until;
use super::session::{Link, Session, Urgency};
use super::table::SlotState;
use crate::model::{Data, FutureId, Key, Value};
use crate::wire::client::Query;

/// The longest that `status` waits for the scheduler to say how a future is that nobody has asked about.
const STATUS: Duration = Duration::from_secs(1);

/// A result that is made or kept on the cluster.
///
/// It may be given to tasks in place of the value. `future.await`, or [`result`](Self::result), waits for the
/// value and brings it here. A clone is another handle of the same reference; when the last handle is dropped,
/// the cluster may forget the result.
///
/// `M` says whether waiting is [`Async`] or [`Blocking`]; [`blocking::Future`](super::blocking::Future) is the
/// latter.
///
/// ```
/// use dcluster::prelude::*;
///
/// #[dcluster::task]
/// fn half(x: i64) -> Result<i64, String> {
///     if x % 2 == 0 { Ok(x / 2) } else { Err(format!("{x} is odd")) }
/// }
///
/// #[dcluster::main]
/// async fn main(client: Client) -> dcluster::Result<()> {
///     let good = client.submit(half::call(6));
///     assert_eq!(good.result().await?, 3);
///     assert_eq!(good.status(), Status::Finished);
///     assert!(format!("{good:?}").starts_with("<Future: finished, type: i64, key: half-"));
///
///     let bad = client.submit(half::call(7));
///     let after = client.submit(half::call(&bad)); // fails with the error of `bad`
///     assert!(after.exception().await.unwrap().to_string().contains("7 is odd"));
///     assert_eq!(after.status(), Status::Error);
///
///     let unwanted = client.submit(half::call(8));
///     unwanted.cancel().await?; // from here on it does not start, if it has not
///     assert!(unwanted.done() && unwanted.cancelled());
///     assert!(matches!(unwanted.result().await, Err(Error::Cancelled { .. })));
///     Ok(())
/// }
/// ```
pub struct Future<T, M = Async> {
    reference: Arc<Reference>,
    result: PhantomData<fn() -> (T, M)>,
}

/// Marks what waits by `.await`.
#[derive(Debug, Clone, Copy)]
pub enum Async {}

/// Marks what waits on the calling thread.
#[derive(Debug, Clone, Copy)]
pub enum Blocking {}

/// How a future is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Its task waits or runs.
    Pending,
    /// There is a result.
    Finished,
    /// Its task failed, or one that it needs.
    Error,
    /// It was cancelled.
    Cancelled,
    /// The cluster or the connection to it has gone, and the result with it.
    Lost,
}

/// What the handles of one future share.
pub(crate) struct Reference {
    link: Arc<Link>,
    id: FutureId,
    key: Key,
    name: Name,
    value: OnceLock<Value>,
}

/// What people call a key.
#[derive(Debug, Clone)]
pub(crate) enum Name {
    /// A function's short name, before the digits of the key.
    Function(&'static str),
    /// The user gave it.
    Given(Arc<str>),
}

impl<T, M> Future<T, M> {
    pub(crate) fn new(link: Arc<Link>, id: FutureId, key: Key, name: Name) -> Self {
        Self {
            reference: Arc::new(Reference { link, id, key, name, value: OnceLock::new() }),
            result: PhantomData,
        }
    }

    /// The future whose input this is; None if it is no client's.
    pub(crate) fn from_input(input: &Input) -> Option<Self> {
        let reference = input.hold.clone().downcast().ok()?;
        Some(Self { reference, result: PhantomData })
    }

    /// A future of no client, to look at calls without a cluster.
    #[doc(hidden)]
    pub fn of(input: Input) -> Self {
        static NOWHERE: OnceLock<Arc<Link>> = OnceLock::new();
        let link = NOWHERE
            .get_or_init(|| Arc::new(Link { session: Arc::new(Session::detached()), connection_file: None }));
        Self::new(link.clone(), input.future, input.key, Name::Function("nowhere"))
    }

    /// The key as people see it: the function's name and the key's digits, or the name that the user gave.
    pub fn key(&self) -> String {
        self.reference.key()
    }

    /// How it is.
    ///
    /// If nothing has asked about this future before, the scheduler is asked and its answer awaited, which
    /// takes a fraction of a millisecond.
    pub fn status(&self) -> Status {
        self.reference.ask();
        self.reference.status()
    }

    /// Whether it has finished, failed, or was cancelled or lost.
    pub fn done(&self) -> bool {
        self.status() != Status::Pending
    }

    /// Whether it was cancelled.
    pub fn cancelled(&self) -> bool {
        self.status() == Status::Cancelled
    }

    /// Runs a failed task again, and the failed ones that it needs. Does nothing unless it failed.
    pub fn retry(&self) {
        let session = self.session();
        let mut state = session.lock();
        state.retry(self.reference.id);
        session.appended(state, Urgency::Soon);
    }

    /// Gives this handle back; the same as dropping it.
    pub fn release(self) {}

    /// Calls `callback` once, when this future is done or at once if it is.
    ///
    /// Callbacks of a client run one after the other on a thread of their own, where they may wait for
    /// futures.
    pub fn add_done_callback(&self, callback: impl FnOnce(Self) + Send + 'static)
    where
        T: 'static,
        M: 'static,
    {
        let future = self.clone();
        let session = self.session();
        let mut state = session.lock();
        state.call_back(self.reference.id, Box::new(move || callback(future)));
        session.appended(state, Urgency::Soon);
    }

    pub(super) fn begin_cancel(&self) -> Cancelling {
        cancel::cancel(self.session(), std::slice::from_ref(self), Force::No, "its holder called `cancel`")
    }

    /// What a call holds if this future is one of its arguments.
    pub fn input(&self) -> Input {
        Input { future: self.reference.id, key: self.reference.key, hold: self.reference.clone() }
    }

    /// The same future, waited for in the other way.
    pub(super) fn waited<N>(self) -> Future<T, N> {
        Future { reference: self.reference, result: PhantomData }
    }

    pub(crate) fn reference(&self) -> &Arc<Reference> {
        &self.reference
    }

    pub(super) fn session(&self) -> &Arc<Session> {
        &self.reference.link.session
    }

    pub(super) fn id(&self) -> FutureId {
        self.reference.id
    }
}

impl<T> Future<T> {
    /// Cancels it: at once here, and on the cluster if nobody else wants the result.
    ///
    /// What is returned may be dropped. Awaited, it is over when the task, if it has not started by then, cannot
    /// start any more; a task that runs goes on, and its result is dropped.
    ///
    /// # Errors
    /// That of a connection that was lost or closed before the answer came.
    pub fn cancel(&self) -> Cancelling {
        self.begin_cancel()
    }

    /// Waits until it is done, and returns why it failed; None if it did not.
    pub async fn exception(&self) -> Option<Error> {
        self.reference.settled(None).await.err()
    }

    /// Waits until it is done, and returns the stack of its failure; None if it did not fail.
    ///
    /// A failure that has no stack, such as an error that a task returned, gives the chain of its causes and
    /// where it happened.
    pub async fn traceback(&self) -> Option<String> {
        match self.exception().await? {
            Error::Task(error) => Some(format!("{error:#}")),
            other => Some(other.to_string()),
        }
    }
}

impl<T: Data> Future<T> {
    /// Waits for the result.
    ///
    /// # Errors
    /// The task's own error, and whatever else keeps the result away: it was cancelled, its data were lost,
    /// the connection broke.
    pub async fn result(&self) -> Result<T> {
        self.reference.settled(None).await?;
        self.take().await
    }

    /// Waits for the result, for at most `timeout`.
    ///
    /// # Errors
    /// As [`result`](Self::result), and [`Error::Timeout`].
    pub async fn result_timeout(&self, timeout: Duration) -> Result<T> {
        self.reference.settled(Some(timeout)).await?;
        self.take().await
    }

    /// Waits for the result, and keeps it here: the next call shares the same value.
    ///
    /// # Errors
    /// As [`result`](Self::result).
    pub async fn result_shared(&self) -> Result<Arc<T>> {
        if let Some(value) = self.reference.value.get().and_then(Value::downcast) {
            return Ok(value);
        }
        let value = Arc::new(self.result().await?);
        let _ = self.reference.value.set(Value::share(value.clone()));
        Ok(value)
    }

    /// The result of a future that is done.
    async fn take(&self) -> Result<T> {
        let brought = gather::bring_one(&self.reference).await?;
        fetch::unpacked(&self.reference, brought)
    }
}

impl Reference {
    pub(super) fn id(&self) -> FutureId {
        self.id
    }

    pub(super) fn session(&self) -> &Arc<Session> {
        &self.link.session
    }

    /// The key as people see it.
    pub(crate) fn key(&self) -> String {
        match &self.name {
            Name::Function(function) => format!("{function}-{}", self.key),
            Name::Given(name) => name.to_string(),
        }
    }

    /// The name by which progress counts it.
    pub(super) fn group(&self) -> &str {
        match &self.name {
            Name::Function(function) => function,
            Name::Given(name) => name,
        }
    }

    /// Waits until it is done.
    pub(super) async fn settled(&self, timeout: Option<Duration>) -> Result<()> {
        if let Some(known) = self.known() {
            return known;
        }
        self.session().wait(std::iter::once(self.id), Until::All, timeout).met().await?;
        self.known().unwrap_or(Ok(()))
    }

    /// Whether it has a result or an error; None while it is pending.
    pub(super) fn known(&self) -> Option<Result<()>> {
        match &self.session().lock().table.slot(self.id)?.state {
            SlotState::Vacant | SlotState::Pending => None,
            SlotState::Inline(_) | SlotState::Stored(_) => Some(Ok(())),
            SlotState::Failed(failure) => Some(Err(failure.of(|| self.key()))),
        }
    }

    /// How it is, as far as that is known here.
    pub(super) fn status(&self) -> Status {
        let mut state = self.session().lock();
        match state.table.slot(self.id).map(|slot| &slot.state) {
            Some(SlotState::Inline(_) | SlotState::Stored(_)) => Status::Finished,
            Some(SlotState::Failed(failure)) => match &**failure {
                Failure::Task(_) => Status::Error,
                Failure::Cancelled(_) => Status::Cancelled,
                Failure::Gone(_) => Status::Lost,
            },
            _ => Status::Pending,
        }
    }

    /// Asks how it is, once, and waits for the answer: a question after the watch is answered after the
    /// outcome.
    fn ask(&self) {
        let session = self.session();
        let mut state = session.lock();
        let unknown = state.table.slot(self.id).is_some_and(|slot| !slot.watched && !slot.state.is_done());
        if !unknown || session.is_own_thread() {
            return;
        }
        state.watch(self.id);
        let (number, reply) = state.expect_reply();
        state.outbox.query(number, &Query::WhoHas { futures: Vec::new() });
        session.appended(state, Urgency::Now);
        let _ = super::blocking::wait_for(super::session::within(session, Some(STATUS), reply));
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let session = self.session();
        let mut state = session.lock();
        state.release(self.id);
        session.appended(state, Urgency::Later);
    }
}

impl<T, M> Clone for Future<T, M> {
    fn clone(&self) -> Self {
        Self { reference: self.reference.clone(), result: PhantomData }
    }
}

impl<T, M> fmt::Debug for Future<T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match &self.reference.name {
            Name::Function(function) => {
                let digits = self.reference.key.to_string();
                format!("{function}-{}…", &digits[..4])
            }
            Name::Given(name) => name.to_string(),
        };
        write!(f, "<Future: {}, type: {}, key: {name}>", self.status(), std::any::type_name::<T>())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending => "pending",
            Self::Finished => "finished",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
        })
    }
}

impl<T: Data> IntoFuture for Future<T> {
    type Output = Result<T>;
    type IntoFuture = Pin<Box<dyn std::future::Future<Output = Result<T>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { self.result().await })
    }
}

impl<'a, T: Data> IntoFuture for &'a Future<T> {
    type Output = Result<T>;
    type IntoFuture = Pin<Box<dyn std::future::Future<Output = Result<T>> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.result())
    }
}
