//! Clusters without a launcher: a program by itself, `dcluster local`, and every way they end.

use std::process::Command;

use dcluster::client::blocking::Client;

use crate::stage::{ENDING_MAX, PATIENCE, Stage, dcluster, example, pid, signal};

/// `dcluster local` with two workers and a driver in shell.
fn local(stage: &Stage, script: &str) -> Command {
    let mut command = stage.command(dcluster());
    command.args(["local", "-n", "2", "--", "sh", "-c", script]);
    command
}

#[test]
fn a_program_by_itself_is_a_cluster() {
    let stage = Stage::new();
    let end = stage.run(&mut stage.command(example("exits")));
    end.assert_code(0);
    assert_eq!(end.output, "answer 42\n");
    stage.assert_nothing_left();
}

#[test]
fn a_program_by_itself_can_have_worker_processes() {
    let stage = Stage::new();
    let end = stage.run(stage.command(example("exits")).args(["code", "7"]).env("DCLUSTER_WORKERS", "2"));
    end.assert_code(7);
    assert_eq!(end.output, "answer 42\n");
    stage.assert_nothing_left();
}

#[test]
fn values_lie_where_they_are_wanted_and_calls_of_a_worker_that_is_not_there_fail() {
    let stage = Stage::new();
    let mut command = stage.command(example("copies"));
    let end = stage.run(command.arg("4").env("DCLUSTER_WORKERS", "4").env("DCLUSTER_PLACEMENT_WAIT", "1"));
    end.assert_code(0);
    for line in
        ["8 blocks lie on 4 workers", " of 8 blocks moved", "it may run on rank 99 only, and 1 s went by"]
    {
        assert!(end.output.contains(line), "{}\n{}", end.output, end.errors);
    }
    stage.assert_nothing_left();
}

#[test]
fn a_drivers_error_is_1_and_is_printed_once() {
    let stage = Stage::new();
    let end = stage.run(stage.command(example("exits")).arg("error"));
    end.assert_code(1);
    assert_eq!(end.errors.matches("the input is missing").count(), 1, "{}", end.errors);
}

#[test]
fn a_drivers_panic_is_101() {
    let stage = Stage::new();
    let end = stage.run(stage.command(example("exits")).arg("panic"));
    end.assert_code(101);
    assert!(end.errors.contains("a bug in the driver"), "{}", end.errors);
    stage.assert_nothing_left();
}

#[test]
fn a_driver_that_links_dcluster_has_its_tasks_on_the_workers() {
    let stage = Stage::new();
    let end = stage.run(stage.command(dcluster()).args(["local", "-n", "2", "--"]).arg(example("exits")));
    end.assert_code(0);
    assert_eq!(end.output, "answer 42\n");
    stage.assert_nothing_left();
}

#[test]
fn the_code_of_any_program_passes() {
    let stage = Stage::new();
    stage.run(&mut local(&stage, "exit 3")).assert_code(3);
    stage.assert_nothing_left();
}

#[test]
fn a_killed_driver_is_128_and_its_signal() {
    let stage = Stage::new();
    stage.run(&mut local(&stage, "kill -KILL $$")).assert_code(137);
    stage.assert_nothing_left();
}

#[test]
fn what_a_driver_leaves_running_is_ended() {
    let stage = Stage::new();
    stage.run(&mut local(&stage, "sleep 600 & sleep 600 & exit 0")).assert_code(0);
    stage.assert_nothing_left();
}

#[test]
fn each_ending_signal_ends_driver_and_workers_with_its_own_code() {
    for (number, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143), (libc::SIGHUP, 129)] {
        let stage = Stage::new();
        let (cluster, _) = stage.start_ready(&mut local(&stage, "echo ready; sleep 600"), 2);
        cluster.signal(number);
        cluster.end_within(ENDING_MAX).assert_code(code);
        stage.assert_nothing_left();
    }
}

#[test]
fn a_signal_ends_a_program_that_is_its_own_cluster() {
    let stage = Stage::new();
    let cluster = stage.start(stage.command(example("exits")).arg("hang"));
    cluster.prints("answer 42");
    cluster.signal(libc::SIGTERM);
    cluster.end_within(ENDING_MAX).assert_code(143);
    stage.assert_nothing_left();
}

