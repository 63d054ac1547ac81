//! The worker: runs tasks on pinned threads, keeps their results, hands them to peers.
//!
//! ```text
//! scheduler ◄─ io ─► engine ◄─► executor threads
//!     peers ◄─ transfer ─┘
//! ```
//!
//! [`core`] decides, without IO. [`engine`] puts it, the [`store`] of values and the outbox behind one lock, which
//! the threads of the [`executor`], the connection to the scheduler ([`io`]) and the data port ([`transfer`])
//! share. [`spill`] moves values to disk and back when memory is short. Start with [`io::run`].

mod budget;
pub mod core;
pub mod engine;
pub mod executor;
pub mod io;
pub mod spill;
pub mod store;
pub mod transfer;
pub mod usage;

pub use io::{WorkerConfig, WorkerError, run};
