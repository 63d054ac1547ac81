//! Tasks that may not, or should not, run anywhere: which workers they name, and what becomes of them.
//!
//! A bound task does not go through the pool. When it is ready it is put into the queue of a named worker, the one
//! where it would start first, and only workers that may run it take it from there. One that may run on named workers
//! alone while none of them is here is *stranded*: it waits for one to join, and fails after a time. The clock runs
//! only while there are workers at all.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use smallvec::SmallVec;

use super::life::Step;
use super::task::State;
use super::{Effects, SchedulerCore, blame};
use crate::model::{Others, Placement, TaskId, Tick, WorkerId, WorkerName};

/// Named workers that are compared for one task.
const CANDIDATES_MAX: usize = 16;
/// Of more than that, so many are drawn.
const DRAWS: usize = 4;
/// Workers that are looked at for one theft of bound tasks.
const VICTIMS_MAX: usize = 4;
/// A worker that was not named takes a task off one that was if that would have it wait for so many times its run time.
const PATIENCE: u64 = 4;

/// All bound tasks.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    /// What was said of the task in each slot.
    table: BTreeMap<u32, Arc<Placement>>,
    /// Ready tasks that no worker here may run, those that wait longest first. Some may have been cancelled since.
    stranded: VecDeque<Stranded>,
    /// Whether a worker has joined since the stranded were looked at.
    is_anybody_new: bool,
}

/// A ready task that no worker here may run.
#[derive(Debug, Clone, Copy)]
struct Stranded {
    task: TaskId,
    /// None while there is no worker at all.
    since: Option<Tick>,
}

/// Where a bound task goes.
enum Verdict {
    /// Into the queue of this worker.
    To(WorkerId),
    /// Wherever others go: none of the preferred workers is here.
    Anywhere,
    /// Nowhere yet.
    Nowhere,
}

impl Bindings {
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn bind(&mut self, slot: u32, placement: Arc<Placement>) {
        self.table.insert(slot, placement);
    }

    pub(super) fn unbind(&mut self, slot: u32) {
        self.table.remove(&slot);
    }

    pub(super) fn find(&self, slot: u32) -> Option<&Arc<Placement>> {
        self.table.get(&slot)
    }

    /// Stranded tasks; some may have been cancelled.
    pub(super) fn stranded(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.stranded.iter().map(|stranded| stranded.task)
    }

    /// Whether a worker has joined since the stranded were looked at.
    pub(super) fn is_anybody_new(&self) -> bool {
        self.is_anybody_new
    }

    /// A worker has joined: some of the stranded may be for it.
    pub(super) fn worker_joined(&mut self) {
        self.is_anybody_new = true;
    }

    /// The last worker has left: nobody can say which workers will come.
    pub(super) fn stop_clocks(&mut self) {
        self.stranded.iter_mut().for_each(|stranded| stranded.since = None);
    }
}

impl SchedulerCore {
    /// When [`place`](Self::place) has something to do though nothing happens: the time of the next task that has
    /// waited long enough for a worker that it may run on.
    pub fn next_deadline(&self) -> Option<Tick> {
        let since = self.bindings.stranded.front()?.since?;
        Some(Tick(since.0.saturating_add(self.tuning.placement_wait_us)))
    }

    /// Puts a ready bound task into the queue of a worker that it names. False if it goes wherever others go.
    pub(super) fn place_bound(&mut self, slot: u32, now: Tick) -> bool {
        let id = self.tasks.id(slot);
        match self.verdict(slot) {
            Verdict::Anywhere => return false,
            Verdict::Nowhere => {
                let since = (self.workers.len() > 0).then_some(now);
                self.bindings.stranded.push_back(Stranded { task: id, since });
            }
            Verdict::To(worker) => {
                let (priority, function) = (self.tasks[slot].priority, self.tasks[slot].function);
                let estimate_us = self.estimate_us(function);
                self.workers.live(worker).bound.push_back(priority, id, estimate_us);
                self.workers.bound_backlogged.insert(worker);
                self.workers.mark_dirty(worker);
            }
        }
        true
    }

