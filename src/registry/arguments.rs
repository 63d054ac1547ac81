//! The arguments of a call as one byte string, written by the client and read by the task's shim.
//!
//! Each parameter is a tag byte and its payload: a value (its length and flat form), the index of an input, or
//! a value with placeholders of inputs in it. The scheduler passes the bytes on without looking.

use std::sync::Arc;

use serde::Serialize;

use crate::model::error::{ErrorKind, TaskError};
use crate::model::pack::{PackError, pack_flat};
use crate::model::packed::{put_varint, take_varint};
use crate::model::run::Run;
use crate::model::unpack::{InputForms, ListElement, unpack_argument, unpack_list};
use crate::model::value::Data;
use crate::model::{Resident, Value};

const VALUE: u8 = 0;
const INPUT: u8 = 1;
const NESTED: u8 = 2;

/// Appends an argument that is a value.
///
/// # Errors
/// `PackError`; `out` is then as it was.
pub fn put_value<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), PackError> {
    put_packed(out, VALUE, value)
}

/// Appends an argument that is the input with this index.
pub fn put_input(out: &mut Vec<u8>, index: u32) {
    out.push(INPUT);
    put_varint(out, index.into());
}

/// Appends an argument that has placeholders in it, see [`placeholder`](crate::model::pack::placeholder).
///
/// # Errors
/// `PackError`; `out` is then as it was.
pub fn put_nested<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), PackError> {
    put_packed(out, NESTED, value)
}

fn put_packed<T: Serialize + ?Sized>(out: &mut Vec<u8>, tag: u8, value: &T) -> Result<(), PackError> {
    let start = out.len();
    out.push(tag);
    pack_flat(value, out).inspect_err(|_| out.truncate(start))
}

/// What a task is run with.
#[derive(Clone, Copy)]
pub struct Arguments<'a> {
    /// The arguments as the client wrote them.
    pub bytes: &'a [u8],
    /// The values of the call's inputs, in the call's order.
    pub inputs: &'a [Arc<Resident>],
}

/// Takes the arguments one after the other.
pub struct ArgumentReader<'a> {
    rest: &'a [u8],
    forms: InputForms<'a>,
}

/// An argument, or an element of a list argument.
pub enum Held<T> {
    /// It came with the call.
    Owned(T),
    /// It is a value that the worker holds.
    Shared(Arc<T>),
}

/// A list argument.
pub enum HeldList<T> {
    /// In one piece.
    Whole(Held<Vec<T>>),
    /// Put together from inputs and values.
    Elements(Vec<Held<T>>),
}

/// What a slice can be taken of.
pub enum SliceSource<T> {
    /// Numbers in packed memory.
    Run(Run<T>),
    /// A list.
    List(HeldList<T>),
}

/// A slice, and what keeps it.
pub enum HeldSlice<T> {
    /// Numbers in packed memory.
    Run(Run<T>),
    /// A vector.
    Whole(Held<Vec<T>>),
}

