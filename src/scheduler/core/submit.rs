//! What clients say: submit, watch, release, scatter.

use std::sync::Arc;

use super::clients::{Standing, Watch};
use super::life::Step;
use super::task::{Origin, ShortBytes, State};
use super::{Effects, Interned, SchedulerCore, Violation};
use crate::model::{ClientId, FunctionId, FutureId, WorkerId};
use crate::wire::client::{Outcome, Placed, Scatter, ScatterValue, Submission};

/// Stands in the function table for values that no function made.
const SCATTERED: FunctionId = FunctionId(0);
/// How far ahead of the futures it holds a client may number one: more is a sign of nonsense.
const FUTURE_AHEAD_MAX: u32 = 1 << 30;

impl SchedulerCore {
    /// Books a call. A call of a known key is that task: the first specification wins.
    pub fn submit<E: Effects>(
        &mut self,
        client: ClientId,
        call: &Submission<'_>,
        effects: &mut E,
    ) -> Result<(), Violation> {
        self.take_future(client, call.future)?;
        let mut inputs = smallvec::SmallVec::<[u32; 4]>::with_capacity(call.inputs.len());
        for input in &call.inputs {
            match self.clients.standing(client, *input) {
                Standing::Task { slot, .. } => inputs.push(slot),
                Standing::Cancelled(reason) => {
                    self.clients.mark_cancelled(client, call.future, reason);
                    return Ok(());
                }
                Standing::Unknown => return Err(Violation::UnknownFuture { client, future: *input }),
            }
        }
        self.totals.submitted += 1;
        let function = self.function(call.function);
        let slot = match self.intern(call.key, function, Origin::Computed) {
            Interned::Known(slot) => {
                self.clients.link(&mut self.tasks, client, call.future, slot);
                self.steps.push(Step::Activate(slot));
                self.take_steps(effects);
                return Ok(());
            }
            Interned::Fresh(slot) => slot,
        };
        if let Some(name) = call.name {
            self.names.insert(call.key, name.to_owned());
        }
        for &input in &inputs {
            self.tasks[input].dependents += 1;
        }
        let task = &mut self.tasks[slot];
        task.arguments = ShortBytes::from_slice(call.arguments);
        task.inputs = inputs;
        task.priority = call.options.priority;
        task.retries_left = call.options.retries;
        self.clients.link(&mut self.tasks, client, call.future, slot);
        self.steps.push(Step::Activate(slot));
        self.take_steps(effects);
        Ok(())
    }

    /// Answers when the future is done: at once if it is.
    pub fn watch<E: Effects>(
        &mut self,
        client: ClientId,
        future: FutureId,
        effects: &mut E,
    ) -> Result<(), Violation> {
        match self.clients.standing(client, future) {
            Standing::Task { reference, slot } => {
                if !self.tell(slot, reference, effects) {
                    self.clients.watch(reference, Watch::Yes);
                }
                Ok(())
            }
            Standing::Cancelled(reason) => {
                effects.notify(client, future, &Outcome::Cancelled(&reason));
                Ok(())
            }
            Standing::Unknown => Err(Violation::UnknownFuture { client, future }),
        }
    }

    /// Takes a reference back.
    pub fn release<E: Effects>(
        &mut self,
        client: ClientId,
        future: FutureId,
        effects: &mut E,
    ) -> Result<(), Violation> {
        if self.clients.unmark_cancelled(client, future) {
            return Ok(());
        }
        let Standing::Task { reference, .. } = self.clients.standing(client, future) else {
            return Err(Violation::UnknownFuture { client, future });
        };
        let slot = self.clients.unlink(&mut self.tasks, reference);
        self.steps.push(Step::Settle(slot));
        self.take_steps(effects);
        Ok(())
    }

    /// Chooses workers for values that a client is about to send; with no worker yet, when one joins.
    pub fn scatter<E: Effects>(
        &mut self,
        client: ClientId,
        scatter: Scatter,
        effects: &mut E,
    ) -> Result<(), Violation> {
        for value in &scatter.values {
            self.take_future(client, value.future)?;
        }
        match self.workers.len() {
            0 => self.unscattered.push((client, scatter)),
            _ => self.place_scattered(client, &scatter, effects),
        }
        Ok(())
    }

    /// Spreads values over the workers, one after the other round the ring.
    pub(super) fn place_scattered<E: Effects>(
        &mut self,
        client: ClientId,
        scatter: &Scatter,
        effects: &mut E,
    ) {
        if !self.clients.contains(client) {
            return;
        }
        let chosen: Vec<WorkerId> =
            scatter.workers.iter().copied().filter(|worker| self.workers.find(*worker).is_some()).collect();
        for value in &scatter.values {
            let among = if chosen.is_empty() { self.workers.ids() } else { &chosen };
            let worker = among[self.next_scatter % among.len()];
            let placed = self.receive(client, value, worker);
            if placed.worker.is_some() {
                self.next_scatter += 1;
            }
            effects.placed(client, &placed);
        }
    }

    /// Books a value as on its way to `worker`, unless its key is known.
    fn receive(&mut self, client: ClientId, value: &ScatterValue, worker: WorkerId) -> Placed {
        let function = self.function(SCATTERED);
        let (Interned::Known(slot) | Interned::Fresh(slot)) =
            self.intern(value.key, function, Origin::Scattered);
        self.clients.link(&mut self.tasks, client, value.future, slot);
        let lost = matches!(self.tasks[slot].state, State::Released | State::Failed(_));
        let scattered = self.tasks[slot].origin == Origin::Scattered;
        if scattered && lost {
            self.tasks[slot].state = State::Receiving { worker, client };
            self.tasks[slot].nbytes = value.nbytes;
        } else if lost && matches!(self.tasks[slot].state, State::Released) {
            self.steps.push(Step::Activate(slot));
        }
        Placed {
            future: value.future,
            task: self.tasks.id(slot),
            worker: (scattered && lost).then_some(worker),
        }
    }

    /// A future that the client numbers for the first time.
    fn take_future(&self, client: ClientId, future: FutureId) -> Result<(), Violation> {
        let free = self.clients.standing(client, future) == Standing::Unknown;
        match free && future.0 < FUTURE_AHEAD_MAX {
            true => Ok(()),
            false => Err(Violation::FutureTaken { client, future }),
        }
    }

    /// Tells a client that its future is cancelled, and takes the reference off its task.
    pub(super) fn cancel_reference<E: Effects>(
        &mut self,
        reference: u32,
        reason: &Arc<str>,
        effects: &mut E,
    ) {
        let node = *self.clients.reference(reference);
        let slot = self.clients.unlink(&mut self.tasks, reference);
        self.clients.mark_cancelled(node.client, node.future, reason.clone());
        effects.notify(node.client, node.future, &Outcome::Cancelled(reason));
        self.steps.push(Step::Settle(slot));
    }
}
