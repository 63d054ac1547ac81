//! What may be given for a task's parameter: a value, a future of it, or a container of futures.
//!
//! Values are packed on the spot; a future leaves its index among the call's inputs. Futures deeper inside a value
//! take a [`nested`] argument, which is not checked against the parameter's type until the task runs.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use super::call::Input;
use super::future::Future;
use crate::model::pack::{PackError, placeholder};
use crate::model::value::Data;
use crate::registry::arguments::{put_input, put_nested, put_value};

/// What may be given for a parameter of type `P`.
///
/// That is a `P`, a reference to one, a future of one, and, where `P` is a container, the same container of futures.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be given for a task parameter of type `{P}`",
    label = "expected `{P}`, a reference to it, or a future of it",
    note = "a list, tuple, map or `Option` may hold futures in place of its elements; for futures deeper inside a value there is `dcluster::nested(value)`"
)]
pub trait IntoArgument<P> {
    /// Adds itself to the arguments of a call.
    fn put(self, arguments: &mut ArgumentList);
}

/// The arguments of a call under construction.
#[derive(Debug, Default)]
pub struct ArgumentList {
    bytes: Vec<u8>,
    inputs: Vec<Input>,
    /// The first argument's that could not be packed.
    error: Option<PackError>,
}

impl ArgumentList {
    /// No arguments.
    pub fn new() -> Self {
        Self { bytes: Vec::with_capacity(32), inputs: Vec::new(), error: None }
    }

    /// Adds a value.
    pub fn put_value<T: Serialize + ?Sized>(&mut self, value: &T) {
        let outcome = put_value(&mut self.bytes, value);
        self.note(outcome);
    }

    /// Adds a future's value.
    pub fn put_input(&mut self, input: Input) {
        put_input(&mut self.bytes, self.inputs.len() as u32);
        self.inputs.push(input);
    }

    /// Adds a value that has futures in it.
    pub fn put_nested<S: Serialize + ?Sized>(&mut self, value: &S) {
        let outer = SCOPE.replace(Some(std::mem::take(&mut self.inputs)));
        let outcome = put_nested(&mut self.bytes, value);
        self.inputs = SCOPE.replace(outer).unwrap_or_default();
        self.note(outcome);
    }

    /// Whether there are no futures among them.
    pub(crate) fn has_no_inputs(&self) -> bool {
        self.inputs.is_empty()
    }

    /// The packed arguments and the futures among them.
    ///
    /// # Errors
    /// `PackError` if one of them could not be packed.
    pub fn into_parts(self) -> Result<(Vec<u8>, Vec<Input>), PackError> {
        match self.error {
            Some(error) => Err(error),
            None => Ok((self.bytes, self.inputs)),
        }
    }

    fn note(&mut self, outcome: Result<(), PackError>) {
        if let Err(error) = outcome {
            self.error.get_or_insert(error);
        }
    }
}

thread_local! {
    /// The inputs found so far, while an argument with futures in it is packed.
    static SCOPE: RefCell<Option<Vec<Input>>> = const { RefCell::new(None) };
}

/// Inside an argument, a placeholder of the future's value.
impl<T, M> Serialize for Future<T, M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.input().serialize(serializer)
    }
}

/// Inside an argument, a placeholder of the value; an error anywhere else.
impl Serialize for Input {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let index = SCOPE.with_borrow_mut(|scope| {
            let inputs = scope.as_mut()?;
            inputs.push(self.clone());
            Some(inputs.len() as u32 - 1)
        });
        let Some(index) = index else {
            return Err(serde::ser::Error::custom(
                "a future can be packed as a task's argument only; wait for its result, or pass it to the task itself",
            ));
        };
        placeholder(index, serializer)
    }
}

/// A value of any type that has futures in any place, see [`nested`].
#[derive(Debug)]
pub struct Nested<S>(S);

/// Any serde value with futures in any place, as an argument for a parameter of any type.
///
/// The worker puts the results in place of the futures; whether the whole then is what the parameter wants is seen
/// when the task runs.
pub fn nested<S: Serialize>(value: S) -> Nested<S> {
    Nested(value)
}

impl<P, S: Serialize> IntoArgument<P> for Nested<S> {
    fn put(self, arguments: &mut ArgumentList) {
        arguments.put_nested(&self.0);
    }
}

impl<P: Data> IntoArgument<P> for P {
    fn put(self, arguments: &mut ArgumentList) {
        arguments.put_value(&self);
    }
}

