//! The connection file: where a run's scheduler is, and the credentials to talk to it.
//!
//! Who can read it can use the cluster, so it is written for its owner's eyes only, and one that others
//! could have read or planted is not believed. It appears whole or not at all. Next:
//! [`super::run_directory`], which says where it lies.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

use super::credentials::Credentials;
use crate::wire::handshake::Hello;

/// The layout of the file that this build writes and reads.
const VERSION: u64 = 1;
/// No connection file is longer.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What a client needs to know about a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionFile {
    version: u64,
    /// What the user calls the cluster.
    pub name: String,
    /// The batch job it runs in, if any.
    pub job_id: Option<String>,
    /// `host:port` of the scheduler.
    pub scheduler: String,
    /// The machine of the scheduler's process.
    pub host: String,
    /// The scheduler's process.
    pub pid: u32,
    /// When it started, in seconds since 1970.
    pub started: u64,
    /// The tasks it knows, as a hash; none for a scheduler that takes any.
    pub build: Option<String>,
    /// Its version of the package.
    pub package: String,
    /// What a client shows, and whom it believes.
    pub credentials: Credentials,
}

/// Removes a connection file when dropped, if it is still that of this run.
#[derive(Debug)]
pub struct ConnectionFileGuard {
    path: PathBuf,
    credentials: Credentials,
}

/// A connection file cannot be written, or is not to be believed.
#[derive(Debug, Error)]
pub enum ConnectionFileError {
    /// There is no such file.
    #[error("no connection file at {path}; the cluster has ended or was never started there")]
    Missing {
        /// Where.
        path: PathBuf,
    },
    /// The path leads to a directory, a pipe or the like.
    #[error("{path} is not a regular file")]
    NotFile {
        /// Where.
        path: PathBuf,
    },
    /// There is nothing in it.
    #[error("the connection file {path} is empty; remove it and start the cluster again")]
    Empty {
        /// Where.
        path: PathBuf,
    },
    /// It is something else.
    #[error("{path} is not a connection file: {reason}")]
    NotJson {
        /// Where.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// Another version of the package wrote it.
    #[error(
        "the connection file {path} has version {found}, this dcluster ({package}) reads version {VERSION}; \
         use the dcluster that started the cluster",
        package = env!("CARGO_PKG_VERSION")
    )]
    Version {
        /// Where.
        path: PathBuf,
        /// What it says.
        found: String,
    },
    /// Something is missing or of the wrong kind.
    #[error("the connection file {path} is incomplete: {reason}")]
    Fields {
        /// Where.
        path: PathBuf,
        /// Which field, and what about it.
        reason: String,
    },
    /// Somebody else could have planted it.
    #[error(
        "{path} belongs to user {owner}, you are user {user}; it is not used, since they could have planted it"
    )]
    Owner {
        /// Where.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who reads.
        user: u32,
    },
    /// Others could read or change it.
    #[error(
        "the connection file {path} is open to others (mode {mode:03o}); its credentials may be known: start \
         the cluster again, or `chmod 600` it if you trust everyone here"
    )]
    Open {
        /// Where.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others could replace files in the directory.
    #[error(
        "the directory {path} is not yours alone (owner {owner}, mode {mode:03o}); `chmod go-w` it, or choose \
         another with DCLUSTER_RUN_DIR or --connection-file"
    )]
    Directory {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// The file system refuses.
    #[error("cannot {step} {path}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl ConnectionFile {
    /// Describes the run of this process: `scheduler` is the published `host:port`, `hello` what the
    /// scheduler says about itself, `credentials` those of members.
    pub fn new(
        name: &str,
        job_id: Option<String>,
        scheduler: &str,
        hello: &Hello,
        credentials: Credentials,
    ) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            version: VERSION,
            name: name.to_owned(),
            job_id,
            scheduler: scheduler.to_owned(),
            host: hello.host.clone(),
            pid: hello.pid,
            started,
            build: hello.build.map(|build| build.to_string()),
            package: hello.package.clone(),
            credentials,
        }
    }

    /// Writes the file, readable by its owner alone, and replaces one that is there at once.
    ///
    /// A missing directory is made, for its owner alone. One in which others could replace the file is
    /// refused; `/tmp` and its like are not, as their sticky bit prevents that. The guard removes the file.
    pub fn write(&self, path: &Path) -> Result<ConnectionFileGuard, ConnectionFileError> {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        prepare_directory(directory)?;
        let content = serde_json::to_vec_pretty(self).expect("plain strings and numbers serialise");
        let scratch =
            directory.join(format!(".{:016x}.tmp", xxh3_64(self.credentials.certificate.as_bytes())));
        if let Err(error) = replace(&scratch, &content, path) {
            let _ = fs::remove_file(&scratch);
            return Err(error);
        }
        // The rename is done; only a crash of the machine could undo it.
        let _ = File::open(directory).and_then(|directory| directory.sync_all());
        Ok(ConnectionFileGuard { path: path.to_owned(), credentials: self.credentials.clone() })
    }

    /// Reads a file, if it is one and nobody else could have read or written it.
    pub fn load(path: &Path) -> Result<Self, ConnectionFileError> {
        let mut file = open(path)?;
        check_private(&file, path)?;
        let content = read(&mut file, path)?;
        parse(&content, path)
    }

    /// Removes the file at `path` if it is still that of this run; whether it was.
    pub fn remove(&self, path: &Path) -> io::Result<bool> {
        remove(path, &self.credentials)
    }

    /// What to tell a user who found this file at `path`, but no scheduler behind it.
    pub fn describe_stale(&self, path: &Path, error: &io::Error) -> String {
        format!(
            "nothing answers at {scheduler} ({error}): the cluster `{name}` (process {pid} on {host}) that \
             wrote {path} has probably ended; if so, remove that file and start another, e.g. `mpirun -n 4 \
             dcluster`",
            scheduler = self.scheduler,
            name = self.name,
            pid = self.pid,
            host = self.host,
            path = path.display(),
        )
    }
}

