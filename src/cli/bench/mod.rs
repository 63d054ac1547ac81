//! The benchmark suite: every figure by name, with its unit.

pub mod core;
