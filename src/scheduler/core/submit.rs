//! What clients say: submit, watch, release, scatter.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::blame::Loss;
use super::clients::{Standing, Watch};
use super::life::Step;
use super::task::{Origin, State};
use super::{Effects, Interned, SchedulerCore, Violation};
use crate::model::{ClientId, FunctionId, FutureId, Key, WorkerId, WorkerName};
use crate::wire::client::{GiveUp, Outcome, Placed, Scatter, ScatterValue, Submission};

/// How far ahead of the futures it holds a client may number one: more is a sign of nonsense.
const FUTURE_AHEAD_MAX: u32 = 1 << 30;

/// Where a scattered value goes.
#[derive(Debug, Clone, Copy)]
enum Place<'a> {
    /// To this worker, or to the first that joins.
    Worker(Option<WorkerId>),
    /// Nowhere: none of those that it is for is there.
    Absent(&'a [WorkerName]),
}

impl SchedulerCore {
    /// Says that a call of `key` comes after the one that is about to be booked. That the key is not in the cache
    /// takes a fifth of a booking, and can be waited for meanwhile.
    #[inline]
    pub fn expect(&self, key: Key) {
        self.keys.prefetch(key);
    }

    /// Books a call. A call of a known key is that task: the first specification wins.
    pub fn submit<E: Effects>(
        &mut self,
        client: ClientId,
        call: &Submission<'_>,
        effects: &mut E,
    ) -> Result<(), Violation> {
        self.take_future(client, call.future)?;
        let Some(inputs) = self.clients.slots(client, &call.inputs) else {
            return self.submit_in_vain(client, call);
        };
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
        let task = &mut self.tasks[slot];
        task.arguments.extend_from_slice(call.arguments);
        task.priority = call.options.priority;
        task.retries_left = call.options.retries;
        if let Some(placement) = &call.options.placement {
            task.is_bound = true;
            self.bindings.bind(slot, Arc::clone(placement));
        }
        self.clients.link(&mut self.tasks, client, call.future, slot);
        self.wait_for(slot, &inputs, 1);
        if !inputs.is_empty() {
            self.tasks[slot].inputs = inputs;
        }
        self.take_steps(effects);
        Ok(())
    }

    /// A call that takes a cancelled future is cancelled; one that takes what its client never had is nonsense.
    #[cold]
    fn submit_in_vain(&mut self, client: ClientId, call: &Submission<'_>) -> Result<(), Violation> {
        for &future in &call.inputs {
            match self.clients.standing(client, future) {
                Standing::Task { .. } => {}
                Standing::Cancelled(reason) => {
                    self.clients.mark_cancelled(client, call.future, reason);
                    return Ok(());
                }
                Standing::Unknown => return Err(Violation::UnknownFuture { client, future }),
            }
        }
        unreachable!("some input stands for no task")
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
        self.give_back(reference, effects);
        self.take_steps(effects);
        Ok(())
    }

    /// Chooses workers for values that a client is about to send; with no worker yet, when one joins.
    pub fn scatter<E: Effects>(
        &mut self,
        client: ClientId,
        scatter: &Scatter,
        effects: &mut E,
    ) -> Result<(), Violation> {
        for value in &scatter.values {
            self.take_future(client, value.future)?;
        }
        let chosen = self.named_workers(&scatter.workers);
        let is_named = !scatter.workers.is_empty() && !scatter.allow_other_workers;
        let function = self.scattered(&scatter.type_name);
        for value in &scatter.values {
            let place = match is_named && chosen.is_empty() {
                true => Place::Absent(&scatter.workers),
                false => Place::Worker(self.next_receiver(&chosen, None)),
            };
            self.receive(client, value, function, (place, is_named), effects);
        }
        self.take_steps(effects);
        Ok(())
    }

    /// The first worker has joined: values that waited for it are sent.
    pub(super) fn place_unscattered<E: Effects>(&mut self, effects: &mut E) {
        for (client, future) in std::mem::take(&mut self.unscattered) {
            let Standing::Task { slot, .. } = self.clients.standing(client, future) else { continue };
            let sender = (client, future);
            if matches!(self.tasks[slot].state, State::Receiving { worker: None, sender: other, .. } if other == sender)
            {
                self.send_elsewhere(slot, effects);
            }
        }
    }

    /// A value did not reach its worker, or had none: its client sends it to another, which is not asked of it if
    /// it has named its workers; the value is lost then.
    pub(super) fn send_elsewhere<E: Effects>(&mut self, slot: u32, effects: &mut E) {
        let State::Receiving { worker: former, sender, is_named } = self.tasks[slot].state else { return };
        if let Some(former) = former {
            if is_named {
                return self.lose_scattered(slot, Loss::OnItsWay(former));
            }
            self.tasks.rename(slot);
        }
        let worker = self.next_receiver(&[], former);
        self.tasks[slot].state = State::Receiving { worker, sender, is_named };
        let (client, future) = sender;
        match worker {
            Some(_) => effects.placed(client, &Placed { future, task: self.tasks.id(slot), worker }),
            None => self.unscattered.push(sender),
        }
    }

