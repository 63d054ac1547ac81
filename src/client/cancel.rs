//! Cancelling futures: at once here, and on the cluster as far as nobody else wants the results.
//!
//! The cancel leaves when it is called. What it returns need not be waited for; awaited, it is over when no task that
//! was stopped can start any more.

use std::fmt;
use std::future::Future as StdFuture;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use super::Force;
use super::error::{Error, Result};
use super::future::Future;
use super::session::Session;
use super::wait;
use crate::wire::client::Cancel;

/// A cancel that is on its way, whether or not anybody waits for it.
///
/// Awaited, it is over when the cluster has acknowledged it: from then on no task that it stopped starts. Those that
/// ran already go on, and their results are dropped.
pub struct Cancelling {
    session: Arc<Session>,
    answer: Answer,
}

enum Answer {
    /// It needs none, or cannot have one.
    Known(Result<()>),
    Awaited(oneshot::Receiver<Result<String, String>>),
}

/// Cancels `futures`, of which none may be of another client.
pub(super) fn cancel<T, M>(
    session: &Arc<Session>,
    futures: &[Future<T, M>],
    force: Force,
    reason: &str,
) -> Cancelling {
    let answer = match wait::check(session, futures) {
        Err(error) => Answer::Known(Err(error)),
        Ok(()) => send(session, futures, force, reason),
    };
    Cancelling { session: session.clone(), answer }
}

fn send<T, M>(session: &Session, futures: &[Future<T, M>], force: Force, reason: &str) -> Answer {
    let mut state = session.lock();
    // Of calls that were refused here the scheduler knows nothing.
    let ids: Vec<_> = futures.iter().map(Future::id).collect();
    let known: Vec<_> =
        ids.iter().copied().filter(|id| state.table.slot(*id).is_some_and(|slot| slot.known)).collect();
    let answer = match &state.end {
        Some(end) => Answer::Known(Err(end.of(String::new))),
        None if known.is_empty() => Answer::Known(Ok(())),
        None => {
            let (number, reply) = state.expect_reply();
            let force = force == Force::Yes;
            state.outbox.cancel(&Cancel { number, futures: known, force, reason: reason.to_owned() });
            Answer::Awaited(reply)
        }
    };
    let reason = reason.into();
    ids.iter().for_each(|id| state.cancelled(*id, &reason));
    session.appended(state, super::session::Urgency::Now);
    answer
}

impl StdFuture for Cancelling {
    /// The error is that of a connection that ended before the acknowledgement.
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { session, answer } = self.get_mut();
        Poll::Ready(match answer {
            Answer::Known(known) => known.clone(),
            Answer::Awaited(reply) => match ready!(Pin::new(reply).poll(cx)) {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(reason)) => Err(Error::Refused { question: "cancel", reason }),
                Err(_) => Err(session.end()),
            },
        })
    }
}

impl fmt::Debug for Cancelling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancelling").finish_non_exhaustive()
    }
}
