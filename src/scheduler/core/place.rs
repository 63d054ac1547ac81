//! Who runs what: placement by cost, feeding of workers, followers, stealing.
//!
//! A ready task with inputs on workers goes to the backlog of the worker where it would start first, transfers
//! included. Every other ready task waits in the pool. Workers are fed as they have room, from their backlog
//! first; so what is queued here can still go elsewhere. What is queued on a worker is asked back only when
//! another worker is idle.

use smallvec::SmallVec;

use super::task::State;
use super::workers::Room;
use super::{Effects, SchedulerCore, blame};
use crate::model::{TaskId, Tick, WorkerId};
use crate::wire::worker::{Assignment, Caution, Input, Source};

/// Inverse bandwidth and latency between two ranks, by where they are.
struct Distance {
    latency_us: f32,
    us_per_byte: f32,
}

/// Two ranks of one host: memory speed.
const SAME_HOST: Distance = Distance { latency_us: 30.0, us_per_byte: 1.0 / 3000.0 };
/// Two hosts: a fabric at 1 GB/s is assumed until measured.
const OTHER_HOST: Distance = Distance { latency_us: 100.0, us_per_byte: 1.0 / 1000.0 };

/// What it costs in place of a transfer that cannot be: more than any number of them.
const NEVER_US: f32 = 1e18;

/// Holders of an input that are looked at.
const HOLDERS_MAX: usize = 4;
/// Candidates that are looked at for one task.
const CANDIDATES_MAX: usize = 16;
/// Followers that a worker is given per thread.
const FOLLOWERS_PER_THREAD_MAX: u32 = 64;
/// A copy below this many bytes is not worth remembering while it is in flight.
const INBOUND_BYTES_MIN: u64 = 64 * 1024;
/// Functions whose outputs have this many bytes in the mean are not run far ahead.
const LARGE_OUTPUT_BYTES_MIN: f32 = 64.0 * 1024.0;
/// So many threads have one task more than they can run, if its output is large.
const LARGE_OUTPUT_AHEAD: usize = 10;
/// Workers with a backlog that are looked at for one theft.
const VICTIMS_MAX: usize = 16;
/// Idle workers that look for something to steal at a time and find nothing.
const THIEVES_MAX: usize = 8;
/// Queues that are passed over because they hold only what the thief may not run.
const PASSED_OVER_MAX: usize = 4;

impl SchedulerCore {
    /// Gives ready tasks to workers. Called once per drained batch of messages.
    pub fn place<E: Effects>(&mut self, now: Tick, effects: &mut E) {
        self.place_stranded(now);
        // Booking an assignment may show that an input was lost, which leaves more to do.
        loop {
            self.take_steps(effects);
            self.place_unplaced(now);
            self.follow_unfollowed(effects);
            self.feed(effects);
            if self.steps.is_empty() && self.unplaced.is_empty() && self.unfollowed.is_empty() {
                return;
            }
        }
    }

    /// Puts each ready task with inputs on workers into the backlog of the best of them, and each that names workers
    /// into the queue of one of these. Without workers, tasks wait in the pool until one joins.
    fn place_unplaced(&mut self, now: Tick) {
        for id in std::mem::take(&mut self.unplaced) {
            let Some(slot) = self.ready_slot(id) else { continue };
            if self.tasks[slot].is_bound && self.place_bound(slot, now) {
                continue;
            }
            let (priority, estimate_us) =
                (self.tasks[slot].priority, self.estimate_us(self.tasks[slot].function));
            if self.workers.len() == 0 || !self.tasks[slot].is_drawn {
                self.pool.push_back(priority, id, estimate_us);
                continue;
            }
            let worker = self.choose(slot);
            self.workers.live(worker).backlog.push_back(priority, id, estimate_us);
            self.workers.backlogged.insert(worker);
            self.workers.mark_dirty(worker);
        }
    }

    pub(super) fn ready_slot(&self, id: TaskId) -> Option<u32> {
        self.tasks.find(id).filter(|slot| matches!(self.tasks[*slot].state, State::Ready))
    }

