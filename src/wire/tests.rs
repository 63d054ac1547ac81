//! Properties of all four directions: what is written is read back in order, and hostile bytes are errors.
#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use smallvec::SmallVec;

use super::client::*;
use super::frame::{FrameLimit, FrameReader};
use super::worker::*;
use super::{Outbox, Peer};
use crate::model::{FunctionId, FutureId, Key, TaskId, WorkerId};

/// A message of any direction, with its bytes and texts owned.
#[derive(Debug, Clone, PartialEq)]
enum Message {
    Submit {
        future: u32,
        key: u128,
        run: (u64, i32, u16, Option<String>),
        arguments: Vec<u8>,
        inputs: Vec<u32>,
    },
    Watch(u32),
    Release(u32),
    Retry(u32),
    Cancel(Cancel),
    Scatter(Scatter),
    Unreachable(u32, u64, u32),
    Query(u32, String),
    ClientClose,
    Notify(u32, Told),
    Placed(Vec<Placed>),
    Reply(u32, Result<String, String>),
    Peers(Vec<Peer>),
    Assign {
        task: u64,
        run: (u64, i32, Caution),
        arguments: Vec<u8>,
        inputs: Vec<(u64, From)>,
    },
    Retract(u64),
    Abandon(u64),
    Free(u64),
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
    Unavailable(u64, u64),
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
    Remote(u64, Vec<u32>),
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

/// Few different values, so that runs of equal ones come up, and the extremes.
fn few<T: Clone + std::fmt::Debug + 'static>(all: [T; 4]) -> impl Strategy<Value = T> {
    prop::sample::select(all.to_vec())
}

fn from_client() -> impl Strategy<Value = Vec<Message>> {
    let run = (few([0, 1, 2, u64::MAX]), few([0, 1, i32::MIN, i32::MAX]), few([0, 0, 1, u16::MAX]));
    let name = option::weighted(0.2, "[a-zé]{0,8}");
    // A client numbers its futures, so one is submitted once.
    let submit = (any::<u128>(), (run, name), bytes(), vec(any::<u32>(), 0..5)).prop_map(
        |(key, ((function, priority, retries), name), arguments, inputs)| Message::Submit {
            future: 0,
            key,
            run: (function, priority, retries, name),
            arguments,
            inputs,
        },
    );
    let value = (any::<u32>(), any::<u128>(), any::<u64>()).prop_map(|(future, key, nbytes)| ScatterValue {
        future: FutureId(future),
        key: Key(key),
        nbytes,
    });
    let message = prop_oneof![
        8 => submit,
        1 => any::<u32>().prop_map(Message::Watch),
        1 => any::<u32>().prop_map(Message::Release),
        1 => any::<u32>().prop_map(Message::Retry),
        1 => (any::<u32>(), vec(any::<u32>().prop_map(FutureId), 0..5), any::<bool>(), ".{0,9}").prop_map(
            |(number, futures, force, reason)| Message::Cancel(Cancel { number, futures, force, reason })
        ),
        1 => (vec(value, 0..4), vec(any::<u32>().prop_map(WorkerId), 0..3))
            .prop_map(|(values, workers)| Message::Scatter(Scatter { values, workers })),
        1 => any::<(u32, u64, u32)>()
            .prop_map(|(future, task, worker)| Message::Unreachable(future, task, worker)),
        1 => (any::<u32>(), ".{0,9}").prop_map(|(number, key)| Message::Query(number, key)),
        1 => Just(Message::ClientClose),
    ];
    vec(message, 0..60).prop_map(|mut messages| {
        for (number, message) in messages.iter_mut().enumerate() {
            if let Message::Submit { future, .. } = message {
                *future = number as u32 * 3;
            }
        }
        messages
    })
}

