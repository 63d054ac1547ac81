//! Two ends and a connection that breaks at any byte: each side books each frame once, in order.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::wire::frame::{FrameLimit, FrameReader};

/// The opcode of an acknowledgement in these streams; all others are numbered bodies.
const ACK: u8 = 99;

/// One end: what it sends, what it has booked, and what it is about to read.
struct End {
    sent: Sent,
    received: Received,
    outbox: Vec<u8>,
    reader: FrameReader,
    booked: Vec<u32>,
    next: u32,
}

impl End {
    fn new() -> Self {
        Self {
            sent: Sent::default(),
            received: Received::default(),
            outbox: Vec::new(),
            reader: FrameReader::new(FrameLimit::default()),
            booked: Vec::new(),
            next: 0,
        }
    }

    fn say(&mut self, bytes: usize) {
        let mut body = self.next.to_le_bytes().to_vec();
        body.resize(4 + bytes, self.next as u8);
        append(&mut self.outbox, 1, |out| out.extend_from_slice(&body));
        self.next += 1;
    }

    /// Moves up to `bytes` onto the wire.
    fn write(&mut self, bytes: usize, wire: &mut VecDeque<u8>) {
        if self.sent.unwritten().is_empty() && !self.outbox.is_empty() {
            self.sent.push(&mut self.outbox);
        }
        let piece = self.sent.unwritten();
        let piece = &piece[..piece.len().min(bytes)];
        wire.extend(piece);
        let bytes = piece.len();
        self.sent.wrote(bytes);
    }

