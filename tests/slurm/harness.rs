//! A real Slurm for one test: munged, slurmctld and four slurmd as children of the test, all below one temporary
//! directory, on ports and a munge socket of their own.
//!
//! The four nodes are this machine four times over, each with sixteen pretended cores. Dropping the cluster cancels
//! its jobs, stops the daemons, and fails the test when a process or a file is left.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid, gethostname};

const NODES: usize = 4;
const CORES_PER_NODE: usize = 16;

/// Bounds for hang detection only; the usual times are a quarter of a second.
const START_MAX: Duration = Duration::from_secs(30);
const STOP_MAX: Duration = Duration::from_secs(20);
const COMMAND_MAX: Duration = Duration::from_secs(120);

/// The running Slurm.
pub(crate) struct SlurmCluster {
    folder: Option<tempfile::TempDir>,
    path: PathBuf,
    daemons: Vec<Daemon>,
}

struct Daemon {
    name: String,
    child: Child,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The exit code; 128 + the signal where one ended it.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) output: String,
    /// Standard error.
    pub(crate) complaints: String,
}

impl Finished {
    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub(crate) fn success(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.output, self.complaints);
        self.output
    }
}

impl SlurmCluster {
    /// Starts the daemons and returns when all nodes are idle.
    pub(crate) fn start() -> Self {
        let folder =
            tempfile::Builder::new().prefix("dcluster-slurm-").tempdir().expect("a temporary directory");
        let path = folder.path().to_owned();
        let mut cluster = Self { folder: Some(folder), path, daemons: Vec::new() };
        cluster.write_configuration();
        cluster.start_munged();
        let configuration = cluster.configuration();
        cluster
            .daemon("slurmctld", &["-D".as_ref(), "-c".as_ref(), "-f".as_ref(), configuration.as_os_str()]);
        for node in 0..NODES {
            let name = format!("n{node}");
            cluster.daemon(
                "slurmd",
                &["-D".as_ref(), "-f".as_ref(), configuration.as_os_str(), "-N".as_ref(), name.as_ref()],
            );
        }
        cluster.wait_until_idle();
        cluster
    }

