//! Clusters under a real `mpirun`: how many ranks there are, what the driver sees, and every way they end.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::stage::{ENDING_MAX, Stage, dcluster, example, is_open_mpi, pid, signal, wait_for};

/// `mpirun -n RANKS dcluster run` with a driver in shell.
fn run(stage: &Stage, ranks: u32, script: &str) -> Command {
    let mut command = stage.mpirun(ranks);
    command.args([dcluster(), "run", "--", "sh", "-c", script]);
    command
}

#[test]
fn all_ranks_but_the_first_are_workers() {
    let stage = Stage::new();
    let cluster = stage.start(stage.mpirun(4).arg(dcluster()));
    let status = stage.workers(3);
    let mut ranks: Vec<u64> = status["workers"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|worker| worker["rank"].as_u64().expect("a rank"))
        .collect();
    ranks.sort_unstable();
    assert_eq!(ranks, [1, 2, 3]);
    cluster.prints("cluster of 3 workers");
    let stop = stage.run(stage.command(dcluster()).arg("stop"));
    stop.assert_code(0);
    cluster.end_within(ENDING_MAX).assert_code(0);
    stage.assert_nothing_left();
}

#[test]
fn a_single_rank_schedules_and_works() {
    let stage = Stage::new();
    let end = stage.run(stage.mpirun(1).arg(example("exits")));
    end.assert_code(0);
    assert_eq!(end.output, "answer 42\n");
    stage.assert_nothing_left();
}

#[test]
fn the_body_runs_once_and_its_code_is_that_of_mpirun() {
    let stage = Stage::new();
    let end = stage.run(stage.mpirun(4).arg(example("exits")).args(["code", "7"]));
    end.assert_code(7);
    assert_eq!(end.output.matches("answer 42").count(), 1);
    stage.assert_nothing_left();
}

#[test]
fn a_drivers_error_and_panic_have_their_codes() {
    for (way, code, said) in [("error", 1, "the input is missing"), ("panic", 101, "a bug in the driver")] {
        let stage = Stage::new();
        let end = stage.run(stage.mpirun(3).arg(example("exits")).arg(way));
        end.assert_code(code);
        assert!(end.errors.contains(said), "{}", end.errors);
        stage.assert_nothing_left();
    }
}

#[test]
fn any_program_is_the_driver_and_is_not_taken_for_a_rank() {
    let stage = Stage::new();
    let end = stage.run(&mut run(&stage, 3, "env; exit 9"));
    end.assert_code(9);
    assert!(end.output.contains("DCLUSTER_CONNECTION_FILE="), "{}", end.output);
    for variable in ["OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"] {
        assert!(!end.output.contains(variable), "{}", end.output);
    }
    stage.assert_nothing_left();
}

#[test]
fn the_workers_of_a_driver_that_links_dcluster_have_its_tasks() {
    for ranks in [1, 3] {
        let stage = Stage::new();
        let end = stage.run(
            stage.mpirun(ranks).args([dcluster(), "run", "--"]).arg(example("exits")).args(["code", "2"]),
        );
        end.assert_code(2);
        assert_eq!(end.output, "answer 42\n", "{ranks} ranks");
        stage.assert_nothing_left();
    }
}

#[test]
fn a_driver_that_is_quicker_than_the_workers_still_ends_in_order() {
    for _ in 0..3 {
        let stage = Stage::new();
        stage.run(&mut run(&stage, 12, "true")).assert_code(0);
        stage.assert_nothing_left();
    }
}

#[test]
fn a_killed_driver_ends_all_ranks() {
    let stage = Stage::new();
    stage.run(&mut run(&stage, 3, "kill -KILL $$")).assert_code(137);
    stage.assert_nothing_left();
}

#[test]
fn ctrl_c_and_sigterm_at_mpirun_leave_nothing() {
    for number in [libc::SIGINT, libc::SIGTERM] {
        let stage = Stage::new();
        let (cluster, _) = stage.start_ready(&mut run(&stage, 3, "echo ready; sleep 600 & sleep 600"), 2);
        cluster.signal(number);
        let end = cluster.end_within(ENDING_MAX);
        // (MPICH's mpirun forgets at times the codes of ranks that it has ended itself; mpirun.sh does not.)
        if is_open_mpi() {
            assert_ne!(end.code, Some(0));
        }
        stage.assert_nothing_left();
    }
}

#[test]
fn sigterm_at_rank_0_ends_all_ranks_with_143() {
    let stage = Stage::new();
    let (cluster, status) = stage.start_ready(&mut run(&stage, 3, "echo ready; sleep 600"), 2);
    signal(pid(&status["scheduler"]), libc::SIGTERM);
    cluster.end_within(ENDING_MAX).assert_code(143);
    stage.assert_nothing_left();
}

#[test]
fn a_client_stops_all_ranks_with_its_code() {
    let stage = Stage::new();
    let (cluster, _) = stage.start_ready(&mut run(&stage, 3, "echo ready; sleep 600"), 2);
    stage.run(stage.command(dcluster()).args(["stop", "--code", "5"])).assert_code(0);
    cluster.end_within(ENDING_MAX).assert_code(5);
    stage.assert_nothing_left();
}

#[test]
fn the_death_of_rank_0_ends_all() {
    let stage = Stage::new();
    let (cluster, status) = stage.start_ready(&mut run(&stage, 3, "echo ready; sleep 600 & sleep 600"), 2);
    signal(pid(&status["scheduler"]), libc::SIGKILL);
    let end = cluster.end_within(ENDING_MAX);
    assert_ne!(end.code, Some(0));
    stage.assert_nothing_left();
}

