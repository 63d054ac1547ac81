//! The user's own tasks on blocks: one by one, in pairs, or with a margin of their neighbours.

use std::sync::Arc;

use super::Array;
use super::graph::grid::Grid;
use super::graph::node::{Kind, MappedCall, Node, Overlapped};
use crate::client::Call;
use crate::client::future::Future;
use crate::model::block::{Block, Shape};
use crate::model::numbers::{Dtype, Element};

/// What is beyond the edge of an array.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Boundary<T> {
    /// This number.
    Constant(T),
    /// The element at the edge.
    Nearest,
    /// The elements before the edge, backwards, that at the edge included.
    Reflect,
    /// The other end of the array.
    Periodic,
}

impl<T: Element> Array<T> {
    /// Runs the user's task on each block; it returns a block of the same shape.
    ///
    /// ```
    /// use dcluster::collections::{Array, Block};
    /// use dcluster::prelude::*;
    ///
    /// #[dcluster::task]
    /// fn ranks(block: &Block<f64>) -> Result<Block<i64>, String> {
    ///     let mut order: Vec<usize> = (0..block.numbers().len()).collect();
    ///     order.sort_by(|a, b| block.numbers()[*a].total_cmp(&block.numbers()[*b]));
    ///     let mut ranks = vec![0; order.len()];
    ///     order.iter().enumerate().for_each(|(rank, at)| ranks[*at] = rank as i64);
    ///     Block::new(block.shape(), ranks)
    /// }
    ///
    /// #[dcluster::main]
    /// async fn main(client: Client) -> dcluster::Result<()> {
    ///     let ranks = Array::random_uniform(3, [100], [25]).map_blocks(ranks::call);
    ///     assert_eq!(client.compute(&ranks.max()).await?.item(), Some(24));
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    pub fn map_blocks<U: Element>(
        &self,
        call: impl Fn(Future<Block<T>>) -> Call<Block<U>> + Send + Sync + 'static,
    ) -> Array<U> {
        self.then(|of| {
            let operand = Overlapped { of: of.clone(), reach: Shape::from_elem(0, of.shape.len()) };
            Ok(mapped(U::DTYPE, of.grid.clone(), vec![operand], one(call)))
        })
    }

    /// Runs the user's task on each pair of blocks of two arrays of the same shape, the other one cut as this one.
    #[track_caller]
    pub fn zip_blocks<U: Element, V: Element>(
        &self,
        other: &Array<U>,
        call: impl Fn(Future<Block<T>>, Future<Block<U>>) -> Call<Block<V>> + Send + Sync + 'static,
    ) -> Array<V> {
        self.with(other, |of, other| {
            if of.shape != other.shape {
                let (a, b) = (&of.shape[..], &other.shape[..]);
                return Err(format!("blocks of arrays of shapes {a:?} and {b:?} do not go together"));
            }
            let reach = Shape::from_elem(0, of.shape.len());
            let operands = vec![
                Overlapped { of: of.clone(), reach: reach.clone() },
                Overlapped { of: other.cut(of.grid.clone()), reach },
            ];
            let call: MappedCall = Arc::new(move |inputs| {
                let [first, second] = inputs else { unreachable!("two operands have two inputs") };
                match (Future::from_input(first), Future::from_input(second)) {
                    (Some(first), Some(second)) => call(first, second).untyped(),
                    _ => unreachable!("inputs of a plan are futures of its client"),
                }
            });
            Ok(mapped(V::DTYPE, of.grid.clone(), operands, call))
        })
    }
}

