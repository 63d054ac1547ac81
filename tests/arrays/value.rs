//! Arrays of any element type, and the numbers that programs draw.

use dcluster::collections::{Array, Block, Complex64};
use dcluster::model::numbers::{Dtype, Element, Numbers};

/// An array of one of the element types.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Bool(Array<bool>),
    U8(Array<u8>),
    I32(Array<i32>),
    I64(Array<i64>),
    F32(Array<f32>),
    F64(Array<f64>),
    Complex64(Array<Complex64>),
}

macro_rules! values {
    ($($name:ident($number:ty))*) => {
        $(
            impl From<Array<$number>> for Value {
                fn from(array: Array<$number>) -> Self {
                    Self::$name(array)
                }
            }
        )*
    };
}

values!(Bool(bool) U8(u8) I32(i32) I64(i64) F32(f32) F64(f64) Complex64(Complex64));

/// Runs `$body` with `$array` as the array of a value, whatever its type.
macro_rules! with_any {
    ($value:expr, $array:ident => $body:expr) => {
        match $value {
            Value::Bool($array) => $body,
            Value::U8($array) => $body,
            Value::I32($array) => $body,
            Value::I64($array) => $body,
            Value::F32($array) => $body,
            Value::F64($array) => $body,
            Value::Complex64($array) => $body,
        }
    };
}

/// The same for types with arithmetic.
macro_rules! with_number {
    ($value:expr, $array:ident => $body:expr) => {
        match $value {
            Value::Bool(_) => None,
            Value::U8($array) => Some($body),
            Value::I32($array) => Some($body),
            Value::I64($array) => Some($body),
            Value::F32($array) => Some($body),
            Value::F64($array) => Some($body),
            Value::Complex64($array) => Some($body),
        }
    };
}

/// The same for types with an order.
macro_rules! with_real {
    ($value:expr, $array:ident => $body:expr) => {
        match $value {
            Value::Bool(_) | Value::Complex64(_) => None,
            Value::U8($array) => Some($body),
            Value::I32($array) => Some($body),
            Value::I64($array) => Some($body),
            Value::F32($array) => Some($body),
            Value::F64($array) => Some($body),
        }
    };
}

/// The same for types with an order, truth values included.
macro_rules! with_ordered {
    ($value:expr, $array:ident => $body:expr) => {
        match $value {
            Value::Bool($array) => Some($body),
            other => with_real!(other, $array => $body),
        }
    };
}

pub(crate) use {with_any, with_number, with_ordered, with_real};

impl Value {
    pub(crate) fn shape(&self) -> Vec<usize> {
        with_any!(self, array => array.shape().to_vec())
    }

    pub(crate) fn dtype(&self) -> Dtype {
        match self {
            Self::Bool(_) => Dtype::Bool,
            Self::U8(_) => Dtype::U8,
            Self::I32(_) => Dtype::I32,
            Self::I64(_) => Dtype::I64,
            Self::F32(_) => Dtype::F32,
            Self::F64(_) => Dtype::F64,
            Self::Complex64(_) => Dtype::Complex64,
        }
    }

    pub(crate) fn is_float(&self) -> bool {
        matches!(self, Self::F32(_) | Self::F64(_) | Self::Complex64(_))
    }
}

/// Random choices from a seed (SplitMix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..count`.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        (self.roll() % count.max(1) as u64) as usize
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub(crate) fn shape(&mut self) -> Vec<usize> {
        let ndim = self.below(4);
        // Now and then an axis of one element, or none.
        (0..ndim).map(|_| if self.below(40) == 0 { 0 } else { 1 + self.below(7) }).collect()
    }

    pub(crate) fn chunk(&mut self, shape: &[usize]) -> Vec<usize> {
        shape.iter().map(|extent| 1 + self.below(*extent)).collect()
    }

    fn float(&mut self) -> f64 {
        match self.below(60) {
            0 => f64::NAN,
            1 => f64::INFINITY,
            2 => -0.0,
            _ => (self.below(200) as f64 - 100.0) / 8.0,
        }
    }

    /// Numbers of a type, with some that are special for it.
    pub(crate) fn data(&mut self, dtype: Dtype, shape: &[usize]) -> (Value, String) {
        let count: usize = shape.iter().product();
        let chunk = self.chunk(shape);
        macro_rules! make {
            ($number:ty, $draw:expr) => {{
                let numbers: Vec<$number> = (0..count).map(|_| $draw).collect();
                let block = Block::new(shape, Numbers::from(numbers)).expect("as many as counted");
                (Value::from(Array::from_array(&block.view(), chunk)), hex(&block))
            }};
        }
        match dtype {
            Dtype::Bool => make!(bool, self.below(2) == 1),
            Dtype::U8 => make!(u8, self.roll() as u8),
            Dtype::I32 => {
                make!(i32, if self.below(20) == 0 { self.roll() as i32 } else { self.below(40) as i32 - 20 })
            }
            Dtype::I64 => {
                make!(i64, if self.below(20) == 0 { self.roll() as i64 } else { self.below(40) as i64 - 20 })
            }
            Dtype::F32 => make!(f32, self.float() as f32),
            Dtype::F64 => make!(f64, self.float()),
            Dtype::Complex64 => {
                make!(
                    Complex64,
                    Complex64::new(
                        (self.below(64) as f64 - 32.0) / 8.0,
                        (self.below(64) as f64 - 32.0) / 8.0
                    )
                )
            }
        }
    }
}

/// The memory of a block.
pub(crate) fn hex<T: Element>(block: &Block<T>) -> String {
    block.numbers().bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}
