//! The certificates of one run: an authority that signs two leaves and is then forgotten.
//!
//! [`Credentials::generate`] is called once, by the scheduler. Its own leaf stays in its process; the
//! members' leaf is broadcast to the workers and written to the connection file. The key of the authority
//! is dropped before this returns, so nobody can add a third. Next: [`super::tls`].

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;
use zeroize::Zeroizing;

use super::tls::TlsRole;

/// What one process shows to others, and whom it believes.
///
/// All three are PEM. It serialises, to be broadcast and written; printing it shows no key, and its memory
/// is wiped when dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    pub(super) authority: String,
    pub(super) certificate: String,
    pub(super) key: Zeroizing<String>,
}

/// The credentials of a run.
#[derive(Debug, Clone)]
pub struct RunCredentials {
    /// For the scheduler alone.
    pub scheduler: Credentials,
    /// For all workers and clients.
    pub member: Credentials,
}

/// Credentials cannot be made or used.
#[derive(Debug, Error)]
pub enum CredentialsError {
    /// Making a certificate failed.
    #[error("cannot make certificates for this run")]
    Generate(#[from] rcgen::Error),
    /// A PEM text is not what it should be.
    #[error("the {part} in the credentials is not valid PEM: {reason}")]
    Pem {
        /// Which of the three.
        part: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// The parts are readable, but TLS rejects them.
    #[error("the credentials cannot be used for TLS: {0}")]
    Tls(String),
}

impl Credentials {
    /// Makes an authority for one run and its two leaves.
    pub fn generate() -> Result<RunCredentials, CredentialsError> {
        let authority = Authority::generate()?;
        Ok(RunCredentials {
            scheduler: authority.leaf(TlsRole::Scheduler)?,
            member: authority.leaf(TlsRole::Member)?,
        })
    }

    /// Whether both were made for the same run.
    pub fn is_same_run(&self, other: &Self) -> bool {
        self.authority == other.authority
    }

    /// Trusts whom this trusts, but shows what `other` shows.
    #[cfg(test)]
    pub(crate) fn with_leaf_of(&self, other: &Self) -> Self {
        Self { authority: self.authority.clone(), ..other.clone() }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials(run {:016x})", xxh3_64(self.authority.as_bytes()))
    }
}

struct Authority {
    pem: String,
    params: CertificateParams,
    key: Zeroizing<KeyPair>,
}

impl Authority {
    fn generate() -> Result<Self, CredentialsError> {
        let key = Zeroizing::new(KeyPair::generate()?);
        // The validity stays at its default of centuries: clocks of nodes differ, and what ends the trust
        // is that the run's keys are gone.
        let mut params = CertificateParams::default();
        params.distinguished_name = name("run authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&*key)?.pem();
        Ok(Self { pem, params, key })
    }

    fn leaf(&self, role: TlsRole) -> Result<Credentials, CredentialsError> {
        let key = Zeroizing::new(KeyPair::generate()?);
        let mut params = CertificateParams::new(vec![role.server_name().to_owned()])?;
        params.distinguished_name = name(role.server_name());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&*key, &Issuer::from_params(&self.params, &*self.key))?.pem();
        Ok(Credentials { authority: self.pem.clone(), certificate, key: Zeroizing::new(key.serialize_pem()) })
    }
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "dcluster");
    name.push(DnType::CommonName, common);
    name
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn printing_credentials_shows_no_key() {
        let run = Credentials::generate().unwrap();
        let printed = format!("{run:?} {:#?}", run.member);
        assert!(!printed.contains("PRIVATE"), "{printed}");
        let secret = run.member.key.lines().nth(1).unwrap();
        assert!(!printed.contains(secret));
    }

    #[test]
    fn credentials_survive_serialisation_as_json_and_msgpack() {
        let credentials = Credentials::generate().unwrap().member;
        let json = serde_json::to_string(&credentials).unwrap();
        assert_eq!(serde_json::from_str::<Credentials>(&json).unwrap(), credentials);
        let msgpack = rmp_serde::to_vec(&credentials).unwrap();
        assert_eq!(rmp_serde::from_slice::<Credentials>(&msgpack).unwrap(), credentials);
    }

    #[test]
    fn each_run_has_its_own_authority() {
        let [a, b] = [Credentials::generate().unwrap(), Credentials::generate().unwrap()];
        assert!(a.scheduler.is_same_run(&a.member));
        assert!(!a.member.is_same_run(&b.member));
        assert_ne!(a.scheduler.key, a.member.key);
    }
}
