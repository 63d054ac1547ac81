//! Bulk data of a client: no process holds it twice, rank 0 holds none of it, and a terminal shows how far it is.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::pty::{Winsize, openpty};

use crate::stage::{ENDING_MAX, Stage, dcluster, example, wait_for};

/// Scatters and gathers so many MiB over two workers.
fn bulk(stage: &Stage, mib: u64) -> Command {
    let mut command = stage.command(dcluster());
    command.args(["local", "-n", "2", "-t", "1", "--"]).arg(example("bulk")).arg(mib.to_string());
    command
}

/// What a short run of a suite prints; it leaves nothing.
fn benchmark(suite: &str) -> serde_json::Value {
    let stage = Stage::new();
    let words = ["bench", suite, "--quick", "--repeat", "1", "--json"];
    let end = stage.run(stage.command(dcluster()).args(words));
    end.assert_code(0);
    stage.assert_nothing_left();
    serde_json::from_str(&end.output).expect("JSON")
}

fn figure(output: &serde_json::Value, name: &str) -> f64 {
    let figures = output["results"].as_array().expect("figures");
    let figure = figures.iter().find(|figure| figure["name"] == name);
    figure.and_then(|figure| figure["value"].as_f64()).unwrap_or_else(|| panic!("no {name} in {output}"))
}

#[test]
fn bulk_data_is_in_no_process_twice_and_never_on_rank_0() {
    let mib = 96;
    let stage = Stage::new();
    let end = stage.run(&mut bulk(&stage, mib));
    end.assert_code(0);
    let peak = |process: &str| -> u64 {
        let line = end.output.lines().find(|line| line.starts_with(process) && line.ends_with(" MiB"));
        let words = line.unwrap_or_else(|| panic!("no {process} in {}", end.output)).split(' ');
        words.rev().nth(1).and_then(|size| size.parse().ok()).expect("a size in MiB")
    };
    let once = mib..mib + mib / 2;
    assert!(once.contains(&peak("client ")), "{}", end.output);
    let workers = [peak("worker-0"), peak("worker-1")];
    assert!(workers.iter().any(|peak| once.contains(peak)), "{}", end.output);
    assert!(workers.iter().any(|peak| *peak < mib / 2), "{}", end.output);
    assert!(peak("scheduler") < mib / 2, "{}", end.output);
    assert!(!end.errors.contains("scatter "), "a bar, and no terminal: {}", end.errors);
    stage.assert_nothing_left();
}

/// What a command shows in a terminal that is its standard error.
fn in_a_terminal(command: &mut Command) -> String {
    let size = Winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(&size, None).expect("a terminal");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(terminal.slave).env("TERM", "xterm");
    let mut child = command.spawn().expect("it starts");
    // The other end of the terminal is the children's alone, so that there is an end.
    command.stderr(Stdio::null());
    let shown = read_all(terminal.master);
    assert!(child.wait().expect("it ends").success(), "{shown}");
    shown
}

/// Reads until nobody has the terminal open any more, which is an error of its own kind.
fn read_all(terminal: OwnedFd) -> String {
    let mut shown = Vec::new();
    let _ = File::from(terminal).read_to_end(&mut shown);
    String::from_utf8_lossy(&shown).into_owned()
}

#[test]
fn a_terminal_shows_how_far_a_large_transfer_is_unless_it_is_told_not_to() {
    let stage = Stage::new();
    let shown = in_a_terminal(&mut bulk(&stage, 256));
    for word in ["scatter ", "gather ", "256.00 MiB", "iB/s", " left"] {
        assert!(shown.contains(word), "{word} in {shown}");
    }
    let quiet = in_a_terminal(bulk(&stage, 256).env("DCLUSTER_PROGRESS", "off"));
    assert!(!quiet.contains("scatter ") && !quiet.contains("iB/s"), "{quiet}");
    stage.assert_nothing_left();
}

#[test]
fn the_benchmark_of_bulk_data_has_every_figure() {
    let output = benchmark("collective");
    let value = |name| figure(&output, name);
    for rate in ["scatter_gib_per_s", "gather_gib_per_s", "tcp_gib_per_s", "gather_fraction_of_tcp"] {
        assert!(value(rate) > 0.0, "{output}");
    }
    // Workers of one host map the same memory, and take a little for themselves.
    let copies = value("broadcast_copies_per_node");
    assert!((0.9..1.5).contains(&copies), "{output}");
}

#[test]
fn a_benchmark_that_is_interrupted_leaves_no_files() {
    let stage = Stage::new();
    let scratch = stage.path().join("scratch");
    fs::create_dir(&scratch).expect("a directory");
    let mut command = stage.command(dcluster());
    command.args(["bench", "dataflow", "--quick", "--repeat", "1000"]).env("TMPDIR", &scratch);
    let benchmark = stage.start(&mut command);
    let names = || -> Vec<String> {
        let entries = fs::read_dir(&scratch).expect("a directory").flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let is_there = |name: &str| names().iter().any(|entry| entry.starts_with(name));
    wait_for("the files of the benchmark", || {
        (is_there("dcluster-bench-file") && is_there("dcluster-bench-cluster")).then_some(())
    });
    benchmark.signal(libc::SIGINT);
    benchmark.end_within(ENDING_MAX).assert_code(130);
    wait_for("the files to go", || names().iter().all(|name| !name.contains("bench")).then_some(()));
    stage.assert_nothing_left();
}

#[test]
fn a_benchmark_on_a_machine_without_mpirun_prints_what_it_has() {
    let stage = Stage::new();
    let bin = stage.path().join("bin");
    fs::create_dir(&bin).expect("a directory");
    for program in ["sh", "mkdir", "rm"] {
        std::os::unix::fs::symlink(Path::new("/bin").join(program), bin.join(program)).expect("a link");
    }
    let words = ["bench", "overhead", "--quick", "--repeat", "1", "--json"];
    let end = stage.run(stage.command(dcluster()).args(words).env("PATH", &bin));
    end.assert_code(0);
    let output: serde_json::Value = serde_json::from_str(&end.output).expect("JSON");
    assert!(figure(&output, "noop_map_tasks_per_s") > 0.0, "{output}");
    let notes = output["notes"].to_string();
    for figure in ["idle_cpu_percent", "launch_64_ranks_s"] {
        assert!(notes.contains(&format!("{figure} is not measured: cannot start mpirun")), "{notes}");
    }
}

#[test]
fn a_measurement_needs_a_sample() {
    let stage = Stage::new();
    let end = stage.run(stage.command(dcluster()).args(["bench", "collective", "--repeat", "0"]));
    end.assert_code(2);
    assert!(end.errors.contains("--repeat"), "{}", end.errors);
}

#[test]
fn the_benchmark_of_arrays_has_every_figure() {
    let output = benchmark("dataflow");
    for name in [
        "persist_sum_speedup",
        "persist_20_sums_s",
        "warm_sum_fraction_of_memory_bandwidth",
        "matmul_fraction_of_local",
        "peak_bytes_ratio",
        "rechunk_gib_per_s",
    ] {
        assert!(figure(&output, name) > 0.0, "{name} in {output}");
    }
    assert!(output["notes"].to_string().contains("page cache"), "what the disk is: {output}");
}
