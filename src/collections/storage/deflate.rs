//! Chunks of HDF5 that gzip has compressed, unpacked by whoever has read them. Next: `hdf5`, which reads them.
//!
//! The filters are those of the HDF5 File Format Specification, IV.A.2.l: a zlib stream, and a shuffle that puts the
//! first bytes of all elements first, then all second ones.

use std::io::Read;

/// What was done to a chunk, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Filter {
    Shuffle,
    Deflate,
}

/// Undoes the filters; bit `n` of `skipped` says that filter `n` was not applied to this chunk. The chunk's elements have
/// `element_bytes` each and `chunk_bytes` in all.
pub(super) fn unpack(
    mut chunk: Vec<u8>,
    filters: &[Filter],
    skipped: u32,
    element_bytes: usize,
    chunk_bytes: usize,
) -> Result<Vec<u8>, String> {
    for (at, filter) in filters.iter().enumerate().rev() {
        if skipped >> at & 1 == 1 {
            continue;
        }
        chunk = match filter {
            Filter::Deflate => {
                let mut inflated = Vec::with_capacity(chunk_bytes);
                let mut stream = flate2::read::ZlibDecoder::new(&chunk[..]).take(chunk_bytes as u64 + 1);
                stream.read_to_end(&mut inflated).map_err(|error| error.to_string())?;
                inflated
            }
            Filter::Shuffle => unshuffle(&chunk, element_bytes),
        };
    }
    match chunk.len() == chunk_bytes {
        true => Ok(chunk),
        false => Err(format!("it has {} bytes, not {chunk_bytes}", chunk.len())),
    }
}

fn unshuffle(shuffled: &[u8], element_bytes: usize) -> Vec<u8> {
    let elements = shuffled.len() / element_bytes;
    if element_bytes == 1 || elements <= 1 {
        return shuffled.to_vec();
    }
    let mut bytes = vec![0; shuffled.len()];
    for (byte, plane) in shuffled.chunks_exact(elements).take(element_bytes).enumerate() {
        for (element, from) in bytes.chunks_exact_mut(element_bytes).zip(plane) {
            element[byte] = *from;
        }
    }
    // What makes no whole element was left where it was.
    let whole = elements * element_bytes;
    bytes[whole..].copy_from_slice(&shuffled[whole..]);
    bytes
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;

    fn deflated(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn filters_are_undone_from_the_last_to_the_first() {
        let filters = [Filter::Shuffle, Filter::Deflate];
        let shuffled = [1, 4, 2, 5, 3, 6, 9]; // two elements of three bytes, and a rest
        let plain = vec![1, 2, 3, 4, 5, 6, 9];
        assert_eq!(unpack(deflated(&shuffled), &filters, 0, 3, 7).unwrap(), plain);
        assert_eq!(unpack(deflated(&plain), &filters, 0b01, 3, 7).unwrap(), plain);
        assert_eq!(unpack(shuffled.to_vec(), &filters, 0b10, 3, 7).unwrap(), plain);
    }

    #[test]
    fn a_chunk_of_another_length_is_refused() {
        let long = unpack(deflated(&[0; 1000]), &[Filter::Deflate], 0, 8, 16).unwrap_err();
        assert_eq!(long, "it has 17 bytes, not 16");
        assert!(unpack(vec![1, 2, 3], &[Filter::Deflate], 0, 8, 16).is_err());
    }
}
