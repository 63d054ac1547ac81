//! The scheduler: a pure [`core`] that decides, and a shell, [`io`], that moves its bytes.

pub mod core;
pub mod io;
