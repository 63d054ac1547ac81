//! Where calls run and where values are: named workers, shares, copies on all workers, and values moved until workers
//! hold as much.

use std::collections::BTreeSet;
use std::time::Duration;

use dcluster::prelude::*;

/// The process it runs in.
#[dcluster::task(impure)]
fn whereabouts() -> u32 {
    std::process::id()
}

#[dcluster::task]
fn block(index: u32) -> Vec<f64> {
    vec![f64::from(index); 1 << 14]
}

#[dcluster::task]
fn sum(values: &[f64]) -> f64 {
    values.iter().sum()
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    let expected = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1);
    client.wait_for_workers(expected, Some(Duration::from_secs(60))).await?;
    let first = *client.has_what([]).await?.keys().next().expect("a worker is there");

    // Calls that name a worker run there, however much it has to do. (In a launch of ranks, `WorkerName::Rank(1)`.)
    let named = client.map(|()| whereabouts::call().workers([first]), [(); 8]);
    let processes: BTreeSet<u32> = client.gather(&named).await?.into_iter().collect();
    println!("calls of {first} ran in {} process", processes.len());
    assert_eq!(processes.len(), 1);

    // Parts of a whole lie on all workers in contiguous runs.
    let blocks = client.map(|index| block::call(index).share(index, 8), 0..8);
    client.wait(&blocks, ReturnWhen::AllCompleted, None).await?;
    let holders: BTreeSet<_> = client.who_has(&blocks).await?.into_values().flatten().collect();
    println!("8 blocks lie on {} workers", holders.len());
    let workers = holders.len();

    // A table that all tasks need: one copy goes in, and then from worker to worker.
    let options = ScatterOptions { copies: Copies::Everywhere, ..ScatterOptions::default() };
    let table = client.scatter_with(vec![1.0; 1 << 16], &options).await?;
    assert!(client.who_has([&table]).await?[&table.key()].len() >= workers);
    assert_eq!(client.submit(sum::call(&table)).await?, 65536.0);

    // Two copies of a block: on another host if there is one, and the loss of a worker does not matter.
    client.replicate([&blocks[0]], 2.min(workers)).await?;
    assert!(client.who_has([&blocks[0]]).await?[&blocks[0].key()].len() >= 2.min(workers));

    // Blocks that all lie on one worker are spread.
    let heap = client.map(|index| block::call(index).workers([first]), 100..108);
    client.wait(&heap, ReturnWhen::AllCompleted, None).await?;
    let moves = client.rebalance(&heap).await?;
    println!("{} of 8 blocks moved", moves.moved);
    assert!(workers == 1 || moves.moved > 0);
    let sums = client.gather(client.map(sum::call, &heap)).await?;
    assert_eq!(sums[7], 107.0 * f64::from(1 << 14));

    // Nobody is rank 99: the call waits until the cluster gives up on it.
    let nowhere = client.submit(whereabouts::call().workers([WorkerName::Rank(99)]));
    if std::env::var_os("DCLUSTER_PLACEMENT_WAIT").is_some() {
        let error = nowhere.exception().await.expect("it fails");
        println!("{error}");
    }
    Ok(())
}
