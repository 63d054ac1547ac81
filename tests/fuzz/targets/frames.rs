//! Any bytes, received in any pieces: frames or an error, the same ones however the bytes are cut, and never
//! more memory than the limit allows.
#![no_main]

use dcluster::wire::frame::{Frame, FrameError, FrameLimit, FrameReader};
use libfuzzer_sys::fuzz_target;

const LIMIT: FrameLimit = FrameLimit { body_bytes_max: 4096 };

fuzz_target!(|input: (Vec<u8>, u8)| {
    let (bytes, piece_bytes) = input;
    let whole = frames_of(&bytes, bytes.len().max(1));
    let pieces = frames_of(&bytes, usize::from(piece_bytes).max(1));
    assert_eq!(whole, pieces);
});

fn frames_of(bytes: &[u8], piece_bytes: usize) -> (Vec<Frame>, Option<FrameError>) {
    let mut reader = FrameReader::new(LIMIT);
    let mut frames = Vec::new();
    for piece in bytes.chunks(piece_bytes) {
        reader.buffer().extend_from_slice(piece);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(reader.buffered_bytes() < 8 + 4096);
    }
    (frames, None)
}
