//! Where arrays come from: formulas, memory, user's tasks, and futures that are there already.
//!
//! [`Array::from_function`] is the way in for any source on disk or elsewhere: a task per block, told where it is.

use std::sync::Arc;

use ndarray::ArrayViewD;

use super::Array;
use super::elementwise::Number;
use super::graph::grid::Grid;
use super::graph::node::{BlockPlace, GivenBlock, Kind, Node, ScatteredBlock, Shapes};
use super::task::ops::Scalar;
use super::task::random::Distribution;
use crate::client::future::Future;
use crate::client::{Call, Client};
use crate::model::Value;
use crate::model::block::Block;
use crate::model::numbers::{Dtype, Element};

/// A smaller array of the program travels with the calls that need it.
const GIVEN_BYTES_MAX: usize = 64 << 10;

impl<T: Element> Array<T> {
    /// The same number everywhere, in chunks of this shape.
    #[track_caller]
    pub fn full(number: T, shape: impl AsRef<[usize]>, chunk: impl AsRef<[usize]>) -> Self {
        let grid = Grid::regular(shape.as_ref(), chunk.as_ref());
        Self::try_of(grid.map(|grid| Node::new(T::DTYPE, grid, Kind::Fill(Scalar::of(number)))))
    }

    /// Zeros, or false.
    #[track_caller]
    pub fn zeros(shape: impl AsRef<[usize]>, chunk: impl AsRef<[usize]>) -> Self {
        Self::full(T::default(), shape, chunk)
    }

    /// A copy of an array of this program, cut into chunks.
    ///
    /// When it is computed, the blocks that are needed are [scattered](Client::scatter): they go straight to the
    /// workers, which hold them for as long as tasks or futures need them. Computing it again sends them again unless
    /// the cluster still has them: [persist](Client::persist) what is used more than once. Blocks that are lost with a
    /// worker are not sent again, and what needs them fails. An array of up to 64 KiB travels with the calls instead,
    /// as arguments do.
    ///
    /// ```
    /// use dcluster::collections::Array;
    /// use ndarray::array;
    ///
    /// let x = Array::from_array(&array![[1.0, 2.0], [3.0, 4.0]].into_dyn().view(), [1, 2]);
    /// assert_eq!((x.shape(), x.chunks()), ([2, 2].as_slice(), vec![vec![1, 1], vec![2]]));
    /// ```
    #[track_caller]
    pub fn from_array(array: &ArrayViewD<'_, T>, chunk: impl AsRef<[usize]>) -> Self {
        let grid = Grid::regular(array.shape(), chunk.as_ref());
        Self::try_of(grid.map(|grid| {
            let blocks = (0..grid.blocks()).map(|block| {
                let position = grid.position(block);
                let (start, extent) = (grid.start(&position), grid.extent(&position));
                let part = array.slice_each_axis(|axis| {
                    let from = start[axis.axis.index()] as isize;
                    ndarray::Slice::from(from..from + extent[axis.axis.index()] as isize)
                });
                Block::from(&part)
            });
            let kind = if array.len() * size_of::<T>() <= GIVEN_BYTES_MAX {
                Kind::Given(blocks.map(given).collect())
            } else {
                Kind::Scattered(blocks.map(scattered).collect())
            };
            Node::new(T::DTYPE, grid, kind)
        }))
    }

    /// An array whose blocks a task makes: `call` says where each block is to come from.
    ///
    /// ```
    /// use dcluster::collections::{Array, Block};
    /// use dcluster::prelude::*;
    ///
    /// #[dcluster::task]
    /// fn table(start: Vec<usize>, shape: Vec<usize>) -> Result<Block<f64>, String> {
    ///     let rows = (start[0]..start[0] + shape[0]).flat_map(|x| (0..shape[1]).map(move |y| (x * y) as f64));
    ///     Block::new(&shape, rows.collect::<Vec<_>>())
    /// }
    ///
    /// #[dcluster::main]
    /// async fn main(client: Client) -> dcluster::Result<()> {
    ///     let x = Array::from_function([6, 4], [2, 4], |place| table::call(&place.start, &place.shape));
    ///     assert_eq!(client.compute(&x.max()).await?.item(), Some(15.0));
    ///     Ok(())
    /// }
    /// ```
    ///
    /// A block of another shape than it is asked for fails what is made of it.
    #[track_caller]
    pub fn from_function(
        shape: impl AsRef<[usize]>,
        chunk: impl AsRef<[usize]>,
        call: impl Fn(&BlockPlace) -> Call<Block<T>> + Send + Sync + 'static,
    ) -> Self {
        let grid = Grid::regular(shape.as_ref(), chunk.as_ref());
        let call = Arc::new(move |place: &BlockPlace| call(place).untyped());
        Self::try_of(grid.map(|grid| Node::new(T::DTYPE, grid, Kind::Called(call))))
    }

