//! The expression graph of arrays: what an array is made of, without its blocks.
//!
//! A node is immutable and shared by all expressions that use it; its element type is data, and
//! [`Array`](crate::collections::Array) gives it back its Rust type.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use smallvec::{SmallVec, smallvec};

use super::grid::Grid;
use super::window::Run;
use crate::client::argument::ArgumentList;
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
    /// How far below it the last of its operands is.
    pub(crate) depth: usize,
    pub(crate) shapes: Shapes,
}

/// Who says that the blocks of an array have the shapes that its grid gives them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shapes {
    /// The tasks of arrays, which see to it.
    Made,
    /// A user's task, or the program: nobody has looked yet.
    Promised,
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
    Held { blocks: Vec<Input>, shapes: Shapes },
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
pub(crate) type GivenBlock = Arc<dyn Fn(&mut ArgumentList) + Send + Sync>;

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        let depth = kind.operands().iter().map(|of| of.depth + 1).max().unwrap_or(0);
        let shapes = match &kind {
            Kind::Held { shapes, .. } => *shapes,
            Kind::Called(_) | Kind::Mapped { .. } => Shapes::Promised,
            // A block may be handed on as it is.
            Kind::Select { .. } | Kind::Join { .. } => kind
                .operands()
                .iter()
                .map(|of| of.shapes)
                .find(|shapes| *shapes == Shapes::Promised)
                .unwrap_or(Shapes::Made),
            _ => Shapes::Made,
        };
        Arc::new(Self { id, dtype, shape: grid.shape(), grid, kind, depth, shapes })
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

impl Kind {
    /// The arrays that it is made of.
    fn operands(&self) -> SmallVec<[&Arc<Node>; 3]> {
        match self {
            Self::Apply { of, .. } => of.iter().collect(),
            Self::Join { of, .. } => of.iter().collect(),
            Self::Mapped { of, .. } => of.iter().map(|operand| &operand.of).collect(),
            Self::Select { of, .. }
            | Self::Folded { of, .. }
            | Self::Moments { of, .. }
            | Self::Best { of, .. }
            | Self::Histogram { of, .. }
            | Self::Running { of, .. }
            | Self::Reshaped(of) => smallvec![of],
            Self::Product { left, right } => smallvec![left, right],
            Self::Fill(_)
            | Self::Index
            | Self::Random { .. }
            | Self::Held { .. }
            | Self::Given(_)
            | Self::Scattered(_)
            | Self::Called(_) => SmallVec::new(),
        }
    }
}

/// One after the other: a chain of a hundred thousand operations is deeper than a stack.
impl Drop for Node {
    fn drop(&mut self) {
        let mut rest: Vec<Arc<Self>> = self.kind.operands().into_iter().cloned().collect();
        self.kind = Kind::Index;
        while let Some(node) = rest.pop() {
            if let Some(mut last) = Arc::into_inner(node) {
                rest.extend(last.kind.operands().into_iter().cloned());
                last.kind = Kind::Index;
            }
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} in {:?} blocks", self.dtype, &self.shape[..], &self.grid.counts()[..])
    }
}
