//! Folds: sums, products, minima and the like of a slice or along an axis, moments, and how parts are put together.
//!
//! Everything is halved until little is left, so the error of a sum grows with the logarithm of its length. Moments
//! are merged by Chan, Golub and LeVeque (Updating formulae and a pairwise algorithm for computing sample variances,
//! 1979).

use super::kernels::Kernels;
use super::ops::Binary;

/// Numbers that are folded in one go, several of them side by side.
const RUN: usize = 512;
/// How many side by side.
const LANES: usize = 16;
/// Rows that are folded one after the other.
const ROWS: usize = 16;

/// Runs `$body` with `$f` as the function that `$op` means for numbers of type `$number`.
macro_rules! with_function {
    ($op:expr, $number:ty, $f:ident => $body:expr) => {{
        // A kernel of one element is its function; the loop over one goes away.
        macro_rules! function {
            ($binary:ident) => {{
                let $f = |x: $number, y: $number| {
                    let mut out = [x];
                    <$number as Kernels>::binary(Binary::$binary, &[x], &[y], &mut out);
                    out[0]
                };
                $body
            }};
        }
        match $op {
            Binary::Add => function!(Add),
            Binary::Mul => function!(Mul),
            Binary::Minimum => function!(Minimum),
            Binary::Maximum => function!(Maximum),
            Binary::And => function!(And),
            Binary::Or => function!(Or),
            other => Err(format!("{other:?} is no fold")),
        }
    }};
}

/// A whole slice; what the operation gives for nothing if it is empty.
pub(crate) fn fold_slice<T: Kernels>(op: Binary, numbers: &[T]) -> Result<T, String> {
    if numbers.is_empty() {
        return nothing(op);
    }
    with_function!(op, T, f => Ok(halves(numbers, &f)))
}

/// Each run of `inner` places along an axis of `along`, `outer` times: the middle axis of three goes.
pub(crate) fn fold_axis<T: Kernels>(
    op: Binary,
    numbers: &[T],
    [outer, along, inner]: [usize; 3],
    out: &mut [T],
) -> Result<(), String> {
    if along == 0 {
        if !out.is_empty() {
            out.fill(nothing(op)?);
        }
        return Ok(());
    }
    if out.is_empty() {
        return Ok(());
    }
    with_function!(op, T, f => {
        for at in 0..outer {
            let part = &numbers[at * along * inner..][..along * inner];
            let out = &mut out[at * inner..][..inner];
            match inner {
                1 => out[0] = halves(part, &f),
                _ => rows(part, inner, out, &f),
            }
        }
        Ok(())
    })
}

/// Running folds along the middle axis of three, in place; they begin with `carry` if there is one.
pub(crate) fn accumulate<T: Kernels>(
    op: Binary,
    numbers: &mut [T],
    [outer, along, inner]: [usize; 3],
    carry: Option<&[T]>,
) -> Result<(), String> {
    with_function!(op, T, f => {
        for at in 0..outer {
            let part = &mut numbers[at * along * inner..][..along * inner];
            if let (Some(carry), true) = (carry, along > 0) {
                let first = &mut part[..inner];
                first.iter_mut().zip(&carry[at * inner..]).for_each(|(x, carry)| *x = f(*carry, *x));
            }
            for row in 1..along {
                let (done, rest) = part.split_at_mut(row * inner);
                let before = &done[(row - 1) * inner..];
                rest[..inner].iter_mut().zip(before).for_each(|(x, before)| *x = f(*before, *x));
            }
        }
        Ok(())
    })
}

fn nothing<T: Kernels>(op: Binary) -> Result<T, String> {
    T::identity(op).ok_or_else(|| format!("the {op:?} of no numbers is not defined"))
}

