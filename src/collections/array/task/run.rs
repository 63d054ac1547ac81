//! Runs a task of an array: reads its [`Work`] and its inputs, and makes a value of what comes out.

use std::any::Any;
use std::sync::Arc;

use ndarray::{ArrayView2, ArrayViewMut2, Ix2, ShapeBuilder};
use num_complex::Complex64;

use super::best::Best;
use super::evaluate::{Evaluation, Loaded, STRIP, check_reach};
use super::fold::{self, Cascade, Moments};
use super::kernels::Kernels;
use super::ops::Binary;
use super::program::{Extreme, InputKind, Job, Load, Program, Term, Work};
use crate::model::block::{Block, Shape};
use crate::model::error::{ErrorKind, TaskError};
use crate::model::numbers::{Dtype, Numbers, NumbersMut, for_dtype};
use crate::model::value::{Data, Value};
use crate::registry::arguments::ArgumentReader;

/// What a task was given.
struct Inputs {
    blocks: Vec<Loaded>,
    /// `Best`s of some type.
    bests: Vec<Box<dyn Any>>,
}

/// Does what the first argument says with the others.
pub(super) fn run(reader: &mut ArgumentReader<'_>) -> Result<Value, TaskError> {
    let work = reader.take::<Work>("work")?;
    let mut inputs = Inputs { blocks: Vec::new(), bests: Vec::new() };
    for kind in &work.inputs {
        match *kind {
            InputKind::Block(dtype) => for_dtype!(dtype, Number => {
                inputs.blocks.push(Loaded::of(&*reader.take::<Block<Number>>("block")?));
            }),
            InputKind::Best(dtype) => for_dtype!(dtype, Number => {
                inputs.bests.push(Box::new(reader.take::<Best<Number>>("part")?.share()));
            }),
        }
    }
    reader.finish()?;
    do_job(&work.job, &inputs).map_err(|reason| TaskError::new(ErrorKind::Error, reason))
}

fn do_job(job: &Job, inputs: &Inputs) -> Result<Value, String> {
    let blocks = &inputs.blocks;
    match job {
        Job::Evaluate { program, shape } => for_dtype!(dtype(program)?, Number => {
            Ok(Value::new(Evaluation::new(program, blocks)?.block::<Number>(shape)?))
        }),
        Job::Fold { program, op, axes } => for_dtype!(dtype(program)?, Number => {
            Ok(Value::new(fold_block::<Number>(program, *op, axes, blocks)?))
        }),
        Job::Moments { program, reduced, shape } => moments(program, *reduced, shape, blocks).map(Value::new),
        Job::MergeMoments => merge_moments(blocks).map(Value::new),
        Job::Best { program, which, place, shape } => for_dtype!(dtype(program)?, Number => {
            let numbers = Evaluation::new(program, blocks)?.block::<Number>(&program.shape)?;
            let kept = program.shape.len().checked_sub(place.strides.len()).ok_or("a row has too many axes")?;
            let best = Best::of_rows(numbers.numbers(), &program.shape[kept..], place, *which, shape)?;
            Ok(Value::new(best))
        }),
        Job::MergeBest { which, last } => merge_best(inputs, *which, *last),
        Job::Histogram { program, low, high, bins } => {
            histogram(Evaluation::new(program, blocks)?, *low, *high, *bins).map(Value::new)
        }
        Job::Accumulate { program, op, axis, carried } => for_dtype!(dtype(program)?, Number => {
            Ok(Value::new(accumulate::<Number>(program, *op, *axis, *carried, blocks)?))
        }),
        Job::Multiply { dtype, rows, columns, terms } => match dtype {
            Dtype::F32 => multiply::<f32>(*rows, *columns, terms, blocks).map(Value::new),
            Dtype::F64 => multiply::<f64>(*rows, *columns, terms, blocks).map(Value::new),
            Dtype::Complex64 => multiply::<Complex64>(*rows, *columns, terms, blocks).map(Value::new),
            Dtype::I32 => multiply_integers(*rows, *columns, terms, blocks, |sum: i32, x, y| {
                sum.wrapping_add(x.wrapping_mul(y))
            })
            .map(Value::new),
            Dtype::I64 => multiply_integers(*rows, *columns, terms, blocks, |sum: i64, x, y| {
                sum.wrapping_add(x.wrapping_mul(y))
            })
            .map(Value::new),
            Dtype::U8 => multiply_integers(*rows, *columns, terms, blocks, |sum: u8, x, y| {
                sum.wrapping_add(x.wrapping_mul(y))
            })
            .map(Value::new),
            Dtype::Bool => Err(format!("matrices of {dtype} are not multiplied")),
        },
    }
}

