//! A batch allocation becomes a task cluster.

pub mod model;
pub mod topology;
pub mod wire;
pub mod worker;
