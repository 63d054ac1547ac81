//! Array files against NumPy, h5py and zarr: what they write is read here, by parts; what is written here, by parts and
//! from several threads, they read. Then files that are damaged, missing, forbidden or of another type.

#![allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]

mod disk;
mod faults;
#[cfg(all(feature = "hdf5", feature = "zarr"))]
mod formats;
#[cfg(all(feature = "hdf5", feature = "zarr"))]
mod python;

use std::ops::Range;

use dcluster::collections::storage::{Draft, StorageError, StoredArray};
use dcluster::model::numbers::Element;
use num_complex::Complex64;

/// Element types with the numbers that both sides expect.
pub(crate) trait Expected: Element {
    /// Element `index`, in row-major order, of every array.
    fn number(index: usize) -> Self;
}

macro_rules! expected {
    ($($element:ty: $k:ident => $number:expr),* $(,)?) => {
        $(
            impl Expected for $element {
                fn number(index: usize) -> Self {
                    let $k = index as i64;
                    $number
                }
            }
        )*
    };
}

expected! {
    f32: k => k as f32 * 0.5 - 3.0,
    f64: k => k as f64 * 0.5 - 3.0,
    i32: k => (k * 1003 - 77) as i32,
    i64: k => k * 1003 - 77,
    u8: k => (k * 7 % 251) as u8,
    bool: k => k % 3 == 0,
    Complex64: k => Complex64::new(k as f64 * 0.5 - 3.0, -k as f64),
}

/// The elements of a part, as expected.
pub(crate) fn part<T: Expected>(shape: &[usize], ranges: &[Range<usize>]) -> Vec<T> {
    let mut numbers = vec![0usize];
    for (range, &length) in ranges.iter().zip(shape) {
        numbers =
            numbers.iter().flat_map(|before| range.clone().map(move |at| before * length + at)).collect();
    }
    numbers.into_iter().map(T::number).collect()
}

/// Reads a part and compares it.
pub(crate) fn check_part<T: Expected>(stored: &StoredArray, ranges: &[Range<usize>]) {
    let wanted = part::<T>(stored.shape(), ranges);
    let mut found = vec![T::default(); wanted.len()];
    stored.read(ranges, &mut found).unwrap_or_else(|error| panic!("{stored:?} {ranges:?}: {error}"));
    assert_eq!(found, wanted, "{stored:?} {ranges:?}");
}

/// Writes the whole array in blocks of this shape.
pub(crate) fn write_blocks<T: Expected>(
    draft: &Draft,
    shape: &[usize],
    block: &[usize],
) -> Result<(), StorageError> {
    blocks(shape, block).iter().try_for_each(|ranges| draft.write(ranges, &part::<T>(shape, ranges)))
}

/// The parts of an array that is cut into blocks.
pub(crate) fn blocks(shape: &[usize], block: &[usize]) -> Vec<Vec<Range<usize>>> {
    let mut all = vec![Vec::new()];
    for (&length, &step) in shape.iter().zip(block) {
        all = all
            .into_iter()
            .flat_map(|before: Vec<Range<usize>>| {
                (0..length).step_by(step).map(move |start| {
                    let mut ranges = before.clone();
                    ranges.push(start..length.min(start + step));
                    ranges
                })
            })
            .collect();
    }
    all
}
