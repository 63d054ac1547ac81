//! The task record and the table that holds all of them.
//!
//! A million records are held at once, so each byte counts: ids are slots, short byte strings are inline, and
//! the record's size is asserted. Lists of waiters are chains in one arena.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

use smallvec::SmallVec;

use crate::model::{ClientId, FutureId, Key, TaskId, WorkerId};

/// No slot, no node: the end of a chain.
pub(super) const NONE: u32 = u32::MAX;

/// Bytes that are mostly few: 16 of them need no allocation.
pub(super) type ShortBytes = SmallVec<[u8; 16]>;

/// Slots of a task's inputs.
pub(super) type Slots = SmallVec<[u32; 4]>;

const CHUNK_TASKS: usize = 4096;

/// What the scheduler knows of one task.
#[derive(Debug)]
pub(super) struct Task {
    pub key: Key,
    pub state: State,
    pub arguments: ShortBytes,
    /// Slots of the inputs, one per placeholder, so the same slot may be there twice.
    pub inputs: Slots,
    /// Workers that hold the value.
    pub holders: SmallVec<[WorkerId; 4]>,
    pub nbytes: u64,
    pub generation: u32,
    /// Index into the function table.
    pub function: u32,
    pub priority: i32,
    /// First node of the clients' references.
    pub references: u32,
    /// First node of the tasks that wait for this one to be stored.
    pub waiters: u32,
    /// Inputs of active tasks that are this one: they want its value.
    pub wanted_by: u32,
    /// Inputs of any task in the table that are this one: they want its record, to recompute from.
    pub dependents: u32,
    /// Index into the assigned list of its worker.
    pub position: u32,
    /// The number of the assignment, which orders those of one worker.
    pub assignment: u32,
    /// What was added to its worker's load.
    pub estimate_us: u32,
    pub retries_left: u16,
    pub origin: Origin,
    /// Whether some input is or was on workers: then the place matters, and inputs can be lost.
    pub is_drawn: bool,
    /// Whether the caller said where it may or should run.
    pub is_bound: bool,
}

const _: () = assert!(size_of::<Task>() <= 192, "a task record is at most 192 bytes");

/// Where a value comes from, which decides what its loss means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A call: lost values are computed again.
    Computed,
    /// A client: a lost value is gone.
    Scattered,
}

/// The life of a task; *active* is waiting, ready or assigned.
#[derive(Debug)]
pub(super) enum State {
    /// The slot is free; the next free one.
    Free { next: u32 },
    /// Known for its dependents' sake, or about to be forgotten; it has no value and nobody wants one.
    Released,
    /// So many inputs are not stored.
    Waiting { missing: u32 },
    /// In the pool or in a worker's backlog.
    Ready,
    /// With a worker. A follower (`missing > 0`) starts there when its last inputs are done there.
    Assigned { worker: WorkerId, missing: u32 },
    /// On its way from a client to a worker, or to the next one that joins; a worker that was not named may be
    /// replaced. Only the sender's future stands for its coming: others that want the value rely on it.
    Receiving { worker: Option<WorkerId>, sender: (ClientId, FutureId), is_named: bool },
    /// Stored on its holders.
    Held,
    /// Stored here, packed.
    Inline(ShortBytes),
    /// Ended in this packed error, its own or an input's.
    Failed(Arc<[u8]>),
}

impl Task {
    /// A slot that no task has.
    fn free(next: u32) -> Self {
        Self {
            key: Key(0),
            state: State::Free { next },
            arguments: ShortBytes::new(),
            inputs: Slots::new(),
            holders: SmallVec::new(),
            nbytes: 0,
            generation: 0,
            function: 0,
            priority: 0,
            references: NONE,
            waiters: NONE,
            wanted_by: 0,
            dependents: 0,
            position: NONE,
            assignment: 0,
            estimate_us: 0,
            retries_left: 0,
            origin: Origin::Computed,
            is_drawn: false,
            is_bound: false,
        }
    }

