//! The lanes between ranks of a step: the contract that `dcluster bench transfer --check` goes through, under `srun`.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::slurm_jobs::{DCLUSTER, Job};

/// The kind of PMI that the MPI of this build speaks.
fn mpi_of_this_build() -> &'static str {
    let mpirun = std::env::var("MPIRUN").unwrap_or_else(|_| "mpirun".to_owned());
    let version = Command::new(mpirun).arg("--version").output().expect("an mpirun, by make setup");
    if String::from_utf8_lossy(&version.stdout).contains("Open MPI") { "--mpi=pmix" } else { "--mpi=pmi2" }
}

#[test]
fn mpi_carries_values_between_the_nodes_of_a_step() {
    let job = Job::new();
    let mut srun = job.two_nodes(&[mpi_of_this_build()]);
    srun.args([DCLUSTER, "bench", "transfer", "--check", "--quick", "--json"]);
    let answer = job.slurm.finish(srun).success();
    let answer: Value = serde_json::from_str(&answer).expect("one answer, from rank 0");
    let checks = answer["checks"].as_array().expect("a list");
    assert!(checks.iter().all(|check| check["fault"].is_null()), "{answer}");
    let lanes: BTreeSet<&str> = checks.iter().filter_map(|check| check["lane"].as_str()).collect();
    assert_eq!(lanes, BTreeSet::from(["mpi", "shm", "tcp"]), "{answer}");
    job.assert_nothing_left();
}
