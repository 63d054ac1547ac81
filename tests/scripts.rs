//! The scripts around the program, started with stand-ins for the commands they call: `.ci/setup` on machines unlike
//! this one, `launchers/mpirun.sh` with each MPI.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A user without rights.
const NOBODY: u32 = 65534;

const BASICS: &[&str] = &[
    "bash", "basename", "cat", "dirname", "env", "grep", "head", "mkdir", "mktemp", "rm", "sed", "sleep",
    "sort", "tail", "tr",
];

/// A directory that is the whole PATH of a script.
struct Stage {
    folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let stage = Self { folder: tempfile::tempdir().expect("a temporary directory") };
        for name in BASICS {
            let found = std::env::split_paths(&std::env::var_os("PATH").expect("PATH"))
                .map(|folder| folder.join(name))
                .find(|file| file.exists());
            symlink(found.unwrap_or_else(|| panic!("no {name} on PATH")), stage.file(name)).expect("a link");
        }
        stage
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Puts a shell script in the place of a command.
    fn stand_in(self, name: &str, body: &str) -> Self {
        fs::write(self.file(name), format!("#!/usr/bin/env bash\n{body}\n")).expect("a script");
        fs::set_permissions(self.file(name), fs::Permissions::from_mode(0o755)).expect("a script of ours");
        self
    }

    fn command(&self, script: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(script));
        command.args(arguments).env_clear().env("PATH", self.folder.path()).env("SETUP_MORE_PATH", "");
        // What the launchers leave there goes with this stage.
        command.env("HOME", self.folder.path());
        command
    }

    fn run(&self, script: &str, arguments: &[&str]) -> Output {
        self.command(script, arguments).output().expect("a script that starts")
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn setup_without_root_names_what_is_missing_and_the_modules_to_load() {
    let stage = Stage::new()
        .stand_in("id", "echo 1000")
        .stand_in("cc", "")
        .stand_in("apt-get", "echo called; exit 1");
    let output = stage.run(".ci/setup", &["build"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("make pkg-config mpicc mpirun"), "{said}");
    assert!(!said.contains(" cc ") && !said.contains("called"), "{said}");
    assert!(said.contains("module load openmpi hwloc llvm"), "{said}");
}

/// As a real user of a login node, where this test runs as root.
#[test]
fn setup_as_an_unprivileged_user_stops_with_the_modules_to_load() {
    let stage = Stage::new().stand_in("apt-get", "echo called").stand_in("dnf", "echo called");
    fs::remove_file(stage.file("id")).unwrap_or_default();
    symlink("/usr/bin/id", stage.file("id")).expect("a link");
    fs::set_permissions(stage.folder.path(), fs::Permissions::from_mode(0o755)).expect("a folder of ours");
    // (The checkout may lie where only root can go.)
    let script = stage.file("setup");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/setup"), &script).expect("a copy");
    for purpose in ["build", "test"] {
        let mut command = Command::new(&script);
        command.arg(purpose).current_dir("/").env_clear().env("PATH", stage.folder.path());
        if nix::unistd::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let output = command.env("SETUP_MORE_PATH", "").output().expect("a script that starts");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("not to be installed by this account: cc make"), "{said}");
        assert!(said.contains("module load openmpi hwloc llvm"), "{said}");
        assert_eq!(said.contains("module load mpich"), purpose == "test", "{said}");
        assert_eq!(text(&output.stdout), "", "no package manager is called");
    }
}

#[test]
fn setup_installs_with_the_package_manager_of_the_system() {
    for (manager, package) in [("apt-get", "libopenmpi-dev"), ("dnf", "openmpi-devel")] {
        let stage = Stage::new().stand_in("id", "echo 0");
        let calls = stage.file("calls");
        let stage = stage.stand_in(manager, &format!("echo \"$*\" >>{}", calls.display()));
        stage.run(".ci/setup", &["build"]);
        let called = fs::read_to_string(&calls).unwrap_or_default();
        assert!(called.lines().any(|call| call.starts_with("install") && call.contains(package)), "{called}");
        assert!(!called.contains("slurm"), "a build needs no Slurm: {called}");
    }
}

#[test]
fn setup_refuses_an_old_toolchain_and_says_how_to_get_another() {
    let mut stage = Stage::new().stand_in("rustc", "echo 'rustc 1.85.0 (abc 2025-01-01)'");
    for name in ["cc", "make", "pkg-config", "mpicc", "mpirun", "cargo"] {
        stage = stage.stand_in(name, "");
    }
    let mut command = stage.command(".ci/setup", &["build"]);
    let output = command.env("LIBCLANG_PATH", "/somewhere").output().expect("a script that starts");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("1.85") && said.contains("rustup update"), "{said}");
}

