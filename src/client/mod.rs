//! The client: submits calls to a cluster and hands out futures of their results.
//!
//! [`Client`] and [`Future`] are what programs use, [`blocking`](mod@blocking) has the same without `async`.
//! Inside, a [`session`] is a [`state`] under a lock and a [`line`] to the scheduler, which [`resume`] mends
//! when it breaks; everything else is a way to wait for futures ([`wait`], [`completed`], [`gather`]) or to move values ([`fetch`], [`scatter`]).

pub mod argument;
pub mod blocking;
pub mod call;
mod cancel;
mod completed;
mod connect;
mod error;
mod fetch;
pub mod future;
mod gather;
mod group;
mod line;
mod map;
mod progress;
mod resume;
mod scatter;
mod session;
mod state;
mod submit;
mod table;
mod wait;

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use argument::IntoArgument;
pub use call::Call;
pub use cancel::Cancelling;
pub use completed::{AsCompleted, Timed};
pub use error::{Error, Result};
pub use future::{Async, Blocking, Future, Status};
pub use gather::{Gather, OnError};
pub use map::Inputs;
pub use scatter::{Hash, ScatterOptions};
pub use wait::{Done, ReturnWhen};

use crate::model::{Data, WorkerId};
use crate::security::{ConnectionFile, Selector};
use crate::wire::client::Query;
use session::{Link, Urgency, within};

/// Whether a cancel also takes the result from others who want it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Force {
    /// It does not.
    #[default]
    No,
    /// It does.
    Yes,
}

/// A connection to a cluster.
///
/// A clone is another handle of the same connection. It is closed by [`close`](Self::close), or when the last
/// handle and the last of its futures are dropped.
///
/// Submitting never waits: `submit` and `map` return futures at once, and calls leave in batches.
///
/// If the connection breaks the client connects again by itself and goes on where it was. The cluster keeps its futures
/// for a lease, 60 s unless it was started with another; after that every call is [`Error::LeaseExpired`].
///
/// ```
/// use dcluster::prelude::*;
///
/// #[dcluster::task]
/// fn inc(x: i64) -> i64 {
///     x + 1
/// }
///
/// #[dcluster::task]
/// fn add(x: i64, y: i64) -> i64 {
///     x + y
/// }
///
/// #[dcluster::main]
/// async fn main(client: Client) -> dcluster::Result<()> {
///     let xs = client.map(inc::call, 0..4);
///     let sums = client.map(add::call, (&xs, 10..)); // zipped, until the shorter one ends
///     assert_eq!(client.gather(&sums).await?, [11, 13, 15, 17]);
///
///     // An equal call is the same task: it does not run again.
///     let again = client.submit(inc::call(0));
///     assert_eq!(again.key(), xs[0].key());
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Client {
    link: Arc<Link>,
}

impl Client {
    /// Connects to the cluster that a connection file describes.
    ///
    /// # Errors
    /// [`Error::Connect`] if the file cannot be used or nobody answers as it says.
    pub async fn connect(file: impl AsRef<Path>) -> Result<Self> {
        let path = file.as_ref();
        Self::connect_as(connect::read_file(path)?, Some(path)).await
    }

    /// Connects to the cluster that `selector` means: a file, a job's, or the only one that runs.
    ///
    /// # Errors
    /// [`Error::Connect`] if there is not exactly one, or if it does not answer.
    pub async fn find(selector: &Selector) -> Result<Self> {
        let (path, file) = connect::find(selector)?;
        Self::connect_as(file, Some(&path)).await
    }

    /// Connects with the content of a connection file.
    ///
    /// # Errors
    /// [`Error::Connect`] if nobody answers at its address, or somebody else.
    pub async fn connect_with(file: ConnectionFile) -> Result<Self> {
        Self::connect_as(file, None).await
    }

    async fn connect_as(file: ConnectionFile, path: Option<&Path>) -> Result<Self> {
        let session = connect::connect(file, path).await?;
        Ok(Self { link: Arc::new(Link { session, connection_file: path.map(Path::to_owned) }) })
    }

