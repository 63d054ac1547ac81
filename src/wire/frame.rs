//! Frames: the length and opcode before each message.

/// Appends a frame whose body `write` appends: `u32` length, opcode, three zero bytes, body; little-endian.
pub fn append(out: &mut Vec<u8>, opcode: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, opcode, 0, 0, 0]);
    write(out);
    let length = u32::try_from(out.len() - start - 8).expect("batches are sealed long before 4 GiB");
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}
