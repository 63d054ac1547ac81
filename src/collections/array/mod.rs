//! Arrays on the cluster: chunked, n-dimensional, lazy.
//!
//! An [`Array`] is an expression over blocks. Making one, slicing it, adding two of them costs nothing and moves
//! nothing; [`Client::compute`] and [`Client::persist`] submit one task per block of the result, in which the whole
//! chain of operations is fused, and nothing for blocks that the result does not need.
//!
//! ```
//! use dcluster::collections::{Array, s};
//! use dcluster::prelude::*;
//!
//! #[dcluster::main]
//! async fn main(client: Client) -> dcluster::Result<()> {
//!     let x = Array::random_normal(7, [1000, 500], [250, 250]); // 8 blocks; the same numbers on any cluster
//!     let y = (&x - x.mean_axis(0)) / x.std_axis(0); // broadcast, as in NumPy
//!     let y = client.persist(&y);
//!     let top = client.compute(&y.slice(s![..100, ..]).max()); // needs the blocks of the first rows only
//!     let gram = client.compute(&y.t().matmul(&y).slice(s![0, 0]));
//!     assert!(top.await?.item().unwrap() > 2.0);
//!     assert!((gram.await?.item().unwrap() - 1000.0).abs() < 1e-6);
//!     Ok(())
//! }
//! ```
//!
//! # What is there
//!
//! | | |
//! |---|---|
//! | from | [`zeros`](Array::zeros), [`ones`](Array::ones), [`full`](Array::full), [`arange`](Array::arange), [`linspace`](Array::linspace), [`random_uniform`](Array::random_uniform), [`random_normal`](Array::random_normal), [`from_array`](Array::from_array), [`from_function`](Array::from_function), [`from_blocks`](Array::from_blocks), [`from_npy`](Array::from_npy), [`from_hdf5`](Array::from_hdf5), [`from_zarr`](Array::from_zarr) |
//! | into files | [`to_npy`](Array::to_npy), [`to_hdf5`](Array::to_hdf5), [`to_zarr`](Array::to_zarr) |
//! | elementwise | `+ - * / %`, comparisons ([`lt`](Array::lt), …), [`choose`](Array::choose), [`cast`](Array::cast), the functions of `f32` and `f64`, `& \| ^ !` on masks |
//! | selection | [`slice`](Array::slice), [`t`](Array::t), [`permute`](Array::permute), [`reshape`](Array::reshape), [`broadcast_to`](Array::broadcast_to), [`concatenate`](Array::concatenate), [`stack`](Array::stack), [`rechunk`](Array::rechunk) |
//! | reductions | [`sum`](Array::sum), [`prod`](Array::prod), [`mean`](Array::mean), [`var`](Array::var), [`std`](Array::std), [`min`](Array::min), [`max`](Array::max), [`argmin`](Array::argmin), [`argmax`](Array::argmax), [`any`](Array::any), [`all`](Array::all), each also along axes (`sum_axis`); [`cumsum`](Array::cumsum), [`cumsum_flat`](Array::cumsum_flat), [`cumprod`](Array::cumprod), [`histogram`](Array::histogram) |
//! | products | [`matmul`](Array::matmul), [`dot`](Array::dot), [`tensordot`](Array::tensordot), [`norm`](Array::norm) |
//! | own tasks | [`map_blocks`](Array::map_blocks), [`zip_blocks`](Array::zip_blocks), [`map_overlap`](Array::map_overlap) |
//!
//! Shapes are broadcast and NaN is treated as NumPy does; integers wrap around. What differs: `/` of integers and `%` of
//! all numbers are Rust's (cut off towards zero, so that a remainder has the sign of the dividend, as `fmod` gives it; an
//! integer divided by 0 gives 0), sums and products of integers are `i64`, those of `f32` are computed as `f64`,
//! conversions are Rust's `as`, comparisons, variances and extremes are for types with an order, and products of
//! matrices for one or two axes of numbers. Sums go up a tree whose shape depends on the chunks alone, so a result is the
//! same to the last bit whatever workers computed it.
//!
//! # Mistakes
//!
//! An expression that makes no sense (shapes that do not fit, an axis that is not there) stays an array, which carries
//! the reason and the line of the program through whatever is made of it: [`Array::check`] gives it at once, and the
//! future of [`compute`](Client::compute) fails with it.
//!
//! # Inside
//!
//! `graph/` is the client's half, from an expression to calls; `task/` is the worker's, from a call to a block; the files
//! beside this one are the methods by topic. A source of blocks needs neither: [`Array::from_function`] is enough.

mod create;
mod elementwise;
mod file;
mod function;
mod graph;
mod linear;
mod overlap;
mod reduce;
mod select;
mod shape;
mod task;

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;

use super::Lazy;
use crate::client::future::Future;
use crate::client::{Client, Error};
use crate::model::block::Block;
use crate::model::numbers::Element;
use graph::node::{Kind, Node};
use graph::plan::{Planner, planned};

pub use elementwise::{Bits, Float, Number, Numeric, Ordered, Real};
pub use file::ToFile;
pub use function::ComplexNumber;
pub use graph::node::BlockPlace;
pub use overlap::Boundary;
pub use reduce::Axes;
pub use select::Selection;

/// More operations one on the other than this are not planned: a task runs them all on a strip of its block, and each
/// has a strip.
const DEPTH_MAX: usize = 4096;

