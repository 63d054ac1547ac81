//! Copies that clients ask for: of a value on so many workers, on certain ones, on all.
//!
//! What is wanted of a value is its *order*. When the value is stored, workers are chosen to have it and asked to
//! acquire it, each from one holder, which hands out at most [`FAN_OUT_MAX`] copies at a time. Who has got a copy hands
//! out more, so copies go down a tree. The first copy of a host comes from wherever there is one, the others of that
//! host from the first. A value that is lost and made again keeps its order, one that failed or that nobody wants any
//! more ends it. A request is answered when the orders of all its values have ended. Moves of values ([`super::even`])
//! are orders, too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::clients::Standing;
use super::life::Step;
use super::task::State;
use super::{Effects, SchedulerCore, Violation, even};
use crate::model::{ClientId, Copies, TaskId, WorkerId};
use crate::wire::client::{Arrange, Arrangement};

/// Copies that one holder hands out at a time.
const FAN_OUT_MAX: u32 = 2;
/// How often a worker is asked for a copy that does not reach it.
const TRIES_MAX: usize = 3;
/// Moves of values under way, for each worker.
const MOVES_PER_WORKER: usize = 2;
/// Values that are named in an answer, of those that do not have all their copies.
const NAMED_MAX: usize = 3;

/// A client's request, by its number.
pub(super) type RequestId = (ClientId, u32);

/// All orders and requests.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// By the slot of the value.
    orders: BTreeMap<u32, Order>,
    requests: BTreeMap<RequestId, Request>,
}

/// What is wanted of one value.
#[derive(Debug, Default)]
struct Order {
    wants: Vec<Want>,
    /// Workers that are to have the first copy of their host.
    far: VecDeque<WorkerId>,
    /// Workers that are to have a copy from their own host.
    near: BTreeMap<u32, Vec<WorkerId>>,
    /// Workers that were asked to acquire a copy, with the holders that hand it out.
    coming: BTreeMap<WorkerId, WorkerId>,
    /// Copies that each holder hands out.
    sending: BTreeMap<WorkerId, u32>,
    /// The holders whose copies did not reach a worker, one for each time.
    misses: BTreeMap<WorkerId, Vec<WorkerId>>,
}

/// What one request wants of one value.
#[derive(Debug)]
struct Want {
    request: RequestId,
    goal: Goal,
}

#[derive(Debug, Clone)]
enum Goal {
    Copies(Copies),
    Move(even::Move),
}

/// What a client waits for.
#[derive(Debug)]
enum Request {
    /// The orders of so many values, and what was wrong with those that have ended.
    Copies { open: usize, values: usize, faults: Vec<String> },
    /// Moves until the workers have as many bytes each.
    Even(even::Moves),
}

/// How an order ended, as far as its value is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Copies are where they could be had.
    Copied,
    /// The value is on the scheduler, and goes to whoever needs it.
    Small,
    /// There is no value: its task ended in an error.
    Failed,
    /// Nobody wants the value any more.
    GivenBack,
}

impl Orders {
    pub(super) fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }

    /// Whether something is wanted of the value in `slot`.
    #[inline]
    pub(super) fn contains(&self, slot: u32) -> bool {
        !self.orders.is_empty() && self.orders.contains_key(&slot)
    }
}

impl Order {
    /// `worker` does not wait for a copy any more.
    fn arrive(&mut self, worker: WorkerId) -> Option<WorkerId> {
        let source = self.coming.remove(&worker)?;
        if let Some(sending) = self.sending.get_mut(&source) {
            *sending -= 1;
            if *sending == 0 {
                self.sending.remove(&source);
            }
        }
        Some(source)
    }

    /// Whether `worker` is to get its copy from `holder`: it is asked once more only when all others have been.
    fn may_come(&self, worker: WorkerId, holder: WorkerId, holders: &[WorkerId]) -> bool {
        let Some(missed) = self.misses.get(&worker) else { return true };
        let times = |holder: &WorkerId| missed.iter().filter(|source| *source == holder).count();
        holders.iter().all(|other| times(other) >= times(&holder))
    }

    fn is_done(&self) -> bool {
        self.coming.is_empty() && self.far.is_empty() && self.near.is_empty()
    }
}

