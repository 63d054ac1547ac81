//! The scheduler: a pure [`core`] that decides, and a shell that moves its bytes.

pub mod core;
