//! The worker: runs tasks on pinned threads, keeps their results, hands them to peers.
//!
//! [`core`] decides, without IO.

pub mod core;
