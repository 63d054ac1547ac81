//! NumPy's `.npy` files: the header, then nothing but elements (`flat`).
//!
//! Format: NEP 1, <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>. Versions 1 to 3 are read,
//! either byte order and either order of axes; version 1 (2 for a long header) is written, row-major, little-endian.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::StorageError;
use super::flat::{ByteOrder, Flat, Order};
use crate::model::numbers::Dtype;

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// The elements start at a multiple of this.
const ALIGNMENT_BYTES: usize = 64;

/// A longer header is not one of an array of numbers.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Opens a file and reads its header.
pub(super) fn open(path: &Path) -> Result<(File, Flat), StorageError> {
    let mut file = File::open(path).map_err(StorageError::io("open", path))?;
    let (text, start_byte) = read_header(&mut file, path)?;
    let flat = parse_header(path, &text, start_byte)?;
    flat.check_complete(&file)?;
    Ok((file, flat))
}

/// The first bytes of a file of this type and shape.
pub(super) fn header(dtype: Dtype, shape: &[usize]) -> Vec<u8> {
    let lengths: String = shape.iter().map(|length| format!("{length}, ")).collect();
    let lengths = if shape.len() == 1 { lengths.trim_end() } else { lengths.trim_end_matches(", ") };
    let text = format!("{{'descr': '{}', 'fortran_order': False, 'shape': ({lengths}), }}", descr(dtype));
    // Version 1 has two bytes for the header's length.
    let version = if text.len() + 2 * ALIGNMENT_BYTES <= usize::from(u16::MAX) { 1 } else { 2 };
    let prefix_bytes = if version == 1 { 10 } else { 12 };
    let total = (prefix_bytes + text.len() + 1).next_multiple_of(ALIGNMENT_BYTES);
    let header_bytes = (total - prefix_bytes) as u32;

    let mut bytes = Vec::with_capacity(total);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[version, 0]);
    bytes.extend_from_slice(&header_bytes.to_le_bytes()[..if version == 1 { 2 } else { 4 }]);
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(total - 1, b' ');
    bytes.push(b'\n');
    bytes
}

/// The header's text, and where the elements start.
fn read_header(file: &mut File, path: &Path) -> Result<(String, u64), StorageError> {
    let mut take = |bytes: &mut [u8]| {
        file.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => StorageError::malformed(path, "it ends inside its .npy header"),
            _ => StorageError::io("read", path)(error),
        })
    };
    let mut start = [0; 8];
    take(&mut start)?;
    if !start.starts_with(MAGIC) {
        return Err(StorageError::malformed(path, "it does not start as a .npy file does"));
    }
    let (header_bytes, prefix_bytes) = match start[6] {
        1 => {
            let mut length = [0; 2];
            take(&mut length)?;
            (usize::from(u16::from_le_bytes(length)), 10)
        }
        2 | 3 => {
            let mut length = [0; 4];
            take(&mut length)?;
            (u32::from_le_bytes(length) as usize, 12)
        }
        version => {
            return Err(StorageError::malformed(
                path,
                format!("its .npy version is {version}, not 1, 2 or 3"),
            ));
        }
    };
    if header_bytes > HEADER_BYTES_MAX {
        return Err(StorageError::malformed(path, format!("its .npy header has {header_bytes} bytes")));
    }
    let mut text = vec![0; header_bytes];
    take(&mut text)?;
    // (Version 1 and 2 are Latin-1 and version 3 UTF-8; what is read here is ASCII in all of them.)
    Ok((String::from_utf8_lossy(&text).into_owned(), (prefix_bytes + header_bytes) as u64))
}

/// Reads `{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }`, a Python literal.
fn parse_header(path: &Path, text: &str, start_byte: u64) -> Result<Flat, StorageError> {
    let bad =
        |what: &str| StorageError::malformed(path, format!("{what} in its header `{}`", text.trim_end()));
    let value = |key: &str| {
        let (_, after) =
            text.split_once(&format!("'{key}':")).or_else(|| text.split_once(&format!("\"{key}\":")))?;
        Some(after.trim_start())
    };

    let descr = value("descr").ok_or_else(|| bad("no descr"))?;
    let quote = descr.chars().next().unwrap_or(' ');
    let descr = if quote == '\'' || quote == '"' { descr[1..].split(quote).next().unwrap_or("") } else { "" };
    let (dtype, byte_order) = parse_descr(descr).ok_or_else(|| StorageError::UnknownDtype {
        file: path.to_owned(),
        what: if descr.is_empty() { "a structured type".to_owned() } else { descr.to_owned() },
    })?;

    let order = match value("fortran_order").ok_or_else(|| bad("no fortran_order"))? {
        value if value.starts_with("True") => Order::ColumnMajor,
        value if value.starts_with("False") => Order::RowMajor,
        _ => return Err(bad("no truth value for fortran_order")),
    };

    let lengths = value("shape")
        .and_then(|value| value.strip_prefix('('))
        .and_then(|value| value.split_once(')'))
        .ok_or_else(|| bad("no shape"))?
        .0;
    let shape = lengths
        .split(',')
        .map(str::trim)
        .filter(|length| !length.is_empty())
        .map(|length| length.trim_end_matches('L').parse().map_err(|_| bad("a wrong shape")))
        .collect::<Result<Vec<usize>, _>>()?;
    let bytes = shape.iter().try_fold(dtype.size() as u64, |bytes, &length| bytes.checked_mul(length as u64));
    if bytes.and_then(|bytes| bytes.checked_add(start_byte)).is_none_or(|bytes| bytes > i64::MAX as u64) {
        return Err(bad("more elements than a file can have"));
    }
    Ok(Flat { file: path.to_owned(), start_byte, dtype, shape, order, byte_order })
}

