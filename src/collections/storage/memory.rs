//! The memory of numbers, as bytes: files are read into it and written from it. Next: `region`.

// Numbers are viewed as their bytes, also to be overwritten.
#![allow(unsafe_code)]

use crate::model::numbers::{Dtype, Element};

/// The bytes of what a byte order applies to: a complex number is two of them.
pub(super) const fn word_bytes(dtype: Dtype) -> usize {
    match dtype {
        Dtype::Complex64 => 8,
        other => other.size(),
    }
}

/// The memory of `elements`.
pub(super) fn bytes_of<T: Element>(elements: &[T]) -> &[u8] {
    // SAFETY: an `Element` is sealed to types without padding, and any initialised memory is valid as bytes.
    unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), size_of_val(elements)) }
}

/// Lets `fill` write the memory of `elements`, whatever it returns; as NumPy does, any byte but 0 is `true`.
pub(super) fn fill_bytes<T: Element, R>(elements: &mut [T], fill: impl FnOnce(&mut [u8]) -> R) -> R {
    // SAFETY: no padding (see `bytes_of`), `elements` is borrowed for as long as the bytes, and what is written is
    // valid: of the sealed types only `bool` has invalid bytes, which `Truth` makes valid even if `fill` panics.
    let bytes =
        unsafe { std::slice::from_raw_parts_mut(elements.as_mut_ptr().cast::<u8>(), size_of_val(elements)) };
    let truth = Truth { bytes, is_truth: T::DTYPE == Dtype::Bool };
    fill(truth.bytes)
}

/// Bytes that will be read as truth values, if they are that.
struct Truth<'a> {
    bytes: &'a mut [u8],
    is_truth: bool,
}

impl Drop for Truth<'_> {
    fn drop(&mut self) {
        if self.is_truth {
            self.bytes.iter_mut().for_each(|byte| *byte = u8::from(*byte != 0));
        }
    }
}

/// Reverses the bytes of each word: from the other byte order to this machine's.
pub(super) fn swap_words(bytes: &mut [u8], word_bytes: usize) {
    if word_bytes > 1 {
        bytes.chunks_exact_mut(word_bytes).for_each(<[u8]>::reverse);
    }
}

#[cfg(test)]
mod tests {
    use num_complex::Complex64;

    use super::*;

    #[test]
    fn any_byte_but_zero_is_true() {
        let mut truths = [false; 3];
        fill_bytes(&mut truths, |bytes| bytes.copy_from_slice(&[0, 1, 255]));
        assert_eq!(truths, [false, true, true]);
        assert_eq!(bytes_of(&truths), [0, 1, 1]);
    }

    #[test]
    fn a_complex_number_is_two_words() {
        let mut numbers = [Complex64::new(1.0, 2.0)];
        fill_bytes(&mut numbers, |bytes| swap_words(bytes, word_bytes(Dtype::Complex64)));
        assert_eq!(
            numbers,
            [Complex64::new(
                f64::from_bits(1.0f64.to_bits().swap_bytes()),
                f64::from_bits(2.0f64.to_bits().swap_bytes())
            )]
        );
    }
}
