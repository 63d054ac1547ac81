//! Waiting for some futures of many.

use std::sync::Arc;
use std::time::Duration;

use super::error::{Error, Result};
use super::future::{Async, Future};
use super::group::Until;
use super::session::Session;

/// When a wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReturnWhen {
    /// All are done; failed and cancelled ones count.
    #[default]
    AllCompleted,
    /// One is done.
    FirstCompleted,
    /// One has failed, or all are done.
    FirstException,
}

/// The futures of a wait, as it found them.
#[derive(Debug)]
pub struct Done<T, M = Async> {
    /// Finished, failed, cancelled or lost.
    pub done: Vec<Future<T, M>>,
    /// The others.
    pub not_done: Vec<Future<T, M>>,
}

/// Waits for `futures`.
pub(super) async fn wait<T, M>(
    session: &Arc<Session>,
    futures: Vec<Future<T, M>>,
    return_when: ReturnWhen,
    timeout: Option<Duration>,
) -> Result<Done<T, M>> {
    check(session, &futures)?;
    let until = match return_when {
        ReturnWhen::AllCompleted => Until::All,
        ReturnWhen::FirstCompleted => Until::First,
        ReturnWhen::FirstException => Until::Exception,
    };
    session.wait(futures.iter().map(Future::id), until, timeout).met().await?;
    let (done, not_done) = futures.into_iter().partition(|future| future.reference().known().is_some());
    Ok(Done { done, not_done })
}

/// Refuses futures of other clients.
pub(super) fn check<T, M>(session: &Arc<Session>, futures: &[Future<T, M>]) -> Result<()> {
    match futures.iter().find(|future| !Arc::ptr_eq(future.session(), session)) {
        Some(foreign) => Err(Error::Foreign { key: foreign.key() }),
        None => Ok(()),
    }
}
