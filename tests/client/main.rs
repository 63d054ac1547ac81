//! The client over real TLS, against a scheduler that runs each call as it comes; `cuts` against a real one.
#![allow(clippy::unwrap_used, missing_docs)]

mod bounds;
mod cuts;
mod fake;
mod relay;

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::Duration;

use dcluster::client::{Force, Hash, OnError, ReturnWhen, ScatterOptions, Status, blocking};
use dcluster::model::{Copies, TaskId, WorkerId};
use dcluster::wire::client::Fault;
use dcluster::{Client, Error};
use fake::{Fake, Said};
use futures_util::StreamExt;

/// Generous: reaching it means something hangs.
const HANG: Duration = Duration::from_secs(60);
/// Enough for a wait that is to run out.
const SOON: Duration = Duration::from_millis(30);

#[dcluster::task]
pub(crate) fn inc(x: i64) -> i64 {
    x + 1
}

#[dcluster::task]
pub(crate) fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[dcluster::task]
pub(crate) fn sum(numbers: Vec<i64>) -> i64 {
    numbers.iter().sum()
}

#[dcluster::task]
pub(crate) fn fail(message: String) -> Result<i64, String> {
    Err(message)
}

/// Its outcome is not told before the test says so.
#[dcluster::task(impure)]
pub(crate) fn held(x: i64) -> i64 {
    x
}

/// Its result is said to be on a worker that cannot be reached, once.
#[dcluster::task]
pub(crate) fn far(x: i64) -> i64 {
    x
}

/// Its result is said to be on a worker that cannot be reached, whatever is said.
#[dcluster::task]
pub(crate) fn nowhere(x: i64) -> i64 {
    x
}

fn connect() -> (Fake, blocking::Client) {
    let fake = Fake::start();
    let client = blocking::Client::connect_with(fake.file.clone()).unwrap();
    (fake, client)
}

#[test]
fn futures_are_arguments_and_results_come_back() {
    let (_fake, client) = connect();
    let a = client.submit(inc::call(10));
    let b = client.submit(inc::call(20));
    let c = client.submit(add::call(&a, &b));
    assert_eq!(c.result().unwrap(), 32);
    assert_eq!(c.result_timeout(HANG).unwrap(), 32);
    assert_eq!(*c.result_shared().unwrap(), 32);
    assert_eq!(c.status(), Status::Finished);
    assert!(c.exception().is_none() && c.traceback().is_none());
    let key = c.key();
    assert!(key.starts_with("add-") && key.len() == "add-".len() + 32, "{key}");
    assert_eq!(format!("{c:?}"), format!("<Future: finished, type: i64, key: {}…>", &key[..8]));
    let list = client.submit(sum::call([&a, &b, &c]));
    assert_eq!(list.result().unwrap(), 11 + 21 + 32);
}

#[test]
fn the_async_client_awaits_futures() {
    let fake = Fake::start();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let client = Client::connect_with(fake.file.clone()).await.unwrap();
        let a = client.submit(inc::call(1));
        assert_eq!((&a).await.unwrap(), 2);
        assert_eq!(client.submit(add::call(a, 5)).await.unwrap(), 7);
        let mut seen = Vec::new();
        let mut completed = client.as_completed(client.map(inc::call, 0..5)).with_results();
        while let Some((_, result)) = completed.next().await {
            seen.push(result.unwrap());
        }
        seen.sort_unstable();
        assert_eq!(seen, [1, 2, 3, 4, 5]);
        client.close().await;
    });
}

#[test]
fn map_zips_inputs_until_the_shortest_ends_and_gather_keeps_the_order() {
    let (_fake, client) = connect();
    let single = client.map(inc::call, 0..1000);
    assert_eq!(client.gather(&single).unwrap(), (1..=1000).collect::<Vec<i64>>());
    let zipped = client.map(add::call, (&single, vec![1, 2, 3]));
    assert_eq!(client.gather(zipped).unwrap(), [2, 4, 6]);
}

#[test]
fn gather_gives_the_same_container_back() {
    let (_fake, client) = connect();
    let one = client.submit(inc::call(0));
    let text = BTreeMap::from([("a", one.clone()), ("b", client.submit(inc::call(1)))]);
    assert_eq!(client.gather(&text).unwrap(), BTreeMap::from([("a", 1), ("b", 2)]));
    assert_eq!(client.gather((one.clone(), Some(one.clone()), [&one, &one])).unwrap(), (1, Some(1), [1, 1]));
    assert_eq!(client.gather(Vec::<blocking::Future<i64>>::new()).unwrap(), Vec::<i64>::new());
}

