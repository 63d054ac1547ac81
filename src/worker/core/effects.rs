//! What the core asks of its shell, as calls on a trait: real in a worker, recorded in tests and simulations.

use super::memory::Ticket;
use super::puts::PutId;
use crate::model::{TaskId, WorkerId};
use crate::wire::worker::{Failed, Finished, Pressure};

/// One executor thread of this worker, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ThreadId(pub u32);

/// The effects of an event, in the order in which they must happen.
pub trait Effects {
    /// What the shell needs to run a task.
    type Job;

    /// Run a task on an idle thread. Its inputs are held during this call; the shell takes its own references.
    fn start(&mut self, thread: ThreadId, task: TaskId, job: Self::Job);
    /// Take a start back that no thread has taken up; whether there was one.
    fn recall(&mut self, thread: ThreadId, task: TaskId) -> bool;
    /// Hold the value of the event that is being handled.
    fn keep(&mut self, task: TaskId);
    /// Drop a value that was kept.
    fn discard(&mut self, task: TaskId);
    /// Fetch a value from a peer; answered by exactly one `fetched`, `fetch_failed` or `fetched_too_large`.
    fn fetch(&mut self, task: TaskId, nbytes: u64, holder: WorkerId);
    /// Whether this peer may lend a value of so many bytes, so that it takes up no memory here.
    fn lends(&self, holder: WorkerId, nbytes: u64) -> bool;
    /// Have a peer lend a value; answered by exactly one of these or `not_lent`.
    fn borrow(&mut self, task: TaskId, nbytes: u64, holder: WorkerId);
    /// Receive a value that a client sends; `end_put` says when that is over.
    fn admit(&mut self, put: PutId);
    /// Do not receive a value that a client sends: there will be no room. Nothing more is said of it.
    fn refuse(&mut self, put: PutId);
    /// Whether a running task, or a peer that fetches it, uses a value that is kept.
    fn is_in_use(&self, task: TaskId) -> bool;
    /// Write a value to disk; answered by exactly one `spilled`.
    fn spill(&mut self, task: TaskId);
    /// Drop a value from memory that is on disk.
    fn let_go(&mut self, task: TaskId);
    /// Read a value from disk; answered by exactly one `unspilled`.
    fn unspill(&mut self, task: TaskId, ticket: Ticket);

    /// Report that a task is done.
    fn finished(&mut self, finished: &Finished<'_>);
    /// Report that a task failed.
    fn failed(&mut self, failed: &Failed<'_>);
    /// Report that a task did not run, or that nobody has its result.
    fn returned(&mut self, task: TaskId);
    /// Report that a task is about to start; answered by `announced` when that was written.
    fn announce(&mut self, task: TaskId);
    /// Report that everything before a fence is booked.
    fn fenced(&mut self, number: u64);
    /// Report a copy of a value.
    fn holds(&mut self, task: TaskId, nbytes: u64);
    /// Report that a value that was to be acquired has not come.
    fn missed(&mut self, task: TaskId);
    /// Report that a peer did not hand out a value.
    fn unavailable(&mut self, task: TaskId, holder: WorkerId);
    /// Report that a value which was held is lost.
    fn lost(&mut self, task: TaskId);
    /// Report whether tasks start.
    fn pressure(&mut self, pressure: Pressure);
}