#[test]
fn setup_with_everything_there_does_nothing() {
    let mut stage = Stage::new().stand_in("rustc", "echo 'rustc 1.95.0 (abc 2026-01-01)'");
    for name in ["cc", "make", "pkg-config", "mpicc", "mpirun", "cargo"] {
        stage = stage.stand_in(name, "");
    }
    let mut command = stage.command(".ci/setup", &["build"]);
    let output = command.env("LIBCLANG_PATH", "/somewhere").output().expect("a script that starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout) + &text(&output.stderr), "");
}

const SHOW_SETTINGS: &str = "echo \"ranks $*\"; env | grep -E '^(OMPI|PRTE|UCX)' | sort";

fn mpirun_named(version: &str) -> String {
    format!("if [ \"$1\" = --version ]; then echo '{version}'; else {SHOW_SETTINGS}; fi; true")
}

#[test]
fn launcher_has_open_mpi_outlive_a_lost_rank() {
    let stage =
        Stage::new().stand_in("id", "echo 1000").stand_in("mpirun", &mpirun_named("mpirun (Open MPI) 4.1.4"));
    let said = text(&stage.run("launchers/mpirun.sh", &["-n", "2", "app", "a b"]).stdout);
    assert!(said.starts_with("ranks -n 2 app a b\n"), "{said}");
    assert!(said.contains("OMPI_MCA_orte_enable_recovery=1\n"), "{said}");
    assert!(!said.contains("ALLOW_RUN_AS_ROOT"), "{said}");
}

#[test]
fn launcher_leaves_the_users_own_settings_alone() {
    let stage =
        Stage::new().stand_in("id", "echo 1000").stand_in("mpirun", &mpirun_named("mpirun (Open MPI) 4.1.4"));
    let mut command = stage.command("launchers/mpirun.sh", &["-n", "2", "app"]);
    command.env("OMPI_MCA_hwloc_base_binding_policy", "core").env("SLURM_JOB_ID", "1");
    let said = text(&command.output().expect("a script that starts").stdout);
    assert!(said.contains("OMPI_MCA_hwloc_base_binding_policy=core\n"), "{said}");
    assert!(!said.contains("oversubscribe"), "an allocation says itself how many ranks it holds: {said}");
}

fn open_mpi_that_does(body: &str) -> Stage {
    let version = "[ \"$1\" != --version ] || { echo 'mpirun (Open MPI) 4.1.4'; exit 0; }";
    Stage::new().stand_in("id", "echo 1000").stand_in("mpirun", &format!("{version}\n{body}"))
}

/// Open MPI 4 with recovery always ends with 0.
#[test]
fn launcher_ends_with_the_exit_code_that_rank_0_left() {
    let stage = open_mpi_that_does("echo 5 >\"$DCLUSTER_EXIT_CODE_FILE\"; echo \"$DCLUSTER_EXIT_CODE_FILE\"");
    let output = stage.run("launchers/mpirun.sh", &["-n", "2", "app"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert!(!Path::new(text(&output.stdout).trim()).exists(), "the file goes with the run");

    let silent = open_mpi_that_does("exit 3");
    assert_eq!(silent.run("launchers/mpirun.sh", &["-n", "2", "app"]).status.code(), Some(3));
}

#[test]
fn launcher_hands_a_signal_to_mpirun_and_waits_for_its_end() {
    // A TERM goes as one that Open MPI hands on, unless the user has told it what to hand on.
    for (own, handed_on) in [("", "XCPU"), ("SIGURG", "TERM")] {
        let body =
            format!("trap 'echo warned; exit 9' {handed_on}; echo ready; while :; do sleep 0.05; done");
        let stage = open_mpi_that_does(&body);
        let mut launcher = stage.command("launchers/mpirun.sh", &["-n", "2", "app"]);
        if !own.is_empty() {
            launcher.env("OMPI_MCA_ess_base_forward_signals", own);
        }
        let mut launcher = launcher.stdout(Stdio::piped()).spawn().expect("a script that starts");
        let mut lines = BufReader::new(launcher.stdout.take().expect("a pipe")).lines();
        assert_eq!(lines.next().expect("a line").expect("text"), "ready");
        kill(Pid::from_raw(launcher.id().cast_signed()), Signal::SIGTERM).expect("a process of ours");
        assert_eq!(lines.next().expect("a line").expect("text"), "warned");
        assert_eq!(launcher.wait().expect("a process of ours").code(), Some(143));
    }
}

#[test]
fn launcher_gives_mpich_no_settings_of_open_mpi() {
    let stage = Stage::new().stand_in("mpirun", &mpirun_named("HYDRA build details:"));
    let output = stage.run("launchers/mpirun.sh", &["-n", "2", "app"]);
    assert_eq!(text(&output.stdout), "ranks -n 2 app\n");
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn launchers_explain_themselves() {
    let stage = Stage::new();
    for script in ["launchers/mpirun.sh", "launchers/srun.sh"] {
        let help = stage.run(script, &["--help"]);
        assert!(help.status.success() && text(&help.stdout).contains(script), "{help:?}");
        assert_eq!(stage.run(script, &[]).status.code(), Some(2));
        let without_launcher = stage.run(script, &["-n", "2", "app"]);
        assert_eq!(without_launcher.status.code(), Some(127));
        assert!(text(&without_launcher.stderr).contains("on PATH"), "{without_launcher:?}");
    }
}

/// As soon as there is an mpirun: the stand-in tells its parent to end before the script has set its traps, or after.
#[test]
fn a_signal_at_the_start_reaches_mpirun_too() {
    let stage =
        open_mpi_that_does("trap 'echo warned; exit 9' XCPU; kill -TERM $PPID; while :; do sleep 0.05; done");
    for _ in 0..20 {
        let output = stage.run("launchers/mpirun.sh", &["-n", "2", "app"]);
        assert_eq!(output.status.code(), Some(143), "{output:?}");
        assert_eq!(text(&output.stdout), "warned\n");
    }
}

/// A script that a signal without a trap ends, or a KILL, takes mpirun along.
#[test]
fn launcher_that_is_killed_takes_mpirun_along() {
    for signal in [Signal::SIGALRM, Signal::SIGKILL] {
        let stage =
            open_mpi_that_does("trap 'echo ended; exit' TERM; echo ready; while :; do sleep 0.05; done");
        let mut launcher = stage.command("launchers/mpirun.sh", &["-n", "2", "app"]);
        let mut launcher = launcher.stdout(Stdio::piped()).spawn().expect("a script that starts");
        let mut lines = BufReader::new(launcher.stdout.take().expect("a pipe")).lines();
        assert_eq!(lines.next().expect("a line").expect("text"), "ready");
        kill(Pid::from_raw(launcher.id().cast_signed()), signal).expect("a process of ours");
        launcher.wait().expect("a process of ours");
        assert_eq!(lines.next().expect("a line").expect("text"), "ended", "{signal}");
        assert!(lines.next().is_none(), "no process is left that holds the standard output");
    }
}

/// With the MPI that the build uses (`MPIRUN`), as many ranks as asked for, each with all of this machine's cores.
#[cfg(feature = "mpi")]
#[test]
fn mpirun_launcher_starts_each_rank_unbound() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("launchers/mpirun.sh");
    let output = Command::new(script)
        .args(["-n", "4", "sh", "-c", "echo \"$(grep Cpus_allowed: /proc/self/status)\""])
        .output()
        .expect("a script that starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let own = fs::read_to_string("/proc/self/status").expect("/proc");
    let allowed = own.lines().find(|line| line.starts_with("Cpus_allowed:")).expect("a cpuset");
    let ranks = text(&output.stdout);
    assert_eq!(ranks.lines().filter(|line| *line == allowed).count(), 4, "{ranks}");
}