#[test]
fn gather_raises_the_first_error_or_skips_what_failed() {
    let (_fake, client) = connect();
    let futures =
        vec![client.submit(inc::call(1)), client.submit(fail::call("no wind")), client.submit(inc::call(2))];
    let error = client.gather(&futures).unwrap_err();
    assert!(matches!(&error, Error::Task(_)) && error.to_string().contains("no wind"), "{error}");
    assert_eq!(client.gather_with(OnError::Skip, &futures).unwrap(), [2, 3]);
    assert_eq!(futures[1].status(), Status::Error);
    assert!(futures[1].traceback().unwrap().contains("no wind"));
}

#[test]
fn dropping_the_last_handle_gives_the_reference_back() {
    let (fake, client) = connect();
    let future = client.submit(inc::call(1));
    let other = future.clone();
    future.release();
    assert_eq!(other.result().unwrap(), 2);
    assert!(!fake.said().iter().any(|said| matches!(said, Said::Release(_))));
    drop(other);
    fake.wait_for(|said| matches!(said, Said::Release(0)));
    drop(client.map(inc::call, 0..500));
    fake.wait_for(|said| matches!(said, Said::Release(500)));
}

#[test]
fn a_failed_call_runs_again_when_retried() {
    let (fake, client) = connect();
    let future = client.submit(fail::call("once"));
    assert!(future.exception().is_some());
    future.retry();
    assert!(future.exception().is_some());
    fake.wait_for(|said| matches!(said, Said::Retry(0)));
}

#[test]
fn a_cancelled_future_is_done_at_once_and_says_why() {
    let (fake, client) = connect();
    let future = client.submit(held::call(1));
    assert_eq!(future.status(), Status::Pending);
    client.cancel([&future], Force::Yes, "changed my mind").unwrap();
    assert!(future.done() && future.cancelled());
    let error = future.result().unwrap_err().to_string();
    assert!(error.contains("changed my mind") && error.contains("held-"), "{error}");
    fake.wait_for(|said| matches!(said, Said::Cancel { force: true, .. }));
}

#[tokio::test]
async fn a_cancel_acts_whether_or_not_it_is_waited_for() {
    let fake = Fake::start();
    let client = Client::connect_with(fake.file.clone()).await.unwrap();
    let [one, two] = [client.submit(held::call(1)), client.submit(held::call(2))];
    drop(one.cancel());
    assert!(one.cancelled());
    fake.wait_for(|said| matches!(said, Said::Cancel { force: false }));
    two.cancel().await.unwrap();
    two.cancel().await.unwrap();
    assert!(two.cancelled());
}

#[test]
fn a_cancel_in_a_callback_is_acknowledged() {
    let (_fake, client) = connect();
    let other = client.submit(held::call(1));
    let (sender, receiver) = mpsc::channel();
    let cancelled = other.clone();
    client.submit(inc::call(1)).add_done_callback(move |_| drop(sender.send(cancelled.cancel())));
    assert!(matches!(receiver.recv_timeout(HANG), Ok(Ok(()))));
    assert!(other.cancelled());
}

#[test]
fn a_cancel_that_nobody_acknowledges_ends_with_the_connection() {
    for ending in [Fake::hang_up as fn(&Fake), |fake| fake.take_leave("enough")] {
        let (fake, client) = connect();
        let future = client.submit(held::call(1));
        let (own, cancelled) = (client.clone(), future.clone());
        let waiting = std::thread::spawn(move || own.cancel([&cancelled], Force::No, "unheard"));
        fake.wait_for(|said| matches!(said, Said::Cancel { .. }));
        ending(&fake);
        let error = waiting.join().unwrap().unwrap_err();
        assert!(matches!(error, Error::Lost { .. } | Error::Ended { .. }), "{error}");
        assert!(future.cancelled(), "it is cancelled here all the same");
    }
    let (fake, client) = connect();
    let future = client.submit(held::call(1));
    let (own, cancelled) = (client.clone(), future.clone());
    let waiting = std::thread::spawn(move || own.cancel([&cancelled], Force::No, "unheard"));
    fake.wait_for(|said| matches!(said, Said::Cancel { .. }));
    client.close();
    assert!(matches!(waiting.join().unwrap(), Err(Error::Closed { .. })));
    assert!(matches!(future.cancel(), Err(Error::Closed { .. })));
}

