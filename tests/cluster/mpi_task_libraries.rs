//! Task libraries under a real `mpirun`: the stock program with a driver that submits the library's tasks.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::building;
use crate::stage::{ENDING_MAX, Stage, dcluster};
use crate::task_libraries::{ANSWER, wrong_libraries};

fn run(stage: &Stage, library: &Path, driver: &Path) -> Command {
    let mut command = stage.mpirun(3);
    command.arg(dcluster()).arg("--tasks").arg(library).args(["run", "--"]).arg(driver);
    command
}

#[test]
fn worker_ranks_run_the_tasks_of_a_library() {
    let stage = Stage::new();
    let library = building::library(stage.path(), None);
    for program in ["norms_client", "norms_driver"] {
        let end = stage.run(&mut run(&stage, &library, &building::program(program)));
        end.assert_code(0);
        assert!(end.output.contains(ANSWER), "{program}: {}", end.output);
    }
    stage.assert_nothing_left();
}

#[test]
fn a_wrong_library_is_told_once_and_ends_all_ranks() {
    let stage = Stage::new();
    for (library, said) in wrong_libraries(stage.path()) {
        let end = stage.start(&mut run(&stage, &library, Path::new("true"))).end_within(ENDING_MAX);
        end.assert_code(71);
        assert_eq!(end.errors.matches(said).count(), 1, "{}", end.errors);
        assert!(end.errors.contains("ranks 1 on "), "{}", end.errors);
    }
    stage.assert_nothing_left();
}

#[test]
fn a_rank_with_another_library_is_turned_away_and_the_others_run_on() {
    let stage = Stage::new();
    let good = building::library(stage.path(), None);
    let client = building::program("norms_client");
    let mut odd = wrong_libraries(stage.path());
    let more = building::library(stage.path(), Some("more-tasks"));
    odd.push((more, "it also has dcluster_tasklib::smallest"));
    for (library, said) in odd {
        for (rank, library) in [(1, &good), (2, &library), (3, &good)] {
            let own = stage.path().join(format!("{rank}.so"));
            let _ = fs::remove_file(&own);
            std::os::unix::fs::symlink(library, own).expect("a link");
        }
        let script = r#"exec "$0" --tasks "$1/${OMPI_COMM_WORLD_RANK:-$PMI_RANK}.so" run -- "$2""#;
        let mut command = stage.mpirun(4);
        command.args(["sh", "-c", script, dcluster()]).arg(stage.path()).arg(&client);
        let end = stage.run(&mut command);
        end.assert_code(0);
        assert!(end.output.contains(ANSWER), "{}", end.output);
        assert_eq!(end.errors.matches(said).count(), 1, "{}", end.errors);
        assert!(end.errors.contains("rank 2 on "), "{}", end.errors);
    }
    stage.assert_nothing_left();
}
