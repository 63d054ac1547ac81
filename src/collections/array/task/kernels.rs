//! What the operations do to a strip of numbers.
//!
//! Each is one loop over slices, which the compiler turns into vector instructions. Integers wrap around, a division
//! of an integer by zero gives 0, and minimum and maximum give NaN where one of the two is.

use num_complex::Complex64;

use super::ops::{Binary, Compare, Part, Test, Unary};
use crate::model::numbers::Element;

/// The element types with what can be done to them; false says that an operation is not for this type.
pub(crate) trait Kernels: Element {
    fn unary(op: Unary, x: &[Self], out: &mut [Self]) -> bool;
    fn binary(op: Binary, x: &[Self], y: &[Self], out: &mut [Self]) -> bool;
    fn compare(op: Compare, x: &[Self], y: &[Self], out: &mut [bool]) -> bool;
    fn test(op: Test, x: &[Self], out: &mut [bool]) -> bool;

    /// What a fold of nothing gives, if that is defined.
    fn identity(op: Binary) -> Option<Self>;

    /// Whether it goes before `best` in the search for the smallest or largest; NaN goes before all numbers.
    fn beats(self, best: Self, largest: bool) -> bool;

    fn cast_from<T: Kernels>(number: T) -> Self;
    fn to_f64(self) -> f64;
    fn to_i64(self) -> i64;
    fn to_complex(self) -> Complex64;
    fn to_bool(self) -> bool;
    const INTEGRAL: bool;
}

#[inline(always)]
fn map<A: Copy, B>(x: &[A], out: &mut [B], f: impl Fn(A) -> B) -> bool {
    for (out, x) in out.iter_mut().zip(x) {
        *out = f(*x);
    }
    true
}

#[inline(always)]
fn zip<A: Copy, B>(x: &[A], y: &[A], out: &mut [B], f: impl Fn(A, A) -> B) -> bool {
    for ((out, x), y) in out.iter_mut().zip(x).zip(y) {
        *out = f(*x, *y);
    }
    true
}

pub(crate) fn select<T: Copy>(mask: &[bool], x: &[T], y: &[T], out: &mut [T]) {
    for (((out, mask), x), y) in out.iter_mut().zip(mask).zip(x).zip(y) {
        *out = if *mask { *x } else { *y };
    }
}

pub(crate) fn cast<T: Kernels, U: Kernels>(x: &[T], out: &mut [U]) {
    map(x, out, U::cast_from);
}

pub(crate) fn part(op: Part, x: &[Complex64], out: &mut [f64]) {
    match op {
        Part::Real => map(x, out, |x| x.re),
        Part::Imaginary => map(x, out, |x| x.im),
        Part::Magnitude => map(x, out, |x| x.norm()),
        Part::Angle => map(x, out, |x| x.arg()),
    };
}

/// Comparisons of types that have an order.
macro_rules! compare_ordered {
    ($op:ident, $x:ident, $y:ident, $out:ident) => {
        match $op {
            Compare::Eq => zip($x, $y, $out, |x, y| x == y),
            Compare::Ne => zip($x, $y, $out, |x, y| x != y),
            Compare::Lt => zip($x, $y, $out, |x, y| x < y),
            Compare::Le => zip($x, $y, $out, |x, y| x <= y),
            Compare::Gt => zip($x, $y, $out, |x, y| x > y),
            Compare::Ge => zip($x, $y, $out, |x, y| x >= y),
        }
    };
}

/// Tests of types that are always finite.
macro_rules! test_finite {
    ($op:ident, $x:ident, $out:ident) => {
        match $op {
            Test::Nan | Test::Infinite => map($x, $out, |_| false),
            Test::Finite => map($x, $out, |_| true),
        }
    };
}

