//! The invariants, stated as code. Tests and simulations call [`SchedulerCore::check`] after every event.

use std::collections::{BTreeMap, BTreeSet};

use super::SchedulerCore;
use super::task::State;
use super::workers::Room;
use crate::model::TaskId;

impl SchedulerCore {
    /// Panics if the tables contradict each other.
    pub fn check(&self) {
        assert!(self.steps.is_empty(), "steps are left: {:?}", self.steps);
        let (mut wanted_by, mut dependents) = (BTreeMap::<u32, u32>::new(), BTreeMap::<u32, u32>::new());
        let mut waits = BTreeMap::<TaskId, u32>::new();
        for slot in self.tasks.slots() {
            let task = &self.tasks[slot];
            for input in &task.inputs {
                *dependents.entry(*input).or_default() += 1;
                if task.is_active() {
                    *wanted_by.entry(*input).or_default() += 1;
                }
            }
            for waiter in self.tasks.waiters(slot) {
                *waits.entry(self.tasks.id(waiter)).or_default() += 1;
                assert!(!task.is_stored(), "{} is stored and has waiters", self.tasks.id(slot));
            }
        }
        for slot in self.tasks.slots() {
            self.check_task(
                slot,
                wanted_by.get(&slot).copied().unwrap_or(0),
                dependents.get(&slot).copied().unwrap_or(0),
                waits.get(&self.tasks.id(slot)).copied().unwrap_or(0),
            );
        }
        self.check_workers();
    }

    fn check_task(&self, slot: u32, wanted_by: u32, dependents: u32, waits: u32) {
        let (task, id) = (&self.tasks[slot], self.tasks.id(slot));
        assert_eq!(task.wanted_by, wanted_by, "{id}: active dependents");
        assert_eq!(task.dependents, dependents, "{id}: dependents");
        assert_eq!(task.is_bound, self.bindings.find(slot).is_some(), "{id} is bound");
        assert_eq!(self.find_key(task.key), Some(slot), "{id} is found by its key");
        assert!(task.is_wanted() || task.dependents > 0, "{id} is kept for nobody: {:?}", task.state);
        assert!(
            task.is_wanted() || matches!(task.state, State::Released),
            "{id} is {:?} for nobody",
            task.state
        );
        match &task.state {
            State::Waiting { missing } => {
                assert!(*missing > 0, "{id} waits for nothing");
                assert_eq!(*missing, waits, "{id}: chains that it waits in");
            }
            State::Assigned { worker, missing } => {
                assert_eq!(*missing, waits, "{id}: chains that it waits in");
                assert!(self.is_permitted(slot, *worker), "{id} is on {worker}, which it does not name");
                let worker = self.workers.find(*worker).expect("assigned to a live worker");
                assert_eq!(worker.assigned[task.position as usize], slot, "{id} is on its worker's list");
            }
            State::Held => {
                assert!(!task.holders.is_empty(), "{id} is held by nobody");
                for holder in &task.holders {
                    let worker = self.workers.find(*holder).expect("held by a live worker");
                    assert!(worker.holds.contains(&slot), "{id} is on its holder's list");
                }
            }
            State::Released => assert!(!task.is_wanted(), "{id} is wanted, and nobody makes it"),
            _ => assert!(task.holders.is_empty(), "{id} is {:?} and has holders", task.state),
        }
    }

