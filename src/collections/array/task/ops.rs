//! What can be done with one element: operations by name, and a number of any type.
//!
//! These are what a [`Program`](super::program::Program) says; what they do is in [`super::kernels`].

use std::any::Any;

use num_complex::Complex64;
use serde::{Deserialize, Serialize};

use crate::model::numbers::Element;

/// An operation on the elements of one, two or three operands.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Op {
    /// One operand, a result of its type.
    Unary(Unary),
    /// Two operands of one type, a result of it.
    Binary(Binary),
    /// Two operands of one type, a `bool`.
    Compare(Compare),
    /// One operand, a `bool`.
    Test(Test),
    /// A complex operand, an `f64`.
    Part(Part),
    /// A `bool`, and two operands of one type: the first where it is true, else the second.
    Select,
    /// One operand, as the type of the step.
    Cast,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Unary {
    Neg,
    Abs,
    Sign,
    Square,
    Recip,
    Sqrt,
    Cbrt,
    Exp,
    ExpM1,
    Ln,
    Ln1p,
    Log2,
    Log10,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Tanh,
    Floor,
    Ceil,
    Round,
    Trunc,
    Not,
    Conj,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
    Pow,
    Atan2,
    Hypot,
    Minimum,
    Maximum,
    And,
    Or,
    Xor,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Test {
    Nan,
    Infinite,
    Finite,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    Real,
    Imaginary,
    Magnitude,
    Angle,
}

/// A number of any type.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Scalar {
    Bool(bool),
    U8(u8),
    I32(i32),
    I64(i64),
    F32(f32),
    F64(f64),
    Complex64(Complex64),
}

impl Scalar {
    pub(crate) fn of<T: Element>(number: T) -> Self {
        let number: &dyn Any = &number;
        macro_rules! probe {
            ($($name:ident($number:ty)),*) => {
                $(if let Some(number) = number.downcast_ref::<$number>() {
                    return Self::$name(*number);
                })*
            };
        }
        probe!(Bool(bool), U8(u8), I32(i32), I64(i64), F32(f32), F64(f64), Complex64(Complex64));
        unreachable!("`Element` is sealed, and these are all of them")
    }
}