impl SchedulerCore {
    /// Books what a client wants of values; it is answered when that is done, or cannot be.
    pub fn arrange<E: Effects>(
        &mut self,
        client: ClientId,
        arrange: Arrange,
        effects: &mut E,
    ) -> Result<(), Violation> {
        let Arrange { number, futures, how } = arrange;
        let (mut slots, mut faults) = (BTreeSet::new(), Vec::new());
        for future in &futures {
            match self.clients.standing(client, *future) {
                Standing::Task { slot, .. } => drop(slots.insert(slot)),
                Standing::Cancelled(reason) => faults.push(format!("one was cancelled ({reason})")),
                Standing::Unknown => return Err(Violation::UnknownFuture { client, future: *future }),
            }
        }
        let request = (client, number);
        match how {
            Arrangement::Copies(copies) => {
                let open = slots.len();
                let waits = Request::Copies { open, values: futures.len(), faults };
                self.orders.requests.insert(request, waits);
                for slot in slots {
                    self.order(slot, request, Goal::Copies(copies.clone()));
                }
            }
            Arrangement::Even => {
                let moves = self.plan_moves((!futures.is_empty()).then_some(&slots));
                self.orders.requests.insert(request, Request::Even(moves));
            }
        }
        self.go_on(request, effects);
        self.take_steps(effects);
        Ok(())
    }

    /// Wants something of a value.
    fn order(&mut self, slot: u32, request: RequestId, goal: Goal) {
        self.orders.orders.entry(slot).or_default().wants.push(Want { request, goal });
        self.steps.push(Step::Arrange(slot));
    }

    /// Looks at an order again: its value is stored, a worker came or went, a copy was lost or did not arrive.
    pub(super) fn take_order<E: Effects>(&mut self, slot: u32, effects: &mut E) {
        if !self.orders.contains(slot) {
            return;
        }
        match self.tasks[slot].state {
            State::Held => self.spread(slot, effects),
            State::Inline(_) => self.end_order(slot, Ending::Small, effects),
            State::Failed(_) => self.end_order(slot, Ending::Failed, effects),
            _ => {}
        }
    }

    /// A copy has arrived on `worker`: who hands copies out goes on, and the worker is one of them.
    pub(super) fn copy_arrived<E: Effects>(&mut self, slot: u32, worker: WorkerId, effects: &mut E) {
        let Some(order) = self.orders.orders.get_mut(&slot) else { return };
        if let Some(source) = order.arrive(worker) {
            self.hand_out(slot, source, effects);
        }
        self.hand_out(slot, worker, effects);
        self.end_if_done(slot, effects);
    }

    /// `worker` was asked to acquire a copy, and has not got it.
    pub fn missed<E: Effects>(&mut self, worker: WorkerId, task: TaskId, effects: &mut E) {
        let Some(slot) = self.tasks.find(task) else { return };
        let Some(order) = self.orders.orders.get_mut(&slot) else { return };
        if let Some(source) = order.arrive(worker) {
            order.misses.entry(worker).or_default().push(source);
            self.steps.push(Step::Arrange(slot));
            self.take_steps(effects);
        }
    }

    /// The value has another id from here on: copies on their way are of no use.
    pub(super) fn call_off<E: Effects>(&mut self, slot: u32, effects: &mut E) {
        let id = self.tasks.id(slot);
        let Some(order) = self.orders.orders.get_mut(&slot) else { return };
        order.sending.clear();
        for worker in std::mem::take(&mut order.coming).into_keys() {
            effects.free(worker, id);
        }
    }

    /// Nobody wants the value in `slot` any more.
    pub(super) fn give_order_back<E: Effects>(&mut self, slot: u32, effects: &mut E) {
        if self.orders.contains(slot) {
            self.call_off(slot, effects);
            self.end_order(slot, Ending::GivenBack, effects);
        }
    }

    /// A worker has come or gone: orders are looked at again.
    pub(super) fn look_at_orders(&mut self, gone: Option<WorkerId>) {
        if self.orders.is_empty() {
            return;
        }
        for (slot, order) in &mut self.orders.orders {
            if let Some(worker) = gone {
                order.arrive(worker);
            }
            self.steps.push(Step::Arrange(*slot));
        }
    }

    /// Chooses who is to have a copy, and has the holders hand them out.
    fn spread<E: Effects>(&mut self, slot: u32, effects: &mut E) {
        let targets = self.targets(slot);
        let order = self.orders.orders.get(&slot).expect("just found");
        let holders = self.tasks[slot].holders.clone();
        let mut supplied: BTreeSet<u32> = holders
            .iter()
            .chain(order.coming.keys())
            .filter_map(|worker| self.workers.host(*worker))
            .collect();
        let (mut far, mut near) = (VecDeque::new(), BTreeMap::<u32, Vec<WorkerId>>::new());
        for target in targets {
            let host = self.workers.host(target).expect("targets are live");
            // Whom a copy has missed once takes it from any host: its own may be what is wrong.
            match supplied.insert(host) || order.misses.contains_key(&target) {
                true => far.push_back(target),
                false => near.entry(host).or_default().push(target),
            }
        }
        let order = self.orders.orders.get_mut(&slot).expect("just found");
        (order.far, order.near) = (far, near);
        for holder in holders {
            self.hand_out(slot, holder, effects);
        }
        self.end_if_done(slot, effects);
    }

