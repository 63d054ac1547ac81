//! dcluster under a real Slurm: each test brings one up on this machine and takes it down again.
//!
//! `harness` is the Slurm, `slurm_commands` checks it and the scripts around it, `slurm_jobs` runs whole clusters,
//! `slurm_endings` ends them in every way, `slurm_lanes` moves values between their ranks.

mod harness;
mod slurm_commands;
mod slurm_endings;
mod slurm_jobs;
#[cfg(feature = "mpi")]
mod slurm_lanes;
