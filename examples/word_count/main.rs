//! Counts the words of every text file below some directories: a real job that checks its own result.
//!
//! A task counts a batch of files ([`files`] says which); the tables are merged in a tree on the workers, so that one
//! table arrives here, however many files there are. Then the same is done on one core: the tables must be equal, and
//! the times give the speed-up.

mod files;

use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use dcluster::prelude::*;
use files::Found;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const USAGE: &str = "usage: word_count [--json] [--no-verify] [DIRECTORY ...]";
const MERGED_AT_ONCE: usize = 8;
const TOP: usize = 20;

/// How often each word is there, and in how much text.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
struct Tally {
    words: HashMap<String, u64>,
    files: u64,
    bytes: u64,
}

/// Words are runs of letters; ASCII capitals count as small letters.
#[dcluster::task]
fn count(paths: Vec<PathBuf>) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for path in paths {
        let read = std::fs::read(&path);
        let mut bytes = read.with_context(|| format!("{} cannot be read any more", path.display()))?;
        tally.files += 1;
        tally.bytes += bytes.len() as u64;
        bytes.make_ascii_lowercase();
        let text = String::from_utf8_lossy(&bytes);
        for word in text.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
            match tally.words.get_mut(word) {
                Some(times) => *times += 1,
                None => drop(tally.words.insert(word.to_owned(), 1)),
            }
        }
    }
    Ok(tally)
}

#[dcluster::task]
fn merge(tallies: Vec<Tally>) -> Tally {
    let mut tallies = tallies.into_iter();
    let mut all = tallies.next().unwrap_or_default();
    for tally in tallies {
        all.files += tally.files;
        all.bytes += tally.bytes;
        for (word, times) in tally.words {
            *all.words.entry(word).or_default() += times;
        }
    }
    all
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
    let mut report = json!({
        "files": tally.files, "bytes": tally.bytes, "words": tally.words.values().sum::<u64>(),
        "distinct": tally.words.len(), "binary": found.binary, "unreadable": found.unreadable,
        "workers": status["workers"].as_array().map_or(0, Vec::len), "seconds": seconds, "top": top(&tally),
    });
    if verify {
        let started = Instant::now();
        let alone = count(batches.concat())?;
        let seconds_alone = started.elapsed().as_secs_f64();
        ensure!(tally == alone, "the table is not the one that is counted on one core");
        report["seconds_alone"] = seconds_alone.into();
        report["speed_up"] = (seconds_alone / seconds).into();
    }
    if as_json {
        println!("{report}")
    } else {
        print(&report, &top(&tally))
    }
    Ok(())
}

/// The most frequent words; equally frequent ones in alphabetical order.
fn top(tally: &Tally) -> Vec<(&str, u64)> {
    let mut words: Vec<_> = tally.words.iter().map(|(word, times)| (word.as_str(), *times)).collect();
    words.sort_unstable_by_key(|&(word, times)| (Reverse(times), word));
    words.truncate(TOP);
    words
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
