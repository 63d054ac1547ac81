//! Who may talk to a cluster: certificates made for one run, and the file that hands them to clients.
//!
//! [`credentials`] makes and holds them, [`tls`] turns them into what a connection needs,
//! [`connection_file`] stores address and credentials for clients, [`run_directory`] says where and finds
//! them again. There is no other trust: no system certificates, no names, no passwords.

pub mod connection_file;
pub mod credentials;
pub mod run_directory;
pub mod tls;

pub use connection_file::{ConnectionFile, ConnectionFileError, ConnectionFileGuard};
pub use credentials::{Credentials, CredentialsError, RunCredentials};
pub use run_directory::{FindError, Selector, Surroundings};
pub use tls::{TlsRole, random_bits};

#[cfg(test)]
mod tests;
