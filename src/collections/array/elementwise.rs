//! Elementwise operations: arithmetic, comparisons, masks, casts; with broadcasting, between arrays and numbers.

use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Rem, Sub};
use std::sync::Arc;

use num_complex::Complex64;
use smallvec::{SmallVec, smallvec};

use super::Array;
use super::graph::grid::{Bounds, Grid, whole};
use super::graph::node::{Kind, Node};
use super::task::ops::{Binary, Compare, Op, Unary};
use crate::model::block::Shape;
use crate::model::numbers::{Dtype, Element};

/// An element type that can be summed: all of them. Says what sums and means of it are.
pub trait Numeric: Element {
    /// The type of sums and products, as NumPy chooses it, with `i64` for every integer.
    type Sum: Number;
    /// The type of means.
    type Mean: Number;
    #[doc(hidden)]
    const WIDE: Dtype;
    #[doc(hidden)]
    const WIDE_MEAN: Dtype;
}

/// A type of numbers with arithmetic.
pub trait Number: Numeric {
    /// One.
    const ONE: Self;

    #[doc(hidden)]
    fn steps(start: Self, stop: Self, step: Self) -> Result<usize, String>;
}

/// A type with an order: truth values, where false is the smaller one, and real numbers.
pub trait Ordered: Numeric {}

/// A type of numbers with an order.
pub trait Real: Number + Ordered + PartialOrd {}

/// `f32` and `f64`.
pub trait Float: Real {}

macro_rules! numbers {
    ($($number:ty => $sum:ty, $mean:ty, $wide:ident, $wide_mean:ident;)*) => {
        $(
            impl Numeric for $number {
                type Sum = $sum;
                type Mean = $mean;
                const WIDE: Dtype = Dtype::$wide;
                const WIDE_MEAN: Dtype = Dtype::$wide_mean;
            }
        )*
    };
}

numbers! {
    bool => i64, f64, I64, F64;
    u8 => i64, f64, I64, F64;
    i32 => i64, f64, I64, F64;
    i64 => i64, f64, I64, F64;
    f32 => f32, f32, F64, F64;
    f64 => f64, f64, F64, F64;
    Complex64 => Complex64, Complex64, Complex64, Complex64;
}

macro_rules! real_numbers {
    ($steps:ident: $($number:ty)*) => {
        $(
            impl Number for $number {
                const ONE: Self = 1 as $number;

                fn steps(start: Self, stop: Self, step: Self) -> Result<usize, String> {
                    $steps(start.into(), stop.into(), step.into())
                        .ok_or_else(|| format!("there are no steps of {step} from {start} to {stop}"))
                }
            }

            impl Ordered for $number {}
            impl Real for $number {}
        )*
    };
}

real_numbers!(steps_of_integers: u8 i32 i64);
real_numbers!(steps_of_floats: f32 f64);

/// (The difference of two `i64` is no `i64`, and not every one is an `f64`.)
fn steps_of_integers(start: i128, stop: i128, step: i128) -> Option<usize> {
    let (distance, step) = if step < 0 { (start - stop, -step) } else { (stop - start, step) };
    let whole = distance.max(0).checked_div(step)?;
    usize::try_from(whole + i128::from(distance.max(0) % step != 0)).ok()
}

fn steps_of_floats(start: f64, stop: f64, step: f64) -> Option<usize> {
    let count = ((stop - start) / step).ceil();
    count.is_finite().then_some(count.max(0.0) as usize)
}

impl Ordered for bool {}

impl Float for f32 {}
impl Float for f64 {}

impl Number for Complex64 {
    const ONE: Self = Complex64::new(1.0, 0.0);

    fn steps(start: Self, stop: Self, step: Self) -> Result<usize, String> {
        f64::steps(start.re, stop.re, step.re)
    }
}

impl<T: Element> Array<T> {
    /// Whether elements are equal.
    #[track_caller]
    pub fn equal(&self, other: impl Into<Array<T>>) -> Array<bool> {
        self.compared(Compare::Eq, &other.into())
    }

    /// Whether elements differ.
    #[track_caller]
    pub fn not_equal(&self, other: impl Into<Array<T>>) -> Array<bool> {
        self.compared(Compare::Ne, &other.into())
    }

