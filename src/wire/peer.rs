//! Messages on a data port: a value is asked for, or handed over.
//!
//! ```text
//! Fetch{task, offers} ───────► Value{shape} Chunk… | OnOffer | Mapping | NotHere | Refused
//! Mapped{lease} ─────────────► (no answer)
//! Put{task, shape} Chunk… ───► Stored | Refused
//! ```
//!
//! Who fetches may offer other lanes to receive on. The other end takes one up or none: with `Mapping` it says where in
//! its memory the value lies, which stays there until `Mapped` comes or the connection ends; with `OnOffer` it sends the
//! same parts over MPI, after an [`Opening`] that says what they are; or the value comes here. Who has posted the receive
//! of an opening gets one in any case; the value may be there before the `OnOffer`.
//!
//! Requests are answered in their order, and may be sent before earlier ones are answered. Who takes long to answer a
//! `Fetch` says `Busy` now and then, so that silence means that it is gone. A value is its
//! [`Shape`], then its head and its buffers in chunks of at most [`CHUNK_BYTES_MAX`]; a chunk never spans two of
//! them. [`crate::transport::data`] moves the bytes.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::batch::decode;
use super::{WireError, frame};
use crate::model::{Packed, TaskId};

/// The longest body of a chunk, in bytes.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

const FETCH: u8 = 129;
const PUT: u8 = 130;
const VALUE: u8 = 161;
/// The opcode of a chunk; its body is bytes of the value and nothing else.
pub const CHUNK: u8 = 162;
const NOT_HERE: u8 = 163;
const STORED: u8 = 164;
const REFUSED: u8 = 165;
const ON_OFFER: u8 = 166;
const MAPPED: u8 = 131;
const MAPPING: u8 = 167;
const BUSY: u8 = 168;

/// The lengths of the parts of a packed value, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Of its head.
    pub head_bytes: u64,
    /// Of each buffer.
    pub buffers_bytes: Vec<u64>,
}

impl Shape {
    /// The shape of a value.
    pub fn of(packed: &Packed) -> Self {
        Self {
            head_bytes: packed.head.len() as u64,
            buffers_bytes: packed.buffers.iter().map(|buffer| buffer.len() as u64).collect(),
        }
    }

    /// All its bytes; `None` if the sum is more than a number can tell.
    pub fn bytes(&self) -> Option<u64> {
        self.buffers_bytes.iter().try_fold(self.head_bytes, |sum, bytes| sum.checked_add(*bytes))
    }
}

/// The lanes beside this connection on which the fetching end can receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Offers {
    /// The memory of one host: where the fetching end is.
    pub shm: Option<HostKey>,
    /// MPI, in the world of the launch.
    pub mpi: Option<MpiEnd>,
    /// Whether it is to be refused if it cannot be mapped in the memory of the value itself.
    pub only_lent: bool,
}

/// Who receives over MPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MpiEnd {
    /// Its rank.
    pub rank: u32,
    /// With which tag.
    pub tag: u16,
    /// Whether it has posted the receive of an [`Opening`], and wants one even if the value does not come there.
    pub is_posted: bool,
}

/// The first message with a tag; what it tells of follows with the same tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Opening {
    /// Nothing follows.
    Declined,
    /// A value.
    Value {
        /// What it is made of.
        shape: Shape,
        /// Its head, if that is small; otherwise it follows like the buffers, and before them.
        head: Option<ByteBuf>,
    },
}

impl Opening {
    /// The longest message, in bytes.
    pub const BYTES_MAX: usize = 16 << 10;
    /// The longest head in it, in bytes.
    const HEAD_BYTES_MAX: usize = 4 << 10;

    /// The opening of a value.
    pub fn of(packed: &Packed) -> Self {
        let is_small = packed.head.len() <= Self::HEAD_BYTES_MAX;
        let head = is_small.then(|| ByteBuf::from(packed.head.to_vec()));
        Self::Value { shape: Shape::of(packed), head }
    }

    /// The message; None if it would be too long, for a value of very many parts.
    pub fn message(&self) -> Option<Vec<u8>> {
        let message = rmp_serde::to_vec(self).expect("our own messages serialise");
        (message.len() <= Self::BYTES_MAX).then_some(message)
    }

