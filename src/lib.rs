//! A batch allocation becomes a task cluster.

pub mod model;
pub mod security;
pub mod topology;
pub mod transport;
pub mod wire;
pub mod worker;
