//! Any body under any opcode, as a client reads it from the scheduler: messages or an error, and always an end.
#![no_main]

use dcluster::wire::WireError;
use dcluster::wire::client::ToClientMessage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (opcode, body) = input;
    // Fewer opcodes than bytes: most inputs should reach a message.
    let _ = read(32 + opcode % 16, &body);
});

fn read(opcode: u8, body: &[u8]) -> Result<(), WireError> {
    if let ToClientMessage::Notify(mut outcomes) = ToClientMessage::read(opcode, body)? {
        while outcomes.next_outcome()?.is_some() {}
    }
    Ok(())
}
