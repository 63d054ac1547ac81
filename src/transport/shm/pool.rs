//! Segments that are in use, those that wait to be used again, and which addresses lie in which.
//!
//! Sizes are rounded up to an eighth of a power of two, so that segments fit again; memory that is not touched costs
//! nothing. What was exported is given back to the system instead: somebody may have it mapped, and then the kernel
//! keeps it; [`loans`] says who accounts for it. Idle memory keeps what was in it, and stays on the NUMA node of the
//! thread that first wrote there.

// Hands out memory of maps, which are unsafe to look at because others could write there: see `Taken` and `Mapped`.
#![allow(unsafe_code)]

mod loans;

use std::collections::BTreeMap;
use std::fs;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::segment::{MapError, Segment};
use crate::model::buffer::{Region, Regions};
use crate::wire::peer::{FileName, SegmentPart};
use loans::Claim;
pub use loans::{Age, Loan};

/// Sizes are multiples of this, in bytes, at least.
const STEP_BYTES_MIN: usize = 64 << 10;
/// A segment serves if it is larger than asked for by this fraction at most.
const SLACK_FRACTION: usize = 4;

/// How much a pool may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Segments and maps together; each is a file descriptor and a map.
    pub segments: usize,
    /// Idle memory, in bytes.
    pub idle_bytes: u64,
}

/// What a pool has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolUse {
    /// Of segments that hold a buffer, in bytes.
    pub used_bytes: u64,
    /// Those of them that other processes may have mapped.
    pub shared_bytes: u64,
    /// Of segments that wait for one.
    pub idle_bytes: u64,
    /// Of other processes' segments that are mapped here.
    pub mapped_bytes: u64,
    /// Of such segments that their owners have let go of and this process accounts for.
    pub adopted_bytes: u64,
    /// Segments and maps.
    pub segments: u64,
    /// Segments that were made.
    pub made: u64,
    /// Times that one was used again.
    pub recycled: u64,
}

/// The segments of a process. Clones share it.
#[derive(Debug, Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    is_lack_said: AtomicBool,
    /// How many maps are not lent any more.
    loans_ended: AtomicU64,
}

#[derive(Debug)]
struct State {
    limits: Limits,
    /// What can be exported, by its first address.
    areas: BTreeMap<usize, Area>,
    /// Idle segments by size, then age.
    idle: BTreeMap<(usize, u64), Segment>,
    /// The sizes of idle segments, the oldest first.
    ages: BTreeMap<u64, usize>,
    next_age: u64,
    /// Of the next area.
    age: Age,
    usage: PoolUse,
}

/// A range of addresses that a file has, too.
#[derive(Debug)]
struct Area {
    bytes: usize,
    file: FileName,
    offset: u64,
    kind: Kind,
    claim: Claim,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of this process alone.
    Own,
    /// Others may have mapped it.
    Exported,
    /// Another process's.
    Foreign,
}

impl Limits {
    /// What the limits of this process leave for segments, and no idle memory.
    pub fn of_process() -> Self {
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let maps = fs::read_to_string("/proc/sys/vm/max_map_count");
        let maps = maps.ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(65_530);
        Self { segments: usize::try_from((files / 2).min(maps / 4)).unwrap_or(usize::MAX), idle_bytes: 0 }
    }
}

/// Raises the limit of open files of this process as far as it may: a segment is one.
pub fn raise_open_files() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, soft, hard, "the limit of open files stays");
    }
}

impl Pool {
    /// A pool without segments.
    pub fn new(limits: Limits) -> Self {
        let state = State {
            limits,
            areas: BTreeMap::new(),
            idle: BTreeMap::new(),
            ages: BTreeMap::new(),
            next_age: 0,
            age: Age::default(),
            usage: PoolUse::default(),
        };
        let (is_lack_said, loans_ended) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { shared: Arc::new(Shared { state: Mutex::new(state), is_lack_said, loans_ended }) }
    }

    /// Lets it keep so much more idle memory.
    pub fn keep_idle(&self, bytes: u64) {
        let limits = &mut self.shared.lock().limits;
        limits.idle_bytes = limits.idle_bytes.saturating_add(bytes);
        limits.segments = limits.segments.max(Limits::of_process().segments);
    }

    /// Has it make and map nothing from now on; whether that is news.
    pub fn close(&self) -> bool {
        std::mem::take(&mut self.shared.lock().limits.segments) > 0
    }

    /// What it has at this moment.
    pub fn usage(&self) -> PoolUse {
        self.shared.lock().usage
    }

    /// Gives idle memory back to the system.
    pub fn trim(&self) {
        let mut dropped = Vec::new();
        self.shared.lock().evict(0, &mut dropped);
    }

