//! Clients that vanish from a running cluster: what they held is kept for the lease, and then released.

use std::path::Path;
use std::time::Instant;

use crate::stage::{Actor, ENDING_MAX, PATIENCE, Stage, dcluster, example, wait_for};

/// A scheduler with this lease, and a worker that has the tasks of the example `exits`.
struct Scene {
    stage: Stage,
    file: std::path::PathBuf,
    scheduler: Actor,
    _worker: Actor,
}

impl Scene {
    fn new(lease_s: &str) -> Self {
        let stage = Stage::new();
        let file = stage.path().join("by-hand.json");
        let mut command = stage.command(dcluster());
        let scheduler = stage.start(command.arg("--connection-file").arg(&file).args([
            "--client-lease",
            lease_s,
            "scheduler",
        ]));
        wait_for("the file", || file.exists().then_some(()));
        let mut command = stage.command(example("exits"));
        let worker =
            stage.start(command.env("DCLUSTER_ROLE", "worker").env("DCLUSTER_CONNECTION_FILE", &file));
        Self { stage, file, scheduler, _worker: worker }
    }

    /// A client that has a future, and is killed.
    fn lose_a_client(&self) {
        let client = self
            .stage
            .start(self.stage.command(example("exits")).arg("--connect").arg(&self.file).arg("hang"));
        client.prints("answer 42");
        client.signal(libc::SIGKILL);
        client.end_within(PATIENCE).assert_code(137);
    }

    fn status(&self) -> serde_json::Value {
        let end = self.stage.run(status(&self.stage, &self.file).arg("--json"));
        serde_json::from_str(&end.output).unwrap_or_else(|error| panic!("{error}: {end:?}"))
    }

    fn stop(self) {
        let since = Instant::now();
        self.stage
            .run(self.stage.command(dcluster()).arg("--connection-file").arg(&self.file).arg("stop"))
            .assert_code(0);
        self.scheduler.end_within(ENDING_MAX).assert_code(0);
        assert!(since.elapsed() < ENDING_MAX);
        self.stage.assert_nothing_left();
    }
}

fn status(stage: &Stage, file: &Path) -> std::process::Command {
    let mut command = stage.command(dcluster());
    command.arg("--connection-file").arg(file).arg("status");
    command
}

#[test]
fn what_a_killed_client_held_is_released_when_its_lease_is_over() {
    let scene = Scene::new("3");
    scene.lose_a_client();
    wait_for("the scheduler to notice", || scene.scheduler.errors().contains("is lost").then_some(()));
    wait_for("the end of the lease", || {
        let status = scene.status();
        let is_away = status["clients"][0]["lease_left_s"].is_number();
        // As long as it is waited for, its result is there.
        assert!(!is_away || status["tasks"]["stored"] == 1, "{status}");
        (!is_away && status["tasks"]["stored"] == 0).then_some(())
    });
    let log = scene.scheduler.errors();
    assert!(log.contains("its lease is over") && log.contains("client on "), "{log}");
    scene.stop();
}

#[test]
fn a_client_that_is_away_is_shown_and_does_not_hold_up_the_end() {
    let scene = Scene::new("3600");
    scene.lose_a_client();
    wait_for("the absence", || {
        let end = scene.stage.run(&mut status(&scene.stage, &scene.file));
        end.output.contains(", cut off: client-0 on ").then_some(())
    });
    let client = &scene.status()["clients"][0];
    assert!(client["away_s"].is_number() && client["lease_left_s"].as_f64() > Some(3000.0), "{client}");
    scene.stop();
}