    /// An array of blocks that are on the cluster, row by row.
    ///
    /// ```
    /// use dcluster::collections::{Array, Block};
    /// use dcluster::prelude::*;
    ///
    /// #[dcluster::main]
    /// async fn main(client: Client) -> dcluster::Result<()> {
    ///     let rows = (0..4).map(|row| Block::new([1, 8], vec![f64::from(row); 8]).unwrap());
    ///     let blocks = client.scatter_all(rows).await?;
    ///     let x = Array::from_blocks([4, 8], [1, 8], &blocks);
    ///     assert_eq!(client.compute(&x.sum()).await?.item(), Some(48.0));
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    pub fn from_blocks<M>(
        shape: impl AsRef<[usize]>,
        chunk: impl AsRef<[usize]>,
        blocks: &[Future<Block<T>, M>],
    ) -> Self {
        Self::try_of(Grid::regular(shape.as_ref(), chunk.as_ref()).and_then(|grid| {
            if grid.blocks() != blocks.len() {
                return Err(format!("{} blocks are given for an array of {}", blocks.len(), grid.blocks()));
            }
            let blocks = blocks.iter().map(Future::input).collect();
            Ok(Node::new(T::DTYPE, grid, Kind::Held { blocks, shapes: Shapes::Promised }))
        }))
    }
}

impl<T: Number> Array<T> {
    /// Ones.
    #[track_caller]
    pub fn ones(shape: impl AsRef<[usize]>, chunk: impl AsRef<[usize]>) -> Self {
        Self::full(T::ONE, shape, chunk)
    }

    /// `start`, `start + step`, … up to but without `stop`, in chunks of so many.
    #[track_caller]
    pub fn arange(start: T, stop: T, step: T, chunk: usize) -> Self {
        let length = T::steps(start, stop, step);
        let index = length.and_then(|length| Grid::regular(&[length], &[chunk]));
        let index: Array<i64> = Array::try_of(index.map(|grid| Node::new(Dtype::I64, grid, Kind::Index)));
        index.cast::<T>() * step + start
    }
}

impl Array<f64> {
    /// `count` numbers from `start` to `stop`, both included, equally far from each other.
    #[track_caller]
    pub fn linspace(start: f64, stop: f64, count: usize, chunk: usize) -> Self {
        let index = Array::<f64>::arange(0.0, count as f64, 1.0, chunk);
        let last = count.saturating_sub(1) as f64;
        index
            .lt(last)
            .choose(&index * ((stop - start) / last.max(1.0)) + start, if count > 1 { stop } else { start })
    }

    /// Random numbers, evenly from [0, 1): the same for the same seed and shape, whatever the chunks and workers.
    #[track_caller]
    pub fn random_uniform(seed: u64, shape: impl AsRef<[usize]>, chunk: impl AsRef<[usize]>) -> Self {
        Self::random(seed, Distribution::Uniform, shape.as_ref(), chunk.as_ref())
    }

    /// Random numbers from the normal distribution with mean 0 and deviation 1, reproducible as
    /// [`random_uniform`](Self::random_uniform).
    #[track_caller]
    pub fn random_normal(seed: u64, shape: impl AsRef<[usize]>, chunk: impl AsRef<[usize]>) -> Self {
        Self::random(seed, Distribution::Normal, shape.as_ref(), chunk.as_ref())
    }

    #[track_caller]
    fn random(seed: u64, distribution: Distribution, shape: &[usize], chunk: &[usize]) -> Self {
        let grid = Grid::regular(shape, chunk);
        Self::try_of(grid.map(|grid| Node::new(Dtype::F64, grid, Kind::Random { seed, distribution })))
    }
}

/// An array without axes.
impl<T: Element> From<T> for Array<T> {
    fn from(number: T) -> Self {
        Self::of(Node::new(T::DTYPE, Grid::whole(&[]), Kind::Fill(Scalar::of(number))))
    }
}

fn given<T: Element>(block: Block<T>) -> GivenBlock {
    Arc::new(move |arguments| arguments.put_value(&block))
}

fn scattered<T: Element>(block: Block<T>) -> ScatteredBlock {
    let value = Value::new(block);
    Arc::new(move |client: &Client, share| client.scatter_meanwhile::<Block<T>>(&value, share).input())
}
