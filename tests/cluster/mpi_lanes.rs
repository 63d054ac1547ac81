//! The contract of the lanes between real ranks: values of all sizes arrive unchanged, whatever else goes on.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::stage::{Stage, dcluster, example, is_open_mpi, pid, signal};

/// Values of 3 GiB take their time on a busy machine.
const GIGABYTES_MAX: Duration = Duration::from_secs(150);

/// Has three ranks check every lane; the lanes.
fn check(transport: &[(&str, &str)], words: &[&str]) -> BTreeSet<String> {
    let stage = Stage::new();
    let mut command = stage.mpirun(3);
    command.args([dcluster(), "bench", "transfer", "--check", "--json"]).args(words);
    let checks = kept(&stage, command.envs(transport.iter().copied()));
    checks.into_iter().map(|(lane, _)| lane).collect()
}

/// Sees that what was checked is right; each lane and part.
fn kept(stage: &Stage, command: &mut Command) -> Vec<(String, String)> {
    let end = stage.start(command).end_within(GIGABYTES_MAX);
    end.assert_code(0);
    stage.assert_nothing_left();
    let answer: Value = serde_json::from_str(&end.output).expect("one answer, from rank 0");
    let checks = answer["checks"].as_array().expect("a list");
    assert!(checks.iter().all(|check| check["fault"].is_null()), "{answer}");
    let text = |value: &Value| value.as_str().expect("a name").to_owned();
    checks.iter().map(|check| (text(&check["lane"]), text(&check["part"]))).collect()
}

fn lanes(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn every_lane_brings_values_of_all_sizes() {
    assert_eq!(check(&[], &[]), lanes(&["mpi", "shm", "tcp"]));
}

#[test]
fn the_benchmark_of_transfers_has_every_figure() {
    let stage = Stage::new();
    let words = ["bench", "transfer", "--quick", "--repeat", "1", "--json"];
    let end = stage.run(stage.mpirun(3).arg(dcluster()).args(words));
    end.assert_code(0);
    let answer: Value = serde_json::from_str(&end.output).expect("one answer, from rank 0");
    let figures = answer["results"].as_array().expect("a list");
    for name in [
        "raw_mpi_1b_us",
        "raw_mpi_64mib_gib_per_s",
        "mpi_lane_fraction_4mib",
        "mpi_lane_fraction_64mib",
        "shm_map_64mib_ms",
        "tcp_lane_gib_per_s",
        "progress_cpu_s_per_gib",
    ] {
        let figure = figures.iter().find(|figure| figure["name"] == name);
        assert!(figure.is_some_and(|figure| figure["value"].as_f64() > Some(0.0)), "{name}: {answer}");
    }
    assert!(answer["notes"].to_string().contains("MPI"), "which MPI, and how it was set: {answer}");
    stage.assert_nothing_left();
}

#[test]
fn the_mpi_lane_works_over_other_transports_of_open_mpi() {
    if !is_open_mpi() {
        return;
    }
    for transport in [
        &[("OMPI_MCA_pml", "ob1")][..],
        &[("OMPI_MCA_pml", "ob1"), ("OMPI_MCA_btl", "tcp,self"), ("OMPI_MCA_btl_tcp_if_include", "lo")],
        &[("UCX_TLS", "tcp,self")],
    ] {
        assert!(check(transport, &["--quick"]).contains("mpi"), "{transport:?}");
    }
}

#[test]
fn a_rank_that_dies_half_way_costs_nobody_else_a_value_on_any_lane() {
    // (Under other launchers the death of one rank is the end of all.)
    if !is_open_mpi() {
        return;
    }
    let stage = Stage::new();
    let mut command = stage.command(Path::new(env!("CARGO_MANIFEST_DIR")).join("launchers/mpirun.sh"));
    command.args([
        "-n",
        "12",
        dcluster(),
        "bench",
        "transfer",
        "--check",
        "--lose-ranks",
        "--quick",
        "--json",
    ]);
    let checks = kept(&stage, &mut command);
    for lane in ["mpi", "shm", "tcp"] {
        let lost = checks.iter().filter(|(of, part)| of == lane && part == "peer lost half-way").count();
        assert_eq!(lost, 3, "{checks:?}");
    }
}

#[test]
fn without_a_lane_values_come_over_the_others() {
    let off = [("DCLUSTER_MPI_LANE", "off"), ("DCLUSTER_SHM_LANE", "off")];
    assert_eq!(check(&off[..1], &["--quick"]), lanes(&["shm", "tcp"]));
    assert_eq!(check(&off, &["--quick"]), lanes(&["tcp"]));
}

#[test]
fn a_rank_that_dies_in_the_middle_of_transfers_costs_no_result() {
    // (Under other launchers the death of one rank is the end of all.)
    if !is_open_mpi() {
        return;
    }
    for (shm, mpi, pause_ms) in [("on", "on", 0), ("off", "on", 70), ("off", "off", 30)] {
        let stage = Stage::new();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("launchers/mpirun.sh");
        let mut command = stage.command(script);
        let died = stage.path().join("died");
        command.args(["-n", "4"]).arg(example("exchange")).args(["300007", "3"]).arg(&died);
        let cluster = stage.start(command.env("DCLUSTER_SHM_LANE", shm).env("DCLUSTER_MPI_LANE", mpi));
        cluster.prints("round 0");
        let status = stage.workers(3);
        cluster.prints("round 1");
        thread::sleep(Duration::from_millis(pause_ms));
        signal(pid(&status["workers"][1]), libc::SIGKILL);
        stage.workers(2);
        fs::write(&died, "").expect("a file");
        let end = cluster.end_within(GIGABYTES_MAX);
        end.assert_code(0);
        assert!(end.output.contains("the first block: "), "{}{}", end.output, end.errors);
        stage.assert_nothing_left();
    }
}

#[test]
fn an_end_while_values_are_on_their_way_is_in_order() {
    for _ in 0..3 {
        let stage = Stage::new();
        let end = stage.run(stage.mpirun(4).arg(example("early_end")).env("DCLUSTER_SHM_LANE", "off"));
        end.assert_code(0);
        assert!(end.output.contains("one sum is there"), "{}", end.output);
        stage.assert_nothing_left();
    }
}

#[test]
fn the_story_of_a_value_tells_how_it_was_made_and_moved() {
    let stage = Stage::new();
    let end = stage.run(stage.mpirun(3).arg(example("exchange")).env("DCLUSTER_SHM_LANE", "off"));
    end.assert_code(0);
    let events: Vec<Value> =
        end.output.lines().filter_map(|line| serde_json::from_str(line.trim()).ok()).collect();
    let bytes = 200_003 * 8;
    let made = &events[0];
    assert_eq!(made["event"], "made", "{}", end.output);
    assert!(made["bytes"].as_u64() > Some(bytes), "{made}");
    let moved = events.iter().find(|event| event["event"] == "moved").expect("it was needed elsewhere");
    assert_eq!((&moved["lane"], &moved["from"]), (&Value::from("mpi"), &made["worker"]));
    assert!(moved["seconds"].as_f64() > Some(0.0) && moved["to"] != moved["from"], "{moved}");
}
