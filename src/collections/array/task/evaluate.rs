//! Runs a [`Program`]: all steps on one strip of places after the other, so that what is between them stays in a cache.
//!
//! An input that is read in its own order is not copied but looked at; anything else goes through a strip of its
//! step. [`Evaluation::block`] gives the whole result, [`Evaluation::each`] the strips to whoever folds them.

use std::any::Any;

use super::kernels::{self, Kernels};
use super::ops::{Op, Scalar};
use super::program::{Affine, Load, Part, Program, Step, What};
use super::random;
use crate::model::block::{Block, Shape, element_count};
use crate::model::numbers::{Dtype, Numbers, NumbersMut, for_dtype, same_type};

/// Places of a strip. Strips of a few steps fit in the first or second cache.
pub(crate) const STRIP: usize = 2048;

/// An input of a task.
pub(crate) struct Loaded {
    shape: Shape,
    dtype: Dtype,
    /// `Numbers` of that type.
    numbers: Box<dyn Any>,
}

impl Loaded {
    pub(crate) fn of<T: Kernels>(block: &Block<T>) -> Self {
        let shape = Shape::from_slice(block.shape());
        Self { shape, dtype: T::DTYPE, numbers: Box::new(block.numbers().clone()) }
    }

    pub(crate) fn numbers<T: Kernels>(&self) -> Result<&Numbers<T>, String> {
        self.numbers
            .downcast_ref()
            .ok_or_else(|| format!("an input has {} numbers, not {}", self.dtype, T::DTYPE))
    }

    pub(crate) fn shape(&self) -> &[usize] {
        &self.shape
    }
}

/// How the numbers of a step are come by.
enum Source {
    /// They are those of this run, from here on.
    Direct(Loaded, usize),
    /// Its strip is filled once and for all.
    Constant,
    /// Strip by strip.
    Computed,
}

/// A program at work.
pub(crate) struct Evaluation<'a> {
    program: &'a Program,
    inputs: &'a [Loaded],
    sources: Vec<Source>,
    /// A `Vec` of the step's type for each step that needs one.
    strips: Vec<Box<dyn Any>>,
    count: usize,
}

impl<'a> Evaluation<'a> {
    /// Checks the program against its inputs.
    pub(crate) fn new(program: &'a Program, inputs: &'a [Loaded]) -> Result<Self, String> {
        let count = count(&program.shape)?;
        let mut evaluation = Self { program, inputs, sources: Vec::new(), strips: Vec::new(), count };
        for step in &program.steps {
            let source = evaluation.source(step)?;
            let length = if matches!(source, Source::Direct(..)) { 0 } else { STRIP.min(count) };
            let strip = match (&source, &step.what) {
                (Source::Constant, What::Fill(scalar)) => filled(*scalar, length),
                (Source::Constant, What::Load(load)) => filled(evaluation.scalar(step.dtype, load)?, length),
                _ => {
                    for_dtype!(step.dtype, Number => Box::new(vec![Number::default(); length]) as Box<dyn Any>)
                }
            };
            evaluation.sources.push(source);
            evaluation.strips.push(strip);
        }
        if program.steps.is_empty() {
            return Err("a program has no steps".to_owned());
        }
        Ok(evaluation)
    }

    /// The result as a block of this shape, which has as many places as the program's. An input that is the result
    /// already is shared, unless most of it would be kept for nothing.
    pub(crate) fn block<T: Kernels>(mut self, shape: &[usize]) -> Result<Block<T>, String> {
        let last = self.program.steps.len() - 1;
        if let Source::Direct(loaded, start) = &self.sources[last] {
            let numbers = loaded.numbers::<T>()?;
            let part = *start..*start + self.count;
            return match self.count * 2 < numbers.len() {
                true => Block::new(shape, &numbers[part]),
                false => Block::new(shape, numbers.slice(part)),
            };
        }
        let mut out = NumbersMut::<T>::for_overwrite(self.count);
        let mut at = 0;
        for part in out.chunks_mut(STRIP) {
            self.strips_at(at, part.len(), last)?;
            match self.sources[last] {
                Source::Constant => part.copy_from_slice(self.operand(last, at, part.len())?),
                _ => self.compute(last, at, part)?,
            }
            at += part.len();
        }
        Block::new(shape, out.freeze())
    }

