//! `scatter`: data of this program become futures, and their memory goes straight to the workers.
//!
//! An argument given by value travels with each call that has it. What many tasks need, or what is large, is better
//! scattered once: tasks then run where the data are, and those that take it by reference borrow it without a copy.

use dcluster::prelude::*;

#[dcluster::task]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

/// The sum of every `stride`-th number from `start`.
#[dcluster::task]
fn strided_sum(field: &[f64], start: usize, stride: usize) -> f64 {
    field[start..].iter().step_by(stride).sum()
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    // A list is spread over the workers, a future for each value.
    let numbers = client.scatter_all(1..=8).await?;
    let mut sums = Vec::new();
    for pair in numbers.chunks(2) {
        sums.push(client.submit(add::call(&pair[0], &pair[1])));
    }
    let sums = client.gather(sums).await?;
    println!("sums of pairs: {sums:?}");
    assert_eq!(sums, [3, 7, 11, 15]);

    // One large value, 8 MB, that ten tasks share.
    let field: Vec<f64> = (0..1_000_000).map(f64::from).collect();
    let expected: f64 = field.iter().sum();
    let field = client.scatter(field).await?;
    let parts = client.map(|start| strided_sum::call(&field, start, 10), 0..10usize);
    let total: f64 = client.gather(parts).await?.iter().sum();
    println!("sum of the field: {total}");
    assert_eq!(total, expected);

    // Equal content is one key: scattered again, it does not travel again.
    let again = client.scatter(8i64).await?;
    assert_eq!(again.key(), numbers[7].key());
    Ok(())
}
