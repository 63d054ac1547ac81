//! Clusters under `launchers/mpirun.sh`, which lets the others live on when a rank dies and still has the right code.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::stage::{ENDING_MAX, Stage, dcluster, example, is_open_mpi, pid, signal, wait_for};

/// `launchers/mpirun.sh -n 3`; the program and its arguments follow.
fn script(stage: &Stage) -> Command {
    let mut command = stage.command(Path::new(env!("CARGO_MANIFEST_DIR")).join("launchers/mpirun.sh"));
    command.args(["-n", "3"]);
    command
}

fn run(stage: &Stage, driver: &str) -> Command {
    let mut command = script(stage);
    command.args([dcluster(), "run", "--", "sh", "-c", driver]);
    command
}

#[test]
fn every_exit_code_comes_out() {
    for (words, code) in [(&["ok"][..], 0), (&["code", "7"], 7), (&["error"], 1), (&["panic"], 101)] {
        let stage = Stage::new();
        stage.run(script(&stage).arg(example("exits")).args(words)).assert_code(code);
        stage.assert_nothing_left();
    }
    let stage = Stage::new();
    stage.run(script(&stage).args([dcluster(), "run", "--", "no-such-program"])).assert_code(127);
    stage.run(script(&stage).args([dcluster(), "--nonsense"])).assert_code(2);
}

#[test]
fn a_program_that_is_not_there_is_said_and_not_waited_for() {
    let stage = Stage::new();
    let end = stage.start(script(&stage).arg("/no/such/program")).end_within(Duration::from_secs(30));
    assert_ne!(end.code, Some(0));
    if is_open_mpi() {
        assert!(end.errors.contains("is the program there"), "{}", end.errors);
    }
    stage.assert_nothing_left();
}

#[test]
fn a_dead_worker_is_survived_and_the_drivers_code_comes_out() {
    if !is_open_mpi() {
        return a_dead_worker_ends_all_under_another_mpi();
    }
    let stage = Stage::new();
    let go = stage.path().join("go");
    let driver =
        format!("while [ ! -e {} ]; do sleep 0.1; done; {} status; exit 6", go.display(), dcluster());
    let cluster = stage.start(&mut run(&stage, &driver));
    let status = stage.workers(2);
    signal(pid(&status["workers"][0]), libc::SIGKILL);
    stage.workers(1);
    fs::write(&go, "").expect("a file");
    let end = cluster.end_within(ENDING_MAX);
    end.assert_code(6);
    assert!(end.output.contains("workers    1"), "{}", end.output);
    stage.assert_nothing_left();
}

fn a_dead_worker_ends_all_under_another_mpi() {
    let stage = Stage::new();
    let cluster = stage.start(&mut run(&stage, "sleep 600"));
    signal(pid(&stage.workers(2)["workers"][0]), libc::SIGKILL);
    assert_ne!(cluster.end_within(ENDING_MAX).code, Some(0));
    stage.assert_nothing_left();
}

#[test]
fn the_death_of_all_workers_is_the_end() {
    let stage = Stage::new();
    let cluster = stage.start(&mut run(&stage, "sleep 600 & sleep 600"));
    let status = stage.workers(2);
    for worker in status["workers"].as_array().expect("a list") {
        signal(pid(worker), libc::SIGKILL);
    }
    let end = cluster.end_within(ENDING_MAX);
    if is_open_mpi() {
        end.assert_code(75);
    } else {
        assert_ne!(end.code, Some(0));
    }
    stage.assert_nothing_left();
}

#[test]
fn a_killed_rank_0_is_137() {
    let stage = Stage::new();
    let cluster = stage.start(&mut run(&stage, "sleep 600 & sleep 600"));
    let status = stage.workers(2);
    signal(pid(&status["scheduler"]), libc::SIGKILL);
    let end = cluster.end_within(ENDING_MAX);
    if is_open_mpi() {
        end.assert_code(137);
    } else {
        assert_ne!(end.code, Some(0));
    }
    stage.assert_nothing_left();
}

#[test]
fn ctrl_c_is_130_and_sigterm_143() {
    for (number, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)] {
        let stage = Stage::new();
        let mut command = run(&stage, "echo ready; sleep 600 & sleep 600");
        // A terminal's Ctrl-C goes to the whole group.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let (cluster, _) = stage.start_ready(&mut command, 2);
        if number == libc::SIGINT {
            cluster.signal_group(number);
        } else {
            cluster.signal(number);
        }
        let end = cluster.end_within(ENDING_MAX);
        if is_open_mpi() {
            end.assert_code(code);
        } else {
            assert_ne!(end.code, Some(0));
        }
        stage.assert_nothing_left();
    }
}

#[test]
fn a_driver_may_bring_its_results_home_after_a_term() {
    let stage = Stage::new();
    let driver = format!(
        "trap 'sleep 1; {} status; echo saved; exit 0' TERM; echo ready; while :; do sleep 0.1; done",
        dcluster()
    );
    let (cluster, _) = stage.start_ready(&mut run(&stage, &driver), 2);
    cluster.signal(libc::SIGTERM);
    let end = cluster.end_within(ENDING_MAX);
    end.assert_code(143);
    assert!(end.output.contains("workers    2") && end.output.contains("saved"), "{}", end.output);
    stage.assert_nothing_left();
}

#[test]
fn a_killed_script_takes_mpirun_and_all_ranks_along() {
    let stage = Stage::new();
    let (cluster, _) = stage.start_ready(&mut run(&stage, "echo ready; sleep 600 & sleep 600"), 2);
    cluster.signal(libc::SIGKILL);
    cluster.end_within(ENDING_MAX).assert_code(137);
    stage.assert_nothing_left();
}

#[test]
fn a_killed_mpirun_takes_all_ranks_along() {
    let stage = Stage::new();
    let (cluster, status) = stage.start_ready(&mut run(&stage, "echo ready; sleep 600 & sleep 600"), 2);
    let leader = pid(&status["scheduler"]);
    // Under MPICH a proxy is between them.
    signal(if is_open_mpi() { parent(leader) } else { parent(parent(leader)) }, libc::SIGKILL);
    assert_ne!(cluster.end_within(ENDING_MAX).code, Some(0));
    stage.assert_nothing_left();
}

fn parent(process: i32) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in parentheses");
    fields.split(' ').nth(1).and_then(|field| field.parse().ok()).expect("a number")
}

#[test]
fn a_driver_does_not_write_the_code_of_its_launcher() {
    let stage = Stage::new();
    let inner = format!("env | grep DCLUSTER_EXIT_CODE_FILE; {} --nonsense; exit 4", dcluster());
    let end = stage.run(&mut run(&stage, &inner));
    end.assert_code(4);
    assert!(!end.output.contains("DCLUSTER_EXIT_CODE_FILE"), "{}", end.output);
    wait_for("all ranks to end", || stage.processes().is_empty().then_some(()));
}
