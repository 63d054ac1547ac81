//! Bringing results here: small ones are in the table, large ones are fetched from a worker that has them.
//!
//! A worker that does not hand a value out is reported to the scheduler, which says where else it is, or
//! has it made again.

use std::sync::Arc;

use super::error::{Error, Result};
use super::future::Reference;
use super::session::{Session, Urgency};
use super::state::State;
use super::table::{SlotState, Stored};
use crate::model::unpack::unpack;
use crate::model::{Data, Packed, TaskId, WorkerId};
use crate::transport::data::{Brought, DataError, Meter};
use bytes::Bytes;

/// How often a result is looked for in new places.
const ATTEMPTS_MAX: u32 = 8;

/// The result of a future that is done, to be unpacked; it is fetched if it is not here.
pub(super) async fn bring(reference: &Arc<Reference>, meter: &Meter) -> Result<Brought> {
    let session = reference.session();
    let mut reason = String::new();
    for _ in 0..ATTEMPTS_MAX {
        let stored = match here(session, reference)? {
            Here::Packed(packed) => return Ok(Brought::Packed(packed)),
            Here::Far(stored) => stored,
            Here::Pending => {
                reference.settled(None).await?;
                continue;
            }
        };
        match fetch(session, &stored, meter).await {
            Ok(brought) => return Ok(brought),
            Err(failed) => {
                session.check()?;
                tracing::debug!(key = reference.key(), reason = failed.reason, "not handed out");
                reason = failed.reason;
                let Some(worker) = failed.worker else { break };
                report(session, reference, stored.task, worker);
            }
        }
    }
    Err(Error::Fetch { key: reference.key(), attempts: ATTEMPTS_MAX, reason })
}

/// Has the scheduler say again where a result is.
fn report(session: &Session, reference: &Reference, task: TaskId, worker: WorkerId) {
    let mut state = session.lock();
    state.unreachable(reference.id(), task, worker);
    session.appended(state, Urgency::Now);
}

/// The packed result or the error of a future, if it is here; None if it has to be fetched.
pub(super) fn inline(state: &mut State, reference: &Reference) -> Option<Result<Packed>> {
    match &state.table.slot(reference.id())?.state {
        SlotState::Inline(bytes) => Some(flat(reference, bytes)),
        SlotState::Failed(failure) => Some(Err(failure.of(|| reference.key()))),
        _ => None,
    }
}

/// The size of a result that has to be fetched, as far as that is known here.
pub(super) fn far_bytes(state: &mut State, reference: &Reference) -> u64 {
    match state.table.slot(reference.id()).map(|slot| &slot.state) {
        Some(SlotState::Stored(stored)) => stored.nbytes,
        _ => 0,
    }
}

/// The value of a result that is here. Numbers that landed in the vector that is wanted are not copied.
pub(super) fn unpacked<T: Data>(reference: &Reference, brought: Brought) -> Result<T> {
    let packed = match brought {
        Brought::Packed(packed) => packed,
        Brought::Numbers(head, numbers) => match numbers.into_value() {
            Ok(value) => return Ok(value),
            Err(buffer) => Packed { head, buffers: vec![buffer] },
        },
    };
    unpack(&packed).map_err(|error| Error::Unpack {
        key: reference.key(),
        wanted: error.type_name,
        reason: error.reason,
    })
}

enum Here {
    Packed(Packed),
    Far(Stored),
    Pending,
}

struct Failed {
    /// Whom to report; none if the scheduler named nobody.
    worker: Option<WorkerId>,
    reason: String,
}

fn here(session: &Session, reference: &Reference) -> Result<Here> {
    let mut state = session.lock();
    if let Some(inline) = inline(&mut state, reference) {
        return inline.map(Here::Packed);
    }
    let Some(SlotState::Stored(stored)) = state.table.slot(reference.id()).map(|slot| &slot.state) else {
        return Ok(Here::Pending);
    };
    let stored = (**stored).clone();
    match &state.end {
        Some(end) => Err(end.of(|| reference.key())),
        None => Ok(Here::Far(stored)),
    }
}

fn flat(reference: &Reference, bytes: &[u8]) -> Result<Packed> {
    Packed::decode(Bytes::copy_from_slice(bytes)).map_err(|error| Error::Unpack {
        key: reference.key(),
        wanted: "packed value",
        reason: error.to_string(),
    })
}

/// Fetches a value from the first of its holders that hands it out.
async fn fetch(session: &Arc<Session>, stored: &Stored, meter: &Meter) -> Result<Brought, Failed> {
    let mut failed = Failed { worker: None, reason: "no worker is known to have it".to_owned() };
    for worker in stored.holders.iter().copied() {
        let Some(address) = session.peer(worker) else {
            failed = Failed { worker: Some(worker), reason: format!("the address of {worker} is not known") };
            continue;
        };
        let Some(pool) = session.pool.clone() else { break };
        let (task, meter) = (stored.task, meter.clone());
        tracing::trace!(%worker, %task, nbytes = stored.nbytes, "fetching");
        match session.run(async move { pool.bring(&address, task, meter).await }).await {
            Some(Ok(brought)) => return Ok(brought),
            Some(Err(error)) => failed = Failed { worker: Some(worker), reason: error.to_string() },
            None => return Err(Failed { worker: None, reason: "the client has ended".to_owned() }),
        }
    }
    Err(failed)
}

/// A value is not where it was put.
pub(super) struct NotPut {
    pub(super) error: Error,
    /// Whether another worker may take it: this one has no room, or is not heard of.
    pub(super) may_go_elsewhere: bool,
}

/// Puts a value on a worker under the name of `task`.
pub(super) async fn put(
    session: &Arc<Session>,
    worker: WorkerId,
    task: TaskId,
    packed: Packed,
    meter: Meter,
) -> Result<(), NotPut> {
    let failed = |reason, may_go_elsewhere| NotPut {
        error: Error::Scatter { worker: worker.to_string(), reason },
        may_go_elsewhere,
    };
    let (Some(address), Some(pool)) = (session.peer(worker), session.pool.clone()) else {
        return Err(failed("its address is not known".to_owned(), false));
    };
    match session.run(async move { pool.put(&address, task, &packed, meter).await }).await {
        Some(put) => put.map_err(|error| {
            let is_reason_there = matches!(
                error,
                DataError::Connect { .. } | DataError::Lost { .. } | DataError::Refused { .. }
            );
            failed(error.to_string(), is_reason_there)
        }),
        None => Err(NotPut { error: session.end(), may_go_elsewhere: false }),
    }
}