impl<T: Element> Array<T> {
    /// Runs the user's task on each block with a margin of `depth` elements along each axis, taken from the neighbours
    /// and, at the edges of the array, from what the boundary says. The task returns the block without the margin.
    ///
    /// ```
    /// use dcluster::collections::{Array, Block, Boundary};
    /// use dcluster::prelude::*;
    ///
    /// #[dcluster::task]
    /// fn smooth(wide: &Block<f64>) -> Block<f64> {
    ///     let means: Vec<f64> = wide.numbers().windows(3).map(|x| x.iter().sum::<f64>() / 3.0).collect();
    ///     Block::new([means.len()], means).expect("as many as counted")
    /// }
    ///
    /// #[dcluster::main]
    /// async fn main(client: Client) -> dcluster::Result<()> {
    ///     let x = Array::<f64>::arange(0.0, 100.0, 1.0, 10);
    ///     let y = x.map_overlap([1], Boundary::Periodic, smooth::call);
    ///     let y = client.compute(&y).await?;
    ///     assert_eq!((y.numbers()[0], y.numbers()[50]), ((99.0 + 0.0 + 1.0) / 3.0, 50.0));
    ///     Ok(())
    /// }
    /// ```
    #[track_caller]
    pub fn map_overlap<U: Element>(
        &self,
        depth: impl AsRef<[usize]>,
        boundary: Boundary<T>,
        call: impl Fn(Future<Block<T>>) -> Call<Block<U>> + Send + Sync + 'static,
    ) -> Array<U> {
        let depth = depth.as_ref();
        let fits = self.then::<T>(|of| {
            let fits = depth.len() == of.shape.len()
                && depth.iter().zip(&of.shape).all(|(depth, extent)| depth <= extent);
            if fits {
                return Ok(of.clone());
            }
            Err(format!("a margin of {depth:?} does not go round an array of shape {:?}", &of.shape[..]))
        });
        let mut wide = fits.clone();
        for (axis, depth) in depth.iter().enumerate().filter(|(_, depth)| **depth > 0) {
            wide = wide.padded(axis, *depth, boundary);
        }
        fits.with(&wide, |of, wide| {
            let reach = depth.iter().map(|depth| 2 * depth).collect();
            Ok(mapped(U::DTYPE, of.grid.clone(), vec![Overlapped { of: wide.clone(), reach }], one(call)))
        })
    }

    /// The array with a margin before and behind along one axis.
    #[track_caller]
    fn padded(&self, axis: usize, depth: usize, boundary: Boundary<T>) -> Self {
        let extent = self.shape().get(axis).copied().unwrap_or(0);
        let along = axis as isize;
        let edge = |at: usize, shape: &[usize]| {
            let mut shape = shape.to_vec();
            shape[axis] = depth;
            self.slice_axis(along, at..at + 1).broadcast_to(shape)
        };
        let (before, behind) = match boundary {
            _ if self.node.is_err() => return self.clone(),
            Boundary::Constant(number) => {
                let mut shape = self.shape().to_vec();
                shape[axis] = depth;
                let margin = Array::full(
                    number,
                    &shape,
                    shape.iter().map(|extent| (*extent).max(1)).collect::<Vec<_>>(),
                );
                (margin.clone(), margin)
            }
            Boundary::Nearest => (edge(0, self.shape()), edge(extent - 1, self.shape())),
            Boundary::Reflect => (
                self.slice_axis(along, 0..depth).flip(along),
                self.slice_axis(along, extent - depth..extent).flip(along),
            ),
            Boundary::Periodic => {
                (self.slice_axis(along, extent - depth..extent), self.slice_axis(along, 0..depth))
            }
        };
        Array::concatenate([&before, self, &behind], along)
    }
}

fn mapped(dtype: Dtype, grid: Grid, of: Vec<Overlapped>, call: MappedCall) -> Arc<Node> {
    Node::new(dtype, grid, Kind::Mapped { of, call })
}

/// A call of one block.
fn one<T: Element, U: Element>(
    call: impl Fn(Future<Block<T>>) -> Call<Block<U>> + Send + Sync + 'static,
) -> MappedCall {
    Arc::new(move |inputs| match inputs.first().and_then(Future::from_input) {
        Some(block) => call(block).untyped(),
        None => unreachable!("inputs of a plan are futures of its client"),
    })
}
