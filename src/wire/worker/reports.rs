//! Readers of the reports of tasks that ended.

use super::super::WireError;
use super::super::batch::BatchReader;
use super::super::columns::ColumnReader;
use super::{Failed, Finished};
use crate::model::TaskId;

/// The tasks of one `Finished`.
#[derive(Debug)]
pub struct FinishedReader<'a> {
    batch: BatchReader<'a>,
    tasks: ColumnReader<'a>,
    durations: ColumnReader<'a>,
    sizes: ColumnReader<'a>,
    values: ColumnReader<'a>,
}

impl<'a> FinishedReader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Result<Self, WireError> {
        let batch = BatchReader::new("finished", body)?;
        Ok(Self {
            tasks: batch.column(0, "finished.tasks"),
            durations: batch.column(1, "finished.durations"),
            sizes: batch.column(2, "finished.sizes"),
            values: batch.column(3, "finished.values"),
            batch,
        })
    }

    /// The next task, or None after the last.
    #[inline]
    pub fn next_finished(&mut self) -> Result<Option<Finished<'a>>, WireError> {
        if !self.batch.advance() {
            return Ok(None);
        }
        let task = TaskId(self.tasks.take_delta()?);
        let duration_us = self.durations.take()?;
        let (nbytes, inline) = match self.sizes.take()? {
            0 => {
                let bytes = self.values.take_bytes()?;
                (bytes.len() as u64, Some(bytes))
            }
            size => (size - 1, None),
        };
        Ok(Some(Finished { task, duration_us, nbytes, inline }))
    }
}

/// The tasks of one `Failed`.
#[derive(Debug)]
pub struct FailedReader<'a> {
    batch: BatchReader<'a>,
    tasks: ColumnReader<'a>,
    durations: ColumnReader<'a>,
    errors: ColumnReader<'a>,
}

impl<'a> FailedReader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Result<Self, WireError> {
        let batch = BatchReader::new("failed", body)?;
        Ok(Self {
            tasks: batch.column(0, "failed.tasks"),
            durations: batch.column(1, "failed.durations"),
            errors: batch.column(2, "failed.errors"),
            batch,
        })
    }

    /// The next task, or None after the last.
    pub fn next_failed(&mut self) -> Result<Option<Failed<'a>>, WireError> {
        if !self.batch.advance() {
            return Ok(None);
        }
        let task = TaskId(self.tasks.take_delta()?);
        let (duration_us, error) = (self.durations.take()?, self.errors.take_bytes()?);
        Ok(Some(Failed { task, duration_us, error }))
    }
}
