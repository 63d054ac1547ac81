//! The MPI lane on the main thread: takes orders, polls while anything is under way, and says how long to sleep.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mpi::topology::SimpleCommunicator;
use tokio::sync::oneshot;

use super::in_flight::{Ended, InFlight, TransferId};
use super::{Done, MpiError, Order, What};

/// A transfer that moves no chunk for this long is given up.
const STALL_MAX: Duration = Duration::from_secs(30);
/// How long polling goes on without a pause after something moved.
const SPIN_MAX: Duration = Duration::from_micros(20);
/// Then polling leaves the core to others in between, for this long, in which a chunk comes over any fast network:
/// libraries that copy move a piece of a chunk in each poll, and would wait for the end of a sleep before the next.
const YIELD_MAX: Duration = Duration::from_millis(4);
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
    /// Until when this thread stays awake without transfers.
    lingers_until: Option<Instant>,
}

struct Waiting {
    peer: u32,
    done: oneshot::Sender<Done>,
    moved_at: Instant,
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
            lingers_until: None,
        }
    }

    /// Takes an order; [`poll`](Self::poll) carries it out.
    pub fn take(&mut self, Order(what): Order) {
        match what {
            What::Start { id, peer, tag, memory, done } => {
                self.waiting.insert(id, Waiting { peer, done, moved_at: Instant::now() });
                self.in_flight.start(id, peer, tag, memory);
                self.pause.moved();
            }
            What::Abandon(id) => {
                self.waiting.remove(&id);
                self.in_flight.abandon(id);
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
                waiting.moved_at = self.pause.moved_at;
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
        let pause = self.pause.next();
        if pause >= SLEEP_MAX {
            self.give_up_stalled();
        }
        Some(pause)
    }

    /// Whether MPI holds no memory of ours, so that it can be finalised.
    pub fn is_clean(&self) -> bool {
        self.in_flight.is_clean()
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

    fn give_up_stalled(&mut self) {
        let now = Instant::now();
        let stalled = |waiting: &Waiting| now.duration_since(waiting.moved_at) > STALL_MAX;
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

    fn next(&mut self) -> Duration {
        let idle = self.moved_at.elapsed();
        if idle < SPIN_MAX {
            return Duration::ZERO;
        }
        if idle < YIELD_MAX {
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
