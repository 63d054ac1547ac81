//! What a rank brings to the meeting, and which ranks cannot work with the others.
//!
//! A task library may be missing on one node, or be another version there. Each rank therefore says which tasks it
//! has, or why it has none, before anyone relies on it. From the same words all ranks come to the same list of those
//! that are turned away; rank 0 says so, once for all of them ([`in_words`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::with_causes;
use crate::registry::{Registry, RegistryError, difference};

/// What a rank brings.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    /// The connection file's content; from rank 0 only.
    pub connection: Option<Vec<u8>>,
    /// Its tasks.
    pub tasks: Tasks,
}

/// The tasks of a rank.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Tasks {
    /// It runs none.
    #[default]
    None,
    /// It can run these.
    Table {
        /// Equal on ranks with the same tasks.
        hash: u64,
        /// All names.
        names: Vec<String>,
    },
    /// They cannot be set up.
    Unusable {
        /// Why.
        reason: String,
    },
}

/// A rank that cannot work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurnedAway {
    /// Which one.
    pub rank: u32,
    /// Where it is.
    pub host: String,
    /// Why.
    pub reason: String,
}

impl Tasks {
    /// What a rank with this registry, or without one, has to offer.
    pub fn of<R: AsRef<Registry>>(registry: &Result<R, RegistryError>) -> Self {
        match registry.as_ref().map(AsRef::as_ref) {
            Ok(registry) => Self::Table {
                hash: registry.table_hash(),
                names: registry.describe().iter().map(|task| task.name.to_owned()).collect(),
            },
            Err(error) => Self::Unusable { reason: with_causes(error) },
        }
    }
}

/// The ranks that cannot work, of the host and tasks of each rank in order.
///
/// The tasks of the cluster are those that most ranks have; of two that are as common, those of the lower rank.
pub fn turned_away<'a>(ranks: impl Iterator<Item = (&'a str, &'a Tasks)>) -> Vec<TurnedAway> {
    let ranks: Vec<_> = (0..).zip(ranks).collect();
    let tables = || {
        ranks.iter().filter_map(|(rank, (_, tasks))| match tasks {
            Tasks::Table { hash, names } => Some((*hash, (*rank, names))),
            Tasks::None | Tasks::Unusable { .. } => None,
        })
    };
    let mut votes: BTreeMap<u64, u32> = BTreeMap::new();
    tables().for_each(|(hash, _)| *votes.entry(hash).or_default() += 1);
    let elected = tables().rev().max_by_key(|(hash, _)| votes[hash]);
    let refused = |(rank, (host, tasks)): &(u32, (&str, &Tasks))| {
        let reason = match (tasks, elected) {
            (Tasks::Unusable { reason }, _) => reason.clone(),
            (Tasks::Table { hash, names }, Some((ours, (first, known)))) if *hash != ours => {
                let difference = difference(names, known);
                format!(
                    "its tasks are not those of rank {first} ({difference}): start all ranks with the same program \
                     and --tasks"
                )
            }
            _ => return None,
        };
        Some(TurnedAway { rank: *rank, host: (*host).to_owned(), reason })
    };
    ranks.iter().filter_map(refused).collect()
}

/// One sentence for each reason, with the ranks that have it.
pub fn in_words(turned_away: &[TurnedAway]) -> Vec<String> {
    let mut by_reason: Vec<(&str, Vec<&TurnedAway>)> = Vec::new();
    for one in turned_away {
        match by_reason.iter_mut().find(|(reason, _)| *reason == one.reason) {
            Some((_, all)) => all.push(one),
            None => by_reason.push((&one.reason, vec![one])),
        }
    }
    let sentence = |(reason, all): (&str, Vec<&TurnedAway>)| {
        let ranks: Vec<String> = all.iter().map(|one| format!("{} on {}", one.rank, one.host)).collect();
        let noun = if ranks.len() == 1 { "rank" } else { "ranks" };
        format!("{noun} {}: {reason}", ranks.join(", "))
    };
    by_reason.into_iter().map(sentence).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn table(hash: u64, names: &[&str]) -> Tasks {
        Tasks::Table { hash, names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    fn refused(ranks: &[Tasks]) -> Vec<TurnedAway> {
        turned_away(ranks.iter().map(|tasks| ("n1", tasks)))
    }

    #[test]
    fn ranks_with_the_same_tasks_all_work() {
        let good = table(1, &["a"]);
        assert_eq!(refused(&[Tasks::None, good.clone(), good]), []);
    }

    #[test]
    fn the_tasks_that_most_have_are_those_of_the_cluster() {
        let (odd, good) = (table(1, &["a", "old"]), table(2, &["a", "b"]));
        let away = refused(&[Tasks::None, odd.clone(), good.clone(), good.clone()]);
        assert_eq!(away.len(), 1);
        assert_eq!(away[0].rank, 1);
        assert!(away[0].reason.contains("not those of rank 2 (it has old and lacks b)"), "{away:?}");
        let tie = refused(&[Tasks::None, odd, good]);
        assert_eq!(tie.iter().map(|one| one.rank).collect::<Vec<_>>(), [2], "the lower rank's");
        let types = refused(&[table(1, &["a"]), table(2, &["a"])]);
        assert!(types[0].reason.contains("the same names with other types"), "{types:?}");
    }

    #[test]
    fn a_reason_is_told_once_for_all_ranks_that_have_it() {
        let none = Tasks::Unusable { reason: "cannot load task library a.so".to_owned() };
        let away = refused(&[Tasks::None, none.clone(), none, table(1, &[])]);
        assert_eq!(in_words(&away), ["ranks 1 on n1, 2 on n1: cannot load task library a.so"]);
    }
}