#[test]
fn the_death_of_a_worker_ends_all_under_a_plain_mpirun() {
    let stage = Stage::new();
    let (cluster, status) = stage.start_ready(&mut run(&stage, 3, "echo ready; sleep 600"), 2);
    signal(pid(&status["workers"][0]), libc::SIGKILL);
    let end = cluster.end_within(ENDING_MAX);
    assert_ne!(end.code, Some(0));
    stage.assert_nothing_left();
}

#[test]
fn topo_draws_every_rank() {
    let stage = Stage::new();
    let end = stage.run(stage.mpirun(3).args([dcluster(), "topo", "--json"]));
    end.assert_code(0);
    let answer: serde_json::Value = serde_json::from_str(&end.output).expect("one answer, from rank 0");
    assert_eq!(answer["hosts"][0]["ranks"].as_array().expect("ranks").len(), 3);
    stage.assert_nothing_left();
}

#[test]
fn topo_of_a_running_cluster_is_the_map_of_its_ranks() {
    let stage = Stage::new();
    let planned = stage.run(stage.mpirun(3).args([dcluster(), "topo"]));
    planned.assert_code(0);
    let cluster = stage.start(&mut run(&stage, 3, "echo ready; sleep 600"));
    stage.workers(2);
    let topo = |words: &[&str]| {
        let mut command = stage.command(dcluster());
        stage.run(command.arg("--connection-file").arg(stage.connection_file()).arg("topo").args(words))
    };
    assert_eq!(topo(&[]).output, planned.output);
    let answer: serde_json::Value = serde_json::from_str(&topo(&["--json"]).output).expect("JSON");
    assert_eq!(answer["hosts"][0]["ranks"].as_array().expect("ranks").len(), 3);
    cluster.signal(libc::SIGTERM);
    cluster.end_within(ENDING_MAX);
    stage.assert_nothing_left();
}

#[test]
fn ranks_that_mpi_does_not_see_together_say_so_and_meet_over_tcp() {
    let stage = Stage::new();
    let rank = |rank: &str| {
        // Open MPI ignores these; without its own launcher each process is alone.
        let variables = [("PMI_RANK", rank), ("PMI_SIZE", "3"), ("DCLUSTER_RUN_ID", "wrong-pmi")];
        let mut command = stage.command(example("exits"));
        command.envs(variables).env("OMPI_MCA_plm", "isolated");
        // Lone processes of Open MPI that start together would race to make one directory, and one would lose.
        let session = stage.path().join(format!("session-{rank}"));
        fs::create_dir(&session).expect("a directory");
        command.env("OMPI_MCA_orte_tmpdir_base", session);
        stage.start(&mut command)
    };
    let ranks = [rank("0"), rank("1"), rank("2")];
    for (number, rank) in ranks.into_iter().enumerate() {
        let end = rank.end_within(crate::stage::PATIENCE);
        end.assert_code(0);
        assert_eq!(end.output.contains("answer 42"), number == 0);
        assert_eq!(end.errors.contains("do not speak the same PMI"), number == 0, "{}", end.errors);
    }
    stage.assert_nothing_left();
}

#[test]
fn open_mpi_goes_through_ucx_unless_the_user_says_otherwise() {
    if !is_open_mpi() {
        return;
    }
    let stage = Stage::new();
    let chosen = |pml: Option<&str>| {
        let mut command = run(&stage, 2, "true");
        command.env("OMPI_MCA_pml_base_verbose", "10").envs(pml.map(|pml| ("OMPI_MCA_pml", pml)));
        let end = stage.run(&mut command);
        end.assert_code(0);
        end.errors
    };
    let said = chosen(None);
    assert!(said.contains("selected ucx best priority"), "{said}");
    let said = chosen(Some("ob1"));
    assert!(!said.contains("selected ucx best priority"), "{said}");
    stage.assert_nothing_left();
}

#[test]
fn large_values_take_the_best_lane_that_the_user_allows() {
    let stage = Stage::new();
    let off = [("DCLUSTER_SHM_LANE", "off"), ("DCLUSTER_MPI_LANE", "off")];
    for (choice, lane) in [(0, "over shm:"), (1, "over mpi:"), (2, "over tcp:")] {
        let mut command = stage.mpirun(3);
        command.arg(example("exchange")).arg("3000001").envs(off[..choice].iter().copied());
        let end = stage.run(&mut command);
        end.assert_code(0);
        let lanes = end.output.matches("over ").count();
        assert!(end.output.contains(lane) && lanes == 1, "{}{}", end.output, end.errors);
    }
    stage.assert_nothing_left();
}

#[test]
fn ranks_that_wait_in_vain_for_another_end_and_say_so() {
    let stage = Stage::new();
    let mut command = stage.mpirun(1);
    // The second rank never comes to MPI.
    command.arg(dcluster()).args([":", "-n", "1", "sleep", "600"]).env("DCLUSTER_LAUNCH_TIMEOUT", "1");
    let end = stage.start(&mut command).end_within(ENDING_MAX);
    end.assert_code(71);
    assert!(end.errors.contains("did not meet over MPI within 1 s"), "{}", end.errors);
    stage.assert_nothing_left();
}

#[test]
fn a_connection_file_in_the_environment_does_not_make_clients_of_all_ranks() {
    let stage = Stage::new();
    let mut command = stage.mpirun(3);
    command.arg(example("exits")).env("DCLUSTER_CONNECTION_FILE", Path::new("/nowhere.json"));
    let end = stage.run(&mut command);
    end.assert_code(2);
    assert!(end.errors.contains("every rank would drive it"), "{}", end.errors);
    wait_for("all ranks to end", || stage.processes().is_empty().then_some(()));
}
