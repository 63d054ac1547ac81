//! Any first frame: a hello, a refusal or an error; what is taken for a hello can be said again.
#![no_main]

use dcluster::wire::frame::{Frame, FrameLimit, FrameReader};
use dcluster::wire::handshake::First;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, Vec<u8>)| {
    let (opcode, body) = input;
    let Ok(First::Hello { hello, .. }) = First::read(&Frame { opcode, body: body.into() }) else { return };
    let mut said = Vec::new();
    hello.append(&mut said);
    let mut reader = FrameReader::new(FrameLimit::default());
    reader.buffer().extend_from_slice(&said);
    let frame = reader.next_frame().expect("our own frame").expect("all of it");
    assert!(matches!(First::read(&frame), Ok(First::Hello { hello: again, .. }) if again == hello));
});
