//! Clients and their references: which future of which client stands for which task.
//!
//! A reference is a node in a doubly linked chain that starts at its task, so giving one back costs the same
//! however many there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::task::{NONE, Slots, TaskTable};
use crate::model::{ClientId, FutureId};

const CHUNK_FUTURES: usize = 1024;

/// A reference of a client on a task.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reference {
    pub client: ClientId,
    pub future: FutureId,
    pub next: u32,
    previous: u32,
    task: u32,
    pub watch: Watch,
}

/// Whether the client waits to hear of the task's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    No,
    Yes,
}

/// What a client's future stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// The reference of this index, on the task in this slot.
    Task { reference: u32, slot: u32 },
    /// Cancelled, for this reason.
    Cancelled(Arc<str>),
    /// Never taken, or given back.
    Unknown,
}

/// All clients.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// By id: ids count from 0 and are never used again. Boxed, so that those that left cost little.
    table: Vec<Option<Box<Client>>>,
    references: Vec<Reference>,
    free: u32,
}

#[derive(Debug, Default)]
struct Client {
    /// Chunks of reference indices by future; a chunk without references is dropped.
    chunks: Vec<Option<Box<Chunk>>>,
    cancelled: BTreeMap<FutureId, Arc<str>>,
}

#[derive(Debug)]
struct Chunk {
    used: u32,
    references: [u32; CHUNK_FUTURES],
}

impl Client {
    /// The index of the reference that `future` is.
    #[inline]
    fn reference(&self, future: FutureId) -> Option<u32> {
        let (chunk, place) = place(future);
        let reference = self.chunks.get(chunk)?.as_ref()?.references[place];
        (reference != NONE).then_some(reference)
    }
}

/// The chunk of a future, and its place there.
#[inline]
fn place(future: FutureId) -> (usize, usize) {
    (future.0 as usize / CHUNK_FUTURES, future.0 as usize % CHUNK_FUTURES)
}

impl Clients {
    pub(super) fn new() -> Self {
        Self { table: Vec::new(), references: Vec::new(), free: NONE }
    }

    pub(super) fn join(&mut self, client: ClientId) {
        let index = client.0 as usize;
        if self.table.len() <= index {
            self.table.resize_with(index + 1, || None);
        }
        self.table[index] = Some(Box::default());
    }

    pub(super) fn leave(&mut self, client: ClientId) {
        if let Some(entry) = self.table.get_mut(client.0 as usize) {
            *entry = None;
        }
    }

    pub(super) fn contains(&self, client: ClientId) -> bool {
        self.find(client).is_some()
    }

    #[inline]
    fn find(&self, client: ClientId) -> Option<&Client> {
        self.table.get(client.0 as usize)?.as_deref()
    }

    #[inline]
    fn find_mut(&mut self, client: ClientId) -> Option<&mut Client> {
        self.table.get_mut(client.0 as usize)?.as_deref_mut()
    }

    #[inline]
    pub(super) fn reference(&self, index: u32) -> &Reference {
        &self.references[index as usize]
    }

    pub(super) fn watch(&mut self, index: u32, watch: Watch) {
        self.references[index as usize].watch = watch;
    }

    /// What `future` of `client` stands for.
    pub(super) fn standing(&self, client: ClientId, future: FutureId) -> Standing {
        let Some(client) = self.find(client) else { return Standing::Unknown };
        if let Some(reference) = client.reference(future) {
            return Standing::Task { reference, slot: self.references[reference as usize].task };
        }
        match client.cancelled.get(&future) {
            Some(reason) => Standing::Cancelled(reason.clone()),
            None => Standing::Unknown,
        }
    }

    /// The slots of the tasks that these futures of `client` stand for, if all of them stand for one.
    #[inline]
    pub(super) fn slots(&self, client: ClientId, futures: &[FutureId]) -> Option<Slots> {
        let client = self.find(client)?;
        let slot = |future: &FutureId| Some(self.references[client.reference(*future)? as usize].task);
        let mut slots = Slots::with_capacity(futures.len());
        for future in futures {
            slots.push(slot(future)?);
        }
        Some(slots)
    }

    /// Takes a reference of `client` on the task in `slot`.
    pub(super) fn link(&mut self, tasks: &mut TaskTable, client: ClientId, future: FutureId, slot: u32) {
        let next = tasks[slot].references;
        let node = Reference { client, future, next, previous: NONE, task: slot, watch: Watch::No };
        let index = if self.free == NONE {
            self.references.push(node);
            u32::try_from(self.references.len() - 1).expect("memory ends before nodes do")
        } else {
            let index = self.free;
            self.free = self.references[index as usize].next;
            self.references[index as usize] = node;
            index
        };
        if next != NONE {
            self.references[next as usize].previous = index;
        }
        tasks[slot].references = index;
        let Some(client) = self.find_mut(client) else { return };
        let (chunk, place) = place(future);
        if client.chunks.len() <= chunk {
            client.chunks.resize_with(chunk + 1, || None);
        }
        let chunk = client.chunks[chunk]
            .get_or_insert_with(|| Box::new(Chunk { used: 0, references: [NONE; CHUNK_FUTURES] }));
        chunk.references[place] = index;
        chunk.used += 1;
    }

    /// Gives the reference of this index back; the slot it was on.
    pub(super) fn unlink(&mut self, tasks: &mut TaskTable, index: u32) -> u32 {
        let Reference { client, future, next, previous, task, .. } = self.references[index as usize];
        match previous {
            NONE => tasks[task].references = next,
            previous => self.references[previous as usize].next = next,
        }
        if next != NONE {
            self.references[next as usize].previous = previous;
        }
        self.references[index as usize].next = self.free;
        self.free = index;
        if let Some(client) = self.find_mut(client) {
            let (chunk, place) = place(future);
            let entry = &mut client.chunks[chunk];
            let chunk = entry.as_mut().expect("a linked reference has its chunk");
            chunk.references[place] = NONE;
            chunk.used -= 1;
            if chunk.used == 0 {
                *entry = None;
            }
        }
        task
    }

    /// Marks a future as cancelled; it stands for no task.
    pub(super) fn mark_cancelled(&mut self, client: ClientId, future: FutureId, reason: Arc<str>) {
        if let Some(client) = self.find_mut(client) {
            client.cancelled.insert(future, reason);
        }
    }

    /// Forgets the mark; whether there was one.
    pub(super) fn unmark_cancelled(&mut self, client: ClientId, future: FutureId) -> bool {
        self.find_mut(client).is_some_and(|client| client.cancelled.remove(&future).is_some())
    }

    /// The references on the task in `slot`.
    pub(super) fn of_task<'a>(&'a self, tasks: &TaskTable, slot: u32) -> impl Iterator<Item = u32> + use<'a> {
        let mut index = tasks[slot].references;
        std::iter::from_fn(move || {
            let found = (index != NONE).then_some(index)?;
            index = self.references[found as usize].next;
            Some(found)
        })
    }

    /// All references of `client`, in the order of its futures.
    pub(super) fn of_client(&self, client: ClientId) -> Vec<u32> {
        let Some(client) = self.find(client) else { return Vec::new() };
        let chunks = client.chunks.iter().flatten();
        chunks.flat_map(|chunk| chunk.references).filter(|reference| *reference != NONE).collect()
    }
}
