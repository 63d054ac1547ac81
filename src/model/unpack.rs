//! Unpacking: a [`Packed`] in, any serde value out; bytes may come from anywhere and are believed nothing.
//!
//! Counts are checked against the bytes that are there before anything is allocated, every buffer is used
//! once and in order, nesting is limited, and nothing may be left over. A task argument may hold placeholders
//! of the task's inputs; decoding goes on in the input's own packed form there ([`InputForms`]).
//! The form is described in [`pack`](super::pack); sequences are in `unpack/sequence.rs`.

mod deserializer;
mod reader;
mod sequence;
#[cfg(test)]
mod tests;

use std::any::type_name;
use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use serde::de::{self, DeserializeOwned};
use thiserror::Error;

use self::reader::{Form, Unpacker, name_of};
use super::element;
use super::packed::{FlatForm, Packed};
use super::resident::Resident;

/// Bytes that are not a value of the type asked for.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
#[error("cannot unpack a value of type `{type_name}`: {reason}")]
pub struct UnpackError {
    /// The type that was asked for.
    pub type_name: &'static str,
    /// What does not fit.
    pub reason: String,
}

/// Unpacks a value.
///
/// # Errors
/// `UnpackError` if the bytes are damaged, or are those of a value of another shape.
pub fn unpack<T: DeserializeOwned + 'static>(packed: &Packed) -> Result<T, UnpackError> {
    let whole = || -> Result<T, Fault> {
        if let [buffer] = packed.buffers.as_slice() {
            let mut unpacker = Unpacker::new(Form::of(packed), None, 0);
            if let Some(raw) = unpacker.raw_marker()?
                && unpacker.at == packed.head.len()
                && let Some(value) = element::value_from(raw.kind, buffer)
            {
                return Ok(value);
            }
        }
        from_form(Form::of(packed), None)
    };
    whole().map_err(Fault::into_error::<T>)
}

/// Unpacks a task argument from its flat form; placeholders in it stand for inputs.
///
/// # Errors
/// As [`unpack`], and if an input is missing or cannot itself be packed or unpacked.
pub fn unpack_argument<T: DeserializeOwned>(flat: &[u8], inputs: &InputForms<'_>) -> Result<T, UnpackError> {
    let argument = || -> Result<T, Fault> {
        let flat = FlatForm::decode(flat).map_err(de::Error::custom)?;
        from_form(Form::of_flat(&flat), Some(inputs))
    };
    argument().map_err(Fault::into_error::<T>)
}

/// The elements of a list argument, each a placeholder's input or a value of its own.
///
/// # Errors
/// `UnpackError` if it is not a list, or if an element is not a `T`.
pub fn unpack_list<T: DeserializeOwned>(
    flat: &[u8],
    inputs: &InputForms<'_>,
) -> Result<Vec<ListElement<T>>, UnpackError> {
    let list = || -> Result<Vec<ListElement<T>>, Fault> {
        let flat = FlatForm::decode(flat).map_err(de::Error::custom)?;
        let mut unpacker = Unpacker::new(Form::of_flat(&flat), Some(inputs), 0);
        if unpacker.raw_marker()?.is_some() {
            let values: Vec<T> = from_form(Form::of_flat(&flat), Some(inputs))?;
            return Ok(values.into_iter().map(ListElement::Value).collect());
        }
        let marker = unpacker.marker()?;
        let Some(count) = unpacker.array_len(marker)? else {
            return Err(Fault(format!("a list is expected, and {} is there", name_of(marker))));
        };
        let mut elements = Vec::new();
        for _ in 0..count {
            elements.push(match unpacker.input_marker()? {
                Some(index) => ListElement::Input(index),
                None => ListElement::Value(T::deserialize(&mut unpacker)?),
            });
        }
        unpacker.finish()?;
        Ok(elements)
    };
    list().map_err(Fault::into_error::<Vec<T>>)
}

/// An element of a list argument.
#[derive(Debug, PartialEq, Eq)]
pub enum ListElement<T> {
    /// The input with this index.
    Input(u32),
    /// A value that is in the argument itself.
    Value(T),
}

/// The inputs of a task, and the packed forms made of them on demand.
pub struct InputForms<'a> {
    inputs: &'a [Arc<Resident>],
    packed: Box<[OnceCell<Packed>]>,
}

impl<'a> InputForms<'a> {
    /// Nothing is packed yet.
    pub fn new(inputs: &'a [Arc<Resident>]) -> Self {
        Self { inputs, packed: inputs.iter().map(|_| OnceCell::new()).collect() }
    }

    /// The inputs themselves.
    pub fn inputs(&self) -> &'a [Arc<Resident>] {
        self.inputs
    }

    fn packed(&self, index: u32) -> Result<&Packed, Fault> {
        let (Some(input), Some(cell)) = (self.inputs.get(index as usize), self.packed.get(index as usize))
        else {
            return Err(Fault(format!("input {index} is named, and there are {}", self.inputs.len())));
        };
        if let Some(packed) = cell.get() {
            return Ok(packed);
        }
        let packed = input.packed().map_err(|error| Fault(error.to_string()))?;
        Ok(cell.get_or_init(|| packed))
    }
}

fn from_form<T: DeserializeOwned>(form: Form<'_>, inputs: Option<&InputForms<'_>>) -> Result<T, Fault> {
    let mut unpacker = Unpacker::new(form, inputs, 0);
    let value = T::deserialize(&mut unpacker)?;
    unpacker.finish()?;
    Ok(value)
}

/// Why unpacking stopped.
#[derive(Debug)]
pub(super) struct Fault(String);

impl Fault {
    fn into_error<T: ?Sized>(self) -> UnpackError {
        UnpackError { type_name: type_name::<T>(), reason: self.0 }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<M: fmt::Display>(message: M) -> Self {
        Fault(message.to_string())
    }
}
