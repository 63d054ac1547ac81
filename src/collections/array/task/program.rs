//! What a task of an array does, as data: the client's plan writes it, a worker's [`evaluate`](super::evaluate) runs it.
//!
//! A [`Program`] computes one block: steps in order, each on what earlier ones gave, the last is the result. Steps
//! read the task's inputs through affine maps, so slicing, transposing and broadcasting cost no step of their own.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::ops::{Binary, Op, Scalar};
use super::random::Distribution;
use crate::model::block::Shape;
use crate::model::numbers::Dtype;

/// Steps in element of memory per axis; negative runs backwards, 0 repeats.
pub(crate) type Strides = SmallVec<[i64; 4]>;

/// The computation of one block.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Program {
    /// The extent of each axis of the result, and of every step.
    pub(crate) shape: Shape,
    /// The last is the result.
    pub(crate) steps: Vec<Step>,
}

/// One step: a number for each place of the block.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Step {
    /// The type of its numbers.
    pub(crate) dtype: Dtype,
    /// How they come about.
    pub(crate) what: What,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum What {
    /// Read from an input.
    Load(Load),
    /// The place's value under an affine map, an `i64`.
    Index(Affine),
    /// The random number that belongs to the place's value under an affine map, an `f64`.
    Random { seed: u64, distribution: Distribution, at: Affine },
    /// The same everywhere.
    Fill(Scalar),
    /// Put together from parts that do not overlap and leave nothing out.
    Join(Vec<Part>),
    /// An operation on earlier steps.
    Apply { op: Op, of: SmallVec<[u32; 3]> },
}

/// A part of a join.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Where in the whole it begins.
    pub(crate) at: Shape,
    /// What is there.
    pub(crate) program: Program,
}

/// Places of a block to integers: `offset` plus the sum of index times stride.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct Affine {
    pub(crate) offset: i64,
    pub(crate) strides: Strides,
}

/// A view of an input.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    /// Which one.
    pub(crate) input: u32,
    /// The shape that it has.
    pub(crate) of: Shape,
    /// Which of its numbers stands at a place.
    pub(crate) at: Affine,
}

/// An input of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum InputKind {
    /// A block of this type.
    Block(Dtype),
    /// The best numbers of this type and where they are.
    Best(Dtype),
}

/// A task: its inputs, and what it makes of them.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) inputs: Vec<InputKind>,
    pub(crate) job: Job,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// The program's block, in this shape.
    Evaluate { program: Program, shape: Shape },
    /// The program's block, folded along some axes, which stay with extent 1.
    Fold { program: Program, op: Binary, axes: SmallVec<[bool; 4]> },
    /// Count, mean and sum of squared differences of each row of an `f64` program, whose last `reduced` axes are a row.
    /// The result has an axis of 3 before `shape`.
    Moments { program: Program, reduced: usize, shape: Shape },
    /// The moments of several parts as those of the whole.
    MergeMoments,
    /// The first smallest or largest of each row, and its place; rows as in `Moments`.
    Best { program: Program, which: Extreme, place: Affine, shape: Shape },
    /// The best of several parts; the places alone if it is the last.
    MergeBest { which: Extreme, last: bool },
    /// How many numbers of an `f64` program are in each of `bins` equal intervals.
    Histogram { program: Program, low: f64, high: f64, bins: usize },
    /// Running sums or products along an axis, from those of the block before in the last input if there is one.
    Accumulate { program: Program, op: Binary, axis: usize, carried: bool },
    /// The sum of matrix products, each a step of two loads.
    Multiply { dtype: Dtype, rows: usize, columns: usize, terms: Vec<Term> },
}

/// One product of a blocked matrix multiplication.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Term {
    /// How many columns the left and rows the right factor has.
    pub(crate) inner: usize,
    pub(crate) left: Load,
    pub(crate) right: Load,
}

/// Which number is best.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Extreme {
    Smallest,
    Largest,
}

impl Program {
    /// A view of an input.
    pub(crate) fn of_load(dtype: Dtype, shape: Shape, load: Load) -> Self {
        Self { shape, steps: vec![Step { dtype, what: What::Load(load) }] }
    }
}

impl Affine {
    /// The row-major map of a block of this shape.
    pub(crate) fn dense(shape: &[usize]) -> Self {
        Self { offset: 0, strides: dense_strides(shape) }
    }
}

/// The row-major strides of a shape.
pub(crate) fn dense_strides(shape: &[usize]) -> Strides {
    let mut strides = Strides::from_elem(0, shape.len());
    let mut stride = 1i64;
    for (axis, extent) in shape.iter().enumerate().rev() {
        strides[axis] = stride;
        stride = stride.saturating_mul(*extent as i64);
    }
    strides
}
