//! A future: what a client holds of a result that may not be there yet.

use std::fmt;
use std::marker::PhantomData;

use super::call::Input;

/// The result of a submitted call, wherever it is.
pub struct Future<T> {
    input: Input,
    result: PhantomData<fn() -> T>,
}

impl<T> Future<T> {
    /// A future of what this input refers to.
    pub fn of(input: Input) -> Self {
        Self { input, result: PhantomData }
    }

    /// The reference that a call holds if this future is one of its arguments.
    pub fn input(&self) -> Input {
        self.input.clone()
    }
}

impl<T> fmt::Debug for Future<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<Future: {}>", self.input.key)
    }
}
