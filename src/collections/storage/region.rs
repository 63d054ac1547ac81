//! Hyper-rectangles of an array: their checks, and the runs of elements that lie side by side. Next: `flat`.

use std::ops::Range;
use std::path::Path;

use super::StorageError;
#[cfg(any(feature = "hdf5", feature = "zarr"))]
use crate::model::numbers::Dtype;

/// The extent of each range.
pub(super) fn lengths(ranges: &[Range<usize>]) -> Vec<usize> {
    ranges.iter().map(ExactSizeIterator::len).collect()
}

/// How many elements `ranges` hold.
pub(super) fn count(ranges: &[Range<usize>]) -> usize {
    ranges.iter().map(ExactSizeIterator::len).product()
}

/// Whether `ranges` are a part of an array of `shape`, and `elements` as many as they hold.
pub(super) fn check(
    file: &Path,
    shape: &[usize],
    ranges: &[Range<usize>],
    elements: usize,
) -> Result<(), StorageError> {
    let inside = ranges.len() == shape.len()
        && ranges.iter().zip(shape).all(|(range, &length)| range.start <= range.end && range.end <= length);
    if !inside {
        return Err(StorageError::OutOfBounds {
            file: file.to_owned(),
            ranges: ranges.to_vec(),
            shape: shape.to_vec(),
        });
    }
    if count(ranges) != elements {
        return Err(StorageError::WrongLength { file: file.to_owned(), expected: count(ranges), elements });
    }
    Ok(())
}

/// Visits each chunk of an array that `ranges` touch: its index, the part of it, and the same part within `ranges`.
#[cfg_attr(not(any(feature = "hdf5", feature = "zarr")), allow(dead_code))]
pub(super) fn for_each_chunk(
    chunks: &[usize],
    ranges: &[Range<usize>],
    mut visit: impl FnMut(&[u64], &[Range<usize>], &[Range<usize>]) -> Result<(), StorageError>,
) -> Result<(), StorageError> {
    let first = |axis: usize| ranges[axis].start / chunks[axis];
    let mut index: Vec<usize> = (0..chunks.len()).map(first).collect();
    loop {
        let mut in_chunk = Vec::with_capacity(chunks.len());
        let mut in_part = Vec::with_capacity(chunks.len());
        for (axis, range) in ranges.iter().enumerate() {
            let start = index[axis] * chunks[axis];
            let (from, to) = (range.start.max(start), range.end.min(start + chunks[axis]));
            in_chunk.push(from - start..to - start);
            in_part.push(from - range.start..to - range.start);
        }
        let long: Vec<u64> = index.iter().map(|&at| at as u64).collect();
        visit(&long, &in_chunk, &in_part)?;

        let Some(axis) =
            (0..chunks.len()).rev().find(|&axis| (index[axis] + 1) * chunks[axis] < ranges[axis].end)
        else {
            return Ok(());
        };
        index[axis] += 1;
        (axis + 1..chunks.len()).for_each(|later| index[later] = first(later));
    }
}

/// Copies a part of a row-major array (`from`, of `from_shape`) to a part of another one, of the same extents.
#[cfg_attr(not(any(feature = "hdf5", feature = "zarr")), allow(dead_code))]
pub(super) fn copy_part(
    (from, from_shape, from_ranges): (&[u8], &[usize], &[Range<usize>]),
    (into, into_shape, into_ranges): (&mut [u8], &[usize], &[Range<usize>]),
    element_bytes: usize,
) {
    let mut sources = runs(from_shape, from_ranges);
    let mut source = Run { whole: 0, part: 0, length: 0 };
    for run in runs(into_shape, into_ranges) {
        let mut done = 0;
        while done < run.length {
            if source.length == 0 {
                let Some(next) = sources.next() else { return };
                source = next;
            }
            let length = source.length.min(run.length - done);
            into[(run.whole + done) * element_bytes..][..length * element_bytes]
                .copy_from_slice(&from[source.whole * element_bytes..][..length * element_bytes]);
            done += length;
            source.whole += length;
            source.length -= length;
        }
    }
}

/// A number of elements that follow each other both in the whole array and in the part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    /// Elements before it in the whole array.
    pub(super) whole: usize,
    /// Elements before it in the part.
    pub(super) part: usize,
    pub(super) length: usize,
}

/// The runs of the part `ranges` of a row-major array of `shape`, in ascending order: as few and long as can be.
pub(super) fn runs(shape: &[usize], ranges: &[Range<usize>]) -> Runs {
    // The last axis is one run; so is an axis whose followers are all complete.
    let mut run_axis = shape.len();
    let mut run_length = 1;
    while run_axis > 0 {
        run_axis -= 1;
        run_length *= ranges[run_axis].len();
        if ranges[run_axis].len() < shape[run_axis] {
            break;
        }
    }
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    let start = ranges.iter().zip(&strides).map(|(range, stride)| range.start * stride).sum();
    Runs {
        next: (count(ranges) > 0).then_some(Run { whole: start, part: 0, length: run_length }),
        index: vec![0; run_axis],
        counts: lengths(&ranges[..run_axis]),
        strides,
    }
}

