//! Plain data that every layer speaks of: ids, time, limits of a value's size.
//!
//! Nothing here does IO or keeps state. Start with [`ids`].

pub mod block;
pub mod buffer;
mod element;
pub mod error;
pub mod ids;
pub mod number_vec;
pub mod numbers;
pub mod pack;
pub mod packed;
pub mod placement;
pub mod resident;
pub mod run;
pub mod time;
pub mod unpack;
pub mod value;

pub use error::{ErrorKind, Failure, TaskError};
pub use ids::{ClientId, FunctionId, FutureId, Key, TaskId, WorkerId};
pub use packed::Packed;
pub use placement::{Copies, Others, Placement, WorkerName};
pub use resident::Resident;
pub use time::Tick;
pub use value::{Data, Value};

/// The largest packed result, in bytes, that travels inside `Finished` and stays beside its task on the scheduler.
pub const RESULT_INLINE_BYTES_MAX: usize = 4096;
