//! The client's half of arrays: the expression graph, and how it becomes calls.
//!
//! [`node`] is the graph, [`grid`] how an array is cut, [`window`] what part of one is asked for, and [`plan`] goes
//! from the blocks that are wanted down to the calls that make them.

pub(crate) mod blocks;
pub(crate) mod grid;
pub(crate) mod node;
pub(crate) mod plan;
pub(crate) mod window;
