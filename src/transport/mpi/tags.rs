//! Which tags are free to receive with: a list per sending rank, because MPI matches rank and tag together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A tag of a transfer: 15 bits, which every MPI library takes (MPI 4.0, section 8.1.2, `MPI_TAG_UB`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tag(pub u16);

pub(super) const TAG_MAX: u16 = 0x7fff;

/// The tags of a receiving rank.
#[derive(Debug, Default)]
pub(super) struct Tags {
    of_peer: BTreeMap<u32, TagsOfPeer>,
}

#[derive(Debug, Default)]
struct TagsOfPeer {
    /// Given back, the latest last.
    free: Vec<Tag>,
    /// How many were ever taken.
    used: u16,
}

impl Tags {
    /// A tag that nothing from `peer` bears; None if all are taken.
    pub(super) fn take(&mut self, peer: u32) -> Option<Tag> {
        let tags = self.of_peer.entry(peer).or_default();
        if let Some(tag) = tags.free.pop() {
            return Some(tag);
        }
        let fresh = (tags.used < TAG_MAX).then_some(Tag(tags.used + 1))?;
        tags.used += 1;
        Some(fresh)
    }

    /// Gives a tag back.
    pub(super) fn put(&mut self, peer: u32, tag: Tag) {
        self.of_peer.entry(peer).or_default().free.push(tag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_taken_once_until_it_is_given_back() {
        let mut tags = Tags::default();
        let taken: std::collections::BTreeSet<Tag> = (0..TAG_MAX).filter_map(|_| tags.take(3)).collect();
        assert_eq!(taken.len(), usize::from(TAG_MAX));
        assert_eq!(tags.take(3), None);
        assert!(tags.take(4).is_some(), "another peer has tags of its own");
        tags.put(3, Tag(77));
        assert_eq!(tags.take(3), Some(Tag(77)));
    }
}
