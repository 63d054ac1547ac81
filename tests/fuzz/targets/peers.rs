//! Any body under any opcode, as a data port and whoever asks it read them, and any opening of a value over MPI.
#![no_main]

use dcluster::wire::peer::{Opening, PeerReply, PeerRequest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (opcode, body) = input;
    // Fewer opcodes than bytes: most inputs should reach a message.
    let _ = PeerRequest::read(128 + opcode % 4, &body);
    let _ = Opening::read(&body);
    if let Ok(PeerReply::Value { shape }) = PeerReply::read(160 + opcode % 16, &body) {
        let _ = shape.bytes();
    }
});
