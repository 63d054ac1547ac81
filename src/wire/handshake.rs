//! The first frame in each direction: who speaks, and whether both ends can work together.
//!
//! The connecting end sends its [`Hello`]; the accepting end answers with its own, or with the reason why
//! not. Magic and versions stand before the msgpack body at fixed places, and a refusal is plain text, so
//! that any two versions can at least refuse each other. No IO happens here.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::frame::{self, Frame};
use super::resume::SessionRequest;

/// The first bytes of each hello.
const MAGIC: [u8; 8] = *b"dcluster";
/// The versions of the protocol that this build speaks.
const VERSIONS: Versions = Versions { min: 2, max: 2 };

const HELLO: u8 = 0xF0;
const REFUSED: u8 = 0xF1;

/// What one end says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What it is on this connection.
    pub role: Role,
    /// The tasks it knows; `None` for a program that neither submits nor runs any.
    pub build: Option<BuildHash>,
    /// Version of the package, for people.
    pub package: String,
    /// The host it runs on, for people.
    pub host: String,
    /// Its process id there, for people.
    pub pid: u32,
    /// Of a client: which session it wants from the scheduler.
    #[serde(default)]
    pub session: Option<SessionRequest>,
}

/// A hash over all task functions that a program knows, and over what their encoding depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BuildHash(pub u64);

/// What an end of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Accepts clients and workers.
    Scheduler,
    /// Connects to the scheduler to submit tasks or to look.
    Client,
    /// Connects to the scheduler to run tasks.
    Worker,
    /// Either end of a connection that carries values to or from a worker.
    Peer,
}

/// The range of protocol versions that one end speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Versions {
    min: u16,
    max: u16,
}

/// A peer's first frame, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First {
    /// It said who it is; the protocol version that both speak.
    Hello {
        /// The highest common version.
        protocol: u16,
        /// What it said.
        hello: Hello,
    },
    /// It refused this end.
    Refused {
        /// In the words of the peer.
        reason: String,
    },
}

/// Why an end does not work with another; the text is also what is sent to it.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum HandshakeError {
    /// The first frame is not a hello.
    #[error("the first frame (opcode {opcode}, {bytes} bytes) is not a dcluster hello")]
    NotHello {
        /// Its opcode.
        opcode: u8,
        /// The length of its body.
        bytes: usize,
    },
    /// The hello has the right start, but not the right content.
    #[error("malformed hello: {0}")]
    Malformed(String),
    /// The ranges of versions do not meet.
    #[error(
        "protocol versions do not meet: {theirs_min}–{theirs_max} there, {ours_min}–{ours_max} here \
         (dcluster {package}); use the same dcluster on both ends",
        package = env!("CARGO_PKG_VERSION")
    )]
    Version {
        /// Lowest of the peer.
        theirs_min: u16,
        /// Highest of the peer.
        theirs_max: u16,
        /// Lowest here.
        ours_min: u16,
        /// Highest here.
        ours_max: u16,
    },
    /// These two roles have nothing to say to each other.
    #[error("a {theirs} cannot talk to a {ours}; check the address")]
    Role {
        /// The peer's role.
        theirs: Role,
        /// This end's role.
        ours: Role,
    },
    /// The two programs know different tasks.
    #[error(
        "the programs differ: tasks {theirs} (dcluster {theirs_package}) there, {ours} (dcluster \
         {ours_package}) here; start both ends from the same build"
    )]
    Build {
        /// The peer's tasks.
        theirs: BuildHash,
        /// The peer's package version.
        theirs_package: String,
        /// The tasks known here.
        ours: BuildHash,
        /// The package version here.
        ours_package: String,
    },
}

impl Hello {
    /// Appends the frame that says this.
    pub fn append(&self, out: &mut Vec<u8>) {
        frame::append(out, HELLO, |out| {
            out.extend_from_slice(&MAGIC);
            out.extend_from_slice(&VERSIONS.min.to_le_bytes());
            out.extend_from_slice(&VERSIONS.max.to_le_bytes());
            rmp_serde::encode::write(out, self).expect("a hello serialises, and memory takes it");
        });
    }

    /// Whether this end can work with a peer that said `theirs`.
    pub fn agrees_with(&self, theirs: &Self) -> Result<(), HandshakeError> {
        let matching =
            self.role.answered_by() == Some(theirs.role) || theirs.role.answered_by() == Some(self.role);
        if !matching {
            return Err(HandshakeError::Role { theirs: theirs.role, ours: self.role });
        }
        match (self.build, theirs.build) {
            (Some(ours), Some(build)) if ours != build => Err(HandshakeError::Build {
                theirs: build,
                theirs_package: theirs.package.clone(),
                ours,
                ours_package: self.package.clone(),
            }),
            _ => Ok(()),
        }
    }
}

