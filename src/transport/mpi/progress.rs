//! The MPI lane on the main thread: takes orders, polls while anything is under way, and says how long to sleep.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mpi::topology::SimpleCommunicator;
use tokio::sync::oneshot;

use super::in_flight::{Ended, InFlight, Memory, TransferId};
use super::{Done, MpiError, Order, What};
use crate::transport::data::STALL_MAX;

/// How long an opening may take to come when all ranks are about to end: who has not answered by then has not heard.
const UNANSWERED_MAX: Duration = Duration::from_millis(300);
/// Time between two looks for transfers that are stalled.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// How long polling goes on without a pause after something moved.
const SPIN_MAX: Duration = Duration::from_micros(20);
/// Then polling leaves the core to others in between, for this long, in which a chunk comes over any fast network:
/// libraries that copy move a piece of a chunk in each poll, and would wait for the end of a sleep before the next.
const YIELD_MAX: Duration = Duration::from_millis(4);
/// As long as nothing but openings can come, it sleeps after this: the other end may have to pack the value first.
const WAITING_YIELD_MAX: Duration = Duration::from_micros(200);
/// Then polling sleeps: this long at first, twice as long each time.
const SLEEP_MIN: Duration = Duration::from_micros(5);
/// At most so long.
const SLEEP_MAX: Duration = Duration::from_micros(100);
/// How long this thread stays awake when the last transfer has ended. Who asks for one value often asks for another, and
/// waking cores that sleep takes longer than all else that the ranks do to agree.
const LINGER_MAX: Duration = Duration::from_micros(100);

/// Moves values over MPI; lives on the main thread, which calls [`poll`](Self::poll) between whatever else it does.
pub struct Progress {
    in_flight: InFlight,
    waiting: BTreeMap<TransferId, Waiting>,
    pause: Pause,
    looked_at: Instant,
    /// Until when this thread stays awake without transfers.
    lingers_until: Option<Instant>,
}

struct Waiting {
    peer: u32,
    done: oneshot::Sender<Done>,
    /// When something moved, or was to; None as long as the other end has not said that it sends.
    moved_at: Option<Instant>,
}

/// Between two polls: spin, then yield, then sleep longer and longer.
struct Pause {
    moved_at: Instant,
    sleep: Duration,
}

impl Progress {
    /// A lane without transfers. Errors of MPI on this communicator come back as codes from this moment.
    pub fn new(world: &SimpleCommunicator) -> Self {
        Self {
            in_flight: InFlight::new(world),
            waiting: BTreeMap::new(),
            pause: Pause::new(),
            looked_at: Instant::now(),
            lingers_until: None,
        }
    }

    /// Takes an order; [`poll`](Self::poll) carries it out.
    pub fn take(&mut self, Order(what): Order) {
        match what {
            What::Start { id, peer, tag, memory, done } => {
                let moved_at = matches!(memory, Memory::Send(_)).then(Instant::now);
                self.waiting.insert(id, Waiting { peer, done, moved_at });
                self.in_flight.start(id, peer, tag, memory);
                self.pause.moved();
            }
            What::Expect(id) => {
                if let Some(waiting) = self.waiting.get_mut(&id) {
                    waiting.moved_at = Some(Instant::now());
                }
            }
        }
    }

    /// Moves what can be moved. How long to wait before the next time; None if nothing is, or was just, under way.
    pub fn poll(&mut self) -> Option<Duration> {
        if self.in_flight.is_idle() {
            return self.linger();
        }
        let polled = self.in_flight.poll();
        if polled.bytes_moved > 0 || !polled.ended.is_empty() {
            self.pause.moved();
        }
        for id in polled.moved {
            if let Some(waiting) = self.waiting.get_mut(&id) {
                waiting.moved_at = Some(self.pause.moved_at);
            }
        }
        if !polled.ended.is_empty() {
            self.lingers_until = Some(self.pause.moved_at + LINGER_MAX);
        }
        for Ended { id, result } in polled.ended {
            if let Some(waiting) = self.waiting.remove(&id) {
                // Who waited may have left.
                let _ = waiting.done.send(result);
            }
        }
        let yield_max = if self.in_flight.is_waiting() { WAITING_YIELD_MAX } else { YIELD_MAX };
        let now = Instant::now();
        if now.duration_since(self.looked_at) > LOOK_PERIOD {
            self.looked_at = now;
            self.give_up_stalled(now);
        }
        Some(self.pause.next(now, yield_max))
    }

    /// The end is near: goes on until MPI holds no memory of ours, with what `orders` still bring. Whether it came to that
    /// in time.
    pub fn drain(&mut self, within: Duration, mut orders: impl FnMut() -> Option<Order>) -> bool {
        let until = Instant::now() + within;
        let mut cancels_at = Instant::now() + UNANSWERED_MAX;
        loop {
            while let Some(order) = orders() {
                self.take(order);
            }
            let now = Instant::now();
            if self.in_flight.is_idle() || now > until {
                return self.in_flight.is_clean();
            }
            if now > cancels_at {
                self.in_flight.cancel_openings();
                cancels_at = until;
            }
            self.poll();
            std::thread::yield_now();
        }
    }

    /// The wait of a poll without transfers.
    fn linger(&mut self) -> Option<Duration> {
        if Instant::now() < self.lingers_until? {
            std::thread::yield_now();
            return Some(Duration::ZERO);
        }
        self.lingers_until = None;
        None
    }

    fn give_up_stalled(&mut self, now: Instant) {
        let stalled =
            |waiting: &Waiting| waiting.moved_at.is_some_and(|at| now.duration_since(at) > STALL_MAX);
        while let Some((&id, _)) = self.waiting.iter().find(|(_, waiting)| stalled(waiting)) {
            let waiting = self.waiting.remove(&id).expect("it was found");
            self.in_flight.abandon(id);
            let error = MpiError::Stalled { peer: waiting.peer, seconds: STALL_MAX.as_secs() };
            let _ = waiting.done.send(Err(error));
        }
    }
}

impl Pause {
    fn new() -> Self {
        Self { moved_at: Instant::now(), sleep: SLEEP_MIN }
    }

    fn moved(&mut self) {
        *self = Self::new();
    }

    fn next(&mut self, now: Instant, yield_max: Duration) -> Duration {
        let idle = now.duration_since(self.moved_at);
        if idle < SPIN_MAX {
            return Duration::ZERO;
        }
        if idle < yield_max {
            std::thread::yield_now();
            return Duration::ZERO;
        }
        let sleep = self.sleep;
        self.sleep = (sleep * 2).min(SLEEP_MAX);
        sleep
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("transfers", &self.waiting.len()).finish_non_exhaustive()
    }
}
