//! Workers as the scheduler sees them: what each was given, what it holds, how long its queue is.
//!
//! [`Workers`] also keeps the two lines of workers that can take more: idle ones (a thread without a task)
//! and spare ones (a queue shorter than the round trip).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Seat;
use super::queue::ReadyQueue;
use super::task::{NONE, TaskTable};
use crate::model::{TaskId, WorkerId, WorkerName};
use crate::wire::worker::Pressure;

/// One worker.
#[derive(Debug)]
pub(super) struct Worker {
    pub host: u32,
    /// Its rank in the launch, if it has one.
    pub rank: Option<u32>,
    pub threads: u32,
    /// No value that is larger can come to it.
    pub memory_bytes_max: u64,
    /// Slots of assigned tasks, followers included; a task knows its place in here.
    pub assigned: Vec<u32>,
    /// Followers among `assigned`.
    pub followers: u32,
    /// Abandoned assignments whose outcome has not come, with their estimates.
    pub abandoned: BTreeMap<TaskId, u32>,
    /// Estimated time of all assigned tasks that are not followers, and of abandoned ones.
    pub load_us: u64,
    /// Ready tasks that wait here for this worker, as it has their inputs.
    pub backlog: ReadyQueue,
    /// Ready tasks that wait here for this worker, as they name it.
    pub bound: ReadyQueue,
    /// Slots of values that the worker holds.
    pub holds: BTreeSet<u32>,
    pub held_bytes: u64,
    /// Large inputs on their way to the worker.
    pub inbound: BTreeSet<u32>,
    /// Tasks asked back whose outcome has not come.
    pub retracting: BTreeSet<TaskId>,
    /// Tasks assigned with caution that the worker said to start.
    pub started: BTreeSet<TaskId>,
    /// Whether its memory is nearly full: it runs one task at a time.
    pub is_paused: bool,
    /// Whether it is paused and takes only tasks that have inputs.
    pub is_full: bool,
    /// The line that the worker stands in, and its number there.
    standing: (Room, u64),
    /// Whether its room may have grown, or its backlog has.
    is_dirty: bool,
    /// Whether it is among those with tasks queued.
    is_deep: bool,
}

/// What a worker can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// A thread has nothing to run.
    Idle,
    /// The queue is shorter than a round trip.
    Spare,
    /// Nothing more for now.
    None,
}

/// All live workers.
#[derive(Debug, Default)]
pub(super) struct Workers {
    /// By id: ids count from 0 and are never used again. Boxed, so that those that left cost little.
    table: Vec<Option<Box<Worker>>>,
    /// Live workers, dense, for draws at random.
    order: Vec<WorkerId>,
    /// Live workers by rank, those without one behind.
    by_rank: Vec<(Rank, WorkerId)>,
    hosts: BTreeMap<String, u32>,
    /// Live workers by host.
    by_host: BTreeSet<(u32, WorkerId)>,
    idle: Line,
    spare: Line,
    /// The number of who gets in line next.
    next_number: u64,
    /// Workers with a backlog.
    pub backlogged: BTreeSet<WorkerId>,
    /// Workers with tasks that name them.
    pub bound_backlogged: BTreeSet<WorkerId>,
    /// Workers with tasks queued beyond their threads, as of their last enrolment.
    deep: BTreeSet<WorkerId>,
    /// Workers that are to be fed, each once.
    dirty: Vec<WorkerId>,
    /// The least memory that any worker ever had.
    memory_bytes_min: Option<u64>,
    /// How many have paused.
    paused: usize,
    /// How many of these are full.
    full: usize,
    /// Whether all had when workers were fed last.
    were_all_paused: bool,
}

/// Ranks in their order; a worker that has none comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Is(u32),
    None,
}

impl From<Option<u32>> for Rank {
    fn from(rank: Option<u32>) -> Self {
        rank.map_or(Self::None, Self::Is)
    }
}

