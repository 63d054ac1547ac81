//! Submitting: calls become entries of the outbox and futures.
//!
//! Calls are taken apart and packed before the lock is taken, and dropped after it is free: a user's code
//! runs between them, and the futures inside a call are given back under the same lock.

use std::any::Any;
use std::sync::Arc;

use smallvec::SmallVec;

use super::call::{Call, CallParts};
use super::error::{Error, Failure};
use super::future::{Future, Name, Reference};
use super::scatter::unique_key;
use super::session::{Link, Session, Urgency};
use super::state::State;
use super::table::SlotState;
use crate::model::pack::PackError;
use crate::model::{FutureId, Key};
use crate::wire::client::{CallOptions, Submission};

/// Calls that are submitted under one lock.
const CHUNK_CALLS: usize = 64;

/// Submits one call.
pub(super) fn submit<T, M>(link: &Arc<Link>, call: Call<T>) -> Future<T, M> {
    let task = call.task();
    let parts = call.into_parts();
    let session = &link.session;
    let mut state = session.lock();
    // A call that goes out by itself takes its watch along: whoever submits one call at a time wants it soon.
    let watched = state.is_quiet();
    let (id, key) = enter(session, &mut state, &parts);
    if watched {
        state.watch(id);
    }
    session.appended(state, Urgency::Soon);
    let name = name(task.short_name(), &parts);
    Future::new(link.clone(), id, key, name)
}

/// A future of what cannot be submitted.
pub(super) fn failed<T, M>(link: &Arc<Link>, task: &'static str, error: Error) -> Future<T, M> {
    let session = &link.session;
    let mut state = session.lock();
    let id = state.allocate();
    state.finish(id, SlotState::Failed(Box::new(Failure::Gone(error))));
    drop(state);
    Future::new(link.clone(), id, unique_key(session.nonce, id), Name::Function(task))
}

/// Submits calls, a chunk of them under one lock.
pub(super) fn submit_all<T, M>(link: &Arc<Link>, calls: impl Iterator<Item = Call<T>>) -> Vec<Future<T, M>> {
    let session = &link.session;
    let mut futures = Vec::with_capacity(calls.size_hint().0);
    let mut chunk = Vec::with_capacity(CHUNK_CALLS);
    let mut ids = Vec::with_capacity(CHUNK_CALLS);
    let mut calls = calls.map(|call| (call.task(), call.into_parts())).peekable();
    while calls.peek().is_some() {
        chunk.extend(calls.by_ref().take(CHUNK_CALLS));
        let mut state = session.lock();
        ids.extend(chunk.iter().map(|(_, parts)| enter(session, &mut state, parts)));
        session.appended(state, Urgency::Soon);
        for ((task, parts), (id, key)) in chunk.drain(..).zip(ids.drain(..)) {
            futures.push(Future::new(link.clone(), id, key, name(task.short_name(), &parts)));
        }
    }
    futures
}

/// Takes a reference and appends the call; one that cannot be submitted is an error of its future.
fn enter(session: &Session, state: &mut State, parts: &Result<CallParts, PackError>) -> (FutureId, Key) {
    let id = state.allocate();
    let failure = match parts {
        Err(error) => Failure::Gone(Error::Pack(error.to_string().into())),
        Ok(parts) => match refused(session, state, parts) {
            Some(failure) => failure,
            None => return (id, append(session, state, id, parts)),
        },
    };
    state.finish(id, SlotState::Failed(Box::new(failure)));
    (id, unique_key(session.nonce, id))
}

fn append(session: &Session, state: &mut State, id: FutureId, parts: &CallParts) -> Key {
    let key = parts.key.unwrap_or_else(|| unique_key(session.nonce, id));
    let options = CallOptions {
        priority: parts.options.priority,
        retries: u16::try_from(parts.options.retries).unwrap_or(u16::MAX),
        placement: parts.options.placement.clone(),
    };
    let inputs: SmallVec<_> = parts.inputs.iter().map(|input| input.future).collect();
    let (function, name) = (parts.function, parts.options.key.as_deref());
    let submission =
        Submission { future: id, key, function, options, name, arguments: &parts.arguments, inputs };
    state.submit(&submission, || parts.task.name.to_owned());
    key
}

/// Why a call cannot be submitted: another client holds an input, or an input was not submitted either.
fn refused(session: &Session, state: &mut State, parts: &CallParts) -> Option<Failure> {
    parts.inputs.iter().find_map(|input| {
        let hold: &dyn Any = &*input.hold;
        match hold.downcast_ref::<Reference>() {
            Some(reference) if !std::ptr::eq(&**reference.session(), session) => {
                Some(Failure::Gone(Error::Foreign { key: reference.key() }))
            }
            _ => state.refusal(input.future),
        }
    })
}

fn name(function: &'static str, parts: &Result<CallParts, PackError>) -> Name {
    match parts.as_ref().ok().and_then(|parts| parts.options.key.as_deref()) {
        Some(name) => Name::Given(name.into()),
        None => Name::Function(function),
    }
}
