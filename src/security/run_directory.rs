//! Where connection files lie, and how a client finds the one it means.
//!
//! A cluster in a batch job writes to the home directory: login and compute nodes share it, while
//! `$XDG_RUNTIME_DIR` is local to a node. Outside a job the cluster is on this machine and
//! `$XDG_RUNTIME_DIR` goes first, since it is emptied at log-out. A client looks in both.
//! `$DCLUSTER_RUN_DIR` replaces both. The environment is read once into [`Surroundings`].

use std::ffi::OsStr;
use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::connection_file::{ConnectionFile, ConnectionFileError};

/// Names the file that a client is to use when nobody says another.
pub const CONNECTION_FILE_VARIABLE: &str = "DCLUSTER_CONNECTION_FILE";
/// Names the directory of connection files.
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
    /// `$XDG_RUNTIME_DIR`, if it exists.
    pub runtime_directory: Option<PathBuf>,
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
    #[error("no connection file of job {job} in {directories}; is it running, and did it start a cluster?")]
    NoJob {
        /// The job.
        job: String,
        /// Where it was looked for.
        directories: String,
    },
    /// No cluster is running.
    #[error(
        "no running cluster found in {directories}{stale}; start one, e.g. `mpirun -n 4 dcluster`, or name its \
         connection file with --connect FILE or DCLUSTER_CONNECTION_FILE"
    )]
    None {
        /// Where it was looked for.
        directories: String,
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
            runtime_directory: path("XDG_RUNTIME_DIR").filter(|directory| directory.is_dir()),
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
        let directory = self.directories().into_iter().next().ok_or(FindError::Nowhere)?;
        Ok(directory.join(name))
    }

    /// Where connection files may lie, the likeliest first.
    pub fn directories(&self) -> Vec<PathBuf> {
        if let Some(directory) = &self.run_directory {
            return vec![directory.clone()];
        }
        let runtime = self.runtime_directory.as_ref().map(|directory| directory.join("dcluster"));
        let home = self.home.as_ref().map(|directory| directory.join(".dcluster/run"));
        let ordered = if self.job_id.is_some() { [home, runtime] } else { [runtime, home] };
        ordered.into_iter().flatten().collect()
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
                directories: listed(&self.directories()),
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
        let directories = self.directories();
        if directories.is_empty() {
            return Err(FindError::Nowhere);
        }
        let mut found: Vec<_> =
            directories.iter().flat_map(|directory| files_in(directory)).filter_map(load_if_good).collect();
        if found.len() == 1 {
            return Ok(found.remove(0));
        }
        one_live(found, &directories)
    }

    fn of_job(&self, job: &str) -> Result<Option<(PathBuf, ConnectionFile)>, FindError> {
        let name = file_name(job);
        for directory in self.directories() {
            match load(&directory.join(&name)) {
                Err(FindError::File(ConnectionFileError::Missing { .. })) => {}
                found => return found.map(Some),
            }
        }
        Ok(None)
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

fn one_live(
    found: Vec<(PathBuf, ConnectionFile)>,
    directories: &[PathBuf],
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
        return Err(FindError::None { directories: listed(directories), stale });
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
