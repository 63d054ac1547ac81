//! What a pool hands out, keeps and lets go; what others map of it.
#![allow(clippy::unwrap_used)]

use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;

use super::*;

const MIB: usize = 1 << 20;

fn pool(segments: usize, idle_bytes: usize) -> Pool {
    Pool::new(Limits { segments, idle_bytes: idle_bytes as u64 })
}

fn fill(region: &mut Box<dyn Region>, byte: u8) {
    // SAFETY: the region is ours, and has these bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(region.start().as_ptr(), region.bytes()) };
    bytes.fill(byte);
}

#[derive(Debug)]
struct Frozen(Box<dyn Region>);

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the region lives as long as this, and nobody writes there any more.
        unsafe { std::slice::from_raw_parts(self.0.start().as_ptr(), self.0.bytes()) }
    }
}

/// A buffer full of one byte.
fn buffer(pool: &Pool, bytes: usize, byte: u8) -> Bytes {
    let mut region = pool.take(bytes).unwrap();
    fill(&mut region, byte);
    Bytes::from_owner(Frozen(region)).slice(..bytes)
}

fn map(pool: &Pool, bytes: &Bytes) -> Result<Bytes, MapError> {
    let part = pool.locate(bytes).unwrap();
    pool.export(bytes);
    Ok(pool.map(std::process::id(), &[part])?.remove(0))
}

#[test]
fn what_was_let_go_is_used_again_for_about_as_much() {
    let pool = pool(10, 100 * MIB);
    let first = pool.take(10 * MIB + 1).unwrap();
    assert!(first.is_zero() && first.bytes() > 10 * MIB);
    let start = first.start();
    drop(first);
    assert_eq!(pool.usage().idle_bytes, 10 * MIB as u64 + (MIB as u64));
    let second = pool.take(10 * MIB).unwrap();
    assert_eq!(second.start(), start);
    assert!(!second.is_zero());
    drop(second);
    let small = pool.take(MIB).unwrap();
    assert_ne!(small.start(), start, "a small buffer does not take a large segment");
    let PoolUse { made, recycled, segments, .. } = pool.usage();
    assert_eq!((made, recycled, segments), (2, 1, 2));
}

#[test]
fn idle_memory_has_a_bound_and_the_oldest_goes_first() {
    let pool = pool(10, 8 * MIB);
    let regions: Vec<_> = [2, 4, 3].map(|mib| pool.take(mib * MIB).unwrap()).into();
    drop(regions);
    let usage = pool.usage();
    assert_eq!((usage.used_bytes, usage.idle_bytes, usage.segments), (0, 7 * MIB as u64, 2));
    drop(pool.take(9 * MIB).unwrap());
    assert_eq!(pool.usage().idle_bytes, 7 * MIB as u64, "what is larger than the bound is not kept");
    pool.trim();
    assert_eq!(pool.usage().idle_bytes, 0);
}

#[test]
fn a_closed_pool_leaves_buffers_to_the_heap() {
    let pool = pool(10, 100 * MIB);
    assert!(pool.has_room() && pool.close());
    assert!(!pool.has_room() && pool.take(MIB).is_none() && !pool.close());
}

#[test]
fn a_full_pool_gives_up_idle_memory_and_then_leaves_buffers_to_the_heap() {
    let pool = pool(2, 100 * MIB);
    let held = pool.take(MIB).unwrap();
    drop(pool.take(50 * MIB).unwrap());
    assert!(pool.has_room());
    let _other = pool.take(MIB).unwrap();
    assert!(!pool.has_room());
    assert!(pool.take(MIB).is_none());
    drop(held);
    assert!(pool.take(MIB).is_some());
}

#[test]
fn what_others_mapped_is_not_used_again_and_does_not_change() {
    let pool = pool(10, 100 * MIB);
    let bytes = buffer(&pool, MIB + 5, 7);
    let mapped = map(&pool, &bytes.slice(100..MIB)).unwrap();
    assert_eq!((pool.usage().shared_bytes > 0, pool.usage().mapped_bytes > 0), (true, true));
    drop(bytes);
    let usage = pool.usage();
    assert_eq!((usage.used_bytes, usage.shared_bytes, usage.idle_bytes), (0, 0, 0));
    for round in 0..20 {
        drop(buffer(&pool, MIB + 5, round));
    }
    assert_eq!(mapped.len(), MIB - 100);
    assert!(mapped.iter().all(|byte| *byte == 7));
    drop(mapped);
    assert_eq!(pool.usage().mapped_bytes, 0);
}

#[test]
fn a_map_can_be_mapped_in_turn() {
    let pool = pool(10, 0);
    let bytes = buffer(&pool, 3 * MIB, 9);
    let part = bytes.slice(MIB + 3..2 * MIB);
    let first = map(&pool, &part).unwrap();
    drop((bytes, part));
    let second = map(&pool, &first.slice(10..)).unwrap();
    drop(first);
    assert_eq!(second, vec![9; MIB - 13]);
}

#[test]
fn bytes_of_the_heap_lie_in_no_segment() {
    let pool = pool(10, 0);
    let held = buffer(&pool, MIB, 1);
    assert_eq!(pool.locate(&Bytes::from(vec![1; 2 * MIB])), None);
    assert_eq!(pool.locate(&held.slice(..0)), None);
}

