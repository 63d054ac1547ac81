//! How rank 0 ends: a state machine from notices to steps, so that every ending is bounded and has one exit code.
//!
//! ```text
//! running ─ signal, stop, driver's end ─► ending the driver ─► stopping the cluster ─► over
//! ```
//!
//! The first cause decides the exit code. The driver is ended before the cluster, so that it can still bring its results
//! home. No clock and no process is touched here: [`super::lead`] feeds notices in and carries steps out.

use std::time::{Duration, Instant};

use super::ENDING_MAX;
use super::exit::Exit;

/// How long a driver may take to end after it was asked to.
pub const DRIVER_GRACE: Duration = Duration::from_secs(3);
/// How long a killed driver may take to be gone.
const DRIVER_KILLED: Duration = Duration::from_secs(1);
/// How long the scheduler may take to see all workers and clients off.
pub const CLUSTER_GRACE: Duration = Duration::from_secs(4);

/// The least time for `MPI_Finalize`.
const FINALIZE_MIN: Duration = Duration::from_secs(1);

const SIGINT: i32 = 2;

/// Something rank 0 has heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A signal that ends the process, such as SIGINT or SIGTERM.
    Signal(i32),
    /// A signal that is the driver's business: SIGUSR1 or SIGUSR2.
    Forward(i32),
    /// The driver is over, with this code.
    DriverEnded(i32),
    /// The last worker of a cluster that gets no others has died.
    WorkersLost,
    /// The scheduler is over.
    ClusterEnded {
        /// The code that it was stopped with.
        code: i32,
        /// Why.
        reason: String,
    },
}

/// Something rank 0 does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Remove the connection file, so that no client tries to come any more.
    CloseDoor,
    /// Hand this signal to the driver.
    SignalDriver(i32),
    /// Ask the driver to end.
    EndDriver,
    /// End the driver and all it has started.
    KillDriver,
    /// Tell the scheduler to end all ranks with this code.
    StopCluster {
        /// For every rank.
        code: i32,
        /// Logged everywhere, told to clients.
        reason: String,
    },
    /// The process is over.
    Leave {
        /// Its exit code.
        code: i32,
        /// Whether there is time to end in order.
        manner: Manner,
    },
}

/// How a process leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// With `MPI_Finalize`.
    InOrder {
        /// How long that may take.
        within: Duration,
    },
    /// Without waiting for anyone.
    AtOnce,
}

/// Whether rank 0 has a driver beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverState {
    /// None, or not any more.
    Absent,
    /// It runs.
    Running,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    EndingDriver(Instant),
    KillingDriver(Instant),
    StoppingCluster(Instant),
    Over,
}

/// The ending of one cluster.
#[derive(Debug)]
pub struct Ending {
    phase: Phase,
    driver: DriverState,
    cluster_over: bool,
    verdict: Option<(i32, String)>,
    began: Option<Instant>,
}

impl Ending {
    /// A cluster that runs, with or without a driver.
    pub fn new(driver: DriverState) -> Self {
        Self { phase: Phase::Running, driver, cluster_over: false, verdict: None, began: None }
    }

    /// The exit code, once something has decided it.
    pub fn code(&self) -> Option<i32> {
        self.verdict.as_ref().map(|(code, _)| *code)
    }

