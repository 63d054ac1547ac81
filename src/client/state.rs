//! What a client knows, under one lock: futures, waits, what is to be written, what was asked.
//!
//! Calls come in through [`super::session`], frames through [`super::line`]. Nothing here blocks or writes;
//! whom to wake and what to call is collected in `Effects`, for when the lock is free.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::error::Failure;
use super::group::{Group, Groups, Until};
use super::table::{Listener, Slot, SlotState, Stored, Table};
use crate::model::error::TaskError;
use crate::model::{FunctionId, FutureId, TaskId, WorkerId};
use crate::wire::client::{
    ClientOutbox, Fault, FunctionName, GiveUp, NotifyReader, Outcome, Placed, Submission, Unreachable,
};
use crate::wire::peer::HostKey;
use crate::wire::{Peer, WireError};

/// A caller writes by itself if nothing was written for this long; inside a burst it leaves that to the
/// connection's thread, which then batches.
const QUIET: Duration = Duration::from_micros(20);

/// Work for the connection's thread.
pub(super) type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What the connection's thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Io {
    /// It sleeps until it is woken or something arrives.
    Asleep,
    /// It sleeps, and looks at the outbox soon.
    Lingering,
    /// It looks at the outbox before it sleeps.
    Awake,
}

/// Where a worker is.
pub(super) struct Place {
    /// `host:port` of its data port.
    pub(super) address: Arc<str>,
    /// Where its memory can be mapped, if it may.
    pub(super) host: Option<HostKey>,
}

/// What a client knows.
pub(super) struct State {
    pub(super) table: Table,
    pub(super) groups: Groups,
    pub(super) outbox: ClientOutbox,
    /// Why nothing works any more.
    pub(super) end: Option<Failure>,
    pub(super) io: Io,
    /// When the outbox was last emptied.
    pub(super) flushed: Instant,
    /// The workers that are there.
    pub(super) peers: BTreeMap<WorkerId, Place>,
    pub(super) jobs: Vec<Job>,
    replies: HashMap<u32, oneshot::Sender<Result<String, String>>>,
    placements: HashMap<FutureId, mpsc::UnboundedSender<Placed>>,
    next_query: u32,
    function: Option<FunctionId>,
    named: HashSet<FunctionId>,
    effects: Effects,
}

/// What is to be done once the lock is free.
#[derive(Default)]
#[must_use]
pub(super) struct Effects {
    wakers: Vec<Waker>,
    /// Functions that were to be called at the end of a future.
    pub(super) callbacks: Vec<Box<dyn FnOnce() + Send>>,
}

impl Effects {
    /// Wakes who waits.
    pub(super) fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

impl State {
    /// A client that has said nothing.
    pub(super) fn new() -> Self {
        Self {
            table: Table::new(),
            groups: Groups::default(),
            outbox: ClientOutbox::default(),
            end: None,
            io: Io::Awake,
            flushed: Instant::now(),
            peers: BTreeMap::new(),
            jobs: Vec::new(),
            replies: HashMap::new(),
            placements: HashMap::new(),
            next_query: 0,
            function: None,
            named: HashSet::new(),
            effects: Effects::default(),
        }
    }

    /// Whether a caller writes by itself.
    pub(super) fn is_quiet(&self) -> bool {
        self.io != Io::Awake && self.flushed.elapsed() >= QUIET
    }

    /// Takes a reference; on a client that has ended the future is over at once.
    #[inline]
    pub(super) fn allocate(&mut self) -> FutureId {
        let Some(id) = self.table.allocate() else {
            panic!("this client has submitted 2^32 calls, the most that one connection can count");
        };
        if let Some(end) = &self.end {
            let state = SlotState::Failed(Box::new(end.clone()));
            if let Some(slot) = self.table.slot(id) {
                slot.state = state;
            }
        }
        id
    }

    /// Submits a call, and names its function if the scheduler has not heard of it.
    #[inline]
    pub(super) fn submit(&mut self, call: &Submission<'_>, function_name: impl FnOnce() -> String) {
        if self.end.is_some() {
            return;
        }
        if self.function != Some(call.function) {
            self.function = Some(call.function);
            if self.named.insert(call.function) {
                self.outbox.functions(&[FunctionName { id: call.function, name: function_name() }]);
            }
        }
        self.outbox.submit(call);
        self.told(call.future);
    }

    /// Notes that the scheduler hears of a future.
    #[inline]
    pub(super) fn told(&mut self, id: FutureId) {
        if let Some(slot) = self.table.slot(id) {
            slot.known = true;
        }
    }