/// NumPy's name of a type: byte order, kind, bytes.
fn descr(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "<f4",
        Dtype::F64 => "<f8",
        Dtype::I32 => "<i4",
        Dtype::I64 => "<i8",
        Dtype::U8 => "|u1",
        Dtype::Bool => "|b1",
        Dtype::Complex64 => "<c16",
    }
}

fn parse_descr(descr: &str) -> Option<(Dtype, ByteOrder)> {
    let (byte_order, kind) = match descr.as_bytes().first()? {
        b'<' | b'=' | b'|' => (ByteOrder::Native, &descr[1..]),
        b'>' => (ByteOrder::Swapped, &descr[1..]),
        _ => (ByteOrder::Native, descr),
    };
    let dtype = match kind {
        "f4" => Dtype::F32,
        "f8" => Dtype::F64,
        "i4" => Dtype::I32,
        "i8" => Dtype::I64,
        "u1" => Dtype::U8,
        "b1" | "?" => Dtype::Bool,
        "c16" => Dtype::Complex64,
        _ => return None,
    };
    Some((dtype, byte_order))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Flat, StorageError> {
        parse_header(Path::new("x.npy"), text, 128)
    }

    #[test]
    fn the_header_is_what_numpy_writes() {
        let bytes = header(Dtype::F64, &[3, 4]);
        assert_eq!(bytes.len(), 128);
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let text = std::str::from_utf8(&bytes[10..]).unwrap();
        assert_eq!(text.trim_end(), "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 4), }");
        assert!(text.ends_with('\n'));
        assert!(String::from_utf8_lossy(&header(Dtype::U8, &[7])).contains("'shape': (7,), }"));
        assert!(String::from_utf8_lossy(&header(Dtype::U8, &[])).contains("'shape': (), }"));
    }

    #[test]
    fn headers_of_other_writers_are_understood() {
        let flat = parse("{\"shape\": (2L, 3L), 'fortran_order': True, 'descr': '>i4'}").unwrap();
        assert_eq!(
            (flat.dtype, flat.order, flat.byte_order),
            (Dtype::I32, Order::ColumnMajor, ByteOrder::Swapped)
        );
        assert_eq!(flat.shape, [2, 3]);
    }

    #[test]
    fn what_is_no_array_of_numbers_is_refused_by_name() {
        let refused = |text: &str| parse(text).unwrap_err().to_string();
        let structured = "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (3,), }";
        assert!(refused(structured).contains("x.npy holds a structured type"));
        assert!(
            refused("{'descr': '<U8', 'fortran_order': False, 'shape': (3,)}").contains("x.npy holds <U8")
        );
        assert!(refused("{'descr': '<f8', 'fortran_order': False}").contains("no shape"));
        let endless = "{'descr': '<f8', 'fortran_order': False, 'shape': (9223372036854775807, 8)}";
        assert!(refused(endless).contains("more elements"));
    }

    proptest! {
        #[test]
        fn a_header_is_read_back_as_it_was_written(shape in prop::collection::vec(0usize..1 << 18, 0..4)) {
            let bytes = header(Dtype::Complex64, &shape);
            let flat = parse_header(Path::new("x"), std::str::from_utf8(&bytes[10..]).unwrap(), 0).unwrap();
            prop_assert_eq!(flat.shape, shape);
            prop_assert_eq!(flat.dtype, Dtype::Complex64);
            prop_assert_eq!(bytes.len() % ALIGNMENT_BYTES, 0);
        }

        #[test]
        fn any_header_text_is_parsed_or_refused(text in ".*") {
            let _ = parse(&text);
        }
    }
}
