//! HDF5 and Zarr in builds without them: every step says which feature brings it.

use std::convert::Infallible;
use std::ops::Range;
use std::path::Path;

#[cfg(not(feature = "hdf5"))]
use super::draft::Layout;
use super::{StorageError, StoredArray, WriteOptions};
use crate::model::numbers::{Dtype, Element};

/// The functions of a format whose arrays have a name in their file, or none; `$made` is what creating one returns.
macro_rules! absent {
    ($module:ident, $feature:tt, $format:literal, [$($name:ty)?], $made:ty) => {
        #[cfg(not(feature = $feature))]
        pub(super) mod $module {
            use super::*;

            const NOT_BUILT: StorageError = StorageError::NotBuilt { format: $format, feature: $feature };

            pub(crate) struct Reader(Infallible);

            impl Reader {
                pub(crate) fn read<T: Element>(&self, _: &[Range<usize>], _: &mut [T]) -> Result<(), StorageError> {
                    match self.0 {}
                }
            }

            pub(crate) fn open(_: &Path $(, _: $name)?) -> Result<StoredArray, StorageError> {
                Err(NOT_BUILT)
            }

            pub(crate) fn create(
                _: &Path, $(_: $name,)? _: Dtype, _: &[usize], _: &WriteOptions,
            ) -> Result<$made, StorageError> {
                Err(NOT_BUILT)
            }

            pub(crate) fn write<T: Element>(
                _: &Path, $(_: $name,)? _: &[Range<usize>], _: &[T],
            ) -> Result<(), StorageError> {
                Err(NOT_BUILT)
            }
        }
    };
}

absent!(hdf5, "hdf5", "HDF5", [&str], Layout);
absent!(zarr, "zarr", "Zarr", [], ());

/// Chunks at their places in an HDF5 file.
#[cfg(not(feature = "hdf5"))]
pub(super) mod placed {
    use super::*;

    pub(crate) fn can_place() -> bool {
        false
    }

    pub(crate) fn write<T: Element>(
        _: &Path,
        _: &str,
        _: &[Range<usize>],
        _: &[T],
    ) -> Result<(), StorageError> {
        Err(StorageError::NotBuilt { format: "HDF5", feature: "hdf5" })
    }
}

/// The version of the HDF5 library this process runs with: none, in this build.
#[cfg(not(feature = "hdf5"))]
pub fn hdf5_version() -> Option<String> {
    None
}
