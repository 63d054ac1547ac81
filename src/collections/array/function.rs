//! Functions of one element, and of two floats.

use num_complex::Complex64;
use smallvec::smallvec;

use super::Array;
use super::elementwise::{Float, Number, Real, apply};
use super::task::ops::{Binary, Op, Part, Test, Unary};
use crate::model::numbers::{Dtype, Element};

macro_rules! functions {
    ($bound:ident: $($(#[$doc:meta])* $method:ident $op:ident;)*) => {
        impl<T: $bound> Array<T> {
            $(
                $(#[$doc])*
                #[track_caller]
                pub fn $method(&self) -> Self {
                    self.unary(Unary::$op)
                }
            )*
        }
    };
}

functions! { Number:
    /// The square.
    square Square;
}

functions! { Real:
    /// The absolute value; that of the smallest integer is itself.
    abs Abs;
    /// -1, 0 or 1; NaN of NaN.
    sign Sign;
}

functions! { Float:
    /// One over it.
    recip Recip;
    /// The square root; NaN of negative numbers.
    sqrt Sqrt;
    /// The cube root.
    cbrt Cbrt;
    /// e to its power.
    exp Exp;
    /// e to its power, less 1, exact for small numbers.
    exp_m1 ExpM1;
    /// The natural logarithm.
    ln Ln;
    /// The natural logarithm of 1 more, exact for small numbers.
    ln_1p Ln1p;
    /// The logarithm to base 2.
    log2 Log2;
    /// The logarithm to base 10.
    log10 Log10;
    /// The sine.
    sin Sin;
    /// The cosine.
    cos Cos;
    /// The tangent.
    tan Tan;
    /// The inverse sine.
    asin Asin;
    /// The inverse cosine.
    acos Acos;
    /// The inverse tangent.
    atan Atan;
    /// The hyperbolic sine.
    sinh Sinh;
    /// The hyperbolic cosine.
    cosh Cosh;
    /// The hyperbolic tangent.
    tanh Tanh;
    /// The next integer below.
    floor Floor;
    /// The next integer above.
    ceil Ceil;
    /// The nearest integer, the even one of two.
    round Round;
    /// The next integer towards zero.
    trunc Trunc;
}

impl<T: Float> Array<T> {
    /// Each element to a power.
    #[track_caller]
    pub fn pow(&self, exponent: impl Into<Array<T>>) -> Self {
        self.binary(Binary::Pow, &exponent.into())
    }

    /// The angle of the point (`x`, self) in the plane.
    #[track_caller]
    pub fn atan2(&self, x: impl Into<Array<T>>) -> Self {
        self.binary(Binary::Atan2, &x.into())
    }

    /// The length of the hypotenuse.
    #[track_caller]
    pub fn hypot(&self, other: impl Into<Array<T>>) -> Self {
        self.binary(Binary::Hypot, &other.into())
    }
}

impl<T: Number> Array<T> {
    /// Whether elements are not a number.
    #[track_caller]
    pub fn is_nan(&self) -> Array<bool> {
        self.tested(Test::Nan)
    }

    /// Whether elements are infinite.
    #[track_caller]
    pub fn is_infinite(&self) -> Array<bool> {
        self.tested(Test::Infinite)
    }

    /// Whether elements are neither infinite nor NaN.
    #[track_caller]
    pub fn is_finite(&self) -> Array<bool> {
        self.tested(Test::Finite)
    }

    #[track_caller]
    fn tested(&self, test: Test) -> Array<bool> {
        self.then(|x| apply(Dtype::Bool, Op::Test(test), smallvec![x.clone()]))
    }
}

functions! { ComplexNumber:
    /// The conjugate.
    conj Conj;
    /// The square root with a real part that is not negative.
    csqrt Sqrt;
    /// e to its power.
    cexp Exp;
    /// The natural logarithm, with an imaginary part in [-π, π].
    cln Ln;
    /// The sine.
    csin Sin;
    /// The cosine.
    ccos Cos;
    /// One over it.
    crecip Recip;
}

/// [`Complex64`].
pub trait ComplexNumber: Element {}

impl ComplexNumber for Complex64 {}

impl Array<Complex64> {
    /// The real parts.
    #[track_caller]
    pub fn re(&self) -> Array<f64> {
        self.part(Part::Real)
    }

    /// The imaginary parts.
    #[track_caller]
    pub fn im(&self) -> Array<f64> {
        self.part(Part::Imaginary)
    }

    /// The distances from 0.
    #[track_caller]
    pub fn magnitude(&self) -> Array<f64> {
        self.part(Part::Magnitude)
    }

    /// The angles, in (-π, π].
    #[track_caller]
    pub fn angle(&self) -> Array<f64> {
        self.part(Part::Angle)
    }

    #[track_caller]
    fn part(&self, part: Part) -> Array<f64> {
        self.then(|x| apply(Dtype::F64, Op::Part(part), smallvec![x.clone()]))
    }
}
