//! A batch allocation becomes a task cluster.

pub mod model;
pub mod wire;
pub mod worker;