    /// Why a future that the scheduler never heard of failed.
    #[inline]
    pub(super) fn refusal(&mut self, id: FutureId) -> Option<Failure> {
        match self.table.slot(id)? {
            Slot { known: false, state: SlotState::Failed(failure), .. } => Some((**failure).clone()),
            _ => None,
        }
    }

    /// Asks for the outcome of a future, once.
    #[inline]
    pub(super) fn watch(&mut self, id: FutureId) {
        if let Some(slot) = self.table.slot(id)
            && !slot.watched
            && slot.known
            && !slot.state.is_done()
        {
            slot.watched = true;
            self.outbox.watch(id);
        }
    }

    /// Gives a reference back.
    #[inline]
    pub(super) fn release(&mut self, id: FutureId) {
        let known = self.table.slot(id).is_some_and(|slot| slot.known);
        self.table.release(id);
        if known && self.end.is_none() {
            self.outbox.release(id);
        }
    }

    /// Runs a failed call again; whether there was a failure to repeat.
    pub(super) fn retry(&mut self, id: FutureId) -> bool {
        let Some(slot) = self.table.slot(id) else { return false };
        if self.end.is_some()
            || !matches!(&slot.state, SlotState::Failed(f) if matches!(**f, Failure::Task(_)))
        {
            return false;
        }
        slot.state = SlotState::Pending;
        slot.watched = true;
        self.outbox.retry(id);
        self.outbox.watch(id);
        true
    }

    /// Forgets where a value is, unless that was said anew since: it will be said again.
    pub(super) fn unreachable(&mut self, unreachable: &Unreachable) {
        let Some(slot) = self.table.slot(unreachable.future) else { return };
        if matches!(&slot.state, SlotState::Stored(stored) if stored.task == unreachable.task)
            && self.end.is_none()
        {
            slot.state = SlotState::Pending;
            slot.watched = true;
            self.outbox.unreachable(unreachable);
        }
    }

    /// Adds a future to a group, and watches it.
    #[inline]
    pub(super) fn join_group(&mut self, group: u32, id: FutureId) {
        let members = self.groups.group(group);
        let index = members.members.len() as u32;
        members.members.push(id);
        members.pending += 1;
        let failed = match self.table.slot(id).map(|slot| &slot.state) {
            Some(SlotState::Pending) => {
                self.table.listen(id, Listener::Member { group, index });
                return self.watch(id);
            }
            Some(SlotState::Failed(_)) => true,
            _ => false,
        };
        let members = self.groups.group(group);
        members.done(index, failed);
        let waker = members.wake();
        self.effects.wakers.extend(waker);
    }

    /// Ends a group; futures that are not done no longer know it. The group is the caller's to drop, once the
    /// lock is free: its waker may own a task that owns futures.
    pub(super) fn close_group(&mut self, group: u32) -> Option<Group> {
        let closed = self.groups.close(group)?;
        if closed.pending > 0 {
            closed.members.iter().for_each(|id| self.table.unlisten(*id, group));
        }
        Some(closed)
    }

    /// A group of `ids`.
    pub(super) fn open_group(
        &mut self,
        ids: impl Iterator<Item = FutureId>,
        until: Until,
        deadline: Option<Instant>,
    ) -> u32 {
        let group = self.groups.open(until, deadline);
        ids.for_each(|id| self.join_group(group, id));
        group
    }

    /// Calls `callback` at the end of a future, or now.
    pub(super) fn call_back(&mut self, id: FutureId, callback: Box<dyn FnOnce() + Send>) {
        match self.table.slot(id) {
            Some(slot) if !slot.state.is_done() => {
                self.table.listen(id, Listener::Callback(callback));
                self.watch(id);
            }
            _ => self.effects.callbacks.push(callback),
        }
    }

    /// Numbers a question; its answer arrives on the receiver, or an error if the client ends first.
    pub(super) fn expect_reply(&mut self) -> (u32, oneshot::Receiver<Result<String, String>>) {
        let number = self.next_query;
        self.next_query = number.wrapping_add(1);
        let (sender, receiver) = oneshot::channel();
        if self.end.is_none() {
            self.replies.insert(number, sender);
        }
        (number, receiver)
    }

    /// Expects where the value of a `Scatter` goes that has this future, and where else if it does not get there.
    pub(super) fn expect_placements(&mut self, future: FutureId, places: mpsc::UnboundedSender<Placed>) {
        if self.end.is_none() {
            self.placements.insert(future, places);
        }
    }

