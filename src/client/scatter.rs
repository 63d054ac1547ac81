//! Scattering: values of this program become futures, their memory goes straight to workers.
//!
//! The scheduler says which worker takes which value, or that the cluster has it; the values travel over the
//! workers' data ports. Values are packed in batches, so that what a lazy iterator yields, and what packing
//! copies, is never here all at once. A scatter ends when the scheduler knows that every value has arrived; until then
//! a batch is kept, because the scheduler says where else a value goes if its worker is gone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use xxhash_rust::xxh3::Xxh3;

use super::copies::{self, Arranged};
use super::error::{Error, Result};
use super::fetch::{self, NotPut};
use super::future::{Async, Future, Name};
use super::group::Until;
use super::session::{Link, Session, Urgency};
use super::submit::failed;
use crate::model::{Copies, Data, FutureId, Key, Packed, Value, WorkerId, WorkerName};
use crate::transport::data::Meter;
use crate::wire::client::{Arrangement, Placed, Scatter, ScatterValue};

/// Values of a batch, or of all that the caller does not wait for, that travel at the same time.
pub(super) const PUTS_MAX: usize = 8;
/// A batch of values is full with this many,
const BATCH_VALUES_MAX: usize = 4096;
/// or with this many bytes.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// Workers that are tried for one value.
const ATTEMPTS_MAX: u32 = 8;
/// Batches on their way.
const BATCHES_MAX: usize = 2;

/// How to scatter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScatterOptions {
    /// Whether equal values are one.
    pub hash: Hash,
    /// The workers that may take the values, by id, by rank, or all of a host; empty for any.
    pub workers: Vec<WorkerName>,
    /// Whether others may if those are gone. Otherwise values that cannot reach them are lost, which is an error.
    pub allow_other_workers: bool,
    /// How many copies there are to be, and where. The first goes to a worker from here, the others from worker to
    /// worker; [`Copies::Everywhere`] is a broadcast. The scatter ends when they are there. More copies than there are
    /// workers are refused before anything is sent; what a worker that is lost meanwhile leaves without a copy is kept
    /// all the same, with a warning in the log.
    pub copies: Copies,
}

/// Whether values are known by their content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hash {
    /// Equal values of one type are one key: scattered again, they do not travel again.
    #[default]
    Content,
    /// Each has a key of its own.
    No,
}

/// A container whose values have keys: a map, or a list of pairs.
pub trait Keyed {
    /// What values are found by.
    type Key;
    /// The values.
    type Value;
    /// The same container of other values.
    type With<V>;

    /// Its entries, in its order.
    #[doc(hidden)]
    fn into_entries(self) -> impl Iterator<Item = (Self::Key, Self::Value)>;

    /// The container of these entries.
    #[doc(hidden)]
    fn from_entries<V>(entries: impl Iterator<Item = (Self::Key, V)>) -> Self::With<V>;
}

/// Scatters `values`, and returns a future of each.
pub(super) async fn scatter<T: Data, M>(
    link: &Arc<Link>,
    values: impl Iterator<Item = Value>,
    options: &ScatterOptions,
) -> Result<Vec<Future<T, M>>> {
    link.session.check()?;
    check_copies(link, options)?;
    let bar = link.session.bar("scatter", 0);
    let (mut scattered, mut scattered_bytes) = (0, 0);
    let mut batches = Batches { values, taken: 0 };
    let sent = std::iter::from_fn(|| {
        let batch = batches.next()?;
        if let Ok(batch) = &batch {
            scattered += batch.len() as u64;
            scattered_bytes += batch.iter().map(|packed| packed.len() as u64).sum::<u64>();
            // What is still to come is taken to be like what came.
            let left = batches.values.size_hint().0 as u64;
            bar.set_total(scattered_bytes + scattered_bytes / scattered * left);
        }
        let announced = batch.map(|batch| Announced::announce(link, batch, options, bar.meter()));
        Some(async move { announced?.send().await })
    });
    let mut futures = Vec::new();
    let mut sent = std::pin::pin!(futures_util::stream::iter(sent).buffered(BATCHES_MAX));
    while let Some(batch) = sent.try_next().await? {
        futures.extend(batch);
    }
    Ok(futures)
}