    /// Looks at the stranded again if a worker has joined, and gives up on those that have waited too long.
    pub(super) fn place_stranded(&mut self, now: Tick) {
        if std::mem::take(&mut self.bindings.is_anybody_new) {
            self.share_out_anew();
            for mut stranded in std::mem::take(&mut self.bindings.stranded) {
                let Some(slot) = self.ready_slot(stranded.task) else { continue };
                if let Verdict::Nowhere = self.verdict(slot) {
                    stranded.since.get_or_insert(now);
                    self.bindings.stranded.push_back(stranded);
                } else {
                    self.unplaced.push(stranded.task);
                }
            }
        }
        while self.next_deadline().is_some_and(|deadline| deadline <= now)
            && let Some(stranded) = self.bindings.stranded.pop_front()
        {
            if let Some(slot) = self.ready_slot(stranded.task) {
                let error = self.blame(slot, blame::Cause::NoValidWorker);
                self.steps.push(Step::Fail(slot, error));
            }
        }
    }

    /// Takes parts that still wait out of queues where, with the workers that have joined, they do not belong any more.
    fn share_out_anew(&mut self) {
        for worker in self.workers.bound_backlogged.clone() {
            for task in self.workers.live(worker).bound.drain() {
                let Some(slot) = self.ready_slot(task) else { continue };
                if self.is_share(slot) && !self.names(slot, worker) {
                    self.unplaced.push(task);
                    continue;
                }
                let (priority, estimate_us) = self.rank_of(slot);
                self.workers.live(worker).bound.push_back(priority, task, estimate_us);
            }
            if self.workers.live(worker).bound.is_empty() {
                self.workers.bound_backlogged.remove(&worker);
            }
        }
    }

    fn is_share(&self, slot: u32) -> bool {
        matches!(self.bindings.find(slot).map(AsRef::as_ref), Some(Placement::Share { .. }))
    }

    /// Where a ready bound task goes: to the named worker where it would start first.
    fn verdict(&mut self, slot: u32) -> Verdict {
        let placement = Arc::clone(self.bindings.find(slot).expect("a bound task has its binding"));
        let named = self.named(&placement);
        if named.is_empty() {
            return match placement.others() {
                Others::Allowed if self.workers.len() > 0 => Verdict::Anywhere,
                _ => Verdict::Nowhere,
            };
        }
        let candidates = self.candidates_among(slot, named);
        let costs = candidates.iter().map(|worker| (self.cost_us(slot, *worker), *worker));
        let best = costs.min_by(|(a, x), (b, y)| a.total_cmp(b).then(x.cmp(y)));
        best.map_or(Verdict::Nowhere, |(_, worker)| Verdict::To(worker))
    }

    /// All of them if they are few; else those that hold an input, and some drawn at random.
    fn candidates_among(&mut self, slot: u32, named: Vec<WorkerId>) -> SmallVec<[WorkerId; CANDIDATES_MAX]> {
        if named.len() <= CANDIDATES_MAX {
            return named.into_iter().collect();
        }
        let holders = self.tasks[slot].inputs.iter().flat_map(|input| &self.tasks[*input].holders);
        let holders = holders.filter(|holder| named.contains(holder)).take(CANDIDATES_MAX - DRAWS);
        let mut candidates: SmallVec<_> = holders.copied().collect();
        for _ in 0..DRAWS {
            let draw = self.draw() as usize % named.len();
            candidates.push(named[draw]);
        }
        candidates
    }

    /// The workers here that a placement names.
    pub(super) fn named(&self, placement: &Placement) -> Vec<WorkerId> {
        match placement {
            Placement::On { workers, .. } => self.named_workers(workers),
            Placement::Share { index, of } => self.workers.of_share(*index, *of).into_iter().collect(),
        }
    }