impl<P: Data> IntoArgument<P> for &P {
    fn put(self, arguments: &mut ArgumentList) {
        arguments.put_value(self);
    }
}

impl IntoArgument<String> for &str {
    fn put(self, arguments: &mut ArgumentList) {
        arguments.put_value(self);
    }
}

impl IntoArgument<PathBuf> for &Path {
    fn put(self, arguments: &mut ArgumentList) {
        arguments.put_value(self);
    }
}

impl<T: Data> IntoArgument<Vec<T>> for &[T] {
    fn put(self, arguments: &mut ArgumentList) {
        arguments.put_value(self);
    }
}

impl<T: Data, const N: usize> IntoArgument<Vec<T>> for [T; N] {
    fn put(self, arguments: &mut ArgumentList) {
        arguments.put_value(self.as_slice());
    }
}

impl<T: Data, const N: usize> IntoArgument<Vec<T>> for &[T; N] {
    fn put(self, arguments: &mut ArgumentList) {
        arguments.put_value(self.as_slice());
    }
}

impl<T, M> IntoArgument<T> for Future<T, M> {
    fn put(self, arguments: &mut ArgumentList) {
        arguments.put_input(self.input());
    }
}

impl<T, M> IntoArgument<T> for &Future<T, M> {
    fn put(self, arguments: &mut ArgumentList) {
        arguments.put_input(self.input());
    }
}

/// Containers of futures: packed with placeholders in them.
macro_rules! containers {
    ($([$($generics:tt)*] $given:ty => $parameter:ty;)*) => {
        $(
            #[diagnostic::do_not_recommend]
            impl<$($generics)*> IntoArgument<$parameter> for $given {
                fn put(self, arguments: &mut ArgumentList) {
                    arguments.put_nested(&self);
                }
            }
        )*
    };
}

containers! {
    [T, M] Vec<Future<T, M>> => Vec<T>;
    [T, M] Vec<&Future<T, M>> => Vec<T>;
    [T, M] &Vec<Future<T, M>> => Vec<T>;
    [T, M] &[Future<T, M>] => Vec<T>;
    [T, M] &[&Future<T, M>] => Vec<T>;
    [T, M] Option<Future<T, M>> => Option<T>;
    [T, M] Option<&Future<T, M>> => Option<T>;
    [T, M] &Option<Future<T, M>> => Option<T>;
    [K: Serialize + Eq + Hash, V, M] HashMap<K, Future<V, M>> => HashMap<K, V>;
    [K: Serialize + Eq + Hash, V, M] &HashMap<K, Future<V, M>> => HashMap<K, V>;
    [K: Serialize + Ord, V, M] BTreeMap<K, Future<V, M>> => BTreeMap<K, V>;
    [K: Serialize + Ord, V, M] &BTreeMap<K, Future<V, M>> => BTreeMap<K, V>;
    [A, B, M] (Future<A, M>, Future<B, M>) => (A, B);
    [A, B, M] (&Future<A, M>, &Future<B, M>) => (A, B);
    [A, B, M] &(Future<A, M>, Future<B, M>) => (A, B);
    [A, B, C, M] (Future<A, M>, Future<B, M>, Future<C, M>) => (A, B, C);
    [A, B, C, M] (&Future<A, M>, &Future<B, M>, &Future<C, M>) => (A, B, C);
    [A, B, C, D, M] (Future<A, M>, Future<B, M>, Future<C, M>, Future<D, M>) => (A, B, C, D);
    [A, B, C, D, M] (&Future<A, M>, &Future<B, M>, &Future<C, M>, &Future<D, M>) => (A, B, C, D);
}

/// Arrays of futures, for a list or for an array of the same length.
macro_rules! arrays {
    ($([$($generics:tt)*] $given:ty => $parameter:ty;)*) => {
        $(
            #[diagnostic::do_not_recommend]
            impl<$($generics)*> IntoArgument<$parameter> for $given {
                fn put(self, arguments: &mut ArgumentList) {
                    arguments.put_nested(self.as_slice());
                }
            }
        )*
    };
}

arrays! {
    [T, M, const N: usize] [Future<T, M>; N] => Vec<T>;
    [T, M, const N: usize] [&Future<T, M>; N] => Vec<T>;
    [T, M, const N: usize] &[Future<T, M>; N] => Vec<T>;
    [T, M, const N: usize] [Future<T, M>; N] => [T; N];
    [T, M, const N: usize] [&Future<T, M>; N] => [T; N];
    [T, M, const N: usize] &[Future<T, M>; N] => [T; N];
}
