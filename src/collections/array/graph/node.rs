//! The expression graph of arrays: what an array is made of, without its blocks.
//!
//! A node is immutable and shared by all expressions that use it; its element type is data, and
//! [`Array`](crate::collections::Array) gives it back its Rust type.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use super::grid::Grid;
use super::window::Run;
use crate::client::call::Input;
use crate::client::{Call, Client};
use crate::collections::array::task::ops::{Binary, Op, Scalar};
use crate::collections::array::task::program::Extreme;
use crate::collections::array::task::random::Distribution;
use crate::model::block::Shape;
use crate::model::numbers::Dtype;

/// One array of an expression.
pub(crate) struct Node {
    /// No other node of this process has it.
    pub(crate) id: u64,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Shape,
    /// How it is cut if it is made by itself.
    pub(crate) grid: Grid,
    pub(crate) kind: Kind,
}

/// Makes a call from where a block is.
pub(crate) type BlockCall = Arc<dyn Fn(&BlockPlace) -> Call<()> + Send + Sync>;

/// Makes a call from the blocks of its operands.
pub(crate) type MappedCall = Arc<dyn Fn(&[Input]) -> Call<()> + Send + Sync>;

/// What a node is.
pub(crate) enum Kind {
    // Computed where it is used, as steps of a task's program:
    /// The same number everywhere.
    Fill(Scalar),
    /// The number of each place, counted by rows.
    Index,
    /// Random numbers.
    Random { seed: u64, distribution: Distribution },
    /// An operation on operands that are broadcast to the node's shape.
    Apply { op: Op, of: SmallVec<[Arc<Node>; 3]> },
    /// A selection: a run for each axis of `of`, along axes of the node.
    Select { of: Arc<Node>, runs: SmallVec<[Run; 4]> },
    /// Arrays one after the other along an axis.
    Join { of: Vec<Arc<Node>>, axis: usize },

    // Blocks of their own, each a task:
    /// Blocks that are on the cluster.
    Held(Vec<Input>),
    /// Small blocks that come with the expression; each an argument that is sent along.
    Given(Vec<GivenBlock>),
    /// Blocks that come with the expression, and go to the workers by themselves.
    Scattered(Vec<ScatteredBlock>),
    /// Blocks that the user's task makes.
    Called(BlockCall),
    /// Blocks that the user's task makes from those of other arrays.
    Mapped { of: Vec<Overlapped>, call: MappedCall },
    /// A fold along axes, which keep extent 1.
    Folded { of: Arc<Node>, op: Binary, axes: SmallVec<[bool; 4]> },
    /// Count, mean and squared differences along axes, which keep extent 1; behind a first axis of 3.
    Moments { of: Arc<Node>, axes: SmallVec<[bool; 4]> },
    /// The place of the smallest or largest along axes, which keep extent 1; `strides` number the places.
    Best { of: Arc<Node>, axes: SmallVec<[bool; 4]>, which: Extreme, strides: SmallVec<[i64; 4]> },
    /// How many numbers are in each interval.
    Histogram { of: Arc<Node>, low: f64, high: f64, bins: usize },
    /// Running folds along an axis.
    Running { of: Arc<Node>, op: Binary, axis: usize },
    /// The same numbers by rows in other shapes: block for block.
    Reshaped(Arc<Node>),
    /// The product of two matrices; the inner axis is cut as that of the left factor.
    Product { left: Arc<Node>, right: Arc<Node> },
}

/// A block that comes with the expression: puts itself into a call's arguments.
pub(crate) type GivenBlock = Arc<dyn Fn(&mut crate::client::argument::ArgumentList) + Send + Sync>;

/// A block that comes with the expression: scattered as one part of so many, if they lie side by side.
pub(crate) type ScatteredBlock = Arc<dyn Fn(&Client, Option<(u32, u32)>) -> Input + Send + Sync>;

/// An operand of a mapped task: an array, and how far beyond the node's block its own reaches.
///
/// Block `[a, b)` along an axis takes `[a, b + reach)`.
pub(crate) struct Overlapped {
    pub(crate) of: Arc<Node>,
    pub(crate) reach: Shape,
}

/// Where a block is in its array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockPlace {
    /// The number of the block along each axis.
    pub index: Vec<usize>,
    /// Its first element's place.
    pub start: Vec<usize>,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Node {
    pub(crate) fn new(dtype: Dtype, grid: Grid, kind: Kind) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { id, dtype, shape: grid.shape(), grid, kind })
    }

    /// A selection of this array.
    pub(crate) fn select(self: &Arc<Self>, runs: impl IntoIterator<Item = Run>, grid: Grid) -> Arc<Self> {
        let kind = Kind::Select { of: self.clone(), runs: runs.into_iter().collect() };
        Self::new(self.dtype, grid, kind)
    }

    /// The same array, cut in another way.
    pub(crate) fn cut(self: &Arc<Self>, grid: Grid) -> Arc<Self> {
        if grid == self.grid {
            return self.clone();
        }
        let runs = (0..self.shape.len()).map(|axis| Run { start: 0, step: 1, along: Some(axis) });
        self.select(runs, grid)
    }

    /// Where one of its blocks is.
    pub(crate) fn place(&self, block: usize) -> BlockPlace {
        let position = self.grid.position(block);
        BlockPlace {
            start: self.grid.start(&position).to_vec(),
            shape: self.grid.extent(&position).to_vec(),
            index: position.to_vec(),
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} in {:?} blocks", self.dtype, &self.shape[..], &self.grid.counts()[..])
    }
}
