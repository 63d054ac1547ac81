//! What a seed is about: how much of everything, how often it fails, and what there is to compute.

use super::random::Random;
use super::workload::{Catalogue, Mix, SHAPES, Shape};

/// One of so many seeds has tasks that follow others and whose fetches fail, so that they are given back and sent
/// again: chance alone hardly ever comes to that.
const IN_VAIN_STRIDE: u64 = 8;
/// Entries of such a seed's catalogue.
const IN_VAIN_ENTRIES_MIN: u64 = 40;

/// No value has more bits than this.
const VALUE_LOG2_MAX: u32 = 28;

/// How much of what there is.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) workers: u64,
    pub(crate) threads_max: u64,
    pub(crate) clients: u64,
    pub(crate) calm_at_us: u64,
    pub(crate) actions_max: u64,
    /// Of 100 futures that are done, so many are given back at once.
    pub(crate) turnover_percent: u64,
    pub(crate) leaves: u64,
    /// Of 100 fetches, so many fail for no reason.
    pub(crate) flaky_percent: u64,
    pub(crate) mail_us_max: u64,
    /// What a worker may use; 0 for all there is.
    pub(crate) memory_bytes_max: u64,
    /// The largest value has so many bits.
    pub(crate) large_log2_max: u64,
    /// How long a client's value waits for room.
    pub(crate) put_patience_us: u64,
    /// Of 100 values that are spilled, so many find a full disk.
    pub(crate) full_percent: u64,
    /// Of 100 values that are read from disk, so many are damaged.
    pub(crate) damaged_percent: u64,
    /// Whether tasks that follow others fetch much in vain.
    is_in_vain: bool,
}

impl Plan {
    pub(crate) fn new(seed: u64, random: &mut Random) -> Self {
        let workers = match random.below(1000) {
            0..600 => random.between(1, 3),
            600..900 => random.between(4, 10),
            900..980 => random.between(11, 50),
            980..997 => random.between(51, 200),
            _ => 1000,
        };
        let is_faulty = random.chance(70);
        let memory_bytes_max: u64 = random.pick(&[0, 1 << 14, 1 << 20, 1 << 26, 1 << 29]);
        let fits_log2_max = u64::from(memory_bytes_max.checked_ilog2().unwrap_or(VALUE_LOG2_MAX));
        let plan = Self {
            workers,
            threads_max: random.pick(&[1, 2, 8]),
            clients: random.between(1, 4),
            calm_at_us: random.pick(&[20_000, 50_000, 200_000]),
            actions_max: random.pick(&[20, 200, 400]),
            turnover_percent: random.pick(&[0, 30, 90]),
            leaves: if is_faulty { random.pick(&[1, 3, 10, 30]) + workers / 8 } else { 0 },
            flaky_percent: if is_faulty { random.pick(&[0, 0, 5]) } else { 0 },
            mail_us_max: random.pick(&[1, 100, 2000]),
            memory_bytes_max,
            large_log2_max: if random.chance(20) {
                u64::from(VALUE_LOG2_MAX)
            } else {
                fits_log2_max.min(VALUE_LOG2_MAX.into())
            },
            put_patience_us: random.pick(&[1_000, 5_000_000]),
            full_percent: if is_faulty { random.pick(&[0, 0, 20, 100]) } else { 0 },
            damaged_percent: if is_faulty { random.pick(&[0, 0, 10]) } else { 0 },
            is_in_vain: seed % IN_VAIN_STRIDE == IN_VAIN_STRIDE - 1,
        };
        if plan.is_in_vain { plan.in_vain() } else { plan }
    }

    /// With few workers, which have memory enough, and fetches that fail, of which all hear soon.
    fn in_vain(self) -> Self {
        Self {
            workers: self.workers.clamp(2, 4),
            turnover_percent: 0,
            flaky_percent: 30,
            mail_us_max: 100,
            memory_bytes_max: 0,
            ..self
        }
    }

    /// What there is to compute.
    pub(crate) fn catalogue(&self, random: &mut Random) -> Catalogue {
        let len = match random.below(10) {
            0..3 => random.between(1, 6),
            3..7 => random.between(5, 30),
            7..9 => random.between(30, 100),
            _ => random.between(100, 400),
        };
        let trouble = random.pick(&[0, 0, 5, 20]);
        let mix = Mix {
            trouble_percent: trouble,
            scattered_percent: random.pick(&[0, 20, 80]),
            large_percent: random.pick(&[0, 50, 100]),
            bound_percent: random.pick(&[0, 0, 10, 60]),
            large_log2_max: self.large_log2_max,
            workers: self.workers,
            duration_log2_min: 0,
            shapes: SHAPES,
        };
        match self.is_in_vain {
            true => Catalogue::new(random, len.max(IN_VAIN_ENTRIES_MIN) as usize, &mix.in_vain()),
            false => Catalogue::new(random, len as usize, &mix),
        }
    }
}

impl Mix {
    /// With chains of long calls, each of which takes a value besides that was mostly scattered.
    fn in_vain(self) -> Self {
        Self {
            trouble_percent: 0,
            scattered_percent: 80,
            bound_percent: 0,
            duration_log2_min: 11,
            shapes: &[Shape::Ladder],
            ..self
        }
    }
}
