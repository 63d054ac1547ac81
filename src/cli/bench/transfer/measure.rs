//! Latency and bandwidth of each lane, beside those of MPI alone.
//!
//! The baseline is what a program of blocking calls would do for the same: one rank asks for a message with a byte, the
//! other sends it, out of and into memory that is used again each time. A lane is measured as a worker uses it: from the
//! moment that the value is asked for until it lies in memory here, agreement over TCP included, one value after the
//! other; its memory is used again, too. Both touch as much of it, of the same kind (as aligned, with pages as large).
//!
//! The memory of some machines is twice as fast at one moment as at the next. So baseline and lanes take turns of a few
//! values; a fraction is the median of those of the turns. The first value of a turn, which finds the caches full of
//! something else, and the first repetition are not counted.

use anyhow::bail;

use super::super::{Figure, median};
use super::command::{Command, Lane, Reply, Sample};
use super::crew::{Crew, End};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Sizes of values, in bytes.
const FULL: [u64; 13] = [
    1,
    64,
    KIB,
    16 * KIB,
    64 * KIB,
    128 * KIB,
    256 * KIB,
    MIB,
    4 * MIB,
    16 * MIB,
    64 * MIB,
    256 * MIB,
    1 << 30,
];
const QUICK: [u64; 5] = [1, 64 * KIB, 256 * KIB, 4 * MIB, 64 * MIB];
/// From this size on bandwidth says more than time.
const BANDWIDTH_BYTES_MIN: u64 = 128 * KIB;
/// The size whose bandwidth stands for that of a lane.
const STREAM_BYTES: u64 = 64 * MIB;
/// How many turns a repetition has, and how much is moved in it by each, at most; small values have all turns.
const TURNS_MAX: u64 = 8;
const REPETITION_BYTES: u64 = 512 * MIB;
/// How much is moved in a turn, and in how many values at most.
const TURN_BYTES: u64 = 16 * MIB;
const TURN_VALUES_MAX: u64 = 5;

/// The seconds of a value, in one turn or in the middle of a repetition.
struct Turn {
    raw: Option<f64>,
    lanes: Vec<f64>,
    /// The fraction of the baseline's speed that the lane of MPI has.
    mpi_fraction: Option<f64>,
    /// CPU time of both main threads for a GiB on that lane.
    mpi_cpu: f64,
}

/// All figures of the suite.
pub(super) async fn run(crew: &mut Crew, repeat: usize, quick: bool) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let lanes = crew.lanes();
    for (number, &bytes) in (if quick { &QUICK[..] } else { &FULL }).iter().enumerate() {
        let sample = Sample::of(number as u64, [bytes]);
        crew.hold(End::Far, &sample).await?;
        let mut repetitions = Vec::new();
        for _ in 0..=repeat {
            repetitions.push(repetition(crew, &lanes, &sample).await?);
        }
        // The first is the warm-up.
        repetitions.remove(0);
        crew.drop_value(End::Far, &sample).await?;
        figures.extend(figures_of(&lanes, bytes, &repetitions));
    }
    Ok(figures)
}

async fn repetition(crew: &mut Crew, lanes: &[Lane], sample: &Sample) -> anyhow::Result<Turn> {
    let mut turns = Vec::new();
    for _ in 0..(REPETITION_BYTES / sample.bytes()).clamp(1, TURNS_MAX) {
        turns.push(turn(crew, lanes, sample).await?);
    }
    let of_lane = |position: usize| median(turns.iter().map(|turn| turn.lanes[position]).collect());
    let medians = |of: fn(&Turn) -> Option<f64>| turns.iter().map(of).collect::<Option<Vec<_>>>().map(median);
    Ok(Turn {
        raw: medians(|turn| turn.raw),
        lanes: (0..lanes.len()).map(of_lane).collect(),
        mpi_fraction: medians(|turn| turn.mpi_fraction),
        mpi_cpu: median(turns.iter().map(|turn| turn.mpi_cpu).collect()),
    })
}