    /// The workers here that have one of these names, each once, by id.
    pub(super) fn named_workers(&self, names: &[WorkerName]) -> Vec<WorkerId> {
        let mut found = Vec::new();
        for name in names {
            self.workers.named(name, &mut found);
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Whether `worker` may be given the task in `slot` before others have been looked at: it is not bound, or the
    /// worker is named.
    #[inline]
    pub(super) fn suits(&self, slot: u32, worker: WorkerId) -> bool {
        !self.tasks[slot].is_bound || self.names(slot, worker)
    }

    #[cold]
    fn names(&self, slot: u32, worker: WorkerId) -> bool {
        match self.bindings.find(slot).map(AsRef::as_ref) {
            None => true,
            Some(Placement::Share { index, of }) => self.workers.of_share(*index, *of) == Some(worker),
            Some(Placement::On { workers, .. }) => {
                workers.iter().any(|name| self.workers.has_name(worker, name))
            }
        }
    }

    /// Whether a task may run on `worker` at all.
    pub(super) fn is_permitted(&self, slot: u32, worker: WorkerId) -> bool {
        let allows = |placement: &Arc<Placement>| placement.others() == Others::Allowed;
        self.suits(slot, worker) || self.bindings.find(slot).is_some_and(allows)
    }

    /// Moves bound tasks that `thief` may run from another worker's queue to its own; whether there were any.
    pub(super) fn steal_bound<E: Effects>(&mut self, thief: WorkerId, effects: &mut E) -> bool {
        if self.workers.bound_backlogged.is_empty() {
            return false;
        }
        let from = WorkerId(u32::try_from(self.draw() % (u64::from(thief.0) + 2)).unwrap_or(0));
        let round = self.workers.bound_backlogged.range(from..);
        let round = round.chain(self.workers.bound_backlogged.range(..from));
        let victims: SmallVec<[WorkerId; VICTIMS_MAX]> =
            round.copied().filter(|victim| *victim != thief).take(VICTIMS_MAX).collect();
        victims.into_iter().any(|victim| self.rob(victim, thief, effects))
    }

    fn rob<E: Effects>(&mut self, victim: WorkerId, thief: WorkerId, effects: &mut E) -> bool {
        let threads = self.workers.live(thief).threads as usize;
        let queued = self.workers.live(victim).bound.len();
        let (mut kept, mut stolen) = (SmallVec::<[TaskId; 8]>::new(), 0);
        for _ in 0..looks(queued, threads) {
            let Some(task) = self.workers.live(victim).bound.pop_back() else { break };
            let Some(slot) = self.ready_slot(task) else { continue };
            if !self.may_rob(slot, victim, thief) {
                kept.push(task);
                continue;
            }
            let (priority, estimate_us) = self.rank_of(slot);
            self.workers.live(thief).bound.push_front(priority, task, estimate_us);
            stolen += 1;
        }
        for task in kept.into_iter().rev() {
            let slot = self.ready_slot(task).expect("it was ready a moment ago");
            let (priority, estimate_us) = self.rank_of(slot);
            self.workers.live(victim).bound.push_back(priority, task, estimate_us);
        }
        if self.workers.live(victim).bound.is_empty() {
            self.workers.bound_backlogged.remove(&victim);
        }
        if stolen > 0 {
            self.totals.stolen += stolen;
            self.workers.bound_backlogged.insert(thief);
            self.feed_backlog(thief, effects);
        }
        stolen > 0
    }

    /// Whether `thief` may take the last bound task off `victim`.
    fn may_rob(&self, slot: u32, victim: WorkerId, thief: WorkerId) -> bool {
        let may_run =
            self.suits(slot, thief) || (self.is_permitted(slot, thief) && self.loses_patience(slot, victim));
        may_run && self.fits(slot, thief)
    }

    /// Whether a task at the end of a worker's queues would wait too long there, by what is known now of all that comes
    /// before it: much of that may have been queued before any such task had run.
    fn loses_patience(&self, slot: u32, id: WorkerId) -> bool {
        let Some(worker) = self.workers.find(id) else { return true };
        let run_us = |slot: u32| u64::from(self.estimate_us(self.tasks[slot].function)).max(1);
        let starts = |slot: &u32| matches!(self.tasks[*slot].state, State::Assigned { missing: 0, .. });
        let assigned = worker.assigned.iter().copied().filter(starts);
        let queued =
            worker.bound.iter().chain(worker.backlog.iter()).filter_map(|task| self.ready_slot(task));
        let (mut wait_us, patience_us) = (0, PATIENCE * run_us(slot) * u64::from(worker.threads.max(1)));
        assigned.chain(queued).any(|before| {
            wait_us += run_us(before);
            wait_us > patience_us
        })
    }

    pub(super) fn rank_of(&self, slot: u32) -> (i32, u32) {
        (self.tasks[slot].priority, self.estimate_us(self.tasks[slot].function))
    }
}

/// A thief looks at half of the queue, and at no more than its threads can take up.
fn looks(len: usize, threads: usize) -> usize {
    len.div_ceil(2).min(threads.clamp(1, 64))
}
