//! Any body under any opcode, as the scheduler reads it from a worker: messages or an error, and always an end.
#![no_main]

use dcluster::wire::WireError;
use dcluster::wire::worker::{PairReader, WorkerMessage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (opcode, body) = input;
    // Fewer opcodes than bytes: most inputs should reach a message.
    let _ = read(96 + opcode % 16, &body);
});

fn read(opcode: u8, body: &[u8]) -> Result<(), WireError> {
    match WorkerMessage::read(opcode, body)? {
        WorkerMessage::Finished(mut reports) => while reports.next_finished()?.is_some() {},
        WorkerMessage::Failed(mut reports) => while reports.next_failed()?.is_some() {},
        WorkerMessage::Returned(mut tasks)
        | WorkerMessage::Started(mut tasks)
        | WorkerMessage::Missed(mut tasks)
        | WorkerMessage::Lost(mut tasks) => {
            while tasks.next_task()?.is_some() {}
        }
        WorkerMessage::Fenced(mut numbers) => while numbers.next_number()?.is_some() {},
        WorkerMessage::Holds(pairs) | WorkerMessage::Unavailable(pairs) => read_pairs(pairs)?,
        _ => {}
    }
    Ok(())
}

fn read_pairs(mut pairs: PairReader<'_>) -> Result<(), WireError> {
    while pairs.next_pair()?.is_some() {}
    Ok(())
}