#[test]
fn a_future_of_another_client_is_not_cancelled() {
    let (_fake, client) = connect();
    let (_other_fake, other) = connect();
    let future = other.submit(held::call(1));
    assert!(matches!(client.cancel([&future], Force::No, "mine?"), Err(Error::Foreign { .. })));
    assert_eq!(future.status(), Status::Pending);
}

#[test]
fn a_wait_that_runs_out_says_how_many_are_left() {
    let (fake, client) = connect();
    let futures =
        vec![client.submit(inc::call(1)), client.submit(held::call(1)), client.submit(held::call(2))];
    let first = client.wait(&futures, ReturnWhen::FirstCompleted, Some(HANG)).unwrap();
    assert_eq!((first.done.len(), first.not_done.len()), (1, 2));
    let error = client.wait(&futures, ReturnWhen::AllCompleted, Some(SOON)).unwrap_err();
    assert!(error.to_string().starts_with("2 of 3 futures"), "{error}");
    assert!(matches!(futures[1].result_timeout(SOON), Err(Error::Timeout { left: 1, total: 1, .. })));
    fake.finish();
    let all = client.wait(&futures, ReturnWhen::AllCompleted, Some(HANG)).unwrap();
    assert_eq!((all.done.len(), all.not_done.len()), (3, 0));
}

#[test]
fn a_wait_for_the_first_exception_ends_with_it() {
    let (_fake, client) = connect();
    let futures = [client.submit(held::call(1)), client.submit(fail::call("boom"))];
    let done = client.wait(&futures, ReturnWhen::FirstException, Some(HANG)).unwrap();
    assert_eq!((done.done.len(), done.not_done.len()), (1, 1));
}

#[test]
fn as_completed_takes_more_while_it_yields() {
    let (_fake, client) = connect();
    let mut completed = client.as_completed(client.map(inc::call, 0..3));
    let (mut sum, mut added) = (0, 0);
    while let Some(future) = completed.next() {
        sum += future.result().unwrap();
        if added < 4 {
            added += 1;
            completed.add(client.submit(inc::call(100)));
        }
    }
    assert_eq!(sum, 1 + 2 + 3 + 4 * 101);
    assert!(completed.is_empty() && completed.left() == 0 && !completed.has_ready());
}

#[test]
fn as_completed_yields_failed_and_cancelled_futures_and_what_was_added_twice() {
    let (_fake, client) = connect();
    let cancelled = client.submit(held::call(1));
    cancelled.cancel().unwrap();
    let failed = client.submit(fail::call("boom"));
    let completed = client.as_completed([cancelled, failed.clone(), failed]);
    let mut states: Vec<_> = completed.map(|future| future.status().to_string()).collect();
    states.sort();
    assert_eq!(states, ["cancelled", "error", "error"]);
}

#[test]
fn as_completed_ends_with_an_error_at_its_deadline() {
    let (_fake, client) = connect();
    let done = client.submit(inc::call(1));
    assert_eq!(done.result_timeout(HANG).unwrap(), 2);
    let mut timed = client.as_completed([client.submit(held::call(1)), done]).timeout(SOON);
    assert_eq!(timed.next().unwrap().unwrap().result().unwrap(), 2);
    assert!(matches!(timed.next(), Some(Err(Error::Timeout { left: 1, total: 2, .. }))));
    assert!(timed.next().is_none());
}

#[test]
fn batches_yield_all_that_is_done() {
    let (_fake, client) = connect();
    let futures = client.map(inc::call, 0..100);
    client.wait(&futures, ReturnWhen::AllCompleted, Some(HANG)).unwrap();
    let mut completed = client.as_completed(futures);
    assert!(completed.has_ready());
    assert_eq!(completed.next_batch().unwrap().len(), 100);
    assert!(completed.next_batch().is_none());
}

#[test]
fn callbacks_are_called_once_before_and_after_the_end() {
    let (fake, client) = connect();
    let (sender, receiver) = mpsc::channel();
    let future = client.submit(held::call(7));
    for _ in 0..2 {
        let sender = sender.clone();
        future.add_done_callback(move |future| sender.send(future.result().unwrap()).unwrap());
    }
    assert!(receiver.recv_timeout(SOON).is_err());
    fake.finish();
    assert_eq!([receiver.recv_timeout(HANG), receiver.recv_timeout(HANG)], [Ok(7), Ok(7)]);
    future.add_done_callback(move |future| sender.send(future.result().unwrap()).unwrap());
    assert_eq!(receiver.recv_timeout(HANG), Ok(7));
    assert!(receiver.recv_timeout(HANG).is_err(), "nobody can call any more");
}

