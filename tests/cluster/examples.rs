//! Every program of `examples/`, started alone and under `mpirun`: each checks its own result.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::stage::{Stage, dcluster, example};

/// What each example prints once it has verified its result.
const EXAMPLES: [(&str, &str); 25] = [
    ("as_completed", "39 additions, total 22140"),
    ("attach", "two clients, one run of ice"),
    ("blocking_client", "16 primes in 1000000..1000200"),
    ("branches", "[2, 4, 4, 16, 6, 36, 8, 64, 10, 100]"),
    ("bulk", "the field came back as it was"),
    ("cancel", "nothing started after the cancel"),
    ("chains", "sum of 256 chains = 98688"),
    ("copies", "calls of worker-0 ran in 1 process"),
    ("csv_sum", "sum of `x` over 4689790 bytes in 5 parts: 24975000"),
    ("deadly_task", "sum of the others: 79800"),
    ("exchange", "all distances are right"),
    ("exits", "answer 42"),
    ("future_life", "was cancelled: its holder called `cancel`"),
    ("heat", "40 steps on 9 blocks, as one process does them"),
    ("larger_than_memory", "which is right"),
    ("load_process_write", "30 files with 720 rows"),
    ("map_two_inputs", "sums: [2, 1026, 59052, 1048580, 9765630]"),
    ("matmul", "the product is right"),
    ("one_copy", "copies on this host: 1.0"),
    ("persist", "both sums are 4995000000"),
    ("rosenbrock", "minimum "),
    ("scatter", "sum of the field: 499999500000"),
    ("tree_sum", "sum of 1024 squares over 10 levels = 357389824"),
    ("wait_first", "1 of 1 futures were not done within 20ms"),
    ("word_count", "the same table"),
];

#[test]
fn every_example_is_tested() {
    let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")).expect("examples");
    let stem = |entry: fs::DirEntry| entry.path().file_stem().expect("a name").display().to_string();
    let mut there: Vec<String> = entries.flatten().map(stem).collect();
    there.sort();
    assert_eq!(there, EXAMPLES.map(|(name, _)| name));
}

#[test]
fn parts_of_blocks_travel_where_blocks_cannot_be_mapped() {
    for (name, line) in EXAMPLES.into_iter().filter(|(name, _)| ["heat", "matmul"].contains(name)) {
        let stage = Stage::new();
        let mut command = stage.command(dcluster());
        command.args(["local", "-n", "3", "--"]).arg(example(name)).env("DCLUSTER_SHM_LANE", "off");
        let end = stage.run(&mut command);
        end.assert_code(0);
        assert!(end.output.contains(line), "{}{}", end.output, end.errors);
        stage.assert_nothing_left();
    }
}

/// Starts an example with `command`, and looks for the line that says that all is well.
fn check(name: &str, command: impl Fn(&Stage, &Path) -> Command) {
    let (_, line) = EXAMPLES.iter().find(|(example, _)| *example == name).expect("listed");
    let stage = Stage::new();
    let mut command = command(&stage, &example(name));
    match name {
        "persist" => command.args(["--elements", "10000000", "--directory"]).arg(stage.path()),
        "word_count" => command.arg(tree(&stage)),
        _ => &mut command,
    };
    let end = stage.run(&mut command);
    end.assert_code(0);
    assert!(end.output.contains(line), "{}\n{}", end.output, end.errors);
    stage.assert_nothing_left();
}

/// Two tests of each example, named after it.
macro_rules! tests_of {
    ($($name:ident)+) => { $(
        mod $name {
            use super::*;

            #[test]
            fn runs_alone() {
                check(stringify!($name), |stage, program| stage.command(program));
            }

            #[cfg(feature = "mpi")]
            #[test]
            fn mpi_ranks_run_it() {
                check(stringify!($name), |stage, program| {
                    let mut command = stage.mpirun(4);
                    command.arg(program);
                    command
                });
            }
        }
    )+ };
}

tests_of! {
    as_completed attach blocking_client branches bulk cancel chains copies csv_sum deadly_task exchange exits
    future_life heat larger_than_memory load_process_write map_two_inputs matmul one_copy rosenbrock scatter
    tree_sum wait_first word_count
}

// (Its file is HDF5.)
#[cfg(feature = "hdf5")]
tests_of! { persist }