fn to_client() -> impl Strategy<Value = Vec<Message>> {
    let told = prop_oneof![
        bytes().prop_map(Told::Inline),
        (any::<u64>(), any::<u64>(), vec(any::<u32>(), 0..5)).prop_map(|(t, n, h)| Told::Stored(t, n, h)),
        bytes().prop_map(Told::Failed),
        ".{0,9}".prop_map(Told::Cancelled),
    ];
    let placed = (any::<u32>(), any::<u64>(), option::of(any::<u32>())).prop_map(|(future, task, worker)| {
        Placed { future: FutureId(future), task: TaskId(task), worker: worker.map(WorkerId) }
    });
    let answer = prop_oneof![".{0,9}".prop_map(Ok), ".{0,9}".prop_map(Err)];
    let message = prop_oneof![
        6 => (any::<u32>(), told).prop_map(|(future, told)| Message::Notify(future, told)),
        1 => vec(placed, 0..4).prop_map(Message::Placed),
        1 => (any::<u32>(), answer).prop_map(|(number, answer)| Message::Reply(number, answer)),
        1 => peers(),
    ];
    vec(message, 0..60)
}

fn to_worker() -> impl Strategy<Value = Vec<Message>> {
    let from = prop_oneof![
        bytes().prop_map(From::Inline),
        Just(From::Local),
        (any::<u64>(), vec(any::<u32>(), 0..5)).prop_map(|(nbytes, holders)| From::Remote(nbytes, holders)),
    ];
    let caution = prop::sample::select(vec![Caution::None, Caution::Announce]);
    let run = (few([0, 1, 2, u64::MAX]), few([0, 1, i32::MIN, i32::MAX]), caution);
    let assign = (run, bytes(), vec((any::<u64>(), from), 0..4))
        .prop_map(|(run, arguments, inputs)| Message::Assign { task: 0, run, arguments, inputs });
    let message = prop_oneof![
        6 => assign,
        1 => any::<u64>().prop_map(Message::Retract),
        1 => any::<u64>().prop_map(Message::Abandon),
        1 => any::<u64>().prop_map(Message::Free),
        1 => any::<u64>().prop_map(Message::Fence),
        1 => peers(),
    ];
    // A task is assigned again only after its answer: never twice in one batch.
    (vec(message, 0..60), any::<u64>()).prop_map(|(mut messages, first)| {
        for (number, message) in messages.iter_mut().enumerate() {
            if let Message::Assign { task, .. } = message {
                *task = first.wrapping_add(number as u64 * 7);
            }
        }
        messages
    })
}

fn from_worker() -> impl Strategy<Value = Vec<Message>> {
    // A size of 2^64 - 1 bytes is none.
    let finished = (any::<u64>(), any::<u64>(), 0..u64::MAX, option::of(bytes())).prop_map(
        |(task, duration_us, nbytes, inline)| {
            let nbytes = inline.as_ref().map_or(nbytes, |bytes| bytes.len() as u64);
            Message::Finished { task, duration_us, nbytes, inline }
        },
    );
    let message = prop_oneof![
        4 => finished,
        2 => (any::<u64>(), any::<u64>(), bytes())
            .prop_map(|(task, duration_us, error)| Message::Failed { task, duration_us, error }),
        1 => any::<u64>().prop_map(Message::Returned),
        1 => any::<u64>().prop_map(Message::Started),
        1 => any::<u64>().prop_map(Message::Fenced),
        1 => any::<(u64, u64)>().prop_map(|(task, nbytes)| Message::Holds(task, nbytes)),
        1 => (any::<u64>(), 0..=u64::from(u32::MAX)).prop_map(|(task, holder)| Message::Unavailable(task, holder)),
        1 => any::<(u64, u64, u32)>().prop_map(|(resident_bytes, values, running)| {
            Message::Metrics(Metrics { resident_bytes, values, running, ..Metrics::default() })
        }),
    ];
    vec(message, 0..60)
}

fn peers() -> impl Strategy<Value = Message> {
    let peer = (any::<u32>(), ".{0,9}").prop_map(|(id, address)| Peer { worker: WorkerId(id), address });
    vec(peer, 0..3).prop_map(Message::Peers)
}