    /// A directory for the files of the test; it goes with the cluster.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A command that talks to this Slurm, from the top of the project, without the surroundings of another job.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["SLURM", "SBATCH_", "SRUN_", "PMI", "OMPI_", "PRTE_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        command
            .env("SLURM_CONF", self.configuration())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null());
        command
    }

    /// Runs `words` (a program and its arguments) to the end.
    pub(crate) fn run<const N: usize>(&self, words: [&str; N]) -> Finished {
        let mut command = self.command(words[0]);
        command.args(&words[1..]);
        self.finish(command)
    }

    /// Runs a prepared command to the end; panics when it takes longer than any command should.
    pub(crate) fn finish(&self, mut command: Command) -> Finished {
        // Files, not pipes: a process that outlives the command cannot hold the test up.
        let files = tempfile::tempdir_in(&self.path).expect("a directory for the output");
        let (output, complaints) = (files.path().join("out"), files.path().join("err"));
        command
            .stdout(File::create(&output).expect("a file"))
            .stderr(File::create(&complaints).expect("a file"));
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let ended = wait_at_most(&mut child, COMMAND_MAX);
        let text = |file: &Path| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned();
        let finished =
            Finished { code: ended.unwrap_or(-1), output: text(&output), complaints: text(&complaints) };
        if ended.is_none() {
            stop(&mut child);
            panic!("{command:?} did not end within {COMMAND_MAX:?}: {finished:?}");
        }
        finished
    }

    /// Waits until `condition` holds, and panics with `what` when it never does.
    pub(crate) fn wait_for(&self, what: &str, condition: impl FnMut() -> bool) {
        assert!(holds_within(COMMAND_MAX, condition), "{what}: not within {COMMAND_MAX:?}\n{}", self.logs());
    }

    fn configuration(&self) -> PathBuf {
        self.path.join("slurm.conf")
    }

    fn write_configuration(&self) {
        let folder = self.path.display();
        let user = User::from_uid(geteuid()).ok().flatten().expect("this user has a name").name;
        let host = gethostname().expect("a host name").to_string_lossy().into_owned();
        let host = host.split('.').next().unwrap_or(&host).to_owned();
        let ports = free_ports(NODES + 1);

        let mut text = format!(
            "ClusterName=dcluster\n\
             SlurmctldHost={host}(127.0.0.1)\n\
             SlurmUser={user}\n\
             SlurmdUser={user}\n\
             AuthType=auth/munge\n\
             AuthInfo=socket={folder}/munge/munge.sock\n\
             CredType=cred/munge\n\
             SlurmctldPort={}\n\
             SlurmctldPidFile={folder}/slurmctld.pid\n\
             StateSaveLocation={folder}/state\n\
             SlurmdPidFile={folder}/slurmd.%n.pid\n\
             SlurmdLogFile={folder}/log/slurmd.%n\n\
             SlurmdSpoolDir={folder}/spool/%n\n\
             # PMIx keeps its files there: a directory per node, since all nodes are one machine.\n\
             TmpFS={folder}/tmp/%n\n\
             TaskProlog={folder}/task_prolog.sh\n\
             MpiDefault=none\n\
             ProctrackType=proctrack/linuxproc\n\
             TaskPlugin=task/none\n\
             JobAcctGatherType=jobacct_gather/none\n\
             AccountingStorageType=accounting_storage/none\n\
             SelectType=select/cons_tres\n\
             SelectTypeParameters=CR_Core\n\
             SchedulerType=sched/backfill\n\
             SchedulerParameters=sched_interval=2,batch_sched_delay=0,bf_interval=2,sched_min_interval=0\n\
             # The cores are pretended.\n\
             SlurmdParameters=config_overrides\n\
             SwitchType=switch/none\n\
             ReturnToService=2\n\
             KillWait=5\n\
             InactiveLimit=0\n\
             PropagateResourceLimits=NONE\n\
             PartitionName=main Nodes=ALL Default=YES MaxTime=10 State=UP OverSubscribe=NO\n",
            ports[0]
        );
        for (node, port) in ports[1..].iter().enumerate() {
            text += &format!(
                "NodeName=n{node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CORES_PER_NODE} Sockets=2 \
                 CoresPerSocket={} ThreadsPerCore=1 RealMemory=2000 State=UNKNOWN\n",
                CORES_PER_NODE / 2
            );
            for folder in ["spool", "tmp", "shm"] {
                fs::create_dir_all(self.path.join(folder).join(format!("n{node}"))).expect("a directory");
            }
        }
        for folder in ["log", "state", "munge"] {
            fs::create_dir_all(self.path.join(folder)).expect("a directory");
        }
        fs::write(self.configuration(), text).expect("slurm.conf");
        // No cgroup is used, but the plugin is loaded; this one also starts where none is mounted.
        fs::write(self.path.join("cgroup.conf"), "CgroupPlugin=cgroup/v1\n").expect("cgroup.conf");
        // All nodes share a host name, from which Open MPI makes the names of its shared-memory files; and they
        // reach each other on the loopback interface, which it leaves out by itself.
        let prolog = format!(
            "#!/bin/sh\n\
             echo \"export OMPI_MCA_btl_vader_backing_directory={folder}/shm/$SLURMD_NODENAME\"\n\
             echo export OMPI_MCA_btl_tcp_if_include=lo\n"
        );
        write_with_mode(&self.path.join("task_prolog.sh"), prolog.as_bytes(), 0o755);
    }

    fn start_munged(&mut self) {
        let munge = self.path.join("munge");
        let mut key = vec![0; 1024];
        std::io::Read::read_exact(&mut File::open("/dev/urandom").expect("/dev/urandom"), &mut key)
            .expect("a key");
        write_with_mode(&munge.join("munge.key"), &key, 0o400);
        let option = |name: &str, file: &str| format!("--{name}={}", munge.join(file).display());
        let options = [
            "--foreground".to_owned(),
            "--num-threads=2".to_owned(),
            option("key-file", "munge.key"),
            option("socket", "munge.sock"),
            option("pid-file", "munged.pid"),
            option("log-file", "munged.log"),
            option("seed-file", "munged.seed"),
        ];
        self.daemon("munged", &options);
        let socket = munge.join("munge.sock");
        assert!(holds_within(START_MAX, || socket.exists()), "munged does not start\n{}", self.logs());
    }

    fn daemon(&mut self, program: &str, arguments: &[impl AsRef<OsStr>]) {
        let name = format!("{program}-{}", self.daemons.len());
        let log = File::create(self.path.join("log").join(&name)).expect("a log");
        // Slurm's daemons live in sbin, which a user's PATH may lack.
        let search = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let mut command = self.command(program);
        command.args(arguments).env("PATH", search).stdout(log.try_clone().expect("a log")).stderr(log);
        match command.spawn() {
            Ok(child) => self.daemons.push(Daemon { name, child }),
            Err(error) => panic!("{program}: {error}: `make setup` installs Slurm and munge"),
        }
    }

    fn wait_until_idle(&self) {
        let idle = || {
            let mut states = self.command("sinfo");
            states.args(["--noheader", "--Node", "--format=%T"]);
            let finished = self.finish(states);
            finished.code == 0 && finished.output.lines().filter(|state| *state == "idle").count() == NODES
        };
        assert!(holds_within(START_MAX, idle), "Slurm's nodes do not become idle\n{}", self.logs());
    }

    /// Takes everything down and says what would not go.
    fn take_down(&mut self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.daemons.len() == NODES + 2 {
            // Job steps are no children of their slurmd: they end with their job, while Slurm still runs.
            self.run(["scancel", "--full", "--state=RUNNING"]);
            self.run(["scancel", "--state=PENDING"]);
            if !holds_within(STOP_MAX, || self.run(["squeue", "--noheader"]).output.trim().is_empty()) {
                faults.push("jobs are still in the queue after scancel".to_owned());
            }
        }
        while let Some(mut daemon) = self.daemons.pop() {
            if let Ok(Some(status)) = daemon.child.try_wait() {
                faults.push(format!("{} had ended by itself: {status}", daemon.name));
            } else if !stop(&mut daemon.child) {
                faults.push(format!("{} did not end within {STOP_MAX:?}", daemon.name));
            }
        }
        if !holds_within(Duration::from_secs(2), || processes_of(&self.path).is_empty()) {
            for (pid, what) in processes_of(&self.path) {
                faults.push(format!("process {pid} was left: {what}"));
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        faults
    }

    /// The last errors in all logs, for a failure's message.
    fn logs(&self) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(self.path.join("log")).into_iter().flatten().flatten() {
            let log = String::from_utf8_lossy(&fs::read(entry.path()).unwrap_or_default()).into_owned();
            let bad: Vec<&str> =
                log.lines().filter(|line| line.contains("rror") || line.contains("fatal")).collect();
            let end = &bad[bad.len().saturating_sub(10)..];
            text += &format!("--- {}\n{}\n", entry.file_name().to_string_lossy(), end.join("\n"));
        }
        text
    }
}

