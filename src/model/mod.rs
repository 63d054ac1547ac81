//! Plain data that every layer speaks of: ids, time, limits of a value's size.
//!
//! Nothing here does IO or keeps state. Start with [`ids`].

pub mod ids;
pub mod time;

pub use ids::{ClientId, FunctionId, FutureId, Key, TaskId, WorkerId};
pub use time::Tick;

/// The largest packed result, in bytes, that travels inside `Finished` and stays beside its task on the scheduler.
pub const RESULT_INLINE_BYTES_MAX: usize = 4096;
