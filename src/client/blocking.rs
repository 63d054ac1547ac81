//! The client without `async`: the same names, and calls that wait.
//!
//! Everything here waits on the calling thread for what the [`async` client](super::Client) does. It may be
//! used anywhere but in a callback that must not block, also inside an async runtime.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::Duration;

use super::error::{Error, Result};
use super::future::Blocking;
use super::gather::{Gather, OnError};
use super::map::Inputs;
use super::{Call, Force, Keyed, Progress, Rebalanced, ReturnWhen, ScatterOptions, scatter, submit, wait};
use crate::client;
use crate::model::{Copies, Data, Value, WorkerId};
use crate::security::{ConnectionFile, Selector};
use crate::wire::client::Query;

/// A connection to a cluster; see [`client::Client`].
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
/// fn main(client: blocking::Client) -> dcluster::Result<()> {
///     let futures = client.map(inc::call, 0..3);
///     for future in client.as_completed(futures.clone()) {
///         assert!(future.done());
///     }
///     assert_eq!(client.gather(&futures)?, [1, 2, 3]);
///     assert_eq!(client.submit(inc::call(&futures[2])).result()?, 4);
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Client {
    inner: client::Client,
}

/// A result that is made or kept on the cluster, waited for on the calling thread.
pub type Future<T> = client::Future<T, Blocking>;

/// Futures in the order in which they are done; an iterator.
pub type AsCompleted<T> = client::AsCompleted<T, Blocking>;

/// [`AsCompleted`] with a deadline; an iterator.
pub type Timed<T> = client::Timed<T, Blocking>;

/// The futures of a wait, as it found them.
pub type Done<T> = client::Done<T, Blocking>;

impl Client {
    /// Connects to the cluster that a connection file describes.
    ///
    /// # Errors
    /// As [`client::Client::connect`].
    pub fn connect(file: impl AsRef<Path>) -> Result<Self> {
        wait_for(client::Client::connect(file)).map(Self::from)
    }

    /// Connects to the cluster that `selector` means: a file, a job's, or the only one that runs.
    ///
    /// # Errors
    /// As [`client::Client::find`].
    pub fn find(selector: &Selector) -> Result<Self> {
        wait_for(client::Client::find(selector)).map(Self::from)
    }

    /// Connects with the content of a connection file.
    ///
    /// # Errors
    /// As [`client::Client::connect_with`].
    pub fn connect_with(file: ConnectionFile) -> Result<Self> {
        wait_for(client::Client::connect_with(file)).map(Self::from)
    }

    /// The connection file by which the cluster was found, and by which other clients find it.
    pub fn connection_file(&self) -> Option<&Path> {
        self.inner.connection_file()
    }

    /// The scheduler's `host:port`.
    pub fn address(&self) -> &str {
        self.inner.address()
    }

    /// Submits a call and returns at once.
    pub fn submit<T>(&self, call: Call<T>) -> Future<T> {
        submit::submit(self.inner.link(), call)
    }

    /// Submits a call for each input, or for each combination of zipped inputs until the shortest ends.
    pub fn map<F, A, I: Inputs<F, A>>(&self, function: F, inputs: I) -> Vec<Future<I::Output>> {
        submit::submit_all(self.inner.link(), inputs.calls(function))
    }

    /// Waits for all futures in a container and returns the same container with their results.
    ///
    /// # Errors
    /// As [`client::Client::gather`].
    pub fn gather<G: Gather>(&self, futures: G) -> Result<G::Output> {
        wait_for(self.inner.gather(futures))
    }

    /// [`gather`](Self::gather), which may leave out what failed.
    ///
    /// # Errors
    /// As [`client::Client::gather_with`].
    pub fn gather_with<G: Gather>(&self, on_error: OnError, futures: G) -> Result<G::Output> {
        wait_for(self.inner.gather_with(on_error, futures))
    }

    /// Sends a value to a worker, and returns its future when it is there.
    ///
    /// # Errors
    /// As [`client::Client::scatter`].
    pub fn scatter<T: Data>(&self, value: T) -> Result<Future<T>> {
        wait_for(self.inner.scatter(value)).map(client::Future::waited)
    }

