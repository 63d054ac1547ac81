//! What nearly every program uses: `use dcluster::prelude::*;`.

pub use crate::client::{
    AsCompleted, Call, Client, Done, Error, Force, Future, OnError, ReturnWhen, ScatterOptions, Status,
    blocking,
};
pub use crate::model::{Copies, WorkerName};
