//! Processes to measure: a scheduler, workers, or a whole launch under `mpirun`, ended when dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::scratch::Scratch;
use crate::client::blocking::Client;
use crate::launch::process;

/// The value of [`process::ROLE`] for a worker that answers without running anything.
pub(in crate::cli) const ZERO_WORKER: &str = "zero-worker";

const START_MAX: Duration = Duration::from_secs(60);
const END_MAX: Duration = Duration::from_secs(10);

/// A cluster of processes on this machine.
pub(super) struct Stage {
    directory: Scratch,
    file: PathBuf,
    children: Vec<Child>,
}

impl Stage {
    /// A scheduler and so many ordinary workers with one thread each.
    pub(super) fn with_workers(workers: u32) -> anyhow::Result<Self> {
        let mut stage = Self::with_scheduler()?;
        for _ in 0..workers {
            stage.start(Command::new(own_program()?).args(["worker", "--threads", "1"]))?;
        }
        Ok(stage)
    }

    /// A scheduler and a worker that reports every task as finished at once.
    pub(super) fn with_zero_worker() -> anyhow::Result<Self> {
        let mut stage = Self::with_scheduler()?;
        stage.start(Command::new(own_program()?).env(process::ROLE, ZERO_WORKER))?;
        Ok(stage)
    }

    /// `dcluster local -n workers`, with a thread per core.
    pub(super) fn with_local(workers: usize) -> anyhow::Result<Self> {
        let mut stage = Self::empty()?;
        let mut local = Command::new(own_program()?);
        local.args(["local", "-n"]).arg(workers.to_string()).env_remove("DCLUSTER_THREADS");
        stage.start(&mut local)?;
        Ok(stage)
    }

    /// `mpirun -n ranks dcluster`.
    pub(super) fn with_ranks(ranks: u32) -> anyhow::Result<Self> {
        let mut stage = Self::empty()?;
        let mut mpirun = mpirun(ranks)?;
        stage.start(&mut mpirun)?;
        Ok(stage)
    }

    fn with_scheduler() -> anyhow::Result<Self> {
        let mut stage = Self::empty()?;
        stage.start(Command::new(own_program()?).arg("scheduler"))?;
        stage.await_file()?;
        Ok(stage)
    }

    fn empty() -> anyhow::Result<Self> {
        let directory = Scratch::new("cluster")?;
        Ok(Self { file: directory.path().join("cluster.json"), directory, children: Vec::new() })
    }

    fn start(&mut self, command: &mut Command) -> anyhow::Result<()> {
        let log = std::fs::File::create(self.directory.path().join(format!("{}.log", self.children.len())))?;
        command.env(process::CONNECTION_FILE, &self.file).env("DCLUSTER_LOG", "warn");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        process::end_with_parent(command, nix::sys::signal::Signal::SIGTERM);
        self.children.push(command.spawn().with_context(|| format!("cannot start {command:?}"))?);
        Ok(())
    }

    /// A client, once so many workers have joined.
    pub(super) fn client(&mut self, workers: usize) -> anyhow::Result<Client> {
        self.await_file()?;
        let client = Client::connect(&self.file)?;
        client.wait_for_workers(workers, Some(START_MAX))?;
        Ok(client)
    }

    fn await_file(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_MAX;
        while !self.file.exists() {
            for (index, child) in self.children.iter_mut().enumerate() {
                if let Some(status) = child.try_wait()? {
                    let log = std::fs::read_to_string(self.directory.path().join(format!("{index}.log")))?;
                    bail!("a process of the cluster ended with {status} before it was up:\n{log}");
                }
            }
            if Instant::now() > deadline {
                bail!("no connection file after {START_MAX:?}");
            }
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The process id of the scheduler.
    pub(super) fn scheduler_pid(&self) -> u32 {
        self.children[0].id()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Ok(client) = Client::connect(&self.file) {
            let _ = client.shutdown(0);
        }
        let deadline = Instant::now() + END_MAX;
        for child in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
                sleep(Duration::from_millis(5));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What the workers say of themselves, as in `dcluster status --json`.
pub(super) fn of_workers(client: &Client, field: &str) -> anyhow::Result<Vec<u64>> {
    let status: Value = serde_json::from_str(&client.status()?)?;
    let workers = status["workers"].as_array().context("a status tells of workers")?;
    workers.iter().map(|worker| worker[field].as_u64().with_context(|| format!("no {field}"))).collect()
}

/// `mpirun -n ranks` of this program; its arguments follow.
pub(super) fn mpirun(ranks: u32) -> anyhow::Result<Command> {
    let mut mpirun = Command::new("mpirun");
    let version = Command::new("mpirun").arg("--version").output();
    let version = version.context("cannot start mpirun: install an MPI, or load its module")?;
    if String::from_utf8_lossy(&version.stdout).contains("Open MPI") {
        mpirun.arg("--oversubscribe");
    }
    mpirun.args(["--bind-to", "none", "-n"]).arg(ranks.to_string()).arg(own_program()?);
    if nix::unistd::geteuid().is_root() {
        mpirun.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    }
    Ok(mpirun)
}

fn own_program() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find this program's own file")
}

/// Resident bytes of a process.
pub(super) fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/statm");
    let statm = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let pages: u64 = statm.split(' ').nth(1).context("statm has a second field")?.parse()?;
    Ok(pages * page_bytes())
}

/// Resident bytes of a process, where memory that `n` processes share counts as an n-th.
pub(super) fn proportional_bytes(pid: u64) -> anyhow::Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let rollup = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kib = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB"));
    Ok(kib.context("the kernel tells the proportional size")?.parse::<u64>()? * 1024)
}

/// CPU time that a process has used, in seconds.
pub(super) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The program's name, in parentheses, may hold spaces.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(ticks as f64 / ticks_per_second())
}

/// Processes below `pid`, however deep.
pub(super) fn descendants(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            found.extend(children(&thread.path()));
        }
    }
    Ok(found)
}

fn children(thread: &Path) -> Vec<u32> {
    let children = std::fs::read_to_string(thread.join("children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn page_bytes() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().map_or(4096, |bytes| bytes as u64)
}

fn ticks_per_second() -> f64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().map_or(100.0, |ticks| ticks as f64)
}
