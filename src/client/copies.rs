//! Copies of values on more workers, and values moved from full workers to empty ones.
//!
//! The scheduler says whom to get them from, and the workers fetch them from each other: nothing passes through here.

use std::borrow::Borrow;
use std::sync::Arc;

use serde::Deserialize;
use tokio::sync::oneshot;

use super::Client;
use super::error::{Error, Result};
use super::future::Future;
use super::session::{Session, Urgency};
use super::state::State;
use super::wait;
use crate::model::{Copies, FutureId};
use crate::wire::client::{Arrange, Arrangement};

/// What a rebalancing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct Rebalanced {
    /// Values that were moved.
    pub moved: u64,
    /// Their packed size.
    pub bytes: u64,
    /// Values that were to be moved and stayed: a task began to use them, or a worker was lost.
    pub stayed: u64,
}

impl Client {
    /// Makes copies: of each value on so many workers, on all, or on named ones. Done when they are there; values that
    /// are not are waited for first.
    ///
    /// Copies go from worker to worker down a tree, to one worker of each host first. Tasks run beside any of them, and
    /// scattered data survives the loss of a worker. Values of up to 4 KiB that a task returned need none: they are on
    /// the scheduler.
    ///
    /// ```
    /// # use dcluster::prelude::*;
    /// # #[dcluster::main] async fn main(client: Client) -> dcluster::Result<()> {
    /// let table = client.scatter(vec![1.0_f64; 1 << 16]).await?;
    /// client.replicate([&table], Copies::Everywhere).await?;
    /// client.replicate([&table], Copies::On(vec![dcluster::model::WorkerId(0).into()])).await?;
    /// // More than there are workers: all have it, and the error says how many that are.
    /// assert!(client.replicate([&table], 1000).await.is_err());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with what is missing when all that can be done is done, the error of a call that could not be
    /// submitted, [`Error::Foreign`], or that of a lost or closed connection.
    pub async fn replicate<T, F: Borrow<Future<T>>>(
        &self,
        futures: impl IntoIterator<Item = F>,
        copies: impl Into<Copies>,
    ) -> Result<()> {
        let session = &self.link.session;
        let how = Arrangement::Copies(copies.into());
        arrange(session, "replicate", known(session, futures)?, how).await.map(drop)
    }

    /// Moves these values until workers hold about as many bytes each, as far as that goes. Values that running
    /// tasks use stay where they are, and no copy goes before the other is there.
    ///
    /// ```
    /// # use dcluster::prelude::*;
    /// # #[dcluster::main] async fn main(client: Client) -> dcluster::Result<()> {
    /// # let blocks = client.scatter_all((0..4).map(|part| vec![f64::from(part); 8])).await?;
    /// let moves = client.rebalance(&blocks).await?;
    /// println!("{} values moved, {} bytes", moves.moved, moves.bytes);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// The error of a call that could not be submitted, [`Error::Foreign`], or that of a lost or closed connection.
    pub async fn rebalance<T, F: Borrow<Future<T>>>(
        &self,
        futures: impl IntoIterator<Item = F>,
    ) -> Result<Rebalanced> {
        let session = &self.link.session;
        match known(session, futures)? {
            none if none.is_empty() => Ok(Rebalanced::default()),
            futures => rebalance(session, futures).await,
        }
    }

    /// [`rebalance`](Self::rebalance) of all values on the cluster, whoever they belong to.
    ///
    /// # Errors
    /// That of a lost or closed connection.
    pub async fn rebalance_all(&self) -> Result<Rebalanced> {
        rebalance(&self.link.session, Vec::new()).await
    }
}

/// The answer to an arrangement that is on its way.
pub(super) type Arranged = oneshot::Receiver<Result<String, String>>;

/// The ids of this client's futures. One that was refused here, and so is nothing that the scheduler knows of, is an
/// error.
fn known<T, M, F: Borrow<Future<T, M>>>(
    session: &Arc<Session>,
    futures: impl IntoIterator<Item = F>,
) -> Result<Vec<FutureId>> {
    let futures: Vec<_> = futures.into_iter().map(|future| future.borrow().clone()).collect();
    wait::check(session, &futures)?;
    let mut state = session.lock();
    let refusal = |future: &Future<T, M>| Some(state.refusal(future.id())?.of(|| future.key()));
    match futures.iter().find_map(refusal) {
        Some(error) => Err(error),
        None => Ok(futures.iter().map(Future::id).collect()),
    }
}

/// Appends an arrangement.
pub(super) fn append(state: &mut State, futures: Vec<FutureId>, how: Arrangement) -> Arranged {
    let (number, reply) = state.expect_reply();
    state.outbox.arrange(&Arrange { number, futures, how });
    reply
}

/// Waits until it is done.
pub(super) async fn arranged(
    session: &Arc<Session>,
    question: &'static str,
    reply: Arranged,
) -> Result<String> {
    match reply.await {
        Ok(answer) => answer.map_err(|reason| Error::Refused { question, reason }),
        Err(_) => Err(session.end()),
    }
}

/// Moves values of these futures, or of all if there are none, and says what was moved.
async fn rebalance(session: &Arc<Session>, futures: Vec<FutureId>) -> Result<Rebalanced> {
    let answer = arrange(session, "rebalance", futures, Arrangement::Even).await?;
    serde_json::from_str(&answer)
        .map_err(|error| Error::Refused { question: "rebalance", reason: error.to_string() })
}

async fn arrange(
    session: &Arc<Session>,
    question: &'static str,
    futures: Vec<FutureId>,
    how: Arrangement,
) -> Result<String> {
    session.check()?;
    let reply = {
        let mut state = session.lock();
        let reply = append(&mut state, futures, how);
        session.appended(state, Urgency::Now);
        reply
    };
    arranged(session, question, reply).await
}