impl Drop for SlurmCluster {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let mut faults = self.take_down();
        let closed = self.folder.take().map(tempfile::TempDir::close);
        if let Some(Err(error)) = closed {
            faults.push(format!("{} was left: {error}", self.path.display()));
        }
        if thread::panicking() {
            eprintln!("{}", faults.join("\n"));
        } else {
            assert!(faults.is_empty(), "{}", faults.join("\n"));
        }
    }
}

/// Processes whose command line, environment or working directory names `folder`.
pub(crate) fn processes_of(folder: &Path) -> Vec<(Pid, String)> {
    let wanted = folder.to_string_lossy().into_owned();
    let own = std::process::id().cast_signed();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let text = |file: &str| {
            String::from_utf8_lossy(&fs::read(entry.path().join(file)).unwrap_or_default()).into_owned()
        };
        let command = text("cmdline").replace('\0', " ");
        let cwd = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
        if pid != own
            && (command.contains(&wanted) || text("environ").contains(&wanted) || cwd.starts_with(folder))
        {
            found.push((Pid::from_raw(pid), command));
        }
    }
    found
}

/// Ports that were free a moment ago, below those that the kernel gives to others by itself.
fn free_ports(count: usize) -> Vec<u16> {
    let start = 20_000 + (std::process::id() % 10_000) as u16;
    (start..start + 2_000)
        .filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .take(count)
        .collect()
}

fn write_with_mode(file: &Path, bytes: &[u8], mode: u32) {
    let mut opened =
        File::options().write(true).create_new(true).mode(mode).open(file).expect("a file of ours");
    std::io::Write::write_all(&mut opened, bytes).expect("a file of ours");
}

/// TERM, and KILL when that is not enough; says whether TERM was.
fn stop(child: &mut Child) -> bool {
    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
    let ended = wait_at_most(child, STOP_MAX).is_some();
    if !ended {
        let _ = child.kill();
        let _ = child.wait();
    }
    ended
}

/// The exit code of `child`, 128 + the signal where one ended it; None if it still runs.
pub(crate) fn wait_at_most(child: &mut Child, limit: Duration) -> Option<i32> {
    use std::os::unix::process::ExitStatusExt;
    let mut code = None;
    holds_within(limit, || {
        let status = child.try_wait().expect("a child of ours");
        code =
            status.map(|status| status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(-1));
        code.is_some()
    });
    code
}

fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if started.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
