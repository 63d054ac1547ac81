//! What a worker holds of a value: live, packed, or both.
//!
//! A result begins live, a fetched value packed. A task that borrows it makes it live, once; a peer that asks
//! for it gets it packed.

use std::any::type_name;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use super::pack::PackError;
use super::packed::Packed;
use super::unpack::{UnpackError, unpack};
use super::value::{Data, Value};

/// Above this many bytes the packed form is dropped as soon as there is a live one.
const BOTH_FORMS_BYTES_MAX: usize = 64 * 1024;

/// A held value. Threads may use it together.
pub struct Resident {
    forms: Mutex<Forms>,
    bytes: usize,
}

#[derive(Clone)]
enum Forms {
    Live(Value),
    Packed(Packed),
    Both(Value, Packed),
}

/// A held value that is not what a task asks for.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum ValueError {
    /// It cannot be packed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// It came packed, and is not of the type asked for.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// It was made as a value of another type.
    #[error("a value of type `{held}` does not serve as `{wanted}`: {reason}")]
    Type {
        /// The type it was made as.
        held: &'static str,
        /// The type asked for.
        wanted: &'static str,
        /// What does not fit.
        reason: String,
    },
}

impl Resident {
    /// Holds a live value; `bytes` is what it is accounted as, usually its packed length.
    pub fn live(value: Value, bytes: usize) -> Self {
        Self { forms: Mutex::new(Forms::Live(value)), bytes }
    }

    /// Holds a packed value.
    pub fn packed_form(packed: Packed) -> Self {
        let bytes = packed.len();
        Self { forms: Mutex::new(Forms::Packed(packed)), bytes }
    }

    /// The bytes it is accounted as.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The value as a `T`, without a copy once it is live.
    ///
    /// # Errors
    /// `ValueError` if it is something else; if it is live, both types are named.
    pub fn view<T: Data>(&self) -> Result<Arc<T>, ValueError> {
        let held = {
            let mut forms = self.forms();
            match &*forms {
                Forms::Live(value) | Forms::Both(value, _) => value.clone(),
                Forms::Packed(packed) => {
                    let shared = Arc::new(unpack::<T>(packed)?);
                    let value = Value::share(shared.clone());
                    *forms = match packed.len() {
                        0..=BOTH_FORMS_BYTES_MAX => Forms::Both(value, packed.clone()),
                        _ => Forms::Live(value),
                    };
                    return Ok(shared);
                }
            }
        };
        match held.downcast() {
            Some(shared) => Ok(shared),
            None => self.convert(&held),
        }
    }

    /// The packed form; it is made afresh each time if the value is live and large.
    ///
    /// # Errors
    /// `ValueError::Pack` if the value's `Serialize` fails.
    pub fn packed(&self) -> Result<Packed, ValueError> {
        let value = match &*self.forms() {
            Forms::Packed(packed) | Forms::Both(_, packed) => return Ok(packed.clone()),
            Forms::Live(value) => value.clone(),
        };
        let packed = value.pack()?;
        if packed.len() <= BOTH_FORMS_BYTES_MAX {
            let mut forms = self.forms();
            if matches!(&*forms, Forms::Live(_)) {
                *forms = Forms::Both(value, packed.clone());
            }
        }
        Ok(packed)
    }

    /// The live value, if there is one.
    pub fn value(&self) -> Option<Value> {
        match &*self.forms() {
            Forms::Live(value) | Forms::Both(value, _) => Some(value.clone()),
            Forms::Packed(_) => None,
        }
    }

    /// Another type with the same packed form: a value from a differently built library, or a tuple for a struct.
    fn convert<T: Data>(&self, held: &Value) -> Result<Arc<T>, ValueError> {
        let packed = self.packed()?;
        unpack(&packed).map(Arc::new).map_err(|error| ValueError::Type {
            held: held.type_name(),
            wanted: type_name::<T>(),
            reason: error.reason,
        })
    }

    fn forms(&self) -> MutexGuard<'_, Forms> {
        // A panic in a type's `Deserialize` leaves the forms as they were.
        self.forms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.forms() {
            Forms::Live(value) => write!(f, "Resident({}, live, {} bytes)", value.type_name(), self.bytes),
            Forms::Packed(_) => write!(f, "Resident(packed, {} bytes)", self.bytes),
            Forms::Both(value, _) => {
                write!(f, "Resident({}, live and packed, {} bytes)", value.type_name(), self.bytes)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde::{Deserialize, Deserializer, Serialize};

    use super::*;
    use crate::model::pack::pack;

    static UNPACKED: AtomicUsize = AtomicUsize::new(0);

    #[derive(Serialize)]
    struct Counted(u32);

    impl<'de> Deserialize<'de> for Counted {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            UNPACKED.fetch_add(1, Ordering::Relaxed);
            u32::deserialize(deserializer).map(Counted)
        }
    }

    #[test]
    fn threads_that_view_together_unpack_once() {
        let resident = Resident::packed_form(pack(&7u32).unwrap());
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert_eq!(resident.view::<Counted>().unwrap().0, 7));
            }
        });
        assert_eq!(UNPACKED.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn viewing_a_live_value_copies_nothing() {
        let shared = Arc::new(vec![1.0f64; 100]);
        let resident = Resident::live(Value::share(shared.clone()), 800);
        assert!(Arc::ptr_eq(&resident.view::<Vec<f64>>().unwrap(), &shared));
    }

    #[test]
    fn a_large_value_is_held_in_one_form() {
        let numbers = vec![1.0f64; 100_000];
        let resident = Resident::packed_form(pack(&numbers).unwrap());
        resident.view::<Vec<f64>>().unwrap();
        assert!(matches!(&*resident.forms(), Forms::Live(_)));
        assert_eq!(resident.packed().unwrap(), pack(&numbers).unwrap());
    }

    #[test]
    fn a_type_of_the_same_shape_is_converted_and_another_is_named() {
        let resident = Resident::live(Value::new((1u8, 2u8)), 2);
        assert_eq!(*resident.view::<[u16; 2]>().unwrap(), [1, 2]);
        let error = resident.view::<String>().unwrap_err().to_string();
        assert!(error.contains("`(u8, u8)` does not serve as `alloc::string::String`"), "{error}");
    }
}
