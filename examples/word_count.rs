//! Counts the words of every text file below some directories: a real job that checks its own result.
//!
//! The files are dealt out into batches of about equal bytes. A task counts a batch; the tables are merged in a tree on
//! the workers, so that one table arrives here, however many files there are. Then the same is done on one core: the
//! tables must be equal, and the times give the speed-up.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use dcluster::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

const USAGE: &str = "usage: word_count [--json] [--no-verify] [DIRECTORY ...]";
/// Where no directory is given: one after the other until there are `FILES_MIN` files.
const TREES: [&str; 5] = ["/usr/share", "/usr/include", "~/.cargo/registry/src", "/usr/lib", "/usr/src"];
const FILES_MIN: usize = 10_000;
const BATCH_BYTES: u64 = 4 << 20;
const MERGED_AT_ONCE: usize = 8;
const TOP: usize = 20;

/// How often each word is there, and in how much text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Tally {
    words: HashMap<String, u64>,
    files: u64,
    bytes: u64,
}

/// Words are runs of letters. ASCII capitals count as small letters.
#[dcluster::task]
fn count(paths: Vec<PathBuf>) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for path in paths {
        let mut bytes = fs::read(&path).with_context(|| format!("{} cannot be read any more", path.display()))?;
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
    eprintln!("{}", found.summary());

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
    let workers = status["workers"].as_array().map_or(0, Vec::len);
    let mut report = json!({
        "files": tally.files, "bytes": tally.bytes, "words": tally.words.values().sum::<u64>(),
        "distinct": tally.words.len(), "binary": found.binary, "unreadable": found.unreadable,
        "seconds": seconds, "workers": workers, "top": top(&tally), "verified": verify,
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
        println!("{report}");
    } else {
        print_table(&tally, &report);
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

fn print_table(tally: &Tally, report: &Value) {
    for (word, times) in top(tally) {
        println!("{times:>12}  {word}");
    }
    let Tally { files, bytes, words } = tally;
    println!("{files} files, {bytes} bytes, {} words, {} of them different", report["words"], words.len());
    println!("{} workers: {:.2} s", report["workers"], report["seconds"].as_f64().unwrap_or_default());
    if let (Some(seconds), Some(speed_up)) = (report["seconds_alone"].as_f64(), report["speed_up"].as_f64()) {
        println!("one core: {seconds:.2} s, and the same table: speed-up {speed_up:.2}");
    }
}

/// The text files to read, with their sizes in bytes, and how many others are left out.
#[derive(Default)]
struct Found {
    files: Vec<(PathBuf, u64)>,
    binary: u64,
    unreadable: u64,
    directories: Vec<PathBuf>,
}

impl Found {
    fn below(directories: &[PathBuf]) -> anyhow::Result<Self> {
        let mut found = Self::default();
        for directory in directories {
            found.add(directory).with_context(|| format!("cannot read {}", directory.display()))?;
        }
        if directories.is_empty() {
            let home = std::env::home_dir().unwrap_or_default();
            for tree in TREES {
                let directory = tree.strip_prefix("~/").map_or(tree.into(), |below| home.join(below));
                if found.files.len() < FILES_MIN && directory.is_dir() {
                    found.add(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
                }
            }
        }
        ensure!(!found.files.is_empty(), "no text files below {}", found.names());
        Ok(found)
    }

    fn add(&mut self, directory: &Path) -> io::Result<()> {
        self.directories.push(directory.to_owned());
        let mut to_read = vec![fs::read_dir(directory)?];
        while let Some(entries) = to_read.pop() {
            for entry in entries {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() {
                    match fs::read_dir(entry.path()) {
                        Ok(entries) => to_read.push(entries),
                        Err(_) => self.unreadable += 1,
                    }
                } else if kind.is_file() {
                    match is_text(&entry.path()) {
                        Ok(true) => self.files.push((entry.path(), entry.metadata()?.len())),
                        Ok(false) => self.binary += 1,
                        Err(_) => self.unreadable += 1,
                    }
                }
            }
        }
        Ok(())
    }

    /// The files in batches of about `BATCH_BYTES`: the largest first, each into the batch that has least so far.
    fn batches(&self) -> Vec<Vec<PathBuf>> {
        let bytes: u64 = self.files.iter().map(|(_, bytes)| bytes).sum();
        let mut batches = vec![Vec::new(); bytes.div_ceil(BATCH_BYTES).max(1) as usize];
        let mut lightest: BinaryHeap<_> = (0..batches.len()).map(|batch| Reverse((0, batch))).collect();
        let mut files: Vec<_> = self.files.iter().collect();
        files.sort_unstable_by_key(|(path, bytes)| (Reverse(*bytes), path));
        for (path, bytes) in files {
            let Some(Reverse((load, batch))) = lightest.pop() else { continue };
            batches[batch].push(path.clone());
            lightest.push(Reverse((load + bytes, batch)));
        }
        batches
    }

    fn names(&self) -> String {
        self.directories.iter().map(|directory| directory.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    fn summary(&self) -> String {
        let (files, binary, unreadable) = (self.files.len(), self.binary, self.unreadable);
        format!("{files} text files below {}; left out: {binary} binary, {unreadable} unreadable", self.names())
    }
}

/// Whether there is no NUL among the first 8 KiB.
fn is_text(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(8 << 10).read_to_end(&mut head)?;
    Ok(!head.contains(&0))
}
