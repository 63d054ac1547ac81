//! What workers are told and report, as messages to compare.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

pub(super) fn to_worker() -> impl Strategy<Value = Vec<Message>> {
    let from = prop_oneof![
        bytes().prop_map(From::Inline),
        Just(From::Local),
        Just(From::LastUse),
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
        1 => (any::<u64>(), any::<u64>(), vec(any::<u32>(), 1..3))
            .prop_map(|(task, nbytes, holders)| Message::Acquire(task, nbytes, holders)),
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

pub(super) fn from_worker() -> impl Strategy<Value = Vec<Message>> {
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
        1 => any::<u64>().prop_map(Message::Missed),
        1 => any::<(u64, u64)>().prop_map(|(task, nbytes)| Message::Holds(task, nbytes)),
        1 => (any::<u64>(), 0..=u64::from(u32::MAX)).prop_map(|(task, holder)| Message::Unavailable(task, holder)),
        1 => any::<u64>().prop_map(Message::Lost),
        1 => prop_oneof![Just(Pressure::Open), Just(Pressure::Paused), Just(Pressure::Full)].prop_map(Message::Pressure),
        1 => any::<(u64, u64, u32)>().prop_map(|(resident_bytes, values, running)| {
            Message::Metrics(Metrics { resident_bytes, values, running, ..Metrics::default() })
        }),
    ];
    vec(message, 0..60)
}

pub(super) fn write_to_worker(outbox: &mut ToWorkerOutbox, message: &Message) {
    match message {
        Message::Assign { task, run: (function, priority, caution), arguments, inputs } => {
            let input = |(task, from): &'_ (u64, From)| {
                let source = match from {
                    From::Inline(_) | From::Local => Source::Local,
                    From::LastUse => Source::LastUse,
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
        Message::Acquire(task, nbytes, holders) => outbox.acquire(TaskId(*task), *nbytes, &ids(holders)),
        Message::Fence(number) => outbox.fence(*number),
        Message::Peers(peers) => outbox.peers(peers),
        other => panic!("{other:?} is not said to a worker"),
    }
}

pub(super) fn read_to_worker(opcode: u8, body: &[u8]) -> Result<Vec<Message>, WireError> {
    let mut read = Vec::new();
    match ToWorkerMessage::read(opcode, body)? {
        ToWorkerMessage::Assign(mut assignments) => {
            while let Some(assignment) = assignments.next_assignment()? {
                let inputs = assignment.inputs.iter().map(|input| {
                    let from = match &input.source {
                        Source::Inline(bytes) => From::Inline(bytes.to_vec()),
                        Source::Local => From::Local,
                        Source::LastUse => From::LastUse,
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
        ToWorkerMessage::Acquire(mut values) => {
            while let Some(Acquisition { task, nbytes, holders }) = values.next_acquisition()? {
                read.push(Message::Acquire(task.0, nbytes, numbers(&holders)));
            }
        }
        ToWorkerMessage::Fence(mut numbers) => each_number(&mut numbers, |n| read.push(Message::Fence(n)))?,
        ToWorkerMessage::Peers(peers) => read.push(Message::Peers(peers)),
        ToWorkerMessage::Shutdown(_) => {}
    }
    Ok(read)
}

pub(super) fn write_from_worker(outbox: &mut WorkerOutbox, message: &Message) {
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
        Message::Missed(task) => outbox.missed(TaskId(*task)),
        Message::Holds(task, nbytes) => outbox.holds(TaskId(*task), *nbytes),
        Message::Unavailable(task, holder) => outbox.unavailable(TaskId(*task), WorkerId(*holder as u32)),
        Message::Lost(task) => outbox.lost(TaskId(*task)),
        Message::Pressure(pressure) => outbox.pressure(*pressure),
        Message::Metrics(metrics) => outbox.metrics(metrics),
        other => panic!("{other:?} is not said by a worker"),
    }
}

pub(super) fn read_from_worker(opcode: u8, body: &[u8]) -> Result<Vec<Message>, WireError> {
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
        WorkerMessage::Missed(mut tasks) => each_task(&mut tasks, |t| read.push(Message::Missed(t)))?,
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
        WorkerMessage::Lost(mut tasks) => each_task(&mut tasks, |t| read.push(Message::Lost(t)))?,
        WorkerMessage::Pressure(pressure) => read.push(Message::Pressure(pressure)),
        WorkerMessage::Metrics(metrics) => read.push(Message::Metrics(metrics)),
        WorkerMessage::Join(_) | WorkerMessage::Moved(_) => {}
    }
    Ok(read)
}
