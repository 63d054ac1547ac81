//! Connections that break under a client of a real scheduler: nothing is lost, nothing runs twice, and what cannot
//! be saved ends with a clear error.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dcluster::Error;
use dcluster::client::{ReturnWhen, Status, blocking};
use dcluster::launch::ranks::Setup;
use dcluster::launch::{LocalCluster, LocalOptions};
use dcluster::transport::tcp::{Connector, hello};
use dcluster::wire::handshake::Role;
use dcluster::wire::resume::{SessionAnswer, SessionRequest, Token};

use crate::HANG;
use crate::relay::Relay;

/// Longer than any of these tests is cut off on purpose.
const LONG_LEASE: Duration = Duration::from_secs(60);
const SHORT_LEASE: Duration = Duration::from_secs(1);
/// Long enough to be seen while it runs.
const OBSERVED_LEASE: Duration = Duration::from_secs(5);

/// How often each task of each test ran.
static RUNS: Mutex<Option<HashMap<(u32, u64), usize>>> = Mutex::new(None);
/// Which tests have opened their gate.
static GATES: Mutex<Vec<u32>> = Mutex::new(Vec::new());

#[dcluster::task]
fn counted(test: u32, x: u64) -> u64 {
    *RUNS.lock().unwrap().get_or_insert_default().entry((test, x)).or_default() += 1;
    x * 3
}

/// Waits until its test says so.
#[dcluster::task]
fn gated(test: u32, x: u64) -> u64 {
    while !GATES.lock().unwrap().contains(&test) {
        std::thread::sleep(Duration::from_millis(2));
    }
    *RUNS.lock().unwrap().get_or_insert_default().entry((test, x)).or_default() += 1;
    x + 1
}

fn open_gate(test: u32) {
    GATES.lock().unwrap().push(test);
}

/// Asserts that each of `0..tasks` ran once.
fn assert_each_ran_once(test: u32, tasks: u64) {
    let runs = RUNS.lock().unwrap();
    let runs = runs.as_ref().unwrap();
    let of_test = runs.iter().filter(|((of, _), _)| *of == test).count() as u64;
    assert_eq!(of_test, tasks);
    assert!((0..tasks).all(|x| runs[&(test, x)] == 1));
}

/// A cluster, a relay before it, and a client behind the relay.
struct Scene {
    client: blocking::Client,
    relay: Relay,
    cluster: LocalCluster,
    _directory: tempfile::TempDir,
}

impl Scene {
    fn new(lease: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let setup = Setup {
            connection_file: Some(directory.path().join("cluster.json")),
            client_lease: Some(lease),
            ..Setup::default()
        };
        let options = LocalOptions { workers: Some(1), threads: Some(2), ..LocalOptions::default() };
        let cluster = LocalCluster::start(&options, &setup).unwrap();
        let relay = Relay::start(&cluster.connection().scheduler);
        let mut file = cluster.connection().clone();
        file.scheduler = relay.address.clone();
        let client = blocking::Client::connect_with(file).unwrap();
        client.wait_for_workers(1, Some(HANG)).unwrap();
        Self { client, relay, cluster, _directory: directory }
    }

    /// A client that no relay is in the way of.
    fn direct(&self) -> blocking::Client {
        blocking::Client::connect_with(self.cluster.connection().clone()).unwrap()
    }
}

fn status(client: &blocking::Client) -> serde_json::Value {
    serde_json::from_str(&client.status().unwrap()).unwrap()
}

