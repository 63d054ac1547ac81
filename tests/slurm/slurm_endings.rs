//! How clusters end under `launchers/srun.sh`: the codes that come out, and what is left.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::wait_at_most;
use crate::slurm_jobs::{DCLUSTER, Job};

const ENDING_MAX: Duration = Duration::from_secs(10);

#[cfg(feature = "mpi")]
const WAYS: [&str; 2] = ["--mpi=pmix", "--mpi=none"];
#[cfg(not(feature = "mpi"))]
const WAYS: [&str; 1] = ["--mpi=none"];

#[test]
fn the_drivers_code_is_that_of_srun() {
    let job = Job::new();
    for way in WAYS {
        let mut srun = job.two_nodes(&[way]);
        srun.args([DCLUSTER, "run", "--", "sh", "-c", "exit 9"]);
        assert_eq!(job.slurm.finish(srun).code, 9, "{way}");
        job.assert_nothing_left();
    }
}

#[test]
fn one_ctrl_c_or_term_ends_all_in_order() {
    let job = Job::new();
    for way in WAYS {
        for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
            let mut cluster = start(&job, way, "sleep 600 & sleep 600");
            job.status(3);
            let process = Pid::from_raw(cluster.id().cast_signed());
            // A terminal's Ctrl-C goes to the whole group.
            let target = if signal == Signal::SIGINT { Pid::from_raw(-process.as_raw()) } else { process };
            kill(target, signal).expect("it runs");
            assert_eq!(wait_at_most(&mut cluster, ENDING_MAX), Some(code), "{way} {signal}");
            job.assert_nothing_left();
        }
    }
}

#[test]
fn the_death_of_rank_0_ends_all() {
    let job = Job::new();
    for way in WAYS {
        let mut cluster = start(&job, way, "sleep 600 & sleep 600");
        kill_9(&job.status(3)["scheduler"]);
        assert_eq!(wait_at_most(&mut cluster, ENDING_MAX), Some(137), "{way}");
        job.slurm.wait_for("the guard to clean up", || job.is_nothing_left());
    }
}

#[test]
fn without_pmi_a_dead_worker_is_survived_and_the_drivers_code_comes_out() {
    let job = Job::new();
    let go = job.slurm.path().join("go");
    let mut cluster =
        start(&job, "--mpi=none", &format!("while [ ! -e {} ]; do sleep 0.1; done; exit 6", go.display()));
    kill_9(&job.status(3)["workers"][0]);
    job.status(2);
    fs::write(&go, "").expect("a file");
    assert_eq!(wait_at_most(&mut cluster, ENDING_MAX), Some(6));
    job.assert_nothing_left();
}

#[test]
fn without_pmi_the_death_of_all_workers_is_the_end() {
    let job = Job::new();
    let mut cluster = start(&job, "--mpi=none", "sleep 600 & sleep 600");
    job.status(3)["workers"].as_array().expect("a list").iter().for_each(kill_9);
    assert_eq!(wait_at_most(&mut cluster, ENDING_MAX), Some(75));
    job.assert_nothing_left();
}

/// Slurm itself ends the step: every rank, the guard of the connection file included. The script cleans up.
#[cfg(feature = "mpi")]
#[test]
fn with_pmix_a_dead_worker_ends_all_and_that_is_said_at_the_start() {
    let job = Job::new();
    let errors = job.slurm.path().join("errors");
    let mut srun = job.two_nodes(&["--mpi=pmix"]);
    srun.args([DCLUSTER, "run", "--", "sleep", "600"]).stderr(fs::File::create(&errors).expect("a file"));
    let mut cluster = srun.spawn().expect("srun.sh starts");
    kill_9(&job.status(3)["workers"][0]);
    let code = wait_at_most(&mut cluster, ENDING_MAX);
    assert!(code.is_some_and(|code| code != 0), "{code:?}");
    let text = fs::read_to_string(&errors).expect("a file");
    assert!(text.contains("ends all ranks when one dies"), "{text}");
    job.assert_nothing_left();
}

