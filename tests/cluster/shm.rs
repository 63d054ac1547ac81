//! Values that processes of one host map: one copy for all, whoever dies and whatever is missing.

use std::process::Command;

use crate::srun::rank;
use crate::stage::{PATIENCE, Stage, dcluster, example};

/// `dcluster local` with three workers and this driver, in a shell that first does something.
fn local(stage: &Stage, before: &str, driver: &[&str]) -> Command {
    let mut command = stage.command("sh");
    let script = format!("{before} exec \"$@\"");
    command
        .args(["-c", &script, "sh", dcluster(), "local", "-n", "3", "--"])
        .arg(example(driver[0]))
        .args(&driver[1..]);
    command
}

#[test]
fn workers_of_a_host_share_one_copy() {
    let stage = Stage::new();
    let end = stage.run(&mut local(&stage, "", &["one_copy"]));
    end.assert_code(0);
    assert!(end.output.contains("3 processes read the array, copies on this host: 1.0"), "{}", end.output);
    stage.assert_nothing_left();
}

#[cfg(feature = "mpi")]
#[test]
fn mpi_ranks_of_a_host_share_one_copy() {
    let stage = Stage::new();
    let end = stage.run(stage.mpirun(4).arg(example("one_copy")));
    end.assert_code(0);
    assert!(end.output.contains("3 processes read the array, copies on this host: 1.0"), "{}", end.output);
    stage.assert_nothing_left();
}

#[test]
fn what_is_mapped_outlives_the_worker_that_made_it() {
    let stage = Stage::new();
    let end = stage.run(&mut local(&stage, "", &["mapping", "owner-dies"]));
    end.assert_code(0);
    assert!(end.output.contains("the owner is dead, and 2 processes read the array"), "{}", end.output);
    stage.assert_nothing_left();
}

#[test]
fn a_value_larger_than_the_reader_s_limit_is_lent_and_is_the_reader_s_when_the_owner_dies() {
    const RANKS: u32 = 3;
    let stage = Stage::new();
    let program = example("mapping");
    let program = program.to_str().expect("a plain path");
    let limits = ["512MiB", "512MiB", "64MiB"].map(|limit| format!("DCLUSTER_MEMORY_LIMIT={limit}"));
    let ranks = (0..RANKS).zip(&limits);
    let ranks = ranks.map(|(number, limit)| rank(&stage, number, RANKS, &["env", limit, program, "lent"]));
    let ends: Vec<_> = ranks.collect::<Vec<_>>().into_iter().map(|rank| rank.end_within(PATIENCE)).collect();
    let output = &ends[0].output;
    for line in [
        "with 67108864 bytes of memory it reads 72000",
        "it has 0 of its own and paused: false",
        "it wrote 0 bytes to disk",
        "the owner is dead, and the array is the reader's",
    ] {
        assert!(output.contains(line), "{output}{}", ends[0].errors);
    }
    ends[0].assert_code(0);
    stage.assert_nothing_left();
}

#[test]
fn memory_that_is_used_again_never_changes_what_others_have_mapped() {
    let stage = Stage::new();
    let end = stage.run(&mut local(&stage, "", &["mapping", "churn"]));
    end.assert_code(0);
    assert!(end.output.contains("36 arrays were right"), "{}{}", end.output, end.errors);
    stage.assert_nothing_left();
}

#[test]
fn a_tiny_dev_shm_does_not_matter() {
    let stage = Stage::new();
    let is_root = nix::unistd::geteuid().is_root();
    let mut command = stage.command("unshare");
    let script = "mount -t tmpfs -o size=4k tmpfs /dev/shm && exec \"$@\"";
    // (Who is not root becomes it in a namespace.)
    command.args(if is_root { &["--mount"][..] } else { &["--mount", "--map-root-user"] });
    command.args(["sh", "-c", script, "sh", dcluster(), "local", "-n", "3", "--"]).arg(example("one_copy"));
    let end = stage.run(&mut command);
    end.assert_code(0);
    assert!(end.output.contains("copies on this host: 1.0"), "{}{}", end.output, end.errors);
    stage.assert_nothing_left();
}

#[test]
fn with_few_open_files_values_take_another_lane_and_that_is_said() {
    let stage = Stage::new();
    let end = stage.run(&mut local(&stage, "ulimit -n 64;", &["mapping", "churn"]));
    end.assert_code(0);
    assert!(end.output.contains("36 arrays were right"), "{}{}", end.output, end.errors);
    stage.assert_nothing_left();
}

#[test]
fn a_lane_that_is_switched_off_is_not_taken() {
    let stage = Stage::new();
    let end = stage.run(&mut local(&stage, "export DCLUSTER_SHM_LANE=off;", &["one_copy"]));
    end.assert_code(0);
    assert!(end.output.contains("copies on this host: 3.0"), "{}{}", end.output, end.errors);
    stage.assert_nothing_left();
}

#[test]
fn a_worker_that_may_not_look_into_others_gets_values_on_another_lane_and_that_is_said() {
    const RANKS: u32 = 4;
    // (In a user namespace of its own, a process may not open the files of those outside, though they are the same
    // user's.)
    const APART: [&str; 3] = ["unshare", "--user", "--map-root-user"];
    let stage = Stage::new();
    let trial = stage.run(stage.command(APART[0]).args(&APART[1..]).arg("true"));
    assert!(trial.errors.is_empty(), "this test needs user namespaces: {}", trial.errors);

    let program = example("mapping");
    let words = [program.to_str().expect("a plain path"), "churn"];
    let apart = [&APART[..], &words].concat();
    let mut ranks: Vec<_> = (0..RANKS - 1).map(|number| rank(&stage, number, RANKS, &words)).collect();
    ranks.push(rank(&stage, RANKS - 1, RANKS, &apart));
    let ends: Vec<_> = ranks.into_iter().map(|rank| rank.end_within(PATIENCE)).collect();
    ends.iter().for_each(|end| end.assert_code(0));
    assert!(ends[0].output.contains("36 arrays were right"), "{}{}", ends[0].output, ends[0].errors);
    let refused = &ends[RANKS as usize - 1].errors;
    assert!(refused.contains("come on another lane from now on"), "{refused}");
    assert!(refused.contains("cannot map /proc/"), "{refused}");
    stage.assert_nothing_left();
}
