//! Chains of tasks: a future of one call is an argument of the next.
//!
//! `submit` returns at once, so the whole graph below is described before any of it is done. Results stay on the
//! workers; the one number that is asked for is the only one that travels here.

use dcluster::prelude::*;

#[dcluster::task]
fn inc(x: i64) -> i64 {
    x + 1
}

#[dcluster::task]
fn double(x: i64) -> i64 {
    2 * x
}

#[dcluster::task]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[dcluster::task]
fn sum(numbers: &[i64]) -> i64 {
    numbers.iter().sum()
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    let a = client.submit(inc::call(10));
    let b = client.submit(inc::call(20));
    let c = client.submit(add::call(&a, &b));
    let c = c.result().await?;
    println!("inc(10) + inc(20) = {c}");
    assert_eq!(c, 32);

    // 256 short chains, and one task that takes all their ends.
    let mut ends = Vec::new();
    for number in 0..256 {
        let x = client.submit(inc::call(number));
        let y = client.submit(double::call(&x));
        let z = client.submit(add::call(&x, &y));
        ends.push(z);
    }
    let total = client.submit(sum::call(&ends)).result().await?;
    println!("sum of 256 chains = {total}");

    // A task is still an ordinary function: the same sum, here.
    let expected: i64 = (0..256).map(|number| add(inc(number), double(inc(number)))).sum();
    assert_eq!(total, expected);
    Ok(())
}
