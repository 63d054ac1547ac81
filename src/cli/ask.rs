//! Commands that ask a running cluster: `status`, `stop`, `explain`, `story`, and `topo` of a cluster.
//!
//! They are clients like any other: they find a connection file, connect, ask once and print.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::arguments::Global;
use super::{explain, print, status, story, topo};
use crate::client::{Client, Error};
use crate::launch::{Exit, sweep, with_causes};
use crate::security::ConnectionFile;
use crate::security::run_directory::{FindError, Selector, Surroundings};
use crate::wire::client::Query;

/// How long a cluster may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// How long the workers of a launch may take to join.
const JOIN_MAX: Duration = Duration::from_secs(60);

/// The connection file that is meant.
///
/// # Errors
/// [`FindError`] if there is none, or more than one.
pub(super) fn find(global: &Global) -> Result<(PathBuf, ConnectionFile), FindError> {
    let selector = match (&global.connection_file, &global.job) {
        // The file may be there for another command's sake: its variable is set for every driver.
        (_, Some(job)) => Selector::Job(job.clone()),
        (Some(file), None) => Selector::Path(file.clone()),
        (None, None) => Selector::Only,
    };
    if !matches!(selector, Selector::Path(_)) {
        sweep::sweep();
    }
    Surroundings::of_process().find(&selector)
}

pub(super) fn status(global: &Global, workers: Option<usize>) -> i32 {
    let within = ANSWER_MAX + if workers.is_some() { JOIN_MAX } else { Duration::ZERO };
    let ask = |client: Client| async move {
        if let Some(workers) = workers {
            client.wait_for_workers(workers, Some(JOIN_MAX)).await?;
        }
        answer(client, Query::Status).await
    };
    concluded(global, within, ask, |text| show(global, &text, status::table))
}

pub(super) fn topo(global: &Global) -> i32 {
    let ask = |client| answer(client, Query::Topology);
    concluded(global, ANSWER_MAX, ask, |text| {
        let text = match serde_json::from_str(&text) {
            Ok(answer) if global.json => topo::with_hosts(answer).to_string(),
            _ => text,
        };
        show(global, &text, topo::of_cluster);
    })
}

pub(super) fn explain(global: &Global, key: &str) -> i32 {
    answered(global, Query::Explain { key: key.to_owned() }, explain::text)
}

pub(super) fn story(global: &Global, key: &str) -> i32 {
    answered(global, Query::Story { key: key.to_owned() }, story::text)
}

pub(super) fn stop(global: &Global, code: i32) -> i32 {
    concluded(
        global,
        ANSWER_MAX,
        |client| async move { client.shutdown(code).await },
        |()| {
            match global.json {
                true => print(format!("{}\n", serde_json::json!({"stopped": true, "code": code})).as_bytes()),
                false => print(b"the cluster ends\n"),
            };
        },
    )
}

fn answered(global: &Global, query: Query, text: fn(&Value) -> String) -> i32 {
    concluded(global, ANSWER_MAX, |client| answer(client, query), |answer| show(global, &answer, text))
}

async fn answer(client: Client, query: Query) -> Result<String, Error> {
    let answer = client.query(query).await;
    client.close().await;
    answer
}

/// Prints an answer as it came, or as a text for people.
fn show(global: &Global, answer: &str, text: fn(&Value) -> String) {
    match (global.json, serde_json::from_str::<Value>(answer)) {
        (true, _) | (_, Err(_)) => print(format!("{answer}\n").as_bytes()),
        (false, Ok(value)) => print(text(&value).as_bytes()),
    };
}

/// Connects, asks, and shows the answer; the exit code.
fn concluded<T, Asking>(
    global: &Global,
    within: Duration,
    ask: impl FnOnce(Client) -> Asking,
    show: impl FnOnce(T),
) -> i32
where
    Asking: Future<Output = Result<T, Error>>,
{
    let path = match find(global) {
        Ok((path, _)) => path,
        Err(error) => return failed(&error, Exit::Unavailable),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error, Exit::Internal),
    };
    let conversation = async {
        let client = Client::connect(&path).await?;
        ask(client).await
    };
    match runtime.block_on(async { tokio::time::timeout(within, conversation).await }) {
        Ok(Ok(answer)) => {
            show(answer);
            Exit::Success.code()
        }
        Ok(Err(error @ Error::Connect { .. })) => failed(&error, Exit::Unavailable),
        Ok(Err(error)) => failed(&error, Exit::Failure),
        Err(_) => {
            eprintln!("error: the cluster did not answer within {} s", within.as_secs());
            Exit::Timeout.code()
        }
    }
}

fn failed(error: &dyn std::error::Error, exit: Exit) -> i32 {
    eprintln!("error: {}", with_causes(error));
    exit.code()
}
