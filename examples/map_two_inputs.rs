//! `map` with two inputs, and `gather`.
//!
//! `map` calls a function for each element of a sequence; a tuple of sequences is zipped, and the shortest one ends
//! it. `gather` waits for any container of futures and gives back the same container of results.

use std::collections::BTreeMap;

use dcluster::prelude::*;

#[dcluster::task]
fn power(base: i64, exponent: u32) -> i64 {
    base.pow(exponent)
}

#[dcluster::task]
fn add(x: i64, y: i64) -> i64 {
    x + y
}

#[dcluster::task]
fn parse(text: &str) -> Result<i64, std::num::ParseIntError> {
    text.parse()
}

#[dcluster::main]
async fn main(client: Client) -> dcluster::Result<()> {
    let powers = client.map(power::call, (1..=5, [10; 5]));
    assert_eq!(client.gather(&powers).await?, [1, 1024, 59_049, 1_048_576, 9_765_625]);

    // Futures are as good an input as values, and an endless sequence ends with the other one.
    let sums = client.map(add::call, (&powers, 1..));
    let sums = client.gather(sums).await?;
    println!("sums: {sums:?}");
    assert_eq!(sums, [2, 1026, 59_052, 1_048_580, 9_765_630]);

    // The container is yours to choose.
    let named: BTreeMap<&str, _> =
        ["cube", "square"].into_iter().zip(client.map(power::call, ([7, 9], [3, 2]))).collect();
    let (named, first) = client.gather((&named, &powers[0])).await?;
    println!("named: {named:?}, first: {first}");
    assert_eq!(named, BTreeMap::from([("cube", 343), ("square", 81)]));

    // One failure fails a gather, unless failures are to be left out.
    let parsed = client.map(parse::call, ["12", "a dozen", "13"]);
    let error = client.gather(&parsed).await.expect_err("`a dozen` is not a number");
    println!("error: {error}");
    assert_eq!(client.gather_with(OnError::Skip, &parsed).await?, [12, 13]);
    Ok(())
}
