//! What is on its way: events by time, and connections that keep the order of what crosses them.

use std::collections::{BTreeMap, BinaryHeap};

use dcluster::model::{ClientId, FutureId, TaskId, WorkerId};
use dcluster::wire::client::Fault;
use dcluster::worker::core::memory::Ticket;
use dcluster::worker::core::{PutId, ThreadId};

use super::random::Random;
use super::workload::Entry;

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Node {
    Scheduler,
    Client(ClientId),
    Worker(WorkerId),
}

/// Something that happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// Bytes of a control connection arrive.
    Deliver { from: Node, to: Node, bytes: Vec<u8> },
    /// The scheduler finds a connection closed.
    Closed { peer: Node, planned: bool },
    /// A node writes what is in its outbox.
    Flush { from: Node, to: Node },
    /// The scheduler has drained its sockets.
    Place,
    /// A thread is done with a task.
    RunEnds { worker: WorkerId, thread: ThreadId, task: TaskId, entry: Entry, duration_us: u64 },
    /// A worker asks a peer for a value, or a client a worker.
    Ask { asker: Asker, holder: WorkerId, task: TaskId },
    /// What was asked for, or that it is not there.
    Answer { asker: Asker, holder: WorkerId, task: TaskId, value: Result<Stored, Fault> },
    /// A client's value reaches a worker.
    Put { client: ClientId, future: FutureId, worker: WorkerId, task: TaskId, value: Stored },
    /// A worker has received a client's value for which it had room.
    PutEnds { worker: WorkerId, put: PutId },
    /// A worker lets a client's value wait no longer.
    PutHurries { worker: WorkerId, put: PutId },
    /// A client's value did not reach the worker.
    PutFailed { client: ClientId, future: FutureId, worker: WorkerId, task: TaskId },
    /// A worker's disk has taken a value, or not.
    Spilled { worker: WorkerId },
    /// A worker has read a value from disk.
    Unspilled { worker: WorkerId, task: TaskId, ticket: Ticket },
    /// A worker looks at what its process uses.
    Sampled { worker: WorkerId },
    /// A client does something.
    Act { client: ClientId },
    /// A worker starts.
    Join,
    /// A worker ends: it was asked to, or it dies.
    Leave { worker: WorkerId, planned: bool },
    /// A client's program starts.
    Connect,
    /// A client's connection breaks, or it closes.
    Disconnect { client: ClientId },
}

/// Who wants a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    Worker(WorkerId),
    Client(ClientId, FutureId),
}

/// A value in a store: what it is, and how large it passes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) value: u64,
    pub(crate) nbytes: u64,
    /// Whether it travels with the report, and is kept by its worker as long as that likes.
    pub(crate) is_inline: bool,
}

/// All that is on its way.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) now: u64,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    /// When the last bytes of a connection arrive: later ones arrive later.
    last: BTreeMap<(Node, Node), u64>,
    delay_us_max: u64,
    stalls_percent: u64,
}

#[derive(Debug)]
struct Scheduled {
    at: u64,
    number: u64,
    event: Event,
}

impl Network {
    pub(crate) fn new(random: &mut Random) -> Self {
        Self {
            now: 0,
            queue: BinaryHeap::new(),
            scheduled: 0,
            last: BTreeMap::new(),
            delay_us_max: random.pick(&[1, 50, 500, 5000]),
            stalls_percent: random.pick(&[0, 0, 1, 10]),
        }
    }

    /// Lets `event` happen in `delay_us`.
    pub(crate) fn after(&mut self, delay_us: u64, event: Event) {
        self.at(self.now + delay_us, event);
    }

    /// Lets `event` happen after a network delay that nothing else has to do with.
    pub(crate) fn apart(&mut self, random: &mut Random, event: Event) {
        let delay_us = self.delay_us(random);
        self.after(delay_us, event);
    }

    /// Sends along a connection: what was sent before arrives before.
    pub(crate) fn along(&mut self, random: &mut Random, from: Node, to: Node, event: Event) {
        let at = self.now + self.delay_us(random);
        let last = self.last.entry((from, to)).or_default();
        *last = at.max(*last);
        let at = *last;
        self.at(at, event);
    }

    /// The next event; the clock goes to it.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let Scheduled { at, event, .. } = self.queue.pop()?;
        self.now = at;
        Some(event)
    }

    fn at(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.queue.push(Scheduled { at, number: self.scheduled, event });
    }

    fn delay_us(&self, random: &mut Random) -> u64 {
        let delay_us = random.below(self.delay_us_max) + 1;
        if random.chance(self.stalls_percent) { 20 * delay_us } else { delay_us }
    }
}

impl Ord for Scheduled {
    /// The heap's greatest is the earliest; of one time, the one that was scheduled first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Scheduled {}
