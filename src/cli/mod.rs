//! Command line.
#![allow(missing_docs)]

pub mod bench;
