//! Questions to the scheduler whose answers have a type: where values are, and how large.
//!
//! The answers come as JSON in the order of what was asked; here they become maps.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::{Error, Result};
use super::future::Future;
use super::session::Session;
use crate::model::{FutureId, WorkerId};
use crate::wire::client::Query;

/// The keys and ids of futures.
pub(super) fn named<T, M, F: Borrow<Future<T, M>>>(
    futures: impl IntoIterator<Item = F>,
) -> Vec<(String, FutureId)> {
    futures.into_iter().map(|future| (future.borrow().key(), future.borrow().id())).collect()
}

/// The workers that hold the value of each key.
pub(super) async fn who_has(
    session: &Arc<Session>,
    futures: Vec<(String, FutureId)>,
) -> Result<BTreeMap<String, Vec<WorkerId>>> {
    let (keys, futures): (Vec<_>, Vec<_>) = futures.into_iter().unzip();
    let holders: Vec<_> = ask(session, "who has", &Query::WhoHas { futures }).await?;
    Ok(keys.into_iter().zip(holders).collect())
}

/// The values that each of these workers holds, or each of all if none is named: their keys and packed sizes.
pub(super) async fn has_what(
    session: &Arc<Session>,
    workers: Vec<WorkerId>,
) -> Result<BTreeMap<WorkerId, BTreeMap<String, u64>>> {
    let holdings: Vec<Holding> = ask(session, "has what", &Query::HasWhat { workers }).await?;
    let values =
        |holding: Holding| holding.values.into_iter().map(|value| (value.key, value.nbytes)).collect();
    Ok(holdings.into_iter().map(|holding| (holding.worker, values(holding))).collect())
}

/// The packed size of each key that has a value.
pub(super) async fn nbytes(
    session: &Arc<Session>,
    futures: Vec<(String, FutureId)>,
) -> Result<BTreeMap<String, u64>> {
    let (keys, futures): (Vec<_>, Vec<_>) = futures.into_iter().unzip();
    let sizes: Vec<Option<u64>> = ask(session, "nbytes", &Query::Nbytes { futures }).await?;
    Ok(keys.into_iter().zip(sizes).filter_map(|(key, nbytes)| Some((key, nbytes?))).collect())
}

/// What one worker holds.
#[derive(Deserialize)]
struct Holding {
    worker: WorkerId,
    values: Vec<HeldValue>,
}

#[derive(Deserialize)]
struct HeldValue {
    key: String,
    nbytes: u64,
}

async fn ask<A: DeserializeOwned>(
    session: &Arc<Session>,
    question: &'static str,
    query: &Query,
) -> Result<A> {
    let answer = session.query(question, query).await?;
    serde_json::from_str(&answer).map_err(|error| Error::Refused { question, reason: error.to_string() })
}