    #[track_caller]
    fn compared(&self, op: Compare, other: &Array<T>) -> Array<bool> {
        self.with(other, |x, y| apply(Dtype::Bool, Op::Compare(op), smallvec![x.clone(), y.clone()]))
    }

    #[track_caller]
    pub(super) fn unary(&self, op: Unary) -> Self {
        self.then(|x| apply(T::DTYPE, Op::Unary(op), smallvec![x.clone()]))
    }

    #[track_caller]
    pub(super) fn binary(&self, op: Binary, other: &Self) -> Self {
        self.with(other, |x, y| apply(T::DTYPE, Op::Binary(op), smallvec![x.clone(), y.clone()]))
    }

    /// The elements as another type, as Rust's `as` converts: floats are cut off towards zero and kept in range,
    /// integers wrap around, complex numbers lose their imaginary part, everything but zero is true.
    #[track_caller]
    pub fn cast<U: Element>(&self) -> Array<U> {
        self.then(|x| cast(x, U::DTYPE))
    }
}

impl<T: Ordered> Array<T> {
    /// Whether elements are less than the others.
    #[track_caller]
    pub fn lt(&self, other: impl Into<Array<T>>) -> Array<bool> {
        self.compared(Compare::Lt, &other.into())
    }

    /// Whether elements are less than or equal to the others.
    #[track_caller]
    pub fn le(&self, other: impl Into<Array<T>>) -> Array<bool> {
        self.compared(Compare::Le, &other.into())
    }

    /// Whether elements are greater than the others.
    #[track_caller]
    pub fn gt(&self, other: impl Into<Array<T>>) -> Array<bool> {
        self.compared(Compare::Gt, &other.into())
    }

    /// Whether elements are greater than or equal to the others.
    #[track_caller]
    pub fn ge(&self, other: impl Into<Array<T>>) -> Array<bool> {
        self.compared(Compare::Ge, &other.into())
    }

    /// The smaller of two elements; NaN if one of them is.
    #[track_caller]
    pub fn minimum(&self, other: impl Into<Array<T>>) -> Self {
        self.binary(Binary::Minimum, &other.into())
    }

    /// The larger of two elements; NaN if one of them is.
    #[track_caller]
    pub fn maximum(&self, other: impl Into<Array<T>>) -> Self {
        self.binary(Binary::Maximum, &other.into())
    }

    /// Elements outside of an interval are replaced by its ends.
    #[track_caller]
    pub fn clip(&self, low: T, high: T) -> Self {
        self.maximum(low).minimum(high)
    }
}

impl Array<bool> {
    /// NumPy's `where`: elements of `yes` where this mask is true, and of `no` where it is false.
    #[track_caller]
    pub fn choose<T: Element>(&self, yes: impl Into<Array<T>>, no: impl Into<Array<T>>) -> Array<T> {
        let (yes, no) = (yes.into(), no.into());
        let pair: Array<T> = yes.with(&no, |yes, _| Ok(yes.clone()));
        match (&pair.node, &no.node) {
            (Ok(yes), Ok(no)) => self
                .then(|mask| apply(T::DTYPE, Op::Select, smallvec![mask.clone(), yes.clone(), no.clone()])),
            _ => pair,
        }
    }
}

/// An operation on operands that are broadcast to a common shape, cut as the operand with the most chunks.
pub(super) fn apply(dtype: Dtype, op: Op, of: SmallVec<[Arc<Node>; 3]>) -> Result<Arc<Node>, String> {
    let grid = broadcast(&of)?;
    Ok(Node::new(dtype, grid, Kind::Apply { op, of }))
}

pub(super) fn cast(of: &Arc<Node>, dtype: Dtype) -> Result<Arc<Node>, String> {
    if of.dtype == dtype {
        return Ok(of.clone());
    }
    apply(dtype, Op::Cast, smallvec![of.clone()])
}