    /// Gives each strip of the result to `sink`; an input that is the result already in one piece.
    pub(crate) fn each<T: Kernels>(
        mut self,
        mut sink: impl FnMut(&[T]) -> Result<(), String>,
    ) -> Result<(), String> {
        let last = self.program.steps.len() - 1;
        if let Source::Direct(loaded, start) = &self.sources[last] {
            return sink(&loaded.numbers::<T>()?[*start..*start + self.count]);
        }
        for at in (0..self.count).step_by(STRIP) {
            let length = STRIP.min(self.count - at);
            self.strips_at(at, length, last + 1)?;
            sink(self.operand(last, at, length)?)?;
        }
        Ok(())
    }

    /// Fills the strips of the first `steps` steps.
    fn strips_at(&mut self, at: usize, length: usize, steps: usize) -> Result<(), String> {
        for step in 0..steps {
            if !matches!(self.sources[step], Source::Computed) {
                continue;
            }
            let mut strip = std::mem::replace(&mut self.strips[step], Box::new(()));
            for_dtype!(self.program.steps[step].dtype, Number => {
                let numbers = strip.downcast_mut::<Vec<Number>>().ok_or("a strip has another type")?;
                self.compute(step, at, &mut numbers[..length])?;
            });
            self.strips[step] = strip;
        }
        Ok(())
    }

    /// What `step` gives from place `at` on.
    fn compute<T: Kernels>(&self, step: usize, at: usize, out: &mut [T]) -> Result<(), String> {
        let shape = &self.program.shape;
        match &self.program.steps[step].what {
            What::Load(load) => {
                let numbers = self.input(load)?.numbers::<T>()?;
                walk(shape, &load.at, at, out.len(), |start, index, stride, run| {
                    let out = &mut out[start..start + run];
                    match stride {
                        1 => out.copy_from_slice(&numbers[index as usize..][..run]),
                        0 => out.fill(numbers[index as usize]),
                        _ => out
                            .iter_mut()
                            .enumerate()
                            .for_each(|(k, out)| *out = numbers[(index + k as i64 * stride) as usize]),
                    }
                });
            }
            What::Index(affine) => walk(shape, affine, at, out.len(), |start, index, stride, run| {
                for (k, out) in out[start..start + run].iter_mut().enumerate() {
                    *out = T::cast_from(index + k as i64 * stride);
                }
            }),
            What::Random { seed, distribution, at: affine } => {
                walk(shape, affine, at, out.len(), |start, index, stride, run| {
                    for (k, out) in out[start..start + run].iter_mut().enumerate() {
                        let index = (index + k as i64 * stride) as u64;
                        *out = T::cast_from(random::number(*seed, *distribution, index));
                    }
                });
            }
            What::Apply { op, of } => self.apply(*op, of, at, out)?,
            What::Fill(_) | What::Join(_) => return Err("a step is computed that was prepared".to_owned()),
        }
        Ok(())
    }

    fn apply<T: Kernels>(&self, op: Op, of: &[u32], at: usize, out: &mut [T]) -> Result<(), String> {
        let length = out.len();
        let operand = |position: usize| -> Result<usize, String> {
            of.get(position).map(|step| *step as usize).ok_or_else(|| format!("{op:?} lacks an operand"))
        };
        let first = operand(0)?;
        let fits = match op {
            Op::Unary(op) => T::unary(op, self.operand(first, at, length)?, out),
            Op::Binary(op) => {
                T::binary(op, self.operand(first, at, length)?, self.operand(operand(1)?, at, length)?, out)
            }
            Op::Compare(op) => {
                let (second, out) = (operand(1)?, as_type::<T, bool>(out)?);
                for_dtype!(self.dtype(first)?, Number => Number::compare(
                    op,
                    self.operand(first, at, length)?,
                    self.operand(second, at, length)?,
                    out,
                ))
            }
            Op::Test(op) => {
                let out = as_type::<T, bool>(out)?;
                for_dtype!(self.dtype(first)?, Number => Number::test(op, self.operand(first, at, length)?, out))
            }
            Op::Part(op) => {
                kernels::part(op, self.operand(first, at, length)?, as_type::<T, f64>(out)?);
                true
            }
            Op::Select => {
                let (second, third) = (operand(1)?, operand(2)?);
                let mask = self.operand(first, at, length)?;
                kernels::select(
                    mask,
                    self.operand(second, at, length)?,
                    self.operand(third, at, length)?,
                    out,
                );
                true
            }
            Op::Cast => {
                for_dtype!(self.dtype(first)?, Number => {
                    kernels::cast::<Number, T>(self.operand(first, at, length)?, out);
                });
                true
            }
        };
        if fits { Ok(()) } else { Err(format!("{op:?} is not for {}", T::DTYPE)) }
    }