/// Workers in the order in which they got in line. Who has left it, or stands in it again behind, is passed over.
#[derive(Debug, Default)]
struct Line {
    numbers: VecDeque<(u64, WorkerId)>,
    /// Those that stand in it.
    len: usize,
}

impl Worker {
    /// Assignments that occupy or await a thread.
    pub(super) fn outstanding(&self) -> usize {
        self.assigned.len() - self.followers as usize + self.abandoned.len()
    }

    /// Queued tasks beyond those that can run.
    pub(super) fn queued(&self) -> usize {
        self.outstanding().saturating_sub(self.threads as usize)
    }

    /// Takes the next ready task that waits here: the one of the highest priority, and of two first the one that
    /// names this worker.
    #[inline]
    pub(super) fn next_waiting(&mut self) -> Option<TaskId> {
        if self.bound.is_empty() || self.backlog.first_priority() > self.bound.first_priority() {
            return self.backlog.pop_front();
        }
        self.bound.pop_front()
    }

    /// Estimated time until a task given to it starts, backlog included.
    pub(super) fn wait_us(&self) -> u64 {
        (self.load_us + self.backlog.estimate_us() + self.bound.estimate_us())
            / u64::from(self.threads.max(1))
    }
}

impl Workers {
    pub(super) fn join(&mut self, id: WorkerId, seat: Seat<'_>) {
        let Seat { host, rank, threads, memory_bytes_max } = seat;
        let memory_bytes_max = if memory_bytes_max == 0 { u64::MAX } else { memory_bytes_max };
        self.memory_bytes_min =
            Some(self.memory_bytes_min.map_or(memory_bytes_max, |min| min.min(memory_bytes_max)));
        let hosts = u32::try_from(self.hosts.len()).unwrap_or(u32::MAX);
        let host = *self.hosts.entry(host.to_owned()).or_insert(hosts);
        let worker = Worker {
            host,
            rank,
            threads,
            memory_bytes_max,
            assigned: Vec::new(),
            followers: 0,
            abandoned: BTreeMap::new(),
            load_us: 0,
            backlog: ReadyQueue::default(),
            bound: ReadyQueue::default(),
            holds: BTreeSet::new(),
            held_bytes: 0,
            inbound: BTreeSet::new(),
            retracting: BTreeSet::new(),
            started: BTreeSet::new(),
            is_paused: false,
            is_full: false,
            standing: (Room::None, 0),
            is_dirty: false,
            is_deep: false,
        };
        let index = id.0 as usize;
        if self.table.len() <= index {
            self.table.resize_with(index + 1, || None);
        }
        self.table[index] = Some(Box::new(worker));
        self.order.push(id);
        self.by_host.insert((host, id));
        let entry = (rank.into(), id);
        self.by_rank.insert(self.by_rank.partition_point(|other| *other < entry), entry);
    }

    pub(super) fn leave(&mut self, id: WorkerId) -> Option<Box<Worker>> {
        self.order.retain(|other| *other != id);
        self.backlogged.remove(&id);
        self.bound_backlogged.remove(&id);
        self.deep.remove(&id);
        self.leave_line(id);
        if let Some(host) = self.find(id).map(|worker| worker.host) {
            self.by_host.remove(&(host, id));
        }
        self.by_rank.retain(|(_, other)| *other != id);
        let worker = self.table.get_mut(id.0 as usize)?.take()?;
        self.paused -= usize::from(worker.is_paused);
        self.full -= usize::from(worker.is_full);
        Some(worker)
    }

    /// Books whether a worker has paused, and is full; whether that is news.
    pub(super) fn pause(&mut self, id: WorkerId, pressure: Pressure) -> bool {
        let (is_paused, is_full) = match pressure {
            Pressure::Open => (false, false),
            Pressure::Paused => (true, false),
            Pressure::Full => (true, true),
        };
        let worker = self.live(id);
        let was_paused = std::mem::replace(&mut worker.is_paused, is_paused);
        let was_full = std::mem::replace(&mut worker.is_full, is_full);
        self.paused = self.paused + usize::from(is_paused) - usize::from(was_paused);
        self.full = self.full + usize::from(is_full) - usize::from(was_full);
        (was_paused, was_full) != (is_paused, is_full)
    }

