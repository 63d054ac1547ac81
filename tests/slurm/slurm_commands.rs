//! The Slurm of the harness does what a cluster's does, and the scripts of the project hand things on unchanged.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::harness::{SlurmCluster, processes_of};

#[test]
fn srun_starts_tasks_on_each_node() {
    let slurm = SlurmCluster::start();
    let output = slurm.run(["srun", "-N2", "--ntasks-per-node=2", "printenv", "SLURMD_NODENAME"]).success();
    let mut nodes: Vec<&str> = output.lines().collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["n0", "n0", "n1", "n1"]);
}

#[test]
fn sbatch_ends_with_the_code_of_its_script() {
    let slurm = SlurmCluster::start();
    let output = slurm.path().join("job.out");
    let output = output.to_str().expect("a path in UTF-8");
    let finished =
        slurm.run(["sbatch", "--wait", "-n2", "--output", output, "--wrap", "srun echo task; exit 7"]);
    assert_eq!(finished.code, 7, "{}", finished.complaints);
    assert_eq!(fs::read_to_string(output).expect("the job's output"), "task\ntask\n");
}

#[test]
fn a_running_job_goes_with_its_slurm() {
    let slurm = SlurmCluster::start();
    slurm.run(["sbatch", "-N2", "--output=/dev/null", "--wrap", "srun sleep 500"]).success();
    let sleeps =
        |folder| processes_of(folder).iter().filter(|(_, command)| command.ends_with("/sleep 500 ")).count();
    slurm.wait_for("the tasks of the job", || sleeps(slurm.path()) == 2);

    let folder = slurm.path().to_owned();
    drop(slurm);
    assert_eq!(processes_of(&folder), []);
    assert!(!folder.exists());
}

#[test]
fn srun_launcher_takes_pmix_where_it_is_offered() {
    let slurm = SlurmCluster::start();
    let offered = slurm.run(["srun", "--mpi=list"]);
    assert!(
        (offered.output + &offered.complaints).contains("pmix"),
        "Slurm without PMIx: install its plugin"
    );
    let taken = slurm.run(["launchers/srun.sh", "-n1", "printenv", "SLURM_MPI_TYPE", "PMIX_RANK"]).success();
    assert_eq!(taken, "pmix\n0\n");
}

#[test]
fn srun_launcher_leaves_a_choice_alone() {
    let slurm = SlurmCluster::start();
    let pmix_of =
        |command| slurm.finish(command).output.lines().filter(|line| line.starts_with("PMIX_")).count();
    let launch = |words: &[&str]| {
        let mut command = slurm.command("launchers/srun.sh");
        command.args(words);
        command
    };
    assert_eq!(pmix_of(launch(&["--mpi=none", "-n1", "env"])), 0);
    let mut by_environment = launch(&["-n1", "env"]);
    by_environment.env("SLURM_MPI_TYPE", "none");
    assert_eq!(pmix_of(by_environment), 0);
    assert_ne!(pmix_of(launch(&["-n1", "env"])), 0);
    let words = slurm.run(["launchers/srun.sh", "-n1", "echo", "--", "--mpi=pmi2", "a b"]).success();
    assert_eq!(words, "-- --mpi=pmi2 a b\n");
}

#[test]
fn batch_scripts_give_every_rank_the_program_and_its_arguments() {
    let slurm = SlurmCluster::start();
    for (script, nodes) in
        [("slurm/one_node.sbatch", "n0 n0 n0 n0"), ("slurm/two_nodes.sbatch", "n0 n0 n1 n1")]
    {
        let stand_in =
            stand_in_program(&slurm, "echo \"$SLURMD_NODENAME $*\"; [ \"$SLURM_PROCID\" != 0 ] || exit 3");
        let output = slurm.path().join("job.out");
        let mut job = slurm.command("sbatch");
        job.env("DCLUSTER", &stand_in)
            .args(["--wait", "--output"])
            .arg(&output)
            .args([script, "./app", "a b"]);
        let finished = slurm.finish(job);

        let text = fs::read_to_string(&output).expect("the job's output");
        let mut ranks: Vec<&str> = text.lines().filter(|line| line.ends_with(" run -- ./app a b")).collect();
        ranks.sort_unstable();
        let ran_on: Vec<&str> = ranks.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(ran_on.join(" "), nodes, "{text}{}", finished.complaints);
        assert_eq!(finished.code, 3, "the exit code of a rank is the job's: {text}");
    }
}

#[test]
fn batch_script_hands_the_walltime_warning_to_every_rank() {
    let slurm = SlurmCluster::start();
    let stand_in = stand_in_program(
        &slurm,
        "trap 'echo warned; exit 0' TERM; echo ready; i=0; while [ $i -lt 1000 ]; do sleep 0.1; i=$((i+1)); done",
    );
    let output = slurm.path().join("job.out");
    let mut submit = slurm.command("sbatch");
    submit
        .env("DCLUSTER", &stand_in)
        .args(["--parsable", "--output"])
        .arg(&output)
        .arg("slurm/one_node.sbatch");
    let job = slurm.finish(submit).success().trim().to_owned();
    let lines = |wanted: &str| {
        fs::read_to_string(&output).unwrap_or_default().lines().filter(|line| *line == wanted).count()
    };
    slurm.wait_for("four ranks", || lines("ready") == 4);

    // What `--signal=B:TERM@60` does a minute before the end: TERM to the batch shell alone.
    slurm.run(["scancel", "--batch", "--signal=TERM", &job]).success();
    slurm.wait_for("the end of the job", || slurm.run(["squeue", "--noheader"]).output.trim().is_empty());
    assert_eq!(lines("warned"), 4, "{}", fs::read_to_string(&output).unwrap_or_default());
}

/// A shell script to stand where the dcluster program does.
fn stand_in_program(slurm: &SlurmCluster, body: &str) -> PathBuf {
    let program = slurm.path().join("stand-in.sh");
    fs::write(&program, format!("#!/bin/bash\n{body}\n")).expect("a script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a script of ours");
    program
}
