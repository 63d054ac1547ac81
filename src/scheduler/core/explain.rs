//! What people are told: counts, summaries of workers, and why a key is where it is.

use serde::Serialize;

use super::SchedulerCore;
use super::task::State;
use crate::model::{ClientId, FutureId, Key, Others, TaskId, WorkerId};

/// Tasks by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TaskCounts {
    /// In the table.
    pub total: usize,
    /// Inputs are not stored.
    pub waiting: usize,
    /// Could run, and wait for a worker.
    pub ready: usize,
    /// With a worker.
    pub assigned: usize,
    /// On their way from a client.
    pub receiving: usize,
    /// Stored on workers or, if small, here.
    pub stored: usize,
    /// Ended in an error.
    pub failed: usize,
    /// Kept to compute lost values from.
    pub released: usize,
}

/// A worker in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerSummary {
    /// Its id.
    pub id: WorkerId,
    /// Tasks given to it whose outcome has not come.
    pub assigned: usize,
    /// Ready tasks that wait here for it.
    pub backlog: usize,
    /// Values that it holds.
    pub values: usize,
    /// Their size.
    pub held_bytes: u64,
    /// Whether it runs one task at a time, as its memory is nearly full.
    pub is_paused: bool,
    /// Whether it takes only tasks that have inputs.
    pub is_full: bool,
    /// Estimated time until it has worked off what it has.
    pub wait_us: u64,
}

/// A value on a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldValue {
    /// Its key, as a future has it.
    pub key: String,
    /// Its packed size.
    pub nbytes: u64,
}

/// Why a task is where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The key, in hexadecimal digits.
    pub key: String,
    /// The name that a user gave it, if any.
    pub name: Option<String>,
    /// The function, by name where that is known.
    pub function: String,
    /// The state, in a word.
    pub state: &'static str,
    /// One sentence: why it is in this state.
    pub why: String,
    /// References of clients.
    pub references: usize,
    /// Active tasks that take it as input.
    pub wanted_by: u32,
    /// Keys of inputs that are not stored.
    pub awaits: Vec<String>,
    /// Workers that hold the value.
    pub holders: Vec<WorkerId>,
    /// The packed size of the value.
    pub nbytes: u64,
}

impl SchedulerCore {
    /// Tasks by state. Looks at every task.
    pub fn counts(&self) -> TaskCounts {
        let mut counts = TaskCounts { total: self.tasks.len(), ..TaskCounts::default() };
        for slot in self.tasks.slots() {
            *match self.tasks[slot].state {
                State::Waiting { .. } => &mut counts.waiting,
                State::Ready => &mut counts.ready,
                State::Assigned { .. } => &mut counts.assigned,
                State::Receiving { .. } => &mut counts.receiving,
                State::Held | State::Inline(_) => &mut counts.stored,
                State::Failed(_) => &mut counts.failed,
                State::Released | State::Free { .. } => &mut counts.released,
            } += 1;
        }
        counts
    }

    /// Tasks in the table.
    pub fn tasks_len(&self) -> usize {
        self.tasks.len()
    }

    /// Every worker in numbers.
    pub fn worker_summaries(&self) -> Vec<WorkerSummary> {
        let summary = |(id, worker): (WorkerId, &super::workers::Worker)| WorkerSummary {
            id,
            assigned: worker.assigned.len() + worker.abandoned.len(),
            backlog: worker.backlog.len() + worker.bound.len(),
            values: worker.holds.len(),
            held_bytes: worker.held_bytes,
            is_paused: worker.is_paused,
            is_full: worker.is_full,
            wait_us: worker.wait_us(),
        };
        self.workers.iter().map(summary).collect()
    }

    /// The workers that hold the value of a client's future.
    pub fn who_has(&self, client: ClientId, future: FutureId) -> Vec<WorkerId> {
        match self.clients.standing(client, future) {
            super::clients::Standing::Task { slot, .. } => self.tasks[slot].holders.to_vec(),
            _ => Vec::new(),
        }
    }

    /// The packed size of the value of a client's future; None while it has none.
    pub fn nbytes(&self, client: ClientId, future: FutureId) -> Option<u64> {
        let super::clients::Standing::Task { slot, .. } = self.clients.standing(client, future) else {
            return None;
        };
        self.tasks[slot].is_stored().then_some(self.tasks[slot].nbytes)
    }

    /// The values that a worker holds; None if it is not there. Small values are on the scheduler, and not among
    /// them.
    pub fn has_what(&self, worker: WorkerId) -> Option<Vec<HeldValue>> {
        let held = |slot: &u32| HeldValue { key: self.full_key(*slot), nbytes: self.tasks[*slot].nbytes };
        Some(self.workers.find(worker)?.holds.iter().map(held).collect())
    }

    /// The key as a future has it: the name that a user gave it, or the function's with all digits.
    fn full_key(&self, slot: u32) -> String {
        let key = self.tasks[slot].key;
        self.names.get(&key).cloned().unwrap_or_else(|| key.in_full(&self.function_name(slot)))
    }

    /// The key that a user means: a name, or hexadecimal digits, alone or behind `function-`, cut short or not.
    pub fn resolve(&self, text: &str) -> Option<Key> {
        if let Some((key, _)) = self.names.iter().find(|(_, name)| *name == text) {
            return Some(*key);
        }
        let digits = text.rsplit('-').next()?.trim_end_matches('…');
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let digits = digits.to_ascii_lowercase();
        let keys = self.tasks.slots().map(|slot| self.tasks[slot].key);
        keys.into_iter().find(|key| key.to_string().starts_with(&digits))
    }