fn halves<T: Copy>(numbers: &[T], f: &impl Fn(T, T) -> T) -> T {
    if numbers.len() > RUN {
        let (left, right) =
            numbers.split_at((numbers.len() / 2).next_multiple_of(RUN).min(numbers.len() - 1));
        return f(halves(left, f), halves(right, f));
    }
    let Some((first, rest)) = numbers.split_first_chunk::<LANES>() else {
        return numbers[1..].iter().fold(numbers[0], |sum, x| f(sum, *x));
    };
    let mut lanes = *first;
    let (chunks, tail) = rest.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = f(*lane, *x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *lane = f(*lane, *x);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = f(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Folds rows of `width` numbers into one.
fn rows<T: Copy>(numbers: &[T], width: usize, out: &mut [T], f: &impl Fn(T, T) -> T) {
    let count = numbers.len() / width;
    if count > ROWS {
        let (upper, lower) = numbers.split_at(count / 2 * width);
        rows(upper, width, out, f);
        let mut second = lower[..width].to_vec();
        rows(lower, width, &mut second, f);
        out.iter_mut().zip(&second).for_each(|(out, x)| *out = f(*out, *x));
        return;
    }
    out.copy_from_slice(&numbers[..width]);
    for row in numbers.chunks_exact(width).skip(1) {
        out.iter_mut().zip(row).for_each(|(out, x)| *out = f(*out, *x));
    }
}

/// Folds what comes one by one as if it were halved: sums of equal size are put together.
pub(crate) struct Cascade<T> {
    levels: Vec<Option<T>>,
}

impl<T: Copy> Cascade<T> {
    pub(crate) fn new() -> Self {
        Self { levels: Vec::new() }
    }

    pub(crate) fn push(&mut self, mut value: T, f: impl Fn(T, T) -> T) {
        for level in &mut self.levels {
            match level.take() {
                Some(before) => value = f(before, value),
                None => {
                    *level = Some(value);
                    return;
                }
            }
        }
        self.levels.push(Some(value));
    }

    pub(crate) fn finish(self, f: impl Fn(T, T) -> T) -> Option<T> {
        self.levels.into_iter().flatten().reduce(|later, earlier| f(earlier, later))
    }
}

/// Puts parts together in pairs.
pub(crate) fn combine<T: Kernels>(op: Binary) -> impl Fn(T, T) -> T {
    move |x, y| {
        let mut out = [x];
        T::binary(op, &[x], &[y], &mut out);
        out[0]
    }
}

/// Count, mean, and sum of squared differences from the mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moments {
    pub(crate) count: f64,
    pub(crate) mean: f64,
    pub(crate) squares: f64,
}

impl Moments {
    pub(crate) const NONE: Self = Self { count: 0.0, mean: 0.0, squares: 0.0 };

    /// Of a strip that fits in a cache: it is read twice.
    pub(crate) fn of(numbers: &[f64]) -> Self {
        if numbers.is_empty() {
            return Self::NONE;
        }
        let count = numbers.len() as f64;
        let mean = halves(numbers, &|x, y| x + y) / count;
        let mut squares = [0.0; LANES];
        for chunk in numbers.chunks(LANES) {
            for (sum, x) in squares.iter_mut().zip(chunk) {
                *sum += (x - mean) * (x - mean);
            }
        }
        Self { count, mean, squares: halves(&squares, &|x, y| x + y) }
    }

    pub(crate) fn merge(self, other: Self) -> Self {
        if self.count == 0.0 {
            return other;
        }
        if other.count == 0.0 {
            return self;
        }
        let count = self.count + other.count;
        let difference = other.mean - self.mean;
        Self {
            count,
            mean: self.mean + difference * (other.count / count),
            squares: self.squares
                + other.squares
                + difference * difference * (self.count * other.count / count),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sum_stays_exact_to_a_few_units_in_the_last_place() {
        let tenths = vec![0.1f64; 10_000_000];
        let sum = fold_slice(Binary::Add, &tenths).unwrap();
        assert!((sum - 1e6).abs() < 1e-8, "{sum}");
        let mut columns = [0.0; 2];
        fold_axis(Binary::Add, &tenths, [1, 5_000_000, 2], &mut columns).unwrap();
        assert!(columns.iter().all(|sum| (sum - 5e5).abs() < 1e-8), "{columns:?}");
    }

    #[test]
    fn every_length_is_folded_whole() {
        for length in 0..3000i64 {
            let numbers: Vec<i64> = (0..length).collect();
            assert_eq!(fold_slice(Binary::Add, &numbers).unwrap(), length * (length - 1) / 2);
        }
        assert!(fold_slice::<f64>(Binary::Minimum, &[]).is_err());
    }

    #[test]
    fn a_variance_of_large_numbers_close_together_is_not_lost() {
        let numbers: Vec<f64> = (0..10_000).map(|x| 1e9 + f64::from(x % 10)).collect();
        let mut cascade = Cascade::new();
        numbers.chunks(37).for_each(|part| cascade.push(Moments::of(part), Moments::merge));
        let whole = cascade.finish(Moments::merge).unwrap();
        assert_eq!(whole.count, 10_000.0);
        assert!((whole.squares / whole.count - 8.25).abs() < 1e-6, "{whole:?}");
    }

    #[test]
    fn running_folds_go_on_from_what_was_before() {
        let mut numbers = [1i64, 2, 3, 4, 5, 6];
        accumulate(Binary::Add, &mut numbers, [1, 3, 2], Some(&[10, 20])).unwrap();
        assert_eq!(numbers, [11, 22, 14, 26, 19, 32]);
    }
}
