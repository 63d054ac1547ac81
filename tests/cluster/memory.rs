//! Worker processes that spill: what a user sees of it, and what is left on disk however they end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::stage::{ENDING_MAX, End, PATIENCE, Stage, dcluster, example, pid, signal, wait_for};

/// `larger_than_memory` as the driver of workers with 32 MiB each; it spills below the stage.
fn driver(stage: &Stage, arguments: &[&str]) -> Command {
    driver_within(stage, "32MiB", arguments)
}

/// The same with another limit for each worker.
fn driver_within(stage: &Stage, limit: &str, arguments: &[&str]) -> Command {
    let spill = spill_directory(stage);
    fs::create_dir_all(&spill).expect("a directory");
    let mut command = stage.command(dcluster());
    command.args(["local", "-n", "3", "-t", "1", "--memory-limit", limit, "--spill-directory"]).arg(spill);
    command.arg("--").arg(example("larger_than_memory")).args(arguments);
    command
}

/// The number that the driver has printed behind a word.
fn printed(end: &End, word: &str) -> u64 {
    let number = end.output.split(word).nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no number behind {word:?}: {}{}", end.output, end.errors))
}

fn spill_directory(stage: &Stage) -> PathBuf {
    stage.path().join("spill")
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).expect("a directory").flatten().map(|entry| entry.path()).collect()
}

#[test]
fn a_dataset_three_times_the_memory_goes_through() {
    let stage = Stage::new();
    let end = stage.start(&mut driver(&stage, &["300"])).end_within(4 * PATIENCE);
    end.assert_code(0);
    assert!(end.output.contains("right"), "{}", end.output);
    assert!(printed(&end, "spilled") > 100, "{}", end.output);
    assert!(printed(&end, "at most") < 150, "of 600 MiB, with 96 MiB in all: {}", end.output);
    assert_eq!(entries(&spill_directory(&stage)), Vec::<PathBuf>::new(), "left on disk");
    stage.assert_nothing_left();
}

#[test]
fn what_is_reduced_as_it_is_loaded_is_never_in_memory_all_at_once() {
    let stage = Stage::new();
    let end = stage.run(&mut driver_within(&stage, "1GiB", &["384", "stream"]));
    end.assert_code(0);
    assert_eq!(printed(&end, "spilled"), 0, "there is room: {}", end.output);
    assert!(printed(&end, "at most") < 160, "of 384 MiB that were loaded: {}", end.output);
}

#[test]
fn what_a_killed_worker_leaves_is_swept_by_the_next_start() {
    let stage = Stage::new();
    let (cluster, status) = stage.start_ready(&mut driver(&stage, &["200", "hold"]), 3);
    let full = || (entries(&spill_directory(&stage)).len() == 3).then_some(());
    wait_for("spilled values", full);
    for worker in status["workers"].as_array().expect("workers") {
        signal(pid(worker), libc::SIGKILL);
    }
    cluster.end_within(2 * ENDING_MAX);
    assert_eq!(entries(&spill_directory(&stage)).len(), 3, "killed workers remove nothing");
    stage.run(&mut driver(&stage, &["1"])).assert_code(0);
    assert_eq!(entries(&spill_directory(&stage)), Vec::<PathBuf>::new());
}

#[test]
fn nothing_is_left_on_disk_after_a_signal() {
    let stage = Stage::new();
    let (cluster, _) = stage.start_ready(&mut driver(&stage, &["200", "hold"]), 3);
    wait_for("spilled values", || (entries(&spill_directory(&stage)).len() == 3).then_some(()));
    cluster.signal(libc::SIGTERM);
    cluster.end_within(ENDING_MAX).assert_code(143);
    stage.assert_nothing_left();
    assert_eq!(entries(&spill_directory(&stage)), Vec::<PathBuf>::new());
}
