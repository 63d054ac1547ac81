//! A block: a shape and the numbers in it, row by row. Arrays on a cluster are made of blocks.
//!
//! A block travels like its [`Numbers`]: one buffer, shared and not copied. `ndarray` sees it as a view.

use ndarray::{ArrayD, ArrayViewD, IxDyn};
use serde::de::{self, Deserialize, Deserializer};
use serde::{Deserialize as Derive, Serialize};
use smallvec::SmallVec;

use super::numbers::{Element, Numbers};

/// The extent of each axis.
pub type Shape = SmallVec<[usize; 4]>;

/// A dense n-dimensional block in row-major order; a clone shares the numbers.
///
/// ```
/// use dcluster::model::block::Block;
///
/// let block = Block::new([2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
/// assert_eq!(block.view()[[1, 2]], 6.0);
/// assert_eq!(block.view().sum(), 21.0);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(bound = "")]
pub struct Block<T: Element> {
    shape: Shape,
    numbers: Numbers<T>,
}

impl<T: Element> Block<T> {
    /// A block of this shape.
    ///
    /// # Errors
    /// The reason, if the numbers are not as many as the shape says.
    pub fn new(shape: impl AsRef<[usize]>, numbers: impl Into<Numbers<T>>) -> Result<Self, String> {
        let (shape, numbers) = (Shape::from_slice(shape.as_ref()), numbers.into());
        if element_count(&shape) != Some(numbers.len()) {
            return Err(format!("a block of shape {shape:?} does not have {} numbers", numbers.len()));
        }
        Ok(Self { shape, numbers })
    }

    /// A block without axes, of one number.
    pub fn scalar(number: T) -> Self {
        Self { shape: Shape::new(), numbers: Numbers::from([number].as_slice()) }
    }

    /// The extent of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The numbers, row by row.
    pub fn numbers(&self) -> &Numbers<T> {
        &self.numbers
    }

    /// The same numbers, shared, in another shape.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub fn reshaped(&self, shape: impl AsRef<[usize]>) -> Result<Self, String> {
        Self::new(shape, self.numbers.clone())
    }

    /// The only number of a block that has one; None otherwise.
    pub fn item(&self) -> Option<T> {
        match self.numbers[..] {
            [number] => Some(number),
            _ => None,
        }
    }

    /// The block as `ndarray` sees it.
    pub fn view(&self) -> ArrayViewD<'_, T> {
        ArrayViewD::from_shape(IxDyn(&self.shape), &self.numbers)
            .expect("a block has as many numbers as its shape says")
    }
}

/// Copies an array of any memory order.
impl<T: Element> From<&ArrayViewD<'_, T>> for Block<T> {
    fn from(array: &ArrayViewD<'_, T>) -> Self {
        let numbers = match array.as_slice() {
            Some(rows) => Numbers::from(rows),
            None => array.iter().copied().collect(),
        };
        Self { shape: Shape::from_slice(array.shape()), numbers }
    }
}

impl<T: Element> From<ArrayD<T>> for Block<T> {
    fn from(array: ArrayD<T>) -> Self {
        Self::from(&array.view())
    }
}

impl<'de, T: Element> Deserialize<'de> for Block<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Derive)]
        #[serde(rename = "Block", bound = "")]
        struct Received<T: Element> {
            shape: Shape,
            numbers: Numbers<T>,
        }
        let Received { shape, numbers } = Received::deserialize(deserializer)?;
        Self::new(shape, numbers).map_err(de::Error::custom)
    }
}

/// The number of elements of a shape, if all places of it can be numbered by an `i64`: axes of extent 0 count as one of
/// extent 1 for that, so that the order of the axes does not matter.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    let filled = shape.iter().try_fold(1usize, |count, extent| count.checked_mul((*extent).max(1)))?;
    i64::try_from(filled).ok().map(|_| if shape.contains(&0) { 0 } else { filled })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::Value;
    use crate::model::pack::pack;
    use crate::model::unpack::unpack;

    #[test]
    fn a_block_travels_as_the_buffer_that_it_is() {
        let block = Block::new([10, 10], vec![1.5f64; 100]).unwrap();
        let packed = Value::new(block.clone()).pack().unwrap();
        assert_eq!(packed.buffers[0].as_ptr(), block.numbers().as_ptr().cast());
        let back: Block<f64> = unpack(&packed).unwrap();
        assert_eq!(back, block);
        assert_eq!(back.numbers().as_ptr(), block.numbers().as_ptr());
    }

    #[test]
    fn a_shape_that_does_not_fit_is_refused_on_every_way_in() {
        assert!(Block::new([3, 3], vec![0u8; 8]).is_err());
        assert!(Block::new([usize::MAX, 2], vec![0u8; 8]).is_err());
        assert!(Block::<u8>::new([0, 1 << 20], vec![]).is_ok());
        for shape in [[0, 1 << 32, 1 << 32], [1 << 32, 1 << 32, 0]] {
            assert!(Block::<u8>::new(shape, vec![]).is_err(), "{shape:?}");
        }
        let packed = pack(&(vec![3usize, 3], vec![0.0f64; 8])).unwrap();
        let error = unpack::<Block<f64>>(&packed).unwrap_err().to_string();
        assert!(error.contains("a block of shape [3, 3] does not have 8 numbers"), "{error}");
    }

    #[test]
    fn an_array_in_another_memory_order_is_copied_by_rows() {
        let array = ArrayD::from_shape_fn(IxDyn(&[2, 3]), |at| (at[0] * 3 + at[1]) as i64);
        let block = Block::from(&array.t());
        assert_eq!((block.shape(), &block.numbers()[..]), ([3, 2].as_slice(), [0, 3, 1, 4, 2, 5].as_slice()));
        assert_eq!(Block::scalar(7i32).item(), Some(7));
        assert_eq!(block.item(), None);
    }
}