#[test]
fn what_is_not_as_said_is_not_mapped() {
    let pool = pool(3, 0);
    let bytes = buffer(&pool, MIB, 1);
    let part = pool.locate(&bytes).unwrap();
    let pid = std::process::id();
    let refused = |pid, part| pool.map(pid, &[part]).unwrap_err().to_string();
    let of = |file| SegmentPart { file, ..part };
    let inode = part.file.inode + 1;
    assert!(refused(pid, of(FileName { inode, ..part.file })).contains("another file"));
    assert!(refused(pid, SegmentPart { offset: 1, ..part }).contains("shorter"));
    assert!(refused(pid, SegmentPart { offset: u64::MAX, ..part }).contains("shorter"));
    assert!(refused(pid, of(FileName { fd: 1 << 20, ..part.file })).starts_with("cannot map /proc/"));
    assert!(refused(u32::MAX, part).starts_with("cannot map /proc/"));
    assert!(!pool.map(u32::MAX, &[part]).unwrap_err().may_pass());
    let unsealed = tempfile::tempfile().unwrap();
    unsealed.set_len(MIB as u64).unwrap();
    let metadata = unsealed.metadata().unwrap();
    let file = FileName { fd: unsealed.as_raw_fd(), device: metadata.dev(), inode: metadata.ino() };
    assert!(pool.map(pid, &[of(file)]).is_err());
    assert_eq!(pool.usage().segments, 1, "a failed map is not counted");
    let _maps = [pool.map(pid, &[part]).unwrap(), pool.map(pid, &[part]).unwrap()];
    assert!(refused(pid, part).contains("3 segments"));
    assert!(pool.map(pid, &[part]).unwrap_err().may_pass(), "which is no reason to ask no more");
}

#[test]
fn parts_of_one_segment_are_one_map() {
    let pool = pool(3, 0);
    let mut numbers = pool.take(2 * MIB).unwrap();
    fill(&mut numbers, 3);
    let bytes = Bytes::from_owner(Frozen(numbers));
    let parts: Vec<Bytes> = (0..100).map(|at| bytes.slice(at * 20_000..at * 20_000 + 19_999)).collect();
    let places: Vec<SegmentPart> = parts.iter().map(|part| pool.locate(part).unwrap()).collect();
    pool.export(&bytes);
    let mapped = pool.map(std::process::id(), &places).unwrap();
    assert_eq!(pool.usage().segments, 2);
    assert_eq!(mapped, parts);
}

#[test]
fn what_is_mapped_is_lent_until_its_owner_lets_go_and_then_one_accounts_for_it() {
    let [owner, reader, other] = [pool(10, 0), pool(10, 0), pool(10, 0)];
    let bytes = buffer(&owner, 3 * MIB, 9);
    let part = owner.locate(&bytes.slice(MIB..2 * MIB)).unwrap();
    owner.export(&bytes);
    let map = |pool: &Pool| pool.map(std::process::id(), &[part]).unwrap();
    let (first, second) = (map(&reader), map(&other));
    let loans = [reader.loan(&first).unwrap(), other.loan(&second).unwrap()];
    let look = || {
        [&reader, &other].map(|pool| {
            pool.adopt();
            pool.usage().adopted_bytes
        })
    };
    assert_eq!((look(), loans[0].is_lent()), ([0, 0], true));
    drop(bytes);
    assert_eq!(look(), [3 * MIB as u64, 0], "all of the segment stays, and is counted once");
    assert_eq!([loans[0].is_lent(), loans[1].is_lent()], [false, true]);
    assert!(reader.loan(&first).is_none() && other.loan(&second).is_some());
    let ended = (reader.loans_ended(), other.loans_ended());
    drop(first);
    assert_eq!((look(), loans[1].is_lent()), ([0, 3 * MIB as u64], false));
    assert_eq!((reader.loans_ended(), other.loans_ended()), (ended.0, ended.1 + 1));
    drop(second);
    assert_eq!(look(), [0, 0]);
}

#[test]
fn a_loan_ends_with_its_map() {
    let pool = pool(10, 0);
    let bytes = buffer(&pool, MIB, 1);
    let mapped = map(&pool, &bytes).unwrap();
    let loan = pool.loan(std::slice::from_ref(&mapped)).unwrap();
    assert!(loan.is_lent() && pool.loan(&[bytes]).is_none());
    drop(mapped);
    assert!(!loan.is_lent());
}

#[test]
fn what_was_made_for_others_is_theirs() {
    let [owner, reader] = [pool(10, 0), pool(10, 0)];
    let value = buffer(&owner, MIB, 1);
    let before = owner.age();
    let copy = buffer(&owner, MIB, 2);
    let both = [value, copy];
    owner.give_away(&both, before);
    both.iter().for_each(|bytes| owner.export(bytes));
    let parts = [0, 1].map(|index| owner.locate(&both[index]).unwrap());
    let mapped = reader.map(std::process::id(), &parts).unwrap();
    assert!(reader.loan(&mapped[..1]).is_some(), "the value's own memory is lent");
    assert!(reader.loan(&mapped[1..]).is_none());
    assert_eq!(reader.usage().adopted_bytes, MIB as u64);
}

#[test]
fn memory_that_is_used_again_is_its_process_s_again() {
    let [owner, reader] = [pool(10, 100 * MIB), pool(10, 0)];
    let before = owner.age();
    let copy = buffer(&owner, MIB, 1);
    owner.give_away(std::slice::from_ref(&copy), before);
    drop(copy);
    let value = buffer(&owner, MIB, 2);
    assert_eq!(owner.usage().recycled, 1);
    owner.export(&value);
    let mapped = reader.map(std::process::id(), &[owner.locate(&value).unwrap()]).unwrap();
    assert!(reader.loan(&mapped).is_some());
}
