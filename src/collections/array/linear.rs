//! Products: of matrices, over several axes, of vectors.

use std::sync::Arc;

use super::Array;
use super::elementwise::Number;
use super::graph::grid::Grid;
use super::graph::node::{Kind, Node};
use super::select::{axis_of, permuted};
use super::shape::reshaped;

impl<T: Number> Array<T> {
    /// The matrix product of two arrays with one or two axes; a vector is a row on the left and a column on the right.
    ///
    /// A block of the result is made of a row of blocks and a column of blocks, with the kernel of the `matrixmultiply`
    /// crate: a task adds up eight products, and more of them go up a tree. Transposed arrays are read as they are.
    ///
    /// ```
    /// use dcluster::collections::Array;
    /// use dcluster::prelude::*;
    ///
    /// #[dcluster::main]
    /// async fn main(client: Client) -> dcluster::Result<()> {
    ///     let x = Array::random_normal(1, [60, 40], [20, 20]);
    ///     let y = Array::random_normal(2, [40, 50], [20, 25]);
    ///     let z = client.compute(&x.matmul(&y).sum());
    ///     // The sum of a product is that of the sums of the factors' columns and rows.
    ///     let same = client.compute(&x.sum_axis(0).dot(&y.sum_axis(1)));
    ///     assert!((z.await?.item().unwrap() - same.await?.item().unwrap()).abs() < 1e-9);
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    pub fn matmul(&self, other: &Array<T>) -> Self {
        self.with(other, |left, right| match (left.shape.len(), right.shape.len()) {
            (2, 2) => product(left, right),
            (1, 2) => {
                let row = reshaped(left, &[1, left.shape[0]])?;
                reshaped(&product(&row, right)?, &[right.shape[1]])
            }
            (2, 1) => {
                let column = reshaped(right, &[right.shape[0], 1])?;
                reshaped(&product(left, &column)?, &[left.shape[0]])
            }
            (1, 1) => contracted(left, right, &[0], &[0]),
            (a, b) => {
                Err(format!("arrays of {a} and {b} axes have no matrix product: they have one or two each"))
            }
        })
    }

    /// The product of two vectors or matrices, as [`matmul`](Self::matmul).
    #[track_caller]
    pub fn dot(&self, other: &Array<T>) -> Self {
        self.matmul(other)
    }

    /// The product over pairs of axes: axis `axes[k]` of this array with axis `other_axes[k]` of the other. The result has
    /// the other axes of the first and then those of the second.
    #[track_caller]
    pub fn tensordot(&self, other: &Array<T>, axes: &[isize], other_axes: &[isize]) -> Self {
        self.with(other, |left, right| {
            if axes.len() != other_axes.len() {
                return Err(format!("{} axes are paired with {}", axes.len(), other_axes.len()));
            }
            let left_axes = axes.iter().map(|axis| axis_of(left, *axis)).collect::<Result<Vec<_>, _>>()?;
            let right_axes =
                other_axes.iter().map(|axis| axis_of(right, *axis)).collect::<Result<Vec<_>, _>>()?;
            contracted(left, right, &left_axes, &right_axes)
        })
    }
}

fn product(left: &Arc<Node>, right: &Arc<Node>) -> Result<Arc<Node>, String> {
    if left.shape[1] != right.shape[0] {
        let (a, b) = (&left.shape[..], &right.shape[..]);
        return Err(format!("matrices of shapes {a:?} and {b:?} have no product: {} is not {}", a[1], b[0]));
    }
    let grid = Grid::of_bounds(vec![left.grid.axis(0).clone(), right.grid.axis(1).clone()])?;
    Ok(Node::new(left.dtype, grid, Kind::Product { left: left.clone(), right: right.clone() }))
}

/// As a matrix product: the axes that are summed over become the inner one.
fn contracted(
    left: &Arc<Node>,
    right: &Arc<Node>,
    left_axes: &[usize],
    right_axes: &[usize],
) -> Result<Arc<Node>, String> {
    for (a, b) in left_axes.iter().zip(right_axes) {
        if left.shape[*a] != right.shape[*b] {
            return Err(format!(
                "axis {a} of shape {:?} and axis {b} of shape {:?} are not summed over: their extents differ",
                &left.shape[..],
                &right.shape[..]
            ));
        }
    }
    for axes in [left_axes, right_axes] {
        if (1..axes.len()).any(|at| axes[..at].contains(&axes[at])) {
            return Err(format!("{axes:?} names an axis twice"));
        }
    }
    let kept = |node: &Node, axes: &[usize]| -> Vec<usize> {
        (0..node.shape.len()).filter(|axis| !axes.contains(axis)).collect()
    };
    let (left_kept, right_kept) = (kept(left, left_axes), kept(right, right_axes));
    let extent =
        |node: &Node, axes: &[usize]| -> usize { axes.iter().map(|axis| node.shape[*axis]).product() };
    let inner = extent(left, left_axes);
    let rows = permuted(left, &[&left_kept[..], left_axes].concat());
    let columns = permuted(right, &[right_axes, &right_kept[..]].concat());
    let rows = reshaped(&rows, &[extent(left, &left_kept), inner])?;
    let columns = reshaped(&columns, &[inner, extent(right, &right_kept)])?;
    let mut shape: Vec<usize> = left_kept.iter().map(|axis| left.shape[*axis]).collect();
    shape.extend(right_kept.iter().map(|axis| right.shape[*axis]));
    reshaped(&product(&rows, &columns)?, &shape)
}
