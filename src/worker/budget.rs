//! How many bytes of values may be on their way at once; whoever comes later waits for its turn.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The grain in which bytes are counted.
const GRAIN_BYTES: u64 = 4096;

/// A number of bytes to be shared.
#[derive(Debug)]
pub(super) struct Budget {
    grains: Arc<Semaphore>,
    total: u32,
}

/// A part of a budget, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Room {
    _grains: Option<OwnedSemaphorePermit>,
}

impl Budget {
    /// A budget of so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let total = (bytes / GRAIN_BYTES).clamp(1, u64::from(u32::MAX >> 3)) as u32;
        Self { grains: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Waits for room for `bytes`. What is larger than the whole goes alone.
    pub(super) async fn take(&self, bytes: u64) -> Room {
        let grains = (bytes.div_ceil(GRAIN_BYTES)).min(u64::from(self.total)) as u32;
        // It is never closed.
        Room { _grains: Arc::clone(&self.grains).acquire_many_owned(grains).await.ok() }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn what_does_not_fit_waits_and_what_never_fits_goes_alone() {
        let budget = Budget::new(10 * GRAIN_BYTES);
        let first = budget.take(6 * GRAIN_BYTES).now_or_never();
        assert!(first.is_some() && budget.take(6 * GRAIN_BYTES).now_or_never().is_none());
        drop(first);
        let large = budget.take(100 * GRAIN_BYTES).now_or_never();
        assert!(large.is_some() && budget.take(1).now_or_never().is_none());
    }
}
