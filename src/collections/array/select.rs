//! Selections: slices, single indices, other orders of the axes. None of them is a task of its own.

use std::ops::Range;
use std::sync::Arc;

use ndarray::{Dimension, SliceInfo, SliceInfoElem};
use smallvec::SmallVec;

use super::Array;
use super::graph::grid::{Grid, whole};
use super::graph::node::Node;
use super::graph::window::{Run, selected_bounds};
use crate::model::numbers::Element;

/// What [`Array::slice`] takes: `s![…]`, or its elements one by one.
pub trait Selection {
    #[doc(hidden)]
    fn elements(&self) -> &[SliceInfoElem];
}

impl<I: AsRef<[SliceInfoElem]>, In: Dimension, Out: Dimension> Selection for SliceInfo<I, In, Out> {
    fn elements(&self) -> &[SliceInfoElem] {
        (**self).as_ref()
    }
}

impl Selection for [SliceInfoElem] {
    fn elements(&self) -> &[SliceInfoElem] {
        self
    }
}

impl Selection for Vec<SliceInfoElem> {
    fn elements(&self) -> &[SliceInfoElem] {
        self
    }
}

impl<S: Selection + ?Sized> Selection for &S {
    fn elements(&self) -> &[SliceInfoElem] {
        (**self).elements()
    }
}

impl<T: Element> Array<T> {
    /// A part of the array, written as for `ndarray`: `x.slice(s![2.., ..;2, -1])`.
    ///
    /// Axes that are not mentioned are taken whole. A range is cut to the extent; with a negative step it is taken
    /// backwards, beginning with its last element: `..;-1` reverses an axis. A single index takes the axis away, and
    /// `NewAxis` puts one in.
    ///
    /// ```
    /// use dcluster::collections::{Array, s};
    ///
    /// let x = Array::<f64>::zeros([10, 20], [5, 5]);
    /// assert_eq!(x.slice(s![2..4, ..;3]).shape(), [2, 7]);
    /// assert_eq!(x.slice(s![-1, ..]).shape(), [20]);
    /// let error = x.slice(s![10]).check().unwrap_err().to_string();
    /// assert!(error.starts_with("index 10 is outside of axis 0, which has extent 10"), "{error}");
    /// ```
    #[track_caller]
    pub fn slice(&self, selection: impl Selection) -> Self {
        self.then(|of| sliced(of, selection.elements()))
    }

    /// One index along an axis, which goes away.
    #[track_caller]
    pub fn index_axis(&self, axis: isize, index: isize) -> Self {
        self.then(|of| {
            let mut elements = vec![ALL; of.shape.len()];
            elements[axis_of(of, axis)?] = SliceInfoElem::Index(index);
            sliced(of, &elements)
        })
    }

    /// A range along an axis, cut to its extent.
    #[track_caller]
    pub fn slice_axis(&self, axis: isize, range: Range<usize>) -> Self {
        self.then(|of| {
            let mut elements = vec![ALL; of.shape.len()];
            let bound = |at: usize| at.min(isize::MAX as usize) as isize;
            let (start, end) = (bound(range.start), Some(bound(range.end)));
            elements[axis_of(of, axis)?] = SliceInfoElem::Slice { start, end, step: 1 };
            sliced(of, &elements)
        })
    }

    /// An axis backwards.
    #[track_caller]
    pub fn flip(&self, axis: isize) -> Self {
        self.then(|of| {
            let mut elements = vec![ALL; of.shape.len()];
            elements[axis_of(of, axis)?] = SliceInfoElem::Slice { start: 0, end: None, step: -1 };
            sliced(of, &elements)
        })
    }

    /// The axes in the opposite order.
    #[track_caller]
    pub fn t(&self) -> Self {
        self.then(|of| {
            let order: Vec<usize> = (0..of.shape.len()).rev().collect();
            Ok(permuted(of, &order))
        })
    }

    /// The axes in this order: axis `k` of the result is axis `order[k]` of this array.
    #[track_caller]
    pub fn permute(&self, order: impl AsRef<[isize]>) -> Self {
        self.then(|of| {
            let axes = order.as_ref().iter().map(|axis| axis_of(of, *axis)).collect::<Result<Vec<_>, _>>()?;
            let mut sorted = axes.clone();
            sorted.sort_unstable();
            if sorted.iter().copied().ne(0..of.shape.len()) {
                return Err(format!(
                    "{:?} does not order {} axes: name each of them once",
                    order.as_ref(),
                    of.shape.len()
                ));
            }
            Ok(permuted(of, &axes))
        })
    }

    /// Two axes in each other's place.
    #[track_caller]
    pub fn swap_axes(&self, first: isize, second: isize) -> Self {
        self.then(|of| {
            let mut order: Vec<usize> = (0..of.shape.len()).collect();
            order.swap(axis_of(of, first)?, axis_of(of, second)?);
            Ok(permuted(of, &order))
        })
    }

