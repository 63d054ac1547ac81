//! Commands that need no cluster: help, doctor, topo, completions, and what is said when there is none.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::stage::{Stage, dcluster};

#[test]
fn without_launcher_and_arguments_it_prints_help_and_starts_nothing() {
    let stage = Stage::new();
    let end = stage.run(&mut stage.command(dcluster()));
    end.assert_code(2);
    assert!(end.output.contains("Usage: dcluster"), "{}", end.output);
    stage.assert_nothing_left();
}

#[test]
fn help_lists_the_exit_codes() {
    let stage = Stage::new();
    let end = stage.run(stage.command(dcluster()).arg("help"));
    end.assert_code(0);
    assert!(end.output.contains("69  no cluster is reachable"), "{}", end.output);
}

#[test]
fn doctor_gives_the_same_verdicts_as_text_and_json() {
    let stage = Stage::new();
    let text = stage.run(stage.command(dcluster()).arg("doctor"));
    let json = stage.run(stage.command(dcluster()).args(["doctor", "--json"]));
    assert_eq!(text.code, json.code);
    let report: serde_json::Value = serde_json::from_str(&json.output).expect("JSON");
    let checks = report["checks"].as_array().expect("a list");
    for check in checks {
        let (name, verdict) =
            (check["name"].as_str().expect("a name"), check["verdict"].as_str().expect("one"));
        let line = text.output.lines().find(|line| line.get(6..).is_some_and(|rest| rest.starts_with(name)));
        assert!(line.is_some_and(|line| line.starts_with(verdict)), "{name}: {line:?}");
    }
    assert!(checks.iter().any(|check| check["name"] == "run directory"));
}

#[test]
fn doctor_fails_where_others_can_enter_the_run_directory() {
    let stage = Stage::new();
    fs::create_dir(stage.run_directory()).expect("a directory");
    fs::set_permissions(stage.run_directory(), fs::Permissions::from_mode(0o777)).expect("its mode");
    let end = stage.run(stage.command(dcluster()).arg("doctor"));
    end.assert_code(1);
    assert!(end.output.contains("FAIL  run directory"), "{}", end.output);
}

#[test]
fn topo_of_this_machine_places_as_many_ranks_as_asked() {
    let stage = Stage::new();
    let end = stage.run(stage.command(dcluster()).args(["topo", "-n", "3", "--json"]));
    end.assert_code(0);
    let answer: serde_json::Value = serde_json::from_str(&end.output).expect("JSON");
    assert_eq!(answer["hosts"][0]["ranks"].as_array().expect("ranks").len(), 3);
}

#[test]
fn completions_are_a_script() {
    let stage = Stage::new();
    let end = stage.run(stage.command(dcluster()).args(["completions", "bash"]));
    end.assert_code(0);
    let script = stage.path().join("completions.bash");
    fs::write(&script, &end.output).expect("a file");
    stage.run(stage.command("bash").arg("-n").arg(&script)).assert_code(0);
}

#[test]
fn asking_where_there_is_no_cluster_says_so() {
    let stage = Stage::new();
    for command in ["status", "stop", "topo"] {
        let missing = stage.path().join("no.json");
        let end = stage.run(stage.command(dcluster()).arg("--connection-file").arg(missing).arg(command));
        end.assert_code(69);
        assert!(end.errors.contains("no.json"), "{command}: {}", end.errors);
    }
    let end = stage.run(stage.command(dcluster()).arg("status"));
    end.assert_code(69);
    assert!(end.errors.contains("mpirun"), "{}", end.errors);
}

#[test]
fn nonsense_on_the_command_line_is_a_usage_error() {
    let stage = Stage::new();
    stage.run(stage.command(dcluster()).arg("--nonsense")).assert_code(2);
    stage.run(stage.command(dcluster()).args(["local", "-n", "0"])).assert_code(2);
}

#[test]
fn a_program_that_is_not_there_is_127_and_one_that_cannot_run_126() {
    let stage = Stage::new();
    stage.run(stage.command(dcluster()).args(["local", "--", "no-such-program"])).assert_code(127);
    let file = stage.path().join("plain.txt");
    fs::write(&file, "text").expect("a file");
    stage.run(stage.command(dcluster()).args(["local", "--"]).arg(&file)).assert_code(126);
    stage.assert_nothing_left();
}
