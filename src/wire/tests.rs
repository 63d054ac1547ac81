//! Properties of all four directions: what is written is read back in order, and hostile bytes are errors.
#![allow(clippy::unwrap_used)]

mod client;
mod placements;
mod worker;

use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use smallvec::SmallVec;

use super::client::*;
use super::frame::{FrameLimit, FrameReader};
use super::worker::*;
use super::{Outbox, Peer, WireError};
use crate::model::{FunctionId, FutureId, Key, Placement, TaskId, WorkerId};
use client::{from_client, read_from_client, read_to_client, to_client, write_from_client, write_to_client};
use placements::{arrangement, placement, worker_name};
use worker::{from_worker, read_from_worker, read_to_worker, to_worker, write_from_worker, write_to_worker};

/// A message of any direction, with its bytes and texts owned.
#[derive(Debug, Clone, PartialEq)]
enum Message {
    Submit {
        future: u32,
        key: u128,
        run: (u64, i32, u16, Option<String>, Option<Arc<Placement>>),
        arguments: Vec<u8>,
        inputs: Vec<u32>,
    },
    Watch(u32),
    Release(u32),
    Retry(u32),
    Cancel(Cancel),
    Arrange(Arrange),
    Scatter(Scatter),
    Unreachable(Unreachable),
    GiveUp(GiveUp),
    Query(u32, String),
    ClientClose,
    Notify(u32, Told),
    Placed(Vec<Placed>),
    Reply(u32, Result<String, String>),
    Peers(Vec<Peer>),
    Left(Vec<WorkerId>),
    Assign {
        task: u64,
        run: (u64, i32, Caution),
        arguments: Vec<u8>,
        inputs: Vec<(u64, From)>,
    },
    Retract(u64),
    Abandon(u64),
    Free(u64),
    Acquire(u64, u64, Vec<u32>),
    Fence(u64),
    Finished {
        task: u64,
        duration_us: u64,
        nbytes: u64,
        inline: Option<Vec<u8>>,
    },
    Failed {
        task: u64,
        duration_us: u64,
        error: Vec<u8>,
    },
    Returned(u64),
    Started(u64),
    Fenced(u64),
    Holds(u64, u64),
    Missed(u64),
    Unavailable(u64, u64),
    Lost(u64),
    Pressure(Pressure),
    Metrics(Metrics),
}

#[derive(Debug, Clone, PartialEq)]
enum Told {
    Inline(Vec<u8>),
    Stored(u64, u64, Vec<u32>),
    Failed(Vec<u8>),
    Cancelled(String),
}

#[derive(Debug, Clone, PartialEq)]
enum From {
    Inline(Vec<u8>),
    Local,
    LastUse,
    Remote(u64, Vec<u32>),
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

/// Few different values, so that runs of equal ones come up, and the extremes.
fn few<T: Clone + std::fmt::Debug + 'static>(all: [T; 4]) -> impl Strategy<Value = T> {
    prop::sample::select(all.to_vec())
}

fn peers() -> impl Strategy<Value = Message> {
    let peer = (any::<u32>(), ".{0,9}").prop_map(|(id, address)| Peer {
        worker: WorkerId(id),
        address,
        mpi_rank: None,
        shm: None,
    });
    vec(peer, 0..3).prop_map(Message::Peers)
}

fn ids(workers: &[u32]) -> SmallVec<[WorkerId; 4]> {
    workers.iter().copied().map(WorkerId).collect()
}

fn numbers(workers: &[WorkerId]) -> Vec<u32> {
    workers.iter().map(|worker| worker.0).collect()
}

fn each_future(futures: &mut FutureReader<'_>, mut book: impl FnMut(u32)) -> Result<(), WireError> {
    while let Some(future) = futures.next_future()? {
        book(future.0);
    }
    Ok(())
}

fn each_task(tasks: &mut TaskReader<'_>, mut book: impl FnMut(u64)) -> Result<(), WireError> {
    while let Some(task) = tasks.next_task()? {
        book(task.0);
    }
    Ok(())
}

