//! Credentials as TLS configurations: version 1.3 only, both ends show a certificate, one authority.
//!
//! Nothing depends on a process-wide default provider, and the system's certificates are not consulted.
//! Sessions are not resumed: a connection is made once per pair and run, and tickets would cost each one.
//! Next: [`crate::transport::tcp`], which uses these.

use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version::TLS13};

use super::credentials::{Credentials, CredentialsError};

/// The application protocol both ends must name.
const ALPN: &[u8] = b"dcluster/1";

/// What a certificate says its holder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsRole {
    /// The scheduler of the run.
    Scheduler,
    /// A worker or client of the run.
    Member,
}

impl TlsRole {
    /// The name in the certificate; it is fixed, and has nothing to do with host names.
    pub fn server_name(self) -> &'static str {
        match self {
            Self::Scheduler => "scheduler.dcluster",
            Self::Member => "dcluster",
        }
    }

    /// The name that a connecting end insists on.
    pub fn expected_name(self) -> ServerName<'static> {
        ServerName::try_from(self.server_name()).expect("both names are valid DNS names")
    }
}

impl Credentials {
    /// What an accepting end needs; fails if the PEM texts are not valid.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, CredentialsError> {
        let provider = provider();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), Arc::clone(&provider))
                .build()
                .map_err(|error| CredentialsError::Tls(error.to_string()))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(tls)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![self.certificate()?], self.key()?)
            .map_err(tls)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// What a connecting end needs; fails if the PEM texts are not valid.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, CredentialsError> {
        let provider = provider();
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(self.roots()?), Arc::clone(&provider))
                .build()
                .map_err(|error| CredentialsError::Tls(error.to_string()))?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(tls)?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(vec![self.certificate()?], self.key()?)
            .map_err(tls)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn roots(&self) -> Result<RootCertStore, CredentialsError> {
        let authority =
            CertificateDer::from_pem_slice(self.authority.as_bytes()).map_err(pem("authority"))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority).map_err(tls)?;
        Ok(roots)
    }

    fn certificate(&self) -> Result<CertificateDer<'static>, CredentialsError> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(pem("certificate"))
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, CredentialsError> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(pem("key"))
    }
}

/// 256 bits that nobody can guess.
///
/// # Errors
/// If the system has no randomness.
pub fn random_bits() -> Result<[u8; 32], CredentialsError> {
    let mut bits = [0; 32];
    let filled = provider().secure_random.fill(&mut bits);
    filled.map_err(|_| CredentialsError::Tls("the system gives no random bits".to_owned()))?;
    Ok(bits)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn pem(part: &'static str) -> impl Fn(rustls::pki_types::pem::Error) -> CredentialsError {
    move |error| CredentialsError::Pem { part, reason: error.to_string() }
}

fn tls(error: rustls::Error) -> CredentialsError {
    CredentialsError::Tls(error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn broken_credentials_say_which_part() {
        let mut credentials = Credentials::generate().unwrap().member;
        credentials.certificate = "nonsense".to_owned();
        let error = credentials.client_config().unwrap_err();
        assert!(
            error.to_string().starts_with("the certificate in the credentials is not valid PEM"),
            "{error}"
        );
    }

    #[test]
    fn a_key_of_another_certificate_is_rejected() {
        let run = Credentials::generate().unwrap();
        let mixed = Credentials { key: run.scheduler.key.clone(), ..run.member };
        assert!(matches!(mixed.server_config(), Err(CredentialsError::Tls(_))));
    }
}