#[test]
fn a_killed_script_or_srun_takes_all_ranks_along() {
    let job = Job::new();
    for way in WAYS {
        for victim in ["the script", "srun"] {
            let mut cluster = start(&job, way, "sleep 600 & sleep 600");
            let status = job.status(3);
            let script = cluster.id().cast_signed();
            let target = if victim == "srun" { srun_of(script) } else { script };
            kill(Pid::from_raw(target), Signal::SIGKILL).expect("it runs");
            let code = wait_at_most(&mut cluster, ENDING_MAX);
            // (Without its srun Slurm asks the ranks to end, and rank 0 may leave its code before the script looks.)
            let expected = if victim == "srun" { &[137, 143][..] } else { &[137] };
            assert!(code.is_some_and(|code| expected.contains(&code)), "{way}, {victim}: {code:?}");
            let ranks = status["workers"].as_array().expect("a list").iter().chain([&status["scheduler"]]);
            for rank in ranks {
                job.slurm.wait_for(&format!("{way}, {victim}: the end of {rank}"), || !is_alive(rank));
            }
            job.slurm.wait_for("everything to be removed", || job.is_nothing_left());
        }
    }
}

#[test]
fn what_a_killed_step_leaves_is_removed_by_the_next_client_once_its_job_is_over() {
    let job = Job::new();
    let mut cluster = start(&job, "--mpi=none", "sleep 600");
    job.status(3);
    let file = job.connection_file().expect("it runs");
    let content = fs::read(&file).expect("a file");
    kill(Pid::from_raw(cluster.id().cast_signed()), Signal::SIGTERM).expect("it runs");
    assert_eq!(wait_at_most(&mut cluster, ENDING_MAX), Some(143));
    job.slurm
        .wait_for("the end of the job", || job.slurm.run(["squeue", "--noheader"]).output.trim().is_empty());
    job.assert_nothing_left();

    // As if everybody on its node had been killed.
    let mut private = fs::File::options();
    let mut left = private.write(true).create_new(true).mode(0o600).open(&file).expect("a file");
    left.write_all(&content).expect("a file");
    let mut ask = job.command(DCLUSTER);
    ask.arg("status");
    let answer = job.slurm.finish(ask);
    assert_eq!(answer.code, 69, "{answer:?}");
    assert!(answer.complaints.contains("removed what the cluster"), "{answer:?}");
    assert!(answer.complaints.contains("is over"), "{answer:?}");
    job.assert_nothing_left();
}

/// A cluster with a driver in shell, in a process group of its own; what it says is in the logs of the Slurm.
fn start(job: &Job, way: &str, driver: &str) -> Child {
    let said = fs::File::options().create(true).append(true).open(job.slurm.path().join("log/ranks"));
    let mut srun: Command = job.two_nodes(&[way]);
    srun.args([DCLUSTER, "run", "--", "sh", "-c", driver])
        .stdout(Stdio::null())
        .stderr(said.expect("a file"));
    std::os::unix::process::CommandExt::process_group(&mut srun, 0);
    srun.spawn().expect("srun.sh starts")
}

/// The `srun` that a script has started.
fn srun_of(script: i32) -> i32 {
    let children = fs::read_to_string(format!("/proc/{script}/task/{script}/children")).expect("it runs");
    let is_srun = |child: &i32| {
        fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name.trim() == "srun")
    };
    children.split_whitespace().filter_map(|child| child.parse().ok()).find(is_srun).expect("it runs srun")
}

fn is_alive(process: &Value) -> bool {
    kill(Pid::from_raw(process["pid"].as_i64().expect("a process id") as i32), None).is_ok()
}

fn kill_9(process: &Value) {
    let number = process["pid"].as_i64().expect("a process id");
    // All nodes are this machine.
    kill(Pid::from_raw(number as i32), Signal::SIGKILL).expect("it runs");
}