    /// A value has arrived or is given up.
    pub(super) fn expect_no_placement(&mut self, future: FutureId) {
        self.placements.remove(&future);
    }

    /// Has the scheduler say where else a value goes that does not get to this worker.
    pub(super) fn not_put(&mut self, future: FutureId, task: TaskId, worker: WorkerId) {
        if self.end.is_none() && self.table.slot(future).is_some_and(|slot| !slot.state.is_done()) {
            self.outbox.unreachable(&Unreachable {
                future,
                task,
                workers: vec![(worker, Fault::NotReached)],
            });
        }
    }

    /// Tells the scheduler that a value is not sent any more: whoever wants it has this reason.
    pub(super) fn give_up(&mut self, future: FutureId, task: TaskId, reason: String) {
        if self.end.is_none() && self.table.slot(future).is_some_and(|slot| !slot.state.is_done()) {
            self.outbox.give_up(&GiveUp { future, task, reason });
        }
    }

    /// Books the outcomes of one frame.
    pub(super) fn notified(&mut self, reader: &mut NotifyReader<'_>) -> Result<(), WireError> {
        while let Some((id, outcome)) = reader.next_outcome()? {
            let state = match outcome {
                Outcome::Inline(bytes) => SlotState::Inline(bytes.into()),
                Outcome::Stored { task, nbytes, holders } => {
                    SlotState::Stored(Box::new(Stored { task, nbytes, holders }))
                }
                Outcome::Failed(bytes) => {
                    SlotState::Failed(Box::new(Failure::Task(Arc::new(TaskError::unpack(bytes)))))
                }
                Outcome::Cancelled(reason) => SlotState::Failed(Box::new(Failure::Cancelled(reason.into()))),
            };
            self.finish(id, state);
        }
        Ok(())
    }

    /// Ends a future that is pending.
    #[inline]
    pub(super) fn finish(&mut self, id: FutureId, end: SlotState) {
        let Some(slot) = self.table.slot(id) else { return };
        if slot.state.is_done() {
            return;
        }
        let failed = matches!(end, SlotState::Failed(_));
        slot.state = end;
        while let Some(listener) = self.table.pop_listener(id) {
            match listener {
                Listener::Member { group, index } => {
                    let group = self.groups.group(group);
                    group.done(index, failed);
                    let waker = group.wake();
                    self.effects.wakers.extend(waker);
                }
                Listener::Callback(callback) => self.effects.callbacks.push(callback),
            }
        }
    }

    /// Cancels a future here, whatever becomes of its task.
    pub(super) fn cancelled(&mut self, id: FutureId, reason: &Arc<str>) {
        let Some(slot) = self.table.slot(id) else { return };
        let end = SlotState::Failed(Box::new(Failure::Cancelled(reason.clone())));
        match slot.state {
            SlotState::Pending => self.finish(id, end),
            SlotState::Failed(_) => {}
            _ => slot.state = end,
        }
    }

    /// Hands an answer to who asked.
    pub(super) fn replied(&mut self, number: u32, answer: Result<String, String>) {
        if let Some(sender) = self.replies.remove(&number) {
            let _ = sender.send(answer);
        }
    }

    /// Hands places to who scatters.
    pub(super) fn placed(&mut self, placed: Vec<Placed>) {
        for place in placed {
            if let Some(places) = self.placements.get(&place.future) {
                let _ = places.send(place);
            }
        }
    }

    /// Notes workers that joined.
    pub(super) fn joined(&mut self, peers: Vec<Peer>) {
        let place = |peer: Peer| (peer.worker, Place { address: peer.address.into(), host: peer.shm });
        self.peers.extend(peers.into_iter().map(place));
    }

    /// Notes workers that are gone.
    pub(super) fn left(&mut self, workers: &[WorkerId]) {
        self.peers.retain(|worker, _| !workers.contains(worker));
    }

    /// Ends everything: pending futures are lost, whoever waits is told. Only the first reason counts.
    pub(super) fn ended(&mut self, end: Failure) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end.clone());
        for id in self.table.pending() {
            self.finish(id, SlotState::Failed(Box::new(end.clone())));
        }
        self.replies.clear();
        self.placements.clear();
        self.jobs.clear();
    }

    /// Expires waits.
    pub(super) fn expire(&mut self, at: Instant) {
        let wakers = self.groups.expire(at);
        self.effects.wakers.extend(wakers);
    }

    /// What is to be done once the lock is free.
    pub(super) fn effects(&mut self) -> Effects {
        std::mem::take(&mut self.effects)
    }
}