    /// Workers that are to have a copy, and have none that is here or on its way.
    fn targets(&self, slot: u32) -> Vec<WorkerId> {
        let order = &self.orders.orders[&slot];
        let holders: BTreeSet<WorkerId> = self.tasks[slot].holders.iter().copied().collect();
        let is_supplied = |worker: &WorkerId| holders.contains(worker) || order.coming.contains_key(worker);
        let is_open = |worker: &WorkerId| {
            !is_supplied(worker) && order.misses.get(worker).map_or(0, Vec::len) < TRIES_MAX
        };
        let (mut targets, mut number) = (BTreeSet::new(), 0);
        for want in &order.wants {
            match &want.goal {
                Goal::Copies(Copies::Number(count)) => number = number.max(*count as usize),
                Goal::Copies(Copies::Everywhere) => targets.extend(self.workers.ids()),
                Goal::Copies(Copies::On(names)) => targets.extend(self.named_workers(names)),
                Goal::Move(step) => targets.extend(self.workers.find(step.to).map(|_| step.to)),
            }
        }
        targets.retain(is_open);
        let mut targets: Vec<WorkerId> = targets.into_iter().collect();
        let there = holders.len() + order.coming.len() + targets.len();
        if number > there {
            let taken = holders.iter().chain(order.coming.keys()).chain(&targets);
            let hosts = taken.filter_map(|worker| self.workers.host(*worker)).collect();
            let free = self.workers.ids().iter().copied();
            let free = free.filter(|worker| is_open(worker) && !targets.contains(worker)).collect();
            let more = self.apart(hosts, free, number - there);
            targets.extend(more);
        }
        targets
    }

    /// Chooses `count` of `free`: those that have memory left, on hosts that are not among `hosts` first, and of these
    /// with the fewest bytes.
    fn apart(&self, mut hosts: BTreeSet<u32>, mut free: Vec<WorkerId>, count: usize) -> Vec<WorkerId> {
        free.sort_by_key(|id| {
            let worker = self.workers.find(*id);
            (worker.is_none_or(|worker| worker.is_paused), worker.map(|worker| worker.held_bytes), *id)
        });
        let is_apart = |worker: &WorkerId| self.workers.host(*worker).is_some_and(|host| hosts.insert(host));
        let (mut chosen, rest): (Vec<_>, Vec<_>) = free.into_iter().partition(is_apart);
        chosen.extend(rest);
        chosen.truncate(count);
        chosen
    }

    /// Has `holder` hand copies out, as many as it may: to hosts without one first, then to its own.
    fn hand_out<E: Effects>(&mut self, slot: u32, holder: WorkerId, effects: &mut E) {
        let (task, id) = (&self.tasks[slot], self.tasks.id(slot));
        let Some(order) = self.orders.orders.get_mut(&slot) else { return };
        let Some(host) = self.workers.host(holder) else { return };
        if !matches!(task.state, State::Held) || !task.holders.contains(&holder) {
            return;
        }
        while order.sending.get(&holder).copied().unwrap_or(0) < FAN_OUT_MAX {
            let suits = |target: &WorkerId| order.may_come(*target, holder, &task.holders);
            let far = order.far.iter().position(suits);
            let next = far.and_then(|place| order.far.remove(place)).or_else(|| {
                let near = order.near.get_mut(&host)?;
                let next = near.pop();
                if near.is_empty() {
                    order.near.remove(&host);
                }
                next
            });
            let Some(target) = next else { return };
            if self.workers.find(target).is_none() || task.holders.contains(&target) {
                continue;
            }
            order.coming.insert(target, holder);
            *order.sending.entry(holder).or_default() += 1;
            effects.acquire(target, id, task.nbytes, &[holder]);
        }
    }

    fn end_if_done<E: Effects>(&mut self, slot: u32, effects: &mut E) {
        if self.orders.orders.get(&slot).is_some_and(Order::is_done) {
            self.end_order(slot, Ending::Copied, effects);
        }
    }

    /// Tells every request that wanted something of the value how it ended.
    fn end_order<E: Effects>(&mut self, slot: u32, ending: Ending, effects: &mut E) {
        let Some(order) = self.orders.orders.remove(&slot) else { return };
        for Want { request, goal } in order.wants {
            match goal {
                Goal::Copies(copies) => {
                    let fault = self.fault(slot, &copies, ending);
                    if let Some(Request::Copies { open, faults, .. }) = self.orders.requests.get_mut(&request)
                    {
                        *open -= 1;
                        faults.extend(fault);
                    }
                }
                Goal::Move(step) => {
                    let is_moved = ending == Ending::Copied && self.complete_move(step, effects);
                    if let Some(Request::Even(moves)) = self.orders.requests.get_mut(&request) {
                        moves.ended(step, is_moved);
                    }
                }
            }
            self.go_on(request, effects);
        }
    }