    /// [`scatter`](Self::scatter) with options.
    ///
    /// # Errors
    /// As [`client::Client::scatter`].
    pub fn scatter_with<T: Data>(&self, value: T, options: &ScatterOptions) -> Result<Future<T>> {
        wait_for(self.inner.scatter_with(value, options)).map(client::Future::waited)
    }

    /// Sends a value that this program keeps; see [`client::Client::scatter_shared`].
    ///
    /// # Errors
    /// As [`client::Client::scatter`].
    pub fn scatter_shared<T: Data>(&self, value: Arc<T>, options: &ScatterOptions) -> Result<Future<T>> {
        wait_for(self.inner.scatter_shared(value, options)).map(client::Future::waited)
    }

    /// Sends each of these values to a worker, spread over all; see [`client::Client::scatter_all`].
    ///
    /// # Errors
    /// As [`client::Client::scatter`].
    pub fn scatter_all<T: Data>(&self, values: impl IntoIterator<Item = T>) -> Result<Vec<Future<T>>> {
        self.scatter_all_with(values, &ScatterOptions::default())
    }

    /// [`scatter_all`](Self::scatter_all) with options.
    ///
    /// # Errors
    /// As [`client::Client::scatter`].
    pub fn scatter_all_with<T: Data>(
        &self,
        values: impl IntoIterator<Item = T>,
        options: &ScatterOptions,
    ) -> Result<Vec<Future<T>>> {
        wait_for(scatter::scatter(self.inner.link(), values.into_iter().map(Value::new), options))
    }

    /// Sends each value of a map, or of a list of pairs, to a worker; the same container of futures comes back.
    ///
    /// # Errors
    /// As [`client::Client::scatter`].
    pub fn scatter_map<C: Keyed<Value: Data>>(&self, map: C) -> Result<C::With<Future<C::Value>>> {
        self.scatter_map_with(map, &ScatterOptions::default())
    }

    /// [`scatter_map`](Self::scatter_map) with options.
    ///
    /// # Errors
    /// As [`client::Client::scatter`].
    pub fn scatter_map_with<C: Keyed<Value: Data>>(
        &self,
        map: C,
        options: &ScatterOptions,
    ) -> Result<C::With<Future<C::Value>>> {
        wait_for(scatter::scatter_map(self.inner.link(), map, options))
    }

    /// Waits for futures together.
    ///
    /// # Errors
    /// [`Error::Timeout`], which says how many are left.
    pub fn wait<T, F: Borrow<Future<T>>>(
        &self,
        futures: impl IntoIterator<Item = F>,
        return_when: ReturnWhen,
        timeout: Option<Duration>,
    ) -> Result<Done<T>> {
        let futures = futures.into_iter().map(|future| future.borrow().clone()).collect();
        wait_for(wait::wait(&self.inner.link().session, futures, return_when, timeout))
    }

    /// Yields futures in the order in which they are done; failed and cancelled ones too.
    pub fn as_completed<T>(&self, futures: impl IntoIterator<Item = Future<T>>) -> AsCompleted<T> {
        AsCompleted::new(&self.inner.link().session, futures)
    }

    /// Cancels futures, and waits until no task that was stopped can start any more; see
    /// [`client::Client::cancel`].
    ///
    /// # Errors
    /// As [`client::Client::cancel`].
    pub fn cancel<T, F: Borrow<Future<T>>>(
        &self,
        futures: impl IntoIterator<Item = F>,
        force: Force,
        reason: &str,
    ) -> Result<()> {
        wait_for(self.inner.cancel(asynchronous(futures), force, reason))
    }

    /// Runs failed tasks again, and the failed ones that they need.
    pub fn retry<T, F: Borrow<Future<T>>>(&self, futures: impl IntoIterator<Item = F>) {
        self.inner.retry(asynchronous(futures));
    }

