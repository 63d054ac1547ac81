//! What happened to values: a ring of the latest events, from which the story of a key is told.
//!
//! Only what is said of large values anyhow is noted here, so that small tasks pay nothing. Transfers are reported once a
//! second, when their task may be over; events therefore keep task and key, and one leads to the other.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use serde_json::{Value, json};

use crate::model::{Key, TaskId, WorkerId};
use crate::wire::worker::Moved;

/// How many events are remembered; about two megabytes.
pub(super) const EVENTS_MAX: usize = 16_384;

/// The latest events, oldest first.
#[derive(Debug, Default)]
pub(super) struct Chronicle {
    events: VecDeque<Event>,
}

#[derive(Debug)]
struct Event {
    /// Since the start of the scheduler.
    at: Duration,
    /// None if it is about the worker as a whole.
    task: Option<TaskId>,
    key: Option<Key>,
    worker: WorkerId,
    what: What,
}

/// What happened on a worker.
#[derive(Debug)]
pub(super) enum What {
    /// It ran the task.
    Made { bytes: u64, us: u64 },
    /// The task failed there.
    Failed { us: u64 },
    /// It has a copy, from another worker or a client.
    Held { bytes: u64 },
    /// It fetched the value.
    Moved(Moved),
    /// It could not fetch it.
    Unavailable { from: WorkerId },
    /// It was lost.
    Lost,
}

impl Chronicle {
    pub(super) fn note(
        &mut self,
        at: Duration,
        task: TaskId,
        key: Option<Key>,
        worker: WorkerId,
        what: What,
    ) {
        self.push(Event { at, task: Some(task), key, worker, what });
    }

    pub(super) fn note_lost(&mut self, at: Duration, worker: WorkerId) {
        self.push(Event { at, task: None, key: None, worker, what: What::Lost });
    }

    /// The key that starts with these hexadecimal digits, alone or behind `function-`.
    pub(super) fn resolve(&self, text: &str) -> Option<Key> {
        let digits = text.rsplit('-').next()?.trim_end_matches('…').to_ascii_lowercase();
        let is_meant = |key: &Key| !digits.is_empty() && key.to_string().starts_with(&digits);
        self.events.iter().rev().filter_map(|event| event.key).find(is_meant)
    }

    /// All events of a key, in their order; with the losses of workers that had its value.
    pub(super) fn of(&self, key: Key) -> Vec<Value> {
        let tasks: BTreeSet<TaskId> = self
            .events
            .iter()
            .filter(|event| event.key == Some(key))
            .filter_map(|event| event.task)
            .collect();
        let mut had = BTreeSet::new();
        let mut events: Vec<&Event> = self.events.iter().collect();
        // Transfers are reported late.
        events.sort_by_key(|event| event.at);
        let is_told = |event: &&Event| match event.task {
            Some(task) if event.key == Some(key) || tasks.contains(&task) => {
                had.insert(event.worker);
                true
            }
            Some(_) => false,
            None => had.contains(&event.worker),
        };
        events.into_iter().filter(is_told).map(Event::in_json).collect()
    }

    fn push(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

impl Event {
    fn in_json(&self) -> Value {
        let (at_s, worker) = (self.at.as_secs_f64(), self.worker);
        let seconds = |us: u64| us as f64 / 1e6;
        match &self.what {
            What::Made { bytes, us } => {
                json!({ "at_s": at_s, "event": "made", "worker": worker, "bytes": bytes, "seconds": seconds(*us) })
            }
            What::Failed { us } => {
                json!({ "at_s": at_s, "event": "failed", "worker": worker, "seconds": seconds(*us) })
            }
            What::Held { bytes } => {
                json!({ "at_s": at_s, "event": "held", "worker": worker, "bytes": bytes })
            }
            What::Moved(Moved { from, lane, bytes, us, .. }) => json!({
                "at_s": at_s, "event": "moved", "from": from, "to": worker, "lane": lane, "bytes": bytes,
                "seconds": seconds(*us),
            }),
            What::Unavailable { from } => {
                json!({ "at_s": at_s, "event": "unavailable", "worker": worker, "from": from })
            }
            What::Lost => json!({ "at_s": at_s, "event": "worker lost", "worker": worker }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key(0x1f0c << 112);

    fn told(chronicle: &Chronicle) -> Vec<String> {
        let name = |event: &Value| event["event"].as_str().unwrap_or_default().to_owned();
        chronicle.of(KEY).iter().map(name).collect()
    }

    fn after(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn a_transfer_that_is_reported_after_its_task_is_forgotten_is_told_in_its_place() {
        let mut chronicle = Chronicle::default();
        let (task, other) = (TaskId(1), TaskId(2));
        chronicle.note(after(1), task, Some(KEY), WorkerId(0), What::Made { bytes: 1 << 20, us: 5 });
        chronicle.note(after(2), other, Some(Key(7)), WorkerId(1), What::Failed { us: 5 });
        chronicle.note(after(9), task, Some(KEY), WorkerId(1), What::Held { bytes: 1 << 20 });
        let from = WorkerId(0);
        let moved = Moved { task, from, lane: "mpi".to_owned(), bytes: 1 << 20, us: 3, ago_us: 0 };
        chronicle.note(after(8), task, None, WorkerId(1), What::Moved(moved));
        assert_eq!(told(&chronicle), ["made", "moved", "held"]);
        assert_eq!(chronicle.resolve("block-1f0c"), Some(KEY));
    }

    #[test]
    fn only_losses_of_workers_that_had_the_value_belong_to_its_story() {
        let mut chronicle = Chronicle::default();
        chronicle.note_lost(after(1), WorkerId(3));
        chronicle.note(after(2), TaskId(1), Some(KEY), WorkerId(3), What::Made { bytes: 5000, us: 5 });
        chronicle.note_lost(after(3), WorkerId(3));
        chronicle.note_lost(after(4), WorkerId(4));
        assert_eq!(told(&chronicle), ["made", "worker lost"]);
    }

    #[test]
    fn the_oldest_events_are_forgotten() {
        let mut chronicle = Chronicle::default();
        chronicle.note(after(0), TaskId(1), Some(KEY), WorkerId(0), What::Failed { us: 0 });
        for number in 0..EVENTS_MAX as u64 {
            chronicle.note(after(number), TaskId(2), Some(Key(7)), WorkerId(0), What::Failed { us: 0 });
        }
        assert!(told(&chronicle).is_empty());
    }
}