    /// Takes up to `bytes` from the wire and books what is complete.
    fn read(&mut self, bytes: usize, wire: &mut VecDeque<u8>) {
        let bytes = bytes.min(wire.len());
        let piece: Vec<u8> = wire.drain(..bytes).collect();
        self.reader.buffer().extend_from_slice(&piece);
        while let Some(frame) = self.reader.next_frame().unwrap() {
            match frame.opcode {
                ACK => {
                    let acknowledged = u64::from_le_bytes(frame.body[..].try_into().unwrap());
                    self.sent.acknowledge(acknowledged).unwrap();
                }
                _ => {
                    let number = u32::from_le_bytes(frame.body[..4].try_into().unwrap());
                    assert!(frame.body[4..].iter().all(|byte| *byte == number as u8));
                    self.booked.push(number);
                }
            }
            self.received.note(&frame);
            if let Some(bytes) = self.received.acknowledgement() {
                append(&mut self.outbox, ACK, |out| out.extend_from_slice(&bytes.to_le_bytes()));
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Say {
        end: usize,
        bytes: usize,
    },
    Write {
        end: usize,
        bytes: usize,
    },
    Read {
        end: usize,
        bytes: usize,
    },
    /// A write that fails after so much, of which the other end reads some; then a cut.
    FailingWrite {
        end: usize,
        bytes: usize,
        read_bytes: usize,
    },
    Cut,
}

fn step() -> impl Strategy<Value = Step> {
    let size = prop_oneof![8 => 0..200_usize, 2 => 200..40_000_usize, 1 => 40_000..200_000_usize];
    let end = 0..2_usize;
    prop_oneof![
        4 => (end.clone(), size.clone()).prop_map(|(end, bytes)| Step::Say { end, bytes }),
        4 => (end.clone(), size.clone()).prop_map(|(end, bytes)| Step::Write { end, bytes }),
        4 => (end.clone(), size.clone()).prop_map(|(end, bytes)| Step::Read { end, bytes }),
        1 => (end, size.clone(), size).prop_map(|(end, bytes, read_bytes)| {
            Step::FailingWrite { end, bytes, read_bytes }
        }),
        1 => Just(Step::Cut),
    ]
}

/// What is on the wire is lost; both ends say what they have booked, and forget half a frame.
fn cut(ends: &mut [End; 2], wires: &mut [VecDeque<u8>; 2]) {
    wires.iter_mut().for_each(VecDeque::clear);
    for end in ends.iter_mut() {
        end.reader = FrameReader::new(FrameLimit::default());
    }
    // A request that took long to arrive may have said less before.
    ends.iter_mut().for_each(|end| end.sent.resume(end.sent.acknowledged).unwrap());
    let had = [ends[0].received.bytes(), ends[1].received.bytes()];
    ends[0].sent.resume(had[1]).unwrap();
    ends[1].sent.resume(had[0]).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn cuts_at_any_byte_lose_nothing_and_repeat_nothing(steps in prop::collection::vec(step(), 0..300)) {
        let mut ends = [End::new(), End::new()];
        // What an end writes, the other reads.
        let mut wires = [VecDeque::new(), VecDeque::new()];
        for step in steps {
            match step {
                Step::Say { end, bytes } => ends[end].say(bytes),
                Step::Write { end, bytes } => ends[end].write(bytes, &mut wires[end]),
                Step::Read { end, bytes } => ends[end].read(bytes, &mut wires[1 - end]),
                Step::FailingWrite { end, bytes, read_bytes } => {
                    let piece = ends[end].sent.unwritten();
                    wires[end].extend(&piece[..piece.len().min(bytes)]);
                    ends[1 - end].read(read_bytes, &mut wires[end]);
                    cut(&mut ends, &mut wires);
                }
                Step::Cut => cut(&mut ends, &mut wires),
            }
        }
        cut(&mut ends, &mut wires);
        let is_quiet = |ends: &[End; 2]| ends.iter().all(|end| end.outbox.is_empty() && end.sent.unwritten().is_empty());
        while !is_quiet(&ends) {
            for end in 0..2 {
                ends[end].write(usize::MAX, &mut wires[end]);
                ends[1 - end].read(usize::MAX, &mut wires[end]);
            }
        }
        for end in 0..2 {
            let all: Vec<u32> = (0..ends[1 - end].next).collect();
            prop_assert_eq!(&ends[end].booked, &all);
            // An acknowledgement of the last bytes may itself be under way.
            prop_assert!(ends[end].sent.retained_bytes() < 2 * ACKNOWLEDGE_EVERY_BYTES);
        }
    }
}

#[test]
fn what_is_acknowledged_is_not_kept() {
    let mut sent = Sent::default();
    for round in 1..=1000_u64 {
        let mut frames = vec![0; 1000];
        sent.push(&mut frames);
        assert!(frames.is_empty());
        while !sent.unwritten().is_empty() {
            sent.wrote(sent.unwritten().len());
        }
        assert_eq!(sent.retained_bytes(), 1000);
        sent.acknowledge(round * 1000).unwrap();
        assert_eq!(sent.retained_bytes(), 0);
    }
    assert!(sent.chunks.is_empty() && sent.spare.capacity() <= 2 * CHUNK_BYTES);
}

#[test]
fn a_large_piece_is_kept_without_a_copy() {
    let mut sent = Sent::default();
    let mut frames = vec![7; 1 << 20];
    let place = frames.as_ptr();
    sent.push(&mut frames);
    assert_eq!(sent.unwritten().as_ptr(), place);
}

#[test]
fn an_end_cannot_have_received_what_was_not_sent_or_want_what_it_acknowledged() {
    let mut sent = Sent::default();
    sent.push(&mut vec![0; 100]);
    sent.wrote(60);
    let error = sent.acknowledge(101).unwrap_err();
    assert_eq!(error, ClaimError { received_bytes: 101, acknowledged_bytes: 0, sent_bytes: 100 });
    sent.acknowledge(50).unwrap();
    assert!(sent.resume(49).is_err() && sent.resume(101).is_err());
    sent.resume(55).unwrap();
    assert_eq!(sent.unwritten().len(), 45);
}

#[test]
fn a_failed_write_may_have_got_further_than_it_said() {
    let mut sent = Sent::default();
    sent.push(&mut vec![0; 300_000]);
    sent.push(&mut vec![1; 100]);
    sent.resume(300_010).unwrap();
    assert_eq!(sent.unwritten(), [1; 90]);
    sent.acknowledge(300_100).unwrap();
    assert!(sent.unwritten().is_empty() && sent.retained_bytes() == 0);
}

#[test]
fn an_answer_arrives_as_it_was_given() {
    let answers = [
        SessionAnswer::Begun { token: Token([9; 32]), lease_ms: 60_000 },
        SessionAnswer::Resumed { received_bytes: u64::MAX },
        SessionAnswer::Refused { reason: "who are you?".to_owned() },
    ];
    for answer in answers {
        let mut bytes = Vec::new();
        answer.append(&mut bytes);
        let mut reader = FrameReader::new(FrameLimit::HANDSHAKE);
        reader.buffer().extend_from_slice(&bytes);
        assert_eq!(SessionAnswer::read(&reader.next_frame().unwrap().unwrap()), Ok(answer));
    }
}

#[test]
fn a_token_is_not_printed() {
    assert_eq!(format!("{:?}", Token([1; 32])), "Token(…)");
}
