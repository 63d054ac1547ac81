//! A batch allocation becomes a task cluster.

pub mod cli;
pub mod launch;
pub mod model;
pub mod topology;
pub mod wire;
