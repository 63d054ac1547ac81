//! Random programs: operations on arrays, each done here and described for NumPy.
//!
//! Results that rounding may change are not given to operations that jump (comparisons, roundings, places of extremes):
//! there the last bit would decide. Here are the sources; what is done to them is in the files below.

mod elementwise;
mod folds;
mod shapes;

use dcluster::blocking;
use dcluster::collections::{Array, Boundary, Complex64};
use dcluster::model::numbers::Dtype;
use ndarray::SliceInfoElem;
use serde_json::{Value as Json, json};

use crate::value::{Dice, Value, with_any, with_number, with_ordered, with_real};

/// A value of a program.
pub(crate) struct Entry {
    pub(crate) value: Value,
    /// Whether NumPy has it to the last bit.
    pub(crate) exact: bool,
}

/// A program under construction.
pub(crate) struct Program<'a> {
    pub(crate) dice: Dice,
    pub(crate) entries: Vec<Entry>,
    pub(crate) steps: Vec<Json>,
    pub(crate) client: &'a blocking::Client,
}

const ELEMENTS_MAX: usize = 600;
const TYPES: [Dtype; 7] =
    [Dtype::Bool, Dtype::U8, Dtype::I32, Dtype::I64, Dtype::F32, Dtype::F64, Dtype::Complex64];

impl Program<'_> {
    /// Draws one more operation; it may turn out to be none.
    pub(crate) fn step(&mut self) {
        if self.entries.len() < 2 || self.dice.below(8) == 0 {
            return self.source();
        }
        let x = self.dice.below(self.entries.len());
        match self.dice.below(14) {
            0 | 12 => self.unary(x),
            1 | 2 => self.binary(x),
            3 => match self.dice.below(3) {
                0 => self.clip(x),
                _ => self.choose(x),
            },
            4 => self.cast(x),
            5 => self.slice(x),
            13 => self.zip(x),
            6 => self.shape(x),
            7 => self.join(x),
            8 | 9 => self.reduce(x),
            10 => self.running(x),
            _ => self.product(x),
        }
    }

    fn push(&mut self, value: impl Into<Value>, exact: bool, mut step: Json) {
        let value = value.into();
        if value.shape().iter().product::<usize>() > ELEMENTS_MAX {
            return;
        }
        step["result"] = json!(value.dtype().to_string());
        step["exact"] = json!(exact);
        self.steps.push(step);
        self.entries.push(Entry { value, exact });
    }

    fn source(&mut self) {
        let dtype = *self.dice.pick(&TYPES);
        let shape = self.dice.shape();
        match self.dice.below(6) {
            0 => self.arange(dtype),
            1 => self.full(dtype, &shape),
            2 => {
                let (start, stop) = (self.dice.below(20) as f64 - 10.0, self.dice.below(20) as f64 / 3.0);
                let (count, chunk) = (self.dice.below(20), 1 + self.dice.below(9));
                let array = Array::linspace(start, stop, count, chunk);
                let step = json!({"op": "linspace", "start": start, "stop": stop, "count": count});
                self.push(array, false, step);
            }
            _ => {
                let (value, bytes) = self.dice.data(dtype, &shape);
                let step = json!({"op": "data", "dtype": dtype.to_string(), "shape": shape, "bytes": bytes});
                self.push(value, true, step);
            }
        }
    }

    /// Forwards or backwards, in whole and half steps.
    fn arange(&mut self, dtype: Dtype) {
        let (from, length) = (self.dice.below(20) as i64 - 10, self.dice.below(30) as i64);
        let (width, chunk) = (1 + self.dice.below(3) as i64, 1 + self.dice.below(9));
        let (start, stop, step) = match (dtype, self.dice.below(2)) {
            (Dtype::U8, _) => (from + 10, from + 10 + length, width),
            (_, 0) => (from, from + length, width),
            _ => (from + length, from, -width),
        };
        let halves = |number: i64| number as f64 / 2.0;
        let (array, divisor): (Value, i64) = match dtype {
            Dtype::U8 => (Array::<u8>::arange(start as u8, stop as u8, step as u8, chunk).into(), 1),
            Dtype::I32 => (Array::<i32>::arange(start as i32, stop as i32, step as i32, chunk).into(), 1),
            Dtype::I64 => (Array::<i64>::arange(start, stop, step, chunk).into(), 1),
            Dtype::F32 => {
                let [start, stop, step] = [start, stop, step].map(|number| halves(number) as f32);
                (Array::<f32>::arange(start, stop, step, chunk).into(), 2)
            }
            Dtype::F64 => (Array::<f64>::arange(halves(start), halves(stop), halves(step), chunk).into(), 2),
            Dtype::Bool | Dtype::Complex64 => return,
        };
        self.push(
            array,
            true,
            json!({"op": "arange", "start": start, "stop": stop, "step": step, "divisor": divisor}),
        );
    }

    fn full(&mut self, dtype: Dtype, shape: &[usize]) {
        let (chunk, number) = (self.dice.chunk(shape), self.dice.below(9));
        let array: Value = match dtype {
            Dtype::Bool => Array::full(number > 4, shape, chunk).into(),
            Dtype::U8 => Array::full(number as u8, shape, chunk).into(),
            Dtype::I32 => Array::full(number as i32, shape, chunk).into(),
            Dtype::I64 => Array::full(number as i64, shape, chunk).into(),
            Dtype::F32 => Array::full(number as f32, shape, chunk).into(),
            Dtype::F64 => Array::full(number as f64, shape, chunk).into(),
            Dtype::Complex64 => Array::full(Complex64::new(number as f64, 0.0), shape, chunk).into(),
        };
        let number = if dtype == Dtype::Bool { usize::from(number > 4) } else { number };
        self.push(array, true, json!({"op": "full", "shape": shape, "number": number}));
    }

    /// An operand of the same type whose shape goes with that of `x`: another array, or a part of this one.
    fn partner(&mut self, x: usize) -> usize {
        let (shape, dtype) = (self.entries[x].value.shape(), self.entries[x].value.dtype());
        let fits = |entry: &Entry| {
            let other = entry.value.shape();
            entry.value.dtype() == dtype
                && shape.iter().rev().zip(other.iter().rev()).all(|(a, b)| a == b || *a == 1 || *b == 1)
        };
        let others: Vec<usize> = (0..self.entries.len()).filter(|at| fits(&self.entries[*at])).collect();
        *self.dice.pick(&others)
    }
}