    /// The worker where the task would start first, among the holders of its inputs and two drawn at random.
    fn choose(&mut self, slot: u32) -> WorkerId {
        let mut candidates = SmallVec::<[WorkerId; CANDIDATES_MAX]>::new();
        for input in &self.tasks[slot].inputs {
            let is_giant = self.workers.is_giant(self.tasks[*input].nbytes);
            for holder in self.tasks[*input].holders.iter().take(HOLDERS_MAX) {
                let is_open = is_giant || !self.workers.is_avoided(*holder);
                let is_good = is_open && !candidates.contains(holder);
                if candidates.len() < CANDIDATES_MAX - 2 && is_good {
                    candidates.push(*holder);
                }
            }
        }
        for _ in 0..2 {
            let draw = self.draw() as usize % self.workers.len();
            candidates.push(self.workers.open_from(draw));
        }
        let costs = candidates.iter().map(|worker| (self.cost_us(slot, *worker), *worker));
        let best = costs.min_by(|(a, x), (b, y)| a.total_cmp(b).then(x.cmp(y)));
        best.map(|(_, worker)| worker).expect("two candidates were drawn")
    }

    /// Estimated time until the task could start on a worker.
    pub(super) fn cost_us(&self, slot: u32, id: WorkerId) -> f32 {
        let worker = self.workers.find(id).expect("candidates are live");
        worker.wait_us() as f32 + self.transfer_us(slot, id)
    }

    /// Estimated time in which the inputs that a worker lacks come there.
    fn transfer_us(&self, slot: u32, id: WorkerId) -> f32 {
        let worker = self.workers.find(id).expect("candidates are live");
        let mut cost = 0.0;
        for &input in &self.tasks[slot].inputs {
            let task = &self.tasks[input];
            if task.holders.is_empty() || task.holders.contains(&id) || worker.inbound.contains(&input) {
                continue;
            }
            if task.nbytes > worker.memory_bytes_max {
                cost += NEVER_US;
            }
            let near =
                |holder: &WorkerId| self.workers.find(*holder).is_some_and(|other| other.host == worker.host);
            let distance = if task.holders.iter().any(near) { SAME_HOST } else { OTHER_HOST };
            cost += distance.latency_us + task.nbytes as f32 * distance.us_per_byte;
        }
        cost
    }

    /// Whether no input of the task is too large to come to this worker.
    pub(super) fn fits(&self, slot: u32, id: WorkerId) -> bool {
        let Some(worker) = self.workers.find(id) else { return false };
        self.tasks[slot].inputs.iter().all(|input| {
            let input = &self.tasks[*input];
            input.nbytes <= worker.memory_bytes_max || input.holders.is_empty() || input.holders.contains(&id)
        })
    }

    /// Gives tasks to the workers that have room: their own backlog first, then the pool, then what others have.
    fn feed<E: Effects>(&mut self, effects: &mut E) {
        self.workers.note_pauses();
        for worker in self.workers.take_dirty() {
            self.feed_backlog(worker, effects);
            self.enrol(worker);
        }
        while !self.pool.is_empty()
            && let Some(worker) = self.workers.take_roomy()
        {
            // One that has enough to do stands in no line until it reports.
            if self.feed_pool(worker, effects) {
                self.enrol(worker);
            }
        }
        self.feed_thieves(effects);
    }

    /// Lets idle workers steal until one finds nothing. Where some tasks may not run anywhere, others may find what
    /// that one could not take.
    fn feed_thieves<E: Effects>(&mut self, effects: &mut E) {
        let mut empty_handed = SmallVec::<[WorkerId; THIEVES_MAX]>::new();
        while let Some(worker) = self.idle_thief() {
            if self.steal(worker, effects) {
                self.enrol(worker);
                continue;
            }
            empty_handed.push(worker);
            if self.bindings.is_empty() || empty_handed.len() == THIEVES_MAX {
                break;
            }
        }
        empty_handed.into_iter().for_each(|worker| self.enrol(worker));
    }

    pub(super) fn feed_backlog<E: Effects>(&mut self, worker: WorkerId, effects: &mut E) {
        while self.room(worker) != Room::None
            && let Some(id) = self.next_waiting(worker)
        {
            self.start(worker, id, effects);
        }
        if self.workers.live(worker).backlog.is_empty() {
            self.workers.backlogged.remove(&worker);
        }
        if self.workers.live(worker).bound.is_empty() {
            self.workers.bound_backlogged.remove(&worker);
        }
    }

    /// Gives a worker its share of the pool, a contiguous run, so that siblings land together. Whether it may be given
    /// more.
    fn feed_pool<E: Effects>(&mut self, worker: WorkerId, effects: &mut E) -> bool {
        let share = self.pool.len().div_ceil(self.workers.roomy_len() + 1);
        for _ in 0..share {
            if self.room(worker) == Room::None {
                return true;
            }
            let Some(id) = self.next_of_pool(worker) else { return self.pool.is_empty() };
            if self.is_too_far_ahead(worker, id) {
                self.pool_again(id);
                return false;
            }
            self.start(worker, id, effects);
        }
        true
    }

