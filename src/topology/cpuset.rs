//! A set of CPUs (hwloc's PUs) by their operating system number, read and written in the kernel's list format.
//!
//! Plain data: it is what a launcher's cpuset, a core and a rank's share are made of. [`super::machine`] puts
//! such sets in their places.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::TopologyError;

/// The largest CPU number accepted in text, so that a peer's `0-4294967295` costs nothing.
pub const CPU_INDEX_MAX: u32 = 16_383;

/// CPUs by operating system number; its text form is the kernel's, for example `0-3,8`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet(BTreeSet<u32>);

impl CpuSet {
    /// Whether no CPU is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many CPUs are in the set.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether `cpu` is in the set.
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// The CPUs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// The CPUs in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// The CPUs in either set.
    pub fn union(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }

    /// The CPUs of this set that are not in `other`.
    pub fn difference(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }

    /// Whether the sets have no CPU in common.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.0.is_disjoint(&other.0)
    }

    /// Whether every CPU of this set is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }
}

/// Ascending numbers as the kernel lists them: `0-3,8`, or with a step `0-30:2` from four members on.
pub(super) fn ranges(numbers: impl IntoIterator<Item = u32>) -> String {
    let numbers: Vec<u32> = numbers.into_iter().collect();
    let mut parts = Vec::new();
    let mut rest = numbers.as_slice();
    while let [first, ..] = rest {
        let step = rest.get(1).map_or(1, |second| second - first);
        let run = 1 + rest.windows(2).take_while(|pair| pair[1] - pair[0] == step).count();
        let (used, part) = match (run, step) {
            (2.., 1) => (run, format!("{first}-{}", rest[run - 1])),
            (4.., _) => (run, format!("{first}-{}:{step}", rest[run - 1])),
            _ => (1, first.to_string()),
        };
        parts.push(part);
        rest = &rest[used..];
    }
    parts.join(",")
}

fn parse_part(part: &str) -> Result<impl Iterator<Item = u32> + use<>, String> {
    let number = |text: &str| match text.trim().parse::<u32>() {
        Ok(cpu) if cpu <= CPU_INDEX_MAX => Ok(cpu),
        Ok(cpu) => Err(format!("{cpu} is above {CPU_INDEX_MAX}")),
        Err(_) => Err(format!("{text:?} is not a number")),
    };
    let (range, step) = match part.split_once(':') {
        Some((range, step)) => (range, number(step)?),
        None => (part, 1),
    };
    let (first, last) = match range.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(range)?, number(range)?),
    };
    if first > last {
        return Err(format!("{first} is after {last}"));
    }
    if step == 0 {
        return Err("a step of 0".to_owned());
    }
    Ok((first..=last).step_by(step as usize))
}

impl FromStr for CpuSet {
    type Err = TopologyError;

    fn from_str(text: &str) -> Result<Self, TopologyError> {
        let mut cpus = Self::default();
        for part in text.trim().split(',').filter(|part| !part.trim().is_empty()) {
            match parse_part(part) {
                Ok(range) => cpus.0.extend(range),
                Err(reason) => return Err(TopologyError::CpuList { text: text.to_owned(), reason }),
            }
        }
        Ok(cpus)
    }
}

impl TryFrom<String> for CpuSet {
    type Error = TopologyError;

    fn try_from(text: String) -> Result<Self, TopologyError> {
        text.parse()
    }
}

impl From<CpuSet> for String {
    fn from(cpus: CpuSet) -> Self {
        cpus.to_string()
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ranges(self.iter()))
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuSet({self})")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_set_is_written_as_the_kernel_lists_it() {
        let cpus: CpuSet = [0, 1, 2, 8, 10, 12, 14, 20, 22].into_iter().collect();
        assert_eq!(cpus.to_string(), "0-2,8-14:2,20,22");
        assert_eq!("\t0-2,8 \n".parse::<CpuSet>().unwrap().len(), 4);
        assert!("".parse::<CpuSet>().unwrap().is_empty());
    }

    #[test]
    fn a_bad_list_is_named() {
        for (text, part) in [
            ("0-x", "\"x\""),
            ("3-1", "3 is after 1"),
            ("0-4294967295", "not"),
            ("0-8:0", "step"),
            ("99999", "above"),
        ] {
            let error = text.parse::<CpuSet>().unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
            let known = error.contains(part) || error.contains("above");
            assert!(known, "{error}");
        }
    }

    proptest! {
        #[test]
        fn text_reads_back_as_the_same_set(cpus in proptest::collection::btree_set(0u32..200, 0..60)) {
            let cpus = CpuSet(cpus);
            prop_assert_eq!(cpus.to_string().parse::<CpuSet>().unwrap(), cpus);
        }
    }
}
