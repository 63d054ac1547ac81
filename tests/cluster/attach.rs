//! Other processes at a running cluster: a second terminal, workers by hand, stop, and stale files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::stage::{Actor, ENDING_MAX, Stage, dcluster, example, pid, signal, wait_for};

#[test]
fn a_second_terminal_attaches_with_the_printed_file_and_stops_the_cluster() {
    let stage = Stage::new();
    let cluster = stage.start(stage.command(dcluster()).args(["local", "-n", "1", "--json"]));
    let printed = wait_for("the announcement", || {
        serde_json::from_str::<serde_json::Value>(cluster.output().lines().next()?).ok()
    });
    let file = printed["connection_file"].as_str().expect("a path").to_owned();
    stage.workers(1);
    let status = stage.run(stage.command(dcluster()).args(["--connect", &file, "status"]));
    status.assert_code(0);
    assert!(status.output.contains("workers    1"), "{}", status.output);
    stage
        .run(stage.command(dcluster()).args(["--connection-file", &file, "stop", "--code", "6"]))
        .assert_code(0);
    cluster.end_within(ENDING_MAX).assert_code(6);
    stage.assert_nothing_left();
}

#[test]
fn a_program_attaches_to_a_cluster_that_knows_its_tasks() {
    let stage = Stage::new();
    let words = ["local", "-n", "1", "--"];
    let cluster = stage.start(stage.command(dcluster()).args(words).arg(example("exits")).arg("hang"));
    let file = stage.connection_file();
    wait_for("the announcement", || cluster.errors().contains(file.to_str()?).then_some(()));
    let mut by_argument = stage.command(example("exits"));
    let end = stage.run(by_argument.arg("--connect").arg(&file).args(["code", "4"]));
    end.assert_code(4);
    assert_eq!(end.output, "answer 42\n");
    let mut by_environment = stage.command(example("exits"));
    stage.run(by_environment.arg("ok").env("DCLUSTER_CONNECTION_FILE", &file)).assert_code(0);
    stage.run(stage.command(dcluster()).arg("stop")).assert_code(0);
    cluster.end_within(ENDING_MAX).assert_code(0);
    stage.assert_nothing_left();
}

#[test]
fn scheduler_and_worker_can_be_started_by_hand() {
    let stage = Stage::new();
    let (scheduler, file) = scheduler(&stage);
    let worker = stage.start(role(&stage, &file, "worker").args(["-t", "3"]));
    wait_for("the worker", || {
        let status = stage.run(role(&stage, &file, "status").arg("--json"));
        let status: serde_json::Value = serde_json::from_str(&status.output).ok()?;
        (status["workers"][0]["threads"] == 3).then_some(())
    });
    stage.run(&mut role(&stage, &file, "stop")).assert_code(0);
    scheduler.end_within(ENDING_MAX).assert_code(0);
    worker.end_within(ENDING_MAX).assert_code(0);
    assert!(!file.exists());
    stage.assert_nothing_left();
}

#[test]
fn a_worker_that_loses_its_scheduler_says_so_in_its_code() {
    let stage = Stage::new();
    let (scheduler, file) = scheduler(&stage);
    let worker = worker(&stage, &file);
    scheduler.signal(libc::SIGKILL);
    scheduler.end_within(ENDING_MAX).assert_code(137);
    worker.end_within(ENDING_MAX).assert_code(74);
    wait_for("the guard to clean up", || (!file.exists()).then_some(()));
    stage.assert_nothing_left();
}

#[test]
fn a_worker_that_gets_a_signal_leaves_with_its_code() {
    let stage = Stage::new();
    let (scheduler, file) = scheduler(&stage);
    let worker = worker(&stage, &file);
    worker.signal(libc::SIGTERM);
    worker.end_within(ENDING_MAX).assert_code(143);
    scheduler.signal(libc::SIGINT);
    scheduler.end_within(ENDING_MAX).assert_code(130);
    stage.assert_nothing_left();
}

#[test]
fn a_stale_connection_file_is_called_that() {
    let stage = Stage::new();
    let (scheduler, file) = scheduler(&stage);
    let content = fs::read(&file).expect("it runs");
    scheduler.signal(libc::SIGTERM);
    scheduler.end_within(ENDING_MAX).assert_code(143);
    // (What is left of it would remove the file.)
    stage.assert_nothing_left();
    write_private(&file, &content);
    for command in ["status", "worker"] {
        stage.run(&mut role(&stage, &file, command)).assert_code(69);
    }
    let end = stage.run(&mut role(&stage, &file, "status"));
    assert!(end.errors.contains("has probably ended"), "{}", end.errors);
}

#[test]
fn what_a_cluster_leaves_that_was_killed_with_its_guard_is_removed_by_the_next_start_or_client() {
    let stage = Stage::new();
    let leave = || {
        let scheduler = stage.start(stage.command(dcluster()).arg("scheduler"));
        let file = stage.connection_file();
        let leader = pid(&stage.workers(0)["scheduler"]);
        let guard = wait_for("the guard", || stage.processes().into_iter().find(|other| *other != leader));
        [guard, leader].into_iter().for_each(|process| signal(process, libc::SIGKILL));
        scheduler.end_within(ENDING_MAX).assert_code(137);
        assert!(file.exists());
        file
    };
    let file = leave();
    let end = stage.run(stage.command(dcluster()).arg("status"));
    end.assert_code(69);
    assert!(end.errors.contains("removed what the cluster `scheduler`"), "{}", end.errors);
    assert!(!file.exists());

    let file = leave();
    let next = stage.start(stage.command(dcluster()).args(["local", "-n", "1"]));
    wait_for("the file to go", || (!file.exists()).then_some(()));
    wait_for("a line that says so", || next.errors().contains("removed what the cluster").then_some(()));
    stage.workers(1);
    next.signal(libc::SIGTERM);
    next.end_within(ENDING_MAX).assert_code(143);
    stage.assert_nothing_left();
}

/// A scheduler by hand and its connection file, once that is there.
fn scheduler(stage: &Stage) -> (Actor, PathBuf) {
    let file = stage.path().join("by-hand.json");
    let scheduler = stage.start(&mut role(stage, &file, "scheduler"));
    wait_for("the file", || file.exists().then_some(()));
    (scheduler, file)
}

/// A worker by hand that has joined.
fn worker(stage: &Stage, file: &Path) -> Actor {
    let worker = stage.start(&mut role(stage, file, "worker"));
    wait_for("the worker", || worker.errors().contains("joined").then_some(()));
    worker
}

/// A command that names the connection file.
fn role(stage: &Stage, file: &Path, name: &str) -> Command {
    let mut command = stage.command(dcluster());
    command.arg("--connection-file").arg(file).arg(name);
    command
}

fn write_private(file: &Path, content: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(file, content).expect("a file");
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("its mode");
}
