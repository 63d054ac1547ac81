//! The worker: runs tasks on pinned threads, keeps their results, hands them to peers.
//!
//! ```text
//! scheduler ◄─ io ─► engine ◄─► executor threads
//!     peers ◄─ transfer ─┘
//! ```
//!
//! [`core`] decides, without IO. [`engine`] puts it, the [`store`] of values and the outbox behind one lock, which
//! the threads of the [`executor`], the connection to the scheduler ([`io`]) and the data port ([`transfer`])
//! share. Start with [`io::run`].

pub mod core;
pub mod engine;
pub mod executor;
pub mod io;
pub mod store;
pub mod transfer;

pub use io::{WorkerConfig, WorkerError, run};
