//! Reductions along axes and of whole arrays, running sums, and histograms.

use std::sync::Arc;

use num_complex::Complex64;
use smallvec::{SmallVec, smallvec};

use super::Array;
use super::elementwise::{Numeric, Ordered, Real, apply, cast};
use super::graph::grid::{Bounds, Grid, whole};
use super::graph::node::{Kind, Node};
use super::graph::window::Run;
use super::select::{axis_of, without};
use super::task::ops::{Binary, Op, Part, Unary};
use super::task::program::{Extreme, dense_strides};
use crate::model::numbers::{Dtype, Element};

/// Axes by their numbers; negative ones count from the last: `0`, `-1`, `[0, 2]`.
pub trait Axes {
    #[doc(hidden)]
    fn numbers(&self) -> Vec<isize>;
}

impl Axes for i32 {
    fn numbers(&self) -> Vec<isize> {
        vec![*self as isize]
    }
}

impl Axes for isize {
    fn numbers(&self) -> Vec<isize> {
        vec![*self]
    }
}

impl Axes for usize {
    fn numbers(&self) -> Vec<isize> {
        vec![*self as isize]
    }
}

impl<const N: usize> Axes for [isize; N] {
    fn numbers(&self) -> Vec<isize> {
        self.to_vec()
    }
}

impl Axes for &[isize] {
    fn numbers(&self) -> Vec<isize> {
        self.to_vec()
    }
}

/// Which axes are reduced: one flag each.
type Flags = SmallVec<[bool; 4]>;

fn flags(node: &Node, axes: Option<&[isize]>) -> Result<Flags, String> {
    let Some(axes) = axes else { return Ok(SmallVec::from_elem(true, node.shape.len())) };
    let mut flags = SmallVec::from_elem(false, node.shape.len());
    for axis in axes {
        let axis = axis_of(node, *axis)?;
        if flags[axis] {
            return Err(format!("axis {axis} is named twice"));
        }
        flags[axis] = true;
    }
    Ok(flags)
}

/// The grid of a reduction whose axes stay with extent 1.
fn kept_grid(of: &Node, axes: &[bool]) -> Vec<Bounds> {
    let bounds = of.grid.axes().iter().zip(axes);
    bounds.map(|(bounds, reduced)| if *reduced { whole(1) } else { bounds.clone() }).collect()
}

fn folded(of: &Arc<Node>, op: Binary, axes: Option<&[isize]>) -> Result<Arc<Node>, String> {
    let axes = flags(of, axes)?;
    let grid = Grid::new(kept_grid(of, &axes));
    let node = Node::new(of.dtype, grid, Kind::Folded { of: of.clone(), op, axes: axes.clone() });
    Ok(without(&node, &axes))
}

/// Reductions that have no value for no elements.
fn filled(of: &Node, axes: Option<&[isize]>, name: &str) -> Result<(), String> {
    let empty = flags(of, axes)?.iter().zip(&of.shape).any(|(reduced, extent)| *reduced && *extent == 0);
    if empty {
        Err(format!("an array of shape {:?} has no {name}: it has no elements", &of.shape[..]))
    } else {
        Ok(())
    }
}

