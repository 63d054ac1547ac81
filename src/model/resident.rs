//! What a worker holds of a value: live, packed, or both; or a file that has it.
//!
//! A result begins live, a fetched value packed. A task that borrows it makes it live, once; a peer that asks
//! for it gets it packed. When memory is short it is in a file for a while; who asks for it then has it read.

use std::any::type_name;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;

use super::pack::PackError;
use super::packed::Packed;
use super::run::Run;
use super::unpack::{UnpackError, unpack};
use super::value::{Data, Value};

/// Above this many bytes the packed form is dropped as soon as there is a live one.
const BOTH_FORMS_BYTES_MAX: usize = 64 * 1024;

/// A held value. Threads may use it together.
pub struct Resident {
    state: Mutex<State>,
    bytes: usize,
}

struct State {
    forms: Forms,
    /// A file that has the value, which never changes.
    file: Option<Arc<dyn Spilled>>,
}

#[derive(Clone)]
enum Forms {
    Live(Value),
    Packed(Packed),
    Both(Value, Packed),
    /// Nothing is in memory.
    Spilled(Arc<dyn Spilled>),
}

/// What a value had in memory, to be dropped where that may take its time.
#[must_use = "large memory is given back when this is dropped"]
pub struct Cleared {
    _forms: Forms,
}

/// The packed form of a value in a file.
pub trait Spilled: fmt::Debug + Send + Sync {
    /// Reads it.
    ///
    /// # Errors
    /// Why the file does not have what was written, for people.
    fn read(&self) -> Result<Packed, String>;

