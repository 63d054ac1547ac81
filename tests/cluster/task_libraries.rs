//! Task libraries without MPI: local clusters, workers by hand, and ranks that meet through files.

use std::fs;
use std::path::{Path, PathBuf};

use crate::building;
use crate::stage::{Actor, ENDING_MAX, PATIENCE, Stage, dcluster, wait_for};

/// What a client of the library's tasks prints when they ran on a worker.
pub(crate) const ANSWER: &str = "norm 5, elsewhere true";

/// Files that are no task libraries, and what is said of each.
pub(crate) fn wrong_libraries(folder: &Path) -> Vec<(PathBuf, &'static str)> {
    let text = folder.join("text.so");
    fs::write(&text, "not a library").expect("a file");
    vec![
        (folder.join("none.so"), "No such file"),
        (text, "cannot load task library"),
        (building::library(folder, Some("no-tasks")), "is a library without dcluster tasks"),
        (building::library(folder, Some("other-abi")), "was built for another dcluster"),
    ]
}

#[test]
fn a_local_cluster_has_the_tasks_of_a_library() {
    let stage = Stage::new();
    let library = building::library(stage.path(), None);
    for program in ["norms_client", "norms_driver"] {
        let mut local = stage.command(dcluster());
        local.arg("--tasks").arg(&library).args(["local", "-n", "2", "--"]).arg(building::program(program));
        let end = stage.run(&mut local);
        end.assert_code(0);
        assert!(end.output.contains(ANSWER), "{program}: {}", end.output);
    }
    stage.assert_nothing_left();
}

#[test]
fn a_local_cluster_with_a_wrong_library_says_so_once_and_ends() {
    let stage = Stage::new();
    for (library, said) in wrong_libraries(stage.path()) {
        let mut local = stage.command(dcluster());
        local.arg("--tasks").arg(&library).args(["local", "-n", "2", "--", "true"]);
        let end = stage.start(&mut local).end_within(ENDING_MAX);
        end.assert_code(71);
        assert_eq!(end.errors.matches(said).count(), 1, "{}", end.errors);
    }
    stage.assert_nothing_left();
}

#[test]
fn workers_by_hand_bring_a_library_and_one_with_another_version_is_turned_away() {
    let stage = Stage::new();
    let (good, other) =
        (building::library(stage.path(), None), building::library(stage.path(), Some("more-tasks")));
    let client = building::program("norms_client");
    let file = stage.path().join("by-hand.json");
    let role = |words: &[&str]| {
        let mut command = stage.command(dcluster());
        command.arg("--connection-file").arg(&file).args(words);
        command
    };
    let scheduler = stage.start(&mut role(&["scheduler"]));
    wait_for("the file", || file.exists().then_some(()));
    let worker = |library: &Path| stage.start(role(&["worker", "-t", "1", "--tasks"]).arg(library));
    let ask = || {
        let end = stage.run(stage.command(&client).env("DCLUSTER_CONNECTION_FILE", &file));
        end.assert_code(0);
        assert!(end.output.contains(ANSWER), "{}", end.output);
    };
    let first = worker(&good);
    ask();

    let turned_away = worker(&other).end_within(ENDING_MAX);
    turned_away.assert_code(71);
    let said = "it also has dcluster_tasklib::smallest";
    assert!(turned_away.errors.contains(said), "{}", turned_away.errors);
    assert!(scheduler.errors().contains(said), "{}", scheduler.errors());
    for (library, said) in wrong_libraries(stage.path()) {
        let end = worker(&library).end_within(ENDING_MAX);
        end.assert_code(71);
        assert!(end.errors.contains(said), "{}", end.errors);
    }

    ask();
    stage.run(&mut role(&["stop"])).assert_code(0);
    scheduler.end_within(ENDING_MAX).assert_code(0);
    first.end_within(ENDING_MAX).assert_code(0);
    stage.assert_nothing_left();
}

/// Ranks without PMI; rank R has the library FOLDER/R.so.
fn step(stage: &Stage, ranks: u32, driver: &Path) -> Vec<Actor> {
    let rank = |rank: u32| {
        let mut command = stage.command(dcluster());
        command.env("SLURM_JOB_ID", "7").env("SLURM_STEP_ID", "0");
        command.env("SLURM_PROCID", rank.to_string()).env("SLURM_NTASKS", ranks.to_string());
        command.arg("--tasks").arg(stage.path().join(format!("{rank}.so")));
        stage.start(command.args(["run", "--"]).arg(driver))
    };
    (0..ranks).map(rank).collect()
}

#[test]
fn ranks_without_pmi_turn_one_away_and_run_on() {
    let stage = Stage::new();
    let (good, other) =
        (building::library(stage.path(), None), building::library(stage.path(), Some("more-tasks")));
    for (rank, library) in [(1, &other), (2, &good), (3, &good)] {
        fs::copy(library, stage.path().join(format!("{rank}.so"))).expect("a copy");
    }
    for (rank, actor) in (0..).zip(step(&stage, 4, &building::program("norms_client"))) {
        let end = actor.end_within(PATIENCE);
        end.assert_code(0);
        assert_eq!(end.output.contains(ANSWER), rank == 0, "{}", end.output);
        let said = end.errors.matches("it also has dcluster_tasklib::smallest").count();
        assert_eq!(said, usize::from(rank == 0), "{}", end.errors);
    }
    stage.assert_nothing_left();
}

#[test]
fn ranks_without_pmi_that_all_lack_the_library_say_so_once_and_end() {
    let stage = Stage::new();
    let ends: Vec<_> =
        step(&stage, 3, Path::new("true")).into_iter().map(|rank| rank.end_within(ENDING_MAX)).collect();
    for (rank, end) in ends.iter().enumerate() {
        end.assert_code(71);
        assert_eq!(end.errors.contains("no rank can work"), rank == 0, "{}", end.errors);
    }
    for rank in [1, 2] {
        assert!(ends[0].errors.contains(&format!("{rank}.so: ")), "{}", ends[0].errors);
    }
    stage.assert_nothing_left();
}