    /// What is wrong with the copies of a value, if anything is.
    fn fault(&self, slot: u32, copies: &Copies, ending: Ending) -> Option<String> {
        let key = self.shown_key(slot);
        match ending {
            Ending::Small => return None,
            Ending::Failed => return Some(format!("{key} ended in an error")),
            Ending::GivenBack => return Some(format!("{key} was given back")),
            Ending::Copied => {}
        }
        let holders = &self.tasks[slot].holders;
        let short = |wanted: usize| {
            let fewer = format!("{key} is on {} of {wanted} workers", holders.len());
            (holders.len() < wanted).then_some(fewer)
        };
        match copies {
            Copies::Number(count) => short(*count as usize),
            Copies::Everywhere => short(self.workers.len()),
            Copies::On(names) => {
                let is_on = |name| {
                    let named = self.named_workers(std::slice::from_ref(name));
                    !named.is_empty() && named.iter().all(|worker| holders.contains(worker))
                };
                let missing: Vec<String> =
                    names.iter().filter(|name| !is_on(name)).map(ToString::to_string).collect();
                (!missing.is_empty()).then(|| format!("{key} is not on {}", missing.join(", ")))
            }
        }
    }

    /// Starts what a request has to do next, or answers it when nothing is left.
    fn go_on<E: Effects>(&mut self, request: RequestId, effects: &mut E) {
        let answer = match self.orders.requests.get_mut(&request) {
            None => return,
            Some(Request::Copies { open: 0, values, faults }) => match faults.len() {
                0 => Ok("{}".to_owned()),
                len => {
                    let more = if len > NAMED_MAX { ", …" } else { "" };
                    faults.truncate(NAMED_MAX);
                    let workers = self.workers.len();
                    let named = faults.join(", ");
                    Err(format!(
                        "{len} of {values} values lack copies: {named}{more} ({workers} workers are there)"
                    ))
                }
            },
            Some(Request::Copies { .. }) => return,
            Some(Request::Even(_)) => match self.begin_moves(request) {
                Some(summary) => Ok(summary),
                None => return,
            },
        };
        self.orders.requests.remove(&request);
        if self.clients.contains(request.0) {
            effects.answer(request.0, request.1, &answer);
        }
    }

    /// Begins moves as far as the workers may be kept busy with them; what all of them came to, if they are over.
    fn begin_moves(&mut self, request: RequestId) -> Option<String> {
        let limit = MOVES_PER_WORKER * self.workers.len();
        while let Some(Request::Even(moves)) = self.orders.requests.get_mut(&request) {
            let Some(step) = moves.begin(limit) else {
                return moves.is_over().then(|| moves.summary());
            };
            if self.tasks.find(step.task).is_none() || self.workers.find(step.to).is_none() {
                moves.ended(step, false);
                continue;
            }
            self.order(step.task.slot(), request, Goal::Move(step));
        }
        None
    }

    /// Panics unless what is coming was asked for, and each order has something to wait for.
    pub(super) fn check_orders(&self) {
        for (slot, order) in &self.orders.orders {
            let (task, id) = (&self.tasks[*slot], self.tasks.id(*slot));
            assert!(!order.wants.is_empty(), "nothing is wanted of {id}");
            assert!(!matches!(task.state, State::Free { .. }), "something is wanted of what is gone");
            let mut sending = BTreeMap::<WorkerId, u32>::new();
            for (target, source) in &order.coming {
                assert!(self.workers.find(*target).is_some(), "{id} goes to {target}, which is gone");
                assert!(!task.holders.contains(target), "{id} goes to {target}, which has it");
                *sending.entry(*source).or_default() += 1;
            }
            assert_eq!(sending, order.sending, "{id}: copies that are handed out");
            assert!(sending.values().all(|count| *count <= FAN_OUT_MAX), "{id} is handed out too often");
            if matches!(task.state, State::Held) {
                assert!(!order.is_done(), "{id} has all its copies, and nobody is told");
                assert!(!order.coming.is_empty(), "{id} is to be copied, and is not");
            } else {
                assert!(order.coming.is_empty(), "{id} is not stored, and is copied");
                assert!(task.is_wanted(), "{id} is ordered, and nobody wants it");
            }
        }
        for (request, waits) in &self.orders.requests {
            let wants = self.orders.orders.values().flat_map(|order| &order.wants);
            let open = wants.filter(|want| want.request == *request).count();
            match waits {
                Request::Copies { open: counted, .. } => assert_eq!(*counted, open, "{request:?}"),
                Request::Even(moves) => assert_eq!(moves.under_way(), open, "{request:?}"),
            }
            assert!(open > 0, "{request:?} waits for nothing");
        }
    }
}
