//! A place for processes: bounded waits, captured output, and a look at what is left when all is over.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::building;

/// How long anything may take; only a hang is longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long an ending may take.
pub(crate) const ENDING_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// The variable by which processes of a stage are found again.
const MARK: &str = "DCLUSTER_TEST_STAGE";

/// The stock program.
pub(crate) fn dcluster() -> &'static str {
    env!("CARGO_BIN_EXE_dcluster")
}

/// A program of `examples/`, built from what is there: a run of these tests alone builds none.
pub(crate) fn example(name: &str) -> PathBuf {
    static BUILT: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut built = BUILT.lock().expect("no build panicked");
    built.entry(name.to_owned()).or_insert_with(|| building::example(name)).clone()
}

/// A directory and the processes started in it.
pub(crate) struct Stage {
    directory: tempfile::TempDir,
    mark: String,
    started: AtomicU32,
}

/// A process on a stage.
pub(crate) struct Actor {
    child: Child,
    output: PathBuf,
    errors: PathBuf,
}

/// How a process ended.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mark = directory.path().display().to_string();
        Self { directory, mark, started: AtomicU32::new(0) }
    }

    /// Where connection files are.
    pub(crate) fn run_directory(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A command that belongs to this stage.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let of_cluster = |name: &str| {
            ["DCLUSTER_", "OMPI_", "PMIX_", "PMI_", "SLURM_"].iter().any(|prefix| name.starts_with(prefix))
        };
        for (name, _) in std::env::vars().filter(|(name, _)| of_cluster(name)) {
            command.env_remove(name);
        }
        command
            .env(MARK, &self.mark)
            .env("DCLUSTER_RUN_DIR", self.run_directory())
            .env("RUST_BACKTRACE", "0");
        command
    }

    /// `mpirun -n RANKS` with what a test machine needs; the program and its arguments follow.
    #[cfg(feature = "mpi")]
    pub(crate) fn mpirun(&self, ranks: u32) -> Command {
        let mpirun = std::env::var("MPIRUN").unwrap_or_else(|_| "mpirun".to_owned());
        let mut command = self.command(&mpirun);
        command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
        if is_open_mpi() {
            command.args(["--oversubscribe", "--bind-to", "none"]);
        }
        command.args(["-n", &ranks.to_string()]);
        command
    }

    pub(crate) fn start(&self, command: &mut Command) -> Actor {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let file = |kind: &str| self.directory.path().join(format!("{number}.{kind}"));
        let (output, errors) = (file("out"), file("err"));
        command.stdin(Stdio::null());
        command.stdout(File::create(&output).expect("a file for output"));
        command.stderr(File::create(&errors).expect("a file for errors"));
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Actor { child, output, errors }
    }

    /// Starts it and waits for its end.
    pub(crate) fn run(&self, command: &mut Command) -> End {
        self.start(command).end_within(PATIENCE)
    }

    /// Waits until a cluster has published its connection file.
    pub(crate) fn connection_file(&self) -> PathBuf {
        wait_for("a connection file", || {
            let entries = fs::read_dir(self.run_directory()).ok()?;
            entries
                .flatten()
                .map(|entry| entry.path())
                .find(|path| path.extension() == Some(OsStr::new("json")))
        })
    }

    /// Starts a cluster whose driver prints `ready`, and waits for that and for `workers`; gives the status, too.
    pub(crate) fn start_ready(&self, command: &mut Command, workers: usize) -> (Actor, serde_json::Value) {
        let cluster = self.start(command);
        cluster.prints("ready");
        let status = self.workers(workers);
        (cluster, status)
    }

    /// Waits until `count` workers have joined; gives the status.
    pub(crate) fn workers(&self, count: usize) -> serde_json::Value {
        let file = self.connection_file();
        wait_for("the workers", || {
            let end = self
                .run(self.command(dcluster()).arg("--connection-file").arg(&file).args(["status", "--json"]));
            let status: serde_json::Value = serde_json::from_str(&end.output).ok()?;
            (status["workers"].as_array()?.len() == count).then_some(status)
        })
    }

    /// Everything that a stage's processes had is gone, soon.
    pub(crate) fn assert_nothing_left(&self) {
        let until = Instant::now() + ENDING_MAX;
        while !self.processes().is_empty() && Instant::now() < until {
            thread::sleep(POLL);
        }
        let left: Vec<String> = self.processes().into_iter().map(described).collect();
        assert!(left.is_empty(), "processes are left: {left:?}");
        let files: Vec<PathBuf> = files_below(&self.run_directory());
        assert!(files.is_empty(), "files are left: {files:?}");
    }

    /// Living processes with this stage's mark.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let wanted = format!("{MARK}={}", self.mark);
        let is_marked = |process: &i32| {
            let environment = fs::read(format!("/proc/{process}/environ")).unwrap_or_default();
            let marked = environment.split(|byte| *byte == 0).any(|pair| pair == wanted.as_bytes());
            marked && !is_zombie(*process)
        };
        let all = fs::read_dir("/proc").expect("/proc").flatten();
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_marked).collect()
    }
}

