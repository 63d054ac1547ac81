//! Plain data that every layer speaks of: ids, time, limits of a value's size.
//!
//! Nothing here does IO or keeps state. Start with [`ids`].

pub mod buffer;
mod element;
pub mod error;
pub mod ids;
pub mod pack;
pub mod packed;
pub mod resident;
pub mod time;
pub mod unpack;
pub mod value;

pub use error::{ErrorKind, Failure, TaskError};
pub use ids::{ClientId, FunctionId, FutureId, Key, TaskId, WorkerId};
pub use packed::Packed;
pub use resident::Resident;
pub use time::Tick;
pub use value::{Data, Value};

/// The largest packed result, in bytes, that travels inside `Finished` and stays beside its task on the scheduler.
pub const RESULT_INLINE_BYTES_MAX: usize = 4096;