/// Looks at the status until it is as wanted.
fn wait_for_status(
    client: &blocking::Client,
    is_it: impl Fn(&serde_json::Value) -> bool,
) -> serde_json::Value {
    let until = Instant::now() + HANG;
    loop {
        let status = status(client);
        if is_it(&status) {
            return status;
        }
        assert!(Instant::now() < until, "{status}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_burst_of_ten_thousand_calls_survives_cuts_at_any_byte() {
    let scene = Scene::new(LONG_LEASE);
    // A frame has up to 4096 calls and must get through as a whole.
    scene.relay.cut_after(6_000, 200_000);
    scene.relay.cut();
    let futures = scene.client.map(|x| counted::call(1, x), 0..10_000_u64);
    let results = scene.client.gather(&futures).unwrap();
    assert_eq!(results, (0..10_000).map(|x| x * 3).collect::<Vec<_>>());
    assert_each_ran_once(1, 10_000);
    // All calls together are more than one connection may carry.
    assert!(scene.relay.accepted() >= 3, "{} connections", scene.relay.accepted());
}

#[test]
fn what_is_submitted_while_cut_off_runs_when_the_client_is_back() {
    let scene = Scene::new(LONG_LEASE);
    scene.relay.deny(true);
    scene.relay.cut();
    let futures = scene.client.map(|x| counted::call(2, x), 0..1000_u64);
    let error =
        scene.client.wait(&futures, ReturnWhen::AllCompleted, Some(Duration::from_millis(50))).unwrap_err();
    assert!(matches!(error, Error::Timeout { left: 1000, .. }), "deadlines pass while cut off: {error}");
    scene.relay.deny(false);
    assert_eq!(scene.client.gather(&futures).unwrap()[999], 2997);
    assert_each_ran_once(2, 1000);
}

#[test]
fn a_wait_goes_on_over_lost_connections_and_callbacks_are_called_once() {
    let scene = Scene::new(LONG_LEASE);
    let futures = scene.client.map(|x| gated::call(3, x), 0..50_u64);
    let observer = scene.direct();
    wait_for_status(&observer, |status| status["tasks"]["total"] == 50);
    let called = Arc::new(AtomicUsize::new(0));
    for future in &futures {
        let called = called.clone();
        future.add_done_callback(move |_| {
            called.fetch_add(1, Ordering::SeqCst);
        });
    }
    let client = scene.client.clone();
    let waited = futures.clone();
    let wait = std::thread::spawn(move || client.gather(&waited));
    for _ in 0..5 {
        let had = scene.relay.accepted();
        scene.relay.cut();
        let until = Instant::now() + HANG;
        while scene.relay.accepted() == had {
            assert!(Instant::now() < until, "it does not come back");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    // The tasks end while nobody is there to be told.
    scene.relay.deny(true);
    scene.relay.cut();
    wait_for_status(&observer, |status| status["clients"][0]["away_s"].is_number());
    open_gate(3);
    wait_for_status(&observer, |status| status["tasks"]["stored"] == 50);
    assert!(!wait.is_finished());
    scene.relay.deny(false);
    assert_eq!(wait.join().unwrap().unwrap(), (1..=50).collect::<Vec<_>>());
    let until = Instant::now() + HANG;
    while called.load(Ordering::SeqCst) < 50 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(called.load(Ordering::SeqCst), 50);
    assert_each_ran_once(3, 50);
    // It is the same client as before, and is called that.
    let status = wait_for_status(&observer, |status| status["clients"][0]["away_s"].is_null());
    assert_eq!(status["clients"].as_array().unwrap().len(), 2, "{status}");
}

#[test]
fn notifications_are_cut_off_and_stalled_and_arrive_once() {
    let scene = Scene::new(LONG_LEASE);
    let futures = scene.client.map(|x| gated::call(4, x), 0..3000_u64);
    let mut completed = scene.client.as_completed(futures);
    let observer = scene.direct();
    wait_for_status(&observer, |status| status["tasks"]["total"] == 3000);
    scene.relay.stall(true);
    open_gate(4);
    wait_for_status(&observer, |status| status["tasks"]["stored"] == 3000);
    scene.relay.cut_after(6_000, 20_000);
    scene.relay.cut();
    scene.relay.stall(false);
    let mut results: Vec<u64> = Vec::new();
    for future in completed.by_ref() {
        results.push(future.result().unwrap());
        if results.len() == 2000 {
            scene.relay.be_kind();
        }
    }
    results.sort_unstable();
    assert_eq!(results, (1..=3000).collect::<Vec<_>>());
    assert_each_ran_once(4, 3000);
}

#[test]
fn a_client_that_the_scheduler_still_believes_connected_takes_its_place_again() {
    let scene = Scene::new(LONG_LEASE);
    let futures = scene.client.map(|x| gated::call(5, x), 0..20_u64);
    let pending = futures[0].clone();
    for _ in 0..3 {
        let had = scene.relay.accepted();
        scene.relay.half_open();
        let until = Instant::now() + HANG;
        while scene.relay.accepted() == had {
            assert!(Instant::now() < until, "it does not come back");
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(pending.status(), Status::Pending);
    }
    open_gate(5);
    assert_eq!(scene.client.gather(&futures).unwrap(), (1..=20).collect::<Vec<_>>());
    assert_each_ran_once(5, 20);
    assert_eq!(status(&scene.client)["clients"].as_array().unwrap().len(), 1);
}

#[test]
fn references_are_kept_for_the_lease_and_then_released() {
    let scene = Scene::new(OBSERVED_LEASE);
    let held = scene.client.submit(counted::call(6, 0));
    assert_eq!(held.result().unwrap(), 0);
    let pending = scene.client.submit(gated::call(6, 1));
    let observer = scene.direct();
    scene.relay.deny(true);
    scene.relay.cut();
    let status = wait_for_status(&observer, |status| status["clients"][0]["away_s"].is_number());
    assert_eq!(status["tasks"]["stored"], 1, "{status}");
    assert!(status["clients"][0]["lease_left_s"].as_f64().unwrap() <= OBSERVED_LEASE.as_secs_f64());
    let status = wait_for_status(&observer, |status| status["clients"].as_array().unwrap().len() == 1);
    assert_eq!(status["tasks"]["stored"], 0, "{status}");
    let error = pending.result().unwrap_err();
    assert!(matches!(error, Error::LeaseExpired { lease: OBSERVED_LEASE, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("the lease of 5s has expired") && text.contains("futures are gone"), "{text}");
    assert_eq!(pending.status(), Status::Lost);
    // What had arrived is still there.
    assert_eq!(held.result().unwrap(), 0);
    open_gate(6);
}

#[test]
fn a_client_that_comes_back_too_late_is_refused_in_clear_words() {
    let scene = Scene::new(SHORT_LEASE);
    let pending = scene.client.submit(gated::call(12, 0));
    assert_eq!(pending.status(), Status::Pending);
    let observer = scene.direct();
    wait_for_status(&observer, |status| status["tasks"]["total"] == 1);
    scene.relay.half_open_other();
    wait_for_status(&observer, |status| status["clients"].as_array().unwrap().len() == 1);
    scene.relay.cut();
    let error = pending.result().unwrap_err();
    assert!(
        matches!(&error, Error::LeaseExpired { reason, .. } if reason.contains("session is not known")),
        "{error}"
    );
    open_gate(12);
}

#[test]
fn a_client_that_is_away_is_forgotten_at_once_if_there_is_no_lease() {
    let scene = Scene::new(Duration::ZERO);
    let pending = scene.client.submit(gated::call(7, 0));
    assert_eq!(pending.status(), Status::Pending);
    scene.relay.cut();
    let error = pending.result().unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    let observer = scene.direct();
    wait_for_status(&observer, |status| status["clients"].as_array().unwrap().len() == 1);
    open_gate(7);
}

#[test]
fn a_scheduler_that_is_gone_is_not_waited_for() {
    let scene = Scene::new(LONG_LEASE);
    let pending = scene.client.submit(gated::call(8, 0));
    let since = Instant::now();
    scene.relay.end();
    let error = pending.result().unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    assert!(error.to_string().contains("nobody listens there any more"), "{error}");
    assert!(since.elapsed() < LONG_LEASE / 2, "{:?}", since.elapsed());
    open_gate(8);
}

#[test]
fn a_client_that_is_closed_while_cut_off_still_takes_leave() {
    let scene = Scene::new(LONG_LEASE);
    let observer = scene.direct();
    let future = scene.client.submit(counted::call(9, 0));
    assert_eq!(future.result().unwrap(), 0);
    scene.relay.stall(true);
    scene.relay.cut();
    let since = Instant::now();
    let closed = Arc::new(AtomicBool::new(false));
    let (client, done) = (scene.client.clone(), closed.clone());
    let closing = std::thread::spawn(move || {
        client.close();
        done.store(true, Ordering::SeqCst);
    });
    std::thread::sleep(Duration::from_millis(50));
    scene.relay.stall(false);
    closing.join().unwrap();
    assert!(closed.load(Ordering::SeqCst));
    wait_for_status(&observer, |status| status["clients"].as_array().unwrap().len() == 1);
    assert!(since.elapsed() < LONG_LEASE / 2, "the lease was waited for: {:?}", since.elapsed());
}

#[test]
fn an_ending_cluster_waits_for_no_lease() {
    let scene = Scene::new(LONG_LEASE);
    let pending = scene.client.submit(gated::call(10, 0));
    let observer = scene.direct();
    scene.relay.deny(true);
    scene.relay.cut();
    wait_for_status(&observer, |status| status["clients"][0]["away_s"].is_number());
    open_gate(10);
    let since = Instant::now();
    observer.shutdown(0).unwrap();
    drop(scene.cluster);
    // The way to the cluster is there again, and nobody is at its end.
    scene.relay.end();
    let error = pending.result().unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    assert!(since.elapsed() < LONG_LEASE / 2, "{:?}", since.elapsed());
}

#[test]
fn a_token_that_nobody_was_given_is_refused_and_nobody_else_is_touched() {
    let scene = Scene::new(LONG_LEASE);
    let pending = scene.client.submit(gated::call(11, 0));
    let file = scene.cluster.connection().clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for request in [None, Some(SessionRequest::Resume { token: Token([0; 32]), received_bytes: 0 })] {
            let mut connector = Connector::new(&file.credentials, hello(Role::Client, None)).unwrap();
            if let Some(request) = request {
                connector = connector.with_session(request);
            }
            let mut connection = connector.connect(&file.scheduler, HANG).await.unwrap();
            let frame = connection.halves().0.frame().await.unwrap().unwrap();
            let answer = SessionAnswer::read(&frame).unwrap();
            let SessionAnswer::Refused { reason } = answer else { panic!("{answer:?}") };
            assert!(reason.contains("session"), "{reason}");
            assert!(connection.halves().0.frame().await.unwrap().is_none(), "it hangs up");
        }
    });
    open_gate(11);
    assert_eq!(pending.result().unwrap(), 1);
    assert_eq!(scene.relay.accepted(), 1, "the other client kept its connection");
}

#[test]
fn a_client_that_claims_what_it_was_never_sent_is_refused_and_keeps_its_session() {
    let scene = Scene::new(LONG_LEASE);
    let file = scene.cluster.connection().clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connector = Connector::new(&file.credentials, hello(Role::Client, None)).unwrap();
        let ask = async |request| {
            let connector = connector.clone().with_session(request);
            let mut connection = connector.connect(&file.scheduler, HANG).await.unwrap();
            let frame = connection.halves().0.frame().await.unwrap().unwrap();
            (SessionAnswer::read(&frame).unwrap(), connection)
        };
        let (begun, first) = ask(SessionRequest::Begin).await;
        let SessionAnswer::Begun { token, .. } = begun else { panic!("{begun:?}") };
        let (answer, _) = ask(SessionRequest::Resume { token, received_bytes: u64::MAX }).await;
        assert!(matches!(answer, SessionAnswer::Refused { .. }), "{answer:?}");
        // A second connection with the token takes the place of the first.
        let (answer, _second) = ask(SessionRequest::Resume { token, received_bytes: 0 }).await;
        assert_eq!(answer, SessionAnswer::Resumed { received_bytes: 0 });
        let (mut reader, _writer) = first.split();
        let ended =
            tokio::time::timeout(HANG, async { while let Ok(Some(_)) = reader.frame().await {} }).await;
        assert!(ended.is_ok(), "the first connection ends");
    });
}
