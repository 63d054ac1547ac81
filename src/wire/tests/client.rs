//! What clients say and are told, as messages to compare.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

pub(super) fn from_client() -> impl Strategy<Value = Vec<Message>> {
    let run = (few([0, 1, 2, u64::MAX]), few([0, 1, i32::MIN, i32::MAX]), few([0, 0, 1, u16::MAX]));
    let name = option::weighted(0.2, "[a-zé]{0,8}");
    // A client numbers its futures, so one is submitted once.
    let placed = option::weighted(0.2, placement());
    let submit = (any::<u128>(), (run, name, placed), bytes(), vec(any::<u32>(), 0..5)).prop_map(
        |(key, ((function, priority, retries), name, placement), arguments, inputs)| Message::Submit {
            future: 0,
            key,
            run: (function, priority, retries, name, placement),
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
        1 => (vec(value, 0..4), vec(worker_name(), 0..3), any::<bool>(), ".{0,9}").prop_map(
            |(values, workers, allow_other_workers, type_name)| {
                Message::Scatter(Scatter { values, workers, allow_other_workers, type_name })
            }
        ),
        1 => (any::<u32>(), vec(any::<u32>().prop_map(FutureId), 0..5), arrangement())
            .prop_map(|(number, futures, how)| Message::Arrange(Arrange { number, futures, how })),
        1 => (any::<u32>(), any::<u64>(), vec((any::<u32>(), any::<bool>()), 0..4)).prop_map(
            |(future, task, workers)| {
                let fault = |is_there| if is_there { Fault::NotHere } else { Fault::NotReached };
                let workers = workers.into_iter().map(|(worker, there)| (WorkerId(worker), fault(there)));
                let (future, task) = (FutureId(future), TaskId(task));
                Message::Unreachable(Unreachable { future, task, workers: workers.collect() })
            }
        ),
        1 => (any::<u32>(), any::<u64>(), ".{0,9}").prop_map(|(future, task, reason)| {
            Message::GiveUp(GiveUp { future: FutureId(future), task: TaskId(task), reason })
        }),
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

pub(super) fn to_client() -> impl Strategy<Value = Vec<Message>> {
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
        1 => vec(any::<u32>().prop_map(WorkerId), 0..4).prop_map(Message::Left),
    ];
    vec(message, 0..60)
}

pub(super) fn write_from_client(outbox: &mut ClientOutbox, message: &Message) {
    match message {
        Message::Submit {
            future,
            key,
            run: (function, priority, retries, name, placement),
            arguments,
            inputs,
        } => {
            outbox.submit(&Submission {
                future: FutureId(*future),
                key: Key(*key),
                function: FunctionId(*function),
                options: CallOptions { priority: *priority, retries: *retries, placement: placement.clone() },
                name: name.as_deref(),
                arguments,
                inputs: inputs.iter().copied().map(FutureId).collect(),
            });
        }
        Message::Watch(future) => outbox.watch(FutureId(*future)),
        Message::Release(future) => outbox.release(FutureId(*future)),
        Message::Retry(future) => outbox.retry(FutureId(*future)),
        Message::Cancel(cancel) => outbox.cancel(cancel),
        Message::Arrange(arrange) => outbox.arrange(arrange),
        Message::Scatter(scatter) => outbox.scatter(scatter),
        Message::Unreachable(unreachable) => outbox.unreachable(unreachable),
        Message::GiveUp(give_up) => outbox.give_up(give_up),
        Message::Query(number, key) => outbox.query(*number, &Query::Explain { key: key.clone() }),
        Message::ClientClose => outbox.close(),
        other => panic!("{other:?} is not said by a client"),
    }
}

pub(super) fn read_from_client(opcode: u8, body: &[u8]) -> Result<Vec<Message>, WireError> {
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
                        call.options.placement,
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
        ClientMessage::Arrange(arrange) => read.push(Message::Arrange(arrange)),
        ClientMessage::Scatter(scatter) => read.push(Message::Scatter(scatter)),
        ClientMessage::Unreachable(unreachable) => read.push(Message::Unreachable(unreachable)),
        ClientMessage::GiveUp(give_up) => read.push(Message::GiveUp(give_up)),
        ClientMessage::Query(number, Query::Explain { key }) => read.push(Message::Query(number, key)),
        ClientMessage::Query(..) | ClientMessage::Functions(_) => {}
        ClientMessage::Close => read.push(Message::ClientClose),
        ClientMessage::Received(_) => {}
    }
    Ok(read)
}

pub(super) fn write_to_client(outbox: &mut ToClientOutbox, message: &Message) {
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
        Message::Left(workers) => outbox.left(workers),
        other => panic!("{other:?} is not said to a client"),
    }
}

pub(super) fn read_to_client(opcode: u8, body: &[u8]) -> Result<Vec<Message>, WireError> {
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
        ToClientMessage::Left(workers) => read.push(Message::Left(workers)),
        ToClientMessage::Closing(_) | ToClientMessage::Received(_) => {}
    }
    Ok(read)
}