/// See [`runs`].
pub(super) struct Runs {
    next: Option<Run>,
    /// Which run this is, along each axis before those inside a run.
    index: Vec<usize>,
    counts: Vec<usize>,
    strides: Vec<usize>,
}

impl Iterator for Runs {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let run = self.next?;
        let mut whole = run.whole;
        self.next = None;
        for axis in (0..self.index.len()).rev() {
            self.index[axis] += 1;
            whole += self.strides[axis];
            if self.index[axis] < self.counts[axis] {
                self.next = Some(Run { whole, part: run.part + run.length, length: run.length });
                break;
            }
            whole -= self.counts[axis] * self.strides[axis];
            self.index[axis] = 0;
        }
        Some(run)
    }
}

/// The shape of chunks of about `bytes`: whole trailing axes, as far as they go.
#[cfg(any(feature = "hdf5", feature = "zarr"))]
pub(super) fn chunks_of(dtype: Dtype, shape: &[usize], bytes: usize) -> Vec<usize> {
    let mut elements = (bytes / dtype.size()).max(1);
    let mut chunks = vec![1; shape.len()];
    for (chunk, &length) in chunks.iter_mut().zip(shape).rev() {
        *chunk = length.clamp(1, elements);
        elements = (elements / length.max(1)).max(1);
    }
    chunks
}

/// Copies elements of `element_bytes` from column-major to row-major order (of `counts` along the axes); with the axes
/// named in reverse it is the way back.
pub(super) fn transpose(from: &[u8], into: &mut [u8], counts: &[usize], element_bytes: usize) {
    let mut strides = vec![1; counts.len()];
    for axis in 1..counts.len() {
        strides[axis] = strides[axis - 1] * counts[axis - 1];
    }
    let mut index = vec![0; counts.len()];
    let mut source = 0;
    for element in into.chunks_exact_mut(element_bytes) {
        element.copy_from_slice(&from[source * element_bytes..][..element_bytes]);
        for axis in (0..counts.len()).rev() {
            index[axis] += 1;
            source += strides[axis];
            if index[axis] < counts[axis] {
                break;
            }
            source -= counts[axis] * strides[axis];
            index[axis] = 0;
        }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    fn run(whole: usize, part: usize, length: usize) -> Run {
        Run { whole, part, length }
    }

    #[test]
    fn complete_rows_are_one_run() {
        assert_eq!(runs(&[4, 3], &[1..3, 0..3]).collect::<Vec<_>>(), [run(3, 0, 6)]);
        assert_eq!(runs(&[4, 3, 2], &[0..4, 0..3, 0..2]).collect::<Vec<_>>(), [run(0, 0, 24)]);
        assert_eq!(runs(&[], &[]).collect::<Vec<_>>(), [run(0, 0, 1)]);
    }

    #[test]
    fn a_part_of_each_row_is_a_run_per_row() {
        assert_eq!(runs(&[4, 3], &[1..3, 1..2]).collect::<Vec<_>>(), [run(4, 0, 1), run(7, 1, 1)]);
        assert_eq!(runs(&[2, 3, 4], &[0..2, 1..3, 0..4]).collect::<Vec<_>>(), [run(4, 0, 8), run(16, 8, 8)],);
        assert_eq!(runs(&[4, 3], &[1..1, 0..3]).count(), 0);
    }

    #[test]
    fn a_part_is_copied_between_arrays_of_other_shapes() {
        let from: Vec<u8> = (0..12).collect(); // 3 × 4
        let mut into = vec![0; 8]; // 2 × 4, of which the last three columns are taken
        copy_part((&from, &[3, 4], &[1..3, 0..3]), (&mut into, &[2, 4], &[0..2, 1..4]), 1);
        assert_eq!(into, [0, 4, 5, 6, 0, 8, 9, 10]);
        let mut dense = vec![0; 6];
        copy_part((&from, &[3, 4], &[1..3, 1..4]), (&mut dense, &[2, 3], &[0..2, 0..3]), 1);
        assert_eq!(dense, [5, 6, 7, 9, 10, 11]);
    }

    #[test]
    fn column_major_turns_into_row_major_and_back() {
        let rows: Vec<u8> = vec![0, 1, 2, 10, 11, 12];
        let columns: Vec<u8> = vec![0, 10, 1, 11, 2, 12];
        let mut made = vec![0; 6];
        transpose(&columns, &mut made, &[2, 3], 1);
        assert_eq!(made, rows);
        transpose(&rows, &mut made, &[3, 2], 1);
        assert_eq!(made, columns);
    }
}