macro_rules! integers {
    ($($number:ty: $negative:expr, $sign:expr, $magnitude:expr;)*) => {
        $(
            impl Kernels for $number {
                fn unary(op: Unary, x: &[Self], out: &mut [Self]) -> bool {
                    match op {
                        Unary::Neg => map(x, out, $negative),
                        Unary::Abs => map(x, out, $magnitude),
                        Unary::Sign => map(x, out, $sign),
                        Unary::Square => map(x, out, |x: $number| x.wrapping_mul(x)),
                        Unary::Not => map(x, out, |x: $number| !x),
                        _ => false,
                    }
                }

                fn binary(op: Binary, x: &[Self], y: &[Self], out: &mut [Self]) -> bool {
                    match op {
                        Binary::Add => zip(x, y, out, <$number>::wrapping_add),
                        Binary::Sub => zip(x, y, out, <$number>::wrapping_sub),
                        Binary::Mul => zip(x, y, out, <$number>::wrapping_mul),
                        Binary::Div => zip(x, y, out, |x, y| if y == 0 { 0 } else { x.wrapping_div(y) }),
                        Binary::Rem => zip(x, y, out, |x, y| if y == 0 { 0 } else { x.wrapping_rem(y) }),
                        Binary::Minimum => zip(x, y, out, <$number>::min),
                        Binary::Maximum => zip(x, y, out, <$number>::max),
                        Binary::And => zip(x, y, out, |x, y| x & y),
                        Binary::Or => zip(x, y, out, |x, y| x | y),
                        Binary::Xor => zip(x, y, out, |x, y| x ^ y),
                        _ => false,
                    }
                }

                fn compare(op: Compare, x: &[Self], y: &[Self], out: &mut [bool]) -> bool {
                    compare_ordered!(op, x, y, out)
                }

                fn test(op: Test, x: &[Self], out: &mut [bool]) -> bool {
                    test_finite!(op, x, out)
                }

                fn identity(op: Binary) -> Option<Self> {
                    match op {
                        Binary::Add => Some(0),
                        Binary::Mul => Some(1),
                        _ => None,
                    }
                }

                #[inline]
                fn beats(self, best: Self, largest: bool) -> bool {
                    if largest { self > best } else { self < best }
                }

                #[inline(always)]
                fn cast_from<T: Kernels>(number: T) -> Self {
                    if T::INTEGRAL { number.to_i64() as $number } else { number.to_f64() as $number }
                }

                #[inline(always)]
                fn to_f64(self) -> f64 {
                    self as f64
                }

                #[inline(always)]
                fn to_i64(self) -> i64 {
                    self as i64
                }

                #[inline(always)]
                fn to_complex(self) -> Complex64 {
                    Complex64::new(self as f64, 0.0)
                }

                #[inline(always)]
                fn to_bool(self) -> bool {
                    self != 0
                }

                const INTEGRAL: bool = true;
            }
        )*
    };
}

integers! {
    u8: u8::wrapping_neg, |x| u8::from(x != 0), |x| x;
    i32: i32::wrapping_neg, i32::signum, i32::wrapping_abs;
    i64: i64::wrapping_neg, i64::signum, i64::wrapping_abs;
}

