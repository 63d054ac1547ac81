//! TCP with mutual TLS: every connection between two processes of a cluster.
//!
//! A [`Listener`] accepts, a [`Connector`] connects; both give a [`Connection`] whose peer holds
//! credentials of the same run and has agreed to work with this end. A connection splits into a
//! [`ReadHalf`], which yields whole frames, and a [`WriteHalf`], which takes whole outboxes. Start with
//! [`connection`]; [`socket`] is the TCP stream below TLS.

mod connection;
mod connector;
mod failure;
mod greeting;
mod listener;
mod reach;
mod socket;

pub use connection::{Connection, ReadError, ReadHalf, Remote, WriteHalf};
pub use connector::{ConnectError, Connector};
pub use failure::Failure;
pub use listener::{ListenError, Listener};
pub use reach::Reach;

use crate::wire::handshake::{BuildHash, Hello, Role};

/// What this process says about itself when it connects or accepts as `role`.
///
/// `build` is `None` in a program that neither submits nor runs tasks; such a one works with any.
pub fn hello(role: Role, build: Option<BuildHash>) -> Hello {
    Hello {
        role,
        build,
        package: env!("CARGO_PKG_VERSION").to_owned(),
        host: crate::topology::host_name(),
        pid: std::process::id(),
        session: None,
    }
}

#[cfg(test)]
mod tests;
