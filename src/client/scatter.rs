//! Scattering: values of this program become futures, their memory goes straight to workers.
//!
//! The scheduler says which worker takes which value, or that the cluster has it; the values travel over the
//! workers' data ports. A scatter ends when the scheduler knows that every value has arrived.

use std::sync::Arc;

use futures_util::stream::{StreamExt, TryStreamExt};
use tokio::sync::oneshot;
use xxhash_rust::xxh3::Xxh3;

use super::error::{Error, Result};
use super::fetch;
use super::future::{Future, Name};
use super::session::{Link, Session, Urgency};
use crate::model::{Data, FutureId, Key, Packed, Value, WorkerId};
use crate::wire::client::{Placed, Scatter, ScatterValue};

/// Values that travel at the same time.
const PUTS_MAX: usize = 8;

/// How to scatter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ScatterOptions {
    /// Whether equal values are one.
    pub hash: Hash,
    /// The workers that may take the values; empty for any.
    pub workers: Vec<WorkerId>,
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

/// Scatters `values`, and returns a future of each.
pub(super) async fn scatter<T: Data, M>(
    link: &Arc<Link>,
    values: Vec<T>,
    options: &ScatterOptions,
) -> Result<Vec<Future<T, M>>> {
    let session = &link.session;
    session.check()?;
    if values.is_empty() {
        return Ok(Vec::new());
    }
    let packed = values.into_iter().map(pack).collect::<Result<Vec<_>>>()?;
    let (futures, answers) = announce(link, &packed, options);
    let sent = answers.into_iter().zip(packed).map(|(answer, packed)| send(session, answer, packed));
    futures_util::stream::iter(sent).buffer_unordered(PUTS_MAX).try_collect::<()>().await?;
    for future in &futures {
        future.reference().settled(None).await?;
    }
    Ok(futures)
}

/// Takes a reference for each value, and asks where each is to go.
fn announce<T: Data, M>(
    link: &Arc<Link>,
    packed: &[Packed],
    options: &ScatterOptions,
) -> (Vec<Future<T, M>>, Vec<oneshot::Receiver<Placed>>) {
    let session = &link.session;
    let mut state = session.lock();
    let mut announced = Vec::with_capacity(packed.len());
    for packed in packed {
        let future = state.allocate();
        state.told(future);
        let key = match options.hash {
            Hash::Content => content_key::<T>(packed),
            Hash::No => unique_key(session.nonce, future),
        };
        announced.push(ScatterValue { future, key, nbytes: packed.len() as u64 });
    }
    let name = Name::Function(short_type_name::<T>());
    let new_future = |value: &ScatterValue| Future::new(link.clone(), value.future, value.key, name.clone());
    let futures = announced.iter().map(new_future).collect();
    let answers = announced.iter().map(|value| state.expect_placement(value.future)).collect();
    state.outbox.scatter(&Scatter { values: announced, workers: options.workers.clone() });
    session.appended(state, Urgency::Now);
    (futures, answers)
}

/// Sends a value to its place, when that is known, unless the cluster has it.
async fn send(session: &Arc<Session>, answer: oneshot::Receiver<Placed>, packed: Packed) -> Result<()> {
    let placed = answer.await.map_err(|_| session.end())?;
    match placed.worker {
        Some(worker) => fetch::put(session, worker, placed.task, packed).await,
        None => Ok(()),
    }
}

/// Packs a value that is given away: a large vector of numbers keeps its memory.
fn pack<T: Data>(value: T) -> Result<Packed> {
    Value::new(value).pack().map_err(|error| Error::Pack(error.to_string().into()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_of_one_type_have_one_key() {
        let key = |numbers: Vec<f64>| content_key::<Vec<f64>>(&pack(numbers).unwrap_or_default());
        assert_eq!(key(vec![1.0; 100]), key(vec![1.0; 100]));
        assert_ne!(key(vec![1.0; 100]), key(vec![1.0; 101]));
        let packed = pack(7i64).unwrap_or_default();
        assert_ne!(content_key::<i64>(&packed), content_key::<u8>(&packed));
    }

    #[test]
    fn keys_of_scattered_values_begin_with_their_type() {
        assert_eq!(short_type_name::<Vec<f64>>(), "Vec");
        assert_eq!(short_type_name::<i64>(), "i64");
    }
}