/// Scatters the values of a map, and returns the same map of futures.
pub(super) async fn scatter_map<C: Keyed<Value: Data>, M>(
    link: &Arc<Link>,
    map: C,
    options: &ScatterOptions,
) -> Result<C::With<Future<C::Value, M>>> {
    let (keys, values): (Vec<_>, Vec<_>) = map.into_entries().unzip();
    let futures = scatter(link, values.into_iter().map(Value::new), options).await?;
    Ok(C::from_entries(keys.into_iter().zip(futures)))
}

/// Scatters a value while the caller goes on: its future is there at once, and calls that take it wait on the cluster.
/// If the value cannot be sent, the scheduler is told why, and they fail with that.
pub(super) fn scatter_meanwhile<T: Data, M>(
    link: &Arc<Link>,
    value: &Value,
    options: &ScatterOptions,
) -> Future<T, M> {
    let packed = match pack(value) {
        Ok(packed) => packed,
        Err(error) => return failed(link, "scatter", error),
    };
    // (It keeps its future: what nobody wants would not be waited for.)
    let announced = Announced::<T, Async>::announce(link, vec![packed], options, Meter::default());
    let future = announced.futures[0].clone();
    let session = link.session.clone();
    link.session.start(Box::pin(async move {
        let Ok(_one_of_few) = session.puts.acquire().await else { return };
        if let Err(error) = announced.send().await {
            tracing::debug!(%error, "a scattered value did not arrive");
        }
    }));
    future.waited()
}

/// Packs values until there is enough for a batch.
struct Batches<I> {
    values: I,
    /// How many were taken.
    taken: usize,
}

impl<I: Iterator<Item = Value>> Batches<I> {
    /// The next value, or which of them cannot be packed.
    fn pack_next(&mut self) -> Option<Result<Packed>> {
        let packed = pack(&self.values.next()?);
        let place = self.taken;
        self.taken += 1;
        let name = |error| match error {
            Error::Pack(reason) if place > 0 || self.values.size_hint() != (0, Some(0)) => {
                Error::Pack(format!("value {place} of those to scatter: {reason}").into())
            }
            error => error,
        };
        Some(packed.map_err(name))
    }
}

impl<I: Iterator<Item = Value>> Iterator for Batches<I> {
    type Item = Result<Vec<Packed>>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut batch = vec![self.pack_next()?];
        let mut bytes = batch[0].as_ref().map_or(0, Packed::len);
        while batch.len() < BATCH_VALUES_MAX && bytes < BATCH_BYTES_MAX {
            let Some(packed) = self.pack_next() else { break };
            bytes += packed.as_ref().map_or(0, Packed::len);
            batch.push(packed);
        }
        Some(batch.into_iter().collect())
    }
}

/// Whether there are workers enough for so many copies.
fn check_copies(link: &Link, options: &ScatterOptions) -> Result<()> {
    let workers = link.session.lock().peers.len();
    match options.copies {
        Copies::Number(copies) if copies > 1 && copies as usize > workers => Err(Error::Refused {
            question: "scatter",
            reason: format!(
                "{copies} copies are asked for, and there are {workers} workers; wait for more \
                 (`wait_for_workers`), or ask for fewer"
            ),
        }),
        _ => Ok(()),
    }
}

/// Packs a value that is given away: a large vector of numbers keeps its memory.
fn pack(value: &Value) -> Result<Packed> {
    value.pack().map_err(|error| Error::Pack(error.to_string().into()))
}

/// How sending a value to a worker ended.
type Put = Result<(), (Placed, WorkerId, NotPut)>;

/// A batch whose places were asked for.
struct Announced<T, M> {
    session: Arc<Session>,
    futures: Vec<Future<T, M>>,
    values: HashMap<FutureId, Packed>,
    places: mpsc::UnboundedReceiver<Placed>,
    /// Whether values may go to any worker.
    is_free: bool,
    /// Comes when all copies are there; None if one of each will do.
    copied: Option<Arranged>,
    meter: Meter,
}

