//! The blocking client: the same names without `async`.
//!
//! A driver that is not `async` gets this client. Every call that waits, waits on the calling thread; completed futures
//! are an ordinary iterator.

use dcluster::prelude::*;

#[dcluster::task]
fn inc(x: i64) -> i64 {
    x + 1
}

#[dcluster::task]
fn is_prime(number: u64) -> bool {
    number > 1
        && (2..)
            .take_while(|divisor| divisor * divisor <= number)
            .all(|divisor| !number.is_multiple_of(divisor))
}

#[dcluster::main]
fn main(client: blocking::Client) -> dcluster::Result<()> {
    let ten = client.submit(inc::call(9));
    let eleven = client.submit(inc::call(&ten));
    println!("inc(inc(9)) = {}", eleven.result()?);
    assert_eq!(client.gather((&ten, &eleven))?, (10, 11));

    let numbers = 1_000_000..1_000_200u64;
    let futures = client.map(is_prime::call, numbers.clone());
    client.progress(&futures);

    let mut primes = 0;
    for (future, answer) in client.as_completed(futures).with_results() {
        let is_prime = answer?;
        assert!(future.done());
        primes += usize::from(is_prime);
    }
    println!("{primes} primes in {numbers:?}");
    assert_eq!(primes, numbers.filter(|&number| is_prime(number)).count());
    Ok(())
}