fn broadcast(of: &[Arc<Node>]) -> Result<Grid, String> {
    let ndim = of.iter().map(|node| node.shape.len()).max().unwrap_or(0);
    let mut axes: Vec<Bounds> = Vec::with_capacity(ndim);
    for axis in 0..ndim {
        let mut chosen: Bounds = whole(1);
        let mut extent = 1;
        for node in of {
            let Some(own) = (axis + node.shape.len()).checked_sub(ndim) else { continue };
            let other = node.shape[own];
            if other == 1 {
                continue;
            }
            if extent != 1 && extent != other {
                let shapes: Vec<&Shape> = of.iter().map(|node| &node.shape).collect();
                return Err(format!(
                    "shapes {shapes:?} do not fit together: counted from the last axis, extents are equal or 1"
                ));
            }
            if extent == 1 || node.grid.axis(own).len() > chosen.len() {
                chosen = node.grid.axis(own).clone();
            }
            extent = other;
        }
        axes.push(chosen);
    }
    Grid::of_bounds(axes)
}

/// An operator between arrays, references to them, and numbers on the right.
macro_rules! operators {
    ($($trait:ident $method:ident $op:ident $bound:ident;)*) => {
        $(
            impl<T: $bound> $trait<Array<T>> for Array<T> {
                type Output = Array<T>;

                #[track_caller]
                fn $method(self, other: Array<T>) -> Array<T> {
                    self.binary(Binary::$op, &other)
                }
            }

            impl<T: $bound> $trait<&Array<T>> for Array<T> {
                type Output = Array<T>;

                #[track_caller]
                fn $method(self, other: &Array<T>) -> Array<T> {
                    self.binary(Binary::$op, other)
                }
            }

            impl<T: $bound> $trait<Array<T>> for &Array<T> {
                type Output = Array<T>;

                #[track_caller]
                fn $method(self, other: Array<T>) -> Array<T> {
                    self.binary(Binary::$op, &other)
                }
            }

            impl<T: $bound> $trait<&Array<T>> for &Array<T> {
                type Output = Array<T>;

                #[track_caller]
                fn $method(self, other: &Array<T>) -> Array<T> {
                    self.binary(Binary::$op, other)
                }
            }

            impl<T: $bound> $trait<T> for Array<T> {
                type Output = Array<T>;

                #[track_caller]
                fn $method(self, other: T) -> Array<T> {
                    self.binary(Binary::$op, &other.into())
                }
            }

            impl<T: $bound> $trait<T> for &Array<T> {
                type Output = Array<T>;

                #[track_caller]
                fn $method(self, other: T) -> Array<T> {
                    self.binary(Binary::$op, &other.into())
                }
            }
        )*
    };
}

operators! {
    Add add Add Number;
    Sub sub Sub Number;
    Mul mul Mul Number;
    Div div Div Number;
    Rem rem Rem Real;
    BitAnd bitand And Bits;
    BitOr bitor Or Bits;
    BitXor bitxor Xor Bits;
}

/// `bool` and integers.
pub trait Bits: Element {}

impl Bits for bool {}
impl Bits for u8 {}
impl Bits for i32 {}
impl Bits for i64 {}

/// An operator with a number on the left.
macro_rules! left_operators {
    ($($number:ident)*) => {
        $(
            left_operators!(@ $number Add add Add);
            left_operators!(@ $number Sub sub Sub);
            left_operators!(@ $number Mul mul Mul);
            left_operators!(@ $number Div div Div);
        )*
    };
    (@ $number:ident $trait:ident $method:ident $op:ident) => {
        impl $trait<Array<$number>> for $number {
            type Output = Array<$number>;

            #[track_caller]
            fn $method(self, other: Array<$number>) -> Array<$number> {
                Array::from(self).binary(Binary::$op, &other)
            }
        }

        impl $trait<&Array<$number>> for $number {
            type Output = Array<$number>;

            #[track_caller]
            fn $method(self, other: &Array<$number>) -> Array<$number> {
                Array::from(self).binary(Binary::$op, other)
            }
        }
    };
}

left_operators!(u8 i32 i64 f32 f64 Complex64);

macro_rules! unary_operators {
    ($($trait:ident $method:ident $op:ident $bound:ident;)*) => {
        $(
            impl<T: $bound> $trait for Array<T> {
                type Output = Array<T>;

                #[track_caller]
                fn $method(self) -> Array<T> {
                    self.unary(Unary::$op)
                }
            }

            impl<T: $bound> $trait for &Array<T> {
                type Output = Array<T>;

                #[track_caller]
                fn $method(self) -> Array<T> {
                    self.unary(Unary::$op)
                }
            }
        )*
    };
}

unary_operators! {
    Neg neg Neg Number;
    Not not Not Bits;
}
