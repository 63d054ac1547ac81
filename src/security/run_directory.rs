//! The one directory of a user's clusters: where connection files lie, and where ranks meet that cannot use MPI.
//!
//! It is `$DCLUSTER_RUN_DIR`, else `~/.dcluster`. Login and compute nodes share the home directory, so a client on any
//! of them finds the cluster; a directory of one node, such as `$XDG_RUNTIME_DIR`, would be lost on the others, and at
//! log-out while the cluster runs on. A cluster that listens on the loopback interface only is passed over on other
//! hosts. The environment is read once into [`Surroundings`].

use std::ffi::OsStr;
use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::connection_file::{ConnectionFile, ConnectionFileError};
use crate::topology;

/// Names the file that a client is to use when nobody says another.
pub const CONNECTION_FILE_VARIABLE: &str = "DCLUSTER_CONNECTION_FILE";
/// Names the directory.
pub const RUN_DIR_VARIABLE: &str = "DCLUSTER_RUN_DIR";
/// Where the batch systems say which job this is.
const JOB_VARIABLES: [&str; 4] = ["SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "FLUX_JOB_ID"];

/// How long a scheduler has to answer a look at whether it is there.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// What the environment says about directories and jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// `$DCLUSTER_RUN_DIR`.
    pub run_directory: Option<PathBuf>,
    /// The user's home.
    pub home: Option<PathBuf>,
    /// The batch job that this process is part of.
    pub job_id: Option<String>,
    /// `$DCLUSTER_CONNECTION_FILE`.
    pub connection_file: Option<PathBuf>,
}

/// Which connection file a client means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// This one.
    Path(PathBuf),
    /// That of a batch job.
    Job(String),
    /// The one that the environment names, else that of this job, else the only live one.
    Only,
}

/// There is not exactly one connection file to use.
#[derive(Debug, Error)]
pub enum FindError {
    /// The file exists or is named, but cannot be used.
    #[error(transparent)]
    File(#[from] ConnectionFileError),
    /// Neither a home directory nor a variable says where to look.
    #[error("there is no home directory; set DCLUSTER_RUN_DIR to a directory that is yours alone")]
    Nowhere,
    /// The job has none.
    #[error(
        "no connection file of job {job} in {}; is it running, and did it start a cluster?",
        directory.display()
    )]
    NoJob {
        /// The job.
        job: String,
        /// Where it was looked for.
        directory: PathBuf,
    },
    /// No cluster is running.
    #[error(
        "no running cluster found in {}{stale}; start one, e.g. `mpirun -n 4 dcluster`, or name its \
         connection file with --connect FILE or DCLUSTER_CONNECTION_FILE",
        directory.display()
    )]
    None {
        /// Where it was looked for.
        directory: PathBuf,
        /// Files whose scheduler does not answer, as part of a sentence.
        stale: String,
    },
    /// More than one cluster is running.
    #[error("several clusters are running; name one with --connect FILE or DCLUSTER_CONNECTION_FILE:{list}")]
    Several {
        /// One line each.
        list: String,
    },
}

impl Surroundings {
    /// Reads the environment of this process.
    pub fn of_process() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            run_directory: path(RUN_DIR_VARIABLE),
            home: path("HOME").or_else(home_of_user),
            job_id: JOB_VARIABLES.into_iter().find_map(text),
            connection_file: path(CONNECTION_FILE_VARIABLE),
        }
    }

    /// Where this process, if it is a scheduler, writes its connection file.
    pub fn default_path(&self, host: &str, pid: u32) -> Result<PathBuf, FindError> {
        let name = match &self.job_id {
            Some(job) => file_name(job),
            None => file_name(&format!("pid-{host}-{pid}")),
        };
        Ok(self.directory()?.join(name))
    }

    /// The directory; who writes to it makes it.
    ///
    /// # Errors
    /// [`FindError::Nowhere`] if this user has no home.
    pub fn directory(&self) -> Result<PathBuf, FindError> {
        let in_home = || self.home.as_ref().map(|home| home.join(".dcluster"));
        self.run_directory.clone().or_else(in_home).ok_or(FindError::Nowhere)
    }

    /// Files of this user at whose address nobody listens.
    pub fn unanswered(&self) -> Vec<(PathBuf, ConnectionFile)> {
        let Ok(directory) = self.directory() else { return Vec::new() };
        let good = |path: PathBuf| Some((ConnectionFile::load(&path).ok()?, path));
        let found = files_in(&directory).into_iter().filter_map(good).map(|(file, path)| (path, file));
        let (_, silent): (Vec<_>, Vec<_>) =
            answering(found.collect()).into_iter().partition(|(_, answers)| *answers);
        silent.into_iter().map(|(found, _)| found).collect()
    }

    /// Finds the connection file that `selector` means.
    ///
    /// A scheduler is only contacted to choose among several files: whether the one found is live shows when
    /// it is used.
    pub fn find(&self, selector: &Selector) -> Result<(PathBuf, ConnectionFile), FindError> {
        match selector {
            Selector::Path(path) => load(path),
            Selector::Job(job) => self.of_job(job)?.ok_or_else(|| FindError::NoJob {
                job: job.clone(),
                directory: self.directory().unwrap_or_default(),
            }),
            Selector::Only => self.only(),
        }
    }

    fn only(&self) -> Result<(PathBuf, ConnectionFile), FindError> {
        if let Some(path) = &self.connection_file {
            return load(path);
        }
        if let Some(job) = &self.job_id
            && let Some(found) = self.of_job(job)?
        {
            return Ok(found);
        }
        let directory = self.directory()?;
        let mut found: Vec<_> =
            files_in(&directory).into_iter().filter_map(load_if_good).filter(is_reachable).collect();
        if found.len() == 1 {
            return Ok(found.remove(0));
        }
        one_live(found, directory)
    }

    fn of_job(&self, job: &str) -> Result<Option<(PathBuf, ConnectionFile)>, FindError> {
        match load(&self.directory()?.join(file_name(job))) {
            Err(FindError::File(ConnectionFileError::Missing { .. })) => Ok(None),
            found => found.map(Some),
        }
    }
}

