//! Attaching: a second client of a running cluster, by its connection file.
//!
//! The first client is this program's own. The second finds the cluster as any other program would, from another
//! terminal or a login node. Clients share the cluster's tasks: an equal pure call, or a key of the same name, is the
//! same task for all of them, and it lives for as long as one of them wants it.

use std::time::{SystemTime, UNIX_EPOCH};

use dcluster::prelude::*;

/// When it ran, in nanoseconds since 1970, so that a second run would be noticed.
#[dcluster::task]
fn stamp(experiment: String) -> (String, u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (experiment, now.as_nanos() as u64)
}

#[dcluster::task]
fn inc(x: u64) -> u64 {
    x + 1
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    let mine = client.submit(stamp::call("ice"));
    let named = client.submit(inc::call(41).key("answer"));
    let first = mine.result().await?;
    assert_eq!(named.result().await?, 42);

    let file = client.connection_file().expect("a cluster that was started here has a file");
    println!("attach with DCLUSTER_CONNECTION_FILE={}", file.display());
    let guest = Client::connect(file).await?;

    // The guest asks for the same, and is given what is there.
    let theirs = guest.submit(stamp::call("ice"));
    assert_eq!(theirs.result().await?, first);

    // By its name the guest gets the result, whatever call it would have made itself.
    let answer = guest.submit(inc::call(0).key("answer"));
    assert_eq!(answer.result().await?, 42);

    // The first client lets go; the guest's future holds the result.
    drop(mine);
    let again = guest.submit(stamp::call("ice")).result().await?;
    assert_eq!(again, first);
    println!("two clients, one run of {}", first.0);

    // When the guest leaves, the cluster and its first client go on.
    guest.close().await;
    assert!(matches!(guest.submit(inc::call(1)).result().await, Err(Error::Closed { .. })));
    assert_eq!(client.submit(inc::call(1)).result().await?, 2);
    Ok(())
}
