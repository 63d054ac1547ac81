//! A batch allocation becomes a task cluster.
