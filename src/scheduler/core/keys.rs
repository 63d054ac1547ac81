//! Slots by key: a table with open addresses.
//!
//! A million keys are looked up where nothing is in the cache. An entry is eight bytes, a part of the hash and the
//! slot, and is looked for from its home onwards: so a key that is not there, and its new entry, cost one miss. The
//! home is given by the upper bits of the hash, which keeps entries in the order of their hashes as the table grows.

// The unsafe code of this file: the instruction that fetches an entry before it is needed.
#![allow(unsafe_code)]

use super::task::{NONE, TaskTable};
use crate::model::Key;

/// Entries at first, as a power of two.
const BITS_MIN: u32 = 6;

/// Which slot has which key. Only looked up, never iterated.
#[derive(Debug)]
pub(super) struct KeyTable {
    /// Zero where there is none.
    entries: Vec<Entry>,
    bits: u32,
    len: usize,
}

/// The hash, and one more than the slot.
type Entry = u64;

impl KeyTable {
    pub(super) fn new() -> Self {
        Self { entries: vec![0; 1 << BITS_MIN], bits: BITS_MIN, len: 0 }
    }

    /// Has what a search of `key` will read brought into the cache.
    #[inline]
    pub(super) fn prefetch(&self, key: Key) {
        let home = &raw const self.entries[self.home(hash(key))];
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86_64 has the instruction, and it may be given any address.
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(home.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = home;
    }

    /// The slot of `key`.
    pub(super) fn find(&self, key: Key, tasks: &TaskTable) -> Option<u32> {
        self.search(hash(key), |slot| tasks[slot].key == key).ok()
    }

    /// The slot of `key`, or the place for it.
    #[inline]
    pub(super) fn find_or_reserve(&mut self, key: Key, tasks: &TaskTable) -> Result<u32, Vacancy> {
        // A third stays empty.
        if self.len >= self.entries.len() / 3 * 2 {
            self.grow();
        }
        let hash = hash(key);
        self.search(hash, |slot| tasks[slot].key == key).map_err(|place| Vacancy { hash, place })
    }

    /// Enters a slot at a place that was reserved for it.
    #[inline]
    pub(super) fn enter(&mut self, vacancy: &Vacancy, slot: u32) {
        debug_assert_ne!(slot, NONE, "a slot");
        self.entries[vacancy.place] = entry(vacancy.hash, slot);
        self.len += 1;
    }

    /// Takes the entry of `key` and `slot` out. Those behind it move up, so that none is cut off from its home.
    pub(super) fn remove(&mut self, key: Key, slot: u32) {
        let Ok((mut hole, _)) = self.locate(hash(key), |other| other == slot) else { return };
        let mut place = hole;
        loop {
            place = self.after(place);
            let entry = self.entries[place];
            if entry == 0 {
                break;
            }
            // How far it is from its home, and how far the hole is from it, both round the end.
            let mask = self.entries.len() - 1;
            let away = place.wrapping_sub(self.home((entry >> 32) as u32)) & mask;
            if away >= place.wrapping_sub(hole) & mask {
                self.entries[hole] = entry;
                hole = place;
            }
        }
        self.entries[hole] = 0;
        self.len -= 1;
    }

    /// The slot whose entry has this hash and fits, or the place where its search ended.
    #[inline]
    fn search(&self, hash: u32, fits: impl Fn(u32) -> bool) -> Result<u32, usize> {
        self.locate(hash, fits).map(|(_, slot)| slot)
    }

    #[inline]
    fn locate(&self, hash: u32, fits: impl Fn(u32) -> bool) -> Result<(usize, u32), usize> {
        let mut place = self.home(hash);
        loop {
            let entry = self.entries[place];
            if entry == 0 {
                return Err(place);
            }
            let slot = entry as u32 - 1;
            if (entry >> 32) as u32 == hash && fits(slot) {
                return Ok((place, slot));
            }
            place = self.after(place);
        }
    }

    #[inline]
    fn home(&self, hash: u32) -> usize {
        (hash >> (u32::BITS - self.bits)) as usize
    }

    #[inline]
    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.entries.len() - 1)
    }

    #[cold]
    fn grow(&mut self) {
        assert!(self.bits < u32::BITS, "memory ends before hashes do");
        self.bits += 1;
        let old = std::mem::replace(&mut self.entries, vec![0; 1 << self.bits]);
        for entry in old.into_iter().filter(|entry| *entry != 0) {
            if let Err(place) = self.locate((entry >> 32) as u32, |_| false) {
                self.entries[place] = entry;
            }
        }
    }
}

/// A place in the table that a new entry may take, until the table changes.
#[derive(Debug)]
pub(super) struct Vacancy {
    hash: u32,
    place: usize,
}

#[inline]
fn entry(hash: u32, slot: u32) -> Entry {
    u64::from(hash) << 32 | u64::from(slot + 1)
}

/// Keys are hashes already; folding and one multiplication spread what is left of a pattern.
#[inline]
fn hash(key: Key) -> u32 {
    let folded = key.0 as u64 ^ (key.0 >> 64) as u64;
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::scheduler::core::task::Origin;

    #[test]
    fn keys_are_found_until_they_are_removed() {
        let (mut tasks, mut keys) = (TaskTable::new(), KeyTable::new());
        let mut there = BTreeMap::<u128, u32>::new();
        let mut draw = 1_u64;
        for step in 0..20_000_u32 {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Few bits, so that homes collide; up and down, so that the table grows and empties.
            let key = (u128::from(draw >> 33) % 700) << if step % 2 == 0 { 64 } else { 0 };
            if (step / 3000) % 2 == 0 || draw >> 62 == 0 {
                match keys.find_or_reserve(Key(key), &tasks) {
                    Ok(slot) => assert_eq!(there.get(&key), Some(&slot)),
                    Err(vacancy) => {
                        let slot = tasks.insert(Key(key), 0, Origin::Computed);
                        keys.enter(&vacancy, slot);
                        assert_eq!(there.insert(key, slot), None);
                    }
                }
            } else if let Some(slot) = there.remove(&key) {
                keys.remove(Key(key), slot);
                tasks.remove(slot);
            }
            if step % 100 == 0 {
                for (key, slot) in &there {
                    assert_eq!(keys.find(Key(*key), &tasks), Some(*slot));
                }
            }
        }
        for (key, slot) in there {
            keys.remove(Key(key), slot);
            assert_eq!(keys.find(Key(key), &tasks), None);
        }
        assert_eq!(keys.len, 0);
        assert!(keys.entries.iter().all(|entry| *entry == 0));
    }
}