fn ids(workers: &[u32]) -> SmallVec<[WorkerId; 4]> {
    workers.iter().copied().map(WorkerId).collect()
}

fn numbers(workers: &[WorkerId]) -> Vec<u32> {
    workers.iter().map(|worker| worker.0).collect()
}

fn write_from_client(outbox: &mut ClientOutbox, message: &Message) {
    match message {
        Message::Submit { future, key, run: (function, priority, retries, name), arguments, inputs } => {
            outbox.submit(&Submission {
                future: FutureId(*future),
                key: Key(*key),
                function: FunctionId(*function),
                options: CallOptions { priority: *priority, retries: *retries },
                name: name.as_deref(),
                arguments,
                inputs: inputs.iter().copied().map(FutureId).collect(),
            });
        }
        Message::Watch(future) => outbox.watch(FutureId(*future)),
        Message::Release(future) => outbox.release(FutureId(*future)),
        Message::Retry(future) => outbox.retry(FutureId(*future)),
        Message::Cancel(cancel) => outbox.cancel(cancel),
        Message::Scatter(scatter) => outbox.scatter(scatter),
        Message::Unreachable(future, task, worker) => {
            outbox.unreachable(FutureId(*future), TaskId(*task), WorkerId(*worker));
        }
        Message::Query(number, key) => outbox.query(*number, &Query::Explain { key: key.clone() }),
        Message::ClientClose => outbox.close(),
        other => panic!("{other:?} is not said by a client"),
    }
}

fn read_from_client(opcode: u8, body: &[u8]) -> Result<Vec<Message>, super::WireError> {
    let mut read = Vec::new();
    match ClientMessage::read(opcode, body)? {
        ClientMessage::Submit(mut calls) => {
            while let Some(call) = calls.next_call()? {
                read.push(Message::Submit {
                    future: call.future.0,
                    key: call.key.0,
                    run: (
                        call.function.0,
                        call.options.priority,
                        call.options.retries,
                        call.name.map(str::to_owned),
                    ),
                    arguments: call.arguments.to_vec(),
                    inputs: call.inputs.iter().map(|input| input.0).collect(),
                });
            }
        }
        ClientMessage::Watch(mut futures) => each_future(&mut futures, |f| read.push(Message::Watch(f)))?,
        ClientMessage::Release(mut futures) => each_future(&mut futures, |f| read.push(Message::Release(f)))?,
        ClientMessage::Retry(mut futures) => each_future(&mut futures, |f| read.push(Message::Retry(f)))?,
        ClientMessage::Cancel(cancel) => read.push(Message::Cancel(cancel)),
        ClientMessage::Scatter(scatter) => read.push(Message::Scatter(scatter)),
        ClientMessage::Unreachable(future, task, worker) => {
            read.push(Message::Unreachable(future.0, task.0, worker.0));
        }
        ClientMessage::Query(number, Query::Explain { key }) => read.push(Message::Query(number, key)),
        ClientMessage::Query(..) | ClientMessage::Functions(_) => {}
        ClientMessage::Close => read.push(Message::ClientClose),
        ClientMessage::Received(_) => {}
    }
    Ok(read)
}

fn write_to_client(outbox: &mut ToClientOutbox, message: &Message) {
    match message {
        Message::Notify(future, told) => {
            let outcome = match told {
                Told::Inline(bytes) => Outcome::Inline(bytes),
                Told::Stored(task, nbytes, holders) => {
                    Outcome::Stored { task: TaskId(*task), nbytes: *nbytes, holders: ids(holders) }
                }
                Told::Failed(error) => Outcome::Failed(error),
                Told::Cancelled(reason) => Outcome::Cancelled(reason),
            };
            outbox.notify(FutureId(*future), &outcome);
        }
        Message::Placed(placed) => outbox.placed(placed),
        Message::Reply(number, answer) => outbox.reply(*number, answer),
        Message::Peers(peers) => outbox.peers(peers),
        other => panic!("{other:?} is not said to a client"),
    }
}