fn dtype(program: &Program) -> Result<Dtype, String> {
    program.steps.last().map(|step| step.dtype).ok_or_else(|| "a program has no steps".to_owned())
}

fn fold_block<T: Kernels>(
    program: &Program,
    op: Binary,
    axes: &[bool],
    inputs: &[Loaded],
) -> Result<Block<T>, String> {
    if axes.len() != program.shape.len() {
        return Err("a fold has other axes than its program".to_owned());
    }
    let mut shape = program.shape.clone();
    let evaluation = Evaluation::new(program, inputs)?;
    if axes.iter().all(|folded| *folded) {
        let mut cascade = Cascade::new();
        evaluation.each(|strip: &[T]| {
            if !strip.is_empty() {
                cascade.push(fold::fold_slice(op, strip)?, fold::combine::<T>(op));
            }
            Ok(())
        })?;
        let number = match cascade.finish(fold::combine::<T>(op)) {
            Some(number) => number,
            None => fold::fold_slice(op, &[])?,
        };
        return Block::new(Shape::from_elem(1, shape.len()), vec![number]);
    }
    let mut block = evaluation.block::<T>(&program.shape)?;
    for axis in (0..axes.len()).filter(|axis| axes[*axis]) {
        let (outer, inner) =
            (shape[..axis].iter().product::<usize>(), shape[axis + 1..].iter().product::<usize>());
        let mut out = NumbersMut::<T>::for_overwrite(outer * inner);
        fold::fold_axis(op, block.numbers(), [outer, shape[axis], inner], &mut out)?;
        shape[axis] = 1;
        block = Block::new(&shape, out.freeze())?;
    }
    Ok(block)
}

fn moments(
    program: &Program,
    reduced: usize,
    shape: &[usize],
    inputs: &[Loaded],
) -> Result<Block<f64>, String> {
    let kept = program.shape.len().checked_sub(reduced).ok_or("a row has more axes than the block")?;
    let rows: usize = program.shape[..kept].iter().product();
    let length: usize = program.shape[kept..].iter().product();
    let evaluation = Evaluation::new(program, inputs)?;
    let mut found = Vec::with_capacity(rows);
    if rows == 1 {
        let mut cascade = Cascade::new();
        evaluation.each(|strip: &[f64]| {
            strip.chunks(STRIP).for_each(|strip| cascade.push(Moments::of(strip), Moments::merge));
            Ok(())
        })?;
        found.push(cascade.finish(Moments::merge).unwrap_or(Moments::NONE));
    } else if length == 0 {
        found.resize(rows, Moments::NONE);
    } else {
        let block = evaluation.block::<f64>(&program.shape)?;
        for row in block.numbers().chunks_exact(length) {
            let mut cascade = Cascade::new();
            row.chunks(STRIP).for_each(|strip| cascade.push(Moments::of(strip), Moments::merge));
            found.push(cascade.finish(Moments::merge).unwrap_or(Moments::NONE));
        }
    }
    moments_block(&found, shape)
}

fn moments_block(moments: &[Moments], shape: &[usize]) -> Result<Block<f64>, String> {
    let mut numbers = Vec::with_capacity(3 * moments.len());
    numbers.extend(moments.iter().map(|moments| moments.count));
    numbers.extend(moments.iter().map(|moments| moments.mean));
    numbers.extend(moments.iter().map(|moments| moments.squares));
    let mut whole = Shape::from_slice(&[3]);
    whole.extend_from_slice(shape);
    Block::new(whole, numbers)
}

