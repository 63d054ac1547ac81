//! The contract that every lane keeps: what arrives is what was held, whatever its size and whatever else goes on.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::command::{Command, Lane, Sample};
use super::crew::{Crew, End};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Round sizes with their neighbours, and primes.
const ODD_SIZES: [u64; 21] = [
    0,
    1,
    63,
    64,
    65,
    4099,
    64 * KIB - 1,
    64 * KIB,
    64 * KIB + 1,
    99_991,
    256 * KIB - 1,
    256 * KIB,
    256 * KIB + 1,
    MIB - 1,
    MIB,
    MIB + 1,
    1_299_709,
    4 * MIB - 1,
    4 * MIB + 1,
    15_485_863,
    32 * MIB + 13,
];
/// More than a count of 31 bits can say.
const HUGE_BYTES: u64 = (3 << 30) + 17;
const QUICK_HUGE_BYTES: u64 = (64 << 20) + 17;
/// Values that are fetched at once.
const TOGETHER: u64 = 48;
/// Values that are fetched at once from both ends, and their buffers, each of which is a message of its own: together
/// many times what MPI is given at a time.
const TOWARDS_EACH_OTHER: u64 = 64;
const BUFFERS: usize = 8;
/// More than what libraries send before the other end receives.
const BUFFER_BYTES: u64 = 192 * KIB;
/// After how many microseconds a connection is closed that a value is fetched on.
const INTERRUPTIONS_US: [u64; 6] = [0, 100, 400, 1_500, 5_000, 20_000];
const INTERRUPTED_BYTES: u64 = 48 * MIB + 5;
/// After how many microseconds a rank dies that a value is fetched from.
const LOST_AFTER_US: [u64; 4] = [3_000, 15_000, 0, 40_000];
const LOST_BYTES: u64 = 192 * MIB + 7;

/// How one part of the contract was kept on one lane.
#[derive(Debug, Serialize)]
pub(super) struct Verdict {
    lane: &'static str,
    part: &'static str,
    /// What went wrong.
    fault: Option<String>,
}

impl Verdict {
    pub(super) fn is_good(&self) -> bool {
        self.fault.is_none()
    }
}

/// The verdicts, a line each.
pub(super) fn table(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for Verdict { lane, part, fault } in verdicts {
        let fault = fault.as_deref().unwrap_or("ok");
        let _ = writeln!(text, "{lane:4} {part:24} {fault}");
    }
    text
}

/// All parts of the contract on all lanes there are; with ranks that die only if they may.
pub(super) async fn run(crew: &mut Crew, quick: bool, lose_ranks: bool) -> anyhow::Result<Vec<Verdict>> {
    let mut verdicts = Vec::new();
    for lane in crew.lanes() {
        let mut trial = Trial { crew, lane, huge_bytes: if quick { QUICK_HUGE_BYTES } else { HUGE_BYTES } };
        let parts = [
            ("odd sizes", trial.odd_sizes().await),
            ("many buffers", trial.many_buffers().await),
            ("many at once", trial.many_at_once().await),
            ("both directions", trial.both_directions().await),
            ("closed half-way", trial.closed_half_way().await),
            ("more than 3 GiB", trial.huge().await),
        ];
        let verdict = |(part, kept): (&'static str, anyhow::Result<()>)| Verdict {
            lane: lane.name(),
            part,
            fault: kept.err().map(|error| format!("{error:#}")),
        };
        verdicts.extend(parts.into_iter().map(verdict));
    }
    // (Last, because MPI is not what it was when a rank is lost.)
    let victims = if lose_ranks { crew.victims() } else { 0 };
    for (number, lane) in crew.lanes().into_iter().cycle().take(victims).enumerate() {
        let mut trial = Trial { crew, lane, huge_bytes: 0 };
        let kept = trial.peer_lost(LOST_AFTER_US[number % LOST_AFTER_US.len()]).await;
        let fault = kept.err().map(|error| format!("{error:#}"));
        verdicts.push(Verdict { lane: lane.name(), part: "peer lost half-way", fault });
    }
    Ok(verdicts)
}

struct Trial<'a> {
    crew: &'a mut Crew,
    lane: Lane,
    huge_bytes: u64,
}