impl<T: Data, M> Announced<T, M> {
    /// Takes a reference for each value, and asks where each is to go.
    fn announce(link: &Arc<Link>, batch: Vec<Packed>, options: &ScatterOptions, meter: Meter) -> Self {
        let session = &link.session;
        // Hashing takes its time, and others want the state meanwhile.
        let keys: Vec<Option<Key>> = match options.hash {
            Hash::Content => batch.iter().map(|packed| Some(content_key::<T>(packed))).collect(),
            Hash::No => vec![None; batch.len()],
        };
        let mut state = session.lock();
        let mut announced = Vec::with_capacity(batch.len());
        for (packed, key) in batch.iter().zip(keys) {
            let future = state.allocate();
            state.told(future);
            let key = key.unwrap_or_else(|| unique_key(session.nonce, future));
            announced.push(ScatterValue { future, key, nbytes: packed.len() as u64 });
        }
        let name = Name::Function(short_type_name::<T>());
        let new_future =
            |value: &ScatterValue| Future::new(link.clone(), value.future, value.key, name.clone());
        let futures = announced.iter().map(new_future).collect();
        let (placing, places) = mpsc::unbounded_channel();
        announced.iter().for_each(|value| state.expect_placements(value.future, placing.clone()));
        let ids: Vec<FutureId> = announced.iter().map(|value| value.future).collect();
        let values = ids.iter().copied().zip(batch).collect();
        state.outbox.scatter(&Scatter {
            values: announced,
            workers: options.workers.clone(),
            allow_other_workers: options.allow_other_workers,
            type_name: short_type_name::<T>().to_owned(),
        });
        let copied = match &options.copies {
            Copies::Number(0 | 1) => None,
            copies => Some(copies::append(&mut state, ids, Arrangement::Copies(copies.clone()))),
        };
        session.appended(state, Urgency::Now);
        let is_free = options.workers.is_empty() || options.allow_other_workers;
        Self { session: session.clone(), futures, values, places, is_free, copied, meter }
    }

    /// Sends every value, and waits until the scheduler knows that all have arrived.
    async fn send(mut self) -> Result<Vec<Future<T, M>>> {
        let sent = self.send_all().await;
        {
            let mut state = self.session.lock();
            self.values.keys().for_each(|future| state.expect_no_placement(*future));
        }
        sent?;
        if let Some(error) = self.futures.iter().find_map(|future| future.reference().known()?.err()) {
            return Err(error);
        }
        if let Some(copied) = self.copied {
            match copies::arranged(&self.session, "scatter", copied).await {
                // The values are there, and are not given up for a copy that is not.
                Err(Error::Refused { reason, .. }) => tracing::warn!(reason, "not all copies are there"),
                arranged => drop(arranged?),
            }
        }
        Ok(self.futures)
    }

    /// Sends each value where the scheduler says, until all are known to be there or one has failed.
    async fn send_all(&mut self) -> Result<()> {
        let session = self.session.clone();
        let arrived = session.wait(self.futures.iter().map(Future::id), Until::Exception, None);
        let mut arrived = std::pin::pin!(arrived.met());
        let (mut due, mut puts) = (VecDeque::new(), FuturesUnordered::new());
        let mut failures: HashMap<FutureId, u32> = HashMap::new();
        loop {
            while puts.len() < PUTS_MAX
                && let Some((placed, worker)) = due.pop_front()
            {
                puts.push(self.put(placed, worker));
            }
            tokio::select! {
                met = &mut arrived => return met.map(drop),
                Some(placed) = self.places.recv() => match placed.worker {
                    Some(worker) => due.push_back((placed, worker)),
                    // The cluster has it.
                    None => self.meter.add(self.values[&placed.future].len()),
                },
                Some(failed) = puts.next(), if !puts.is_empty() => {
                    let Err((placed, worker, NotPut { error, may_go_elsewhere })) = failed else { continue };
                    let attempts = failures.entry(placed.future).or_default();
                    *attempts += 1;
                    let mut state = session.lock();
                    if !may_go_elsewhere || !self.is_free || *attempts >= ATTEMPTS_MAX {
                        state.give_up(placed.future, placed.task, error.to_string());
                        session.appended(state, Urgency::Now);
                        return Err(error);
                    }
                    tracing::warn!(%worker, %error, "a value goes to another worker");
                    state.not_put(placed.future, placed.task, worker);
                    session.appended(state, Urgency::Now);
                }
            }
        }
    }

