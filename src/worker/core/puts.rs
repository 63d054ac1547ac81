//! Values that clients send: each waits for room before its bytes are taken from the network.
//!
//! What has room counts as arriving until it is over, so that values which come at once do not exceed together what
//! each alone would have left free. While the first one waits, values go to disk for it, as far as there are any.

use std::collections::VecDeque;

use super::WorkerCore;
use super::effects::Effects;

/// Names one value that a client sends, from when it is announced until it is here or given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PutId(pub u64);

/// All such values, with their bytes.
#[derive(Debug, Default)]
pub(super) struct Puts {
    waiting: VecDeque<(PutId, u64)>,
    admitted: Vec<(PutId, u64)>,
    /// Whether the last one that was not let in at once was refused: to wait is of no use then.
    has_refused: bool,
    named: u64,
}

impl<J> WorkerCore<J> {
    /// A client is about to send a value of so many bytes; answered by `admit` when there is room, which is not before
    /// [`start_ready`](Self::start_ready).
    pub fn expect_put(&mut self, nbytes: u64) -> PutId {
        self.puts.named += 1;
        let put = PutId(self.puts.named);
        self.puts.waiting.push_back((put, nbytes));
        self.memory.note_change();
        put
    }

    /// A value has waited for long enough: it comes in, however full the memory is, unless the disk takes nothing and
    /// the memory would be full.
    pub fn hurry_put<E: Effects<Job = J>>(&mut self, put: PutId, effects: &mut E) {
        let place = self.puts.waiting.iter().position(|(other, _)| *other == put);
        let Some((put, nbytes)) = place.and_then(|place| self.puts.waiting.remove(place)) else { return };
        match self.memory.is_out_of_room_for(nbytes) {
            true => {
                self.puts.has_refused = true;
                effects.refuse(put);
            }
            false => self.admit(put, nbytes, effects),
        }
        self.memory.note_change();
    }

    /// A value is here, which is said with [`put`](Self::put), or does not come.
    pub fn end_put(&mut self, put: PutId) {
        let is_other = |(other, _): &(PutId, u64)| *other != put;
        if let Some(place) = self.puts.admitted.iter().position(|entry| !is_other(entry)) {
            let (_, nbytes) = self.puts.admitted.swap_remove(place);
            self.memory.arrival_ends(nbytes);
        }
        self.puts.waiting.retain(is_other);
        self.memory.note_change();
    }

    /// Lets in what there is room for, and refuses what waits for nothing.
    pub(super) fn admit_puts<E: Effects<Job = J>>(&mut self, effects: &mut E) {
        while let Some((put, nbytes)) =
            self.puts.waiting.pop_front_if(|(_, nbytes)| self.memory.admits(*nbytes))
        {
            self.admit(put, nbytes, effects);
        }
        while self.puts.has_refused
            && let Some((put, _)) =
                self.puts.waiting.pop_front_if(|(_, nbytes)| self.memory.is_out_of_room_for(*nbytes))
        {
            effects.refuse(put);
        }
    }

    /// Lets one in when nothing else goes on: waiting makes no room. If the disk fails there may be some later.
    pub(super) fn admit_put_at_rest<E: Effects<Job = J>>(&mut self, effects: &mut E) {
        if self.puts.admitted.is_empty()
            && !self.memory.is_disk_failing()
            && let Some((put, nbytes)) = self.puts.waiting.pop_front()
        {
            self.admit(put, nbytes, effects);
        }
    }

    /// Whether the next one lacks room.
    pub(super) fn is_put_waiting(&self) -> bool {
        self.puts.waiting.front().is_some_and(|(_, nbytes)| !self.memory.admits(*nbytes))
    }

    fn admit<E: Effects<Job = J>>(&mut self, put: PutId, nbytes: u64, effects: &mut E) {
        self.memory.arrival_begins(nbytes);
        self.puts.admitted.push((put, nbytes));
        self.puts.has_refused = false;
        effects.admit(put);
    }
}

impl Puts {
    /// Whether one waits that could come in, since none is on its way.
    pub(super) fn is_stuck(&self) -> bool {
        !self.waiting.is_empty() && self.admitted.is_empty()
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Bytes of those that were let in.
    pub(super) fn admitted_bytes(&self) -> u64 {
        self.admitted.iter().map(|(_, nbytes)| nbytes).sum()
    }
}