impl ConnectionFileGuard {
    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ConnectionFileGuard {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path, &self.credentials) {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the connection file");
        }
    }
}

fn remove(path: &Path, credentials: &Credentials) -> io::Result<bool> {
    match ConnectionFile::load(path) {
        Ok(file) if file.credentials == *credentials => fs::remove_file(path).map(|()| true),
        Ok(_) => {
            tracing::debug!(path = %path.display(), "the connection file is another run's; it stays");
            Ok(false)
        }
        Err(ConnectionFileError::Missing { .. }) => Ok(false),
        Err(error) => {
            tracing::warn!(%error, "the connection file is not ours any more; it stays");
            Ok(false)
        }
    }
}

fn prepare_directory(directory: &Path) -> Result<(), ConnectionFileError> {
    let io = |step| move |source| ConnectionFileError::Io { step, path: directory.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io("make the directory"))?;
    let found = fs::metadata(directory).map_err(io("look at the directory"))?;
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    let sticky = mode & 0o1000 != 0;
    let ours = owner == user();
    let safe_owner = ours || (owner == 0 && sticky);
    let safe_mode = mode & 0o022 == 0 || sticky;
    if !(safe_owner && safe_mode) {
        return Err(ConnectionFileError::Directory { path: directory.to_owned(), owner, mode });
    }
    Ok(())
}

fn replace(scratch: &Path, content: &[u8], path: &Path) -> Result<(), ConnectionFileError> {
    let io = |step| move |source| ConnectionFileError::Io { step, path: path.to_owned(), source };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(scratch)
        .map_err(io("create a file beside"))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(io("write"))?;
    fs::rename(scratch, path).map_err(io("rename a file to"))
}

fn open(path: &Path) -> Result<File, ConnectionFileError> {
    // A pipe must not make this wait for a writer.
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            ConnectionFileError::Missing { path: path.to_owned() }
        }
        _ => ConnectionFileError::Io { step: "open", path: path.to_owned(), source },
    })
}

fn check_private(file: &File, path: &Path) -> Result<(), ConnectionFileError> {
    let path = path.to_owned();
    let found = match file.metadata() {
        Ok(found) => found,
        Err(source) => return Err(ConnectionFileError::Io { step: "look at", path, source }),
    };
    let (owner, user, mode) = (found.uid(), user(), found.mode() & 0o777);
    if !found.is_file() {
        return Err(ConnectionFileError::NotFile { path });
    }
    if owner != user {
        return Err(ConnectionFileError::Owner { path, owner, user });
    }
    if mode & 0o077 != 0 {
        return Err(ConnectionFileError::Open { path, mode });
    }
    Ok(())
}

fn read(file: &mut File, path: &Path) -> Result<Vec<u8>, ConnectionFileError> {
    let mut content = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut content).map_err(|source| ConnectionFileError::Io {
        step: "read",
        path: path.to_owned(),
        source,
    })?;
    Ok(content)
}

fn parse(content: &[u8], path: &Path) -> Result<ConnectionFile, ConnectionFileError> {
    let path = path.to_owned();
    if content.iter().all(u8::is_ascii_whitespace) {
        return Err(ConnectionFileError::Empty { path });
    }
    let json: serde_json::Value = match serde_json::from_slice(content) {
        Ok(json) => json,
        Err(error) => return Err(ConnectionFileError::NotJson { path, reason: error.to_string() }),
    };
    match json.get("version") {
        None => {
            return Err(ConnectionFileError::Fields { path, reason: "missing field `version`".to_owned() });
        }
        Some(version) if version.as_u64() != Some(VERSION) => {
            return Err(ConnectionFileError::Version { path, found: version.to_string() });
        }
        Some(_) => {}
    }
    serde_json::from_value(json)
        .map_err(|error| ConnectionFileError::Fields { path, reason: error.to_string() })
}

fn user() -> u32 {
    nix::unistd::geteuid().as_raw()
}