    /// Sends a value to its place.
    fn put(&self, placed: Placed, worker: WorkerId) -> impl std::future::Future<Output = Put> + use<T, M> {
        let (session, meter) = (self.session.clone(), self.meter.clone());
        let packed = self.values[&placed.future].clone();
        async move {
            let put = fetch::put(&session, worker, placed.task, packed, meter).await;
            put.map_err(|not_put| (placed, worker, not_put))
        }
    }
}

fn content_key<T>(packed: &Packed) -> Key {
    let mut hasher = Xxh3::new();
    hasher.update(std::any::type_name::<T>().as_bytes());
    hasher.update(&(packed.head.len() as u64).to_le_bytes());
    hasher.update(&packed.head);
    for buffer in &packed.buffers {
        hasher.update(&(buffer.len() as u64).to_le_bytes());
        hasher.update(buffer);
    }
    Key(hasher.digest128())
}

/// A key that no other value has: of this client and this future.
pub(super) fn unique_key(nonce: u64, future: FutureId) -> Key {
    let mut seed = [0; 12];
    seed[..8].copy_from_slice(&nonce.to_le_bytes());
    seed[8..].copy_from_slice(&future.0.to_le_bytes());
    Key(xxhash_rust::xxh3::xxh3_128(&seed))
}

/// `Vec` of `alloc::vec::Vec<f64>`: what the key of a scattered value begins with.
fn short_type_name<T>() -> &'static str {
    let name = std::any::type_name::<T>();
    let path = name.split('<').next().unwrap_or(name);
    path.rsplit("::").next().unwrap_or(path)
}

impl<K: Eq + std::hash::Hash, V, S: BuildHasher + Default> Keyed for HashMap<K, V, S> {
    type Key = K;
    type Value = V;
    type With<W> = HashMap<K, W, S>;

    fn into_entries(self) -> impl Iterator<Item = (K, V)> {
        self.into_iter()
    }

    fn from_entries<W>(entries: impl Iterator<Item = (K, W)>) -> HashMap<K, W, S> {
        entries.collect()
    }
}

impl<K: Ord, V> Keyed for BTreeMap<K, V> {
    type Key = K;
    type Value = V;
    type With<W> = BTreeMap<K, W>;

    fn into_entries(self) -> impl Iterator<Item = (K, V)> {
        self.into_iter()
    }

    fn from_entries<W>(entries: impl Iterator<Item = (K, W)>) -> BTreeMap<K, W> {
        entries.collect()
    }
}

impl<K, V> Keyed for Vec<(K, V)> {
    type Key = K;
    type Value = V;
    type With<W> = Vec<(K, W)>;

    fn into_entries(self) -> impl Iterator<Item = (K, V)> {
        self.into_iter()
    }

    fn from_entries<W>(entries: impl Iterator<Item = (K, W)>) -> Vec<(K, W)> {
        entries.collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_of_one_type_have_one_key() {
        let packed = |numbers: Vec<f64>| pack(&Value::new(numbers)).unwrap();
        let key = |numbers| content_key::<Vec<f64>>(&packed(numbers));
        assert_eq!(key(vec![1.0; 100]), key(vec![1.0; 100]));
        assert_ne!(key(vec![1.0; 100]), key(vec![1.0; 101]));
        let packed = pack(&Value::new(7i64)).unwrap();
        assert_ne!(content_key::<i64>(&packed), content_key::<u8>(&packed));
    }

    #[test]
    fn keys_of_scattered_values_begin_with_their_type() {
        assert_eq!(short_type_name::<Vec<f64>>(), "Vec");
        assert_eq!(short_type_name::<i64>(), "i64");
    }

    #[test]
    fn a_lazy_iterator_is_taken_batch_by_batch() {
        let mut made = 0;
        let block = || Value::new(vec![0u8; 16 << 20]);
        let mut batches = Batches { values: (0..100).map(|_| block()).inspect(|_| made += 1), taken: 0 };
        assert_eq!(batches.next().unwrap().unwrap().len(), 4);
        assert_eq!(batches.next().unwrap().unwrap().len(), 4);
        assert_eq!(made, 8);
        let small = Batches { values: (0..10_000).map(|number: i64| Value::new(number)), taken: 0 };
        assert_eq!(small.map(|batch| batch.unwrap().len()).collect::<Vec<_>>(), [4096, 4096, 1808]);
    }
}
