//! The command line: what was typed, which command that is, and its exit code.
//!
//! [`arguments`] says what can be typed; each command has a file of its own. Nothing below this layer knows of clap.

pub mod arguments;
pub mod doctor;
mod explain;
pub mod status;
pub mod topo;
