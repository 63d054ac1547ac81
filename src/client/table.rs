//! The table of a client's futures: a slot per [`FutureId`], in chunks that are freed as a whole.
//!
//! Ids are dense and never reused, so a slot is found by division; a chunk whose futures were all released
//! gives its memory back. Each slot heads a list of [`Listener`]s, which live in one arena. The groups that
//! listen are in [`super::group`], what fills the slots in [`super::session`].

use smallvec::SmallVec;

use super::error::Failure;
use crate::model::{FutureId, TaskId, WorkerId};

/// Slots of a chunk.
const CHUNK_SLOTS: usize = 1024;
/// No listener.
const NONE: u32 = u32::MAX;

/// A packed result that is here. Numbers and short texts need no memory of their own.
pub(super) type Inline = SmallVec<[u8; 24]>;

/// Where a large result is.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    /// The name to fetch it by.
    pub(super) task: TaskId,
    /// Its packed size.
    pub(super) nbytes: u64,
    /// Who has it.
    pub(super) holders: SmallVec<[WorkerId; 4]>,
}

/// What is known of a future.
#[derive(Debug, Default)]
pub(super) enum SlotState {
    /// No handle refers to it.
    #[default]
    Vacant,
    /// No outcome has arrived.
    Pending,
    /// Finished; the packed value is here.
    Inline(Inline),
    /// Finished; the value is on workers.
    Stored(Box<Stored>),
    /// Failed, cancelled or lost.
    Failed(Box<Failure>),
}

/// One future.
#[derive(Debug)]
pub(super) struct Slot {
    /// What is known of it.
    pub(super) state: SlotState,
    listeners: u32,
    /// Whether the scheduler was asked for its outcome.
    pub(super) watched: bool,
    /// Whether the scheduler was told of it.
    pub(super) known: bool,
}

/// Who hears of the end of a future.
pub(super) enum Listener {
    /// The member `index` of a group.
    Member {
        /// The group.
        group: u32,
        /// The place of the future in it.
        index: u32,
    },
    /// A function to call once.
    Callback(Box<dyn FnOnce() + Send>),
}

/// All futures of a client.
#[derive(Default)]
pub(super) struct Table {
    chunks: Vec<Option<Box<Chunk>>>,
    next: u64,
    nodes: Vec<Node>,
    free_node: u32,
}

struct Chunk {
    slots: Vec<Slot>,
    vacant: usize,
}

struct Node {
    listener: Option<Listener>,
    next: u32,
}

impl SlotState {
    /// Whether nothing more is to come.
    pub(super) fn is_done(&self) -> bool {
        !matches!(self, Self::Pending)
    }
}

impl Table {
    /// An empty table.
    pub(super) fn new() -> Self {
        Self { free_node: NONE, ..Self::default() }
    }

    /// A slot for a future that was just submitted, or None when all 2³² ids were used.
    #[inline]
    pub(super) fn allocate(&mut self) -> Option<FutureId> {
        let id = u32::try_from(self.next).ok()?;
        if (id as usize).is_multiple_of(CHUNK_SLOTS) {
            self.chunks.push(Some(Box::new(Chunk { slots: Vec::with_capacity(CHUNK_SLOTS), vacant: 0 })));
        }
        let chunk = self.chunks.last_mut().and_then(Option::as_mut).expect("the last chunk is not full");
        chunk.slots.push(Slot { state: SlotState::Pending, listeners: NONE, watched: false, known: false });
        self.next += 1;
        Some(FutureId(id))
    }

    /// The slot of a future; None if it was released or never existed.
    #[inline]
    pub(super) fn slot(&mut self, id: FutureId) -> Option<&mut Slot> {
        let chunk = self.chunks.get_mut(id.0 as usize / CHUNK_SLOTS)?.as_mut()?;
        let slot = chunk.slots.get_mut(id.0 as usize % CHUNK_SLOTS)?;
        if matches!(slot.state, SlotState::Vacant) { None } else { Some(slot) }
    }

    /// Forgets a future and who listens to it.
    pub(super) fn release(&mut self, id: FutureId) {
        let Some(slot) = self.slot(id) else { return };
        slot.state = SlotState::Vacant;
        while self.pop_listener(id).is_some() {}
        let index = id.0 as usize / CHUNK_SLOTS;
        let Some(chunk) = self.chunks[index].as_mut() else { return };
        chunk.vacant += 1;
        if chunk.vacant == CHUNK_SLOTS {
            self.chunks[index] = None;
        }
    }