    /// Workers, tasks by state and clients, as JSON.
    ///
    /// # Errors
    /// As [`client::Client::status`].
    pub fn status(&self) -> Result<String> {
        wait_for(self.inner.status())
    }

    /// What happened to a key, as JSON.
    ///
    /// # Errors
    /// As [`client::Client::story`].
    pub fn story(&self, key: &str) -> Result<String> {
        wait_for(self.inner.story(key))
    }

    /// The scheduler's answer to a question, as JSON.
    ///
    /// # Errors
    /// As [`client::Client::query`].
    pub fn query(&self, query: Query) -> Result<String> {
        wait_for(self.inner.query(query))
    }

    /// Makes copies of values; see [`client::Client::replicate`].
    ///
    /// # Errors
    /// As [`client::Client::replicate`].
    pub fn replicate<T, F: Borrow<Future<T>>>(
        &self,
        futures: impl IntoIterator<Item = F>,
        copies: impl Into<Copies>,
    ) -> Result<()> {
        wait_for(self.inner.replicate(asynchronous(futures), copies))
    }

    /// Moves values from full workers to empty ones; see [`client::Client::rebalance`].
    ///
    /// # Errors
    /// As [`client::Client::rebalance`].
    pub fn rebalance<T, F: Borrow<Future<T>>>(
        &self,
        futures: impl IntoIterator<Item = F>,
    ) -> Result<Rebalanced> {
        wait_for(self.inner.rebalance(asynchronous(futures)))
    }

    /// Moves any values on the cluster from full workers to empty ones; see [`client::Client::rebalance_all`].
    ///
    /// # Errors
    /// As [`client::Client::rebalance_all`].
    pub fn rebalance_all(&self) -> Result<Rebalanced> {
        wait_for(self.inner.rebalance_all())
    }

    /// The workers that hold each future's value, by its key; see [`client::Client::who_has`].
    ///
    /// # Errors
    /// As [`client::Client::query`].
    pub fn who_has<T, F: Borrow<Future<T>>>(
        &self,
        futures: impl IntoIterator<Item = F>,
    ) -> Result<BTreeMap<String, Vec<WorkerId>>> {
        wait_for(self.inner.who_has(asynchronous(futures)))
    }

    /// The values that each of these workers holds, by key with their packed sizes; see
    /// [`client::Client::has_what`].
    ///
    /// # Errors
    /// As [`client::Client::query`].
    pub fn has_what(
        &self,
        workers: impl IntoIterator<Item = WorkerId>,
    ) -> Result<BTreeMap<WorkerId, BTreeMap<String, u64>>> {
        wait_for(self.inner.has_what(workers))
    }

    /// The packed size of each future's value, by its key; those that have none yet are left out.
    ///
    /// # Errors
    /// As [`client::Client::query`].
    pub fn nbytes<T, F: Borrow<Future<T>>>(
        &self,
        futures: impl IntoIterator<Item = F>,
    ) -> Result<BTreeMap<String, u64>> {
        wait_for(self.inner.nbytes(asynchronous(futures)))
    }

    /// Waits until `count` workers are there; those that have left do not count.
    ///
    /// # Errors
    /// [`Error::Workers`] when the time is up.
    pub fn wait_for_workers(&self, count: usize, timeout: Option<Duration>) -> Result<()> {
        wait_for(self.inner.wait_for_workers(count, timeout))
    }

    /// Waits until all are done, with a bar per function if standard error is a terminal.
    pub fn progress<T, F: Borrow<Future<T>>>(&self, futures: impl IntoIterator<Item = F>) {
        wait_for(self.inner.progress(asynchronous(futures)));
    }

    /// Whether a bar shows how far a large scatter or gather is; see [`client::Client::set_progress`].
    pub fn set_progress(&self, progress: Progress) {
        self.inner.set_progress(progress);
    }

    /// Closes the connection and gives every reference back; later calls fail.
    pub fn close(&self) {
        wait_for(self.inner.close());
    }

