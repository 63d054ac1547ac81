//! How an array is cut into blocks: the bounds of the chunks along each axis.

use std::sync::Arc;

use crate::model::block::{Shape, element_count};

/// An array of more blocks is a mistake: the bounds alone would fill the client's memory.
const BLOCKS_MAX: usize = 1 << 24;

/// The bounds of the chunks of each axis, from 0 to the axis's extent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Grid {
    axes: Vec<Bounds>,
}

/// The bounds of the chunks of one axis: one more than there are chunks.
pub(crate) type Bounds = Arc<[usize]>;

impl Grid {
    pub(crate) fn new(axes: Vec<Bounds>) -> Self {
        debug_assert!(axes.iter().all(|bounds| bounds.len() > 1 && bounds[0] == 0 && bounds.is_sorted()));
        Self { axes }
    }

    /// Chunks of this shape, smaller ones at the ends.
    ///
    /// # Errors
    /// If the two have different axes, or a chunk is empty.
    pub(crate) fn regular(shape: &[usize], chunk: &[usize]) -> Result<Self, String> {
        if shape.len() != chunk.len() {
            return Err(format!(
                "chunks of shape {chunk:?} do not cut an array of shape {shape:?}: give one extent per axis"
            ));
        }
        if chunk.contains(&0) {
            return Err(format!("chunks of shape {chunk:?} are empty: give extents of at least 1"));
        }
        let counts = shape.iter().zip(chunk).map(|(extent, chunk)| extent.div_ceil(*chunk).max(1));
        check(shape, counts)?;
        Ok(Self::new(shape.iter().zip(chunk).map(|(extent, chunk)| regular(*extent, *chunk)).collect()))
    }

    /// Chunks with these bounds.
    ///
    /// # Errors
    /// If there are more elements or blocks than an array has.
    pub(crate) fn of_bounds(axes: Vec<Bounds>) -> Result<Self, String> {
        let grid = Self::new(axes);
        check(&grid.shape(), grid.counts())?;
        Ok(grid)
    }

    /// One chunk.
    pub(crate) fn whole(shape: &[usize]) -> Self {
        Self::new(shape.iter().map(|extent| whole(*extent)).collect())
    }

    pub(crate) fn axes(&self) -> &[Bounds] {
        &self.axes
    }

    pub(crate) fn axis(&self, axis: usize) -> &Bounds {
        &self.axes[axis]
    }

    /// How many blocks there are.
    pub(crate) fn blocks(&self) -> usize {
        self.axes.iter().map(|bounds| bounds.len() - 1).product()
    }

    /// How many blocks there are along each axis.
    pub(crate) fn counts(&self) -> Shape {
        self.axes.iter().map(|bounds| bounds.len() - 1).collect()
    }

    /// Where a block stands along each axis; blocks are numbered row by row.
    pub(crate) fn position(&self, mut block: usize) -> Shape {
        let mut position = self.counts();
        for at in position.iter_mut().rev() {
            let count = *at;
            *at = block % count;
            block /= count;
        }
        position
    }

    /// The number of the block that stands there.
    pub(crate) fn block_at(&self, position: &[usize]) -> usize {
        self.axes.iter().zip(position).fold(0, |block, (bounds, at)| block * (bounds.len() - 1) + at)
    }

    /// Where a block begins.
    pub(crate) fn start(&self, position: &[usize]) -> Shape {
        self.axes.iter().zip(position).map(|(bounds, at)| bounds[*at]).collect()
    }

    /// The shape of a block.
    pub(crate) fn extent(&self, position: &[usize]) -> Shape {
        self.axes.iter().zip(position).map(|(bounds, at)| bounds[at + 1] - bounds[*at]).collect()
    }

    pub(crate) fn shape(&self) -> Shape {
        self.axes.iter().map(|bounds| bounds[bounds.len() - 1]).collect()
    }
}

/// Chunks of this extent, and what is left.
pub(crate) fn regular(extent: usize, chunk: usize) -> Bounds {
    let mut bounds: Vec<usize> = (0..extent).step_by(chunk).collect();
    if bounds.is_empty() {
        bounds.push(0);
    }
    bounds.push(extent);
    bounds.into()
}

/// One chunk.
pub(crate) fn whole(extent: usize) -> Bounds {
    Arc::new([0, extent])
}

/// Whether an array has such a shape, and so many blocks along each axis.
fn check(shape: &[usize], counts: impl IntoIterator<Item = usize>) -> Result<(), String> {
    if element_count(shape).is_none() {
        return Err(format!("an array of shape {shape:?} has more elements than can be numbered"));
    }
    let mut blocks = Some(1usize);
    for count in counts {
        blocks = blocks.and_then(|blocks| blocks.checked_mul(count));
    }
    match blocks {
        Some(blocks) if blocks <= BLOCKS_MAX => Ok(()),
        _ => Err(format!(
            "an array of shape {shape:?} would have more than {BLOCKS_MAX} blocks: cut it into larger chunks"
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_numbered_by_rows_and_cover_the_array() {
        let grid = Grid::regular(&[5, 4], &[2, 3]).unwrap();
        assert_eq!((grid.blocks(), &grid.counts()[..]), (6, [3, 2].as_slice()));
        for block in 0..6 {
            let position = grid.position(block);
            assert_eq!(grid.block_at(&position), block);
        }
        assert_eq!(
            (&grid.start(&[2, 1])[..], &grid.extent(&[2, 1])[..]),
            ([4, 3].as_slice(), [1, 1].as_slice())
        );
        assert_eq!(Grid::regular(&[0], &[3]).unwrap().blocks(), 1, "an empty array has an empty block");
        assert!(Grid::regular(&[5], &[0]).is_err() && Grid::regular(&[5], &[1, 1]).is_err());
        assert!(Grid::regular(&[usize::MAX], &[1 << 60]).is_err());
        assert!(Grid::regular(&[1 << 32, 1 << 32, 0], &[1 << 32; 3]).is_err());
        for (shape, chunk) in [([1 << 60, 1], [1, 1]), ([0, i64::MAX as usize], [1, 1])] {
            let error = Grid::regular(&shape, &chunk).unwrap_err();
            assert!(error.contains("cut it into larger chunks"), "{error}");
        }
    }
}