    /// Whether the worker has enough to do for a task whose output is large: what is made ahead of its use only
    /// takes up memory.
    fn is_too_far_ahead(&self, worker: WorkerId, id: TaskId) -> bool {
        let (Some(slot), Some(worker)) = (self.ready_slot(id), self.workers.find(worker)) else {
            return false;
        };
        let is_large =
            self.functions[self.tasks[slot].function as usize].mean_bytes >= LARGE_OUTPUT_BYTES_MIN;
        let threads = worker.threads as usize;
        is_large && worker.outstanding() >= threads + threads.div_ceil(LARGE_OUTPUT_AHEAD)
    }

    /// Puts a task back to where it was taken from.
    fn pool_again(&mut self, id: TaskId) {
        if let Some(slot) = self.ready_slot(id) {
            let (priority, function) = (self.tasks[slot].priority, self.tasks[slot].function);
            self.pool.push_front(priority, id, self.estimate_us(function));
        }
    }

    /// Assigns a task if it is still ready and all its inputs are still stored.
    fn start<E: Effects>(&mut self, worker: WorkerId, id: TaskId, effects: &mut E) {
        let Some(slot) = self.ready_slot(id) else { return };
        if self.tasks[slot].is_drawn && self.await_lost_inputs(slot) {
            return;
        }
        let function = &self.functions[self.tasks[slot].function as usize];
        if self.functions_known && !function.registered {
            let error = self.blame(slot, blame::Cause::UnknownFunction);
            return self.steps.push(super::life::Step::Fail(slot, error));
        }
        self.assign(worker, slot, 0, effects);
        self.assign_followers(worker, slot, effects);
    }

    /// A ready task whose inputs were lost since goes back to waiting; whether it did.
    fn await_lost_inputs(&mut self, slot: u32) -> bool {
        let mut missing = 0;
        for index in 0..self.tasks[slot].inputs.len() {
            let input = self.tasks[slot].inputs[index];
            if !self.tasks[input].is_stored() {
                self.tasks.push_waiter(input, self.tasks.id(slot));
                missing += 1;
                if let State::Failed(error) = &self.tasks[input].state {
                    self.steps.push(super::life::Step::Fail(slot, error.clone()));
                }
            }
        }
        if missing > 0 {
            self.tasks[slot].state = State::Waiting { missing };
        }
        missing > 0
    }