    /// Whether reading it has shown that it is gone for good. What fails for lack of something else may go well later.
    fn is_lost(&self) -> bool;
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
    /// It is in a file that cannot be read.
    #[error("it was spilled, and does not come back: {0}")]
    Spilled(String),
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
        Self::new(Forms::Live(value), bytes)
    }

    /// Holds a packed value.
    pub fn packed_form(packed: Packed) -> Self {
        let bytes = packed.len();
        Self::new(Forms::Packed(packed), bytes)
    }

    fn new(forms: Forms, bytes: usize) -> Self {
        Self { state: Mutex::new(State { forms, file: None }), bytes }
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
            let forms = &mut self.state().forms;
            if let Forms::Spilled(file) = forms {
                *forms = Forms::Packed(file.read().map_err(ValueError::Spilled)?);
            }
            match forms {
                Forms::Spilled(_) => unreachable!("just read"),
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

    /// The numbers of a packed vector of `T`, where they lie; None if it is live, or anything else.
    pub fn run<T: Data>(&self) -> Option<Run<T>> {
        match &self.state().forms {
            Forms::Packed(packed) => Run::of(packed),
            _ => None,
        }
    }

    /// The packed form; it is made afresh each time if the value is live and large.
    ///
    /// # Errors
    /// `ValueError::Pack` if the value's `Serialize` fails, `ValueError::Spilled` if its file cannot be read.
    pub fn packed(&self) -> Result<Packed, ValueError> {
        let forms = self.state().forms.clone();
        let value = match forms {
            Forms::Packed(packed) | Forms::Both(_, packed) => return Ok(packed),
            // It is not kept: who asks for it here takes it elsewhere.
            Forms::Spilled(file) => return file.read().map_err(ValueError::Spilled),
            Forms::Live(value) => value,
        };
        let packed = value.pack()?;
        if packed.len() <= BOTH_FORMS_BYTES_MAX {
            let forms = &mut self.state().forms;
            if matches!(forms, Forms::Live(_)) {
                *forms = Forms::Both(value, packed.clone());
            }
        }
        Ok(packed)
    }

    /// The packed form, if it is there and nobody is making a live one of it, or it takes no more than to share memory.
    pub fn packed_already(&self) -> Option<Packed> {
        match &self.state.try_lock().ok()?.forms {
            Forms::Packed(packed) | Forms::Both(_, packed) => Some(packed.clone()),
            Forms::Live(value) => value.shared(),
            Forms::Spilled(_) => None,
        }
    }

    /// The packed form in the memory where the value lies, if no more than `copied_bytes_max` need a copy.
    pub fn packed_in_place(&self, copied_bytes_max: usize) -> Option<Packed> {
        let forms = self.state().forms.clone();
        match forms {
            Forms::Packed(packed) | Forms::Both(_, packed) => Some(packed),
            Forms::Live(value) => value.pack_sharing(copied_bytes_max).ok().flatten(),
            Forms::Spilled(_) => None,
        }
    }

    /// Says which file has the value.
    pub fn set_file(&self, file: Arc<dyn Spilled>) {
        self.state().file = Some(file);
    }

    /// Leaves the value to its file; None, and nothing happens, if there is none.
    pub fn clear(&self) -> Option<Cleared> {
        let state = &mut *self.state();
        let file = state.file.clone()?;
        Some(Cleared { _forms: std::mem::replace(&mut state.forms, Forms::Spilled(file)) })
    }

    /// Brings what its file has back into memory.
    ///
    /// # Errors
    /// Why the file does not have what was written.
    pub fn restore(&self) -> Result<(), String> {
        let forms = self.state().forms.clone();
        let Forms::Spilled(file) = forms else { return Ok(()) };
        let packed = file.read()?;
        let forms = &mut self.state().forms;
        if matches!(forms, Forms::Spilled(_)) {
            *forms = Forms::Packed(packed);
        }
        Ok(())
    }

    /// Whether it is in a file only.
    pub fn is_spilled(&self) -> bool {
        matches!(self.state().forms, Forms::Spilled(_))
    }

    /// Whether it was in a file only, which does not have it any more.
    pub fn is_lost(&self) -> bool {
        matches!(&self.state().forms, Forms::Spilled(file) if file.is_lost())
    }

    /// The live value, if there is one.
    pub fn value(&self) -> Option<Value> {
        match &self.state().forms {
            Forms::Live(value) | Forms::Both(value, _) => Some(value.clone()),
            Forms::Packed(_) | Forms::Spilled(_) => None,
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

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in a type's `Deserialize` leaves the forms as they were.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Cleared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cleared")
    }
}

impl fmt::Debug for Resident {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state().forms {
            Forms::Live(value) => write!(f, "Resident({}, live, {} bytes)", value.type_name(), self.bytes),
            Forms::Packed(_) => write!(f, "Resident(packed, {} bytes)", self.bytes),
            Forms::Spilled(file) => write!(f, "Resident({file:?}, {} bytes)", self.bytes),
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
    fn a_live_vector_is_packed_at_once_and_where_it_lies() {
        let numbers = vec![1.5f64; 100_000];
        let start = numbers.as_ptr().cast();
        let live = Resident::live(Value::new(numbers), 800_000);
        assert_eq!(live.packed_already().unwrap().buffers[0].as_ptr(), start);
        let nested = Resident::live(Value::new(vec![vec![1.5f64; 100_000]]), 800_000);
        assert!(nested.packed_already().is_none(), "that takes a copy");
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
        assert!(matches!(resident.state().forms, Forms::Live(_)));
        assert_eq!(resident.packed().unwrap(), pack(&numbers).unwrap());
    }

    /// Stands for a file: the packed form, or a fault.
    #[derive(Debug)]
    struct Copied(Result<Packed, String>);

    impl Spilled for Copied {
        fn read(&self) -> Result<Packed, String> {
            self.0.clone()
        }

        fn is_lost(&self) -> bool {
            self.0.is_err()
        }
    }

    #[test]
    fn a_spilled_value_is_read_for_whoever_asks_and_kept_when_it_is_restored() {
        let numbers = vec![1.0f64; 100_000];
        let resident = Resident::live(Value::new(numbers.clone()), 800_000);
        assert!(resident.clear().is_none(), "without a file nothing is dropped");
        resident.set_file(Arc::new(Copied(Ok(pack(&numbers).unwrap()))));
        assert!(resident.clear().is_some() && resident.is_spilled());
        assert_eq!(resident.packed().unwrap(), pack(&numbers).unwrap());
        assert!(resident.is_spilled(), "a copy that travels is not kept");
        resident.restore().unwrap();
        assert!(!resident.is_spilled());
        assert_eq!(*resident.view::<Vec<f64>>().unwrap(), numbers);
        assert!(resident.clear().is_some(), "the file is still good");
        assert_eq!(*resident.view::<Vec<f64>>().unwrap(), numbers);
    }

    #[test]
    fn a_value_whose_file_is_bad_says_so() {
        let resident = Resident::live(Value::new(7u8), 1);
        resident.set_file(Arc::new(Copied(Err("cut off".to_owned()))));
        drop(resident.clear());
        assert_eq!(resident.restore(), Err("cut off".to_owned()));
        assert!(matches!(resident.view::<u8>(), Err(ValueError::Spilled(_))));
    }

    #[test]
    fn a_type_of_the_same_shape_is_converted_and_another_is_named() {
        let resident = Resident::live(Value::new((1u8, 2u8)), 2);
        assert_eq!(*resident.view::<[u16; 2]>().unwrap(), [1, 2]);
        let error = resident.view::<String>().unwrap_err().to_string();
        assert!(error.contains("`(u8, u8)` does not serve as `alloc::string::String`"), "{error}");
    }
}
