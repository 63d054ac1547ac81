//! Who accounts for memory that several processes have mapped: whoever holds the lock on its file.
//!
//! A segment is locked by the process that makes it. The kernel opens the lock when that has given the segment up, or is
//! dead. Those that have it mapped still try for the lock now and then: the first accounts for the segment from then on, and
//! for the others it is lent as before. So it is counted once, whoever goes in which order.

use std::fs::{File, TryLockError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use smallvec::SmallVec;

use super::{Area, Kind, Pool, Shared, State};
use crate::transport::shm::segment::Segment;

/// What is known of an area's accounting.
#[derive(Debug)]
pub(super) struct Claim {
    file: Arc<File>,
    file_bytes: u64,
    /// When it came, among all areas.
    age: Age,
    /// Whether it is mapped, and another process accounts for it.
    is_lent: Arc<AtomicBool>,
}

/// A moment in the life of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Age(u64);

/// Memory that other processes account for.
#[derive(Debug, Clone)]
pub struct Loan {
    maps: SmallVec<[Arc<AtomicBool>; 1]>,
}

impl Loan {
    /// Whether all of it is mapped still, and other processes account for it.
    pub fn is_lent(&self) -> bool {
        self.maps.iter().all(|map| map.load(Ordering::Acquire))
    }
}

impl Pool {
    /// What of these bytes is lent; None if nothing is, or some of what others have made is this process's by now.
    pub fn loan(&self, buffers: &[Bytes]) -> Option<Loan> {
        let mut maps = SmallVec::<[Arc<AtomicBool>; 1]>::new();
        let mut state = self.shared.lock();
        for buffer in buffers {
            let Some((start, area)) = state.area_of(buffer) else { continue };
            if area.kind != Kind::Foreign {
                continue;
            }
            let claim = &area.claim;
            if !maps.last().is_some_and(|last| Arc::ptr_eq(last, &claim.is_lent)) {
                maps.push(Arc::clone(&claim.is_lent));
                state.adopt(start, &self.shared);
            }
        }
        let loan = Loan { maps };
        (!loan.maps.is_empty() && loan.is_lent()).then_some(loan)
    }

    /// Accounts for what other processes have let go of and this one has mapped.
    pub fn adopt(&self) {
        let is_lent = |area: &&Area| area.kind == Kind::Foreign && area.claim.is_lent.load(Ordering::Acquire);
        let candidates = |state: &State| -> Vec<(usize, Arc<File>, Arc<AtomicBool>)> {
            let areas = state.areas.iter().filter(|(_, area)| is_lent(area));
            areas
                .map(|(start, Area { claim, .. })| (*start, claim.file.clone(), claim.is_lent.clone()))
                .collect()
        };
        let candidates = candidates(&self.shared.lock());
        // Asking the system takes its time, and others want the pool meanwhile.
        for (start, file, is_lent) in candidates {
            if is_locked_elsewhere(&file) {
                continue;
            }
            let mut state = self.shared.lock();
            let is_same = |area: &&Area| Arc::ptr_eq(&area.claim.is_lent, &is_lent);
            if state.areas.get(&start).is_some_and(|area| is_same(&area)) {
                state.adopt(start, &self.shared);
            }
        }
    }

    /// This moment.
    pub fn age(&self) -> Age {
        self.shared.lock().age
    }

    /// Leaves it to those who map what of these bytes came since to account for it. While this process has it, it does so,
    /// too.
    pub fn give_away(&self, buffers: &[Bytes], since: Age) {
        let mut state = self.shared.lock();
        for buffer in buffers {
            if let Some((_, area)) = state.area_of(buffer)
                && area.kind != Kind::Foreign
                && area.claim.age >= since
                && let Err(error) = area.claim.file.unlock()
            {
                tracing::debug!(%error, "a segment stays locked");
            }
        }
    }

    /// How often a map ceased to be lent: it went, or became this process's.
    pub fn loans_ended(&self) -> u64 {
        self.shared.loans_ended.load(Ordering::Acquire)
    }
}

/// Takes the lock of a segment, unless another process has it. Where the system cannot tell nobody has: what is counted
/// twice is better than what is not counted.
fn is_locked_elsewhere(file: &File) -> bool {
    matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

impl Age {
    pub(super) fn next(&mut self) -> Self {
        let age = *self;
        self.0 += 1;
        age
    }
}

impl State {
    fn adopt(&mut self, start: usize, shared: &Shared) {
        let Some(Area { claim, .. }) = self.areas.get(&start) else { return };
        if claim.is_lent.load(Ordering::Acquire) && !is_locked_elsewhere(&claim.file) {
            self.usage.adopted_bytes += claim.file_bytes;
            claim.end(shared);
        }
    }

    /// A map goes.
    pub(super) fn unmap(&mut self, segment: &Segment, shared: &Shared) {
        self.usage.segments -= 1;
        self.usage.mapped_bytes -= segment.bytes() as u64;
        let Area { claim, .. } = self.areas.remove(&segment.start()).expect("what is mapped is an area");
        match claim.is_lent.load(Ordering::Acquire) {
            true => claim.end(shared),
            false => self.usage.adopted_bytes -= claim.file_bytes,
        }
    }
}

impl Claim {
    pub(super) fn new(segment: &Segment, kind: Kind, age: Age) -> Self {
        let is_lent = Arc::new(AtomicBool::new(kind == Kind::Foreign));
        Self { file: Arc::clone(&segment.file), file_bytes: segment.file_bytes, age, is_lent }
    }

    fn end(&self, shared: &Shared) {
        self.is_lent.store(false, Ordering::Release);
        shared.loans_ended.fetch_add(1, Ordering::Release);
    }
}