async fn turn(crew: &mut Crew, lanes: &[Lane], sample: &Sample) -> anyhow::Result<Turn> {
    let bytes = sample.bytes();
    // (And one for the caches.)
    let times = (TURN_BYTES / bytes).clamp(1, TURN_VALUES_MAX) as u32 + 1;
    let (near, far) = (crew.holder(End::Near).rank, crew.holder(End::Far).rank);
    let mut turn = Turn { raw: None, lanes: Vec::new(), mpi_fraction: None, mpi_cpu: 0.0 };
    if crew.has_mpi() {
        let ask = Command::Ask { peer: far, bytes, times };
        let answer = Command::Answer { peer: near, bytes, times };
        turn.raw = Some(of_turn(crew.ask_both(&ask, &answer).await?.0)?);
    }
    for &lane in lanes {
        let before = cpu_seconds(crew).await?;
        let fetch = Command::Fetch { sample: sample.clone(), holder: crew.holder(End::Far), lane, times };
        let seconds = of_turn(crew.ask(End::Near, &fetch).await?)?;
        turn.lanes.push(seconds);
        if lane == Lane::Mpi {
            let gib = (bytes * u64::from(times)) as f64 / (1u64 << 30) as f64;
            turn.mpi_cpu = (cpu_seconds(crew).await? - before) / gib;
            turn.mpi_fraction = turn.raw.map(|raw| raw / seconds);
        }
    }
    Ok(turn)
}

/// The median of the values that count.
fn of_turn(reply: Reply) -> anyhow::Result<f64> {
    let mut seconds = seconds(reply)?;
    seconds.remove(0);
    Ok(median(seconds))
}

/// CPU time of both main threads.
async fn cpu_seconds(crew: &mut Crew) -> anyhow::Result<f64> {
    let (near, far) = crew.ask_both(&Command::CpuTime, &Command::CpuTime).await?;
    Ok(seconds(near)?[0] + seconds(far)?[0])
}

fn figures_of(lanes: &[Lane], bytes: u64, repetitions: &[Turn]) -> Vec<Figure> {
    let size = size_name(bytes);
    let mut figures = Vec::new();
    let raw: Option<Vec<f64>> = repetitions.iter().map(|repetition| repetition.raw).collect();
    figures.extend(raw.map(|raw| speed("raw_mpi", bytes, raw)));
    for (position, lane) in lanes.iter().enumerate() {
        let of_lane = |repetition: &Turn| repetition.lanes[position];
        if *lane == Lane::Shm {
            // Nothing is moved, so there is no bandwidth.
            let times = repetitions.iter().map(|repetition| of_lane(repetition) * 1e3).collect();
            if lane.for_value(bytes) == Lane::Shm {
                figures.push(Figure::of(format!("shm_map_{size}_ms"), "ms", times));
            }
            continue;
        }
        figures.push(speed(lane.name(), bytes, repetitions.iter().map(of_lane).collect()));
        if *lane == Lane::Tcp && bytes == STREAM_BYTES {
            let rates = repetitions.iter().map(|repetition| rate(bytes, of_lane(repetition))).collect();
            figures.push(Figure::of("tcp_lane_gib_per_s", "GiB/s", rates));
        }
        if *lane == Lane::Mpi && bytes >= BANDWIDTH_BYTES_MIN {
            let fractions = repetitions.iter().filter_map(|repetition| repetition.mpi_fraction).collect();
            figures.push(Figure::of(format!("mpi_lane_fraction_{size}"), "", fractions));
        }
        if *lane == Lane::Mpi && bytes == STREAM_BYTES {
            let spent = repetitions.iter().map(|repetition| repetition.mpi_cpu).collect();
            figures.push(Figure::of("progress_cpu_s_per_gib", "s/GiB", spent));
        }
    }
    figures
}

/// Time of small values, bandwidth of large ones.
fn speed(name: &str, bytes: u64, seconds: Vec<f64>) -> Figure {
    let size = size_name(bytes);
    match bytes {
        BANDWIDTH_BYTES_MIN.. => {
            let rates = seconds.into_iter().map(|seconds| rate(bytes, seconds)).collect();
            Figure::of(format!("{name}_{size}_gib_per_s"), "GiB/s", rates)
        }
        _ => {
            let times = seconds.into_iter().map(|seconds| seconds * 1e6).collect();
            Figure::of(format!("{name}_{size}_us"), "us", times)
        }
    }
}

fn rate(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / seconds / (1u64 << 30) as f64
}

fn size_name(bytes: u64) -> String {
    match bytes {
        0..KIB => format!("{bytes}b"),
        KIB..MIB => format!("{}kib", bytes / KIB),
        _ => format!("{}mib", bytes / MIB),
    }
}

fn seconds(reply: Reply) -> anyhow::Result<Vec<f64>> {
    match reply {
        Reply::Took { seconds, .. } => Ok(seconds),
        other => bail!("a rank answered {other:?}"),
    }
}
