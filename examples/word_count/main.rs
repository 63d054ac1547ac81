//! Counts the words of every text file below some directories: a real job that checks its own result.
//!
//! A task counts a batch of files ([`files`] says which); the tables are merged in a tree on the workers, so that one
//! table arrives here, however many files there are. Then the same is done on one core: the tables must be equal, and
//! the times give the speed-up.

mod files;
mod tally;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use dcluster::prelude::*;
use files::Found;
use serde_json::{Value, json};
use tally::Tally;

const USAGE: &str = "usage: word_count [--json] [--no-verify] [DIRECTORY ...]";
const MERGED_AT_ONCE: usize = 4;
const TOP: usize = 20;

#[dcluster::task]
fn count(paths: Vec<PathBuf>) -> anyhow::Result<Tally> {
    let mut words = HashMap::new();
    let bytes = count_words(&paths, &mut words)?;
    Ok(Tally::new(words, paths.len() as u64, bytes))
}

#[dcluster::task]
fn merge(tallies: &[Arc<Tally>]) -> Tally {
    Tally::merged(tallies)
}

#[dcluster::main]
async fn main(client: Client) -> anyhow::Result<()> {
    let (mut as_json, mut verify, mut directories) = (false, true, Vec::new());
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--json" => as_json = true,
            "--no-verify" => verify = false,
            option if option.starts_with('-') => bail!("there is no option {option}; {USAGE}"),
            directory => directories.push(PathBuf::from(directory)),
        }
    }
    let found = Found::below(&directories)?;
    eprintln!("{found}");

    let started = Instant::now();
    let batches = found.batches();
    let mut tallies = client.map(count::call, &batches);
    client.progress(&tallies).await;
    while tallies.len() > 1 {
        tallies = client.map(merge::call, tallies.chunks(MERGED_AT_ONCE));
    }
    let tally = tallies[0].result().await?;
    let seconds = started.elapsed().as_secs_f64();

    let status: Value = serde_json::from_str(&client.status().await?)?;
    let (distinct, words) = tally.sizes();
    let mut report = json!({
        "files": tally.files, "bytes": tally.bytes, "words": words, "distinct": distinct,
        "binary": found.binary, "unreadable": found.unreadable,
        "workers": status["workers"].as_array().map_or(0, Vec::len), "seconds": seconds, "top": tally.top(TOP),
    });
    if verify {
        let started = Instant::now();
        let mut words = HashMap::new();
        let paths = batches.concat();
        let bytes = count_words(&paths, &mut words)?;
        let seconds_alone = started.elapsed().as_secs_f64();
        let alone = Tally::new(words, paths.len() as u64, bytes);
        ensure!(tally == alone, "the table is not the one that is counted on one core");
        report["seconds_alone"] = seconds_alone.into();
        report["speed_up"] = (seconds_alone / seconds).into();
    }
    if as_json {
        println!("{report}");
    } else {
        print(&report, &tally.top(TOP));
    }
    Ok(())
}

/// Adds the words of these files, and returns how many bytes they have.
///
/// A word is a run of letters; ASCII capitals count as small letters.
fn count_words(paths: &[PathBuf], words: &mut HashMap<String, u64>) -> anyhow::Result<u64> {
    let mut bytes_read = 0;
    for path in paths {
        let read = std::fs::read(path);
        let mut bytes = read.with_context(|| format!("{} cannot be read any more", path.display()))?;
        bytes_read += bytes.len() as u64;
        bytes.make_ascii_lowercase();
        let text = String::from_utf8_lossy(&bytes);
        for word in text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
            match words.get_mut(word) {
                Some(times) => *times += 1,
                None => drop(words.insert(word.to_owned(), 1)),
            }
        }
    }
    Ok(bytes_read)
}

fn print(report: &Value, top: &[(&str, u64)]) {
    for (word, times) in top {
        println!("{times:>12}  {word}");
    }
    let [files, bytes, words, distinct, workers] =
        ["files", "bytes", "words", "distinct", "workers"].map(|field| &report[field]);
    println!("{files} files, {bytes} bytes, {words} words, {distinct} of them different");
    let [seconds, alone, speed_up] =
        ["seconds", "seconds_alone", "speed_up"].map(|field| report[field].as_f64());
    println!("{workers} workers: {:.2} s", seconds.unwrap_or_default());
    if let (Some(alone), Some(speed_up)) = (alone, speed_up) {
        println!("one core: {alone:.2} s, the same table; speed-up {speed_up:.2}");
    }
}
