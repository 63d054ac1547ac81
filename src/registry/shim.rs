//! What the code calls that `#[dcluster::task]` writes; not meant to be called by hand.
//!
//! A task has no type parameters, so the macro's code knows each type and can pick by method resolution what a
//! generic function cannot: whether a parameter's type is `Clone`, and how an error is shown. The impl for one
//! reference more comes first, and holds only where its bound does.

use std::error::Error;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::TaskDefinition;
use super::arguments::{ArgumentReader, Arguments, Held, HeldList, HeldSlice, SliceSource};
use super::panic::catch_task_panic;
use crate::model::error::{ErrorKind, Location, TaskError};
use crate::model::value::{Data, Value};

/// Runs a task's body; a panic is caught, and an error is given the task's name and position.
///
/// # Errors
/// Whatever keeps the task from having a result.
pub fn run_task(
    definition: &TaskDefinition,
    arguments: Arguments<'_>,
    body: fn(&mut ArgumentReader<'_>) -> Result<Value, TaskError>,
) -> Result<Value, TaskError> {
    let outcome = catch_task_panic(|| body(&mut ArgumentReader::new(arguments)));
    outcome.flatten().map_err(|mut error| {
        error.task = Some(definition.name.to_owned());
        error
            .location
            .get_or_insert_with(|| Location { file: definition.file.to_owned(), line: definition.line });
        error
    })
}

/// Requires that a parameter or result is data, at its own place in the source.
pub const fn assert_data<T: Data>() {}

/// How an owned value of type `T` is made of a shared one.
pub struct Ownership<T>(PhantomData<T>);

impl<T> Ownership<T> {
    /// Holds nothing.
    pub const fn new() -> Self {
        Self(PhantomData)
    }
}

impl<T> Default for Ownership<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// For types that are `Clone`.
pub trait OwnByClone<T> {
    /// The value itself, or a clone.
    fn own(&self, held: Held<T>) -> Result<T, TaskError>;
}

impl<T: Data + Clone> OwnByClone<T> for &Ownership<T> {
    fn own(&self, held: Held<T>) -> Result<T, TaskError> {
        Ok(match held {
            Held::Owned(value) => value,
            Held::Shared(shared) => Arc::unwrap_or_clone(shared),
        })
    }
}

/// For all others.
pub trait OwnByPacking<T> {
    /// The value itself, or a copy made by packing.
    fn own(&self, held: Held<T>) -> Result<T, TaskError>;
}

impl<T: Data> OwnByPacking<T> for Ownership<T> {
    fn own(&self, held: Held<T>) -> Result<T, TaskError> {
        held.repack()
    }
}

/// A list argument as a vector.
pub fn whole<T: Data>(
    list: HeldList<T>,
    own: impl Fn(Held<T>) -> Result<T, TaskError>,
) -> Result<Held<Vec<T>>, TaskError> {
    match list {
        HeldList::Whole(held) => Ok(held),
        HeldList::Elements(elements) => {
            elements.into_iter().map(own).collect::<Result<_, _>>().map(Held::Owned)
        }
    }
}

/// A list argument as a slice.
pub fn slice<T: Data>(
    source: SliceSource<T>,
    own: impl Fn(Held<T>) -> Result<T, TaskError>,
) -> Result<HeldSlice<T>, TaskError> {
    match source {
        SliceSource::Run(run) => Ok(HeldSlice::Run(run)),
        SliceSource::List(list) => whole(list, own).map(HeldSlice::Whole),
    }
}

/// A list argument as a vector of its own.
pub fn own_list<T: Data>(
    list: HeldList<T>,
    own: impl Fn(Held<T>) -> Result<T, TaskError>,
    own_whole: impl Fn(Held<Vec<T>>) -> Result<Vec<T>, TaskError>,
) -> Result<Vec<T>, TaskError> {
    own_whole(whole(list, own)?)
}

/// A list argument as shared elements.
pub fn share_list<T: Data>(
    list: HeldList<T>,
    own_whole: impl Fn(Held<Vec<T>>) -> Result<Vec<T>, TaskError>,
) -> Result<Vec<Arc<T>>, TaskError> {
    match list {
        HeldList::Whole(held) => Ok(own_whole(held)?.into_iter().map(Arc::new).collect()),
        HeldList::Elements(elements) => Ok(elements.into_iter().map(Held::share).collect()),
    }
}

/// How an error of type `E` becomes a task's error.
pub struct ErrorForm<E>(PhantomData<E>);

impl<E> ErrorForm<E> {
    /// The form of this error's type.
    pub const fn of(_error: &E) -> Self {
        Self(PhantomData)
    }
}

/// For errors, boxed errors, `anyhow::Error` and texts.
pub trait ConvertError<E> {
    /// With the chain of causes.
    fn convert(&self, error: E) -> TaskError;
}

impl<E: Into<Box<dyn Error>>> ConvertError<E> for &&ErrorForm<E> {
    fn convert(&self, error: E) -> TaskError {
        let error: Box<dyn Error> = error.into();
        TaskError::returned(&*error)
    }
}

/// For whatever else can be shown as text.
pub trait ConvertText<E> {
    /// Without causes.
    fn convert(&self, error: E) -> TaskError;
}

impl<E: fmt::Display> ConvertText<E> for &ErrorForm<E> {
    fn convert(&self, error: E) -> TaskError {
        TaskError::new(ErrorKind::Error, error.to_string())
    }
}

/// For the rest: never called, as the bound of its method does not hold; it is there for the message.
pub trait ConvertUnshown<E> {
    /// Does not compile.
    fn convert(&self, error: E) -> TaskError
    where
        E: ShownError;
}

impl<E> ConvertUnshown<E> for ErrorForm<E> {
    fn convert(&self, error: E) -> TaskError
    where
        E: ShownError,
    {
        TaskError::new(ErrorKind::Error, error.text())
    }
}

/// An error that can be shown.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a task: it cannot be shown",
    label = "a task's error implements `std::error::Error`, or at least `std::fmt::Display`"
)]
pub trait ShownError {
    /// The error as text.
    fn text(&self) -> String;
}

#[diagnostic::do_not_recommend]
impl<E: fmt::Display> ShownError for E {
    fn text(&self) -> String {
        self.to_string()
    }
}