fn read_to_client(opcode: u8, body: &[u8]) -> Result<Vec<Message>, super::WireError> {
    let mut read = Vec::new();
    match ToClientMessage::read(opcode, body)? {
        ToClientMessage::Notify(mut outcomes) => {
            while let Some((future, outcome)) = outcomes.next_outcome()? {
                let told = match outcome {
                    Outcome::Inline(bytes) => Told::Inline(bytes.to_vec()),
                    Outcome::Stored { task, nbytes, holders } => {
                        Told::Stored(task.0, nbytes, numbers(&holders))
                    }
                    Outcome::Failed(error) => Told::Failed(error.to_vec()),
                    Outcome::Cancelled(reason) => Told::Cancelled(reason.to_owned()),
                };
                read.push(Message::Notify(future.0, told));
            }
        }
        ToClientMessage::Placed(placed) => read.push(Message::Placed(placed)),
        ToClientMessage::Reply(number, answer) => read.push(Message::Reply(number, answer)),
        ToClientMessage::Peers(peers) => read.push(Message::Peers(peers)),
        ToClientMessage::Closing(_) | ToClientMessage::Received(_) => {}
    }
    Ok(read)
}

fn write_to_worker(outbox: &mut ToWorkerOutbox, message: &Message) {
    match message {
        Message::Assign { task, run: (function, priority, caution), arguments, inputs } => {
            let input = |(task, from): &'_ (u64, From)| {
                let source = match from {
                    From::Inline(_) | From::Local => Source::Local,
                    From::Remote(nbytes, holders) => {
                        Source::Remote { nbytes: *nbytes, holders: ids(holders) }
                    }
                };
                Input { task: TaskId(*task), source }
            };
            let mut assignment = Assignment {
                task: TaskId(*task),
                function: FunctionId(*function),
                priority: *priority,
                caution: *caution,
                arguments,
                inputs: inputs.iter().map(input).collect(),
            };
            for (input, (_, from)) in assignment.inputs.iter_mut().zip(inputs) {
                if let From::Inline(bytes) = from {
                    input.source = Source::Inline(bytes);
                }
            }
            outbox.assign(&assignment);
        }
        Message::Retract(task) => outbox.retract(TaskId(*task)),
        Message::Abandon(task) => outbox.abandon(TaskId(*task)),
        Message::Free(task) => outbox.free(TaskId(*task)),
        Message::Fence(number) => outbox.fence(*number),
        Message::Peers(peers) => outbox.peers(peers),
        other => panic!("{other:?} is not said to a worker"),
    }
}

fn read_to_worker(opcode: u8, body: &[u8]) -> Result<Vec<Message>, super::WireError> {
    let mut read = Vec::new();
    match ToWorkerMessage::read(opcode, body)? {
        ToWorkerMessage::Assign(mut assignments) => {
            while let Some(assignment) = assignments.next_assignment()? {
                let inputs = assignment.inputs.iter().map(|input| {
                    let from = match &input.source {
                        Source::Inline(bytes) => From::Inline(bytes.to_vec()),
                        Source::Local => From::Local,
                        Source::Remote { nbytes, holders } => From::Remote(*nbytes, numbers(holders)),
                    };
                    (input.task.0, from)
                });
                read.push(Message::Assign {
                    task: assignment.task.0,
                    run: (assignment.function.0, assignment.priority, assignment.caution),
                    arguments: assignment.arguments.to_vec(),
                    inputs: inputs.collect(),
                });
            }
        }
        ToWorkerMessage::Retract(mut tasks) => each_task(&mut tasks, |t| read.push(Message::Retract(t)))?,
        ToWorkerMessage::Abandon(mut tasks) => each_task(&mut tasks, |t| read.push(Message::Abandon(t)))?,
        ToWorkerMessage::Free(mut tasks) => each_task(&mut tasks, |t| read.push(Message::Free(t)))?,
        ToWorkerMessage::Fence(mut numbers) => each_number(&mut numbers, |n| read.push(Message::Fence(n)))?,
        ToWorkerMessage::Peers(peers) => read.push(Message::Peers(peers)),
        ToWorkerMessage::Shutdown(_) => {}
    }
    Ok(read)
}

