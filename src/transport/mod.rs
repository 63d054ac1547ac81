//! How bytes get from one process to another.
//!
//! [`tcp`] carries all control messages and whatever no faster lane can take; [`data`] moves values over it. A
//! connection knows frames, never messages: what is in them is for [`crate::wire`] and the shells.

pub mod data;
pub mod tcp;