impl Trial<'_> {
    async fn odd_sizes(&mut self) -> anyhow::Result<()> {
        for (number, bytes) in ODD_SIZES.into_iter().enumerate() {
            self.moves(&Sample::of(number as u64, [bytes])).await?;
        }
        Ok(())
    }

    async fn many_buffers(&mut self) -> anyhow::Result<()> {
        let mixed = [0, 1, 63, 64 * KIB + 1, 0, 3, 1_000_003, 256 * KIB, 7, MIB + 1, 0];
        self.moves(&Sample::of(1, mixed)).await?;
        self.moves(&Sample::of(2, (0..2_000).map(|position| position % 131))).await
    }

    async fn many_at_once(&mut self) -> anyhow::Result<()> {
        let samples = samples(1);
        self.hold_all(End::Far, &samples).await?;
        let fetch = self.fetch_together(&samples, End::Far);
        self.crew.ask(End::Near, &fetch).await?;
        self.drop_all(End::Far, &samples).await
    }

    async fn both_directions(&mut self) -> anyhow::Result<()> {
        let (mut there, mut back) = (samples(1), samples(1_000));
        there.extend(in_pieces(2_000));
        back.extend(in_pieces(3_000));
        self.hold_all(End::Far, &back).await?;
        self.hold_all(End::Near, &there).await?;
        let near = self.fetch_together(&back, End::Far);
        let far = self.fetch_together(&there, End::Near);
        self.crew.ask_both(&near, &far).await?;
        self.drop_all(End::Far, &back).await?;
        self.drop_all(End::Near, &there).await
    }

    async fn closed_half_way(&mut self) -> anyhow::Result<()> {
        let sample = Sample::of(1, [INTERRUPTED_BYTES]);
        self.crew.hold(End::Far, &sample).await?;
        for after_us in INTERRUPTIONS_US {
            let (sample, holder, lane) = (sample.clone(), self.crew.holder(End::Far), self.lane);
            let interrupt = Command::Interrupt { sample, holder, lane, after_us };
            self.crew.ask(End::Near, &interrupt).await?;
        }
        self.crew.drop_value(End::Far, &sample).await
    }

    /// A rank dies while its value is fetched: what came is right, what did not come is said, and values of others come.
    async fn peer_lost(&mut self, after_us: u64) -> anyhow::Result<()> {
        let sample = Sample::of(1, [LOST_BYTES]);
        self.crew.lose_one(&sample, self.lane, Duration::from_micros(after_us)).await?;
        self.moves(&Sample::of(2, [INTERRUPTED_BYTES])).await
    }

    async fn huge(&mut self) -> anyhow::Result<()> {
        let bytes = self.huge_bytes;
        self.moves(&Sample::of(1, [bytes])).await
    }

    /// A value arrives as it was held, on the lane that was asked for if it is large enough for one.
    async fn moves(&mut self, sample: &Sample) -> anyhow::Result<()> {
        self.crew.hold(End::Far, sample).await?;
        let (holder, lane) = (self.crew.holder(End::Far), self.lane);
        let fetch = Command::Fetch { sample: sample.clone(), holder, lane, times: 1 };
        self.crew.ask(End::Near, &fetch).await?;
        self.crew.drop_value(End::Far, sample).await
    }

    fn fetch_together(&self, samples: &[Sample], from: End) -> Command {
        Command::FetchTogether { samples: samples.to_vec(), holder: self.crew.holder(from), lane: self.lane }
    }

    async fn hold_all(&mut self, end: End, samples: &[Sample]) -> anyhow::Result<()> {
        for sample in samples {
            self.crew.hold(end, sample).await?;
        }
        Ok(())
    }

    async fn drop_all(&mut self, end: End, samples: &[Sample]) -> anyhow::Result<()> {
        for sample in samples {
            self.crew.drop_value(end, sample).await?;
        }
        Ok(())
    }
}

/// Values of all kinds of sizes, named from `first` on.
fn samples(first: u64) -> Vec<Sample> {
    let bytes = |number: u64| match number % 4 {
        0 => number * 31,
        1 => 64 * KIB + number,
        2 => 256 * KIB * (number % 5) + 1,
        _ => MIB + number * 4_099,
    };
    (0..TOGETHER).map(|number| Sample::of(first + number, [bytes(number), number % 3])).collect()
}

/// Values of many messages each, named from `first` on.
fn in_pieces(first: u64) -> impl Iterator<Item = Sample> {
    let value = move |number| Sample::of(first + number, [BUFFER_BYTES + number; BUFFERS]);
    (0..TOWARDS_EACH_OTHER).map(value)
}