    /// The connection file by which the cluster was found, and by which other clients find it.
    pub fn connection_file(&self) -> Option<&Path> {
        self.link.connection_file.as_deref()
    }

    /// The scheduler's `host:port`.
    pub fn address(&self) -> &str {
        &self.link.session.address
    }

    /// Submits a call and returns at once.
    ///
    /// Whatever is wrong with the call, or with the client, is the error of the future.
    pub fn submit<T>(&self, call: Call<T>) -> Future<T> {
        submit::submit(&self.link, call)
    }

    /// Submits a call for each input, or for each combination of zipped inputs until the shortest ends.
    ///
    /// `map(inc::call, xs)`, `map(add::call, (xs, ys))`.
    pub fn map<F, A, I: Inputs<F, A>>(&self, function: F, inputs: I) -> Vec<Future<I::Output>> {
        submit::submit_all(&self.link, inputs.calls(function))
    }

    /// Waits for all futures in a container and returns the same container with their results.
    ///
    /// # Errors
    /// The first error among the futures, as soon as one has failed.
    pub async fn gather<G: Gather>(&self, futures: G) -> Result<G::Output> {
        self.gather_with(OnError::Raise, futures).await
    }

    /// [`gather`](Self::gather), which may leave out what failed.
    ///
    /// ```
    /// # use dcluster::prelude::*;
    /// # #[dcluster::task] fn parse(text: String) -> Result<i64, std::num::ParseIntError> { text.parse() }
    /// # #[dcluster::main] async fn main(client: Client) -> dcluster::Result<()> {
    /// let numbers = client.map(parse::call, ["1", "two", "3"].map(str::to_owned));
    /// assert!(client.gather(&numbers).await.is_err());
    /// assert_eq!(client.gather_with(OnError::Skip, &numbers).await?, [1, 3]);
    ///
    /// // Any container of futures comes back as the same container of results.
    /// let (first, last) = client.gather((&numbers[0], &numbers[2])).await?;
    /// assert_eq!((first, last), (1, 3));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// With [`OnError::Skip`], only errors that have no list or map around them.
    pub async fn gather_with<G: Gather>(&self, on_error: OnError, futures: G) -> Result<G::Output> {
        gather::gather(&self.link.session, &futures, on_error).await
    }

    /// Sends a value to a worker, and returns its future when it is there.
    ///
    /// The bytes go to the worker and not through the scheduler. Tasks that take the value by reference share it.
    ///
    /// ```
    /// # use dcluster::prelude::*;
    /// # #[dcluster::task] fn sum(values: &[f64]) -> f64 { values.iter().sum() }
    /// # #[dcluster::main] async fn main(client: Client) -> dcluster::Result<()> {
    /// let table = client.scatter(vec![1.0_f64; 1 << 16]).await?;
    /// assert_eq!(client.submit(sum::call(&table)).await?, 65536.0);
    /// assert_eq!(client.who_has([&table]).await?[0].len(), 1);
    ///
    /// let parts = client.scatter_all((0..4).map(|part| vec![f64::from(part); 8])).await?;
    /// let sums = client.map(sum::call, &parts);
    /// assert_eq!(client.gather(sums).await?, [0.0, 8.0, 16.0, 24.0]);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Pack`], [`Error::Scatter`], or that of a lost connection.
    pub async fn scatter<T: Data>(&self, value: T) -> Result<Future<T>> {
        self.scatter_with(value, &ScatterOptions::default()).await
    }