#[test]
fn a_driver_that_ignores_the_signal_is_killed() {
    let stage = Stage::new();
    let cluster = stage.start(&mut local(&stage, "trap '' TERM; echo ready; while :; do sleep 1; done"));
    cluster.prints("ready");
    cluster.signal(libc::SIGTERM);
    cluster.end_within(ENDING_MAX).assert_code(143);
    stage.assert_nothing_left();
}

#[test]
fn a_driver_may_bring_its_results_home_after_the_signal() {
    let stage = Stage::new();
    let script =
        format!("trap '{} status; echo saved; exit 0' TERM; echo ready; sleep 600 & wait", dcluster());
    let (cluster, _) = stage.start_ready(&mut local(&stage, &script), 2);
    cluster.signal(libc::SIGTERM);
    let end = cluster.end_within(ENDING_MAX);
    end.assert_code(143);
    assert!(end.output.contains("workers    2") && end.output.contains("saved"), "{}", end.output);
}

#[test]
fn a_second_ctrl_c_ends_at_once() {
    let stage = Stage::new();
    let script = "trap 'echo not yet' TERM; echo ready; while :; do sleep 0.1; done";
    let (mut cluster, _) = stage.start_ready(&mut local(&stage, script), 2);
    let client = Client::connect(stage.connection_file()).expect("the cluster is up");
    cluster.signal(libc::SIGINT);
    cluster.prints("not yet");
    assert!(cluster.is_running(), "the driver has time after the first");
    cluster.signal(libc::SIGINT);
    cluster.end_within(ENDING_MAX).assert_code(130);
    // After the first alone the cluster would have taken leave, with its reason, when the driver's time was up.
    let error = client.status().expect_err("the cluster is gone").to_string();
    assert!(!error.contains("ended by signal 2"), "{error}");
    stage.assert_nothing_left();
}

#[test]
fn examples_take_any_size_and_say_what_is_no_number() {
    let stage = Stage::new();
    let end = stage.run(stage.command(example("matmul")).arg("7"));
    end.assert_code(0);
    assert!(end.output.contains("the product is right"), "{}{}", end.output, end.errors);
    for (program, words, text) in [
        ("matmul", &["many"][..], "the extent of the matrices is a number from 1 on, not \"many\""),
        ("exchange", &["few"], "LENGTH is a number from 1 on, not \"few\""),
        ("exchange", &["9", "-1"], "ROUNDS is a number from 1 on, not \"-1\""),
    ] {
        let end = stage.run(stage.command(example(program)).args(words));
        end.assert_code(1);
        assert!(end.errors.contains(text), "{}", end.errors);
    }
}

#[test]
fn user_signals_are_handed_to_the_driver() {
    let stage = Stage::new();
    let script = "trap 'echo got it; exit 5' USR1; echo ready; while :; do sleep 0.1; done";
    let cluster = stage.start(&mut local(&stage, script));
    cluster.prints("ready");
    cluster.signal(libc::SIGUSR1);
    let end = cluster.end_within(PATIENCE);
    end.assert_code(5);
    assert!(end.output.contains("got it"));
}

#[test]
fn a_killed_leader_leaves_nothing() {
    let stage = Stage::new();
    let (cluster, _) = stage.start_ready(&mut local(&stage, "echo ready; sleep 600 & sleep 600"), 2);
    cluster.signal(libc::SIGKILL);
    cluster.end_within(ENDING_MAX).assert_code(137);
    stage.assert_nothing_left();
}

#[test]
fn losing_one_worker_is_survived_and_losing_all_ends_the_cluster() {
    let stage = Stage::new();
    let (cluster, status) = stage.start_ready(&mut local(&stage, "echo ready; sleep 600"), 2);
    let process = |index: usize| pid(&status["workers"][index]);
    signal(process(0), libc::SIGKILL);
    stage.workers(1);
    signal(process(1), libc::SIGKILL);
    cluster.end_within(ENDING_MAX).assert_code(75);
    stage.assert_nothing_left();
}
