//! Other shapes and chunks of the same elements, and arrays put together.

use std::ops::Range;
use std::sync::Arc;

use super::Array;
use super::graph::grid::{Bounds, Grid, whole};
use super::graph::node::{Kind, Node};
use super::graph::plan::zero;
use super::graph::window::Run;
use super::select::axis_of;
use crate::model::block::element_count;
use crate::model::numbers::Element;

impl<T: Element> Array<T> {
    /// The same array in other chunks; each is put together from parts of those that there are.
    #[track_caller]
    pub fn rechunk(&self, chunk: impl AsRef<[usize]>) -> Self {
        self.then(|of| Grid::regular(&of.shape, chunk.as_ref()).map(|grid| of.cut(grid)))
    }

    /// The same elements, row by row, in another shape.
    ///
    /// Axes that are joined or split are first cut so that each block is reshaped by itself: the joined ones in one
    /// piece, except the first.
    ///
    /// ```
    /// use dcluster::collections::Array;
    ///
    /// let x = Array::<f64>::zeros([6, 4, 5], [2, 4, 5]);
    /// assert_eq!(x.reshape([24, 5]).chunks(), [vec![8, 8, 8], vec![5]]);
    /// assert!(x.reshape([7, 7]).check().is_err());
    /// ```
    #[track_caller]
    pub fn reshape(&self, shape: impl AsRef<[usize]>) -> Self {
        self.then(|of| reshaped(of, shape.as_ref()))
    }

    /// All elements, row by row, along one axis.
    #[track_caller]
    pub fn flatten(&self) -> Self {
        self.then(|of| reshaped(of, &[of.shape.iter().product()]))
    }

    /// The array repeated along new axes and those of extent 1.
    #[track_caller]
    pub fn broadcast_to(&self, shape: impl AsRef<[usize]>) -> Self {
        self.then(|of| {
            let shape = shape.as_ref();
            let skipped = shape.len().checked_sub(of.shape.len());
            let fits = skipped.is_some_and(|skipped| {
                of.shape.iter().zip(&shape[skipped..]).all(|(own, extent)| *own == 1 || own == extent)
            });
            let (Some(skipped), true, true) = (skipped, fits, element_count(shape).is_some()) else {
                return Err(format!("an array of shape {:?} is not broadcast to {shape:?}", &of.shape[..]));
            };
            let mut bounds: Vec<Bounds> = shape.iter().map(|extent| whole(*extent)).collect();
            let mut runs = Vec::new();
            for axis in 0..of.shape.len() {
                if of.shape[axis] == shape[skipped + axis] {
                    bounds[skipped + axis] = of.grid.axis(axis).clone();
                    runs.push(Run { start: 0, step: 1, along: Some(skipped + axis) });
                } else {
                    runs.push(Run::fixed(0));
                }
            }
            Ok(of.select(runs, Grid::new(bounds)))
        })
    }

    /// Arrays one after the other along an axis that they have.
    ///
    /// ```
    /// use dcluster::collections::Array;
    ///
    /// let (x, y) = (Array::<f64>::zeros([4, 3], [2, 3]), Array::<f64>::zeros([1, 3], [1, 3]));
    /// assert_eq!(Array::concatenate([&x, &y], 0).shape(), [5, 3]);
    /// assert_eq!(Array::stack([&x, &x], 0).shape(), [2, 4, 3]);
    /// ```
    #[track_caller]
    pub fn concatenate<A: Into<Array<T>>>(arrays: impl IntoIterator<Item = A>, axis: isize) -> Self {
        let arrays: Vec<Array<T>> = arrays.into_iter().map(Into::into).collect();
        match Self::nodes(&arrays) {
            Ok(nodes) => Self::try_of(joined(nodes, axis)),
            Err(first) => first,
        }
    }

    /// Arrays of one shape along an axis that they do not have.
    #[track_caller]
    pub fn stack<A: Into<Array<T>>>(arrays: impl IntoIterator<Item = A>, axis: isize) -> Self {
        let arrays: Vec<Array<T>> = arrays.into_iter().map(|array| array.into().insert_axis(axis)).collect();
        match Self::nodes(&arrays) {
            // (Each has the axis by now, and a negative one still counts from the last.)
            Ok(nodes) => Self::try_of(joined(nodes, axis)),
            Err(first) => first,
        }
    }

    /// The nodes of arrays, or the first that makes no sense.
    fn nodes(arrays: &[Self]) -> Result<Vec<Arc<Node>>, Self> {
        arrays.iter().map(|array| array.node.clone().map_err(|_| array.clone())).collect()
    }
}