#[test]
fn a_worker_that_does_not_answer_is_reported_and_the_result_comes_from_elsewhere() {
    let (fake, client) = connect();
    assert_eq!(client.submit(far::call(5)).result().unwrap(), 5);
    let asked = vec![(WorkerId(7), Fault::NotReached)];
    fake.wait_for(
        |said| matches!(said, Said::Unreachable(told) if told.task == TaskId(1) && told.workers == asked),
    );
}

#[test]
fn a_client_that_reaches_no_worker_says_whom_and_what_to_look_at() {
    let (fake, client) = connect();
    let error = client.submit(nowhere::call(5)).result().unwrap_err();
    assert!(matches!(error, Error::Fetch { attempts: 8, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("worker-0: cannot reach the data port 127.0.0.1:1"), "{text}");
    assert!(text.contains("see whether this host reaches the ports"), "{text}");
    let asked = vec![(WorkerId(0), Fault::NotReached)];
    fake.wait_for(|said| matches!(said, Said::Unreachable(told) if told.workers == asked));
}

#[test]
fn a_value_that_cannot_be_scattered_is_given_up_with_the_reason() {
    let (fake, client) = connect();
    let options = ScatterOptions { workers: vec![WorkerId(0).into()], ..ScatterOptions::default() };
    let error = client.scatter_with(5i64, &options).unwrap_err().to_string();
    assert!(error.contains("worker-0") && error.contains("127.0.0.1:1"), "{error}");
    fake.wait_for(|said| matches!(said, Said::GiveUp(reason) if *reason == error));
}

#[test]
fn more_copies_than_there_are_workers_are_refused_before_anything_is_sent() {
    let (fake, client) = connect();
    client.wait_for_workers(1, Some(HANG)).unwrap();
    let options = ScatterOptions { copies: Copies::Number(3), ..ScatterOptions::default() };
    let error = client.scatter_with(5i64, &options).unwrap_err().to_string();
    assert!(error.contains("3 copies are asked for, and there are 1 workers"), "{error}");
    client.status().unwrap();
    assert!(!fake.said().iter().any(|said| matches!(said, Said::Scatter(_))));
}

#[test]
fn a_scatter_keeps_its_values_when_copies_of_them_cannot_be_had() {
    let (_fake, client) = connect();
    let options = ScatterOptions { copies: Copies::Everywhere, ..ScatterOptions::default() };
    let future = client.scatter_with(5i64, &options).unwrap();
    assert_eq!(future.status(), Status::Finished);
}

#[test]
fn a_value_that_cannot_be_packed_is_named_among_many() {
    let (_fake, client) = connect();
    let sealed = |number: i64| Sealed { number };
    let text = client.scatter(sealed(-1)).unwrap_err().to_string();
    assert!(text.ends_with(": it is sealed") && !text.contains("those to scatter"), "{text}");
    let text = client.scatter_all([1, 2, -3, 4].map(sealed)).unwrap_err().to_string();
    assert!(text.starts_with("value 2 of those to scatter: "), "{text}");
}

/// Has no packed form if its number is negative.
#[derive(serde::Deserialize)]
struct Sealed {
    number: i64,
}

impl serde::Serialize for Sealed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.number {
            ..0 => Err(serde::ser::Error::custom("it is sealed")),
            number => serializer.serialize_i64(number),
        }
    }
}

#[test]
fn a_call_that_was_refused_here_has_no_copies() {
    let (_fake, client) = connect();
    let (_other_fake, other) = connect();
    let refused = client.submit(inc::call(other.submit(inc::call(1))));
    let error = client.replicate([&refused], 1).unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
}

#[test]
fn workers_that_have_left_do_not_count() {
    let (fake, client) = connect();
    client.wait_for_workers(1, Some(HANG)).unwrap();
    fake.lose(WorkerId(0));
    // (It is heard in the order in which it was said.)
    while client.wait_for_workers(1, Some(SOON)).is_ok() {}
    let error = client.wait_for_workers(1, Some(SOON)).unwrap_err().to_string();
    assert!(error.starts_with("0 of 1 workers"), "{error}");
}