    /// Reads a message, behind which there may be anything.
    pub fn read(message: &[u8]) -> Result<Self, WireError> {
        decode("opening", message)
    }
}

/// Names a host, or the part of one whose processes can find each other's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKey(pub u64);

/// Where a packed value lies in the memory of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// The process.
    pub pid: u32,
    /// What to say when it is mapped, or will not be.
    pub lease: u64,
    /// Its head.
    #[serde(with = "serde_bytes")]
    pub head: Vec<u8>,
    /// Its buffers.
    pub buffers: Vec<BufferPart>,
}

/// One buffer of a [`Mapping`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BufferPart {
    /// A small one: here it is.
    Inline(ByteBuf),
    /// A large one.
    Segment(SegmentPart),
}

impl BufferPart {
    /// Where it lies, if it is large.
    pub fn segment(&self) -> Option<SegmentPart> {
        match self {
            Self::Inline(_) => None,
            Self::Segment(part) => Some(*part),
        }
    }
}

/// Bytes in a file that a process has open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentPart {
    /// The file.
    pub file: FileName,
    /// Where in the file the bytes begin.
    pub offset: u64,
    /// How many they are.
    pub bytes: u64,
}

/// Names a file by the process that has it open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FileName {
    /// The descriptor in that process.
    pub fd: i32,
    /// The device of the file.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
}

/// What the connecting end asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerRequest {
    /// Send a value.
    Fetch {
        /// Its name.
        task: TaskId,
        /// How else it may come.
        offers: Offers,
    },
    /// What a [`Mapping`] told of is mapped, or will not be.
    Mapped {
        /// Its lease.
        lease: u64,
    },
    /// Take a value, whose chunks follow.
    Put {
        /// Its name.
        task: TaskId,
        /// What follows.
        shape: Shape,
    },
}

/// What the accepting end answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerReply {
    /// Here it is: its chunks follow.
    Value {
        /// What follows.
        shape: Shape,
    },
    /// It lies there, to be mapped.
    Mapping(Mapping),
    /// The offer of MPI is taken: it comes there.
    OnOffer,
    /// The answer takes a while: there is no room to pack the value yet, or it comes from a disk.
    Busy,
    /// The value is not here.
    NotHere,
    /// The value was taken.
    Stored,
    /// The value was not taken, or cannot be sent.
    Refused {
        /// Why, for people.
        reason: String,
    },
}

impl PeerRequest {
    /// Appends its frame.
    pub fn append(&self, out: &mut Vec<u8>) {
        match self {
            Self::Fetch { task, offers } => append(out, FETCH, &(task, offers)),
            Self::Mapped { lease } => append(out, MAPPED, lease),
            Self::Put { task, shape } => append(out, PUT, &(task, shape)),
        }
    }

    /// Reads a frame.
    pub fn read(opcode: u8, body: &[u8]) -> Result<Self, WireError> {
        Ok(match opcode {
            FETCH => {
                let (task, offers) = decode("fetch", body)?;
                Self::Fetch { task, offers }
            }
            MAPPED => Self::Mapped { lease: decode("mapped", body)? },
            PUT => {
                let (task, shape) = decode("put", body)?;
                Self::Put { task, shape }
            }
            other => return Err(WireError::UnknownOpcode(other)),
        })
    }
}

impl PeerReply {
    /// Appends its frame.
    pub fn append(&self, out: &mut Vec<u8>) {
        match self {
            Self::Value { shape } => append(out, VALUE, shape),
            Self::Mapping(mapping) => append(out, MAPPING, mapping),
            Self::OnOffer => append(out, ON_OFFER, &()),
            Self::Busy => append(out, BUSY, &()),
            Self::NotHere => append(out, NOT_HERE, &()),
            Self::Stored => append(out, STORED, &()),
            Self::Refused { reason } => append(out, REFUSED, reason),
        }
    }

    /// Reads a frame.
    pub fn read(opcode: u8, body: &[u8]) -> Result<Self, WireError> {
        Ok(match opcode {
            VALUE => Self::Value { shape: decode("value", body)? },
            MAPPING => Self::Mapping(decode("mapping", body)?),
            ON_OFFER => Self::OnOffer,
            BUSY => Self::Busy,
            NOT_HERE => Self::NotHere,
            STORED => Self::Stored,
            REFUSED => Self::Refused { reason: decode("refused", body)? },
            other => return Err(WireError::UnknownOpcode(other)),
        })
    }
}

