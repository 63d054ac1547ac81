//! Any body under any opcode, as the scheduler reads it from a client: messages or an error, and always an end.
#![no_main]

use dcluster::wire::WireError;
use dcluster::wire::client::{ClientMessage, FutureReader};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (opcode, body) = input;
    // Fewer opcodes than bytes: most inputs should reach a message.
    let _ = read(opcode % 16, &body);
});

fn read(opcode: u8, body: &[u8]) -> Result<(), WireError> {
    match ClientMessage::read(opcode, body)? {
        ClientMessage::Submit(mut calls) => while calls.next_call()?.is_some() {},
        ClientMessage::Watch(futures) | ClientMessage::Release(futures) | ClientMessage::Retry(futures) => {
            read_futures(futures)?;
        }
        _ => {}
    }
    Ok(())
}

fn read_futures(mut futures: FutureReader<'_>) -> Result<(), WireError> {
    while futures.next_future()?.is_some() {}
    Ok(())
}