    /// The next of the chosen workers, or of all, round the ring; one whose memory is nearly full is passed over, and so
    /// is `former`. None if there is none.
    fn next_receiver(&mut self, chosen: &[WorkerId], former: Option<WorkerId>) -> Option<WorkerId> {
        let among = if chosen.is_empty() { self.workers.ids() } else { chosen };
        let first = self.next_scatter % among.len().max(1);
        let mut round = among.iter().cycle().skip(first).take(among.len());
        let others = round.clone().filter(|worker| Some(**worker) != former);
        let open = others.clone().find(|worker| !self.workers.is_avoided(**worker));
        let worker = open.or(others.clone().next()).or_else(|| round.next()).copied();
        self.next_scatter = self.next_scatter.wrapping_add(1);
        worker
    }

    /// The entry in the function table of scattered values of a type, which nobody runs.
    fn scattered(&mut self, type_name: &str) -> u32 {
        let function = self.function(FunctionId(xxh3_64(type_name.as_bytes())));
        self.functions[function as usize].name.get_or_insert_with(|| type_name.to_owned());
        function
    }

    /// Books a value as on its way to its place, unless its key is known.
    fn receive<E: Effects>(
        &mut self,
        client: ClientId,
        value: &ScatterValue,
        function: u32,
        (place, is_named): (Place<'_>, bool),
        effects: &mut E,
    ) {
        let (Interned::Known(slot) | Interned::Fresh(slot)) =
            self.intern(value.key, function, Origin::Scattered);
        self.clients.link(&mut self.tasks, client, value.future, slot);
        let mut placed = Placed { future: value.future, task: self.tasks.id(slot), worker: None };
        match (&self.tasks[slot].state, self.tasks[slot].origin) {
            (State::Released | State::Failed(_), Origin::Scattered) => {
                self.tasks[slot].nbytes = value.nbytes;
                let worker = match place {
                    Place::Worker(worker) => worker,
                    Place::Absent(names) => {
                        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                        return self.lose_scattered(slot, Loss::Absent(names.join(", ")));
                    }
                };
                let sender = (client, value.future);
                self.tasks[slot].state = State::Receiving { worker, sender, is_named };
                match worker {
                    Some(_) => placed.worker = worker,
                    None => return self.unscattered.push(sender),
                }
            }
            (State::Released, Origin::Computed) => self.steps.push(Step::Activate(slot)),
            (State::Receiving { .. }, _) => {
                self.heirs.entry(slot).or_default().push_back((client, value.future));
            }
            _ => {}
        }
        effects.placed(client, &placed);
    }

    /// A future that the client numbers for the first time.
    fn take_future(&self, client: ClientId, future: FutureId) -> Result<(), Violation> {
        if !self.clients.contains(client) {
            return Err(Violation::Left { client });
        }
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
        self.give_back(reference, effects);
        self.clients.mark_cancelled(node.client, node.future, reason.clone());
        effects.notify(node.client, node.future, &Outcome::Cancelled(reason));
    }

    /// A client does not send a value any more, and says why: another that has the same sends it, or it is lost.
    pub fn give_up<E: Effects>(
        &mut self,
        client: ClientId,
        give_up: &GiveUp,
        effects: &mut E,
    ) -> Result<(), Violation> {
        let GiveUp { future, task, ref reason } = *give_up;
        let slot = match self.clients.standing(client, future) {
            Standing::Task { slot, .. } => slot,
            Standing::Cancelled(_) => return Ok(()),
            Standing::Unknown => return Err(Violation::UnknownFuture { client, future }),
        };
        if self.tasks.id(slot) == task && self.is_sent_by(slot, (client, future)) {
            self.bequeath(slot, || Loss::GivenUp(reason.clone()), effects);
            self.take_steps(effects);
        }
        Ok(())
    }

    /// Takes a reference off its task. If it was that of a client sending the value, another that has the same sends
    /// it, or it does not come.
    pub(super) fn give_back<E: Effects>(&mut self, reference: u32, effects: &mut E) {
        let node = *self.clients.reference(reference);
        let slot = self.clients.unlink(&mut self.tasks, reference);
        if self.is_sent_by(slot, (node.client, node.future)) {
            self.bequeath(slot, || Loss::Unsent, effects);
        }
        self.steps.push(Step::Settle(slot));
    }

    /// Whether the value is to come from this future of this client.
    fn is_sent_by(&self, slot: u32, by: (ClientId, FutureId)) -> bool {
        matches!(self.tasks[slot].state, State::Receiving { sender, .. } if sender == by)
    }

    /// The sender of a value is out of it: the next that scattered the same sends it to the same worker. Without one
    /// it is lost.
    fn bequeath<E: Effects>(&mut self, slot: u32, loss: impl FnOnce() -> Loss, effects: &mut E) {
        let State::Receiving { worker, is_named, .. } = self.tasks[slot].state else { return };
        let heirs = self.heirs.get_mut(&slot);
        let stands = |(client, future): &(ClientId, FutureId)| matches!(self.clients.standing(*client, *future), Standing::Task { slot: of, .. } if of == slot);
        let heir = heirs.and_then(|heirs| std::iter::from_fn(|| heirs.pop_front()).find(stands));
        let Some(sender) = heir else { return self.lose_scattered(slot, loss()) };
        // What the former sender has sent so far is not taken for what the next one sends.
        self.tasks.rename(slot);
        self.tasks[slot].state = State::Receiving { worker, sender, is_named };
        let (client, future) = sender;
        match worker {
            Some(_) => effects.placed(client, &Placed { future, task: self.tasks.id(slot), worker }),
            None => self.unscattered.push(sender),
        }
    }
}
