//! The client's side: how calls are described and what stands for their results.
//!
//! [`call`] holds a call before it is submitted, [`argument`] what may be given to one, [`future`] what one gets.

pub mod argument;
pub mod call;
pub mod future;
