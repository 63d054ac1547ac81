//! Values on their way from a client to workers that die.

use std::thread;

use dcluster::client::ScatterOptions;
use dcluster::client::blocking::Client;
use dcluster::collections::Array;
use dcluster::model::WorkerId;

use crate::stage::{Actor, PATIENCE, Stage, dcluster, pid, signal, wait_for};

/// Too much to lie in the buffers of a connection.
const LARGE_NUMBERS: usize = 4 << 20;

/// A client of two workers, of which the first has stopped in the middle of a conversation.
struct Scene {
    stage: Stage,
    _cluster: Actor,
    client: Client,
    /// The process of the worker that is stopped, and its name.
    stopped: (i32, WorkerId),
}

impl Scene {
    fn new() -> Self {
        let stage = Stage::new();
        let cluster = stage.start(stage.command(dcluster()).args(["local", "-n", "2", "-t", "1"]));
        let status = stage.workers(2);
        let client = Client::connect(stage.connection_file()).expect("a client");
        // Each worker is sent something, and is connected from then on.
        drop(client.scatter_all(0..4i64).expect("both live"));
        let worker = &status["workers"][0];
        let id = worker["id"].as_u64().expect("a number");
        let stopped = (pid(worker), WorkerId(id as u32));
        signal(stopped.0, libc::SIGSTOP);
        Self { stage, _cluster: cluster, client, stopped }
    }

    /// Kills the stopped worker when so many values are on their way and all others have arrived.
    fn kill_while_receiving(&self, values: u64) {
        wait_for("the values of the other worker", || {
            let status: serde_json::Value = serde_json::from_str(&self.client.status().ok()?).ok()?;
            (status["tasks"]["receiving"] == values).then_some(())
        });
        signal(self.stopped.0, libc::SIGKILL);
    }
}

fn values() -> impl Iterator<Item = Vec<f64>> {
    (0..4).map(|value| vec![f64::from(value); LARGE_NUMBERS])
}

#[test]
fn values_on_their_way_to_a_worker_that_dies_go_to_another() {
    let scene = Scene::new();
    let scattered = thread::scope(|scope| {
        let scatter = scope.spawn(|| scene.client.scatter_all(values()));
        scene.kill_while_receiving(2);
        scatter.join().expect("no panic").expect("another worker takes them")
    });
    for (future, value) in scattered.iter().zip(values()) {
        assert!(future.result().expect("it is held") == value);
    }
    scene.stage.workers(1);
}

#[test]
fn a_block_that_no_worker_can_hold_fails_what_waits_for_it_with_the_reason() {
    let stage = Stage::new();
    let mut command = stage.command(dcluster());
    command.args(["local", "-n", "1", "-t", "1", "--memory-limit", "256M"]);
    let _cluster = stage.start(&mut command);
    stage.workers(1);
    let client = Client::connect(stage.connection_file()).expect("a client");
    let numbers = ndarray::Array1::<f64>::ones(40 << 20).into_dyn();
    let array = Array::from_array(&numbers.view(), [40 << 20]);
    let error =
        client.compute(&array.sum()).result_timeout(PATIENCE).expect_err("it is too large").to_string();
    assert!(error.contains("scattered data is lost: it did not get to a worker"), "{error}");
}

#[test]
fn a_scatter_to_a_named_worker_that_dies_names_it() {
    let scene = Scene::new();
    let options = ScatterOptions { workers: vec![scene.stopped.1.into()], ..ScatterOptions::default() };
    let error = thread::scope(|scope| {
        let scatter = scope.spawn(|| scene.client.scatter_with(vec![1.0f64; LARGE_NUMBERS], &options));
        scene.kill_while_receiving(1);
        scatter.join().expect("no panic").expect_err("nobody else may take it").to_string()
    });
    assert!(error.contains(&scene.stopped.1.to_string()), "{error}");
}