    pub(super) fn is_stored(&self) -> bool {
        matches!(self.state, State::Held | State::Inline(_))
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(self.state, State::Waiting { .. } | State::Ready | State::Assigned { .. })
    }

    /// Whether one input of one active task is all that the value is for.
    pub(super) fn is_used_once(&self) -> bool {
        self.wanted_by == 1 && self.references == NONE && self.origin == Origin::Computed
    }

    /// Whether anybody wants the value.
    pub(super) fn is_wanted(&self) -> bool {
        self.references != NONE || self.wanted_by > 0
    }
}

/// All tasks, by slot, in chunks that never move.
#[derive(Debug)]
pub(super) struct TaskTable {
    chunks: Vec<Box<[Task; CHUNK_TASKS]>>,
    free: u32,
    len: usize,
    waiters: Vec<WaiterNode>,
    free_waiter: u32,
}

/// Waiters of one task, in neighbouring slots: those of siblings are one node.
#[derive(Debug, Clone, Copy)]
struct WaiterNode {
    /// The first of them. The others have its generation.
    task: TaskId,
    count: u32,
    next: u32,
}

impl WaiterNode {
    /// The waiter at this place.
    #[inline]
    fn waiter(self, place: u32) -> TaskId {
        TaskId(self.task.0 + u64::from(place))
    }
}

