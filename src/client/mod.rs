//! The client: submits calls to a cluster and hands out futures of their results.
//!
//! [`Client`] and [`Future`] are what programs use, [`blocking`](mod@blocking) has the same without `async`.
//! Inside, a [`session`] is a [`state`] under a lock and a [`line`] to the scheduler, which [`resume`] mends
//! when it breaks; everything else is a way to wait for futures ([`wait`], [`completed`], [`gather`]) or to move values ([`fetch`], [`scatter`]).

pub mod argument;
mod bar;
pub mod blocking;
pub mod call;
mod cancel;
mod completed;
mod connect;
mod copies;
mod error;
mod fetch;
pub mod future;
mod gather;
mod group;
mod insight;
mod line;
mod map;
mod resume;
mod scatter;
mod session;
mod state;
mod submit;
mod table;
mod wait;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

pub use argument::IntoArgument;
pub use bar::Progress;
pub use call::Call;
pub use cancel::Cancelling;
pub use completed::{AsCompleted, Timed};
pub use copies::Rebalanced;
pub use error::{Error, Result};
pub use future::{Async, Blocking, Future, Status};
pub use gather::{Gather, OnError};
pub use map::Inputs;
pub use scatter::{Hash, Keyed, ScatterOptions};
pub use wait::{Done, ReturnWhen};

