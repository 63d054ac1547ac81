//! What part of an array is asked for: a regular selection of places, in any order of axes.
//!
//! A [`Window`] says for each axis of the array which places are wanted and along which axis of the result they run.
//! Slices, transposes and broadcasts are windows on what is below them, so a chain of them is one window, and only
//! blocks under it are computed.

use smallvec::SmallVec;

use crate::collections::array::task::program::Affine;
use crate::model::block::Shape;

/// Places along one axis: `start + step × index`, where the index is that of the result's axis `along`, or 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Run {
    pub(crate) start: i64,
    pub(crate) step: i64,
    pub(crate) along: Option<usize>,
}

/// A selection of an array's places.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Window {
    /// The shape of the result.
    pub(crate) shape: Shape,
    /// One per axis of the array; no two run along the same axis of the result.
    pub(crate) runs: SmallVec<[Run; 4]>,
}

/// Indices `from..from + length` of a window's axis, which all fall into chunk `chunk`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Segment {
    pub(crate) chunk: usize,
    pub(crate) from: usize,
    pub(crate) length: usize,
}

impl Run {
    /// Always this place.
    pub(crate) const fn fixed(start: i64) -> Self {
        Self { start, step: 0, along: None }
    }

    /// This run, of an axis that is itself selected by `outer` from an array above.
    pub(crate) fn under(self, outer: &[Run]) -> Self {
        match self.along {
            None => self,
            Some(axis) => {
                let outer = outer[axis];
                let start = self.start + self.step * outer.start;
                Self { start, step: self.step * outer.step, along: outer.along }
            }
        }
    }

    /// How many indices it takes.
    fn length(self, shape: &[usize]) -> usize {
        self.along.map_or(1, |axis| shape[axis])
    }
}

impl Window {
    /// A box of the array, axes as they are.
    pub(crate) fn of_box(start: &[usize], extent: &[usize]) -> Self {
        let runs = start.iter().enumerate();
        let runs = runs.map(|(axis, start)| Run { start: *start as i64, step: 1, along: Some(axis) });
        Self { shape: Shape::from_slice(extent), runs: runs.collect() }
    }

    /// The window on an operand that is broadcast to the array that this is a window on: axes are counted from the
    /// last, and one of extent 1 serves for any place.
    pub(crate) fn broadcast(&self, operand: &[usize]) -> Self {
        let skipped = self.runs.len() - operand.len();
        let runs = operand.iter().zip(&self.runs[skipped..]);
        let runs = runs.map(|(extent, run)| if *extent == 1 { Run::fixed(0) } else { *run });
        Self { shape: self.shape.clone(), runs: runs.collect() }
    }

    /// The window on an array of which the array that this is a window on is a selection.
    pub(crate) fn through(&self, selection: &[Run]) -> Self {
        let runs = selection.iter().map(|run| run.under(&self.runs)).collect();
        Self { shape: self.shape.clone(), runs }
    }

    /// The part of it that one segment per axis of the array leaves, for an array that begins at `origin`.
    pub(crate) fn part(&self, segments: &[Segment], origin: &[usize]) -> Self {
        let mut shape = self.shape.clone();
        let mut runs = self.runs.clone();
        for ((run, segment), origin) in runs.iter_mut().zip(segments).zip(origin) {
            run.start += run.step * segment.from as i64 - *origin as i64;
            if let Some(axis) = run.along {
                shape[axis] = segment.length;
            }
        }
        Self { shape, runs }
    }

    /// Where the part that these segments leave begins in the result.
    pub(crate) fn place(&self, segments: &[Segment]) -> Shape {
        let mut place = Shape::from_elem(0, self.shape.len());
        for (run, segment) in self.runs.iter().zip(segments) {
            if let Some(axis) = run.along {
                place[axis] = segment.from;
            }
        }
        place
    }

    /// The selection along one axis, cut where it crosses a bound.
    pub(crate) fn segments(&self, axis: usize, bounds: &[usize]) -> Vec<Segment> {
        let run = self.runs[axis];
        let length = run.length(&self.shape);
        let mut segments = Vec::new();
        let mut from = 0;
        while from < length {
            let place = run.start + run.step * from as i64;
            // The last chunk that begins at or before the place is not empty, and holds it.
            let chunk =
                bounds[..bounds.len() - 1].partition_point(|bound| *bound as i64 <= place).saturating_sub(1);
            let inside = match run.step {
                0 => length,
                step if step > 0 => ((bounds[chunk + 1] as i64 - place + step - 1) / step).max(1) as usize,
                step => ((place - bounds[chunk] as i64) / -step + 1).max(1) as usize,
            };
            segments.push(Segment { chunk, from, length: inside.min(length - from) });
            from += inside;
        }
        if segments.is_empty() {
            segments.push(Segment { chunk: 0, from: 0, length: 0 });
        }
        segments
    }

    /// The places as an affine map into the row-major memory that `strides` describes.
    pub(crate) fn affine(&self, strides: &[i64]) -> Affine {
        let mut affine = Affine { offset: 0, strides: SmallVec::from_elem(0, self.shape.len()) };
        for (run, stride) in self.runs.iter().zip(strides) {
            affine.offset += run.start * stride;
            if let Some(axis) = run.along {
                affine.strides[axis] += run.step * stride;
            }
        }
        affine
    }

    /// Whether nothing is asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }
}

/// Where the chunks of a selection end, which takes `length` places of an axis with these bounds.
pub(crate) fn selected_bounds(bounds: &[usize], run: Run, length: usize) -> Vec<usize> {
    let window = Window {
        shape: Shape::from_slice(&[length]),
        runs: [Run { along: Some(0), ..run }].into_iter().collect(),
    };
    let mut selected: Vec<usize> = window.segments(0, bounds).iter().map(|segment| segment.from).collect();
    selected.push(length);
    selected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(start: i64, step: i64, length: usize) -> Window {
        Window {
            shape: Shape::from_slice(&[length]),
            runs: [Run { start, step, along: Some(0) }].into_iter().collect(),
        }
    }

    #[test]
    fn segments_fall_into_one_chunk_each_and_leave_nothing_out() {
        let bounds = [0, 3, 3, 7, 10];
        for start in 0..10i64 {
            for step in -4..5i64 {
                let length = (0..12).take_while(|k| (0..10).contains(&(start + step * k))).count();
                let mut next = 0;
                for segment in window(start, step, length).segments(0, &bounds) {
                    assert_eq!(segment.from, next);
                    for index in segment.from..segment.from + segment.length {
                        let place = (start + step * index as i64) as usize;
                        assert!((bounds[segment.chunk]..bounds[segment.chunk + 1]).contains(&place));
                    }
                    next += segment.length;
                }
                assert_eq!(next, length, "start {start}, step {step}");
            }
        }
    }

    #[test]
    fn a_slice_of_a_slice_is_one_selection() {
        // x[10..0;-2][1..4]: places 7, 5, 3 of x.
        let inner = Run { start: 9, step: -2, along: Some(0) };
        let outer = window(1, 1, 3);
        let runs = outer.through(&[inner]).runs;
        assert_eq!(runs[0], Run { start: 7, step: -2, along: Some(0) });
        assert_eq!(selected_bounds(&[0, 5, 10], Run { start: 9, step: -2, along: Some(0) }, 5), [0, 3, 5]);
    }
}