    /// When [`Ending::passed`] is due, if at all.
    pub fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::EndingDriver(at) | Phase::KillingDriver(at) | Phase::StoppingCluster(at) => Some(at),
            Phase::Running | Phase::Over => None,
        }
    }

    /// Books one notice; the steps are to be taken in order.
    pub fn hear(&mut self, now: Instant, notice: Notice) -> Vec<Step> {
        match notice {
            Notice::Forward(number) if self.driver == DriverState::Running => {
                vec![Step::SignalDriver(number)]
            }
            Notice::Forward(_) => Vec::new(),
            Notice::Signal(SIGINT) if self.phase != Phase::Running => self.leave(Manner::AtOnce),
            Notice::Signal(number) => {
                self.decide(now, Exit::Signal(number).code(), format!("ended by signal {number}"));
                self.begin(now)
            }
            // In an ending the workers go one by one, and that is no loss.
            Notice::WorkersLost if self.phase != Phase::Running => Vec::new(),
            Notice::WorkersLost => {
                self.decide(now, Exit::WorkersLost.code(), "all workers have died".to_owned());
                self.begin(now)
            }
            Notice::DriverEnded(code) => {
                self.driver = DriverState::Absent;
                self.decide(now, code, format!("the driver ended with code {code}"));
                if matches!(self.phase, Phase::StoppingCluster(_) | Phase::Over) {
                    return Vec::new();
                }
                self.stop_cluster(now)
            }
            Notice::ClusterEnded { code, reason } => {
                self.cluster_over = true;
                self.decide(now, code, reason);
                match self.phase {
                    Phase::Running => self.begin(now),
                    Phase::StoppingCluster(_) => self.leave(self.in_order(now)),
                    Phase::EndingDriver(_) | Phase::KillingDriver(_) | Phase::Over => Vec::new(),
                }
            }
        }
    }

    /// The deadline has passed.
    pub fn passed(&mut self, now: Instant) -> Vec<Step> {
        match self.phase {
            Phase::EndingDriver(_) => {
                self.phase = Phase::KillingDriver(now + DRIVER_KILLED);
                vec![Step::KillDriver]
            }
            Phase::KillingDriver(_) => {
                self.driver = DriverState::Absent;
                self.stop_cluster(now)
            }
            Phase::StoppingCluster(_) => self.leave(Manner::AtOnce),
            Phase::Running | Phase::Over => Vec::new(),
        }
    }

    fn begin(&mut self, now: Instant) -> Vec<Step> {
        if self.phase != Phase::Running {
            return Vec::new();
        }
        match self.driver {
            DriverState::Running => {
                self.phase = Phase::EndingDriver(now + DRIVER_GRACE);
                vec![Step::EndDriver]
            }
            DriverState::Absent => self.stop_cluster(now),
        }
    }

    fn stop_cluster(&mut self, now: Instant) -> Vec<Step> {
        if self.cluster_over {
            return self.leave(self.in_order(now));
        }
        self.phase = Phase::StoppingCluster(now + CLUSTER_GRACE);
        let (code, reason) = self.verdict();
        vec![Step::CloseDoor, Step::StopCluster { code, reason }]
    }

    fn leave(&mut self, manner: Manner) -> Vec<Step> {
        if self.phase == Phase::Over {
            return Vec::new();
        }
        self.phase = Phase::Over;
        let (code, _) = self.verdict();
        let mut steps = Vec::new();
        if self.driver == DriverState::Running {
            steps.push(Step::KillDriver);
        }
        steps.push(Step::Leave { code, manner });
        steps
    }

    /// There is always a moment for it, and no more than the bound on the whole.
    fn in_order(&self, now: Instant) -> Manner {
        let spent = self.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        Manner::InOrder { within: ENDING_MAX.saturating_sub(spent).max(FINALIZE_MIN) }
    }

    /// The first cause counts.
    fn decide(&mut self, now: Instant, code: i32, reason: String) {
        self.began.get_or_insert(now);
        self.verdict.get_or_insert((code, reason));
    }

    fn verdict(&self) -> (i32, String) {
        self.verdict.clone().unwrap_or_else(|| (Exit::Internal.code(), "ended without a cause".to_owned()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn leave(code: i32) -> Step {
        Step::Leave { code, manner: Manner::InOrder { within: ENDING_MAX } }
    }

    fn ended(code: i32) -> Notice {
        Notice::ClusterEnded { code, reason: "stopped".to_owned() }
    }

    fn stops(steps: &[Step], expected: i32) -> bool {
        steps.iter().any(|step| matches!(step, Step::StopCluster { code, .. } if *code == expected))
    }

    #[test]
    fn the_drivers_code_ends_the_cluster() {
        let (now, mut ending) = (Instant::now(), Ending::new(DriverState::Running));
        assert!(stops(&ending.hear(now, Notice::DriverEnded(3)), 3));
        assert_eq!(ending.hear(now, ended(3)), [leave(3)]);
    }

    #[test]
    fn a_signal_ends_the_driver_first_and_then_the_cluster() {
        let (now, mut ending) = (Instant::now(), Ending::new(DriverState::Running));
        assert_eq!(ending.hear(now, Notice::Signal(15)), [Step::EndDriver]);
        assert!(stops(&ending.hear(now, Notice::DriverEnded(0)), 143), "the signal came first");
        assert_eq!(ending.hear(now, ended(143)), [leave(143)]);
    }

    #[test]
    fn a_driver_that_does_not_end_is_killed() {
        let (now, mut ending) = (Instant::now(), Ending::new(DriverState::Running));
        ending.hear(now, Notice::Signal(15));
        let at = ending.deadline().unwrap();
        assert_eq!(ending.passed(at), [Step::KillDriver]);
        assert!(stops(&ending.hear(at, Notice::DriverEnded(137)), 143));
    }

    #[test]
    fn a_scheduler_that_does_not_end_is_left() {
        let (now, mut ending) = (Instant::now(), Ending::new(DriverState::Absent));
        assert!(stops(&ending.hear(now, Notice::Signal(1)), 129));
        let at = ending.deadline().unwrap();
        assert_eq!(ending.passed(at), [Step::Leave { code: 129, manner: Manner::AtOnce }]);
    }

    #[test]
    fn a_stop_from_a_client_ends_the_driver_with_the_clients_code() {
        let (now, mut ending) = (Instant::now(), Ending::new(DriverState::Running));
        assert_eq!(ending.hear(now, ended(0)), [Step::EndDriver]);
        assert_eq!(ending.hear(now, Notice::DriverEnded(143)), [leave(0)]);
    }

    #[test]
    fn losing_every_worker_ends_the_cluster_and_leaving_workers_do_not() {
        let (now, mut ending) = (Instant::now(), Ending::new(DriverState::Absent));
        assert!(stops(&ending.hear(now, Notice::WorkersLost), Exit::WorkersLost.code()));
        let mut ending = Ending::new(DriverState::Running);
        ending.hear(now, Notice::DriverEnded(0));
        assert_eq!(ending.hear(now, Notice::WorkersLost), []);
        assert_eq!(ending.hear(now, ended(0)), [leave(0)]);
    }

    #[test]
    fn a_second_ctrl_c_ends_at_once() {
        let (now, mut ending) = (Instant::now(), Ending::new(DriverState::Running));
        ending.hear(now, Notice::Signal(2));
        let steps = ending.hear(now, Notice::Signal(2));
        assert_eq!(steps, [Step::KillDriver, Step::Leave { code: 130, manner: Manner::AtOnce }]);
    }

    #[test]
    fn the_worst_ending_stays_within_ten_seconds() {
        let (now, mut ending) = (Instant::now(), Ending::new(DriverState::Running));
        ending.hear(now, Notice::Signal(15));
        let mut at = now;
        while let Some(deadline) = ending.deadline() {
            at = deadline;
            ending.passed(at);
        }
        assert!(at - now < ENDING_MAX, "{:?}", at - now);
    }

    #[test]
    fn a_signal_for_the_driver_only_passes_through() {
        let (now, mut ending) = (Instant::now(), Ending::new(DriverState::Running));
        assert_eq!(ending.hear(now, Notice::Forward(10)), [Step::SignalDriver(10)]);
        assert_eq!(ending.deadline(), None);
        assert_eq!(Ending::new(DriverState::Absent).hear(now, Notice::Forward(10)), []);
    }
}
