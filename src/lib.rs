//! A batch allocation becomes a task cluster.

pub mod topology;