use crate::model::{Data, Value, WorkerId, WorkerName};
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
    /// The bytes go to the worker and not through the scheduler. Tasks that take the value by reference share it. A
    /// vector of numbers and a `String` are sent from where they lie; of anything else a packed copy is made.
    ///
    /// ```
    /// # use dcluster::prelude::*;
    /// # #[dcluster::task] fn sum(values: &[f64]) -> f64 { values.iter().sum() }
    /// # #[dcluster::main] async fn main(client: Client) -> dcluster::Result<()> {
    /// let table = client.scatter(vec![1.0_f64; 1 << 16]).await?;
    /// assert_eq!(client.submit(sum::call(&table)).await?, 65536.0);
    /// assert_eq!(client.who_has([&table]).await?[&table.key()].len(), 1);
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
        self.scatter_value(Value::new(value), options).await
    }

    /// Sends a value that this program keeps; nothing is copied for it if it is a vector of numbers or a `String`.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dcluster::prelude::*;
    /// # #[dcluster::task] fn sum(values: &[f64]) -> f64 { values.iter().sum() }
    /// # #[dcluster::main] async fn main(client: Client) -> dcluster::Result<()> {
    /// let table = Arc::new(vec![0.5_f64; 1 << 16]);
    /// let there = client.scatter_shared(table.clone(), &ScatterOptions::default()).await?;
    /// assert_eq!(client.submit(sum::call(&there)).await?, table.iter().sum::<f64>());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter).
    pub async fn scatter_shared<T: Data>(
        &self,
        value: Arc<T>,
        options: &ScatterOptions,
    ) -> Result<Future<T>> {
        self.scatter_value(Value::share(value), options).await
    }

    async fn scatter_value<T: Data>(&self, value: Value, options: &ScatterOptions) -> Result<Future<T>> {
        let futures = scatter::scatter(&self.link, std::iter::once(value), options).await?;
        Ok(futures.into_iter().next().expect("a value has a future"))
    }

    /// Sends each of these values to a worker, spread over all.
    ///
    /// An iterator is taken as values leave: what it yields need not fit into this program's memory at once.
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
        scatter::scatter(&self.link, values.into_iter().map(Value::new), options).await
    }

    /// Sends each value of a map, or of a list of pairs, to a worker; the same container of futures comes back.
    ///
    /// ```
    /// # use std::collections::BTreeMap;
    /// # use dcluster::prelude::*;
    /// # #[dcluster::main] async fn main(client: Client) -> dcluster::Result<()> {
    /// let fields = BTreeMap::from([("pressure", vec![1.0_f32; 100]), ("density", vec![2.0; 100])]);
    /// let futures = client.scatter_map(fields.clone()).await?;
    /// assert_eq!(client.gather(&futures).await?, fields);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter).
    pub async fn scatter_map<C: Keyed<Value: Data>>(&self, map: C) -> Result<C::With<Future<C::Value>>> {
        self.scatter_map_with(map, &ScatterOptions::default()).await
    }

    /// [`scatter_map`](Self::scatter_map) with options.
    ///
    /// # Errors
    /// As [`scatter`](Self::scatter).
    pub async fn scatter_map_with<C: Keyed<Value: Data>>(
        &self,
        map: C,
        options: &ScatterOptions,
    ) -> Result<C::With<Future<C::Value>>> {
        scatter::scatter_map(&self.link, map, options).await
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

    /// What happened to a key, as JSON: where its value was made, and each transfer of it with lane, bytes and seconds.
    ///
    /// `key` is what [`Future::key`] gives. The scheduler remembers the last 16384 events of values above 4 KiB (those
    /// that stay on workers) and of transfers above 64 KiB, which workers report once a second.
    ///
    /// # Errors
    /// [`Error::Refused`] if nothing is known of the key, or that of a lost or closed connection.
    pub async fn story(&self, key: &str) -> Result<String> {
        self.query(Query::Story { key: key.to_owned() }).await
    }

    /// The scheduler's answer to a question, as JSON.
    ///
    /// # Errors
    /// [`Error::Refused`] if it has none, or that of a lost or closed connection.
    pub async fn query(&self, query: Query) -> Result<String> {
        self.link.session.query(question(&query), &query).await
    }

    /// The workers that hold each future's value, by its key; none of a value that is not there, or small.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn who_has<T, F: Borrow<Future<T>>>(
        &self,
        futures: impl IntoIterator<Item = F>,
    ) -> Result<BTreeMap<String, Vec<WorkerId>>> {
        insight::who_has(&self.link.session, insight::named(futures)).await
    }

    /// The values that each of these workers holds, by key with their packed sizes; of all workers if none is named.
    ///
    /// Values of up to 4 KiB that a task returned are on the scheduler, and not among them.
    ///
    /// ```
    /// # use dcluster::prelude::*;
    /// # #[dcluster::main] async fn main(client: Client) -> dcluster::Result<()> {
    /// let table = client.scatter(vec![1.0_f64; 1000]).await?;
    /// let nbytes = client.nbytes([&table]).await?[&table.key()]; // 8000, and some for the head
    /// assert!((8000..8100).contains(&nbytes));
    ///
    /// let holder = client.who_has([&table]).await?[&table.key()][0];
    /// assert_eq!(client.has_what([holder]).await?[&holder][&table.key()], nbytes);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn has_what(
        &self,
        workers: impl IntoIterator<Item = WorkerId>,
    ) -> Result<BTreeMap<WorkerId, BTreeMap<String, u64>>> {
        insight::has_what(&self.link.session, workers.into_iter().collect()).await
    }

    /// The packed size of each future's value, by its key; those that have none yet are left out.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn nbytes<T, F: Borrow<Future<T>>>(
        &self,
        futures: impl IntoIterator<Item = F>,
    ) -> Result<BTreeMap<String, u64>> {
        insight::nbytes(&self.link.session, insight::named(futures)).await
    }

    /// Waits until `count` workers are there; those that have left do not count.
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
        bar::progress(self.as_completed(futures), counts).await;
    }

    /// Whether standard error shows how far a scatter or gather is: a bar in a terminal, if it is large (256 MiB) or
    /// takes more than a second; elsewhere a line every ten seconds. For all handles of this connection.
    ///
    /// It is on unless the environment variable `DCLUSTER_PROGRESS` is `off`.
    pub fn set_progress(&self, progress: Progress) {
        self.link.session.set_progress(progress);
    }

    /// Submits a call whose future is waited for in either way.
    pub(crate) fn submit_as<T, M>(&self, call: Call<T>) -> Future<T, M> {
        submit::submit(&self.link, call)
    }

    /// Whether all workers can map the memory of all others.
    pub(crate) fn is_on_one_host(&self) -> bool {
        self.link.session.is_on_one_host()
    }

    /// Scatters a value while the caller goes on. Of values that lie side by side, `share` is which of how many it is:
    /// the first ones go to the first worker.
    pub(crate) fn scatter_meanwhile<T: Data>(&self, value: &Value, share: Option<(u32, u32)>) -> Future<T> {
        let workers: Vec<WorkerId> = self.link.session.lock().peers.keys().copied().collect();
        let worker = share.and_then(|(part, of)| {
            workers.get((u64::from(part) * workers.len() as u64 / u64::from(of.max(1))) as usize).copied()
        });
        let options = ScatterOptions {
            workers: worker.into_iter().map(WorkerName::Id).collect(),
            allow_other_workers: true,
            ..ScatterOptions::default()
        };
        scatter::scatter_meanwhile(&self.link, value, &options)
    }

    /// A future that has failed already.
    pub(crate) fn failed<T, M>(&self, task: &'static str, error: Error) -> Future<T, M> {
        submit::failed(&self.link, task, error)
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
        write!(f, "<Client: {}, {joined} workers>", self.address())
    }
}

fn question(query: &Query) -> &'static str {
    match query {
        Query::Status => "status",
        Query::Topology => "topology",
        Query::Explain { .. } => "explain",
        Query::Story { .. } => "story",
        Query::WhoHas { .. } => "who has",
        Query::HasWhat { .. } => "has what",
        Query::Nbytes { .. } => "nbytes",
        Query::Stop { .. } => "stop",
    }
}