fn each_number(numbers: &mut NumberReader<'_>, mut book: impl FnMut(u64)) -> Result<(), WireError> {
    while let Some(number) = numbers.next_number()? {
        book(number);
    }
    Ok(())
}

type Read = fn(u8, &[u8]) -> Result<Vec<Message>, WireError>;

/// All messages in the frames of an outbox.
fn read_all(outbox: &mut Outbox, read: Read) -> Vec<Message> {
    let mut frames = Vec::new();
    outbox.swap_into(&mut frames);
    assert!(outbox.is_empty());
    let mut reader = FrameReader::new(FrameLimit::default());
    reader.buffer().extend_from_slice(&frames);
    let mut messages = Vec::new();
    while let Some(frame) = reader.next_frame().unwrap() {
        messages.extend(read(frame.opcode, &frame.body).unwrap());
    }
    messages
}

/// Writes `messages`, some of them before the first frames are taken, and reads them back.
macro_rules! assert_round_trip {
    ($outbox:ty, $write:ident, $read:ident, $messages:expr, $cut:expr) => {
        let mut outbox = <$outbox>::default();
        let (early, late) = $messages.split_at($cut.index($messages.len() + 1));
        early.iter().for_each(|message| $write(&mut outbox, message));
        let mut read = read_all(outbox.outbox(), $read);
        late.iter().for_each(|message| $write(&mut outbox, message));
        read.extend(read_all(outbox.outbox(), $read));
        prop_assert_eq!(read, $messages);
    };
}

proptest! {
    #[test]
    fn what_a_client_says_is_read_in_order(messages in from_client(), cut: prop::sample::Index) {
        assert_round_trip!(ClientOutbox, write_from_client, read_from_client, messages, cut);
    }

    #[test]
    fn what_a_client_is_told_is_read_in_order(messages in to_client(), cut: prop::sample::Index) {
        assert_round_trip!(ToClientOutbox, write_to_client, read_to_client, messages, cut);
    }

    #[test]
    fn what_a_worker_is_told_is_read_in_order(messages in to_worker(), cut: prop::sample::Index) {
        assert_round_trip!(ToWorkerOutbox, write_to_worker, read_to_worker, messages, cut);
    }

    #[test]
    fn what_a_worker_reports_is_read_in_order(messages in from_worker(), cut: prop::sample::Index) {
        assert_round_trip!(WorkerOutbox, write_from_worker, read_from_worker, messages, cut);
    }

    #[test]
    fn hostile_bodies_are_errors(opcode: u8, body in vec(any::<u8>(), 0..200)) {
        for read in [read_from_client, read_to_client, read_to_worker, read_from_worker] {
            drop(read(opcode, &body));
        }
    }

    #[test]
    fn hostile_columns_are_errors(
        opcode in prop::sample::select((1..=10).chain(33..=37).chain(65..=71).chain(97..=105).collect::<Vec<u8>>()),
        count in prop_oneof![0..5u32, Just(u32::MAX)],
        columns in vec(vec(prop_oneof![0..4u8, any::<u8>()], 0..40), 0..6),
    ) {
        let columns: Vec<_> = columns.iter().map(|column| serde_bytes::Bytes::new(column)).collect();
        let body = rmp_serde::to_vec(&(count, columns)).unwrap();
        for read in [read_from_client, read_to_client, read_to_worker, read_from_worker] {
            drop(read(opcode, &body));
        }
    }
}

#[test]
fn a_batch_that_announces_billions_of_columns_reserves_nothing_for_them() {
    // [1, array of 2^32 - 1 entries that are not there]
    let body = [0x92, 0x01, 0xdd, 0xff, 0xff, 0xff, 0xff];
    let error = read_from_worker(100, &body).unwrap_err().to_string();
    assert!(error.contains("at most 5 columns"), "{error}");
}

#[test]
fn long_runs_are_cut_into_batches_and_stay_in_order() {
    let mut outbox = ClientOutbox::default();
    let messages: Vec<Message> = (0..10_000).map(Message::Watch).collect();
    messages.iter().for_each(|message| write_from_client(&mut outbox, message));
    assert_eq!(read_all(outbox.outbox(), read_from_client), messages);
}
