//! Any body under any opcode, as a worker reads it from the scheduler: messages or an error, and always an end.
#![no_main]

use dcluster::wire::WireError;
use dcluster::wire::worker::{TaskReader, ToWorkerMessage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (opcode, body) = input;
    // Fewer opcodes than bytes: most inputs should reach a message.
    let _ = read(64 + opcode % 16, &body);
});

fn read(opcode: u8, body: &[u8]) -> Result<(), WireError> {
    match ToWorkerMessage::read(opcode, body)? {
        ToWorkerMessage::Assign(mut assignments) => while assignments.next_assignment()?.is_some() {},
        ToWorkerMessage::Retract(tasks) | ToWorkerMessage::Abandon(tasks) | ToWorkerMessage::Free(tasks) => {
            read_tasks(tasks)?;
        }
        ToWorkerMessage::Acquire(mut values) => while values.next_acquisition()?.is_some() {},
        ToWorkerMessage::Fence(mut numbers) => while numbers.next_number()?.is_some() {},
        _ => {}
    }
    Ok(())
}

fn read_tasks(mut tasks: TaskReader<'_>) -> Result<(), WireError> {
    while tasks.next_task()?.is_some() {}
    Ok(())
}
