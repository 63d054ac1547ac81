//! Operations on single elements.

use super::*;

impl Program<'_> {
    pub(super) fn unary(&mut self, x: usize) {
        let Entry { value, exact } = &self.entries[x];
        let exact = *exact;
        macro_rules! floats {
            ($($name:literal $method:ident $jumps:literal)*) => {{
                let names = [$($name),*];
                let name = *self.dice.pick(&names);
                let jumps = match name { $($name => $jumps,)* _ => false };
                // Where a function is steep, a rounded operand has a result of its own.
                let steep = ["sqrt", "cbrt", "reciprocal", "tan", "arcsin", "arccos"].contains(&name);
                if (jumps || steep || name.starts_with("log")) && !exact {
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
        let real = value.is_float() && !matches!(value, Value::Complex64(_));
        if real && self.dice.below(4) > 0 {
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
        if let (Value::Complex64(z), true) = (value, self.dice.below(4) > 0) {
            return self.complex(x, z.clone());
        }
        let made: (Value, &str) = match (value, self.dice.below(8)) {
            (Value::Bool(array), _) => ((!array).into(), "logical_not"),
            (Value::U8(array), 0 | 1) => ((!array).into(), "invert"),
            (Value::I32(array), 0 | 1) => ((!array).into(), "invert"),
            (Value::I64(array), 0 | 1) => ((!array).into(), "invert"),
            (Value::I32(array), 2 | 3) => (array.abs().into(), "absolute"),
            (Value::I64(array), 2 | 3) => (array.sign().into(), "sign"),
            (_, 4..7) if !exact => return,
            (value, test @ 4..7) => {
                let name = ["isnan", "isinf", "isfinite"][test - 4];
                let made: Option<Value> = with_number!(value, array => match test {
                    4 => array.is_nan().into(),
                    5 => array.is_infinite().into(),
                    _ => array.is_finite().into(),
                });
                (made.expect("a number"), name)
            }
            (value, _) => match with_number!(value, array => ((-array).into(), "negative")) {
                Some(made) => made,
                None => return,
            },
        };
        self.push(made.0, exact, json!({"op": made.1, "x": x}));
    }

    /// The functions of complex numbers; those that jump or have a cut only of what is exact.
    fn complex(&mut self, x: usize, z: Array<Complex64>) {
        let exact = self.entries[x].exact;
        let (made, name, smooth): (Value, &str, bool) = match self.dice.below(11) {
            0 => (z.re().into(), "real", true),
            1 => (z.im().into(), "imag", true),
            2 => (z.conj().into(), "conjugate", true),
            3 => (z.magnitude().into(), "absolute", false),
            _ if !exact => return,
            4 => (z.angle().into(), "angle", false),
            5 => (z.csqrt().into(), "sqrt", false),
            6 => (z.cexp().into(), "exp", false),
            7 => (z.csin().into(), "sin", false),
            8 => (z.ccos().into(), "cos", false),
            9 => (z.cln().into(), "log", false),
            _ => (z.crecip().into(), "reciprocal", false),
        };
        self.push(made, exact && smooth, json!({"op": name, "x": x}));
    }

    /// Numbers kept inside an interval.
    pub(super) fn clip(&mut self, x: usize) {
        let Entry { value, exact } = &self.entries[x];
        let exact = *exact;
        let low = self.dice.below(9);
        let high = low + self.dice.below(9);
        let made: Option<Value> = match value {
            Value::U8(array) => Some(array.clip(low as u8, high as u8).into()),
            Value::I32(array) => Some(array.clip(low as i32, high as i32).into()),
            Value::I64(array) => Some(array.clip(low as i64, high as i64).into()),
            Value::F32(array) => Some(array.clip(low as f32, high as f32).into()),
            Value::F64(array) => Some(array.clip(low as f64, high as f64).into()),
            Value::Bool(_) | Value::Complex64(_) => None,
        };
        if let Some(made) = made {
            let dtype = made.dtype().to_string();
            self.push(made, exact, json!({"op": "clip", "x": x, "dtype": dtype, "low": low, "high": high}));
        }
    }

    pub(super) fn binary(&mut self, x: usize) {
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
            "power",
            "bitwise_and",
            "bitwise_or",
            "bitwise_xor",
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
            (@ ordered $a:ident $b:ident) => { (Value::Bool($a), Value::Bool($b)) };
            (# ordered $a:ident $b:ident $body:expr) => { Some(Value::from($body)) };
            (@ real $a:ident $b:ident) => { (Value::Complex64(_), Value::Complex64(_)) };
            (# real $a:ident $b:ident $body:expr) => { None };
        }
        let made = match op {
            "add" => same_type!(a, b, number => a + b),
            "subtract" => same_type!(a, b, number => a - b),
            "multiply" => same_type!(a, b, number => a * b),
            // (Infinite complex numbers have no agreed quotient.)
            "divide" if exact => same_type!(a, b, number => a / b),
            "divide" => same_type!(a, b, real => a / b),
            "minimum" => same_type!(a, b, ordered => a.minimum(b)),
            "maximum" => same_type!(a, b, ordered => a.maximum(b)),
            _ if !exact => return,
            "less" => same_type!(a, b, ordered => a.lt(b)),
            "less_equal" => same_type!(a, b, ordered => a.le(b)),
            "greater" => same_type!(a, b, ordered => a.gt(b)),
            "greater_equal" => same_type!(a, b, ordered => a.ge(b)),
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
            "hypot" | "arctan2" | "power" => {
                macro_rules! of_floats {
                    ($a:ident, $b:ident) => {
                        Some(match op {
                            "hypot" => $a.hypot($b).into(),
                            "arctan2" => $a.atan2($b).into(),
                            _ => $a.pow($b).into(),
                        })
                    };
                }
                match (&self.entries[x].value, &self.entries[y].value) {
                    (Value::F32(a), Value::F32(b)) => of_floats!(a, b),
                    (Value::F64(a), Value::F64(b)) => of_floats!(a, b),
                    _ => None,
                }
            }
            _ => {
                macro_rules! of_bits {
                    ($a:ident, $b:ident) => {
                        Some(match op {
                            "bitwise_and" => ($a & $b).into(),
                            "bitwise_or" => ($a | $b).into(),
                            _ => ($a ^ $b).into(),
                        })
                    };
                }
                match (&self.entries[x].value, &self.entries[y].value) {
                    (Value::U8(a), Value::U8(b)) => of_bits!(a, b),
                    (Value::I32(a), Value::I32(b)) => of_bits!(a, b),
                    (Value::I64(a), Value::I64(b)) => of_bits!(a, b),
                    _ => None,
                }
            }
        };
        if let Some(made) = made {
            // (The product of complex numbers is rounded in another order.)
            let exact =
                exact && !["hypot", "arctan2", "power"].contains(&op) && !matches!(made, Value::Complex64(_));
            self.push(made, exact, json!({"op": op, "x": x, "y": y}));
        }
    }

    pub(super) fn choose(&mut self, x: usize) {
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

    pub(super) fn cast(&mut self, x: usize) {
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
        // (Infinite and NaN as complex numbers have functions that no two libraries agree on.)
        let exact = *exact && !(value.is_float() && to == Dtype::Complex64);
        self.push(made, exact, json!({"op": "cast", "x": x, "dtype": to.to_string()}));
    }
}
