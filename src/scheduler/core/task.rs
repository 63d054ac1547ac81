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

const CHUNK_TASKS: usize = 4096;

/// What the scheduler knows of one task.
#[derive(Debug)]
pub(super) struct Task {
    pub key: Key,
    pub state: State,
    pub arguments: ShortBytes,
    /// Slots of the inputs, one per placeholder, so the same slot may be there twice.
    pub inputs: SmallVec<[u32; 4]>,
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
    /// On its way from a client to a worker, or to the next one that joins. Only the sender's future stands
    /// for its coming: others that want the value rely on it.
    Receiving { worker: Option<WorkerId>, sender: (ClientId, FutureId) },
    /// Stored on its holders.
    Held,
    /// Stored here, packed.
    Inline(ShortBytes),
    /// Ended in this packed error, its own or an input's.
    Failed(Arc<[u8]>),
}

impl Task {
    pub(super) fn is_stored(&self) -> bool {
        matches!(self.state, State::Held | State::Inline(_))
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(self.state, State::Waiting { .. } | State::Ready | State::Assigned { .. })
    }

    /// Whether anybody wants the value.
    pub(super) fn is_wanted(&self) -> bool {
        self.references != NONE || self.wanted_by > 0
    }
}

/// All tasks, by slot, in chunks that never move.
#[derive(Debug)]
pub(super) struct TaskTable {
    chunks: Vec<Vec<Task>>,
    free: u32,
    len: usize,
    waiters: Vec<WaiterNode>,
    free_waiter: u32,
}

#[derive(Debug, Clone, Copy)]
struct WaiterNode {
    task: TaskId,
    next: u32,
}

impl TaskTable {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), free: NONE, len: 0, waiters: Vec::new(), free_waiter: NONE }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes a free slot for a task that is released until somebody activates it.
    pub(super) fn insert(&mut self, key: Key, function: u32, origin: Origin) -> u32 {
        self.len += 1;
        let task = Task {
            key,
            state: State::Released,
            arguments: ShortBytes::new(),
            inputs: SmallVec::new(),
            holders: SmallVec::new(),
            nbytes: 0,
            generation: 0,
            function,
            priority: 0,
            references: NONE,
            waiters: NONE,
            wanted_by: 0,
            dependents: 0,
            position: NONE,
            assignment: 0,
            estimate_us: 0,
            retries_left: 0,
            origin,
        };
        if self.free != NONE {
            let slot = self.free;
            let record = &mut self[slot];
            let State::Free { next } = record.state else { unreachable!("the free list holds free slots") };
            let generation = record.generation;
            *record = Task { generation, ..task };
            self.free = next;
            return slot;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK_TASKS) {
            self.chunks.push(Vec::with_capacity(CHUNK_TASKS));
        }
        let chunks = self.chunks.len();
        let chunk = self.chunks.last_mut().expect("a chunk with room was made sure of");
        chunk.push(task);
        u32::try_from((chunks - 1) * CHUNK_TASKS + chunk.len() - 1).expect("memory ends before slots do")
    }

    /// Frees a slot; ids of its former task match no more.
    pub(super) fn remove(&mut self, slot: u32) {
        self.len -= 1;
        self.clear_waiters(slot);
        let next = std::mem::replace(&mut self.free, slot);
        self.rename(slot);
        let task = &mut self[slot];
        task.state = State::Free { next };
        task.arguments = ShortBytes::new();
        task.inputs = SmallVec::new();
        task.holders = SmallVec::new();
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
        let record = self.chunks.get(slot / CHUNK_TASKS)?.get(slot % CHUNK_TASKS)?;
        let alive = record.generation == task.generation() && !matches!(record.state, State::Free { .. });
        alive.then_some(task.slot())
    }

    /// Slots in use, ascending.
    pub(super) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        let records = self.chunks.iter().flatten().enumerate();
        records.filter(|(_, task)| !matches!(task.state, State::Free { .. })).map(|(slot, _)| slot as u32)
    }

    /// Notes that `waiter` waits for `slot`.
    pub(super) fn push_waiter(&mut self, slot: u32, waiter: u32) {
        let node = WaiterNode { task: self.id(waiter), next: self[slot].waiters };
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

    /// Takes one waiter of `slot` off its chain; those that stopped waiting are passed over.
    pub(super) fn pop_waiter(&mut self, slot: u32) -> Option<u32> {
        loop {
            let index = self[slot].waiters;
            if index == NONE {
                return None;
            }
            let node = self.waiters[index as usize];
            self[slot].waiters = node.next;
            self.waiters[index as usize].next = self.free_waiter;
            self.free_waiter = index;
            if let Some(waiter) = self.find(node.task) {
                return Some(waiter);
            }
        }
    }

    /// The waiter of `slot` if there is exactly one.
    pub(super) fn sole_waiter(&self, slot: u32) -> Option<u32> {
        let mut found = None;
        let mut index = self[slot].waiters;
        while index != NONE {
            let node = self.waiters[index as usize];
            index = node.next;
            let Some(waiter) = self.find(node.task) else { continue };
            if found.replace(waiter).is_some_and(|other| other != waiter) {
                return None;
            }
        }
        found
    }

    /// Takes `waiter` off the chain of `slot` if it stands near its front. A node left behind is passed over
    /// later, since the waiter's generation has changed; the bound keeps this from being quadratic.
    pub(super) fn unlink_waiter(&mut self, slot: u32, waiter: TaskId) {
        const LOOK_AT_MAX: usize = 16;
        let (mut before, mut index) = (NONE, self[slot].waiters);
        for _ in 0..LOOK_AT_MAX {
            if index == NONE {
                return;
            }
            let node = self.waiters[index as usize];
            if node.task == waiter {
                match before {
                    NONE => self[slot].waiters = node.next,
                    before => self.waiters[before as usize].next = node.next,
                }
                self.waiters[index as usize].next = self.free_waiter;
                self.free_waiter = index;
                return;
            }
            (before, index) = (index, node.next);
        }
    }

    /// The waiters of `slot`, latest first.
    pub(super) fn waiters(&self, slot: u32) -> impl Iterator<Item = u32> + '_ {
        let mut index = self[slot].waiters;
        std::iter::from_fn(move || {
            while index != NONE {
                let node = self.waiters[index as usize];
                index = node.next;
                if let Some(waiter) = self.find(node.task) {
                    return Some(waiter);
                }
            }
            None
        })
    }

    fn clear_waiters(&mut self, slot: u32) {
        while self.pop_waiter(slot).is_some() {}
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
