//! Values that are lent: mapped where they lie, in memory of another process of the host, which accounts for them.
//!
//! They take up none of this worker's memory, so they wait for no room and never go to disk, which would free nothing. The
//! shell says when that is over: a task has made a copy of its own, or nobody else accounts for the memory any more.

use super::WorkerCore;
use super::effects::Effects;
use super::fetches::Next;
use super::task::{Held, Lifetime};
use crate::model::TaskId;

/// In whose memory a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// This worker's.
    Worker,
    /// That of another process, which accounts for it until [`own`](WorkerCore::own) is said.
    Lender,
}

impl<J> WorkerCore<J> {
    /// A value that was lent is this worker's.
    pub fn own(&mut self, task: TaskId) {
        if let Some(held) = self.values.get_mut(&task).filter(|held| held.owner == Owner::Lender) {
            self.memory.own(task, held);
        }
    }

    /// The answer to `borrow`: the peer does not lend the value. It is asked to send it, when there is room.
    pub fn not_lent<E: Effects<Job = J>>(&mut self, task: TaskId, effects: &mut E) {
        self.fetches.insist(task);
        self.memory.note_change();
        self.start_fetches(effects);
    }

    /// Whether there is room for a value, or it may need none.
    pub(super) fn admits<E: Effects<Job = J>>(&self, next: &Next, effects: &E) -> bool {
        self.memory.admits(next.nbytes) || self.is_worth_borrowing(next, effects)
    }

    /// Asks a peer for a value. While there is plenty of room the peer chooses how it comes.
    pub(super) fn begin_fetch<E: Effects<Job = J>>(&mut self, next: Next, effects: &mut E) {
        if self.is_worth_borrowing(&next, effects) {
            self.fetches.begin(next, 0);
            return effects.borrow(next.task, next.nbytes, next.holder);
        }
        self.fetches.begin(next, next.nbytes);
        self.memory.arrival_begins(next.nbytes);
        effects.fetch(next.task, next.nbytes, next.holder);
    }

    /// Whether a peer is to lend a value or to say no.
    pub(super) fn is_worth_borrowing<E: Effects<Job = J>>(&self, next: &Next, effects: &E) -> bool {
        next.may_be_lent && !self.memory.has_plenty(next.nbytes) && effects.lends(next.holder, next.nbytes)
    }

    /// Enters a value that is in memory.
    pub(super) fn hold(&mut self, task: TaskId, users: u32, lifetime: Lifetime, nbytes: u64, owner: Owner) {
        let nbytes = if lifetime == Lifetime::Recent { 0 } else { nbytes };
        let mut held = Held { owner, ..Held::new(users, lifetime, nbytes) };
        self.memory.hold(task, &mut held);
        self.values.insert(task, held);
    }
}