    /// The numbers of an earlier step from place `at` on.
    fn operand<T: Kernels>(&self, step: usize, at: usize, length: usize) -> Result<&[T], String> {
        match self.sources.get(step) {
            Some(Source::Direct(loaded, start)) => Ok(&loaded.numbers::<T>()?[start + at..][..length]),
            Some(_) => match self.strips[step].downcast_ref::<Vec<T>>() {
                Some(strip) => Ok(&strip[..length]),
                None => Err(format!("step {step} does not give {} numbers", T::DTYPE)),
            },
            None => Err(format!("step {step} is used before it is there")),
        }
    }

    fn dtype(&self, step: usize) -> Result<Dtype, String> {
        self.program.steps.get(step).map(|step| step.dtype).ok_or_else(|| format!("there is no step {step}"))
    }

    fn source(&self, step: &Step) -> Result<Source, String> {
        Ok(match &step.what {
            What::Load(load) => {
                let input = self.input(load)?;
                check_reach(&self.program.shape, load)?;
                let dense = Affine::dense(&self.program.shape);
                let mut extents = self.program.shape.iter().zip(&load.at.strides).zip(&dense.strides);
                if self.count == 0 || extents.all(|((extent, stride), dense)| *extent == 1 || stride == dense)
                {
                    let copy = for_dtype!(input.dtype, Number => Loaded {
                        shape: input.shape.clone(),
                        dtype: input.dtype,
                        numbers: Box::new(input.numbers::<Number>()?.clone()),
                    });
                    Source::Direct(copy, if self.count == 0 { 0 } else { load.at.offset as usize })
                } else if load.at.strides.iter().all(|stride| *stride == 0) {
                    Source::Constant
                } else {
                    Source::Computed
                }
            }
            What::Fill(_) => Source::Constant,
            What::Join(parts) => {
                let shape = &self.program.shape;
                let joined =
                    for_dtype!(step.dtype, Number => Loaded::of(&join::<Number>(shape, parts, self.inputs)?));
                Source::Direct(joined, 0)
            }
            What::Index(_) | What::Random { .. } | What::Apply { .. } => Source::Computed,
        })
    }

    fn input(&self, load: &Load) -> Result<&'a Loaded, String> {
        let Some(input) = self.inputs.get(load.input as usize) else {
            return Err(format!("input {} is read, and there are {}", load.input, self.inputs.len()));
        };
        if input.shape != load.of {
            return Err(format!(
                "a block of shape {:?} is expected, and one of {:?} is there",
                load.of, input.shape
            ));
        }
        Ok(input)
    }

    fn scalar(&self, dtype: Dtype, load: &Load) -> Result<Scalar, String> {
        let input = self.input(load)?;
        for_dtype!(dtype, Number => Ok(Scalar::of(input.numbers::<Number>()?[load.at.offset as usize])))
    }
}

/// The number of places of a shape.
pub(crate) fn count(shape: &[usize]) -> Result<usize, String> {
    element_count(shape).ok_or_else(|| format!("a block of shape {shape:?} does not fit in memory"))
}

fn join<T: Kernels>(shape: &[usize], parts: &[Part], inputs: &[Loaded]) -> Result<Block<T>, String> {
    let mut out = NumbersMut::<T>::for_overwrite(count(shape)?);
    let strides = Affine::dense(shape).strides;
    for part in parts {
        let extents = &part.program.shape;
        let fits = part.at.len() == shape.len()
            && extents.len() == shape.len()
            && (0..shape.len()).all(|axis| part.at[axis] + extents[axis] <= shape[axis]);
        if !fits {
            return Err(format!("a part of shape {extents:?} at {:?} is not inside {shape:?}", part.at));
        }
        let offset = part.at.iter().zip(&strides).map(|(at, stride)| *at as i64 * stride).sum();
        let place = Affine { offset, strides: strides.clone() };
        let evaluation = Evaluation::new(&part.program, inputs)?;
        if let [Step { what: What::Load(load), .. }] = &part.program.steps[..] {
            // Straight from where it is to where it goes.
            copy(extents, (evaluation.input(load)?.numbers::<T>()?, &load.at), (&mut out, &place));
        } else {
            let block = evaluation.block::<T>(extents)?;
            copy(extents, (block.numbers(), &Affine::dense(extents)), (&mut out, &place));
        }
    }
    Block::new(shape, out.freeze())
}