    /// The key of a task, unless it was taken off its course or is forgotten.
    pub fn key_of(&self, task: TaskId) -> Option<Key> {
        self.tasks.find(task).map(|slot| self.tasks[slot].key)
    }

    /// Why the task of `key` is where it is; None if there is none.
    pub fn explain(&self, key: Key) -> Option<Explanation> {
        let slot = self.find_key(key)?;
        let task = &self.tasks[slot];
        let unstored = task.inputs.iter().filter(|input| !self.tasks[**input].is_stored());
        let awaits: Vec<String> = unstored.map(|input| self.tasks[*input].key.to_string()).collect();
        let (state, why) = self.reason(slot, &awaits);
        Some(Explanation {
            key: key.to_string(),
            name: self.names.get(&key).cloned(),
            function: self.function_name(slot),
            state,
            why,
            references: self.clients.of_task(&self.tasks, slot).count(),
            wanted_by: task.wanted_by,
            awaits,
            holders: task.holders.to_vec(),
            nbytes: task.nbytes,
        })
    }

    pub(super) fn function_name(&self, slot: u32) -> String {
        let function = &self.functions[self.tasks[slot].function as usize];
        function.name.clone().unwrap_or_else(|| format!("{:016x}", function.id.0))
    }

    /// Why a task that names workers does not run.
    fn reason_of_binding(&self, slot: u32) -> String {
        let Some(placement) = self.bindings.find(slot) else { return String::new() };
        let (named, wait_s) = (self.named(placement), self.tuning.placement_wait_us / 1_000_000);
        let permits = match placement.others() {
            Others::Refused => format!("it may run on {placement} only"),
            Others::Allowed => format!("it prefers {placement}"),
        };
        match (named.as_slice(), placement.others()) {
            ([], Others::Refused) => {
                format!("{permits}, and no such worker is there; after {wait_s} s it fails")
            }
            ([], Others::Allowed) => {
                format!("{permits}, of which none is there, and all workers have enough to do")
            }
            ([only], _) => format!("{permits}, and {only} has enough to do"),
            (several, _) => format!("{permits}, and all {} of these have enough to do", several.len()),
        }
    }

    /// Whether a task waits for memory that nothing but the end of values makes.
    fn is_without_room(&self, slot: u32) -> bool {
        let is_refused = match self.bindings.find(slot) {
            Some(placement) if placement.others() == Others::Refused => {
                let named = self.named(placement);
                !named.is_empty() && named.iter().all(|worker| self.workers.is_full(*worker))
            }
            _ => self.workers.all_full(),
        };
        self.tasks[slot].inputs.is_empty() && is_refused
    }

    /// Why a task without inputs does not run.
    fn reason_of_full(&self, slot: u32) -> String {
        let whose = match self.bindings.find(slot) {
            Some(placement) if placement.others() == Others::Refused => placement.to_string(),
            _ => format!("all {} workers", self.workers.len()),
        };
        format!(
            "no room: memory of {whose} is full and no value can be spilled, so only tasks that have inputs start there \
             until values are freed; release futures, make room on the disk, or start the workers with another \
             --spill-directory or a larger --memory-limit"
        )
    }

    fn reason(&self, slot: u32, awaits: &[String]) -> (&'static str, String) {
        match &self.tasks[slot].state {
            State::Waiting { missing } => {
                ("waiting", format!("{missing} of its inputs are not stored: {}", awaits.join(", ")))
            }
            State::Ready if self.workers.len() == 0 => {
                ("ready", "no worker has joined the cluster".to_owned())
            }
            State::Ready if self.is_without_room(slot) => ("ready", self.reason_of_full(slot)),
            State::Ready if self.tasks[slot].is_bound => ("ready", self.reason_of_binding(slot)),
            State::Ready if self.workers.all_paused() => (
                "ready",
                "paused: memory of all workers is nearly full, so each runs one task at a time until values are \
                 spilled or freed"
                    .to_owned(),
            ),
            State::Ready => ("ready", format!("all {} workers have enough to do", self.workers.len())),
            State::Assigned { worker, missing: 0 } => {
                let is_paused = self.workers.find(*worker).is_some_and(|worker| worker.is_paused);
                let paused = if is_paused { " (paused: memory; one task at a time runs there)" } else { "" };
                ("assigned", format!("it runs on {worker}, or is next there{paused}"))
            }
            State::Assigned { worker, missing } => {
                ("assigned", format!("it follows {missing} inputs that are being made on {worker}"))
            }
            State::Receiving { worker: Some(worker), sender: (client, _), .. } => {
                ("receiving", format!("{client} is sending it to {worker}"))
            }
            State::Receiving { worker: None, sender: (client, _), .. } => {
                ("receiving", format!("{client} sends it as soon as a worker has joined"))
            }
            State::Held => ("stored", "its value is on its holders until nobody wants it".to_owned()),
            State::Inline(_) => {
                ("stored", "its value is small and stays on the scheduler until nobody wants it".to_owned())
            }
            State::Failed(_) => ("failed", "it, or an input of it, ended in an error".to_owned()),
            State::Released | State::Free { .. } => {
                ("released", "nobody wants its value; it is kept to compute dependents again".to_owned())
            }
        }
    }
}
