//! Disks and memory of the workers: values are written and read, disks are full, files are damaged.

use dcluster::model::{TaskId, WorkerId};
use dcluster::worker::core::memory::{Spilled, Ticket};

use super::network::Event;
use super::worker::Incoming;
use super::world::World;

/// How long it then takes to be received.
const PUT_US: u64 = 100;
/// Looks at the memory that certainly lead to another attempt to write.
const LOOKS: u64 = 12;

impl World {
    /// Does what a worker asks of its disk.
    pub(super) fn after_memory(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let (is_spilling, unspills) =
            (std::mem::take(&mut worker.floor.is_spilling), std::mem::take(&mut worker.floor.unspills));
        let is_watching = worker.is_watching();
        let (expected, admitted) =
            (std::mem::take(&mut worker.floor.expected), std::mem::take(&mut worker.floor.admitted));
        for Incoming { client, future, task, .. } in std::mem::take(&mut worker.floor.refused) {
            self.network.apart(&mut self.random, Event::PutFailed { client, future, worker: id, task });
        }
        for put in expected {
            self.network.after(self.plan.put_patience_us, Event::PutHurries { worker: id, put });
        }
        for put in admitted {
            self.network.after(PUT_US, Event::PutEnds { worker: id, put });
        }
        if is_spilling {
            self.network.apart(&mut self.random, Event::Spilled { worker: id });
        }
        for (task, ticket) in unspills {
            self.network.apart(&mut self.random, Event::Unspilled { worker: id, task, ticket });
        }
        // Whoever looks for ever would keep the network from getting quiet.
        let is_time = self.network.now < self.plan.calm_at_us;
        if is_watching && is_time && self.watching.insert(id) {
            self.network.after(1000, Event::Sampled { worker: id });
        }
    }

    pub(super) fn spilled(&mut self, worker: WorkerId) {
        let is_full = !self.is_calm && self.random.chance(self.plan.full_percent);
        let outcome = match self.random.below(20) {
            _ if is_full => Spilled::DiskFailed,
            0 if !self.is_calm => Spilled::Unpackable,
            _ => Spilled::Written,
        };
        self.with_worker(worker, |worker| worker.spilled(outcome));
    }

    pub(super) fn unspilled(&mut self, worker: WorkerId, task: TaskId, ticket: Ticket) {
        let is_damaged = !self.is_calm && self.random.chance(self.plan.damaged_percent);
        if is_damaged {
            self.ledger.is_lossy = true;
            self.ledger.endangered(task);
        }
        self.with_worker(worker, |worker| worker.unspilled(task, ticket, !is_damaged));
    }

    /// Disks have room: every worker looks often enough to find that out.
    pub(super) fn watch_all(&mut self) {
        for worker in self.workers.keys() {
            for look in 1..=LOOKS {
                self.network.after(look * 1000, Event::Sampled { worker: *worker });
            }
        }
    }

    /// A worker looks at what its process uses besides values.
    pub(super) fn sampled(&mut self, worker: WorkerId) {
        self.watching.remove(&worker);
        let other_bytes = match self.is_calm {
            true => 0,
            false => self.random.below(self.plan.memory_bytes_max / 4 + 1),
        };
        self.with_worker(worker, |worker| worker.sampled(other_bytes));
    }
}