/// Copies all places of `shape` from where one map says to where the other does.
fn copy<T: Kernels>(shape: &[usize], (from, source): (&[T], &Affine), (to, place): (&mut [T], &Affine)) {
    let length = shape.iter().product();
    walk_together(shape, [source, place], 0, length, |_, [from_at, to_at], strides, run| {
        if strides == [1, 1] {
            to[to_at as usize..][..run].copy_from_slice(&from[from_at as usize..][..run]);
        } else {
            (0..run as i64).for_each(|k| {
                to[(to_at + k * strides[1]) as usize] = from[(from_at + k * strides[0]) as usize];
            });
        }
    });
}

/// Places `at..at + length` of `shape` in row-major order, as runs: where the run begins among them, what the map
/// gives there, by how much it changes from place to place, and how long the run is.
pub(crate) fn walk(
    shape: &[usize],
    affine: &Affine,
    at: usize,
    length: usize,
    mut visit: impl FnMut(usize, i64, i64, usize),
) {
    walk_together(shape, [affine], at, length, |start, [index], [stride], run| {
        visit(start, index, stride, run);
    });
}

/// [`walk`] with several maps.
fn walk_together<const MAPS: usize>(
    shape: &[usize],
    maps: [&Affine; MAPS],
    at: usize,
    length: usize,
    mut visit: impl FnMut(usize, [i64; MAPS], [i64; MAPS], usize),
) {
    if length == 0 {
        return;
    }
    let Some((last, outer)) = shape.split_last() else {
        return visit(0, maps.map(|map| map.offset), [0; MAPS], 1);
    };
    let strides = maps.map(|map| map.strides[outer.len()]);
    let mut index = Shape::from_elem(0, outer.len());
    let mut rest = at / last;
    for (index, extent) in index.iter_mut().zip(outer).rev() {
        *index = rest % extent;
        rest /= extent;
    }
    let mut rows = maps.map(|map| {
        map.offset + index.iter().zip(&map.strides).map(|(at, step)| *at as i64 * step).sum::<i64>()
    });
    let mut column = at % last;
    let mut done = 0;
    while done < length {
        let run = (last - column).min(length - done);
        visit(done, std::array::from_fn(|map| rows[map] + column as i64 * strides[map]), strides, run);
        done += run;
        column = 0;
        for axis in (0..outer.len()).rev() {
            index[axis] += 1;
            for (row, map) in rows.iter_mut().zip(maps) {
                *row += map.strides[axis];
            }
            if index[axis] < outer[axis] {
                break;
            }
            for (row, map) in rows.iter_mut().zip(maps) {
                *row -= map.strides[axis] * outer[axis] as i64;
            }
            index[axis] = 0;
        }
    }
}

/// Every place must be inside the input.
pub(crate) fn check_reach(shape: &[usize], load: &Load) -> Result<(), String> {
    if load.at.strides.len() != shape.len() {
        return Err(format!("a map of {} axes reads a block of shape {shape:?}", load.at.strides.len()));
    }
    if shape.contains(&0) {
        return Ok(());
    }
    let (mut low, mut high) = (i128::from(load.at.offset), i128::from(load.at.offset));
    for (extent, stride) in shape.iter().zip(&load.at.strides) {
        let reach = (*extent as i128 - 1) * i128::from(*stride);
        low += reach.min(0);
        high += reach.max(0);
    }
    if low < 0 || high >= count(&load.of)? as i128 {
        return Err(format!("places {low} to {high} of a block of shape {:?} are read", load.of));
    }
    Ok(())
}

fn filled(scalar: Scalar, length: usize) -> Box<dyn Any> {
    match scalar {
        Scalar::Bool(x) => Box::new(vec![x; length]),
        Scalar::U8(x) => Box::new(vec![x; length]),
        Scalar::I32(x) => Box::new(vec![x; length]),
        Scalar::I64(x) => Box::new(vec![x; length]),
        Scalar::F32(x) => Box::new(vec![x; length]),
        Scalar::F64(x) => Box::new(vec![x; length]),
        Scalar::Complex64(x) => Box::new(vec![x; length]),
    }
}

/// The slice itself, if a `T` is a `U`.
fn as_type<T: Kernels, U: Kernels>(numbers: &mut [T]) -> Result<&mut [U], String> {
    same_type(numbers).ok_or_else(|| format!("a step of {} gives {}", T::DTYPE, U::DTYPE))
}
