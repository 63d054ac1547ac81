//! Selections, other shapes, and arrays put together.

use super::*;

impl Program<'_> {
    pub(super) fn slice(&mut self, x: usize) {
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
            let (a, b) = (self.dice.below(extent + 1) as isize, self.dice.below(extent + 1) as isize);
            let (mut start, mut stop) = (a.min(b), a.max(b));
            match self.dice.below(8) {
                0 => stop += 1 + *extent as isize, // cut to the extent
                1 => stop -= *extent as isize + 1, // counted from the end
                2 => start -= *extent as isize + 3,
                _ => {}
            }
            let step = *self.dice.pick(&[1isize, 1, 1, 2, 3, -1, -2, -3]);
            parts.push(json!([start, stop, step]));
            elements.push(SliceInfoElem::Slice { start, end: Some(stop), step });
        }
        let made = with_any!(&self.entries[x].value, array => Value::from(array.slice(&elements)));
        let exact = self.entries[x].exact;
        self.push(made, exact, json!({"op": "slice", "x": x, "parts": parts}));
    }

    pub(super) fn shape(&mut self, x: usize) {
        let shape = self.entries[x].value.shape();
        let exact = self.entries[x].exact;
        let count: usize = shape.iter().product();
        let ndim = shape.len() as isize;
        let (made, step) = match self.dice.below(9) {
            0 => {
                let mut order: Vec<isize> = (0..ndim).collect();
                (1..order.len()).for_each(|at| order.swap(at, self.dice.below(at + 1)));
                order.iter_mut().for_each(|axis| *axis -= if self.dice.below(3) == 0 { ndim } else { 0 });
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
            5 if ndim > 0 => {
                let axis = self.dice.below(2 * shape.len()) as isize - ndim;
                let extent = shape[axis.rem_euclid(ndim) as usize];
                if extent == 0 {
                    return;
                }
                let index = self.dice.below(2 * extent) as isize - extent as isize;
                let made =
                    with_any!(&self.entries[x].value, array => Value::from(array.index_axis(axis, index)));
                (made, json!({"op": "take", "x": x, "axis": axis, "index": index}))
            }
            6 if ndim > 0 => {
                let [a, b] = [(); 2].map(|()| self.dice.below(2 * shape.len()) as isize - ndim);
                let made = with_any!(&self.entries[x].value, array => Value::from(array.swap_axes(a, b)));
                (made, json!({"op": "swapaxes", "x": x, "a": a, "b": b}))
            }
            7 => {
                let made = with_any!(&self.entries[x].value, array => Value::from(array.squeeze()));
                (made, json!({"op": "squeeze", "x": x}))
            }
            8 => {
                let made = with_any!(&self.entries[x].value, array => Value::from(array.flatten()));
                (made, json!({"op": "reshape", "x": x, "shape": [count]}))
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

    pub(super) fn join(&mut self, x: usize) {
        let (shape, dtype) = (self.entries[x].value.shape(), self.entries[x].value.dtype());
        let same = |entry: &Entry| entry.value.dtype() == dtype && entry.value.shape() == shape;
        let others: Vec<usize> = (0..self.entries.len()).filter(|at| same(&self.entries[*at])).collect();
        let of: Vec<usize> = (0..1 + self.dice.below(3)).map(|_| *self.dice.pick(&others)).collect();
        let exact = of.iter().all(|at| self.entries[*at].exact);
        let stack = shape.is_empty() || self.dice.below(2) == 0;
        let ndim = shape.len() + usize::from(stack);
        let axis = self.dice.below(2 * ndim) as isize - ndim as isize;
        macro_rules! join {
            ($($name:ident)*) => {
                match dtype {
                    $(Dtype::$name => {
                        let arrays = of.iter().filter_map(|at| match &self.entries[*at].value {
                            Value::$name(array) => Some(array),
                            _ => None,
                        });
                        Value::from(if stack { Array::stack(arrays, axis) } else { Array::concatenate(arrays, axis) })
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
}