fn joined(of: Vec<Arc<Node>>, axis: isize) -> Result<Arc<Node>, String> {
    let Some(first) = of.first() else { return Err("no arrays are given to be put together".to_owned()) };
    let axis = axis_of(first, axis)?;
    let mut axes = first.grid.axes().to_vec();
    let mut bounds = vec![0usize];
    for node in &of {
        let others_fit = node.shape.len() == first.shape.len()
            && (0..axes.len()).all(|at| at == axis || node.shape[at] == first.shape[at]);
        if !others_fit {
            let (a, b) = (&first.shape[..], &node.shape[..]);
            return Err(format!(
                "arrays of shapes {a:?} and {b:?} do not stand one after the other along axis {axis}"
            ));
        }
        let start = bounds[bounds.len() - 1];
        bounds.extend(node.grid.axis(axis)[1..].iter().map(|bound| start.saturating_add(*bound)));
        for (at, chosen) in axes.iter_mut().enumerate() {
            if at != axis && node.grid.axis(at).len() > chosen.len() {
                *chosen = node.grid.axis(at).clone();
            }
        }
    }
    bounds.dedup();
    if bounds.len() == 1 {
        bounds.push(0);
    }
    axes[axis] = bounds.into();
    let dtype = first.dtype;
    Ok(Node::new(dtype, Grid::of_bounds(axes)?, Kind::Join { of, axis }))
}

/// Axes `from` of the old shape that hold the same elements as axes `to` of the new one.
struct Group {
    from: Range<usize>,
    to: Range<usize>,
}

pub(super) fn reshaped(of: &Arc<Node>, shape: &[usize]) -> Result<Arc<Node>, String> {
    if element_count(shape) != element_count(&of.shape) {
        return Err(format!(
            "an array of shape {:?} does not have as many elements as {shape:?}",
            &of.shape[..]
        ));
    }
    if of.shape.contains(&0) {
        let empty = Node::new(of.dtype, Grid::whole(shape), Kind::Fill(zero(of.dtype)));
        return Ok(empty);
    }
    let (mut old, mut new) = (vec![whole(1); of.shape.len()], vec![whole(1); shape.len()]);
    for group in groups(&of.shape, shape) {
        cut_group(of, shape, &group, &mut old, &mut new);
    }
    let cut = of.cut(Grid::new(old));
    Ok(Node::new(of.dtype, Grid::new(new), Kind::Reshaped(cut)))
}

/// The smallest groups of axes with the same number of elements before and after.
fn groups(old: &[usize], new: &[usize]) -> Vec<Group> {
    let (mut groups, mut from, mut to) = (Vec::new(), 0, 0);
    while from < old.len() || to < new.len() {
        let (mut from_end, mut to_end) = (from, to);
        let (mut before, mut after) = (1, 1);
        loop {
            if before <= after && from_end < old.len() && (before < after || from_end == from) {
                before *= old[from_end];
                from_end += 1;
            } else if to_end < new.len() && (after < before || to_end == to) {
                after *= new[to_end];
                to_end += 1;
            } else {
                break;
            }
        }
        // Axes of extent 1 at the ends belong to the last group.
        if from_end == old.len() || to_end == new.len() {
            (from_end, to_end) = (old.len(), new.len());
        }
        groups.push(Group { from: from..from_end, to: to..to_end });
        (from, to) = (from_end, to_end);
    }
    groups
}

/// Cuts the axes of a group so that its blocks hold the same elements before and after.
fn cut_group(of: &Node, shape: &[usize], group: &Group, old: &mut [Bounds], new: &mut [Bounds]) {
    for axis in group.from.clone() {
        old[axis] = whole(of.shape[axis]);
    }
    for axis in group.to.clone() {
        new[axis] = whole(shape[axis]);
    }
    // (Leading axes of extent 1 do not matter; the first other one is cut.)
    let first_of = |mut axes: Range<usize>, shape: &[usize]| axes.find(|axis| shape[*axis] != 1);
    let (Some(first), Some(new_first)) =
        (first_of(group.from.clone(), &of.shape), first_of(group.to.clone(), shape))
    else {
        return;
    };
    let rest: usize = of.shape[first + 1..group.from.end].iter().product();
    let new_rest: usize = shape[new_first + 1..group.to.end].iter().product();
    let unit = rest / greatest_divisor(rest, new_rest) * new_rest;
    let total = rest * of.shape[first];
    let mut bounds: Vec<usize> = of.grid.axis(first).iter().map(|bound| bound * rest / unit * unit).collect();
    if let Some(last) = bounds.last_mut() {
        *last = total;
    }
    bounds.dedup();
    old[first] = bounds.iter().map(|bound| bound / rest).collect();
    new[new_first] = bounds.iter().map(|bound| bound / new_rest).collect();
}

fn greatest_divisor(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
