//! Messages on a data port: a value is asked for, or handed over.
//!
//! ```text
//! Fetch{task} ───────────────► Value{shape} Chunk… | NotHere
//! Put{task, shape} Chunk… ───► Stored | Refused
//! ```
//!
//! Requests are answered in their order, and may be sent before earlier ones are answered. A value is its
//! [`Shape`], then its head and its buffers in chunks of at most [`CHUNK_BYTES_MAX`]; a chunk never spans two of
//! them. [`crate::transport::data`] moves the bytes.

use serde::{Deserialize, Serialize};

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

/// What the connecting end asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerRequest {
    /// Send a value.
    Fetch {
        /// Its name.
        task: TaskId,
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
            Self::Fetch { task } => append(out, FETCH, task),
            Self::Put { task, shape } => append(out, PUT, &(task, shape)),
        }
    }

    /// Reads a frame.
    pub fn read(opcode: u8, body: &[u8]) -> Result<Self, WireError> {
        Ok(match opcode {
            FETCH => Self::Fetch { task: decode("fetch", body)? },
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
            Self::NotHere => append(out, NOT_HERE, &()),
            Self::Stored => append(out, STORED, &()),
            Self::Refused { reason } => append(out, REFUSED, reason),
        }
    }

    /// Reads a frame.
    pub fn read(opcode: u8, body: &[u8]) -> Result<Self, WireError> {
        Ok(match opcode {
            VALUE => Self::Value { shape: decode("value", body)? },
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
        fn requests_round_trip(task in any::<u64>(), shape in shape()) {
            let task = TaskId(task);
            for request in [PeerRequest::Fetch { task }, PeerRequest::Put { task, shape }] {
                let mut out = Vec::new();
                request.append(&mut out);
                let (opcode, body) = split(&out);
                prop_assert_eq!(PeerRequest::read(opcode, body).unwrap(), request);
            }
        }

        #[test]
        fn replies_round_trip(reason in ".*", shape in shape()) {
            let replies =
                [PeerReply::Value { shape }, PeerReply::NotHere, PeerReply::Stored, PeerReply::Refused { reason }];
            for reply in replies {
                let mut out = Vec::new();
                reply.append(&mut out);
                let (opcode, body) = split(&out);
                prop_assert_eq!(PeerReply::read(opcode, body).unwrap(), reply);
            }
        }

        #[test]
        fn random_bodies_never_panic(opcode in any::<u8>(), body in any::<Vec<u8>>()) {
            let _ = (PeerRequest::read(opcode, &body), PeerReply::read(opcode, &body));
        }
    }

    #[test]
    fn shapes_that_no_machine_holds_have_no_size() {
        assert_eq!(Shape { head_bytes: u64::MAX, buffers_bytes: vec![1] }.bytes(), None);
    }
}
