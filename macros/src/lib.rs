//! The attribute macros of dcluster.
