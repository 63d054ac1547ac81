//! Reductions, running sums, products, and a program's own tasks on blocks.

use super::*;

impl Program<'_> {
    pub(super) fn reduce(&mut self, x: usize) {
        let Entry { value, exact } = &self.entries[x];
        let (exact, shape) = (*exact, value.shape());
        let axes: Option<Vec<isize>> = match self.dice.below(3) {
            0 => None,
            _ => {
                let mut axes: Vec<isize> =
                    (0..shape.len() as isize).filter(|_| self.dice.below(2) == 0).collect();
                let ndim = shape.len() as isize;
                axes.iter_mut().for_each(|axis| *axis -= if self.dice.below(3) == 0 { ndim } else { 0 });
                Some(axes)
            }
        };
        let ddof = self.dice.below(2);
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
            "var" | "std" => {
                macro_rules! spread {
                    ($array:ident, $whole:ident, $axis:ident, $ddof:ident) => {
                        match &axes {
                            Some(axes) if ddof > 0 => Some(Value::from($array.$ddof(&axes[..], ddof as f64))),
                            _ if ddof > 0 => None,
                            _ => Some(along!($array, $whole, $axis)),
                        }
                    };
                }
                match value {
                    Value::Complex64(_) if ddof > 0 => None,
                    Value::Complex64(z) if op == "var" => Some(along!(z, var, var_axis)),
                    Value::Complex64(z) => Some(along!(z, std, std_axis)),
                    _ if op == "var" => {
                        with_ordered!(value, array => spread!(array, var, var_axis, var_ddof)).flatten()
                    }
                    _ => with_ordered!(value, array => spread!(array, std, std_axis, std_ddof)).flatten(),
                }
            }
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
            let mut step = json!({"op": op, "x": x, "axes": axes, "ddof": ddof});
            if op.starts_with("arg") {
                step["axis"] = json!(axis);
            }
            self.push(made, exact && kept, step);
        }
    }

    pub(super) fn running(&mut self, x: usize) {
        let Entry { value, exact } = &self.entries[x];
        let (exact, shape, integer) = (*exact, value.shape(), !value.is_float());
        if shape.is_empty() {
            return;
        }
        let axis = self.dice.below(shape.len());
        match self.dice.below(5) {
            0 if integer || exact && shape.iter().product::<usize>() <= 40 => {
                let made = with_any!(value, array => Value::from(array.cumprod(axis as isize)));
                self.push(made, exact && integer, json!({"op": "cumprod", "x": x, "axis": axis}));
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

    pub(super) fn product(&mut self, x: usize) {
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
                let (bins, low) = (1 + self.dice.below(9), (self.dice.below(100) as f64 - 80.0) / 7.0);
                let high = low + (1 + self.dice.below(90)) as f64 / 10.0;
                let Some(made) = with_real!(value, array => array.histogram(bins, low, high)) else {
                    return;
                };
                if !exact {
                    return;
                }
                let step = json!({"op": "histogram", "x": x, "bins": bins, "low": low, "high": high});
                self.push(made, true, step);
            }
            (1 | 2, 1) => {
                let turned = numeric!(array => array.t());
                let order: Vec<usize> = (0..shape.len()).rev().collect();
                let at = self.entries.len();
                let made = numeric!(array => array.matmul(&array.t()));
                self.push(turned, exact, json!({"op": "permute", "x": x, "order": order}));
                let exact = exact && matches!(made, Value::U8(_) | Value::I32(_) | Value::I64(_));
                self.push(made, exact, json!({"op": "matmul", "x": x, "y": at}));
            }
            (1 | 2, _) => self.matmul(x),
            (3, _) => {
                let axes: Vec<isize> = if self.dice.below(2) == 0 { vec![2, 0] } else { vec![-2] };
                let made = numeric!(array => array.tensordot(array, &axes, &axes));
                let exact = exact && matches!(made, Value::U8(_) | Value::I32(_) | Value::I64(_));
                self.push(
                    made,
                    exact,
                    json!({"op": "tensordot", "x": x, "y": x, "axes_x": axes, "axes_y": axes}),
                );
            }
            _ => {
                let made: Value = match value {
                    Value::Complex64(z) => z.norm_complex().into(),
                    _ => match with_real!(value, array => array.norm().into()) {
                        Some(norm) => norm,
                        None => return,
                    },
                };
                self.push(made, false, json!({"op": "norm", "x": x}));
            }
        }
    }

    /// The product with another array that fits, cut in its own way; with any, over no axes or over one.
    fn matmul(&mut self, x: usize) {
        let (shape, dtype) = (self.entries[x].value.shape(), self.entries[x].value.dtype());
        let inner = shape[shape.len() - 1];
        let others: Vec<usize> = (0..self.entries.len())
            .filter(|at| {
                let other = &self.entries[*at].value;
                other.dtype() == dtype && matches!(other.shape()[..], [first] | [first, _] if first == inner)
            })
            .collect();
        let any: Vec<usize> =
            (0..self.entries.len()).filter(|at| self.entries[*at].value.dtype() == dtype).collect();
        let (y, outer) = if others.is_empty() || self.dice.below(4) == 0 {
            (*self.dice.pick(&any), true)
        } else {
            (*self.dice.pick(&others), false)
        };
        let elements = |at: usize| self.entries[at].value.shape().iter().product::<usize>();
        if outer && elements(x) * elements(y) > ELEMENTS_MAX {
            return;
        }
        macro_rules! product {
            ($($name:ident)*) => {
                match (&self.entries[x].value, &self.entries[y].value) {
                    $((Value::$name(a), Value::$name(b)) if outer => Value::from(a.tensordot(b, &[], &[])),)*
                    $((Value::$name(a), Value::$name(b)) => Value::from(a.matmul(b)),)*
                    _ => return,
                }
            };
        }
        let made = product!(U8 I32 I64 F32 F64 Complex64);
        let integer = matches!(made, Value::U8(_) | Value::I32(_) | Value::I64(_));
        let exact = self.entries[x].exact && self.entries[y].exact && integer;
        let empty: [isize; 0] = [];
        let step = match outer {
            true => json!({"op": "tensordot", "x": x, "y": y, "axes_x": empty, "axes_y": empty}),
            false => json!({"op": "matmul", "x": x, "y": y}),
        };
        self.push(made, exact, step);
    }

    /// A task of the program on pairs of blocks of two arrays, each cut in its own way.
    pub(super) fn zip(&mut self, x: usize) {
        let shape = self.entries[x].value.shape();
        let fits = |entry: &Entry| matches!(entry.value, Value::F64(_)) && entry.value.shape() == shape;
        let others: Vec<usize> = (0..self.entries.len()).filter(|at| fits(&self.entries[*at])).collect();
        if others.is_empty() || !fits(&self.entries[x]) {
            return;
        }
        let y = *self.dice.pick(&others);
        let (Value::F64(a), Value::F64(b)) = (&self.entries[x].value, &self.entries[y].value) else { return };
        let made = a.zip_blocks(b, crate::difference::call);
        let exact = self.entries[x].exact && self.entries[y].exact;
        self.push(made, exact, json!({"op": "subtract", "x": x, "y": y}));
    }
}