macro_rules! floats {
    ($($number:ident)*) => {
        $(
            impl Kernels for $number {
                fn unary(op: Unary, x: &[Self], out: &mut [Self]) -> bool {
                    match op {
                        Unary::Neg => map(x, out, |x| -x),
                        Unary::Abs => map(x, out, $number::abs),
                        // (NaN is neither, and stays.)
                        Unary::Sign => map(x, out, |x| if x == 0.0 { 0.0 } else if x.is_nan() { x } else { x.signum() }),
                        Unary::Square => map(x, out, |x| x * x),
                        Unary::Recip => map(x, out, $number::recip),
                        Unary::Sqrt => map(x, out, $number::sqrt),
                        Unary::Cbrt => map(x, out, $number::cbrt),
                        Unary::Exp => map(x, out, $number::exp),
                        Unary::ExpM1 => map(x, out, $number::exp_m1),
                        Unary::Ln => map(x, out, $number::ln),
                        Unary::Ln1p => map(x, out, $number::ln_1p),
                        Unary::Log2 => map(x, out, $number::log2),
                        Unary::Log10 => map(x, out, $number::log10),
                        Unary::Sin => map(x, out, $number::sin),
                        Unary::Cos => map(x, out, $number::cos),
                        Unary::Tan => map(x, out, $number::tan),
                        Unary::Asin => map(x, out, $number::asin),
                        Unary::Acos => map(x, out, $number::acos),
                        Unary::Atan => map(x, out, $number::atan),
                        Unary::Sinh => map(x, out, $number::sinh),
                        Unary::Cosh => map(x, out, $number::cosh),
                        Unary::Tanh => map(x, out, $number::tanh),
                        Unary::Floor => map(x, out, $number::floor),
                        Unary::Ceil => map(x, out, $number::ceil),
                        Unary::Round => map(x, out, $number::round_ties_even),
                        Unary::Trunc => map(x, out, $number::trunc),
                        Unary::Not | Unary::Conj => false,
                    }
                }

                fn binary(op: Binary, x: &[Self], y: &[Self], out: &mut [Self]) -> bool {
                    match op {
                        Binary::Add => zip(x, y, out, |x, y| x + y),
                        Binary::Sub => zip(x, y, out, |x, y| x - y),
                        Binary::Mul => zip(x, y, out, |x, y| x * y),
                        Binary::Div => zip(x, y, out, |x, y| x / y),
                        Binary::Rem => zip(x, y, out, |x, y| x % y),
                        Binary::Pow => zip(x, y, out, $number::powf),
                        Binary::Atan2 => zip(x, y, out, $number::atan2),
                        Binary::Hypot => zip(x, y, out, $number::hypot),
                        Binary::Minimum => zip(x, y, out, |x, y| if x < y || x.is_nan() { x } else { y }),
                        Binary::Maximum => zip(x, y, out, |x, y| if x > y || x.is_nan() { x } else { y }),
                        Binary::And | Binary::Or | Binary::Xor => false,
                    }
                }

                fn compare(op: Compare, x: &[Self], y: &[Self], out: &mut [bool]) -> bool {
                    compare_ordered!(op, x, y, out)
                }

                fn test(op: Test, x: &[Self], out: &mut [bool]) -> bool {
                    match op {
                        Test::Nan => map(x, out, $number::is_nan),
                        Test::Infinite => map(x, out, $number::is_infinite),
                        Test::Finite => map(x, out, $number::is_finite),
                    }
                }

                fn identity(op: Binary) -> Option<Self> {
                    match op {
                        Binary::Add => Some(0.0),
                        Binary::Mul => Some(1.0),
                        _ => None,
                    }
                }

                #[inline]
                fn beats(self, best: Self, largest: bool) -> bool {
                    if best.is_nan() {
                        return false;
                    }
                    self.is_nan() || if largest { self > best } else { self < best }
                }

                #[inline(always)]
                fn cast_from<T: Kernels>(number: T) -> Self {
                    // (An integer is rounded once, not to an `f64` first.)
                    if T::INTEGRAL { number.to_i64() as $number } else { number.to_f64() as $number }
                }

                #[inline(always)]
                fn to_f64(self) -> f64 {
                    f64::from(self)
                }

                #[inline(always)]
                fn to_i64(self) -> i64 {
                    self as i64
                }

                #[inline(always)]
                fn to_complex(self) -> Complex64 {
                    Complex64::new(f64::from(self), 0.0)
                }

                #[inline(always)]
                fn to_bool(self) -> bool {
                    self != 0.0
                }

                const INTEGRAL: bool = false;
            }
        )*
    };
}

floats!(f32 f64);

impl Kernels for Complex64 {
    fn unary(op: Unary, x: &[Self], out: &mut [Self]) -> bool {
        match op {
            Unary::Neg => map(x, out, |x| -x),
            Unary::Square => map(x, out, |x| x * x),
            Unary::Recip => map(x, out, |x| quotient(Self::new(1.0, 0.0), x)),
            Unary::Sqrt => map(x, out, Complex64::sqrt),
            Unary::Exp => map(x, out, Complex64::exp),
            Unary::Ln => map(x, out, Complex64::ln),
            Unary::Sin => map(x, out, Complex64::sin),
            Unary::Cos => map(x, out, Complex64::cos),
            Unary::Conj => map(x, out, |x| x.conj()),
            _ => false,
        }
    }

    fn binary(op: Binary, x: &[Self], y: &[Self], out: &mut [Self]) -> bool {
        match op {
            Binary::Add => zip(x, y, out, |x, y| x + y),
            Binary::Sub => zip(x, y, out, |x, y| x - y),
            Binary::Mul => zip(x, y, out, |x, y| x * y),
            Binary::Div => zip(x, y, out, quotient),
            _ => false,
        }
    }

    fn compare(op: Compare, x: &[Self], y: &[Self], out: &mut [bool]) -> bool {
        match op {
            Compare::Eq => zip(x, y, out, |x, y| x == y),
            Compare::Ne => zip(x, y, out, |x, y| x != y),
            _ => false,
        }
    }

    fn test(op: Test, x: &[Self], out: &mut [bool]) -> bool {
        match op {
            Test::Nan => map(x, out, |x| x.is_nan()),
            Test::Infinite => map(x, out, |x| x.is_infinite()),
            Test::Finite => map(x, out, |x| x.is_finite()),
        }
    }

    fn identity(op: Binary) -> Option<Self> {
        match op {
            Binary::Add => Some(Self::new(0.0, 0.0)),
            Binary::Mul => Some(Self::new(1.0, 0.0)),
            _ => None,
        }
    }