    fn check_workers(&self) {
        for (id, worker) in self.workers.iter() {
            let mut followers = 0;
            let mut load_us: u64 = worker.abandoned.values().map(|estimate| u64::from(*estimate)).sum();
            for slot in &worker.assigned {
                let State::Assigned { worker: on, missing } = self.tasks[*slot].state else {
                    panic!(
                        "{} is on the list of {id} and {:?}",
                        self.tasks.id(*slot),
                        self.tasks[*slot].state
                    )
                };
                assert_eq!(on, id, "{} is on the list of its worker", self.tasks.id(*slot));
                match missing {
                    0 => load_us += u64::from(self.tasks[*slot].estimate_us),
                    _ => followers += 1,
                }
            }
            assert_eq!(worker.followers, followers, "{id}: followers");
            assert_eq!(worker.load_us, load_us, "{id}: load");
            let mut held_bytes = 0;
            for slot in &worker.holds {
                assert!(self.tasks[*slot].holders.contains(&id), "{id} holds {}", self.tasks.id(*slot));
                held_bytes += self.tasks[*slot].nbytes;
            }
            assert_eq!(worker.held_bytes, held_bytes, "{id}: bytes held");
            for task in &worker.started {
                let slot = self.tasks.find(*task).expect("what starts is not taken off the books");
                assert!(worker.assigned.contains(&slot), "{task} starts on {id}, and is not assigned there");
                assert!(self.deaths.contains_key(&slot), "{task} starts with caution, for no reason");
            }
            let inputs = worker.assigned.iter().flat_map(|slot| &self.tasks[*slot].inputs);
            let inputs: BTreeSet<u32> = inputs.copied().collect();
            assert!(worker.inbound.is_subset(&inputs), "{id} is sent what it has no use for");
        }
        self.workers.check_lines();
        self.check_bindings();
        self.check_orders();
        self.fences.check(|worker| self.workers.find(worker).is_some());
        for slot in self.heirs.keys() {
            let id = self.tasks.id(*slot);
            assert!(
                matches!(self.tasks[*slot].state, State::Receiving { .. }),
                "{id} has heirs, and does not come"
            );
        }
        for task in self.doubts.keys() {
            assert!(self.tasks.find(*task).is_some(), "{task} is doubted and gone");
        }
    }

    fn check_bindings(&self) {
        for (id, worker) in self.workers.iter() {
            let waiting = |is_some: bool, set: &BTreeSet<_>| is_some == set.contains(&id);
            assert!(waiting(!worker.backlog.is_empty(), &self.workers.backlogged), "{id} has a backlog");
            assert!(waiting(!worker.bound.is_empty(), &self.workers.bound_backlogged), "{id} is named");
            for slot in worker.bound.iter().filter_map(|task| self.ready_slot(task)) {
                assert!(self.is_permitted(slot, id), "{} waits for {id}", self.tasks.id(slot));
            }
            assert!(
                worker
                    .backlog
                    .iter()
                    .filter_map(|task| self.ready_slot(task))
                    .all(|slot| self.is_permitted(slot, id))
            );
        }
        for slot in self.bindings.stranded().filter_map(|task| self.ready_slot(task)) {
            let placement = self.bindings.find(slot).expect("what is not bound goes anywhere");
            let is_new = self.bindings.is_anybody_new();
            assert!(is_new || self.named(placement).is_empty(), "{} has a worker", self.tasks.id(slot));
        }
    }

    /// Panics unless `place` has done all it can: every ready task is in a queue, and no worker is idle while it
    /// could take one.
    pub fn check_progress(&self) {
        let left = self.unplaced.len() + self.unfollowed.len();
        assert!(left == 0 || self.workers.len() == 0, "something is left to place");
        assert!(!self.workers.any_dirty(), "a worker is left to feed");
        let backlogs =
            self.workers.iter().flat_map(|(_, worker)| worker.backlog.iter().chain(worker.bound.iter()));
        let queued: BTreeSet<TaskId> =
            self.pool.iter().chain(backlogs).chain(self.bindings.stranded()).collect();
        for slot in self.tasks.slots() {
            let id = self.tasks.id(slot);
            assert!(
                !matches!(self.tasks[slot].state, State::Ready) || queued.contains(&id),
                "{id} is ready and in no queue"
            );
        }
        for (id, worker) in self.workers.iter() {
            if self.room(id) == Room::Idle {
                let own = worker
                    .backlog
                    .iter()
                    .chain(worker.bound.iter())
                    .find(|task| self.ready_slot(*task).is_some());
                let is_full = self.workers.is_full(id);
                let own = own.filter(|_| !is_full || !worker.backlog.is_empty());
                assert_eq!(own, None, "{id} is idle and has a backlog");
                let any = self.pool.iter().find(|task| self.ready_slot(*task).is_some());
                let any = any.filter(|_| !self.workers.is_avoided(id) && !is_full);
                assert_eq!(any, None, "{id} is idle and the pool is not empty");
            }
        }
    }
}
