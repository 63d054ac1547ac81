//! Random programs: operations on arrays, each done here and described for NumPy.
//!
//! Results that rounding may change are not given to operations that jump (comparisons, roundings, places of extremes):
//! there the last bit would decide.

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
        match self.dice.below(12) {
            0 => self.unary(x),
            1 | 2 => self.binary(x),
            3 => self.choose(x),
            4 => self.cast(x),
            5 => self.slice(x),
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
        self.steps.push(step);
        self.entries.push(Entry { value, exact });
    }

    fn source(&mut self) {
        let dtype = *self.dice.pick(&TYPES);
        let shape = self.dice.shape();
        match self.dice.below(6) {
            0 => {
                let (start, step) = (self.dice.below(20) as i64 - 10, 1 + self.dice.below(3) as i64);
                let (stop, chunk) = (start + self.dice.below(30) as i64, 1 + self.dice.below(9));
                let array = Array::<i64>::arange(start, stop, step, chunk);
                self.push(array, true, json!({"op": "arange", "start": start, "stop": stop, "step": step}));
            }
            1 => {
                let chunk = self.dice.chunk(&shape);
                let number = self.dice.below(9) as f64 / 2.0;
                let array = Array::full(number, &shape, chunk);
                self.push(array, true, json!({"op": "full", "shape": shape, "number": number}));
            }
            _ => {
                let (value, bytes) = self.dice.data(dtype, &shape);
                let step = json!({"op": "data", "dtype": dtype.to_string(), "shape": shape, "bytes": bytes});
                self.push(value, true, step);
            }
        }
    }

    fn unary(&mut self, x: usize) {
        let Entry { value, exact } = &self.entries[x];
        let exact = *exact;
        macro_rules! floats {
            ($($name:literal $method:ident $jumps:literal)*) => {{
                let names = [$($name),*];
                let name = *self.dice.pick(&names);
                let jumps = match name { $($name => $jumps,)* _ => false };
                if jumps && !exact {
                    return;
                }
                let smooth = ["sqrt", "absolute", "negative", "reciprocal", "square"].contains(&name) || jumps;
                let made: Option<Value> = match value {
                    Value::F32(array) => match name { $($name => Some(array.$method().into()),)* _ => None },
                    Value::F64(array) => match name { $($name => Some(array.$method().into()),)* _ => None },
                    _ => None,
                };
                (made, name, exact && smooth)
            }};
        }
        let clipped = value.is_float() && !matches!(value, Value::Complex64(_));
        if clipped {
            let (made, name, exact) = floats! {
                "absolute" abs false "square" square false "sign" sign true "reciprocal" recip false "sqrt" sqrt false
                "cbrt" cbrt false "exp" exp false "expm1" exp_m1 false "log" ln false "log1p" ln_1p false
                "log2" log2 false "log10" log10 false "sin" sin false "cos" cos false "tan" tan false
                "arcsin" asin false "arccos" acos false "arctan" atan false "sinh" sinh false "cosh" cosh false
                "tanh" tanh false "floor" floor true "ceil" ceil true "rint" round true "trunc" trunc true
            };
            if let Some(made) = made {
                self.push(made, exact, json!({"op": name, "x": x}));
            }
            return;
        }
        let made: (Value, &str) = match (value, self.dice.below(5)) {
            (Value::Complex64(z), 0) => (z.re().into(), "real"),
            (Value::Complex64(z), 1) => (z.im().into(), "imag"),
            (Value::Complex64(z), 2) => (z.conj().into(), "conjugate"),
            (Value::Complex64(z), 3) if exact => (z.magnitude().into(), "absolute"),
            (Value::I32(array), 0 | 1) => (array.abs().into(), "absolute"),
            (Value::I64(array), 0 | 1) => (array.sign().into(), "sign"),
            (Value::Bool(array), _) => ((!array).into(), "logical_not"),
            (value, _) => match with_number!(value, array => ((-array).into(), "negative")) {
                Some(made) => made,
                None => return,
            },
        };
        let exact = exact && made.1 != "absolute" || !matches!(self.entries[x].value, Value::Complex64(_));
        self.push(made.0, exact, json!({"op": made.1, "x": x}));
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

    fn binary(&mut self, x: usize) {
        let y = self.partner(x);
        let exact = self.entries[x].exact && self.entries[y].exact;
        let op = *self.dice.pick(&[
            "add",
            "subtract",
            "multiply",
            "divide",
            "minimum",
            "maximum",
            "less",
            "less_equal",
            "greater",
            "greater_equal",
            "equal",
            "not_equal",
            "fmod",
            "logical_and",
            "logical_or",
            "logical_xor",
            "hypot",
            "arctan2",
        ]);
        macro_rules! same_type {
            ($a:ident, $b:ident, $with:ident => $body:expr) => {
                match (&self.entries[x].value, &self.entries[y].value) {
                    (Value::U8($a), Value::U8($b)) => Some(Value::from($body)),
                    (Value::I32($a), Value::I32($b)) => Some(Value::from($body)),
                    (Value::I64($a), Value::I64($b)) => Some(Value::from($body)),
                    (Value::F32($a), Value::F32($b)) => Some(Value::from($body)),
                    (Value::F64($a), Value::F64($b)) => Some(Value::from($body)),
                    same_type!(@ $with $a $b) => same_type!(# $with $a $b $body),
                    _ => None,
                }
            };
            (@ number $a:ident $b:ident) => { (Value::Complex64($a), Value::Complex64($b)) };
            (# number $a:ident $b:ident $body:expr) => { Some(Value::from($body)) };
            (@ real $a:ident $b:ident) => { (Value::Complex64(_), Value::Complex64(_)) };
            (# real $a:ident $b:ident $body:expr) => { None };
        }
        let made = match op {
            "add" => same_type!(a, b, number => a + b),
            "subtract" => same_type!(a, b, number => a - b),
            "multiply" => same_type!(a, b, number => a * b),
            "divide" => same_type!(a, b, real => a / b),
            "minimum" => same_type!(a, b, real => a.minimum(b)),
            "maximum" => same_type!(a, b, real => a.maximum(b)),
            _ if !exact => return,
            "less" => same_type!(a, b, real => a.lt(b)),
            "less_equal" => same_type!(a, b, real => a.le(b)),
            "greater" => same_type!(a, b, real => a.gt(b)),
            "greater_equal" => same_type!(a, b, real => a.ge(b)),
            "equal" => same_type!(a, b, number => a.equal(b)),
            "not_equal" => same_type!(a, b, number => a.not_equal(b)),
            "fmod" => same_type!(a, b, real => a % b),
            "logical_and" | "logical_or" | "logical_xor" => {
                match (&self.entries[x].value, &self.entries[y].value) {
                    (Value::Bool(a), Value::Bool(b)) if op == "logical_and" => Some((a & b).into()),
                    (Value::Bool(a), Value::Bool(b)) if op == "logical_or" => Some((a | b).into()),
                    (Value::Bool(a), Value::Bool(b)) => Some((a ^ b).into()),
                    _ => None,
                }
            }
            "hypot" | "arctan2" => match (&self.entries[x].value, &self.entries[y].value) {
                (Value::F64(a), Value::F64(b)) if op == "hypot" => Some(a.hypot(b).into()),
                (Value::F64(a), Value::F64(b)) => Some(a.atan2(b).into()),
                _ => None,
            },
            _ => None,
        };
        if let Some(made) = made {
            // (The product of complex numbers is rounded in another order.)
            let exact = exact && !["hypot", "arctan2"].contains(&op) && !matches!(made, Value::Complex64(_));
            self.push(made, exact, json!({"op": op, "x": x, "y": y}));
        }
    }

    fn choose(&mut self, x: usize) {
        let y = self.partner(x);
        let shape = self.entries[x].value.shape();
        let is_mask = |entry: &Entry| {
            matches!(entry.value, Value::Bool(_))
                && (entry.value.shape() == shape || entry.value.shape().is_empty())
        };
        let masks: Vec<usize> = (0..self.entries.len()).filter(|at| is_mask(&self.entries[*at])).collect();
        if masks.is_empty() {
            return;
        }
        let mask = *self.dice.pick(&masks);
        let Value::Bool(condition) = &self.entries[mask].value else { return };
        macro_rules! choose {
            ($($name:ident)*) => {
                match (&self.entries[x].value, &self.entries[y].value) {
                    $((Value::$name(a), Value::$name(b)) => Value::from(condition.choose(a, b)),)*
                    _ => return,
                }
            };
        }
        let made = choose!(Bool U8 I32 I64 F32 F64 Complex64);
        let exact = self.entries[x].exact && self.entries[y].exact;
        self.push(made, exact, json!({"op": "where", "mask": mask, "x": x, "y": y}));
    }

    fn cast(&mut self, x: usize) {
        let to = *self.dice.pick(&TYPES);
        let Entry { value, exact } = &self.entries[x];
        // Floats that are out of range are undefined as integers in NumPy; comparisons with zero jump.
        let jumps = value.is_float() && matches!(to, Dtype::Bool | Dtype::U8 | Dtype::I32 | Dtype::I64);
        // What is rounded as an f32 has fewer digits than what it would be compared with.
        if matches!(value, Value::F32(_)) && !exact && to != Dtype::F32 {
            return;
        }
        if jumps && (to != Dtype::Bool || !exact) || matches!(value, Value::Complex64(_)) && to == Dtype::Bool
        {
            return;
        }
        macro_rules! cast {
            ($($name:ident $number:ty;)*) => {
                match to {
                    $(Dtype::$name => Value::from(with_any!(value, array => array.cast::<$number>())),)*
                }
            };
        }
        let made = cast!(Bool bool; U8 u8; I32 i32; I64 i64; F32 f32; F64 f64; Complex64 Complex64;);
        let exact = *exact;
        self.push(made, exact, json!({"op": "cast", "x": x, "dtype": to.to_string()}));
    }

    fn slice(&mut self, x: usize) {
        let shape = self.entries[x].value.shape();
        let (mut parts, mut elements) = (Vec::new(), Vec::new());
        for extent in &shape {
            if self.dice.below(8) == 0 {
                parts.push(Json::Null);
                elements.push(SliceInfoElem::NewAxis);
            }
            if *extent > 0 && self.dice.below(5) == 0 {
                let index = self.dice.below(2 * extent) as isize - *extent as isize;
                parts.push(json!(index));
                elements.push(SliceInfoElem::Index(index));
                continue;
            }
            let (a, b) = (self.dice.below(extent + 1), self.dice.below(extent + 1));
            let (start, stop) = (a.min(b), a.max(b));
            let step = *self.dice.pick(&[1isize, 1, 1, 2, 3, -1, -2, -3]);
            parts.push(json!([start, stop, step]));
            elements.push(SliceInfoElem::Slice { start: start as isize, end: Some(stop as isize), step });
        }
        let made = with_any!(&self.entries[x].value, array => Value::from(array.slice(&elements)));
        let exact = self.entries[x].exact;
        self.push(made, exact, json!({"op": "slice", "x": x, "parts": parts}));
    }

    fn shape(&mut self, x: usize) {
        let shape = self.entries[x].value.shape();
        let exact = self.entries[x].exact;
        let count: usize = shape.iter().product();
        let (made, step) = match self.dice.below(5) {
            0 => {
                let mut order: Vec<usize> = (0..shape.len()).collect();
                (1..order.len()).for_each(|at| order.swap(at, self.dice.below(at + 1)));
                let made = with_any!(&self.entries[x].value, array => Value::from(array.permute(&order)));
                (made, json!({"op": "permute", "x": x, "order": order}))
            }
            1 | 2 => {
                let mut rest = count;
                let mut shape = Vec::new();
                while rest > 1 {
                    let divisors: Vec<usize> =
                        (1..=rest).filter(|divisor| rest.is_multiple_of(*divisor)).collect();
                    let extent = *self.dice.pick(&divisors);
                    shape.push(extent);
                    rest /= extent;
                }
                if count == 0 {
                    shape = vec![0, 3];
                }
                let made = with_any!(&self.entries[x].value, array => Value::from(array.reshape(&shape)));
                (made, json!({"op": "reshape", "x": x, "shape": shape}))
            }
            3 => {
                let mut wide: Vec<usize> = shape
                    .iter()
                    .map(|extent| if *extent == 1 { 1 + self.dice.below(3) } else { *extent })
                    .collect();
                wide.insert(0, 1 + self.dice.below(3));
                let made = with_any!(&self.entries[x].value, array => Value::from(array.broadcast_to(&wide)));
                (made, json!({"op": "broadcast", "x": x, "shape": wide}))
            }
            _ => {
                let chunk = self.dice.chunk(&shape);
                let persist = self.dice.below(2) == 0;
                let made = with_any!(&self.entries[x].value, array => {
                    let cut = array.rechunk(&chunk);
                    Value::from(if persist { self.client.persist(&cut) } else { cut })
                });
                (made, json!({"op": "rechunk", "x": x}))
            }
        };
        self.push(made, exact, step);
    }

    fn join(&mut self, x: usize) {
        let (shape, dtype) = (self.entries[x].value.shape(), self.entries[x].value.dtype());
        let same = |entry: &Entry| entry.value.dtype() == dtype && entry.value.shape() == shape;
        let others: Vec<usize> = (0..self.entries.len()).filter(|at| same(&self.entries[*at])).collect();
        let of: Vec<usize> = (0..1 + self.dice.below(3)).map(|_| *self.dice.pick(&others)).collect();
        let exact = of.iter().all(|at| self.entries[*at].exact);
        let stack = shape.is_empty() || self.dice.below(2) == 0;
        let axis = self.dice.below(shape.len() + usize::from(stack));
        macro_rules! join {
            ($($name:ident)*) => {
                match dtype {
                    $(Dtype::$name => {
                        let arrays = of.iter().filter_map(|at| match &self.entries[*at].value {
                            Value::$name(array) => Some(array),
                            _ => None,
                        });
                        Value::from(if stack { Array::stack(arrays, axis) } else { Array::concatenate(arrays, axis as isize) })
                    })*
                }
            };
        }
        let made = join!(Bool U8 I32 I64 F32 F64 Complex64);
        self.push(
            made,
            exact,
            json!({"op": if stack { "stack" } else { "concatenate" }, "of": of, "axis": axis}),
        );
    }

    fn reduce(&mut self, x: usize) {
        let Entry { value, exact } = &self.entries[x];
        let (exact, shape) = (*exact, value.shape());
        let axes: Option<Vec<isize>> = match self.dice.below(3) {
            0 => None,
            _ => Some((0..shape.len() as isize).filter(|_| self.dice.below(2) == 0).collect()),
        };
        let op = *self
            .dice
            .pick(&["sum", "prod", "mean", "var", "std", "min", "max", "any", "all", "argmin", "argmax"]);
        let integer = !value.is_float();
        macro_rules! along {
            ($array:ident, $whole:ident, $axis:ident) => {
                Value::from(match &axes {
                    None => $array.$whole(),
                    Some(axes) => $array.$axis(&axes[..]),
                })
            };
        }
        let empty = shape.contains(&0);
        let axis =
            (!shape.is_empty() && self.dice.below(2) == 0).then(|| self.dice.below(shape.len()) as isize);
        let made = match op {
            "sum" => Some(with_any!(value, array => along!(array, sum, sum_axis))),
            // (Products that leave the range of f64 on their way depend on the order.)
            "prod" if integer || exact && shape.iter().product::<usize>() <= 40 => {
                Some(with_any!(value, array => along!(array, prod, prod_axis)))
            }
            "mean" => Some(with_any!(value, array => along!(array, mean, mean_axis))),
            "min" if !empty => with_ordered!(value, array => along!(array, min, min_axis)),
            "max" if !empty => with_ordered!(value, array => along!(array, max, max_axis)),
            "any" if exact => Some(with_any!(value, array => along!(array, any, any_axis))),
            "all" if exact => Some(with_any!(value, array => along!(array, all, all_axis))),
            "var" => with_ordered!(value, array => along!(array, var, var_axis)),
            "std" => with_ordered!(value, array => along!(array, std, std_axis)),
            "argmin" if exact && !empty => with_ordered!(value, array => match axis {
                None => array.argmin().into(),
                Some(axis) => array.argmin_axis(axis).into(),
            }),
            "argmax" if exact && !empty => with_ordered!(value, array => match axis {
                None => array.argmax().into(),
                Some(axis) => array.argmax_axis(axis).into(),
            }),
            _ => None,
        };
        if let Some(made) = made {
            let kept = ["min", "max", "any", "all", "argmin", "argmax"].contains(&op)
                || integer && ["sum", "prod"].contains(&op);
            let mut step = json!({"op": op, "x": x, "axes": axes, "ddof": 0});
            if op.starts_with("arg") {
                step["axis"] = json!(axis);
            }
            self.push(made, exact && kept, step);
        }
    }

    fn running(&mut self, x: usize) {
        let Entry { value, exact } = &self.entries[x];
        let (exact, shape, integer) = (*exact, value.shape(), !value.is_float());
        if shape.is_empty() {
            return;
        }
        let axis = self.dice.below(shape.len());
        match self.dice.below(5) {
            0 if integer => {
                let made = with_any!(value, array => Value::from(array.cumprod(axis as isize)));
                self.push(made, exact, json!({"op": "cumprod", "x": x, "axis": axis}));
            }
            1 => {
                let Value::F64(array) = value else { return };
                if !exact || shape.contains(&0) {
                    return;
                }
                let depth: Vec<usize> =
                    shape.iter().map(|extent| self.dice.below(2.min(*extent) + 1)).collect();
                let modes = [
                    ("Nearest", Boundary::Nearest),
                    ("Reflect", Boundary::Reflect),
                    ("Periodic", Boundary::Periodic),
                    ("Constant", Boundary::Constant(0.0)),
                ];
                let (mode, boundary) = *self.dice.pick(&modes);
                let margin = depth.clone();
                let made = array
                    .map_overlap(&depth, boundary, move |wide| crate::neighbours::call(wide, margin.clone()));
                self.push(made, false, json!({"op": "neighbours", "x": x, "depth": depth, "mode": mode}));
            }
            2 => {
                let made = with_any!(value, array => Value::from(array.cumsum_flat()));
                self.push(made, exact && integer, json!({"op": "cumsum", "x": x, "axis": null}));
            }
            3 => {
                let Value::F64(array) = value else { return };
                let made = array.map_blocks(crate::twice::call);
                self.push(made, exact, json!({"op": "add", "x": x, "y": x}));
            }
            _ => {
                let made = with_any!(value, array => Value::from(array.cumsum(axis as isize)));
                self.push(made, exact && integer, json!({"op": "cumsum", "x": x, "axis": axis}));
            }
        }
    }

    fn product(&mut self, x: usize) {
        let Entry { value, exact } = &self.entries[x];
        let (exact, shape) = (*exact, value.shape());
        macro_rules! numeric {
            ($array:ident => $body:expr) => {
                match value {
                    Value::U8($array) => Value::from($body),
                    Value::I32($array) => Value::from($body),
                    Value::I64($array) => Value::from($body),
                    Value::F32($array) => Value::from($body),
                    Value::F64($array) => Value::from($body),
                    Value::Complex64($array) => Value::from($body),
                    _ => return,
                }
            };
        }
        match (shape.len(), self.dice.below(3)) {
            (_, 0) => {
                let bins = 1 + self.dice.below(9);
                let Some(made) = with_real!(value, array => array.histogram(bins, -10.0, 10.0)) else {
                    return;
                };
                if !exact {
                    return;
                }
                self.push(
                    made,
                    true,
                    json!({"op": "histogram", "x": x, "bins": bins, "low": -10.0, "high": 10.0}),
                );
            }
            (1 | 2, _) => {
                let turned = numeric!(array => array.t());
                let order: Vec<usize> = (0..shape.len()).rev().collect();
                let at = self.entries.len();
                let made = numeric!(array => array.matmul(&array.t()));
                self.push(turned, exact, json!({"op": "permute", "x": x, "order": order}));
                let exact = exact && matches!(made, Value::U8(_) | Value::I32(_) | Value::I64(_));
                self.push(made, exact, json!({"op": "matmul", "x": x, "y": at}));
            }
            (3, _) => {
                let axes: Vec<isize> = if self.dice.below(2) == 0 { vec![2, 0] } else { vec![1] };
                let made = numeric!(array => array.tensordot(array, &axes, &axes));
                let exact = exact && matches!(made, Value::U8(_) | Value::I32(_) | Value::I64(_));
                self.push(
                    made,
                    exact,
                    json!({"op": "tensordot", "x": x, "y": x, "axes_x": axes, "axes_y": axes}),
                );
            }
            _ => {
                let Value::F64(array) = value else { return };
                let made = array.norm();
                self.push(made, false, json!({"op": "norm", "x": x}));
            }
        }
    }
}