/// A reduction of the whole array, and one along axes.
macro_rules! reductions {
    ($($(#[$doc:meta])* $whole:ident $along:ident -> $result:ty, $reduce:expr;)*) => {
        $(
            $(#[$doc])*
            #[track_caller]
            pub fn $whole(&self) -> Array<$result> {
                self.then(|of| $reduce(of, None))
            }

            #[doc = concat!("As [`", stringify!($whole), "`](Self::", stringify!($whole), "), along axes, which go away.")]
            #[track_caller]
            pub fn $along(&self, axes: impl Axes) -> Array<$result> {
                self.then(|of| $reduce(of, Some(&axes.numbers())))
            }
        )*
    };
}

impl<T: Numeric> Array<T> {
    reductions! {
        /// The sum. `f32` is summed as `f64`, integers and masks as `i64`.
        sum sum_axis -> T::Sum, |of: &Arc<Node>, axes: Option<&[isize]>| {
            cast(&folded(&cast(of, T::WIDE)?, Binary::Add, axes)?, T::Sum::DTYPE)
        };
        /// The product.
        prod prod_axis -> T::Sum, |of: &Arc<Node>, axes: Option<&[isize]>| {
            cast(&folded(&cast(of, T::WIDE)?, Binary::Mul, axes)?, T::Sum::DTYPE)
        };
        /// The mean; NaN of no elements.
        mean mean_axis -> T::Mean, |of: &Arc<Node>, axes: Option<&[isize]>| {
            let sum = folded(&cast(of, T::WIDE_MEAN)?, Binary::Add, axes)?;
            let count = counted(of, &flags(of, axes)?);
            let mean = match T::WIDE_MEAN {
                Dtype::Complex64 => (Array::<Complex64>::of(sum) / Complex64::new(count, 0.0)).node,
                _ => (Array::<f64>::of(sum) / count).node,
            };
            cast(&mean.map_err(|reason| reason.to_string())?, T::Mean::DTYPE)
        };
    }

    /// Sums of the elements up to each place along an axis.
    #[track_caller]
    pub fn cumsum(&self, axis: isize) -> Array<T::Sum> {
        self.then(|of| running::<T>(of, Binary::Add, axis))
    }

    /// Sums of the elements up to each place, counted by rows: an array of one axis.
    #[track_caller]
    pub fn cumsum_flat(&self) -> Array<T::Sum> {
        self.reshape([self.len()]).cumsum(0)
    }

    /// Products of the elements up to each place along an axis.
    #[track_caller]
    pub fn cumprod(&self, axis: isize) -> Array<T::Sum> {
        self.then(|of| running::<T>(of, Binary::Mul, axis))
    }
}

impl<T: Ordered> Array<T> {
    reductions! {
        /// The smallest element; NaN if there is one.
        min min_axis -> T, |of: &Arc<Node>, axes: Option<&[isize]>| {
            filled(of, axes, "minimum")?;
            folded(of, Binary::Minimum, axes)
        };
        /// The largest element; NaN if there is one.
        max max_axis -> T, |of: &Arc<Node>, axes: Option<&[isize]>| {
            filled(of, axes, "maximum")?;
            folded(of, Binary::Maximum, axes)
        };
        /// The mean of the squared differences from the mean: the variance of a population.
        var var_axis -> T::Mean, |of: &Arc<Node>, axes: Option<&[isize]>| variance::<T>(of, axes, 0.0);
        /// The square root of the variance.
        std std_axis -> T::Mean, |of: &Arc<Node>, axes: Option<&[isize]>| deviation::<T>(of, axes, 0.0);
    }

    /// The variance along axes, where the sum of squared differences is divided by the number of elements less `ddof`: 1
    /// for a sample.
    #[track_caller]
    pub fn var_ddof(&self, axes: impl Axes, ddof: f64) -> Array<T::Mean> {
        self.then(|of| variance::<T>(of, Some(&axes.numbers()), ddof))
    }

    /// The square root of [`var_ddof`](Self::var_ddof).
    #[track_caller]
    pub fn std_ddof(&self, axes: impl Axes, ddof: f64) -> Array<T::Mean> {
        self.then(|of| deviation::<T>(of, Some(&axes.numbers()), ddof))
    }

    /// The place of the smallest element, counted by rows: the first one; that of a NaN if there is one.
    #[track_caller]
    pub fn argmin(&self) -> Array<i64> {
        self.then(|of| best(of, Extreme::Smallest, None))
    }

    /// The place of the smallest element along an axis, which goes away.
    #[track_caller]
    pub fn argmin_axis(&self, axis: isize) -> Array<i64> {
        self.then(|of| best(of, Extreme::Smallest, Some(axis)))
    }

    /// The place of the largest element, counted by rows: the first one; that of a NaN if there is one.
    #[track_caller]
    pub fn argmax(&self) -> Array<i64> {
        self.then(|of| best(of, Extreme::Largest, None))
    }

    /// The place of the largest element along an axis, which goes away.
    #[track_caller]
    pub fn argmax_axis(&self, axis: isize) -> Array<i64> {
        self.then(|of| best(of, Extreme::Largest, Some(axis)))
    }
}

impl<T: Real> Array<T> {
    /// How many elements are in each of `bins` intervals of equal width from `low` to `high`; the last one includes
    /// its end, and what lies outside is not counted.
    #[track_caller]
    pub fn histogram(&self, bins: usize, low: f64, high: f64) -> Array<i64> {
        self.then(|of| {
            if bins == 0 || low >= high || !(high - low).is_finite() {
                return Err(format!("{low} to {high} is not cut into {bins} intervals"));
            }
            let of = cast(of, Dtype::F64)?;
            Ok(Node::new(Dtype::I64, Grid::whole(&[bins]), Kind::Histogram { of, low, high, bins }))
        })
    }
}

impl<T: Element> Array<T> {
    reductions! {
        /// Whether an element is true, or not zero.
        any any_axis -> bool, |of: &Arc<Node>, axes: Option<&[isize]>| {
            folded(&cast(of, Dtype::Bool)?, Binary::Or, axes)
        };
        /// Whether all elements are true, or not zero.
        all all_axis -> bool, |of: &Arc<Node>, axes: Option<&[isize]>| {
            folded(&cast(of, Dtype::Bool)?, Binary::And, axes)
        };
    }
}

impl<T: Real> Array<T> {
    /// The square root of the sum of squares.
    #[track_caller]
    pub fn norm(&self) -> Array<T::Mean> {
        // The squares are summed as f64, so that those of an f32 stay finite, and those of an integer do not wrap.
        self.then(|of| {
            let wide = Array::<f64>::of(cast(of, Dtype::F64)?);
            let norm = wide.square().sum().sqrt().node.map_err(|reason| reason.to_string())?;
            cast(&norm, T::Mean::DTYPE)
        })
    }
}

impl Array<Complex64> {
    reductions! {
        /// The mean of the squared distances from the mean: the sum of the variances of the parts.
        var var_axis -> f64, |of: &Arc<Node>, axes: Option<&[isize]>| {
            let parts = [Part::Real, Part::Imaginary].map(|part| {
                let part = apply(Dtype::F64, Op::Part(part), smallvec![of.clone()])?;
                variance_f64(&part, axes, 0.0)
            });
            let [re, im] = parts;
            apply(Dtype::F64, Op::Binary(Binary::Add), smallvec![re?, im?])
        };
        /// The square root of the variance.
        std std_axis -> f64, |of: &Arc<Node>, axes: Option<&[isize]>| {
            let of = Array::<Complex64>::of(of.clone());
            let variance = match axes {
                None => of.var(),
                Some(axes) => of.var_axis(axes),
            };
            variance.sqrt().node.map_err(|reason| reason.to_string())
        };
    }

    /// The square root of the sum of squared magnitudes.
    #[track_caller]
    pub fn norm_complex(&self) -> Array<f64> {
        (self.re().square() + self.im().square()).sum().sqrt()
    }
}

/// How many elements each result of a reduction is made of.
fn counted(of: &Node, axes: &[bool]) -> f64 {
    of.shape.iter().zip(axes).filter(|(_, reduced)| **reduced).map(|(extent, _)| *extent as f64).product()
}

fn variance<T: Numeric>(of: &Arc<Node>, axes: Option<&[isize]>, ddof: f64) -> Result<Arc<Node>, String> {
    cast(&variance_f64(of, axes, ddof)?, T::Mean::DTYPE)
}

fn deviation<T: Numeric>(of: &Arc<Node>, axes: Option<&[isize]>, ddof: f64) -> Result<Arc<Node>, String> {
    let variance = variance_f64(of, axes, ddof)?;
    let root = apply(Dtype::F64, Op::Unary(Unary::Sqrt), smallvec![variance])?;
    cast(&root, T::Mean::DTYPE)
}

fn variance_f64(of: &Arc<Node>, axes: Option<&[isize]>, ddof: f64) -> Result<Arc<Node>, String> {
    let axes = flags(of, axes)?;
    let count = counted(of, &axes);
    let of = cast(of, Dtype::F64)?;
    let mut bounds: Vec<Bounds> = vec![whole(3)];
    bounds.extend(kept_grid(&of, &axes));
    let moments = Node::new(Dtype::F64, Grid::new(bounds), Kind::Moments { of, axes: axes.clone() });
    // Squared differences are the last of the three.
    let mut gone: Flags = smallvec![true];
    gone.extend_from_slice(&axes);
    let squares = third(&moments, &gone);
    (Array::<f64>::of(squares) / (count - ddof).max(0.0)).node.map_err(|reason| reason.to_string())
}

/// Index 2 of the first axis, without the axes that are gone.
fn third(moments: &Arc<Node>, gone: &[bool]) -> Arc<Node> {
    let mut bounds = Vec::new();
    let mut runs = Vec::new();
    for (axis, gone) in gone.iter().enumerate() {
        if *gone {
            runs.push(Run::fixed(if axis == 0 { 2 } else { 0 }));
        } else {
            runs.push(Run { start: 0, step: 1, along: Some(bounds.len()) });
            bounds.push(moments.grid.axis(axis).clone());
        }
    }
    moments.select(runs, Grid::new(bounds))
}

fn best(of: &Arc<Node>, which: Extreme, axis: Option<isize>) -> Result<Arc<Node>, String> {
    let axis = axis.map(|axis| [axis]);
    let axes = axis.as_ref().map(|axis| &axis[..]);
    filled(of, axes, if which == Extreme::Smallest { "smallest element" } else { "largest element" })?;
    let axes = flags(of, axes)?;
    let strides = match axis {
        None => dense_strides(&of.shape),
        Some(_) => SmallVec::from_elem(1, of.shape.len()),
    };
    let grid = Grid::new(kept_grid(of, &axes));
    let node = Node::new(Dtype::I64, grid, Kind::Best { of: of.clone(), axes: axes.clone(), which, strides });
    Ok(without(&node, &axes))
}

fn running<T: Numeric>(of: &Arc<Node>, op: Binary, axis: isize) -> Result<Arc<Node>, String> {
    let axis = axis_of(of, axis)?;
    let of = cast(of, T::WIDE)?;
    let node = Node::new(T::WIDE, of.grid.clone(), Kind::Running { of, op, axis });
    cast(&node, T::Sum::DTYPE)
}
