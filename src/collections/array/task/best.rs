//! The smallest or largest of each row and where it is: parts of an `argmin` or `argmax` on their way up the tree.

use serde::de::{self, Deserialize, Deserializer};
use serde::{Deserialize as Derive, Serialize};

use super::kernels::Kernels;
use super::program::{Affine, Extreme};
use crate::model::block::Block;
use crate::model::numbers::Element;

/// The best number of each row, and its place in the whole array or along the axis.
#[derive(Clone, Debug, Serialize)]
#[serde(bound = "")]
pub(crate) struct Best<T: Element> {
    numbers: Block<T>,
    places: Block<i64>,
}

impl<T: Kernels> Best<T> {
    /// Of rows, which lie one after the other; `place` says where the numbers of a row, of shape `row`, are.
    pub(crate) fn of_rows(
        rows: &[T],
        row: &[usize],
        place: &Affine,
        which: Extreme,
        shape: &[usize],
    ) -> Result<Self, String> {
        let length: usize = row.iter().product();
        if length == 0 {
            return Err("the smallest or largest of no numbers is not defined".to_owned());
        }
        let (mut numbers, mut places) = (Vec::new(), Vec::new());
        for row_numbers in rows.chunks_exact(length) {
            let mut at = 0;
            for (index, number) in row_numbers.iter().enumerate() {
                if number.beats(row_numbers[at], which == Extreme::Largest) {
                    at = index;
                }
            }
            numbers.push(row_numbers[at]);
            places.push(place_of(at, row, place));
        }
        Ok(Self { numbers: Block::new(shape, numbers)?, places: Block::new(shape, places)? })
    }

    /// The better of two for each row; the one that comes first if they are equal.
    pub(crate) fn merge(&self, other: &Self, which: Extreme) -> Result<Self, String> {
        let count = self.numbers.numbers().len();
        if other.numbers.shape() != self.numbers.shape() {
            return Err("parts of different shapes".to_owned());
        }
        let (mut numbers, mut places) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for index in 0..count {
            let (a, b) = (self.numbers.numbers()[index], other.numbers.numbers()[index]);
            let (a_place, b_place) = (self.places.numbers()[index], other.places.numbers()[index]);
            let largest = which == Extreme::Largest;
            let first_wins = !b.beats(a, largest) && (a.beats(b, largest) || a_place < b_place);
            numbers.push(if first_wins { a } else { b });
            places.push(if first_wins { a_place } else { b_place });
        }
        let shape = self.numbers.shape();
        Ok(Self { numbers: Block::new(shape, numbers)?, places: Block::new(shape, places)? })
    }

    pub(crate) fn places(&self) -> Block<i64> {
        self.places.clone()
    }
}

fn place_of(mut at: usize, row: &[usize], place: &Affine) -> i64 {
    let mut sum = place.offset;
    for (extent, stride) in row.iter().zip(&place.strides).rev() {
        sum += (at % extent) as i64 * stride;
        at /= extent;
    }
    sum
}

impl<'de, T: Element> Deserialize<'de> for Best<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Derive)]
        #[serde(rename = "Best", bound = "")]
        struct Received<T: Element> {
            numbers: Block<T>,
            places: Block<i64>,
        }
        let Received { numbers, places } = Received::deserialize(deserializer)?;
        if numbers.shape() != places.shape() {
            return Err(de::Error::custom("numbers and places have different shapes"));
        }
        Ok(Self { numbers, places })
    }
}
