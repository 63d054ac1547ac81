//! Other processes at a running cluster: a second terminal, workers by hand, stop, and stale files.

use std::fs;
use std::path::Path;

use crate::stage::{ENDING_MAX, Stage, dcluster, example, wait_for};

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
    let file = stage.path().join("by-hand.json");
    let role = |role: &str| {
        let mut command = stage.command(dcluster());
        command.arg("--connection-file").arg(&file).arg(role);
        command
    };
    let scheduler = stage.start(&mut role("scheduler"));
    wait_for("the file", || file.exists().then_some(()));
    let worker = stage.start(role("worker").args(["-t", "3"]));
    wait_for("the worker", || {
        let status = stage.run(role("status").arg("--json"));
        let status: serde_json::Value = serde_json::from_str(&status.output).ok()?;
        (status["workers"][0]["threads"] == 3).then_some(())
    });
    let topo = stage.run(&mut role("topo"));
    topo.assert_code(0);
    assert!(topo.output.contains("3 threads"), "{}", topo.output);
    stage.run(&mut role("stop")).assert_code(0);
    scheduler.end_within(ENDING_MAX).assert_code(0);
    worker.end_within(ENDING_MAX).assert_code(0);
    assert!(!file.exists());
    stage.assert_nothing_left();
}

#[test]
fn a_worker_that_loses_its_scheduler_says_so_in_its_code() {
    let stage = Stage::new();
    let file = stage.path().join("by-hand.json");
    let scheduler =
        stage.start(stage.command(dcluster()).arg("--connection-file").arg(&file).arg("scheduler"));
    wait_for("the file", || file.exists().then_some(()));
    let worker = stage.start(stage.command(dcluster()).arg("--connection-file").arg(&file).arg("worker"));
    wait_for("the worker", || worker.errors().contains("joined").then_some(()));
    scheduler.signal(libc::SIGKILL);
    scheduler.end_within(ENDING_MAX).assert_code(137);
    worker.end_within(ENDING_MAX).assert_code(74);
    wait_for("the guard to clean up", || (!file.exists()).then_some(()));
    stage.assert_nothing_left();
}

#[test]
fn a_worker_that_gets_a_signal_leaves_with_its_code() {
    let stage = Stage::new();
    let file = stage.path().join("by-hand.json");
    let scheduler =
        stage.start(stage.command(dcluster()).arg("--connection-file").arg(&file).arg("scheduler"));
    wait_for("the file", || file.exists().then_some(()));
    let worker = stage.start(stage.command(dcluster()).arg("--connection-file").arg(&file).arg("worker"));
    wait_for("the worker", || worker.errors().contains("joined").then_some(()));
    worker.signal(libc::SIGTERM);
    worker.end_within(ENDING_MAX).assert_code(143);
    scheduler.signal(libc::SIGINT);
    scheduler.end_within(ENDING_MAX).assert_code(130);
    stage.assert_nothing_left();
}

#[test]
fn a_stale_connection_file_is_called_that() {
    let stage = Stage::new();
    let file = stage.path().join("stale.json");
    let scheduler =
        stage.start(stage.command(dcluster()).arg("--connection-file").arg(&file).arg("scheduler"));
    let content = wait_for("the file", || fs::read(&file).ok());
    scheduler.signal(libc::SIGTERM);
    scheduler.end_within(ENDING_MAX).assert_code(143);
    write_private(&file, &content);
    for command in ["status", "worker"] {
        let end = stage.run(stage.command(dcluster()).arg("--connection-file").arg(&file).arg(command));
        end.assert_code(69);
    }
    let end = stage.run(stage.command(dcluster()).arg("--connection-file").arg(&file).arg("status"));
    assert!(end.errors.contains("has probably ended"), "{}", end.errors);
}

fn write_private(file: &Path, content: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(file, content).expect("a file");
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("its mode");
}
