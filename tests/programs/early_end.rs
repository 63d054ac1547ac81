//! A driver that has what it wants while many large values are still on their way from worker to worker.

use dcluster::prelude::*;

#[dcluster::task]
fn block(seed: u64) -> Vec<f64> {
    vec![seed as f64; 4 << 20]
}

#[dcluster::task]
fn both(a: &[f64], b: &[f64]) -> f64 {
    a[0] + b[0]
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    let blocks = client.map(block::call, 1..=12);
    client.wait(&blocks, ReturnWhen::AllCompleted, None).await?;
    let pairs = (0..12).flat_map(|i| (0..12).map(move |j| (i, j)));
    let sums: Vec<_> = pairs.map(|(i, j)| client.submit(both::call(&blocks[i], &blocks[j]))).collect();
    client.wait(&sums, ReturnWhen::FirstCompleted, None).await?;
    println!("one sum is there");
    Ok(())
}