/// Two texts and a file that is none.
fn tree(stage: &Stage) -> PathBuf {
    let tree = stage.path().join("tree");
    fs::create_dir_all(tree.join("below")).expect("a directory");
    let files: [(&str, &[u8]); 3] = [
        ("one.txt", b"The cat. THE cat's whiskers!\n"),
        ("below/two.txt", "A cat, a caf\u{e9}, 2 dogs\n".as_bytes()),
        ("below/none.bin", b"cat\0cat"),
    ];
    for (name, content) in files {
        fs::write(tree.join(name), content).expect("a file");
    }
    std::os::unix::fs::symlink(tree.join("one.txt"), tree.join("below/again.txt")).expect("a link");
    tree
}

/// The report of `word_count --json`, without what differs from run to run.
fn report(command: &mut Command, stage: &Stage) -> serde_json::Value {
    let end = stage.run(command);
    end.assert_code(0);
    let mut report: serde_json::Value = serde_json::from_str(end.output.trim()).expect("a line of JSON");
    for field in ["seconds", "seconds_alone", "speed_up"] {
        assert!(report[field].as_f64().is_some_and(|value| value > 0.0), "{field} of {report}");
        report.as_object_mut().expect("an object").remove(field);
    }
    report
}

fn expected_report(workers: u64) -> serde_json::Value {
    json!({
        "files": 2, "bytes": 52, "binary": 1, "unreadable": 0, "workers": workers, "words": 11, "distinct": 7,
        "top": [["cat", 3], ["a", 2], ["the", 2], ["caf\u{e9}", 1], ["dogs", 1], ["s", 1], ["whiskers", 1]],
    })
}

#[test]
fn a_stopped_worker_process_holds_the_acknowledgement_of_a_cancel_up() {
    check("cancel", |stage, program| {
        let mut command = stage.command(program);
        command.env("DCLUSTER_WORKERS", "2");
        command
    });
}

#[test]
fn a_task_that_kills_its_workers_is_found_out_and_its_neighbours_are_not_blamed() {
    let stage = Stage::new();
    let mut command = stage.command(dcluster());
    command.args(["local", "-n", "4", "--"]).arg(example("deadly_task"));
    let end = stage.run(&mut command);
    end.assert_code(0);
    let is_there = |line: &str| assert!(end.output.contains(line), "{}\n{}", end.output, end.errors);
    ["deadly-", "3 workers died under it", "sum of the others: 79800"].into_iter().for_each(is_there);
    stage.assert_nothing_left();
}

#[test]
fn word_count_counts_text_and_leaves_out_binaries_and_links() {
    let stage = Stage::new();
    let mut command = stage.command(example("word_count"));
    assert_eq!(report(command.arg("--json").arg(tree(&stage)), &stage), expected_report(1));
}

#[cfg(feature = "mpi")]
#[test]
fn mpi_word_count_drives_the_workers_of_dcluster_run() {
    let stage = Stage::new();
    let mut command = stage.mpirun(4);
    command.args([dcluster(), "run", "--"]).arg(example("word_count")).arg("--json").arg(tree(&stage));
    let report = report(&mut command, &stage);
    // Two small files may be counted before the last of three workers has joined.
    let workers = report["workers"].as_u64().expect("a number");
    assert!((1..=3).contains(&workers), "{workers}");
    assert_eq!(report, expected_report(workers));
    stage.assert_nothing_left();
}

#[test]
fn word_count_counts_a_directory_that_is_given_twice_once() {
    let stage = Stage::new();
    let tree = tree(&stage);
    let mut command = stage.command(example("word_count"));
    command.args(["--json", "--no-verify"]).arg(&tree).arg(tree.join("below"));
    let end = stage.run(&mut command);
    end.assert_code(0);
    assert!(end.output.contains(r#""files":2,"#) && !end.output.contains("speed_up"), "{}", end.output);
}

#[test]
fn word_count_says_what_is_wrong_with_its_arguments() {
    let stage = Stage::new();
    let (nowhere, empty) = (stage.path().join("nowhere"), stage.path().join("empty"));
    fs::create_dir(&empty).expect("a directory");
    for (argument, said) in [
        (nowhere.display().to_string(), format!("cannot read {}: No such file", nowhere.display())),
        (empty.display().to_string(), format!("0 text files below {}", empty.display())),
        ("--jsno".to_owned(), "there is no option --jsno; usage: word_count".to_owned()),
    ] {
        let end = stage.run(stage.command(example("word_count")).arg(argument));
        end.assert_code(1);
        assert!(end.errors.contains(&said), "{}", end.errors);
        assert_eq!(end.output, "");
    }
    stage.assert_nothing_left();
}
