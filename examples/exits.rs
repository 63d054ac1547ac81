//! Every way a driver can end, and the exit code that all ranks then have.
//!
//! `mpirun -n 3 target/debug/examples/exits code 7`; the ways are: ok, code N, error, panic, hang.

use std::process::ExitCode;

use dcluster::prelude::*;

#[dcluster::task]
fn inc(x: i64) -> i64 {
    x + 1
}

#[dcluster::main]
async fn main(client: Client) -> Result<ExitCode, String> {
    let future = client.submit(inc::call(41));
    let answer = future.result().await.map_err(|error| error.to_string())?;
    println!("answer {answer}");
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] | ["ok"] => Ok(ExitCode::SUCCESS),
        ["code", number] => Ok(ExitCode::from(number.parse::<u8>().map_err(|error| error.to_string())?)),
        ["error"] => Err("the input is missing".to_owned()),
        ["panic"] => panic!("a bug in the driver"),
        ["hang"] => std::future::pending().await,
        _ => Err(format!("what is {words:?}?")),
    }
}