fn write_from_worker(outbox: &mut WorkerOutbox, message: &Message) {
    match message {
        Message::Finished { task, duration_us, nbytes, inline } => outbox.finished(&Finished {
            task: TaskId(*task),
            duration_us: *duration_us,
            nbytes: *nbytes,
            inline: inline.as_deref(),
        }),
        Message::Failed { task, duration_us, error } => {
            outbox.failed(&Failed { task: TaskId(*task), duration_us: *duration_us, error });
        }
        Message::Returned(task) => outbox.returned(TaskId(*task)),
        Message::Started(task) => outbox.started(TaskId(*task)),
        Message::Fenced(number) => outbox.fenced(*number),
        Message::Holds(task, nbytes) => outbox.holds(TaskId(*task), *nbytes),
        Message::Unavailable(task, holder) => outbox.unavailable(TaskId(*task), WorkerId(*holder as u32)),
        Message::Metrics(metrics) => outbox.metrics(metrics),
        other => panic!("{other:?} is not said by a worker"),
    }
}

fn read_from_worker(opcode: u8, body: &[u8]) -> Result<Vec<Message>, super::WireError> {
    let mut read = Vec::new();
    match WorkerMessage::read(opcode, body)? {
        WorkerMessage::Finished(mut reports) => {
            while let Some(Finished { task, duration_us, nbytes, inline }) = reports.next_finished()? {
                let inline = inline.map(<[u8]>::to_vec);
                read.push(Message::Finished { task: task.0, duration_us, nbytes, inline });
            }
        }
        WorkerMessage::Failed(mut reports) => {
            while let Some(Failed { task, duration_us, error }) = reports.next_failed()? {
                read.push(Message::Failed { task: task.0, duration_us, error: error.to_vec() });
            }
        }
        WorkerMessage::Returned(mut tasks) => each_task(&mut tasks, |t| read.push(Message::Returned(t)))?,
        WorkerMessage::Started(mut tasks) => each_task(&mut tasks, |t| read.push(Message::Started(t)))?,
        WorkerMessage::Fenced(mut numbers) => each_number(&mut numbers, |n| read.push(Message::Fenced(n)))?,
        WorkerMessage::Holds(mut pairs) => {
            while let Some((task, nbytes)) = pairs.next_pair()? {
                read.push(Message::Holds(task.0, nbytes));
            }
        }
        WorkerMessage::Unavailable(mut pairs) => {
            while let Some((task, holder)) = pairs.next_pair()? {
                read.push(Message::Unavailable(task.0, holder));
            }
        }
        WorkerMessage::Metrics(metrics) => read.push(Message::Metrics(metrics)),
        WorkerMessage::Join(_) => {}
    }
    Ok(read)
}

fn each_future(futures: &mut FutureReader<'_>, mut book: impl FnMut(u32)) -> Result<(), super::WireError> {
    while let Some(future) = futures.next_future()? {
        book(future.0);
    }
    Ok(())
}

fn each_task(tasks: &mut TaskReader<'_>, mut book: impl FnMut(u64)) -> Result<(), super::WireError> {
    while let Some(task) = tasks.next_task()? {
        book(task.0);
    }
    Ok(())
}

fn each_number(numbers: &mut NumberReader<'_>, mut book: impl FnMut(u64)) -> Result<(), super::WireError> {
    while let Some(number) = numbers.next_number()? {
        book(number);
    }
    Ok(())
}

type Read = fn(u8, &[u8]) -> Result<Vec<Message>, super::WireError>;

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
