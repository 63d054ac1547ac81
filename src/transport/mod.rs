//! How bytes get from one process to another.
//!
//! [`tcp`] carries all control messages and whatever no faster lane can take; [`data`] moves values over it, and has
//! [`mpi`] carry the large ones between ranks of one launch, or [`shm`] map them on one host. A connection knows frames, never messages: what is in them
//! is for [`crate::wire`] and the shells.

pub mod data;
#[cfg_attr(not(feature = "mpi"), path = "mpi_absent.rs")]
pub mod mpi;
mod mpi_error;
pub mod shm;
pub mod tcp;