impl Drop for Stage {
    /// A failed test leaves nothing running either.
    fn drop(&mut self) {
        self.processes().into_iter().for_each(|process| signal(process, libc::SIGKILL));
    }
}

impl Actor {
    pub(crate) fn signal(&self, number: i32) {
        signal(self.child.id() as i32, number);
    }

    /// Signals it and all in the process group that it leads.
    #[cfg(feature = "mpi")]
    pub(crate) fn signal_group(&self, number: i32) {
        signal(-(self.child.id() as i32), number);
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// What it has printed so far.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// Waits until its output contains `text`.
    pub(crate) fn prints(&self, text: &str) {
        wait_for(text, || self.output().contains(text).then_some(()));
    }

    pub(crate) fn end_within(mut self, bound: Duration) -> End {
        let until = Instant::now() + bound;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return End { code: code_of(status), output: self.output(), errors: self.errors() };
            }
            if Instant::now() > until {
                let _ = self.child.kill();
                panic!("still running after {bound:?}\n{}\n{}", self.output(), self.errors());
            }
            thread::sleep(POLL);
        }
    }
}

impl End {
    #[track_caller]
    pub(crate) fn assert_code(&self, code: i32) {
        assert_eq!(self.code, Some(code), "{}\n{}", self.output, self.errors);
    }
}

/// Whether the `mpirun` of these tests is Open MPI's.
#[cfg(feature = "mpi")]
pub(crate) fn is_open_mpi() -> bool {
    let mpirun = std::env::var("MPIRUN").unwrap_or_else(|_| "mpirun".to_owned());
    let version = Command::new(mpirun).arg("--version").output().expect("mpirun is installed");
    String::from_utf8_lossy(&version.stdout).contains("Open MPI")
}

pub(crate) fn signal(process: i32, number: i32) {
    let signal = nix::sys::signal::Signal::try_from(number).expect("a signal");
    // It may have ended meanwhile.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), signal);
}

pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        thread::sleep(POLL);
    }
}

/// The process id in a status of the scheduler or of a worker.
pub(crate) fn pid(process: &serde_json::Value) -> i32 {
    process["pid"].as_i64().expect("a process id") as i32
}

fn code_of(status: ExitStatus) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().or_else(|| status.signal().map(|number| 128 + number))
}

fn is_zombie(process: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z') || rest.starts_with('X'))
}

fn described(process: i32) -> String {
    let words = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
    format!("{process} {}", String::from_utf8_lossy(&words).replace('\0', " "))
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let below = |path: PathBuf| if path.is_dir() { files_below(&path) } else { vec![path] };
    entries.flatten().flat_map(|entry| below(entry.path())).collect()
}
