//! Readers of what a worker is to do: tasks to run, values to acquire.

use smallvec::SmallVec;

use super::super::WireError;
use super::super::batch::BatchReader;
use super::super::columns::ColumnReader;
use super::{
    Assignment, Caution, Input, SOURCE_INLINE, SOURCE_LAST_USE, SOURCE_LOCAL, SOURCE_REMOTE, Source,
};
use crate::model::{FunctionId, TaskId, WorkerId};

/// The tasks of one `Assign`.
#[derive(Debug)]
pub struct AssignReader<'a> {
    batch: BatchReader<'a>,
    tasks: ColumnReader<'a>,
    runs: ColumnReader<'a>,
    arguments: ColumnReader<'a>,
    inputs: ColumnReader<'a>,
    next_run: Option<u64>,
    function: FunctionId,
    priority: i32,
    caution: Caution,
}

impl<'a> AssignReader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Result<Self, WireError> {
        let batch = BatchReader::new("assign", body)?;
        let mut reader = Self {
            tasks: batch.column(0, "assign.tasks"),
            runs: batch.column(1, "assign.runs"),
            arguments: batch.column(2, "assign.arguments"),
            inputs: batch.column(3, "assign.inputs"),
            batch,
            next_run: None,
            function: FunctionId(0),
            priority: 0,
            caution: Caution::None,
        };
        reader.next_run = Some(reader.runs.take_delta()?);
        Ok(reader)
    }

    /// The next task, or None after the last.
    #[inline]
    pub fn next_assignment(&mut self) -> Result<Option<Assignment<'a>>, WireError> {
        if !self.batch.advance() {
            return Ok(None);
        }
        let task = self.tasks.take_delta()?;
        if self.next_run == Some(task) {
            self.start_run()?;
        }
        let arguments = self.arguments.take_bytes()?;
        let count = self.inputs.take()?;
        let mut inputs = SmallVec::new();
        for _ in 0..count {
            inputs.push(self.next_input()?);
        }
        Ok(Some(Assignment {
            task: TaskId(task),
            function: self.function,
            priority: self.priority,
            caution: self.caution,
            arguments,
            inputs,
        }))
    }

    fn start_run(&mut self) -> Result<(), WireError> {
        let function = self.runs.take_raw(8)?;
        self.function = FunctionId(u64::from_le_bytes(function.try_into().expect("8 bytes were taken")));
        let priority = self.runs.take_signed()?;
        self.priority = i32::try_from(priority)
            .map_err(|_| WireError::OutOfRange { column: "assign.runs", value: priority as u64 })?;
        self.caution = match self.runs.take()? {
            0 => Caution::None,
            1 => Caution::Announce,
            value => return Err(WireError::OutOfRange { column: "assign.runs", value }),
        };
        self.next_run = if self.runs.is_empty() { None } else { Some(self.runs.take_delta()?) };
        Ok(())
    }

    fn next_input(&mut self) -> Result<Input<'a>, WireError> {
        let inputs = &mut self.inputs;
        let task = TaskId(inputs.take_delta()?);
        let source = match inputs.take()? {
            SOURCE_INLINE => Source::Inline(inputs.take_bytes()?),
            SOURCE_LOCAL => Source::Local,
            SOURCE_LAST_USE => Source::LastUse,
            SOURCE_REMOTE => {
                let nbytes = inputs.take()?;
                Source::Remote { nbytes, holders: take_holders(inputs)? }
            }
            value => return Err(WireError::OutOfRange { column: "assign.inputs", value }),
        };
        Ok(Input { task, source })
    }
}

/// A value that a worker is to have a copy of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acquisition {
    /// Its name.
    pub task: TaskId,
    /// Its packed size.
    pub nbytes: u64,
    /// Who has it, in the order in which they are asked; not none.
    pub holders: SmallVec<[WorkerId; 4]>,
}

/// The values of one `Acquire`.
#[derive(Debug)]
pub struct AcquireReader<'a> {
    batch: BatchReader<'a>,
    tasks: ColumnReader<'a>,
    sizes: ColumnReader<'a>,
    holders: ColumnReader<'a>,
}

impl<'a> AcquireReader<'a> {
    pub(super) fn new(body: &'a [u8]) -> Result<Self, WireError> {
        let batch = BatchReader::new("acquire", body)?;
        Ok(Self {
            tasks: batch.column(0, "acquire.tasks"),
            sizes: batch.column(1, "acquire.sizes"),
            holders: batch.column(2, "acquire.holders"),
            batch,
        })
    }

    /// The next value, or None after the last.
    pub fn next_acquisition(&mut self) -> Result<Option<Acquisition>, WireError> {
        if !self.batch.advance() {
            return Ok(None);
        }
        let (task, nbytes) = (TaskId(self.tasks.take_delta()?), self.sizes.take()?);
        let holders = take_holders(&mut self.holders)?;
        match holders.is_empty() {
            true => Err(WireError::OutOfRange { column: "acquire.holders", value: 0 }),
            false => Ok(Some(Acquisition { task, nbytes, holders })),
        }
    }
}

/// Workers that have a value: how many, then each.
#[inline]
fn take_holders(column: &mut ColumnReader<'_>) -> Result<SmallVec<[WorkerId; 4]>, WireError> {
    let count = column.take()?;
    let mut holders = SmallVec::new();
    for _ in 0..count {
        holders.push(WorkerId(column.take_u32()?));
    }
    Ok(holders)
}
