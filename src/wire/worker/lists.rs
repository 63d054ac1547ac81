//! Readers of messages that are lists: of tasks, of numbers, of tasks with a number each.

use super::super::WireError;
use super::super::batch::BatchReader;
use super::super::columns::ColumnReader;
use crate::model::TaskId;

/// A list of tasks.
#[derive(Debug)]
pub struct TaskReader<'a> {
    batch: BatchReader<'a>,
    tasks: ColumnReader<'a>,
}

impl<'a> TaskReader<'a> {
    pub(super) fn new(message: &'static str, body: &'a [u8]) -> Result<Self, WireError> {
        let batch = BatchReader::new(message, body)?;
        let tasks = batch.column(0, "tasks");
        Ok(Self { batch, tasks })
    }

    /// The next task, or None after the last.
    #[inline]
    pub fn next_task(&mut self) -> Result<Option<TaskId>, WireError> {
        if !self.batch.advance() {
            return Ok(None);
        }
        self.tasks.take_delta().map(|id| Some(TaskId(id)))
    }
}

/// A list of numbers.
#[derive(Debug)]
pub struct NumberReader<'a> {
    batch: BatchReader<'a>,
    numbers: ColumnReader<'a>,
}

impl<'a> NumberReader<'a> {
    pub(super) fn new(message: &'static str, body: &'a [u8]) -> Result<Self, WireError> {
        let batch = BatchReader::new(message, body)?;
        let numbers = batch.column(0, "numbers");
        Ok(Self { batch, numbers })
    }

    /// The next number, or None after the last.
    pub fn next_number(&mut self) -> Result<Option<u64>, WireError> {
        if !self.batch.advance() {
            return Ok(None);
        }
        self.numbers.take_delta().map(Some)
    }
}

/// Tasks, each with a number: a size or a worker.
#[derive(Debug)]
pub struct PairReader<'a> {
    batch: BatchReader<'a>,
    tasks: ColumnReader<'a>,
    numbers: ColumnReader<'a>,
}

impl<'a> PairReader<'a> {
    pub(super) fn new(message: &'static str, body: &'a [u8]) -> Result<Self, WireError> {
        let batch = BatchReader::new(message, body)?;
        let (tasks, numbers) = (batch.column(0, "tasks"), batch.column(1, "numbers"));
        Ok(Self { batch, tasks, numbers })
    }

    /// The next pair, or None after the last.
    pub fn next_pair(&mut self) -> Result<Option<(TaskId, u64)>, WireError> {
        if !self.batch.advance() {
            return Ok(None);
        }
        Ok(Some((TaskId(self.tasks.take_delta()?), self.numbers.take()?)))
    }
}