    /// An axis of extent 1, which is axis `axis` of the result.
    #[track_caller]
    pub fn insert_axis(&self, axis: isize) -> Self {
        self.then(|of| {
            let axis = place_of_axis(of, axis)?;
            let mut elements = vec![ALL; of.shape.len()];
            elements.insert(axis, SliceInfoElem::NewAxis);
            sliced(of, &elements)
        })
    }

    /// Without the axes of extent 1.
    #[track_caller]
    pub fn squeeze(&self) -> Self {
        self.then(|of| {
            let axes: SmallVec<[bool; 4]> = of.shape.iter().map(|extent| *extent == 1).collect();
            Ok(without(of, &axes))
        })
    }
}

const ALL: SliceInfoElem = SliceInfoElem::Slice { start: 0, end: None, step: 1 };

/// An axis by its number; negative ones count from the last.
pub(super) fn axis_of(node: &Node, axis: isize) -> Result<usize, String> {
    let ndim = node.shape.len();
    let counted = if axis < 0 { axis + ndim as isize } else { axis };
    match usize::try_from(counted) {
        Ok(counted) if counted < ndim => Ok(counted),
        _ => Err(format!("axis {axis} is not one of the {ndim} axes of shape {:?}", &node.shape[..])),
    }
}

/// The place of an axis among one more than there are.
pub(super) fn place_of_axis(node: &Node, axis: isize) -> Result<usize, String> {
    let ndim = node.shape.len();
    let counted = if axis < 0 { axis + ndim as isize + 1 } else { axis };
    match usize::try_from(counted) {
        Ok(counted) if counted <= ndim => Ok(counted),
        _ => Err(format!("an array of {ndim} axes has no place {axis} for another")),
    }
}

/// An array without axes of extent 1.
pub(super) fn without(of: &Arc<Node>, axes: &[bool]) -> Arc<Node> {
    let mut bounds = Vec::new();
    let mut runs = Vec::new();
    for (axis, gone) in axes.iter().enumerate() {
        if *gone {
            runs.push(Run::fixed(0));
        } else {
            runs.push(Run { start: 0, step: 1, along: Some(bounds.len()) });
            bounds.push(of.grid.axis(axis).clone());
        }
    }
    of.select(runs, Grid::new(bounds))
}

pub(super) fn permuted(of: &Arc<Node>, order: &[usize]) -> Arc<Node> {
    let mut runs = vec![Run::fixed(0); order.len()];
    for (along, axis) in order.iter().enumerate() {
        runs[*axis] = Run { start: 0, step: 1, along: Some(along) };
    }
    let grid = Grid::new(order.iter().map(|axis| of.grid.axis(*axis).clone()).collect());
    of.select(runs, grid)
}

fn sliced(of: &Arc<Node>, elements: &[SliceInfoElem]) -> Result<Arc<Node>, String> {
    let ndim = of.shape.len();
    let taken = elements.iter().filter(|element| !element.is_new_axis()).count();
    if taken > ndim {
        return Err(format!("{taken} axes are sliced of an array of shape {:?}", &of.shape[..]));
    }
    let rest = std::iter::repeat_n(&ALL, ndim - taken);
    let (mut bounds, mut runs) = (Vec::new(), Vec::new());
    for element in elements.iter().chain(rest) {
        let axis = runs.len();
        match *element {
            SliceInfoElem::NewAxis => bounds.push(whole(1)),
            SliceInfoElem::Index(index) => {
                let extent = of.shape[axis] as isize;
                if index >= extent || index < -extent {
                    return Err(format!(
                        "index {index} is outside of axis {axis}, which has extent {extent}"
                    ));
                }
                runs.push(Run::fixed(index.rem_euclid(extent) as i64));
            }
            SliceInfoElem::Slice { start, end, step } => {
                let (run, length) = range(of.shape[axis], start, end, step)?;
                bounds.push(selected_bounds(of.grid.axis(axis), run, length).into());
                runs.push(Run { along: Some(bounds.len() - 1), ..run });
            }
        }
    }
    Ok(of.select(runs, Grid::new(bounds)))
}

/// A range as a run, and its length. Ends are cut to the extent.
fn range(extent: usize, start: isize, end: Option<isize>, step: isize) -> Result<(Run, usize), String> {
    if step == 0 {
        return Err("a range has no step 0".to_owned());
    }
    let extent = extent as isize;
    let cut = |at: isize| (if at < 0 { at + extent } else { at }).clamp(0, extent);
    let (start, end) = (cut(start), end.map_or(extent, cut));
    let length = (end - start).max(0).unsigned_abs().div_ceil(step.unsigned_abs());
    let first = if step > 0 || length == 0 { start } else { end - 1 };
    Ok((Run { start: first as i64, step: step as i64, along: None }, length))
}
