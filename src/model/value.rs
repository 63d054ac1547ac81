//! Values: what tasks take and give.
//!
//! A [`Value`] is live: a shared pointer to whatever a task returned. It is packed only to travel
//! ([`pack`]). What a worker keeps of it is a [`Resident`](super::resident::Resident).

use std::any::{Any, TypeId, type_name};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::element::{self, Number};
use super::pack::{self, PackError};
use super::packed::Packed;

/// What may be given to a task and returned by one.
///
/// Implemented by itself for every type with serde's two traits that can be shared between threads and
/// borrows nothing. One thing does not come back: a struct variant of an untagged enum, as struct fields travel
/// without their names; make it a newtype variant of a struct.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel between processes",
    label = "this type is not data that a task can take or return",
    note = "a task's parameters and result implement `serde::Serialize` and `serde::Deserialize`, and are `Send + Sync + 'static`",
    note = "for a type of your own: `#[derive(serde::Serialize, serde::Deserialize)]`"
)]
pub trait Data: Serialize + DeserializeOwned + Send + Sync + 'static {}

#[diagnostic::do_not_recommend]
impl<T: Serialize + DeserializeOwned + Send + Sync + 'static> Data for T {}

/// A live value of any type.
#[derive(Clone)]
pub struct Value(Arc<dyn Portable>);

impl Value {
    /// Takes a value.
    pub fn new<T: Data>(value: T) -> Self {
        Self(Arc::new(value))
    }

    /// Shares a value.
    pub fn share<T: Data>(value: Arc<T>) -> Self {
        Self(value)
    }

    /// The name of its type, for people.
    pub fn type_name(&self) -> &'static str {
        self.0.type_name()
    }

    /// The identity of its type.
    pub fn type_id(&self) -> TypeId {
        let any: &dyn Any = &*self.0;
        any.type_id()
    }

    /// The value, if it is a `T`.
    pub fn downcast<T: Data>(&self) -> Option<Arc<T>> {
        let any: Arc<dyn Any + Send + Sync> = self.0.clone();
        any.downcast().ok()
    }

    /// Packs it. A vector of numbers and a string are shared rather than copied.
    ///
    /// # Errors
    /// As [`pack::pack`].
    pub fn pack(&self) -> Result<Packed, PackError> {
        match self.shared() {
            Some(packed) => Ok(packed),
            None => self.0.pack(),
        }
    }

    /// Packs it if that takes at most `bytes_max` bytes.
    ///
    /// # Errors
    /// As [`pack::pack_within`].
    pub fn pack_within(&self, bytes_max: usize) -> Result<Option<Packed>, PackError> {
        self.0.pack_within(bytes_max)
    }

    /// Packs it if all but `bytes_max` bytes of its memory can be shared.
    ///
    /// # Errors
    /// As [`pack::pack_sharing`].
    pub fn pack_sharing(&self, bytes_max: usize) -> Result<Option<Packed>, PackError> {
        self.0.pack_sharing(bytes_max)
    }

    /// The length of the packed form in bytes.
    ///
    /// # Errors
    /// As [`pack::packed_len`].
    pub fn packed_len(&self) -> Result<usize, PackError> {
        self.0.packed_len()
    }

    /// The packed form of a value that is one large block of memory, without a copy.
    pub fn shared(&self) -> Option<Packed> {
        let any: &dyn Any = &*self.0;
        let (kind, memory) = element::value_memory(any)?;
        if memory.len() < kind.out_of_band_bytes_min() {
            return None;
        }
        let any: Arc<dyn Any + Send + Sync> = self.0.clone();
        macro_rules! share {
            ($($number:ty)*) => {
                $(
                    if let Ok(numbers) = any.clone().downcast::<Vec<$number>>() {
                        return Some(pack::single_buffer(kind, Bytes::from_owner(SharedNumbers(numbers))));
                    }
                )*
            };
        }
        share!(u8 u16 u32 u64 usize i8 i16 i32 i64 isize f32 f64);
        let text = any.downcast::<String>().ok()?;
        Some(pack::single_buffer(kind, Bytes::from_owner(SharedText(text))))
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({})", self.type_name())
    }
}

/// What a worker does with a value whose type it does not know.
trait Portable: Any + Send + Sync {
    fn type_name(&self) -> &'static str;
    fn pack(&self) -> Result<Packed, PackError>;
    fn pack_within(&self, bytes_max: usize) -> Result<Option<Packed>, PackError>;
    fn pack_sharing(&self, bytes_max: usize) -> Result<Option<Packed>, PackError>;
    fn packed_len(&self) -> Result<usize, PackError>;
}

impl<T: Data> Portable for T {
    fn type_name(&self) -> &'static str {
        type_name::<T>()
    }

    fn pack(&self) -> Result<Packed, PackError> {
        pack::pack(self)
    }

    fn pack_within(&self, bytes_max: usize) -> Result<Option<Packed>, PackError> {
        pack::pack_within(self, bytes_max)
    }

    fn pack_sharing(&self, bytes_max: usize) -> Result<Option<Packed>, PackError> {
        pack::pack_sharing(self, bytes_max)
    }

    fn packed_len(&self) -> Result<usize, PackError> {
        pack::packed_len(self)
    }
}

struct SharedNumbers<N>(Arc<Vec<N>>);

impl<N: Number> AsRef<[u8]> for SharedNumbers<N> {
    fn as_ref(&self) -> &[u8] {
        element::memory_of(&self.0)
    }
}

struct SharedText(Arc<String>);

impl AsRef<[u8]> for SharedText {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::model::unpack::unpack;

    #[test]
    fn knows_its_type_and_gives_itself_back() {
        let value = Value::new(vec![1u8, 2]);
        assert_eq!(value.type_name(), "alloc::vec::Vec<u8>");
        assert_eq!(*value.downcast::<Vec<u8>>().unwrap(), [1, 2]);
        assert!(value.downcast::<Vec<i8>>().is_none());
    }

    #[test]
    fn packing_a_vector_of_numbers_shares_its_memory() {
        let numbers = Arc::new(vec![1.5f64; 1000]);
        let packed = Value::share(numbers.clone()).pack().unwrap();
        assert_eq!(packed.buffers[0].as_ptr(), numbers.as_ptr().cast());
        assert_eq!(unpack::<Vec<f64>>(&packed).unwrap(), *numbers);
        assert_eq!(packed.len(), Value::share(numbers).packed_len().unwrap());
    }

    #[test]
    fn packing_a_long_text_shares_its_memory() {
        let text = Arc::new("π".repeat(1000));
        let packed = Value::share(text.clone()).pack().unwrap();
        assert_eq!(packed.buffers[0].as_ptr(), text.as_ptr());
        assert_eq!(unpack::<String>(&packed).unwrap(), *text);
    }
}