fn merge_moments(parts: &[Loaded]) -> Result<Block<f64>, String> {
    let Some(first) = parts.first() else { return Err("no parts to put together".to_owned()) };
    let shape = first.shape().get(1..).ok_or("moments have an axis of 3")?;
    let mut merged: Option<Vec<Moments>> = None;
    for part in parts {
        let numbers = part.numbers::<f64>()?;
        if part.shape() != first.shape() || part.shape()[0] != 3 {
            return Err("parts of different shapes".to_owned());
        }
        let count = numbers.len() / 3;
        let moments = (0..count).map(|at| Moments {
            count: numbers[at],
            mean: numbers[count + at],
            squares: numbers[2 * count + at],
        });
        merged = Some(match merged {
            None => moments.collect(),
            Some(before) => {
                before.into_iter().zip(moments).map(|(before, part)| before.merge(part)).collect()
            }
        });
    }
    moments_block(&merged.unwrap_or_default(), shape)
}

fn merge_best(inputs: &Inputs, which: Extreme, last: bool) -> Result<Value, String> {
    let Some(first) = inputs.bests.first() else { return Err("no parts to put together".to_owned()) };
    macro_rules! merge {
        ($($number:ty)*) => {
            $(if first.is::<Arc<Best<$number>>>() {
                return merge_best_of::<$number>(inputs, which, last);
            })*
        };
    }
    merge!(bool u8 i32 i64 f32 f64);
    Err("numbers of this type have no order".to_owned())
}

fn merge_best_of<T: Kernels>(inputs: &Inputs, which: Extreme, last: bool) -> Result<Value, String>
where
    Best<T>: Data,
{
    let mut parts = inputs
        .bests
        .iter()
        .map(|part| part.downcast_ref::<Arc<Best<T>>>().ok_or_else(|| "parts of different types".to_owned()));
    let mut best = (**parts.next().ok_or("no parts to put together")??).clone();
    for part in parts {
        best = best.merge(part?, which)?;
    }
    Ok(if last { Value::new(best.places()) } else { Value::new(best) })
}

/// As NumPy counts: bins are half open, the last one is closed, and what lies outside is left out.
fn histogram(evaluation: Evaluation<'_>, low: f64, high: f64, bins: usize) -> Result<Block<i64>, String> {
    let mut counts = vec![0i64; bins];
    // (The last bit of an edge decides where a number on it is counted.)
    let width = (high - low) / bins as f64;
    let edge = |bin: usize| if bin == bins { high } else { low + bin as f64 * width };
    let scale = bins as f64 / (high - low);
    evaluation.each(|strip: &[f64]| {
        for x in strip.iter().filter(|x| **x >= low && **x <= high) {
            let mut bin = (((x - low) * scale) as usize).min(bins - 1);
            // The product may be off by one unit in the last place.
            if *x < edge(bin) {
                bin -= 1;
            } else if bin + 1 < bins && *x >= edge(bin + 1) {
                bin += 1;
            }
            counts[bin] += 1;
        }
        Ok(())
    })?;
    Block::new([bins], counts)
}

fn accumulate<T: Kernels>(
    program: &Program,
    op: Binary,
    axis: usize,
    carried: bool,
    inputs: &[Loaded],
) -> Result<Block<T>, String> {
    let shape = &program.shape;
    if axis >= shape.len() {
        return Err(format!("a block of shape {shape:?} has no axis {axis}"));
    }
    let (inputs, carry) = match inputs.split_last() {
        Some((carry, inputs)) if carried => (inputs, Some(carry.numbers::<T>()?)),
        _ if carried => return Err("what was before is missing".to_owned()),
        _ => (inputs, None),
    };
    let (outer, inner) =
        (shape[..axis].iter().product::<usize>(), shape[axis + 1..].iter().product::<usize>());
    if carry.is_some_and(|carry| carry.len() != outer * inner) {
        return Err("what was before has another shape".to_owned());
    }
    let block = Evaluation::new(program, inputs)?.block::<T>(shape)?;
    let mut numbers = NumbersMut::<T>::for_overwrite(block.numbers().len());
    numbers.copy_from_slice(block.numbers());
    fold::accumulate(op, &mut numbers, [outer, shape[axis], inner], carry.map(|carry| &carry[..]))?;
    Block::new(shape, numbers.freeze())
}