    /// Every future without an outcome.
    pub(super) fn pending(&self) -> Vec<FutureId> {
        let slots =
            self.chunks.iter().enumerate().filter_map(|(index, chunk)| Some((index, chunk.as_ref()?)));
        slots
            .flat_map(|(index, chunk)| {
                chunk.slots.iter().enumerate().map(move |(at, slot)| (index, at, slot))
            })
            .filter(|(_, _, slot)| !slot.state.is_done())
            .map(|(index, at, _)| FutureId((index * CHUNK_SLOTS + at) as u32))
            .collect()
    }

    /// Adds a listener to a future that exists.
    pub(super) fn listen(&mut self, id: FutureId, listener: Listener) {
        let Some(slot) = self.raw_slot(id) else { return };
        let head = slot.listeners;
        let node = Node { listener: Some(listener), next: head };
        let at = match self.free_node {
            NONE => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
            free => {
                self.free_node = std::mem::replace(&mut self.nodes[free as usize], node).next;
                free
            }
        };
        if let Some(slot) = self.raw_slot(id) {
            slot.listeners = at;
        }
    }

    /// Takes one listener off a future's list.
    #[inline]
    pub(super) fn pop_listener(&mut self, id: FutureId) -> Option<Listener> {
        let slot = self.raw_slot(id)?;
        let at = slot.listeners;
        if at == NONE {
            return None;
        }
        let next = self.nodes[at as usize].next;
        if let Some(slot) = self.raw_slot(id) {
            slot.listeners = next;
        }
        self.free(at)
    }

    /// Takes every membership of `group` off a future's list.
    pub(super) fn unlisten(&mut self, id: FutureId, group: u32) {
        let Some(slot) = self.raw_slot(id) else { return };
        let (mut before, mut at) = (NONE, slot.listeners);
        while at != NONE {
            let next = self.nodes[at as usize].next;
            let is_member = matches!(&self.nodes[at as usize].listener, Some(Listener::Member { group: g, .. }) if *g == group);
            if !is_member {
                before = at;
            } else {
                match before {
                    NONE => self.raw_slot(id).expect("the list has this head").listeners = next,
                    before => self.nodes[before as usize].next = next,
                }
                self.free(at);
            }
            at = next;
        }
    }

    fn free(&mut self, at: u32) -> Option<Listener> {
        let node = &mut self.nodes[at as usize];
        node.next = self.free_node;
        self.free_node = at;
        node.listener.take()
    }

    #[inline]
    fn raw_slot(&mut self, id: FutureId) -> Option<&mut Slot> {
        let chunk = self.chunks.get_mut(id.0 as usize / CHUNK_SLOTS)?.as_mut()?;
        chunk.slots.get_mut(id.0 as usize % CHUNK_SLOTS)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn member(group: u32, index: u32) -> Listener {
        Listener::Member { group, index }
    }

    fn drain(table: &mut Table, id: FutureId) -> Vec<(u32, u32)> {
        std::iter::from_fn(|| table.pop_listener(id))
            .map(|listener| match listener {
                Listener::Member { group, index } => (group, index),
                Listener::Callback(_) => unreachable!("no callbacks here"),
            })
            .collect()
    }

    #[test]
    fn ids_are_dense_and_a_released_one_is_gone() {
        let mut table = Table::new();
        let ids: Vec<_> = (0..3000).map(|_| table.allocate().unwrap()).collect();
        assert_eq!(ids[2999], FutureId(2999));
        table.release(ids[5]);
        assert!(table.slot(ids[5]).is_none());
        assert!(table.slot(ids[6]).is_some());
        assert!(table.slot(FutureId(3000)).is_none());
    }

    #[test]
    fn a_chunk_without_futures_gives_its_memory_back() {
        let mut table = Table::new();
        let ids: Vec<_> = (0..2 * CHUNK_SLOTS).map(|_| table.allocate().unwrap()).collect();
        ids[..CHUNK_SLOTS].iter().for_each(|id| table.release(*id));
        assert!(table.chunks[0].is_none());
        assert_eq!(table.pending().len(), CHUNK_SLOTS);
        assert_eq!(table.pending()[0], ids[CHUNK_SLOTS]);
    }

    #[test]
    fn leaving_a_group_keeps_the_other_listeners() {
        let mut table = Table::new();
        let id = table.allocate().unwrap();
        for group in [1, 2, 1, 3] {
            table.listen(id, member(group, 7));
        }
        table.unlisten(id, 1);
        assert_eq!(drain(&mut table, id), [(3, 7), (2, 7)]);
        table.listen(id, member(4, 0));
        assert_eq!(table.nodes.len(), 4, "nodes are used again");
        assert_eq!(drain(&mut table, id), [(4, 0)]);
    }
}