impl TaskTable {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), free: NONE, len: 0, waiters: Vec::new(), free_waiter: NONE }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes a free slot for a task that is released until somebody activates it.
    #[inline]
    pub(super) fn insert(&mut self, key: Key, function: u32, origin: Origin) -> u32 {
        if self.free == NONE {
            self.grow();
        }
        self.len += 1;
        let slot = self.free;
        let task = &mut self[slot];
        let State::Free { next } = task.state else { unreachable!("the free list holds free slots") };
        // Field by field: a record that is built elsewhere and copied here costs more than it holds.
        task.key = key;
        task.state = State::Released;
        task.function = function;
        task.origin = origin;
        self.free = next;
        slot
    }

    /// Adds a chunk of free slots.
    #[cold]
    fn grow(&mut self) {
        let first = u32::try_from(self.chunks.len() * CHUNK_TASKS).expect("memory ends before slots do");
        let last = first + (CHUNK_TASKS as u32 - 1);
        let next = |slot| if slot == last { NONE } else { slot + 1 };
        let chunk: Vec<Task> = (first..=last).map(|slot| Task::free(next(slot))).collect();
        self.chunks.push(chunk.try_into().expect("a chunk of full length"));
        self.free = first;
    }

    /// Frees a slot; ids of its former task match no more.
    pub(super) fn remove(&mut self, slot: u32) {
        self.len -= 1;
        self.clear_waiters(slot);
        let next = std::mem::replace(&mut self.free, slot);
        let task = &mut self[slot];
        *task = Task { generation: task.generation.wrapping_add(1), ..Task::free(next) };
    }

    /// Gives the task another id. Whatever names the old one (queues, waiter chains, reports under way, copies
    /// of a value that was dropped or lost) is then not about this task any more.
    pub(super) fn rename(&mut self, slot: u32) {
        let task = &mut self[slot];
        task.generation = task.generation.wrapping_add(1);
    }

    /// The id of the task in `slot`.
    #[inline]
    pub(super) fn id(&self, slot: u32) -> TaskId {
        TaskId::new(slot, self[slot].generation)
    }

    /// The slot of `task`, if that is still the task in it.
    #[inline]
    pub(super) fn find(&self, task: TaskId) -> Option<u32> {
        let slot = task.slot() as usize;
        let record = &self.chunks.get(slot / CHUNK_TASKS)?[slot % CHUNK_TASKS];
        let alive = record.generation == task.generation() && !matches!(record.state, State::Free { .. });
        alive.then_some(task.slot())
    }

    /// Slots in use, ascending.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        let records = self.chunks.iter().flat_map(|chunk| chunk.iter()).enumerate();
        records.filter(|(_, task)| !matches!(task.state, State::Free { .. })).map(|(slot, _)| slot as u32)
    }

    /// Notes that `waiter` waits for `slot`.
    #[inline]
    pub(super) fn push_waiter(&mut self, slot: u32, waiter: TaskId) {
        let first = self[slot].waiters;
        if first != NONE {
            let node = &mut self.waiters[first as usize];
            if node.waiter(node.count) == waiter {
                node.count += 1;
                return;
            }
        }
        let node = WaiterNode { task: waiter, count: 1, next: first };
        let index = if self.free_waiter == NONE {
            self.waiters.push(node);
            u32::try_from(self.waiters.len() - 1).expect("memory ends before nodes do")
        } else {
            let index = self.free_waiter;
            self.free_waiter = self.waiters[index as usize].next;
            self.waiters[index as usize] = node;
            index
        };
        self[slot].waiters = index;
    }

    /// Takes the latest waiters of `slot` off its chain; some may not be waiting any more.
    #[inline]
    pub(super) fn pop_waiters(&mut self, slot: u32) -> Option<impl Iterator<Item = TaskId> + use<>> {
        let index = self[slot].waiters;
        if index == NONE {
            return None;
        }
        let node = self.waiters[index as usize];
        self[slot].waiters = node.next;
        self.free_node(index);
        Some((0..node.count).rev().map(move |place| node.waiter(place)))
    }

    /// The waiter of `slot` if there is exactly one.
    #[inline]
    pub(super) fn sole_waiter(&self, slot: u32) -> Option<u32> {
        let mut found = None;
        for waiter in self.waiters(slot) {
            if found.replace(waiter).is_some_and(|other| other != waiter) {
                return None;
            }
        }
        found
    }

    /// Takes `waiter` off the chain of `slot` if it stands near its front, at an end of its node. One left behind
    /// is passed over later, since its generation has changed; the bound keeps this from being quadratic.
    pub(super) fn unlink_waiter(&mut self, slot: u32, waiter: TaskId) {
        const LOOK_AT_MAX: usize = 16;
        let (mut before, mut index) = (NONE, self[slot].waiters);
        for _ in 0..LOOK_AT_MAX {
            if index == NONE {
                return;
            }
            let node = &mut self.waiters[index as usize];
            let (is_first, is_last) = (node.task == waiter, node.waiter(node.count - 1) == waiter);
            if is_first || is_last {
                node.count -= 1;
                if is_first {
                    node.task = node.waiter(1);
                }
                if node.count == 0 {
                    self.cut_node(slot, before, index);
                }
                return;
            }
            (before, index) = (index, node.next);
        }
    }

    /// The waiters of `slot`, latest first.
    #[inline]
    pub(super) fn waiters(&self, slot: u32) -> impl Iterator<Item = u32> + '_ {
        let mut index = self[slot].waiters;
        let nodes = std::iter::from_fn(move || {
            let node = *self.waiters.get(index as usize)?;
            index = node.next;
            Some(node)
        });
        let waiters = nodes.flat_map(|node| (0..node.count).rev().map(move |place| node.waiter(place)));
        waiters.filter_map(|waiter| self.find(waiter))
    }

    fn cut_node(&mut self, slot: u32, before: u32, index: u32) {
        let next = self.waiters[index as usize].next;
        match before {
            NONE => self[slot].waiters = next,
            before => self.waiters[before as usize].next = next,
        }
        self.free_node(index);
    }

    #[inline]
    fn free_node(&mut self, index: u32) {
        self.waiters[index as usize].next = self.free_waiter;
        self.free_waiter = index;
    }

    fn clear_waiters(&mut self, slot: u32) {
        while self.pop_waiters(slot).is_some() {}
    }
}

impl Index<u32> for TaskTable {
    type Output = Task;

    #[inline]
    fn index(&self, slot: u32) -> &Task {
        &self.chunks[slot as usize / CHUNK_TASKS][slot as usize % CHUNK_TASKS]
    }
}

impl IndexMut<u32> for TaskTable {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut Task {
        &mut self.chunks[slot as usize / CHUNK_TASKS][slot as usize % CHUNK_TASKS]
    }
}