fn multiply<T: Kernels + ndarray::LinalgScalar>(
    rows: usize,
    columns: usize,
    terms: &[Term],
    inputs: &[Loaded],
) -> Result<Block<T>, String> {
    let mut out = NumbersMut::<T>::zeroed(rows * columns);
    for term in terms {
        let (left, right) = (
            factor(rows, term.inner, &term.left, inputs)?,
            factor(term.inner, columns, &term.right, inputs)?,
        );
        let (left, right): (ArrayView2<'_, T>, _) =
            (left.view(rows, term.inner)?, right.view(term.inner, columns)?);
        let mut product =
            ArrayViewMut2::from_shape((rows, columns), &mut out).map_err(|error| error.to_string())?;
        ndarray::linalg::general_mat_mul(T::one(), &left, &right, T::one(), &mut product);
    }
    Block::new([rows, columns], out.freeze())
}

/// The same for numbers that wrap around, for which the kernel has nothing to offer.
fn multiply_integers<T: Kernels>(
    rows: usize,
    columns: usize,
    terms: &[Term],
    inputs: &[Loaded],
    add_product: impl Fn(T, T, T) -> T,
) -> Result<Block<T>, String> {
    let mut out = NumbersMut::<T>::zeroed(rows * columns);
    for term in terms {
        let left = factor::<T>(rows, term.inner, &term.left, inputs)?;
        let right = factor::<T>(term.inner, columns, &term.right, inputs)?;
        let (left, right) = (left.view(rows, term.inner)?, right.view(term.inner, columns)?);
        for (sums, left) in out.chunks_mut(columns.max(1)).zip(left.rows()) {
            for (x, right) in left.iter().zip(right.rows()) {
                sums.iter_mut().zip(right).for_each(|(sum, y)| *sum = add_product(*sum, *x, *y));
            }
        }
    }
    Block::new([rows, columns], out.freeze())
}

/// A factor as the kernel can read it.
struct Factor<T> {
    numbers: Numbers<T>,
    strides: [usize; 2],
}

impl<T: Kernels> Factor<T> {
    fn view(&self, rows: usize, columns: usize) -> Result<ArrayView2<'_, T>, String> {
        let shape = Ix2(rows, columns).strides(Ix2(self.strides[0], self.strides[1]));
        ArrayView2::from_shape(shape, &self.numbers).map_err(|error| error.to_string())
    }
}

/// A view that runs forwards is read where it is, as a transposed one; any other is copied.
fn factor<T: Kernels>(
    rows: usize,
    columns: usize,
    load: &Load,
    inputs: &[Loaded],
) -> Result<Factor<T>, String> {
    let shape = Shape::from_slice(&[rows, columns]);
    check_reach(&shape, load)?;
    let input = inputs.get(load.input as usize).ok_or("a factor is missing")?;
    let forwards = load.at.strides.iter().all(|stride| *stride > 0);
    if forwards && input.shape() == &load.of[..] {
        let numbers = input.numbers::<T>()?;
        let strides = [load.at.strides[0] as usize, load.at.strides[1] as usize];
        return Ok(Factor { numbers: numbers.slice(load.at.offset as usize..numbers.len()), strides });
    }
    let program = Program::of_load(T::DTYPE, shape, load.clone());
    let block: Block<T> = Evaluation::new(&program, inputs)?.block(&program.shape)?;
    Ok(Factor { numbers: block.numbers().clone(), strides: [columns.max(1), 1] })
}