enum Argument<'a> {
    Value(&'a [u8]),
    Input(&'a Arc<Resident>),
    Nested(&'a [u8]),
}

impl<'a> ArgumentReader<'a> {
    /// Starts at the first argument.
    pub fn new(arguments: Arguments<'a>) -> Self {
        Self { rest: arguments.bytes, forms: InputForms::new(arguments.inputs) }
    }

    /// The next argument.
    ///
    /// # Errors
    /// `ErrorKind::ArgumentType`, with the parameter's name.
    pub fn take<T: Data>(&mut self, parameter: &'static str) -> Result<Held<T>, TaskError> {
        match self.next(parameter)? {
            Argument::Value(flat) | Argument::Nested(flat) => unpack_argument(flat, &self.forms)
                .map(Held::Owned)
                .map_err(|error| unfit(parameter, &error.to_string())),
            Argument::Input(input) => view(input, parameter),
        }
    }

    /// The next argument, a list; elements that are inputs are not copied.
    ///
    /// # Errors
    /// As [`ArgumentReader::take`].
    pub fn take_list<T: Data>(&mut self, parameter: &'static str) -> Result<HeldList<T>, TaskError> {
        match self.next(parameter)? {
            Argument::Value(flat) => unpack_argument(flat, &self.forms)
                .map(|list| HeldList::Whole(Held::Owned(list)))
                .map_err(|error| unfit(parameter, &error.to_string())),
            Argument::Input(input) => view(input, parameter).map(HeldList::Whole),
            Argument::Nested(flat) => {
                let elements =
                    unpack_list(flat, &self.forms).map_err(|error| unfit(parameter, &error.to_string()))?;
                let inputs = self.forms.inputs();
                let held = elements.into_iter().map(|element| match element {
                    ListElement::Value(value) => Ok(Held::Owned(value)),
                    ListElement::Input(index) => match inputs.get(index as usize) {
                        Some(input) => view(input, parameter),
                        None => Err(missing_input(parameter, index.into(), inputs.len())),
                    },
                });
                held.collect::<Result<_, _>>().map(HeldList::Elements)
            }
        }
    }

    /// The next argument, a list that is only looked at: numbers that arrived packed are seen where they lie, and
    /// anything else is taken as by [`take_list`](Self::take_list).
    ///
    /// # Errors
    /// As [`ArgumentReader::take`].
    pub fn take_slice<T: Data>(&mut self, parameter: &'static str) -> Result<SliceSource<T>, TaskError> {
        let rest = self.rest;
        if let Argument::Input(input) = self.next(parameter)?
            && let Some(run) = input.run()
        {
            return Ok(SliceSource::Run(run));
        }
        self.rest = rest;
        self.take_list(parameter).map(SliceSource::List)
    }

    /// No argument may be left.
    ///
    /// # Errors
    /// `ErrorKind::ArgumentType`.
    pub fn finish(&self) -> Result<(), TaskError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(TaskError::new(
            ErrorKind::ArgumentType,
            "the call has more arguments than the task has parameters",
        ))
    }

    fn next(&mut self, parameter: &'static str) -> Result<Argument<'a>, TaskError> {
        let Some((&tag, mut rest)) = self.rest.split_first() else {
            return Err(unfit(parameter, "the call has fewer arguments than the task has parameters"));
        };
        let number = take_varint(&mut rest).ok_or_else(|| unfit(parameter, "the argument is cut off"))?;
        if tag == INPUT {
            self.rest = rest;
            let inputs = self.forms.inputs();
            let input = usize::try_from(number).ok().and_then(|index| inputs.get(index));
            return input.map(Argument::Input).ok_or_else(|| missing_input(parameter, number, inputs.len()));
        }
        let payload = usize::try_from(number).ok().and_then(|length| rest.split_at_checked(length));
        let Some((payload, rest)) = payload else { return Err(unfit(parameter, "the argument is cut off")) };
        self.rest = rest;
        match tag {
            VALUE => Ok(Argument::Value(payload)),
            NESTED => Ok(Argument::Nested(payload)),
            _ => Err(unfit(parameter, &format!("no argument has tag {tag}"))),
        }
    }
}

impl<T: Data> Held<T> {
    /// Shares it.
    pub fn share(self) -> Arc<T> {
        match self {
            Held::Owned(value) => Arc::new(value),
            Held::Shared(shared) => shared,
        }
    }

    /// Copies a shared value by packing and unpacking it.
    ///
    /// # Errors
    /// `ErrorKind::ArgumentType` if it cannot be packed.
    pub fn repack(self) -> Result<T, TaskError> {
        match self {
            Held::Owned(value) => Ok(value),
            Held::Shared(shared) => {
                let copy = Value::share(shared).pack().map_err(|error| error.to_string());
                let copy =
                    copy.and_then(|packed| crate::model::unpack::unpack(&packed).map_err(|e| e.to_string()));
                copy.map_err(|reason| TaskError::new(ErrorKind::ArgumentType, reason))
            }
        }
    }
}

impl<T> std::ops::Deref for Held<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Held::Owned(value) => value,
            Held::Shared(shared) => shared,
        }
    }
}

impl<T> std::ops::Deref for HeldSlice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            HeldSlice::Run(run) => run,
            HeldSlice::Whole(held) => held,
        }
    }
}

fn view<T: Data>(input: &Arc<Resident>, parameter: &'static str) -> Result<Held<T>, TaskError> {
    input.view().map(Held::Shared).map_err(|error| unfit(parameter, &error.to_string()))
}

fn missing_input(parameter: &'static str, index: u64, count: usize) -> TaskError {
    unfit(parameter, &format!("it is input {index} of the call, which has {count}"))
}

fn unfit(parameter: &'static str, reason: &str) -> TaskError {
    TaskError::new(ErrorKind::ArgumentType, format!("argument `{parameter}` does not fit: {reason}"))
}
