//! `as_completed`: take results in the order in which they are done, and add work while you do.
//!
//! The slow tasks hold nobody up: as soon as any two results are there, their sum is submitted and joins the futures
//! that are waited for, until one is left.

use std::thread::sleep;
use std::time::Duration;

use dcluster::prelude::*;

/// Takes from 0 to 40 ms.
#[dcluster::task]
fn measure(station: u64) -> u64 {
    sleep(Duration::from_millis(station * 7 % 41));
    station * station
}

#[dcluster::task]
fn add(x: u64, y: u64) -> u64 {
    x + y
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    let stations = 1..=40;
    let mut completed = client.as_completed(client.map(measure::call, stations.clone()));
    let mut additions = 0;
    while let Some(first) = completed.next().await {
        let Some(second) = completed.next().await else {
            let total = first.result().await?;
            println!("{additions} additions, total {total}");
            assert_eq!(additions, 39);
            assert_eq!(total, stations.map(|station| station * station).sum::<u64>());
            return Ok(());
        };
        completed.add(client.submit(add::call(first, second)));
        additions += 1;
    }
    unreachable!("one future is left at the end")
}
