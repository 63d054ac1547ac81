//! A batch allocation becomes a task cluster.

// The macros' code names the crate, also inside of it.
#[allow(unused_extern_crates)]
extern crate self as dcluster;

pub mod cli;
pub mod client;
pub mod launch;
pub mod model;
pub mod prelude;
pub mod registry;
pub mod scheduler;
pub mod security;
pub mod topology;
pub mod transport;
pub mod wire;
pub mod worker;

pub use client::argument::nested;
pub use client::{Client, Error, Future, Result, blocking};
pub use dcluster_macros::{main, task};