    /// Ends the cluster, all ranks, with this exit code, and closes the connection.
    ///
    /// # Errors
    /// As [`client::Client::shutdown`].
    pub fn shutdown(&self, code: i32) -> Result<()> {
        wait_for(self.inner.shutdown(code))
    }
}

impl<T> Future<T> {
    /// Cancels it, and waits until its task, if it has not started by then, cannot start any more; see
    /// [`client::Future::cancel`].
    ///
    /// # Errors
    /// As [`client::Future::cancel`].
    pub fn cancel(&self) -> Result<()> {
        wait_for(self.begin_cancel())
    }

    /// Waits until it is done, and returns why it failed; None if it did not.
    pub fn exception(&self) -> Option<Error> {
        wait_for(self.as_async().exception())
    }

    /// Waits until it is done, and returns the stack of its failure; None if it did not fail.
    pub fn traceback(&self) -> Option<String> {
        wait_for(self.as_async().traceback())
    }

    /// The same future for an async program.
    pub fn as_async(&self) -> client::Future<T> {
        self.clone().waited()
    }
}

impl<T> client::Future<T> {
    /// The same future for a program without `async`: such as one of the blocks of a persisted array.
    pub fn as_blocking(&self) -> Future<T> {
        self.clone().waited()
    }
}

impl<T: Data> Future<T> {
    /// Waits for the result.
    ///
    /// # Errors
    /// As [`client::Future::result`].
    pub fn result(&self) -> Result<T> {
        wait_for(self.as_async().result())
    }

    /// Waits for the result, for at most `timeout`.
    ///
    /// # Errors
    /// As [`result`](Self::result), and [`Error::Timeout`].
    pub fn result_timeout(&self, timeout: Duration) -> Result<T> {
        wait_for(self.as_async().result_timeout(timeout))
    }

    /// Waits for the result, and keeps it here: the next call shares the same value.
    ///
    /// # Errors
    /// As [`result`](Self::result).
    pub fn result_shared(&self) -> Result<Arc<T>> {
        wait_for(self.as_async().result_shared())
    }
}

impl<T> AsCompleted<T> {
    /// All futures that were done since the last, at least one; None when all were yielded.
    pub fn next_batch(&mut self) -> Option<Vec<Future<T>>> {
        let first = self.next()?;
        let mut batch = vec![first];
        batch.extend(self.take_ready());
        Some(batch)
    }

    /// An iterator of batches, each with all that were done since the last.
    pub fn batches(mut self) -> impl Iterator<Item = Vec<Future<T>>> {
        std::iter::from_fn(move || self.next_batch())
    }

    /// An iterator of each future with its result.
    pub fn with_results(mut self) -> impl Iterator<Item = (Future<T>, Result<T>)>
    where
        T: Data,
    {
        std::iter::from_fn(move || {
            let future = self.next()?;
            let result = future.result();
            Some((future, result))
        })
    }
}

impl<T> Iterator for AsCompleted<T> {
    type Item = Future<T>;

    fn next(&mut self) -> Option<Future<T>> {
        // Without a deadline there is no error.
        wait_for(poll_fn(|cx| self.poll_done(cx)))?.ok()
    }
}

impl<T> Iterator for Timed<T> {
    type Item = Result<Future<T>>;

    fn next(&mut self) -> Option<Result<Future<T>>> {
        wait_for(poll_fn(|cx| self.poll_timed(cx)))
    }
}

impl Client {
    /// The client that is waited for.
    pub(crate) fn inner(&self) -> &client::Client {
        &self.inner
    }
}

impl From<client::Client> for Client {
    fn from(inner: client::Client) -> Self {
        Self { inner }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

fn asynchronous<T, F: Borrow<Future<T>>>(
    futures: impl IntoIterator<Item = F>,
) -> impl Iterator<Item = client::Future<T>> {
    futures.into_iter().map(|future| future.borrow().as_async())
}

/// Waits on the calling thread.
pub(super) fn wait_for<F: std::future::Future>(future: F) -> F::Output {
    let waker = Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::park();
    }
}

/// Wakes a parked thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
