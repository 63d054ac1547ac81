//! Why a peer did not become a connection, in words for either end.
//!
//! TLS reports what went wrong in terms of its own protocol; this says what it means for a cluster, on the
//! connecting end as part of an error and on the accepting end as a log line.

use std::io;

use rustls::{AlertDescription, CertificateError, Error as TlsError};
use thiserror::Error;

use crate::wire::frame::FrameError;
use crate::wire::handshake::HandshakeError;

/// Why a handshake came to nothing. "It" is the other end.
#[derive(Debug, Error)]
pub enum Failure {
    /// The first bytes are not TLS.
    #[error("it sent plain text or garbage instead of TLS; it is not a dcluster process")]
    NotTls,
    /// It showed no certificate.
    #[error("it showed no certificate; it has no credentials of this run")]
    NoCertificate,
    /// Its certificate comes from another authority.
    #[error("its certificate belongs to another run, or is forged")]
    ForeignCertificate,
    /// It is of this run, but not who it should be.
    #[error("it belongs to this run, but is not who was expected there; check the address")]
    WrongHolder,
    /// It rejected the certificate of this end.
    #[error("it belongs to another run: it rejected our certificate")]
    RejectedCertificate,
    /// TLS failed in another way.
    #[error("TLS failed: {0}")]
    Tls(TlsError),
    /// It closed the connection during the handshake.
    #[error("it closed the connection during the handshake")]
    Closed,
    /// It said nothing, or not enough.
    #[error("it did not finish the handshake within {seconds} s")]
    Silent {
        /// How long it had.
        seconds: u64,
    },
    /// It sent something that is no frame.
    #[error("its first frame is not valid: {0}")]
    Frame(#[from] FrameError),
    /// This end refuses it.
    #[error("refused: {0}")]
    Hello(#[from] HandshakeError),
    /// It refuses this end.
    #[error("it refused the connection: {reason}")]
    Refused {
        /// In its words.
        reason: String,
    },
    /// The network failed.
    #[error("the connection broke during the handshake: {0}")]
    Io(io::Error),
}

impl Failure {
    /// Whether another attempt may succeed.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Closed | Self::Io(_) | Self::Silent { .. })
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsError>()) {
            return of_tls(tls);
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Io(error),
        }
    }
}

fn of_tls(error: &TlsError) -> Failure {
    match error {
        TlsError::InvalidMessage(_) => Failure::NotTls,
        TlsError::NoCertificatesPresented => Failure::NoCertificate,
        TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => Failure::WrongHolder,
        TlsError::InvalidCertificate(_) => Failure::ForeignCertificate,
        TlsError::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::DecryptError,
        ) => Failure::RejectedCertificate,
        other => Failure::Tls(other.clone()),
    }
}
