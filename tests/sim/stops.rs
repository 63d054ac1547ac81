//! What cancels have stopped: once a cancel is acknowledged, none of that may start.

use std::collections::{BTreeMap, BTreeSet};

use dcluster::model::{ClientId, FutureId, TaskId, WorkerId};
use dcluster::wire::client::Cancel;

/// A client and its number of a cancel.
type Number = (ClientId, u32);

/// All cancels.
#[derive(Debug, Default)]
pub(crate) struct Stops {
    /// The one that is being booked.
    booking: Option<Number>,
    stops: BTreeMap<Number, Stop>,
    /// The cancel by which a future ended.
    ended_by: BTreeMap<(ClientId, FutureId), Number>,
    acknowledged: BTreeSet<Number>,
    /// What must not start any more.
    stopped: BTreeSet<(WorkerId, TaskId)>,
}

/// One cancel.
#[derive(Debug, Default)]
struct Stop {
    /// Cancels that ended futures which this one names again.
    earlier: Vec<Number>,
    tasks: BTreeSet<(WorkerId, TaskId)>,
}

impl Stops {
    pub(crate) fn begin(&mut self, client: ClientId, cancel: &Cancel) {
        let number = (client, cancel.number);
        let earlier =
            cancel.futures.iter().filter_map(|future| self.ended_by.get(&(client, *future)).copied());
        let stop = Stop { earlier: earlier.collect(), tasks: BTreeSet::new() };
        assert!(self.stops.insert(number, stop).is_none(), "a cancel is booked once");
        self.booking = Some(number);
    }

    /// A task is taken away from a worker, perhaps by the cancel that is booked.
    pub(crate) fn stop(&mut self, worker: WorkerId, task: TaskId) {
        if let Some(number) = self.booking {
            self.stops.get_mut(&number).expect("it has begun").tasks.insert((worker, task));
        }
    }

    pub(crate) fn cancelled(&mut self, future: (ClientId, FutureId)) {
        if let Some(number) = self.booking {
            self.ended_by.insert(future, number);
        }
    }

    pub(crate) fn end(&mut self) {
        if let Some(number) = self.booking.take()
            && self.acknowledged.contains(&number)
        {
            self.forbid(number);
        }
    }

    pub(crate) fn acknowledge(&mut self, client: ClientId, number: u32) {
        let number = (client, number);
        assert!(self.stops.contains_key(&number), "a cancel that was not booked is acknowledged");
        assert!(self.acknowledged.insert(number), "a cancel is acknowledged twice");
        if self.booking.is_none() {
            self.forbid(number);
        }
    }

    /// Panics if the task was stopped by a cancel that has been acknowledged.
    pub(crate) fn check_start(&self, worker: WorkerId, task: TaskId) {
        assert!(!self.stopped.contains(&(worker, task)), "{task} starts on {worker} after its cancel");
    }

    fn forbid(&mut self, number: Number) {
        let stop = &self.stops[&number];
        let numbers = stop.earlier.iter().chain([&number]);
        self.stopped.extend(numbers.flat_map(|number| &self.stops[number].tasks).copied());
    }
}
