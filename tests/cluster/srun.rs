//! Ranks without any PMI, as `srun --mpi=none` starts them: they meet through files, and end as others do.

use crate::stage::{Actor, ENDING_MAX, PATIENCE, Stage, dcluster, example, pid, signal};

/// The ranks of one step, as processes with Slurm's variables.
fn step(stage: &Stage, ranks: u32, words: &[&str]) -> Vec<Actor> {
    (0..ranks).map(|number| rank(stage, number, ranks, words)).collect()
}

/// One rank of a step.
pub(crate) fn rank(stage: &Stage, rank: u32, ranks: u32, words: &[&str]) -> Actor {
    let mut command = stage.command(words[0]);
    command.args(&words[1..]).env("SLURM_JOB_ID", "7").env("SLURM_STEP_ID", "0");
    command.env("SLURM_PROCID", rank.to_string()).env("SLURM_NTASKS", ranks.to_string());
    stage.start(&mut command)
}

#[test]
fn ranks_without_pmi_become_a_cluster() {
    let stage = Stage::new();
    let program = example("exits");
    let ranks = step(&stage, 3, &[program.to_str().expect("a plain path"), "code", "4"]);
    for (number, rank) in ranks.into_iter().enumerate() {
        let end = rank.end_within(PATIENCE);
        end.assert_code(4);
        assert_eq!(end.output.contains("answer 42"), number == 0, "{}", end.output);
    }
    stage.assert_nothing_left();
}

#[test]
fn the_workers_of_a_driver_that_links_dcluster_have_its_tasks_without_pmi() {
    let stage = Stage::new();
    let program = example("exits");
    let words = [dcluster(), "run", "--", program.to_str().expect("a plain path")];
    for (number, rank) in step(&stage, 2, &words).into_iter().enumerate() {
        let end = rank.end_within(PATIENCE);
        end.assert_code(0);
        assert_eq!(end.output.contains("answer 42"), number == 0, "{}", end.output);
    }
    stage.assert_nothing_left();
}

#[test]
fn workers_end_with_their_code_when_rank_0_dies() {
    let stage = Stage::new();
    let mut ranks = step(&stage, 3, &[dcluster()]);
    let status = stage.workers(2);
    signal(pid(&status["scheduler"]), libc::SIGKILL);
    ranks.remove(0).end_within(ENDING_MAX).assert_code(137);
    for worker in ranks {
        worker.end_within(ENDING_MAX).assert_code(74);
    }
    stage.assert_nothing_left();
}

#[test]
fn the_others_live_on_when_a_worker_dies() {
    let stage = Stage::new();
    let ranks = step(&stage, 3, &[dcluster()]);
    let status = stage.workers(2);
    signal(pid(&status["workers"][0]), libc::SIGKILL);
    stage.workers(1);
    stage.run(stage.command(dcluster()).args(["--job", "7", "stop", "--code", "3"])).assert_code(0);
    let codes: Vec<_> = ranks.into_iter().map(|rank| rank.end_within(ENDING_MAX).code).collect();
    assert_eq!(codes[0], Some(3));
    assert_eq!(codes.iter().filter(|code| **code == Some(137)).count(), 1, "{codes:?}");
    stage.assert_nothing_left();
}

#[test]
fn a_signal_to_all_ranks_ends_each_with_its_code() {
    let stage = Stage::new();
    let ranks = step(&stage, 3, &[dcluster()]);
    stage.workers(2);
    ranks.iter().for_each(|rank| rank.signal(libc::SIGTERM));
    for rank in ranks {
        rank.end_within(ENDING_MAX).assert_code(143);
    }
    stage.assert_nothing_left();
}

#[test]
fn a_rank_that_never_comes_is_named_in_time() {
    let stage = Stage::new();
    let mut command = stage.command(dcluster());
    command
        .env("SLURM_JOB_ID", "7")
        .env("SLURM_STEP_ID", "0")
        .env("SLURM_PROCID", "0")
        .env("SLURM_NTASKS", "2");
    let end = stage.run(command.env("DCLUSTER_LAUNCH_TIMEOUT", "1"));
    end.assert_code(71);
    assert!(end.errors.contains("did not hear from rank 1"), "{}", end.errors);
    stage.assert_nothing_left();
}