    /// [`scatter`](Self::scatter) with options.
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter).
    pub async fn scatter_with<T: Data>(&self, value: T, options: &ScatterOptions) -> Result<Future<T>> {
        let futures = self.scatter_all_with([value], options).await?;
        Ok(futures.into_iter().next().expect("a value has a future"))
    }

    /// Sends each of these values to a worker, spread over all.
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter).
    pub async fn scatter_all<T: Data>(&self, values: impl IntoIterator<Item = T>) -> Result<Vec<Future<T>>> {
        self.scatter_all_with(values, &ScatterOptions::default()).await
    }

    /// [`scatter_all`](Self::scatter_all) with options.
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter).
    pub async fn scatter_all_with<T: Data>(
        &self,
        values: impl IntoIterator<Item = T>,
        options: &ScatterOptions,
    ) -> Result<Vec<Future<T>>> {
        scatter::scatter(&self.link, values.into_iter().collect(), options).await
    }

    /// Sends each value of a map to a worker; the futures have the same keys.
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter).
    pub async fn scatter_map<K, T, M>(&self, values: M) -> Result<HashMap<K, Future<T>>>
    where
        K: Eq + std::hash::Hash,
        T: Data,
        M: IntoIterator<Item = (K, T)>,
    {
        let (keys, values): (Vec<K>, Vec<T>) = values.into_iter().unzip();
        let futures = self.scatter_all(values).await?;
        Ok(keys.into_iter().zip(futures).collect())
    }

    /// Waits for futures together.
    ///
    /// ```
    /// # use dcluster::prelude::*;
    /// # #[dcluster::task] fn inc(x: i64) -> i64 { x + 1 }
    /// # #[dcluster::main] async fn main(client: Client) -> dcluster::Result<()> {
    /// use std::time::Duration;
    ///
    /// let futures = client.map(inc::call, 0..8);
    /// let first = client.wait(&futures, ReturnWhen::FirstCompleted, None).await?;
    /// assert!(!first.done.is_empty());
    ///
    /// let all = client.wait(&futures, ReturnWhen::AllCompleted, Some(Duration::from_secs(60))).await?;
    /// assert_eq!((all.done.len(), all.not_done.len()), (8, 0));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Timeout`], which says how many are left.
    pub async fn wait<T, F: Borrow<Future<T>>>(
        &self,
        futures: impl IntoIterator<Item = F>,
        return_when: ReturnWhen,
        timeout: Option<Duration>,
    ) -> Result<Done<T>> {
        let futures = futures.into_iter().map(|future| future.borrow().clone()).collect();
        wait::wait(&self.link.session, futures, return_when, timeout).await
    }

    /// Yields futures in the order in which they are done; failed and cancelled ones too.
    ///
    /// ```
    /// # use dcluster::prelude::*;
    /// # #[dcluster::task] fn inc(x: i64) -> i64 { x + 1 }
    /// # #[dcluster::main] async fn main(client: Client) -> dcluster::Result<()> {
    /// // Start from 0 and go on until a result is large enough: more is added while some are done.
    /// let mut completed = client.as_completed(client.map(inc::call, 0..2));
    /// let mut largest = 0;
    /// while let Some(future) = completed.next().await {
    ///     let x = future.await?;
    ///     largest = largest.max(x);
    ///     if x < 5 {
    ///         completed.add(client.submit(inc::call(x)));
    ///     }
    /// }
    /// assert_eq!(largest, 5);
    /// # Ok(()) }
    /// ```
    pub fn as_completed<T>(&self, futures: impl IntoIterator<Item = Future<T>>) -> AsCompleted<T> {
        AsCompleted::new(&self.link.session, futures)
    }

    /// Cancels futures: at once here; on the cluster if nobody else wants the results, or by force.
    ///
    /// `reason` comes back in the error of each, and of what depends on them. What is returned may be dropped;
    /// awaited, it is over when no task that was stopped can start any more. Tasks that run go on, and their results
    /// are dropped.
    ///
    /// ```
    /// # use dcluster::prelude::*;
    /// # #[dcluster::task(impure)] fn nap(ms: u64) { std::thread::sleep(std::time::Duration::from_millis(ms)) }
    /// # #[dcluster::main] async fn main(client: Client) -> dcluster::Result<()> {
    /// let naps = client.map(nap::call, [20; 100]);
    /// client.cancel(&naps, Force::No, "good morning").await?;
    /// assert!(naps.iter().all(|nap| nap.cancelled()));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Foreign`], or that of a connection that was lost or closed before the answer came.
    pub fn cancel<T, F: Borrow<Future<T>>>(
        &self,
        futures: impl IntoIterator<Item = F>,
        force: Force,
        reason: &str,
    ) -> Cancelling {
        let futures: Vec<_> = futures.into_iter().map(|future| future.borrow().clone()).collect();
        cancel::cancel(&self.link.session, &futures, force, reason)
    }

    /// Runs failed tasks again, and the failed ones that they need.
    pub fn retry<T, F: Borrow<Future<T>>>(&self, futures: impl IntoIterator<Item = F>) {
        let session = &self.link.session;
        let mut state = session.lock();
        for future in futures {
            state.retry(future.borrow().id());
        }
        session.appended(state, Urgency::Soon);
    }

    /// Workers, tasks by state and clients, as JSON.
    ///
    /// # Errors
    /// That of a lost or closed connection.
    pub async fn status(&self) -> Result<String> {
        self.query(Query::Status).await
    }

    /// The scheduler's answer to a question, as JSON.
    ///
    /// # Errors
    /// [`Error::Refused`] if it has none, or that of a lost or closed connection.
    pub async fn query(&self, query: Query) -> Result<String> {
        self.link.session.query(question(&query), &query).await
    }

    /// The workers that hold each future's value, in the order of the futures.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn who_has<T, F: Borrow<Future<T>>>(
        &self,
        futures: impl IntoIterator<Item = F>,
    ) -> Result<Vec<Vec<WorkerId>>> {
        let futures = futures.into_iter().map(|future| future.borrow().id()).collect();
        let answer = self.query(Query::WhoHas { futures }).await?;
        serde_json::from_str(&answer)
            .map_err(|error| Error::Refused { question: "who has", reason: error.to_string() })
    }

    /// Waits until `count` workers have joined.
    ///
    /// # Errors
    /// [`Error::Workers`] when the time is up.
    pub async fn wait_for_workers(&self, count: usize, timeout: Option<Duration>) -> Result<()> {
        let session = &self.link.session;
        let mut joined = session.joined.subscribe();
        let enough = async {
            loop {
                session.check()?;
                if *joined.borrow_and_update() >= count {
                    return Ok(());
                }
                if joined.changed().await.is_err() {
                    return Err(session.end());
                }
            }
        };
        let done = within(session, timeout, enough).await;
        done.unwrap_or_else(|| {
            let joined = *session.joined.borrow();
            Err(Error::Workers { joined, wanted: count, after: timeout.unwrap_or_default() })
        })
    }

    /// Waits until all are done, with a bar per function if standard error is a terminal.
    pub async fn progress<T, F: Borrow<Future<T>>>(&self, futures: impl IntoIterator<Item = F>) {
        let futures: Vec<_> = futures.into_iter().map(|future| future.borrow().clone()).collect();
        let mut counts = BTreeMap::new();
        for future in &futures {
            *counts.entry(future.reference().group().to_owned()).or_default() += 1;
        }
        progress::progress(self.as_completed(futures), counts).await;
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Closes the connection and gives every reference back; later calls fail.
    pub async fn close(&self) {
        let session = &self.link.session;
        let mut over = session.over.subscribe();
        session.close();
        let _ = over.wait_for(|over| *over).await;
    }

    /// Ends the cluster, all ranks, with this exit code, and closes the connection.
    ///
    /// # Errors
    /// That of a connection that was lost or closed before.
    pub async fn shutdown(&self, code: i32) -> Result<()> {
        let answer = self.query(Query::Stop { code }).await;
        let end = match answer {
            Ok(_) | Err(Error::Ended { .. }) => Ok(()),
            Err(error) => Err(error),
        };
        self.close().await;
        end
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = *self.link.session.joined.borrow();
        write!(f, "<Client: {}, {joined} workers joined>", self.address())
    }
}

fn question(query: &Query) -> &'static str {
    match query {
        Query::Status => "status",
        Query::Topology => "topology",
        Query::Explain { .. } => "explain",
        Query::WhoHas { .. } => "who has",
        Query::Stop { .. } => "stop",
    }
}
