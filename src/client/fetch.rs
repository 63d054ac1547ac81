//! Bringing results here: small ones are in the table, large ones are fetched from a worker that has them.
//!
//! Workers that do not hand a value out are reported to the scheduler, which says where else it is, or has it made
//! again if none is left that has it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::{Error, Result};
use super::future::Reference;
use super::session::{Session, Urgency, within};
use super::state::State;
use super::table::{SlotState, Stored};
use crate::model::unpack::unpack;
use crate::model::{Data, Packed, TaskId, WorkerId};
use crate::transport::data::{Brought, DataError, Meter};
use crate::wire::client::{Fault, Unreachable};
use bytes::Bytes;

/// How often the holders of a result are asked,
const ATTEMPTS_MAX: u32 = 8;
/// and for how long after the first time, whatever that came to.
const TRIED_FOR: Duration = Duration::from_secs(60);
/// How much larger than twice what the scheduler was told a value may be: memory is taken for no more.
const SLACK_BYTES: u64 = 1 << 20;
/// The pause after the second time that no holder was reached; it doubles. The scheduler hears of a dead worker in
/// that time, and says where else its values are.
const PAUSE: Duration = Duration::from_millis(50);

/// The result of a future that is done, to be unpacked; it is fetched if it is not here.
pub(super) async fn bring(reference: &Arc<Reference>, meter: &Meter) -> Result<Brought> {
    let session = reference.session();
    let mut first: Option<Instant> = None;
    let mut attempts = 0;
    loop {
        let stored = match here(session, reference)? {
            Here::Packed(packed) => return Ok(Brought::Packed(packed)),
            Here::Far(stored) => stored,
            Here::Pending => {
                reference.settled(None).await?;
                continue;
            }
        };
        let failures = match fetch(session, &stored, meter).await {
            Ok(brought) => return Ok(brought),
            Err(failures) => failures,
        };
        session.check()?;
        attempts += 1;
        tracing::debug!(key = reference.key(), attempts, reason = in_words(&failures), "not handed out");
        let is_over = first.get_or_insert_with(Instant::now).elapsed() >= TRIED_FOR;
        if failures.is_empty() || attempts == ATTEMPTS_MAX || is_over {
            return Err(Error::Fetch { key: reference.key(), attempts, reason: in_words(&failures) });
        }
        if attempts > 1 && failures.iter().all(|failure| failure.fault == Fault::NotReached) {
            let pause = PAUSE * (1 << (attempts - 2));
            within(session, Some(pause), std::future::pending::<()>()).await;
        }
        report(session, reference, stored.task, &failures);
    }
}

/// Has the scheduler say again where a result is.
fn report(session: &Session, reference: &Reference, task: TaskId, failures: &[Failed]) {
    let workers = failures.iter().map(|failure| (failure.worker, failure.fault)).collect();
    let mut state = session.lock();
    state.unreachable(&Unreachable { future: reference.id(), task, workers });
    session.appended(state, Urgency::Now);
}

/// What each holder said, and what to look at.
fn in_words(failures: &[Failed]) -> String {
    let mut said: Vec<String> =
        failures.iter().map(|failure| format!("{}: {}", failure.worker, failure.reason)).collect();
    if failures.is_empty() {
        said.push("no worker is known to have it".to_owned());
    }
    if failures.iter().any(|failure| failure.fault == Fault::NotReached) {
        said.push(
            "see whether this host reaches the ports of the workers' hosts, which a login node may not: the program \
             can run beside the ranks instead (`dcluster run`)"
                .to_owned(),
        );
    }
    said.join("; ")
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

/// A holder that did not hand the value out.
struct Failed {
    worker: WorkerId,
    fault: Fault,
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

/// Fetches a value from the first of its holders that hands it out; what each of them said if none does.
async fn fetch(session: &Arc<Session>, stored: &Stored, meter: &Meter) -> Result<Brought, Vec<Failed>> {
    let mut failures = Vec::new();
    let Some(pool) = &session.pool else { return Err(failures) };
    for worker in stored.holders.iter().copied() {
        let Some(address) = session.peer(worker) else {
            let reason = "it is gone, or its address is not known".to_owned();
            failures.push(Failed { worker, fault: Fault::NotReached, reason });
            continue;
        };
        let (pool, task, meter) = (pool.clone(), stored.task, meter.clone());
        let bytes_max = stored.nbytes.saturating_mul(2).saturating_add(SLACK_BYTES);
        tracing::trace!(%worker, %task, nbytes = stored.nbytes, "fetching");
        match session.run(async move { pool.bring(&address, task, meter, bytes_max).await }).await {
            Some(Ok(brought)) => return Ok(brought),
            Some(Err(error)) => {
                let is_not_here = matches!(error, DataError::NotHere { .. });
                let fault = if is_not_here { Fault::NotHere } else { Fault::NotReached };
                failures.push(Failed { worker, fault, reason: error.to_string() });
            }
            None => break,
        }
    }
    Err(failures)
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
    let Some(address) = session.peer(worker) else {
        return Err(failed("it is gone, or its address is not known".to_owned(), true));
    };
    let Some(pool) = session.pool.clone() else {
        return Err(NotPut { error: session.end(), may_go_elsewhere: false });
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