    /// Whether one more segment, or map, can be had.
    pub fn has_room(&self) -> bool {
        let state = self.shared.lock();
        state.usage.segments < state.limits.segments as u64 || !state.idle.is_empty()
    }

    /// Where in a segment these bytes lie, if they do. They must be of a frozen buffer.
    pub fn locate(&self, bytes: &Bytes) -> Option<SegmentPart> {
        let start = bytes.as_ptr() as usize;
        let mut state = self.shared.lock();
        let (area_start, area) = state.area_of(bytes)?;
        Some(SegmentPart {
            file: area.file,
            offset: area.offset + (start - area_start) as u64,
            bytes: bytes.len() as u64,
        })
    }

    /// Lets others map these bytes: their segment is never written again.
    ///
    /// The caller keeps the bytes until the others have mapped them.
    pub fn export(&self, bytes: &Bytes) {
        let mut state = self.shared.lock();
        let Some((_, area)) = state.area_of(bytes) else { return };
        if area.kind == Kind::Own {
            area.kind = Kind::Exported;
            let shared_bytes = area.bytes as u64;
            state.usage.shared_bytes += shared_bytes;
        }
    }

    /// Maps what process `pid` has exported, each file once. The bytes can be exported in turn.
    ///
    /// # Errors
    /// [`MapError`]: the other process is not of this host, has ended, or may not be looked into.
    pub fn map(&self, pid: u32, parts: &[SegmentPart]) -> Result<Vec<Bytes>, MapError> {
        let mut spans = BTreeMap::<FileName, (u64, u64)>::new();
        for part in parts {
            let to = part.offset.saturating_add(part.bytes);
            let span = spans.entry(part.file).or_insert((part.offset, to));
            *span = (span.0.min(part.offset), span.1.max(to));
        }
        let mut maps = BTreeMap::new();
        for (file, (from, to)) in spans {
            maps.insert(file, self.map_file(pid, file, from, to)?);
        }
        let slice = |part: &SegmentPart| {
            let (start, bytes) = &maps[&part.file];
            let from = (part.offset - start) as usize;
            bytes.slice(from..from + part.bytes as usize)
        };
        Ok(parts.iter().map(slice).collect())
    }

    /// Maps a part of a file; where in the file the map begins, and its bytes.
    fn map_file(&self, pid: u32, file: FileName, from: u64, to: u64) -> Result<(u64, Bytes), MapError> {
        self.reserve().map_err(|segments| MapError::Full { segments })?;
        let opened = Segment::open(pid, file, from, to);
        let segment = opened.inspect_err(|_| self.shared.lock().usage.segments -= 1)?;
        let mut state = self.shared.lock();
        state.add(&segment, Kind::Foreign);
        state.usage.mapped_bytes += segment.bytes() as u64;
        drop(state);
        let offset = segment.offset;
        Ok((offset, Bytes::from_owner(Mapped { shared: Arc::clone(&self.shared), segment })))
    }

    fn recycled(&self, bytes: usize) -> Option<Segment> {
        let mut state = self.shared.lock();
        let at = *state.idle.range((bytes, 0)..=(bytes + bytes / SLACK_FRACTION, u64::MAX)).next()?.0;
        let segment = state.take_idle(at)?;
        segment.claim();
        state.add(&segment, Kind::Own);
        state.usage.used_bytes += segment.bytes() as u64;
        state.usage.recycled += 1;
        Some(segment)
    }

    fn made(&self, bytes: usize) -> Option<Segment> {
        if let Err(segments) = self.reserve() {
            self.say_lack(&format!("this process has {segments} segments"));
            return None;
        }
        match Segment::create(bytes) {
            Ok(segment) => {
                let mut state = self.shared.lock();
                state.add(&segment, Kind::Own);
                state.usage.used_bytes += segment.bytes() as u64;
                state.usage.made += 1;
                Some(segment)
            }
            Err(error) => {
                self.shared.lock().usage.segments -= 1;
                self.say_lack(&error.to_string());
                None
            }
        }
    }

    /// Counts one more segment, in place of an idle one if need be; how many there are if that is too many.
    fn reserve(&self) -> Result<(), usize> {
        let mut dropped = Vec::new();
        let mut state = self.shared.lock();
        if state.usage.segments >= state.limits.segments as u64 {
            state.evict_oldest(&mut dropped);
        }
        let segments = state.usage.segments;
        if segments >= state.limits.segments as u64 {
            return Err(segments as usize);
        }
        state.usage.segments += 1;
        Ok(())
    }

    fn say_lack(&self, reason: &str) {
        if !self.shared.is_lack_said.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                reason,
                "large buffers live on the heap, and are copied to other ranks of this host: raise the limits of open \
                 files (ulimit -n) and of maps (vm.max_map_count)"
            );
        }
    }
}