    /// Books and sends an assignment.
    fn assign<E: Effects>(&mut self, worker: WorkerId, slot: u32, missing: u32, effects: &mut E) {
        let estimate_us = self.estimate_us(self.tasks[slot].function);
        self.assignments = self.assignments.wrapping_add(1);
        let task = &mut self.tasks[slot];
        task.state = State::Assigned { worker, missing };
        task.estimate_us = estimate_us;
        task.assignment = self.assignments;
        self.workers.book(&mut self.tasks, worker, slot, missing > 0);
        let task = &self.tasks[slot];
        let mut inputs = match task.inputs.len() > 2 {
            true => SmallVec::from_vec(recycled(std::mem::take(&mut self.inputs_room))),
            false => SmallVec::new(),
        };
        for input in &task.inputs {
            inputs.push(self.source(worker, *input));
        }
        let assignment = Assignment {
            task: self.tasks.id(slot),
            function: self.functions[task.function as usize].id,
            priority: task.priority,
            caution: self.caution(slot),
            arguments: &task.arguments,
            inputs,
        };
        effects.assign(worker, &assignment);
        let is_large = |input: &Input<'_>| match input.source {
            Source::Remote { nbytes, .. } => nbytes >= INBOUND_BYTES_MIN,
            _ => false,
        };
        let any_large = task.is_drawn && assignment.inputs.iter().any(is_large);
        if let Some(room) = room_of(assignment) {
            self.inputs_room = room;
        }
        if any_large {
            self.note_inbound(worker, slot);
        }
    }

    /// A task that may have been the death of a worker is run with caution.
    #[inline]
    fn caution(&self, slot: u32) -> Caution {
        match !self.deaths.is_empty() && self.deaths.contains_key(&slot) {
            true => Caution::Announce,
            false => Caution::None,
        }
    }

    /// Where `worker` gets an input from.
    fn source(&self, worker: WorkerId, input: u32) -> Input<'_> {
        let task = &self.tasks[input];
        let source = match &task.state {
            State::Inline(bytes) => Source::Inline(bytes),
            State::Held if !task.holders.contains(&worker) => {
                Source::Remote { nbytes: task.nbytes, holders: self.nearest_first(worker, &task.holders) }
            }
            _ if task.is_used_once() => Source::LastUse,
            _ => Source::Local,
        };
        Input { task: self.tasks.id(input), source }
    }

    /// Holders on the worker's own host come first.
    fn nearest_first(&self, worker: WorkerId, holders: &[WorkerId]) -> SmallVec<[WorkerId; 4]> {
        let host = self.workers.find(worker).map(|worker| worker.host);
        let far = |holder: &WorkerId| self.workers.find(*holder).map(|other| other.host) != host;
        let mut sorted = SmallVec::from_slice(holders);
        sorted.sort_by_key(far);
        sorted.truncate(HOLDERS_MAX);
        sorted
    }

    /// Remembers large inputs that are on their way to `worker`: a copy in flight counts as present.
    fn note_inbound(&mut self, worker: WorkerId, slot: u32) {
        for index in 0..self.tasks[slot].inputs.len() {
            let input = self.tasks[slot].inputs[index];
            let task = &self.tasks[input];
            if task.nbytes >= INBOUND_BYTES_MIN && !task.holders.is_empty() && !task.holders.contains(&worker)
            {
                self.workers.live(worker).inbound.insert(input);
            }
        }
    }

    /// Gives `worker` the tasks that can start there as soon as the one in `slot` is done: its sole waiter, if
    /// every input that this one lacks is being made there, and so on along the chain.
    fn assign_followers<E: Effects>(&mut self, worker: WorkerId, slot: u32, effects: &mut E) {
        let mut last = slot;
        while let Some(follower) = self.tasks.sole_waiter(last) {
            if !self.may_follow(worker, follower) {
                return;
            }
            let State::Waiting { missing } = self.tasks[follower].state else { return };
            self.assign(worker, follower, missing, effects);
            last = follower;
        }
    }

    /// Whether every input that a waiting task lacks is being made on `worker`, which has room for followers.
    fn may_follow(&self, id: WorkerId, follower: u32) -> bool {
        let worker = self.workers.find(id).expect("tasks are assigned to live workers");
        let task = &self.tasks[follower];
        matches!(task.state, State::Waiting { .. })
            && self.suits(follower, id)
            && self.fits(follower, id)
            && worker.followers < worker.threads * FOLLOWERS_PER_THREAD_MAX
            && (!self.functions_known || self.functions[task.function as usize].registered)
            && task.inputs.iter().all(|input| match self.tasks[*input].state {
                State::Assigned { worker, .. } => worker == id,
                State::Held | State::Inline(_) => true,
                _ => false,
            })
    }

    /// Tasks that started to wait for something that is being made already follow it.
    fn follow_unfollowed<E: Effects>(&mut self, effects: &mut E) {
        for id in std::mem::take(&mut self.unfollowed) {
            let Some(slot) = self.tasks.find(id) else { continue };
            if !matches!(self.tasks[slot].state, State::Waiting { .. }) {
                continue;
            }
            let awaited = self.tasks[slot].inputs.iter().find_map(|input| match self.tasks[*input].state {
                State::Assigned { worker, .. } => Some((worker, *input)),
                _ => None,
            });
            if let Some((worker, input)) = awaited
                && self.tasks.sole_waiter(input) == Some(slot)
            {
                self.assign_followers(worker, input, effects);
            }
        }
    }

    /// An idle worker, if there is something to steal.
    fn idle_thief(&mut self) -> Option<WorkerId> {
        let loot = !self.workers.backlogged.is_empty()
            || !self.workers.bound_backlogged.is_empty()
            || self.workers.any_queued();
        if loot { self.workers.take_idle() } else { None }
    }

    /// Moves half of another worker's backlog to `thief`, or asks half of a worker's queue back for it; whether
    /// that was worth it.
    fn steal<E: Effects>(&mut self, thief: WorkerId, effects: &mut E) -> bool {
        if let Some(victim) = self.backlogged_victim(thief)
            && self.steal_from(victim, thief)
        {
            self.feed_backlog(thief, effects);
            return true;
        }
        self.steal_bound(thief, effects) || self.retract_for(thief, effects)
    }

    /// Moves half of a backlog, as far as it can run on `thief` and its inputs are there before `victim` would get to it;
    /// whether there was anything.
    fn steal_from(&mut self, victim: WorkerId, thief: WorkerId) -> bool {
        let (mut kept, mut stolen) = (SmallVec::<[TaskId; 8]>::new(), 0);
        for _ in 0..self.workers.live(victim).backlog.len().div_ceil(2) {
            let Some(id) = self.workers.live(victim).backlog.pop_back() else { break };
            let Some(slot) = self.ready_slot(id) else { continue };
            if !self.fits(slot, thief) || self.transfer_us(slot, thief) > self.cost_us(slot, victim) {
                kept.push(id);
                continue;
            }
            let (priority, estimate_us) = self.rank_of(slot);
            self.workers.live(thief).backlog.push_front(priority, id, estimate_us);
            self.workers.backlogged.insert(thief);
            stolen += 1;
        }
        for id in kept.into_iter().rev() {
            let slot = self.ready_slot(id).expect("it was ready a moment ago");
            let (priority, estimate_us) = self.rank_of(slot);
            self.workers.live(victim).backlog.push_back(priority, id, estimate_us);
        }
        if self.workers.live(victim).backlog.is_empty() {
            self.workers.backlogged.remove(&victim);
        }
        self.totals.stolen += stolen;
        stolen > 0
    }

    /// The worker with the longest wait whose backlog is worth moving to `thief`.
    fn backlogged_victim(&self, thief: WorkerId) -> Option<WorkerId> {
        let waits = self.workers.backlogged.iter().take(VICTIMS_MAX).filter(|victim| **victim != thief);
        let waits = waits.filter_map(|victim| Some((self.workers.find(*victim)?.wait_us(), *victim)));
        let (wait_us, victim) =
            waits.max_by_key(|(wait_us, victim)| (*wait_us, std::cmp::Reverse(*victim)))?;
        (wait_us > self.tuning.round_trip_us).then_some(victim)
    }

    /// Asks the deepest queue for half of what it has beyond its threads.
    fn retract_for<E: Effects>(&mut self, thief: WorkerId, effects: &mut E) -> bool {
        let start = self.draw() as usize;
        let mut passed_over = SmallVec::<[WorkerId; PASSED_OVER_MAX]>::new();
        while let Some(victim) = self.workers.deepest(thief, VICTIMS_MAX, start, &passed_over) {
            if self.retract_from(victim, thief, effects) {
                return true;
            }
            passed_over.push(victim);
            if self.bindings.is_empty() || passed_over.len() == PASSED_OVER_MAX {
                return false;
            }
        }
        false
    }

    /// Asks `victim` for half of what it has beyond its threads, as far as `thief` may run that and would not wait longer
    /// for inputs; whether it is worth it.
    fn retract_from<E: Effects>(&mut self, victim: WorkerId, thief: WorkerId, effects: &mut E) -> bool {
        let worker = self.workers.live(victim);
        let (threads, count) = (u64::from(worker.threads), worker.queued().div_ceil(2));
        let mut candidates: Vec<u32> = worker.assigned.clone();
        candidates.retain(|slot| matches!(self.tasks[*slot].state, State::Assigned { missing: 0, .. }));
        if !self.bindings.is_empty() {
            candidates.retain(|slot| self.suits(*slot, thief));
        }
        candidates.retain(|slot| self.fits(*slot, thief));
        // The worker was given no more than a round trip of work, by what was known then.
        let estimates = candidates.iter().map(|slot| u64::from(self.estimate_us(self.tasks[*slot].function)));
        let wait_us = estimates.sum::<u64>() / threads;
        if wait_us < 2 * self.tuning.round_trip_us {
            return false;
        }
        candidates.retain(|slot| self.transfer_us(*slot, thief) <= wait_us as f32);
        candidates.sort_unstable_by_key(|slot| std::cmp::Reverse(self.tasks[*slot].assignment));
        candidates.truncate(count);
        let is_worth_it = !candidates.is_empty();
        for slot in candidates {
            let id = self.tasks.id(slot);
            self.workers.live(victim).retracting.insert(id);
            effects.retract(victim, id);
            self.totals.stolen += 1;
        }
        is_worth_it
    }
}

/// The room of an assignment's inputs, if they were too many to be stored inline.
fn room_of(assignment: Assignment<'_>) -> Option<Vec<Input<'static>>> {
    let inputs = assignment.inputs;
    inputs.spilled().then(|| recycled(inputs.into_vec()))
}

/// The room of `inputs` for others.
fn recycled<'a>(mut inputs: Vec<Input<'_>>) -> Vec<Input<'a>> {
    inputs.clear();
    inputs.into_iter().map(|_| unreachable!("none is left")).collect()
}
