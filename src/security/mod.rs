//! Who may talk to a cluster: certificates made for one run, and the file that hands them to clients.
//!
//! [`credentials`] makes and holds them, [`tls`] turns them into what a connection needs,
//! [`connection_file`] stores address and credentials for clients, [`run_directory`] says where and finds
//! them again. There is no other trust: no system certificates, no names, no passwords.

pub mod credentials;

pub mod tls;

pub use credentials::{Credentials, CredentialsError, RunCredentials};
pub use tls::TlsRole;