    /// Whether every worker is full.
    pub(super) fn all_full(&self) -> bool {
        self.full > 0 && self.full == self.order.len()
    }

    /// Whether a worker takes only tasks that have inputs.
    #[inline]
    pub(super) fn is_full(&self, id: WorkerId) -> bool {
        self.full > 0 && self.find(id).is_some_and(|worker| worker.is_full)
    }

    /// Whether no worker is open.
    pub(super) fn all_paused(&self) -> bool {
        self.paused > 0 && self.paused == self.order.len()
    }

    /// Whether a worker is to be passed over for others, as its memory is nearly full and theirs is not.
    #[inline]
    pub(super) fn is_avoided(&self, id: WorkerId) -> bool {
        self.paused > 0 && !self.all_paused() && self.find(id).is_some_and(|worker| worker.is_paused)
    }

    /// Whether a value of so many bytes may be more than a worker can take.
    #[inline]
    pub(super) fn is_giant(&self, nbytes: u64) -> bool {
        self.memory_bytes_min.is_some_and(|min| nbytes > min)
    }

    /// The first worker from this place on that is not to be passed over.
    pub(super) fn open_from(&self, place: usize) -> WorkerId {
        let round = (0..self.order.len()).map(|step| self.order[(place + step) % self.order.len()]);
        let mut open = round.filter(|id| !self.is_avoided(*id));
        open.next().expect("one is open, or none is passed over")
    }

