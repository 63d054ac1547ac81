//! The whole stack with real processes and a real `mpirun`: how clusters start, how they end, what they leave.
//!
//! `stage.rs` starts processes with bounds and looks for what is left; the other files are cases.

mod attach;
mod bulk;
mod commands;
mod examples;
mod lease;
mod local;
mod memory;
#[cfg(feature = "mpi")]
mod mpi_lanes;
#[cfg(feature = "mpi")]
mod mpi_task_libraries;
#[cfg(feature = "mpi")]
mod mpirun;
#[cfg(feature = "mpi")]
mod mpirun_script;
mod scatter;
mod shm;
mod srun;
mod stage;
mod task_libraries;

#[path = "../tasklib/building.rs"]
mod building;