    fn beats(self, best: Self, largest: bool) -> bool {
        self.re.beats(best.re, largest)
    }

    #[inline(always)]
    fn cast_from<T: Kernels>(number: T) -> Self {
        number.to_complex()
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self.re
    }

    #[inline(always)]
    fn to_i64(self) -> i64 {
        self.re as i64
    }

    #[inline(always)]
    fn to_complex(self) -> Complex64 {
        self
    }

    #[inline(always)]
    fn to_bool(self) -> bool {
        self.re != 0.0 || self.im != 0.0
    }

    const INTEGRAL: bool = false;
}

/// Smith's quotient (Algorithm 116: complex division. CACM 5, 1962): no square of a part is taken, which would leave the
/// range of `f64` long before the quotient does. A real divisor divides the parts.
#[inline]
fn quotient(x: Complex64, y: Complex64) -> Complex64 {
    if y.im == 0.0 {
        let divisor = if y.re == 0.0 { 0.0 } else { y.re };
        Complex64::new(x.re / divisor, x.im / divisor)
    } else if y.re.abs() >= y.im.abs() {
        let ratio = y.im / y.re;
        let divisor = y.re + y.im * ratio;
        Complex64::new((x.re + x.im * ratio) / divisor, (x.im - x.re * ratio) / divisor)
    } else {
        let ratio = y.re / y.im;
        let divisor = y.re * ratio + y.im;
        Complex64::new((x.re * ratio + x.im) / divisor, (x.im * ratio - x.re) / divisor)
    }
}

impl Kernels for bool {
    fn unary(op: Unary, x: &[Self], out: &mut [Self]) -> bool {
        match op {
            Unary::Not => map(x, out, |x: bool| !x),
            _ => false,
        }
    }

    fn binary(op: Binary, x: &[Self], y: &[Self], out: &mut [Self]) -> bool {
        match op {
            Binary::And | Binary::Minimum => zip(x, y, out, |x, y| x & y),
            Binary::Or | Binary::Maximum => zip(x, y, out, |x, y| x | y),
            Binary::Xor => zip(x, y, out, |x, y| x ^ y),
            _ => false,
        }
    }

    fn compare(op: Compare, x: &[Self], y: &[Self], out: &mut [bool]) -> bool {
        compare_ordered!(op, x, y, out)
    }

    fn test(op: Test, x: &[Self], out: &mut [bool]) -> bool {
        test_finite!(op, x, out)
    }

    fn identity(op: Binary) -> Option<Self> {
        match op {
            Binary::Or => Some(false),
            Binary::And => Some(true),
            _ => None,
        }
    }

    fn beats(self, best: Self, largest: bool) -> bool {
        if largest { self & !best } else { !self & best }
    }

    #[inline(always)]
    fn cast_from<T: Kernels>(number: T) -> Self {
        number.to_bool()
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(u8::from(self))
    }

    #[inline(always)]
    fn to_i64(self) -> i64 {
        i64::from(self)
    }

    #[inline(always)]
    fn to_complex(self) -> Complex64 {
        Complex64::new(self.to_f64(), 0.0)
    }

    #[inline(always)]
    fn to_bool(self) -> bool {
        self
    }

    const INTEGRAL: bool = true;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quotient_of_complex_numbers_stays_in_range_where_squares_do_not() {
        let number = Complex64::new;
        for (x, y, wanted) in [
            (number(1e200, 1e200), number(1e200, 1e200), number(1.0, 0.0)),
            (number(1e-200, 0.0), number(0.0, 1e-200), number(0.0, -1.0)),
            (number(3e300, -6e300), number(3.0, 0.0), number(1e300, -2e300)),
            (number(f64::INFINITY, 3.0), number(2.0, 0.0), number(f64::INFINITY, 1.5)),
            (number(1.0, -1.0), number(-0.0, 0.0), number(f64::INFINITY, f64::NEG_INFINITY)),
        ] {
            let mut out = [number(0.0, 0.0)];
            assert!(Complex64::binary(Binary::Div, &[x], &[y], &mut out));
            assert_eq!(out[0], wanted, "{x} / {y}");
        }
    }

    #[test]
    fn a_large_integer_is_rounded_once() {
        let number = (1i64 << 54) + (1 << 30) + 1; // above the middle of two `f32`, and on it as an `f64`
        let mut out = [0.0f32];
        cast(&[number], &mut out);
        assert_eq!(out, [number as f32]);
        assert_ne!(out, [number as f64 as f32]);
    }
}