/// A chunked n-dimensional array, computed when a client is asked to.
///
/// A clone shares the expression. See the [module](self) for what can be done with it.
pub struct Array<T> {
    /// What it is, or why it is nothing.
    node: Result<Arc<Node>, Arc<str>>,
    element: PhantomData<fn() -> T>,
}

impl<T: Element> Array<T> {
    /// The extent of each axis; empty for an expression that makes no sense.
    pub fn shape(&self) -> &[usize] {
        self.node.as_ref().map_or(&[], |node| &node.shape)
    }

    /// How many axes it has.
    pub fn ndim(&self) -> usize {
        self.shape().len()
    }

    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The extents of the chunks along each axis.
    pub fn chunks(&self) -> Vec<Vec<usize>> {
        let axes = self.node.as_ref().map_or(&[][..], |node| node.grid.axes());
        axes.iter().map(|bounds| bounds.windows(2).map(|pair| pair[1] - pair[0]).collect()).collect()
    }

    /// Where each block is, row by row.
    pub fn block_places(&self) -> Vec<BlockPlace> {
        let Ok(node) = &self.node else { return Vec::new() };
        (0..node.grid.blocks()).map(|block| node.place(block)).collect()
    }

    /// The futures of the blocks of a persisted array, row by row; none of any other.
    pub fn blocks(&self) -> Vec<Future<Block<T>>> {
        match self.node.as_deref() {
            Ok(Node { kind: Kind::Held { blocks, .. }, .. }) => {
                blocks.iter().filter_map(Future::from_input).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The array itself, or why it makes no sense.
    ///
    /// # Errors
    /// [`Error::Expression`], which says what and where.
    pub fn check(self) -> Result<Self, Error> {
        match &self.node {
            Ok(_) => Ok(self),
            Err(reason) => Err(Error::Expression(reason.clone())),
        }
    }

    fn of(node: Arc<Node>) -> Self {
        debug_assert_eq!(node.dtype, T::DTYPE);
        Self { node: Ok(node), element: PhantomData }
    }

    /// An array that could be made, or one that says why it could not, and where the program asked for it.
    #[track_caller]
    fn try_of(node: Result<Arc<Node>, String>) -> Self {
        let place = Location::caller();
        let node = node.and_then(|node| match node.depth {
            ..=DEPTH_MAX => Ok(node),
            _ => Err(format!(
                "an expression of more than {DEPTH_MAX} operations one on the other: persist it now and then"
            )),
        });
        let node =
            node.map_err(|reason| Arc::from(format!("{reason} (at {}:{})", place.file(), place.line())));
        Self { node, element: PhantomData }
    }

    /// What is made of this array alone.
    #[track_caller]
    fn then<U: Element>(&self, make: impl FnOnce(&Arc<Node>) -> Result<Arc<Node>, String>) -> Array<U> {
        match &self.node {
            Ok(node) => Array::try_of(make(node)),
            Err(reason) => Array { node: Err(reason.clone()), element: PhantomData },
        }
    }

    /// What is made of this array and another.
    #[track_caller]
    fn with<U: Element, V: Element>(
        &self,
        other: &Array<U>,
        make: impl FnOnce(&Arc<Node>, &Arc<Node>) -> Result<Arc<Node>, String>,
    ) -> Array<V> {
        match &other.node {
            Ok(other) => self.then(|node| make(node, other)),
            Err(reason) => self.node.as_ref().err().map_or_else(
                || Array { node: Err(reason.clone()), element: PhantomData },
                |first| Array { node: Err(first.clone()), element: PhantomData },
            ),
        }
    }
}

/// Has the tasks of arrays linked into a program that does not use arrays itself, as the stock workers do.
pub(crate) fn link_tasks() {
    std::hint::black_box(&task::BLOCK);
    file::link_tasks();
}

impl<T: Element> Lazy for Array<T> {
    type Output = Block<T>;

    fn compute_on<M>(&self, client: &Client) -> Future<Block<T>, M> {
        let outcome = match &self.node {
            Ok(node) => {
                let submit = |call| client.submit_as::<(), M>(call).input();
                let whole = planned(node, || Planner::new(client, &submit).assembled(node));
                Future::from_input(&whole)
            }
            Err(reason) => return client.failed("array", Error::Expression(reason.clone())),
        };
        outcome.unwrap_or_else(|| {
            client.failed("array", Error::Expression("a block is no future of a client".into()))
        })
    }

    fn persist_on(&self, client: &Client) -> Self {
        let Ok(node) = &self.node else { return self.clone() };
        let submit = |call| client.submit(call).input();
        let blocks = planned(node, || Planner::new(client, &submit).spread(node));
        let kind = Kind::Held { blocks, shapes: node.shapes };
        Self::of(Node::new(node.dtype, node.grid.clone(), kind))
    }
}

impl<T> Clone for Array<T> {
    fn clone(&self) -> Self {
        Self { node: self.node.clone(), element: PhantomData }
    }
}

impl<T: Element> From<&Array<T>> for Array<T> {
    fn from(array: &Array<T>) -> Self {
        array.clone()
    }
}

/// Like `<Array: f64, shape (1000, 500), 8 blocks>`.
impl<T: Element> fmt::Debug for Array<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.node {
            Ok(node) => {
                write!(
                    f,
                    "<Array: {}, shape {:?}, {} blocks>",
                    node.dtype,
                    &node.shape[..],
                    node.grid.blocks()
                )
            }
            Err(reason) => write!(f, "<Array: {}, {reason}>", T::DTYPE),
        }
    }
}
