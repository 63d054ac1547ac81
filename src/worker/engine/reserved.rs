//! Room for a value that a client sends, from before its bytes are received until it is here.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::timeout;

use super::Engine;
use crate::model::{Packed, TaskId};
use crate::worker::core::PutId;
use crate::worker::spill::Order;

/// Room for one value. It is given back when this is dropped.
#[derive(Debug)]
pub struct Reserved {
    engine: Arc<Engine>,
    put: Option<PutId>,
}

impl Reserved {
    /// Waits until there is room for so many bytes. After `patience` they are let in all the same; None if the memory would
    /// be full then, and the disk takes nothing.
    pub async fn of(engine: &Arc<Engine>, bytes: u64, patience: Duration) -> Option<Self> {
        let (room, mut waiting) = oneshot::channel();
        let put = engine.book(|core, floor| {
            let put = core.expect_put(bytes);
            floor.puts.insert(put, room);
            put
        });
        // If the wait is given up the place in the line goes with this.
        let reserved = Self { engine: Arc::clone(engine), put: Some(put) };
        match waiting.try_recv() {
            Ok(()) => return Some(reserved),
            Err(TryRecvError::Closed) => return None,
            Err(TryRecvError::Empty) => {}
        }
        // There may be more room than when the memory was looked at last.
        engine.pass_on(vec![Order::Look]);
        let admitted = match timeout(patience, &mut waiting).await {
            Ok(admitted) => admitted.is_ok(),
            Err(_) => {
                engine.book(|core, floor| core.hurry_put(put, floor));
                waiting.try_recv().is_ok()
            }
        };
        admitted.then_some(reserved)
    }

    /// Books the value that it was meant for.
    pub fn fill(mut self, task: TaskId, packed: Packed) {
        let put = self.put.take();
        self.engine.book(|core, floor| {
            floor.put(core, task, packed);
            put.into_iter().for_each(|put| core.end_put(put));
        });
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let Some(put) = self.put else { return };
        self.engine.book(|core, floor| {
            floor.puts.remove(&put);
            core.end_put(put);
        });
    }
}