fn append<T: Serialize>(out: &mut Vec<u8>, opcode: u8, body: &T) {
    frame::append(out, opcode, |out| {
        rmp_serde::encode::write(out, body).expect("our own messages serialise, and memory takes them");
    });
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape() -> impl Strategy<Value = Shape> {
        (any::<u64>(), prop::collection::vec(any::<u64>(), 0..4))
            .prop_map(|(head_bytes, buffers_bytes)| Shape { head_bytes, buffers_bytes })
    }

    fn split(frame: &[u8]) -> (u8, &[u8]) {
        (frame[4], &frame[frame::HEADER_BYTES..])
    }

    proptest! {
        #[test]
        fn requests_round_trip(task in any::<u64>(), shape in shape(), rank in any::<u32>(), tag in any::<u16>(), is_posted in any::<bool>()) {
            let task = TaskId(task);
            let mpi = Some(MpiEnd { rank, tag, is_posted });
            let shm = Some(HostKey(task.0));
            let requests = [
                PeerRequest::Fetch { task, offers: Offers::default() },
                PeerRequest::Fetch { task, offers: Offers { mpi, ..Offers::default() } },
                PeerRequest::Fetch { task, offers: Offers { shm, mpi, only_lent: true } },
                PeerRequest::Mapped { lease: task.0 },
                PeerRequest::Put { task, shape },
            ];
            for request in requests {
                let mut out = Vec::new();
                request.append(&mut out);
                let (opcode, body) = split(&out);
                prop_assert_eq!(PeerRequest::read(opcode, body).unwrap(), request);
            }
        }

        #[test]
        fn replies_round_trip(reason in ".*", shape in shape(), numbers in any::<(u32, u64, u64)>()) {
            let (pid, lease, offset) = numbers;
            let file = FileName { fd: 1, device: 2, inode: 3 };
            let part = SegmentPart { file, offset, bytes: 5 };
            let buffers = vec![BufferPart::Inline(reason.clone().into_bytes().into()), BufferPart::Segment(part)];
            let head = reason.clone().into_bytes();
            let mapping = PeerReply::Mapping(Mapping { pid, lease, head, buffers });
            let replies =
                [mapping, PeerReply::Value { shape }, PeerReply::OnOffer, PeerReply::Busy, PeerReply::NotHere, PeerReply::Stored, PeerReply::Refused { reason }];
            for reply in replies {
                let mut out = Vec::new();
                reply.append(&mut out);
                let (opcode, body) = split(&out);
                prop_assert_eq!(PeerReply::read(opcode, body).unwrap(), reply);
            }
        }

        #[test]
        fn openings_are_read_out_of_a_longer_message(head in any::<Vec<u8>>(), bytes in 0..9_000_usize) {
            let packed = Packed { head: head.clone().into(), buffers: vec![vec![7; bytes].into()] };
            let opening = Opening::of(&packed);
            let mut message = opening.message().unwrap();
            message.extend([0xc1; 9]);
            prop_assert_eq!(Opening::read(&message).unwrap(), opening);
        }

        #[test]
        fn random_bodies_never_panic(opcode in any::<u8>(), body in any::<Vec<u8>>()) {
            let _ = (PeerRequest::read(opcode, &body), PeerReply::read(opcode, &body), Opening::read(&body));
        }
    }

    #[test]
    fn an_opening_has_no_large_head_and_not_very_many_parts() {
        let of = |head: usize, buffers: usize| {
            let buffers = vec![vec![7; 300].into(); buffers];
            Opening::of(&Packed { head: vec![1; head].into(), buffers })
        };
        let head_of = |opening| match opening {
            Opening::Value { head, .. } => head,
            Opening::Declined => None,
        };
        assert_eq!(head_of(of(4096, 1)), Some(vec![1; 4096].into()));
        assert_eq!(head_of(of(4097, 1)), None);
        assert!(of(1 << 20, 4_000).message().is_some());
        assert_eq!(of(0, 6_000).message(), None);
    }

    #[test]
    fn shapes_that_no_machine_holds_have_no_size() {
        assert_eq!(Shape { head_bytes: u64::MAX, buffers_bytes: vec![1] }.bytes(), None);
    }
}
