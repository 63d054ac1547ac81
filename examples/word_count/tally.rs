//! A table of words: what tasks hand to each other.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The words of some text in alphabetical order, each followed by a newline, and how often each is there.
///
/// Columns are cheaper to send and to merge than a map.
#[derive(Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    words: String,
    times: Vec<u64>,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Tally {
    pub(crate) fn new(words: HashMap<String, u64>, files: u64, bytes: u64) -> Self {
        let mut tally = Self { files, bytes, ..Self::default() };
        let mut words: Vec<_> = words.into_iter().collect();
        words.sort_unstable();
        words.iter().for_each(|(word, times)| tally.push(word, *times));
        tally
    }

    /// One table of several: walks through all of them side by side.
    pub(crate) fn merged(tallies: &[Arc<Self>]) -> Self {
        let files = tallies.iter().map(|tally| tally.files).sum();
        let bytes = tallies.iter().map(|tally| tally.bytes).sum();
        let mut all = Self { files, bytes, ..Self::default() };
        let mut parts: Vec<_> = tallies.iter().map(|tally| tally.iter().peekable()).collect();
        while let Some(word) = parts.iter_mut().filter_map(|part| part.peek()).map(|&(word, _)| word).min() {
            let equal = parts.iter_mut().filter_map(|part| part.next_if(|&(next, _)| next == word));
            all.push(word, equal.map(|(_, times)| times).sum());
        }
        all
    }

    /// Adds a word that comes after all that are there.
    fn push(&mut self, word: &str, times: u64) {
        self.words += word;
        self.words.push('\n');
        self.times.push(times);
    }

    /// Each word and how often it is there.
    fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.words.lines().zip(self.times.iter().copied())
    }

    /// The most frequent words; equally frequent ones in alphabetical order.
    pub(crate) fn top(&self, count: usize) -> Vec<(&str, u64)> {
        let mut words: Vec<_> = self.iter().collect();
        words.sort_by_key(|&(_, times)| Reverse(times));
        words.truncate(count);
        words
    }

    /// How many different words there are, and how many in all.
    pub(crate) fn sizes(&self) -> (usize, u64) {
        (self.times.len(), self.times.iter().sum())
    }
}
