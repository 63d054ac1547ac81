//! A batch allocation becomes a task cluster.

pub mod model;
pub mod scheduler;
pub mod topology;
pub mod security;
pub mod transport;
pub mod wire;
