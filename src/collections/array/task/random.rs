//! Random numbers by their number: the same seed and place give the same value on every worker.
//!
//! Philox 4×32 with 10 rounds (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3. SC 2011): a
//! bijection of a 128-bit counter under a 64-bit key, so nothing is carried from one number to the next.

use serde::{Deserialize, Serialize};

/// How random numbers are spread.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Distribution {
    /// Evenly over [0, 1).
    Uniform,
    /// Normally, with mean 0 and standard deviation 1.
    Normal,
}

/// The number that belongs to `index`.
#[inline]
pub(crate) fn number(seed: u64, distribution: Distribution, index: u64) -> f64 {
    let words = philox([index as u32, (index >> 32) as u32, 0, 0], [seed as u32, (seed >> 32) as u32]);
    let first = unit(words[0], words[1]);
    match distribution {
        Distribution::Uniform => first,
        // Box and Muller; 1 - first is never 0.
        Distribution::Normal => {
            (-2.0 * (1.0 - first).ln()).sqrt() * (std::f64::consts::TAU * unit(words[2], words[3])).cos()
        }
    }
}

/// 53 of 64 bits as a number in [0, 1).
#[inline]
fn unit(low: u32, high: u32) -> f64 {
    let bits = u64::from(high) << 32 | u64::from(low);
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[inline]
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = 0xd251_1f53_u64 * u64::from(counter[0]);
        let second = 0xcd9e_8d57_u64 * u64::from(counter[2]);
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_vectors_come_out() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn moments_are_those_of_the_distribution() {
        let count = 100_000u64;
        let mean = |of: &dyn Fn(f64) -> f64, distribution| {
            (0..count).map(|index| of(number(7, distribution, index))).sum::<f64>() / count as f64
        };
        assert!((mean(&|x| x, Distribution::Uniform) - 0.5).abs() < 0.005);
        assert!(mean(&|x| x, Distribution::Normal).abs() < 0.01);
        assert!((mean(&|x| x * x, Distribution::Normal) - 1.0).abs() < 0.02);
        assert!((mean(&|x| x.powi(4), Distribution::Normal) - 3.0).abs() < 0.1);
    }
}
