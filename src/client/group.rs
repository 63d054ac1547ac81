//! Groups of futures that somebody waits for together, and the deadlines of those waits.
//!
//! A group counts its members down as outcomes arrive and wakes its one waiter when its [`Until`] is met:
//! waiting for a hundred thousand futures is one counter and one wake. It lives under the session's lock.

use std::collections::{BTreeSet, VecDeque};
use std::task::Waker;
use std::time::Instant;

use crate::model::FutureId;

/// When a group's waiter is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Until {
    /// All members are done.
    All,
    /// A member is done.
    First,
    /// A member failed, or all are done.
    Exception,
    /// Whenever a member is done; which one is noted in `ready`.
    Each,
}

/// Futures that are waited for together.
#[derive(Debug)]
pub(super) struct Group {
    until: Until,
    /// The members by index; one future may be here twice.
    pub(super) members: Vec<FutureId>,
    /// Members that are not done.
    pub(super) pending: usize,
    /// Indices of the members that were done since the waiter looked, in that order; for `Until::Each`.
    pub(super) ready: VecDeque<u32>,
    /// Whether the deadline has passed.
    pub(super) expired: bool,
    any_failed: bool,
    deadline: Option<Instant>,
    waker: Option<Waker>,
}

/// All groups of a client.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: Vec<Option<Group>>,
    free: Vec<u32>,
    deadlines: BTreeSet<(Instant, u32)>,
}

impl Group {
    /// Whether there is nothing to wait for any more.
    pub(super) fn is_met(&self) -> bool {
        match self.until {
            Until::All => self.pending == 0,
            Until::First => self.pending < self.members.len() || self.members.is_empty(),
            Until::Exception => self.any_failed || self.pending == 0,
            Until::Each => !self.ready.is_empty(),
        }
    }

    /// Books the end of member `index`.
    #[inline]
    pub(super) fn done(&mut self, index: u32, failed: bool) {
        self.pending -= 1;
        self.any_failed |= failed;
        if self.until == Until::Each {
            self.ready.push_back(index);
        }
    }

    /// Whom to wake, if the wait is over.
    #[inline]
    pub(super) fn wake(&mut self) -> Option<Waker> {
        if self.is_met() || self.expired { self.waker.take() } else { None }
    }

    /// Leaves `waker` to be woken; the one before it is the caller's to drop, once the lock is free: a waker
    /// may own a task that owns futures.
    pub(super) fn park(&mut self, waker: &Waker) -> Option<Waker> {
        if self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return None;
        }
        self.waker.replace(waker.clone())
    }
}

impl Groups {
    /// A group without members.
    pub(super) fn open(&mut self, until: Until, deadline: Option<Instant>) -> u32 {
        let group = Group {
            until,
            members: Vec::new(),
            pending: 0,
            ready: VecDeque::new(),
            expired: false,
            any_failed: false,
            deadline,
            waker: None,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.groups[id as usize] = Some(group);
                id
            }
            None => {
                self.groups.push(Some(group));
                self.groups.len() as u32 - 1
            }
        };
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, id));
        }
        id
    }

    /// The group `id`, which is open.
    #[inline]
    pub(super) fn group(&mut self, id: u32) -> &mut Group {
        self.groups[id as usize].as_mut().expect("who holds the number of a group keeps it open")
    }

    /// Ends a group; its memberships in the table are the caller's to end.
    pub(super) fn close(&mut self, id: u32) -> Option<Group> {
        let group = self.groups[id as usize].take()?;
        self.free.push(id);
        if let Some(deadline) = group.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        Some(group)
    }

    /// Gives a group a deadline, or another one.
    pub(super) fn set_deadline(&mut self, id: u32, deadline: Instant) {
        if let Some(earlier) = self.group(id).deadline.replace(deadline) {
            self.deadlines.remove(&(earlier, id));
        }
        self.deadlines.insert((deadline, id));
    }

    /// The earliest deadline.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Expires the groups whose deadline is at or before `at`, and returns whom to wake.
    pub(super) fn expire(&mut self, at: Instant) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= at
        {
            self.deadlines.pop_first();
            let group = self.group(id);
            group.expired = true;
            group.deadline = None;
            wakers.extend(group.wake());
        }
        wakers
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn group_of(until: Until, members: u32) -> Group {
        let mut groups = Groups::default();
        let id = groups.open(until, None);
        let mut group = groups.close(id).expect("it is open");
        group.members = (0..members).map(FutureId).collect();
        group.pending = members as usize;
        group
    }

    #[test]
    fn each_mode_is_met_by_its_own_event() {
        let (mut all, mut first, mut exception) =
            (group_of(Until::All, 2), group_of(Until::First, 2), group_of(Until::Exception, 2));
        for group in [&mut all, &mut first, &mut exception] {
            assert!(!group.is_met());
            group.done(0, false);
        }
        assert!(!all.is_met() && first.is_met() && !exception.is_met());
        exception.done(1, true);
        all.done(1, true);
        assert!(all.is_met() && exception.is_met());
    }

    #[test]
    fn waiting_for_nothing_is_over_at_once() {
        assert!(
            [Until::All, Until::First, Until::Exception].iter().all(|until| group_of(*until, 0).is_met())
        );
    }

    #[test]
    fn a_closed_group_leaves_no_deadline_behind() {
        let mut groups = Groups::default();
        let start = Instant::now();
        let (soon, late) = (start + Duration::from_secs(1), start + Duration::from_secs(2));
        let (a, b) = (groups.open(Until::All, Some(soon)), groups.open(Until::Each, Some(late)));
        assert_eq!(groups.next_deadline(), Some(soon));
        groups.close(a);
        assert_eq!(groups.next_deadline(), Some(late));
        groups.expire(late);
        assert!(groups.group(b).expired);
        assert_eq!(groups.next_deadline(), None);
    }
}