impl Selector {
    /// What a user means by `text`: a path if it looks like one or exists, else a job id.
    pub fn parse(text: &str) -> Self {
        let path = Path::new(text);
        if text.contains('/') || path.extension() == Some(OsStr::new("json")) || path.is_file() {
            Self::Path(path.to_owned())
        } else {
            Self::Job(text.to_owned())
        }
    }
}

/// The file of a job or process; only characters that are plain in every file system.
fn file_name(stem: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "-_.[]".contains(c) { c } else { '_' };
    let stem: String = stem.chars().map(plain).collect();
    format!("{}.json", stem.trim_start_matches('.'))
}

fn load(path: &Path) -> Result<(PathBuf, ConnectionFile), FindError> {
    Ok((path.to_owned(), ConnectionFile::load(path)?))
}

/// The files of a directory in the order of their names; none if it cannot be read.
fn files_in(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension() == Some(OsStr::new("json")))
        .collect();
    files.sort();
    files
}

fn load_if_good(path: PathBuf) -> Option<(PathBuf, ConnectionFile)> {
    match ConnectionFile::load(&path) {
        Ok(file) => Some((path, file)),
        Err(error) => {
            tracing::warn!(%error, "passed over a connection file");
            None
        }
    }
}

/// Whether the cluster of a file could be reached from this host: not one on another host's loopback interface.
fn is_reachable((_, file): &(PathBuf, ConnectionFile)) -> bool {
    let on_loopback = file.scheduler.starts_with("127.") || file.scheduler.starts_with("[::1]");
    !on_loopback || file.host == topology::host_name()
}

fn one_live(
    found: Vec<(PathBuf, ConnectionFile)>,
    directory: PathBuf,
) -> Result<(PathBuf, ConnectionFile), FindError> {
    let (mut live, stale): (Vec<_>, Vec<_>) = answering(found).into_iter().partition(|(_, answers)| *answers);
    if live.len() == 1 {
        return Ok(live.remove(0).0);
    }
    if live.is_empty() {
        let paths: Vec<_> = stale.into_iter().map(|((path, _), _)| path).collect();
        let stale = match paths.as_slice() {
            [] => String::new(),
            paths => format!(" (nothing answers behind {}; remove what is left over)", listed(paths)),
        };
        return Err(FindError::None { directory, stale });
    }
    let line = |(path, file): &(PathBuf, ConnectionFile)| {
        format!("\n  {} ({} at {})", path.display(), file.name, file.scheduler)
    };
    Err(FindError::Several { list: live.iter().map(|(found, _)| line(found)).collect() })
}

/// Looks at all schedulers at once, whether somebody listens there.
fn answering(found: Vec<(PathBuf, ConnectionFile)>) -> Vec<((PathBuf, ConnectionFile), bool)> {
    std::thread::scope(|scope| {
        let looks: Vec<_> =
            found.iter().map(|(_, file)| scope.spawn(|| someone_listens(&file.scheduler))).collect();
        looks.into_iter().map(|look| look.join().unwrap_or(false)).collect::<Vec<_>>()
    })
    .into_iter()
    .zip(found)
    .map(|(answers, found)| (found, answers))
    .collect()
}

fn someone_listens(address: &str) -> bool {
    let Ok(mut resolved) = address.to_socket_addrs() else { return false };
    resolved.any(|address| TcpStream::connect_timeout(&address, LOOK_MAX).is_ok())
}

fn listed(paths: &[PathBuf]) -> String {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

fn home_of_user() -> Option<PathBuf> {
    Some(nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()??.dir)
}