#[test]
fn scattered_values_that_the_cluster_has_do_not_travel() {
    let (fake, client) = connect();
    let one = client.scatter(5i64).unwrap();
    let same = client.scatter_all([5i64, 6]).unwrap();
    assert_eq!(one.key(), same[0].key());
    assert_ne!(one.key(), same[1].key());
    let options = ScatterOptions { hash: Hash::No, ..ScatterOptions::default() };
    assert_ne!(client.scatter_with(5i64, &options).unwrap().key(), one.key());
    assert_eq!(one.status(), Status::Finished);
    fake.wait_for(|said| matches!(said, Said::Scatter(2)));
}

#[test]
fn questions_are_answered_or_refused() {
    let (_fake, client) = connect();
    assert_eq!(client.status().unwrap(), "{}");
    let future = client.submit(inc::call(1));
    assert_eq!(client.who_has([&future]).unwrap(), BTreeMap::from([(future.key(), vec![WorkerId(0)])]));
    client.wait_for_workers(1, Some(HANG)).unwrap();
    let error = client.wait_for_workers(9, Some(SOON)).unwrap_err().to_string();
    assert!(error.starts_with("1 of 9 workers"), "{error}");
}

#[test]
fn a_broken_connection_loses_what_is_pending_and_keeps_what_is_here() {
    let (fake, client) = connect();
    let (here, pending) = (client.submit(inc::call(1)), client.submit(held::call(1)));
    assert_eq!(here.result().unwrap(), 2);
    let address = client.address().to_owned();
    fake.hang_up();
    let error = pending.result().unwrap_err();
    assert!(matches!(error, Error::Lost { .. }) && error.to_string().contains(&address), "{error}");
    assert_eq!(pending.status(), Status::Lost);
    assert_eq!(here.result().unwrap(), 2);
    assert!(matches!(client.submit(inc::call(1)).result(), Err(Error::Lost { .. })));
}

#[test]
fn a_cluster_that_takes_leave_says_why() {
    let (fake, client) = connect();
    let pending = client.submit(held::call(1));
    assert_eq!(pending.status(), Status::Pending);
    fake.take_leave("the walltime is over");
    let error = pending.result().unwrap_err();
    assert!(matches!(error, Error::Ended { .. }) && error.to_string().contains("walltime"), "{error}");
}

#[test]
fn nonsense_from_the_scheduler_ends_the_client_and_names_it() {
    let (fake, client) = connect();
    let pending = client.submit(held::call(1));
    assert_eq!(pending.status(), Status::Pending);
    fake.talk_nonsense();
    let error = pending.result().unwrap_err().to_string();
    assert!(error.contains("makes no sense"), "{error}");
}

#[test]
fn every_call_on_a_closed_client_is_a_clear_error() {
    let (fake, client) = connect();
    let (here, pending) = (client.submit(inc::call(1)), client.submit(held::call(1)));
    assert_eq!(here.result().unwrap(), 2);
    client.close();
    fake.wait_for(|said| matches!(said, Said::Close));
    assert_eq!(here.result().unwrap(), 2);
    assert!(matches!(pending.result(), Err(Error::Closed { .. })));
    assert!(matches!(client.submit(inc::call(1)).result(), Err(Error::Closed { .. })));
    assert!(matches!(client.scatter(1i64), Err(Error::Closed { .. })));
    assert!(matches!(client.status(), Err(Error::Closed { .. })));
    assert!(matches!(client.wait_for_workers(2, None), Err(Error::Closed { .. })));
    client.close();
}

#[test]
fn the_client_is_closed_with_the_last_handle_and_the_last_future() {
    let (fake, client) = connect();
    let future = client.submit(inc::call(1));
    drop(client);
    assert_eq!(future.result().unwrap(), 2);
    drop(future);
    fake.wait_for(|said| matches!(said, Said::Close));
}

#[test]
fn a_future_of_another_client_is_refused_by_name() {
    let ((_fake, client), (_other_fake, other)) = (connect(), connect());
    let foreign = other.submit(inc::call(1));
    let error = client.submit(inc::call(&foreign)).result().unwrap_err();
    assert!(matches!(&error, Error::Foreign { key } if *key == foreign.key()), "{error}");
    assert!(matches!(client.gather(&foreign), Err(Error::Foreign { .. })));
    let dependent = client.submit(inc::call(client.submit(inc::call(&foreign))));
    assert!(matches!(dependent.result(), Err(Error::Foreign { .. })));
    assert_eq!(client.submit(inc::call(1)).result().unwrap(), 2);
}

#[test]
fn a_file_of_a_cluster_that_has_ended_says_so() {
    let error = blocking::Client::connect("/nonexistent/cluster.json").unwrap_err().to_string();
    assert!(error.contains("/nonexistent/cluster.json"), "{error}");
}
