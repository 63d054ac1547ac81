//! A batch allocation becomes a task cluster: rank 0 schedules, the other ranks work, programs submit calls and get
//! futures.
//!
//! A program that links this crate *is* a cluster. Started by hand it runs one in its own process; started by
//! `mpirun` or `srun`, rank 0 is the scheduler and runs `main`, and every other rank is a worker bound to its share
//! of the machine; started with `--connect FILE` it is a client of a cluster that runs already.
//!
//! ```
//! use dcluster::prelude::*;
//!
//! #[dcluster::task]
//! fn inc(x: i64) -> i64 {
//!     x + 1
//! }
//!
//! #[dcluster::task]
//! fn add(x: i64, y: i64) -> i64 {
//!     x + y
//! }
//!
//! #[dcluster::main]
//! async fn main(client: Client) -> dcluster::Result<()> {
//!     let a = client.submit(inc::call(10)); // a Future<i64>, at once
//!     let b = client.submit(inc::call(20));
//!     let c = client.submit(add::call(&a, &b)); // futures are arguments
//!     assert_eq!(c.result().await?, 32);
//!     assert_eq!(inc(1), 2); // a task is still a function
//!     Ok(())
//! }
//! ```
//!
//! # What a program uses
//!
//! | item | what it is |
//! |---|---|
//! | [`task`] | makes a function a task: `inc::call(…)` describes a call of it |
//! | [`main`](macro@main) | makes the program a cluster, and the function its driver |
//! | [`Client`], [`blocking::Client`] | submit, map, gather, scatter, wait, cancel |
//! | [`Future`], [`blocking::Future`] | a result that is made or kept on the cluster |
//! | [`Call`](client::Call) | a call that is not submitted yet: its key, priority and retries |
//! | [`nested`] | futures in any place inside an argument |
//! | [`Array`](collections::Array) | a chunked array on the workers: NumPy's operations, lazily, a task per block |
//! | [`LocalCluster`](launch::LocalCluster) | a cluster inside a program that has a `main` of its own |
//! | [`export_tasks!`] | makes a `cdylib` a task library for `dcluster --tasks` |
//!
//! # The modules
//!
//! From the top down; a module uses its own row and the rows below it. `ARCHITECTURE.md` tells the whole story.
//!
//! | layer | modules | what is there |
//! |---|---|---|
//! | surface | [`cli`], [`collections`], [`launch`] | what is typed; arrays; from a started process to a rank, and to its end |
//! | shells | [`client`], [`scheduler::io`], [`worker::io`], [`worker::transfer`] | sockets and threads round the cores |
//! | machine | [`transport`], [`worker::engine`], [`worker::executor`], [`worker::store`], [`topology`], [`registry`], [`security`] | TCP with TLS, threads and values of a worker, cores and memory, task functions, certificates |
//! | cores | [`scheduler::core`], [`worker::core`] | all decisions, as state machines without IO |
//! | wire | [`wire`] | messages and frames |
//! | model | [`model`] | ids, values, errors: plain data |

// The macros' code names the crate, also inside of it.
#[allow(unused_extern_crates)]
extern crate self as dcluster;

pub mod cli;
pub mod client;
pub mod collections;
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
/// # Example
///
/// ```
/// use std::process::ExitCode;
///
/// use dcluster::prelude::*;
///
/// #[dcluster::task]
/// fn inc(x: i64) -> i64 {
///     x + 1
/// }
///
/// // Without `async`: the same client, whose calls wait. Any error that can be shown is one, with exit code 1.
/// #[dcluster::main]
/// fn main(client: blocking::Client) -> Result<ExitCode, dcluster::Error> {
///     let answer = client.submit(inc::call(41)).result()?;
///     Ok(if answer == 42 { ExitCode::SUCCESS } else { ExitCode::from(3) })
/// }
/// ```
pub use dcluster_macros::main;
/// # Example
///
/// ```
/// use dcluster::prelude::*;
///
/// // By value, by reference, as a list; a `Result` fails the task with its error.
/// #[dcluster::task]
/// fn mean(values: &[f64]) -> Result<f64, String> {
///     if values.is_empty() { Err("no values".to_owned()) } else { Ok(values.iter().sum::<f64>() / values.len() as f64) }
/// }
///
/// #[dcluster::task]
/// fn largest(values: Vec<f64>) -> f64 {
///     values.into_iter().fold(f64::MIN, f64::max)
/// }
///
/// // Equal calls are one task, unless it is impure.
/// #[dcluster::task(impure)]
/// fn process() -> u32 {
///     std::process::id()
/// }
///
/// #[dcluster::main]
/// async fn main(client: Client) -> dcluster::Result<()> {
///     let means = vec![client.submit(mean::call(vec![1.0, 2.0])), client.submit(mean::call(vec![4.0]))];
///     let top = client.submit(largest::call(&means)); // a list of futures for a list
///     assert_eq!(top.await?, 4.0);
///
///     let failed = client.submit(mean::call(Vec::<f64>::new()));
///     assert!(failed.exception().await.unwrap().to_string().contains("no values"));
///
///     let named = client.submit(process::call().key("who").retries(2).priority(1));
///     assert_eq!(named.key(), "who");
///     named.await?;
///     Ok(())
/// }
/// ```
pub use dcluster_macros::task;
