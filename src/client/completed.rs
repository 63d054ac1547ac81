//! Futures in the order in which they are done.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt};

use super::error::{Error, Result};
use super::future::{Async, Future};
use super::group::Until;
use super::session::{Session, Wait};
use crate::model::Data;

/// Futures in the order in which they are done; a stream.
///
/// Failed, cancelled and lost ones are yielded too. More can be added at any time; one that is added twice is
/// yielded twice.
pub struct AsCompleted<T, M = Async> {
    wait: Wait,
    futures: Vec<Option<Future<T, M>>>,
    left: usize,
}

/// [`AsCompleted`] with a deadline: a stream of results, whose last is the time-out if it came to that.
pub struct Timed<T, M = Async> {
    inner: AsCompleted<T, M>,
    is_over: bool,
}

impl<T, M> AsCompleted<T, M> {
    pub(super) fn new(session: &Arc<Session>, futures: impl IntoIterator<Item = Future<T, M>>) -> Self {
        let wait = session.wait(std::iter::empty(), Until::Each, None);
        let mut completed = Self { wait, futures: Vec::new(), left: 0 };
        completed.update(futures);
        completed
    }

    /// Adds a future.
    pub fn add(&mut self, future: Future<T, M>) {
        self.update([future]);
    }

    /// Adds futures.
    ///
    /// # Panics
    /// If one is of another client.
    pub fn update(&mut self, futures: impl IntoIterator<Item = Future<T, M>>) {
        let from = self.futures.len();
        self.futures.extend(futures.into_iter().map(Some));
        let added = || self.futures[from..].iter().flatten();
        for future in added() {
            assert!(
                Arc::ptr_eq(future.session(), self.wait.session()),
                "`{}` is a future of another client",
                future.key()
            );
        }
        self.wait.join_all(added().map(Future::id));
        self.left += self.futures.len() - from;
    }

    /// How many futures are still to be yielded, done or not. (`count` would use an iterator up.)
    pub fn left(&self) -> usize {
        self.left
    }

    /// Whether all were yielded.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Whether a future is done and not yet yielded.
    pub fn has_ready(&self) -> bool {
        self.wait.group(|group| !group.ready.is_empty())
    }

    /// Forgets all futures that were not yielded.
    pub fn clear(&mut self) {
        let session = self.wait.session().clone();
        *self = Self::new(&session, std::iter::empty());
    }

    /// Ends with a time-out `after` from this moment unless all are done by then.
    #[must_use]
    pub fn timeout(mut self, after: Duration) -> Timed<T, M> {
        self.wait.set_deadline(after);
        Timed { inner: self, is_over: false }
    }

    pub(super) fn take_ready(&mut self) -> Vec<Future<T, M>> {
        let ready: VecDeque<u32> = self.wait.group(|group| std::mem::take(&mut group.ready));
        self.left -= ready.len();
        ready.into_iter().filter_map(|index| self.futures[index as usize].take()).collect()
    }

    pub(super) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Future<T, M>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if let Err(error) = ready!(self.wait.poll_met(cx)) {
            return Poll::Ready(Some(Err(match error {
                Error::Timeout { after, .. } => {
                    Error::Timeout { left: self.left, total: self.futures.len(), after }
                }
                other => other,
            })));
        }
        let index = self.wait.group(|group| group.ready.pop_front());
        self.left -= 1;
        let future = index.and_then(|index| self.futures[index as usize].take());
        Poll::Ready(future.map(Ok))
    }
}

impl<T> AsCompleted<T> {
    /// The next future that is done; None when all were yielded.
    pub async fn next(&mut self) -> Option<Future<T>> {
        StreamExt::next(self).await
    }

    /// All futures that were done since the last, at least one; None when all were yielded.
    pub async fn next_batch(&mut self) -> Option<Vec<Future<T>>> {
        let first = self.next().await?;
        let mut batch = vec![first];
        batch.extend(self.take_ready());
        Some(batch)
    }

    /// A stream of batches, each with all that were done since the last.
    pub fn batches(self) -> impl Stream<Item = Vec<Future<T>>> + Unpin + Send
    where
        T: Send + 'static,
    {
        Box::pin(futures_util::stream::unfold(self, |mut completed| async move {
            completed.next_batch().await.map(|batch| (batch, completed))
        }))
    }

    /// A stream of each future with its result.
    pub fn with_results(self) -> impl Stream<Item = (Future<T>, Result<T>)> + Unpin + Send
    where
        T: Data,
    {
        Box::pin(futures_util::stream::unfold(self, |mut completed| async move {
            completed.next_with_result().await.map(|pair| (pair, completed))
        }))
    }

    /// The next future that is done, with its result; None when all were yielded.
    pub async fn next_with_result(&mut self) -> Option<(Future<T>, Result<T>)>
    where
        T: Data,
    {
        let future = self.next().await?;
        let result = future.result().await;
        Some((future, result))
    }
}

impl<T> Stream for AsCompleted<T> {
    type Item = Future<T>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Future<T>>> {
        // Without a deadline there is no error.
        self.get_mut().poll_done(cx).map(|next| next.and_then(Result::ok))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, None)
    }
}

impl<T, M> Timed<T, M> {
    /// The futures that were not yielded; more can be added.
    pub fn futures(&mut self) -> &mut AsCompleted<T, M> {
        &mut self.inner
    }

    pub(super) fn poll_timed(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Future<T, M>>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let next = ready!(self.inner.poll_done(cx));
        self.is_over = !matches!(next, Some(Ok(_)));
        Poll::Ready(next)
    }
}

impl<T> Timed<T> {
    /// The next future that is done; None after all, or after the time-out.
    ///
    /// # Errors
    /// [`Error::Timeout`] once the time is up.
    pub async fn next(&mut self) -> Option<Result<Future<T>>> {
        StreamExt::next(self).await
    }
}

impl<T> Stream for Timed<T> {
    type Item = Result<Future<T>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Future<T>>>> {
        self.get_mut().poll_timed(cx)
    }
}
