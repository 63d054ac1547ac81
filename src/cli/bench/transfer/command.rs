//! What rank 0 has the other ranks do, and the values that they hold.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::model::buffer::{AlignedBuffer, BULK_BYTES_MIN};
use crate::model::{Packed, TaskId};
use crate::transport::data::LaneKind;
use crate::wire::frame::{self, Frame};
use crate::wire::peer::HostKey;

/// The opcode of every message here; commands and replies alternate.
const OPCODE: u8 = 1;
/// Values repeat after so many bytes: a prime, so that no chunk of a value equals another.
const PERIOD_BYTES: usize = 1_048_573;

/// A lane, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Lane {
    Tcp,
    Mpi,
    Shm,
}

impl Lane {
    /// Every lane that a value can be asked for on.
    pub(super) const ALL: [Self; 3] = [Self::Mpi, Self::Tcp, Self::Shm];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Mpi => "mpi",
            Self::Shm => "shm",
        }
    }

    pub(super) fn is(self, kind: LaneKind) -> bool {
        matches!(
            (self, kind),
            (Self::Tcp, LaneKind::Tcp) | (Self::Mpi, LaneKind::Mpi) | (Self::Shm, LaneKind::Shm)
        )
    }

    /// What a value takes that is asked for on this one: small values come over TCP.
    pub(super) fn for_value(self, bytes: u64) -> Self {
        let bytes_min = match self {
            Self::Tcp => 0,
            Self::Mpi => (64 << 10) + 1,
            Self::Shm => BULK_BYTES_MIN as u64,
        };
        if bytes >= bytes_min { self } else { Self::Tcp }
    }
}

/// A value whose content follows from its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sample {
    pub(super) task: u64,
    /// The lengths of its buffers.
    pub(super) buffers_bytes: Vec<u64>,
}

/// How the rank that fetches finds the one that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    /// Its data port.
    pub(super) address: String,
    pub(super) rank: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Command {
    /// Make this value and keep it.
    Hold(Sample),
    /// Forget it.
    Drop { task: u64 },
    /// Fetch it so many times, one after the other, and look at the last copy.
    Fetch { sample: Sample, holder: Holder, lane: Lane, times: u32 },
    /// Fetch all of these at once, and look at each.
    FetchTogether { samples: Vec<Sample>, holder: Holder, lane: Lane },
    /// Begin to fetch it, and give up after so long; then fetch it for good, and look at it.
    Interrupt { sample: Sample, holder: Holder, lane: Lane, after_us: u64 },
    /// Fetch it from a rank that may die meanwhile, and look at what came if anything did.
    FetchFromDying { sample: Sample, holder: Holder, lane: Lane },
    /// Die without a word.
    Die,
    /// Ask for a message of so many bytes and receive it, with blocking calls of MPI.
    Ask { peer: u32, bytes: u64, times: u32 },
    /// The other end of that.
    Answer { peer: u32, bytes: u64, times: u32 },
    /// How long has the main thread worked?
    CpuTime,
    /// Leave, without MPI if a rank was lost.
    End { all_there: bool },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The first word of a rank.
    Ready {
        holder: Holder,
        has_mpi: bool,
        /// Where its memory can be mapped.
        host: Option<HostKey>,
    },
    Done,
    /// What each took.
    Took {
        seconds: Vec<f64>,
    },
    /// It did not work.
    Failed(String),
}

pub(super) fn append<T: Serialize>(message: &T, out: &mut Vec<u8>) -> anyhow::Result<()> {
    let bytes = rmp_serde::to_vec(message)?;
    frame::append(out, OPCODE, |out| out.extend_from_slice(&bytes));
    Ok(())
}

pub(super) fn read<T: DeserializeOwned>(frame: &Frame) -> anyhow::Result<T> {
    Ok(rmp_serde::from_slice(&frame.body)?)
}

impl Sample {
    pub(super) fn of(task: u64, buffers_bytes: impl IntoIterator<Item = u64>) -> Self {
        Self { task, buffers_bytes: buffers_bytes.into_iter().collect() }
    }

    pub(super) fn id(&self) -> TaskId {
        TaskId(self.task)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.buffers_bytes.iter().sum()
    }

    pub(super) fn make(&self) -> Packed {
        let buffer = |(position, bytes): (usize, &u64)| {
            let (pattern, mut left) = (self.pattern(position), *bytes as usize);
            let mut buffer = AlignedBuffer::with_capacity(left);
            while left > 0 {
                let length = left.min(PERIOD_BYTES);
                buffer.extend(&pattern[..length]);
                left -= length;
            }
            buffer.freeze()
        };
        let buffers = self.buffers_bytes.iter().enumerate().map(buffer).collect();
        Packed { head: Default::default(), buffers }
    }

    /// Whether this is what [`make`](Self::make) made.
    pub(super) fn is(&self, packed: &Packed) -> bool {
        let lengths = packed.buffers.iter().map(|buffer| buffer.len() as u64);
        lengths.eq(self.buffers_bytes.iter().copied())
            && packed.buffers.iter().enumerate().all(|(position, buffer)| {
                let pattern = self.pattern(position);
                buffer.chunks(PERIOD_BYTES).all(|chunk| *chunk == pattern[..chunk.len()])
            })
    }

    fn pattern(&self, position: usize) -> Vec<u8> {
        let length = PERIOD_BYTES.min(self.buffers_bytes[position] as usize);
        let mut state = self.task.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ position as u64 | 1;
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_by_its_content() {
        let sample = Sample::of(7, [0, 1, 3_000_001]);
        let good = sample.make();
        assert!(sample.is(&good));
        assert!(!Sample::of(8, [0, 1, 3_000_001]).is(&good), "another value");
        let mut swapped = good.buffers[2].to_vec();
        let (low, high) = swapped.split_at_mut(1 << 20);
        low.swap_with_slice(&mut high[..1 << 20]);
        let buffers = vec![good.buffers[0].clone(), good.buffers[1].clone(), swapped.into()];
        assert!(
            !sample.is(&Packed { head: Default::default(), buffers }),
            "two chunks in each other's place"
        );
    }
}
