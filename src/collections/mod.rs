//! Collections: data too large for one value, cut into parts that live on the cluster.
//!
//! A collection is an expression: it describes its parts, and nothing runs until a client is asked to
//! [`compute`](Client::compute) it, which gives a future of the whole, or to [`persist`](Client::persist) it, which gives
//! the same collection with its parts on the workers. [`Array`] is the one for numbers; collections are ordinary users
//! of the client, and what is in [`array`](mod@array) needs nothing that a program could not do. [`storage`] reads and writes
//! parts of arrays in files.

pub mod array;
pub mod storage;

pub use array::{Array, BlockPlace, Boundary};

pub use crate::model::block::Block;
pub use ndarray::s;
pub use num_complex::Complex64;

use crate::client::future::{Blocking, Future};
use crate::client::{Client, blocking};
use crate::model::Data;

/// An expression that a client can compute.
pub trait Lazy: Sized {
    /// What it is when it is computed.
    type Output: Data;

    #[doc(hidden)]
    fn compute_on<M>(&self, client: &Client) -> Future<Self::Output, M>;

    #[doc(hidden)]
    fn persist_on(&self, client: &Client) -> Self;
}

impl Client {
    /// Submits what an expression needs, and returns a future of its value.
    ///
    /// Whatever is wrong with the expression is the error of the future.
    ///
    /// ```
    /// use dcluster::collections::Array;
    /// use dcluster::prelude::*;
    ///
    /// #[dcluster::main]
    /// async fn main(client: Client) -> dcluster::Result<()> {
    ///     let x = client.persist(&Array::<f64>::arange(0.0, 1000.0, 1.0, 100)); // ten blocks, on the workers
    ///     let mean = client.compute(&x.mean()).await?;
    ///     let above = client.compute(&x.gt(x.mean()).sum()).await?; // elementwise, one task per block
    ///     assert_eq!((mean.item(), above.item()), (Some(499.5), Some(500)));
    ///     Ok(())
    /// }
    /// ```
    pub fn compute<L: Lazy>(&self, expression: &L) -> Future<L::Output> {
        expression.compute_on(self)
    }

    /// Submits the tasks of all parts of an expression, and returns the same collection with its parts on the cluster.
    ///
    /// The parts stay there, spread over the workers, until the last expression that uses them is dropped.
    pub fn persist<L: Lazy>(&self, expression: &L) -> L {
        expression.persist_on(self)
    }
}

impl blocking::Client {
    /// Submits what an expression needs, and returns a future of its value; see [`Client::compute`].
    pub fn compute<L: Lazy>(&self, expression: &L) -> Future<L::Output, Blocking> {
        expression.compute_on(self.inner())
    }

    /// Submits the tasks of all parts of an expression, and returns the same collection with its parts on the cluster;
    /// see [`Client::persist`].
    pub fn persist<L: Lazy>(&self, expression: &L) -> L {
        expression.persist_on(self.inner())
    }
}