impl First {
    /// Reads a peer's first frame.
    pub fn read(frame: &Frame) -> Result<Self, HandshakeError> {
        let not_hello = HandshakeError::NotHello { opcode: frame.opcode, bytes: frame.body.len() };
        if frame.opcode == REFUSED {
            return Ok(Self::Refused { reason: String::from_utf8_lossy(&frame.body).into_owned() });
        }
        let Some((prefix, body)) = frame.body.split_first_chunk::<12>() else { return Err(not_hello) };
        let [magic @ .., min_low, min_high, max_low, max_high] = *prefix;
        if frame.opcode != HELLO || magic != MAGIC {
            return Err(not_hello);
        }
        let theirs = Versions {
            min: u16::from_le_bytes([min_low, min_high]),
            max: u16::from_le_bytes([max_low, max_high]),
        };
        let protocol = VERSIONS.highest_common(theirs)?;
        let hello =
            rmp_serde::from_slice(body).map_err(|error| HandshakeError::Malformed(error.to_string()))?;
        Ok(Self::Hello { protocol, hello })
    }
}

/// Appends the frame that refuses a peer for `reason`.
pub fn append_refusal(out: &mut Vec<u8>, reason: &str) {
    frame::append(out, REFUSED, |out| out.extend_from_slice(reason.as_bytes()));
}

impl Versions {
    fn highest_common(self, theirs: Self) -> Result<u16, HandshakeError> {
        let protocol = self.max.min(theirs.max);
        if protocol < self.min.max(theirs.min) {
            return Err(HandshakeError::Version {
                theirs_min: theirs.min,
                theirs_max: theirs.max,
                ours_min: self.min,
                ours_max: self.max,
            });
        }
        Ok(protocol)
    }
}

impl Role {
    /// The role that answers this one, on a connection that this one opens.
    pub fn answered_by(self) -> Option<Self> {
        match self {
            Self::Client | Self::Worker => Some(Self::Scheduler),
            Self::Peer => Some(Self::Peer),
            Self::Scheduler => None,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scheduler => "scheduler",
            Self::Client => "client",
            Self::Worker => "worker",
            Self::Peer => "peer",
        })
    }
}

impl fmt::Display for BuildHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {} (pid {})", self.role, self.host, self.pid)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::frame::{FrameLimit, FrameReader};

    fn hello(role: Role, build: Option<u64>) -> Hello {
        Hello {
            role,
            build: build.map(BuildHash),
            package: "0.1.0".to_owned(),
            host: "n1".to_owned(),
            pid: 7,
            session: None,
        }
    }

    fn framed(bytes: &[u8]) -> Frame {
        let mut reader = FrameReader::new(FrameLimit::HANDSHAKE);
        reader.buffer().extend_from_slice(bytes);
        reader.next_frame().unwrap().unwrap()
    }

    #[test]
    fn a_hello_arrives_as_it_was_sent() {
        let sent = hello(Role::Worker, Some(42));
        let mut bytes = Vec::new();
        sent.append(&mut bytes);
        assert_eq!(First::read(&framed(&bytes)), Ok(First::Hello { protocol: 2, hello: sent }));
    }

    #[test]
    fn a_refusal_arrives_with_its_reason() {
        let mut bytes = Vec::new();
        append_refusal(&mut bytes, "not today");
        assert_eq!(First::read(&framed(&bytes)), Ok(First::Refused { reason: "not today".to_owned() }));
    }

    #[test]
    fn every_truncation_of_a_hello_is_an_error() {
        let mut bytes = Vec::new();
        hello(Role::Client, None).append(&mut bytes);
        let whole = framed(&bytes);
        for length in 0..whole.body.len() {
            let cut = Frame { opcode: whole.opcode, body: whole.body.slice(..length) };
            assert!(First::read(&cut).is_err(), "{length} bytes were taken for a hello");
        }
    }

    #[test]
    fn versions_that_do_not_meet_are_named() {
        let mut bytes = Vec::new();
        hello(Role::Client, None).append(&mut bytes);
        bytes[16..20].copy_from_slice(&[9, 0, 12, 0]);
        let error = First::read(&framed(&bytes)).unwrap_err();
        assert!(
            error.to_string().starts_with("protocol versions do not meet: 9–12 there, 2–2 here"),
            "{error}"
        );
    }

    #[test]
    fn a_later_protocol_that_still_speaks_ours_is_accepted() {
        let mut bytes = Vec::new();
        hello(Role::Client, None).append(&mut bytes);
        bytes[16..20].copy_from_slice(&[2, 0, 12, 0]);
        assert!(matches!(First::read(&framed(&bytes)), Ok(First::Hello { protocol: 2, .. })));
    }

    #[test]
    fn only_matching_roles_and_builds_agree() {
        let scheduler = hello(Role::Scheduler, Some(1));
        assert_eq!(scheduler.agrees_with(&hello(Role::Client, Some(1))), Ok(()));
        assert_eq!(scheduler.agrees_with(&hello(Role::Client, None)), Ok(()));
        assert_eq!(hello(Role::Peer, Some(1)).agrees_with(&hello(Role::Peer, None)), Ok(()));
        assert_eq!(hello(Role::Worker, Some(1)).agrees_with(&scheduler), Ok(()));
        assert!(matches!(
            scheduler.agrees_with(&hello(Role::Worker, Some(2))),
            Err(HandshakeError::Build { .. })
        ));
        assert!(matches!(
            scheduler.agrees_with(&hello(Role::Peer, Some(1))),
            Err(HandshakeError::Role { .. })
        ));
        assert!(matches!(
            scheduler.agrees_with(&hello(Role::Scheduler, Some(1))),
            Err(HandshakeError::Role { .. })
        ));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(opcode in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = First::read(&Frame { opcode, body: body.into() });
        }
    }
}
