//! Whole dcluster runs under Slurm: the batch scripts, and `srun` on two nodes with PMIx and without any PMI.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::harness::SlurmCluster;

pub(crate) const DCLUSTER: &str = env!("CARGO_BIN_EXE_dcluster");

/// The driver of these jobs: asks the cluster that it drives for its state, and writes it to the file `$1`.
const WRITE_STATUS: &str = r#""$0" status --wait 3 --json >"$1""#;

#[test]
fn one_node_script_runs_a_cluster_and_ends_with_it() {
    let job = Job::new();
    job.submit("slurm/one_node.sbatch");
    assert_eq!(job.workers_and_nodes(), (3, 1));
    job.assert_nothing_left();
}

#[test]
fn two_node_script_runs_a_cluster_and_ends_with_it() {
    let job = Job::new();
    job.submit("slurm/two_nodes.sbatch");
    assert_eq!(job.workers_and_nodes(), (3, 2));
    job.assert_nothing_left();
}

#[test]
fn batch_script_without_a_program_prints_the_status() {
    let job = Job::new();
    let mut sbatch = job.command("sbatch");
    sbatch.args(["--wait", "--output"]).arg(job.output()).arg("slurm/one_node.sbatch");
    let finished = job.slurm.finish(sbatch);
    let text = fs::read_to_string(job.output()).unwrap_or_default();
    assert_eq!(finished.code, 0, "{text}{}", finished.complaints);
    assert!(text.contains("worker"), "{text}");
}

#[cfg(feature = "mpi")]
#[test]
fn srun_with_pmix_joins_two_nodes() {
    let job = Job::new();
    job.srun(&["--mpi=pmix"]);
    assert_eq!(job.workers_and_nodes(), (3, 2));
    job.assert_nothing_left();
}

#[test]
fn srun_without_pmi_joins_two_nodes() {
    let job = Job::new();
    job.srun(&["--mpi=none"]);
    assert_eq!(job.workers_and_nodes(), (3, 2));
    job.assert_nothing_left();
}

#[test]
fn exit_code_of_the_program_is_that_of_the_job() {
    let job = Job::new();
    let mut sbatch = job.command("sbatch");
    sbatch.args(["--wait", "--output"]).arg(job.output()).args([
        "slurm/two_nodes.sbatch",
        "sh",
        "-c",
        "exit 5",
    ]);
    let finished = job.slurm.finish(sbatch);
    assert_eq!(finished.code, 5, "{}", fs::read_to_string(job.output()).unwrap_or_default());
    job.assert_nothing_left();
}

#[test]
fn walltime_warning_ends_the_cluster() {
    let job = Job::new();
    let begun = job.slurm.path().join("begun");
    let mut sbatch = job.command("sbatch");
    sbatch.args(["--parsable", "--output"]).arg(job.output()).arg("slurm/two_nodes.sbatch");
    sbatch.args(["sh", "-c", "touch \"$0\"; sleep 500"]).arg(&begun);
    let id = job.slurm.finish(sbatch).success().trim().to_owned();
    job.slurm.wait_for("the program beside rank 0", || begun.exists());

    job.slurm.run(["scancel", "--batch", "--signal=TERM", &id]).success();
    job.slurm
        .wait_for("the end of the job", || job.slurm.run(["squeue", "--noheader"]).output.trim().is_empty());
    let text = fs::read_to_string(job.output()).unwrap_or_default();
    assert!(!text.contains("Killed"), "every rank ends by itself: {text}");
    job.assert_nothing_left();
}

/// A Slurm, and where this job's files go. The Slurm itself checks that no process is left.
pub(crate) struct Job {
    pub(crate) slurm: SlurmCluster,
    run_directory: PathBuf,
}

impl Job {
    pub(crate) fn new() -> Self {
        let slurm = SlurmCluster::start();
        let run_directory = slurm.path().join("run");
        fs::DirBuilder::new().mode(0o700).create(&run_directory).expect("a directory");
        Self { slurm, run_directory }
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = self.slurm.command(program);
        command.env("DCLUSTER", DCLUSTER).env("DCLUSTER_RUN_DIR", &self.run_directory);
        command
    }

    /// `launchers/srun.sh` with two ranks on each of two nodes; the program and its arguments follow.
    pub(crate) fn two_nodes(&self, options: &[&str]) -> Command {
        let mut srun = self.command("launchers/srun.sh");
        srun.args(["-N2", "--ntasks-per-node=2"]).args(options);
        srun
    }

    /// The cluster's state once it has `workers` workers.
    pub(crate) fn status(&self, workers: usize) -> Value {
        let mut status = Value::Null;
        self.slurm.wait_for("the workers", || {
            let Some(file) = self.connection_file() else { return false };
            let mut ask = self.command(DCLUSTER);
            ask.arg("--connection-file").arg(file).args(["status", "--json"]);
            status = serde_json::from_str(&self.slurm.finish(ask).output).unwrap_or_default();
            status["workers"].as_array().is_some_and(|list| list.len() == workers)
        });
        status
    }

    /// That of the cluster that runs.
    pub(crate) fn connection_file(&self) -> Option<PathBuf> {
        files_below(&self.run_directory).into_iter().find(|file| is_connection(file))
    }

    fn output(&self) -> PathBuf {
        self.slurm.path().join("job.out")
    }

    fn status_file(&self) -> PathBuf {
        self.slurm.path().join("status.json")
    }

    /// Runs a batch script with the driver that writes the status.
    #[track_caller]
    fn submit(&self, script: &str) {
        let mut sbatch = self.command("sbatch");
        sbatch.args(["--wait", "--output"]).arg(self.output()).args([
            script,
            "sh",
            "-c",
            WRITE_STATUS,
            DCLUSTER,
        ]);
        sbatch.arg(self.status_file());
        let finished = self.slurm.finish(sbatch);
        let text = fs::read_to_string(self.output()).unwrap_or_default();
        assert_eq!(finished.code, 0, "{text}{}", finished.complaints);
    }

    /// Runs the same driver in a step of two ranks on each of two nodes.
    #[track_caller]
    fn srun(&self, options: &[&str]) {
        let mut srun = self.two_nodes(options);
        srun.args([DCLUSTER, "run", "--", "sh", "-c", WRITE_STATUS, DCLUSTER]);
        srun.arg(self.status_file());
        self.slurm.finish(srun).success();
    }

    fn written_status(&self) -> Value {
        let text = fs::read_to_string(self.status_file()).expect("the driver wrote the status");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn workers_and_nodes(&self) -> (usize, usize) {
        let status = self.written_status();
        let workers = status["workers"].as_array().unwrap_or_else(|| panic!("no list of workers: {status}"));
        let nodes: BTreeSet<&str> = workers.iter().filter_map(|worker| worker["host"].as_str()).collect();
        (workers.len(), nodes.len())
    }

    pub(crate) fn is_nothing_left(&self) -> bool {
        files_below(&self.run_directory).is_empty()
    }

    /// The connection file, and whatever else was in the run directory, has gone with the cluster.
    #[track_caller]
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(files_below(&self.run_directory), Vec::<PathBuf>::new());
    }
}

fn is_connection(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "json")
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}
