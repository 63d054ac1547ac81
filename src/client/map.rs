//! The inputs of a `map`: one sequence, or a tuple of sequences that are zipped.
//!
//! `map(inc::call, xs)` calls with each `x`; `map(add::call, (xs, ys))` with each pair, until the shorter
//! sequence ends.

use super::call::Call;

/// What a function can be mapped over.
#[diagnostic::on_unimplemented(
    message = "cannot map this function over `{Self}`",
    note = "give a sequence to a function of one parameter: `map(inc::call, xs)`",
    note = "give a tuple of sequences to one of several parameters: `map(add::call, (xs, ys))`"
)]
pub trait Inputs<F, Arity> {
    /// The result of one call.
    type Output;

    /// The calls, made one by one.
    #[doc(hidden)]
    fn calls(self, function: F) -> impl Iterator<Item = Call<Self::Output>>;
}

/// One sequence.
#[doc(hidden)]
pub struct One;

impl<F, T, I> Inputs<F, One> for I
where
    I: IntoIterator,
    F: FnMut(I::Item) -> Call<T>,
{
    type Output = T;

    fn calls(self, function: F) -> impl Iterator<Item = Call<T>> {
        self.into_iter().map(function)
    }
}

macro_rules! zipped {
    ($($arity:ident $tuple:tt;)+) => { $(zipped!(@ $arity $tuple);)+ };
    (@ $arity:ident ($($name:ident $value:ident),+)) => {
        #[doc(hidden)]
        pub struct $arity;

        impl<Function, Output, $($name: IntoIterator),+> Inputs<Function, $arity> for ($($name,)+)
        where
            Function: FnMut($($name::Item),+) -> Call<Output>,
        {
            type Output = Output;

            fn calls(self, mut function: Function) -> impl Iterator<Item = Call<Output>> {
                let ($($value,)+) = self;
                $(let mut $value = $value.into_iter();)+
                std::iter::from_fn(move || Some(function($($value.next()?),+)))
            }
        }
    };
}

zipped! {
    Two (A a, B b);
    Three (A a, B b, C c);
    Four (A a, B b, C c, D d);
    Five (A a, B b, C c, D d, E e);
    Six (A a, B b, C c, D d, E e, F f);
}