impl Regions for Pool {
    fn take(&self, bytes: usize) -> Option<Box<dyn Region>> {
        let bytes = class_of(bytes)?;
        let (segment, is_zero) = match self.recycled(bytes) {
            Some(segment) => (segment, false),
            None => (self.made(bytes)?, true),
        };
        Some(Box::new(Taken { shared: Arc::clone(&self.shared), segment: Some(segment), is_zero }))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing between two changes of the state panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes back the segment of a buffer. What goes for good is unmapped outside the lock.
    fn give_back(&self, segment: Segment) {
        let mut dropped = Vec::new();
        let mut state = self.lock();
        let bytes = segment.bytes() as u64;
        let kind = state.areas.remove(&segment.start()).map(|area| area.kind);
        state.usage.used_bytes -= bytes;
        if kind == Some(Kind::Exported) {
            state.usage.shared_bytes -= bytes;
        }
        if kind == Some(Kind::Own) && bytes <= state.limits.idle_bytes {
            let left = state.limits.idle_bytes - bytes;
            state.evict(left, &mut dropped);
            state.add_idle(segment);
        } else {
            state.usage.segments -= 1;
            dropped.push(segment);
        }
        drop(state);
    }
}

impl State {
    fn add(&mut self, segment: &Segment, kind: Kind) {
        let claim = Claim::new(segment, kind, self.age.next());
        let (file, offset) = (segment.name, segment.offset);
        self.areas.insert(segment.start(), Area { bytes: segment.bytes(), file, offset, kind, claim });
    }

    /// The area in which all of these bytes lie, and its first address.
    fn area_of(&mut self, bytes: &[u8]) -> Option<(usize, &mut Area)> {
        let start = bytes.as_ptr() as usize;
        let (&area_start, area) = self.areas.range_mut(..=start).next_back()?;
        (!bytes.is_empty() && start + bytes.len() <= area_start + area.bytes).then_some((area_start, area))
    }

    fn add_idle(&mut self, segment: Segment) {
        self.usage.idle_bytes += segment.bytes() as u64;
        self.ages.insert(self.next_age, segment.bytes());
        self.idle.insert((segment.bytes(), self.next_age), segment);
        self.next_age += 1;
    }

    fn take_idle(&mut self, at: (usize, u64)) -> Option<Segment> {
        let segment = self.idle.remove(&at)?;
        self.ages.remove(&at.1);
        self.usage.idle_bytes -= segment.bytes() as u64;
        Some(segment)
    }

    fn evict(&mut self, idle_bytes_max: u64, dropped: &mut Vec<Segment>) {
        while self.usage.idle_bytes > idle_bytes_max {
            self.evict_oldest(dropped);
        }
    }

    fn evict_oldest(&mut self, dropped: &mut Vec<Segment>) {
        let Some((&age, &bytes)) = self.ages.first_key_value() else { return };
        dropped.extend(self.take_idle((bytes, age)));
        self.usage.segments -= 1;
    }
}

/// A segment that holds a buffer.
#[derive(Debug)]
struct Taken {
    shared: Arc<Shared>,
    /// There until it is dropped.
    segment: Option<Segment>,
    is_zero: bool,
}

// SAFETY: the segment is mapped, page by page, for as long as this has it. Memory of a file is initialised. Nobody else
// writes: in this process a segment is idle or has one owner; others map only what was exported, which was frozen before
// and is never handed out again, and they map it read-only.
unsafe impl Region for Taken {
    fn start(&self) -> NonNull<u8> {
        let segment = self.segment.as_ref().expect("it is there until it is dropped");
        NonNull::new(segment.memory.as_mut_ptr()).expect("a map is not at address 0")
    }

    fn bytes(&self) -> usize {
        self.segment.as_ref().map_or(0, Segment::bytes)
    }

    fn is_zero(&self) -> bool {
        self.is_zero
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(segment) = self.segment.take() {
            self.shared.give_back(segment);
        }
    }
}

/// A map of another process's segment.
#[derive(Debug)]
struct Mapped {
    shared: Arc<Shared>,
    segment: Segment,
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        let (start, bytes) = (self.segment.memory.as_ptr(), self.segment.bytes());
        // SAFETY: `bytes` bytes from `start` are mapped while this lives, and the file cannot shrink. Its owner, a member of
        // this run, has exported it, and does not write there any more.
        unsafe { std::slice::from_raw_parts(start, bytes) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.shared.lock().unmap(&self.segment, &self.shared);
    }
}

/// The size of a segment for so many bytes; None if no machine has that.
fn class_of(bytes: usize) -> Option<usize> {
    let step = (bytes.checked_next_power_of_two()? / 16).max(STEP_BYTES_MIN);
    bytes.checked_next_multiple_of(step)
}

#[cfg(test)]
#[path = "pool/tests.rs"]
mod tests;