    /// When all have paused, and when that ends, everybody's room is another.
    pub(super) fn note_pauses(&mut self) {
        let all_paused = self.all_paused();
        if std::mem::replace(&mut self.were_all_paused, all_paused) != all_paused {
            self.order.clone().into_iter().for_each(|id| self.mark_dirty(id));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The host of a live worker.
    pub(super) fn host(&self, id: WorkerId) -> Option<u32> {
        self.find(id).map(|worker| worker.host)
    }

    /// Adds the live workers of this name.
    pub(super) fn named(&self, name: &WorkerName, found: &mut Vec<WorkerId>) {
        match name {
            WorkerName::Id(id) => found.extend(self.find(*id).map(|_| *id)),
            WorkerName::Rank(rank) => {
                let rank = Rank::Is(*rank);
                let from = self.by_rank.partition_point(|(other, _)| *other < rank);
                let same = self.by_rank[from..].iter().take_while(|(other, _)| *other == rank);
                found.extend(same.map(|(_, id)| *id));
            }
            WorkerName::Host(name) => {
                let Some(&host) = self.hosts.get(name) else { return };
                let same = self.by_host.range((host, WorkerId(0))..).take_while(|(other, _)| *other == host);
                found.extend(same.map(|(_, id)| *id));
            }
        }
    }

    /// Whether this is a name of the worker.
    pub(super) fn has_name(&self, id: WorkerId, name: &WorkerName) -> bool {
        let Some(worker) = self.find(id) else { return false };
        match name {
            WorkerName::Id(named) => *named == id,
            WorkerName::Rank(rank) => worker.rank == Some(*rank),
            WorkerName::Host(host) => self.hosts.get(host) == Some(&worker.host),
        }
    }

    /// The worker of part `index` of `of`, where parts lie on all workers in contiguous runs, by rank.
    pub(super) fn of_share(&self, index: u32, of: u32) -> Option<WorkerId> {
        let len = self.by_rank.len();
        let place = u64::from(index) * len as u64 / u64::from(of.max(1));
        self.by_rank.get((place as usize).min(len.saturating_sub(1))).map(|(_, id)| *id)
    }

    pub(super) fn ids(&self) -> &[WorkerId] {
        &self.order
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (WorkerId, &Worker)> {
        (0..).zip(&self.table).filter_map(|(id, worker)| Some((WorkerId(id), worker.as_deref()?)))
    }

    #[inline]
    pub(super) fn find(&self, id: WorkerId) -> Option<&Worker> {
        self.table.get(id.0 as usize)?.as_deref()
    }

    #[inline]
    fn find_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.table.get_mut(id.0 as usize)?.as_deref_mut()
    }

    /// A live worker by id.
    #[inline]
    pub(super) fn live(&mut self, id: WorkerId) -> &mut Worker {
        self.find_mut(id).expect("tasks and values name live workers only")
    }

    /// Books an assignment; the task's estimate counts unless it is a follower.
    pub(super) fn book(&mut self, tasks: &mut TaskTable, id: WorkerId, slot: u32, following: bool) {
        let worker = self.live(id);
        tasks[slot].position = u32::try_from(worker.assigned.len()).expect("depth is bounded");
        worker.assigned.push(slot);
        match following {
            true => worker.followers += 1,
            false => worker.load_us += u64::from(tasks[slot].estimate_us),
        }
    }

    /// Takes an assignment off the books.
    pub(super) fn unbook(&mut self, tasks: &mut TaskTable, id: WorkerId, slot: u32, following: bool) {
        let worker = self.live(id);
        let position = std::mem::replace(&mut tasks[slot].position, NONE);
        worker.assigned.swap_remove(position as usize);
        if let Some(moved) = worker.assigned.get(position as usize) {
            tasks[*moved].position = position;
        }
        match following {
            true => worker.followers -= 1,
            false => worker.load_us = worker.load_us.saturating_sub(u64::from(tasks[slot].estimate_us)),
        }
    }

    /// A follower's inputs are there: it counts as queued.
    pub(super) fn promote(&mut self, tasks: &TaskTable, id: WorkerId, slot: u32) {
        let worker = self.live(id);
        worker.followers -= 1;
        worker.load_us += u64::from(tasks[slot].estimate_us);
    }

    pub(super) fn hold(&mut self, id: WorkerId, slot: u32, nbytes: u64) {
        let worker = self.live(id);
        worker.inbound.remove(&slot);
        if worker.holds.insert(slot) {
            worker.held_bytes += nbytes;
        }
    }

    pub(super) fn unhold(&mut self, id: WorkerId, slot: u32, nbytes: u64) {
        let Some(worker) = self.find_mut(id) else { return };
        if worker.holds.remove(&slot) {
            worker.held_bytes = worker.held_bytes.saturating_sub(nbytes);
        }
    }

    /// Large inputs of a task that is off the books are not on their way any more, or have arrived.
    pub(super) fn forget_inbound(&mut self, tasks: &TaskTable, id: WorkerId, slot: u32) {
        let worker = self.live(id);
        if !worker.inbound.is_empty() {
            for input in &tasks[slot].inputs {
                worker.inbound.remove(input);
            }
        }
    }

    /// Has the worker fed at the next placing.
    #[inline]
    pub(super) fn mark_dirty(&mut self, id: WorkerId) {
        let worker = self.live(id);
        if !std::mem::replace(&mut worker.is_dirty, true) {
            self.dirty.push(id);
        }
    }

    /// The workers to feed, by id.
    pub(super) fn take_dirty(&mut self) -> Vec<WorkerId> {
        let mut dirty = std::mem::take(&mut self.dirty);
        dirty.retain(|id| self.find_mut(*id).is_some_and(|worker| std::mem::take(&mut worker.is_dirty)));
        dirty.sort_unstable();
        dirty
    }

    /// Whether a live worker is to be fed.
    pub(super) fn any_dirty(&self) -> bool {
        self.dirty.iter().any(|id| self.find(*id).is_some())
    }

    /// Puts the worker at the end of the line where its room belongs; one that stands there keeps its place.
    pub(super) fn enrol(&mut self, id: WorkerId, room: Room) {
        let worker = self.live(id);
        let (is_deep, standing) = (worker.queued() > 0, worker.standing);
        if std::mem::replace(&mut worker.is_deep, is_deep) != is_deep {
            match is_deep {
                true => self.deep.insert(id),
                false => self.deep.remove(&id),
            };
        }
        if standing.0 == room {
            return;
        }
        self.leave_line(id);
        let number = self.next_number;
        let Some(line) = self.line(room) else { return };
        line.numbers.push_back((number, id));
        line.len += 1;
        self.next_number += 1;
        self.live(id).standing = (room, number);
        self.tidy(room);
    }

    /// Takes the worker that has been idle for longest, or one with room to spare.
    pub(super) fn take_roomy(&mut self) -> Option<WorkerId> {
        self.take_idle().or_else(|| self.take_first(Room::Spare))
    }

    /// Takes the worker that has been idle for longest.
    pub(super) fn take_idle(&mut self) -> Option<WorkerId> {
        self.take_first(Room::Idle)
    }

    fn take_first(&mut self, room: Room) -> Option<WorkerId> {
        loop {
            let (number, id) = self.line(room)?.numbers.pop_front()?;
            if self.find(id).is_some_and(|worker| worker.standing == (room, number)) {
                self.leave_line(id);
                return Some(id);
            }
        }
    }

    /// Panics unless each worker stands where it says, and nobody else stands in a line.
    pub(super) fn check_lines(&self) {
        for (id, worker) in self.iter() {
            let (room, number) = worker.standing;
            match room {
                Room::Idle => assert!(self.idle.numbers.contains(&(number, id))),
                Room::Spare => assert!(self.spare.numbers.contains(&(number, id))),
                Room::None => {}
            }
            assert_eq!(worker.is_deep, self.deep.contains(&id), "{id} is among those with tasks queued");
        }
        let standing = |room| self.iter().filter(|(_, worker)| worker.standing.0 == room).count();
        assert_eq!(self.idle.len, standing(Room::Idle), "idle workers");
        assert_eq!(self.spare.len, standing(Room::Spare), "workers with room to spare");
    }

    fn leave_line(&mut self, id: WorkerId) {
        let Some(worker) = self.find_mut(id) else { return };
        let (room, _) = std::mem::replace(&mut worker.standing, (Room::None, 0));
        if let Some(line) = self.line(room) {
            line.len -= 1;
        }
    }

    fn line(&mut self, room: Room) -> Option<&mut Line> {
        match room {
            Room::Idle => Some(&mut self.idle),
            Room::Spare => Some(&mut self.spare),
            Room::None => None,
        }
    }

    /// Drops who is passed over, when there are many.
    fn tidy(&mut self, room: Room) {
        let Some(line) = self.line(room) else { return };
        if line.numbers.len() < 2 * line.len + 64 {
            return;
        }
        let mut numbers = std::mem::take(&mut line.numbers);
        numbers
            .retain(|(number, id)| self.find(*id).is_some_and(|worker| worker.standing == (room, *number)));
        if let Some(line) = self.line(room) {
            line.numbers = numbers;
        }
    }

    /// Whether any worker has tasks queued beyond its threads. Counted as workers are enrolled.
    pub(super) fn any_queued(&self) -> bool {
        !self.deep.is_empty()
    }

    /// The worker with the most queued tasks among a few of those that have some, other than `thief` and
    /// those that were asked already.
    pub(super) fn deepest(
        &self,
        thief: WorkerId,
        look_at_max: usize,
        start: usize,
        passed_over: &[WorkerId],
    ) -> Option<WorkerId> {
        let from = WorkerId(self.order[start % self.order.len()].0);
        let round = self.deep.range(from..).chain(self.deep.range(..from)).take(look_at_max);
        let victims = round
            .filter(|id| **id != thief && !passed_over.contains(id))
            .filter_map(|id| Some((*id, self.find(*id)?)));
        let victims = victims.filter(|(_, worker)| worker.retracting.is_empty() && worker.queued() > 0);
        victims.max_by_key(|(id, worker)| (worker.load_us, std::cmp::Reverse(*id))).map(|(id, _)| id)
    }

    /// Workers in both lines.
    pub(super) fn roomy_len(&self) -> usize {
        self.idle.len + self.spare.len
    }
}
