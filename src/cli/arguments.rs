//! Everything that can be typed, with the texts of `--help`.
//!
//! Only declarations; [`super`] acts on them.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueHint};
use clap_complete::Shell;

use crate::launch::{exit, memory};

/// What was typed.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "dcluster",
    version,
    about = "Turns a batch allocation into a task cluster",
    long_about = "Turns a batch allocation into a task cluster: rank 0 schedules, the other ranks work, and clients \
                  submit tasks and get futures.\n\n\
                  Started by mpirun or srun without a command, this is the cluster itself, and runs until it is \
                  stopped. Started by hand without a command, it prints this help.",
    after_help = EXAMPLES,
    after_long_help = long_after_help(),
    arg_required_else_help = false,
    subcommand_required = false,
    max_term_width = 100
)]
pub struct Arguments {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// The command, if any.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options of every command.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// The connection file of the cluster
    ///
    /// It holds the cluster's address and the key to it. A command that starts a cluster writes it here, the others
    /// read it. Without this option and --job: the file of the batch job this runs in, else of your only running
    /// cluster.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "DCLUSTER_CONNECTION_FILE",
        hide_env_values = true
    )]
    #[arg(visible_alias = "connect", value_hint = ValueHint::FilePath)]
    pub connection_file: Option<PathBuf>,

    /// The batch job whose cluster is meant (goes before the connection file)
    #[arg(long, global = true, value_name = "ID")]
    pub job: Option<String>,

    /// Print JSON instead of text, for programs
    #[arg(long, global = true)]
    pub json: bool,

    /// Write logs to one file per rank in this directory
    #[arg(long, global = true, value_name = "DIRECTORY", env = "DCLUSTER_LOG_DIR", hide_env_values = true)]
    #[arg(value_hint = ValueHint::DirPath)]
    pub log_dir: Option<PathBuf>,

    /// A library of tasks for the workers, such as libmine.so (repeatable)
    ///
    /// A cdylib with #[dcluster::task] functions and one dcluster::export_tasks!(), built with the same dcluster and
    /// compiler as this program. The tasks of a driver with #[dcluster::main] need no library.
    #[arg(long, global = true, value_name = "LIBRARY", env = "DCLUSTER_TASKS", hide_env_values = true)]
    #[arg(value_delimiter = ':', value_hint = ValueHint::FilePath)]
    pub tasks: Vec<PathBuf>,

    /// How long a cluster keeps what a client holds after its connection broke [default: 60]
    ///
    /// For a command that starts a cluster. A client that comes back in this time goes on where it was; with 0 it loses
    /// its futures at once.
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        env = "DCLUSTER_CLIENT_LEASE",
        hide_env_values = true
    )]
    pub client_lease: Option<u64>,

    /// How long a call that may run on certain workers only waits for one of them [default: 60]
    ///
    /// For a command that starts a cluster. When the time is up and none of the workers that the call names is there,
    /// it fails.
    #[arg(
        long,
        global = true,
        value_name = "SECONDS",
        env = "DCLUSTER_PLACEMENT_WAIT",
        hide_env_values = true
    )]
    pub placement_wait: Option<u64>,

    /// The memory of each worker, such as 16G [default: its part of what the job may use]
    ///
    /// For a command that starts workers. Above 60 % of it a worker spills values to disk, those that were not used for
    /// longest first; above 80 % it runs one task at a time. With 0 there is no limit, and no value is spilled.
    #[arg(long, global = true, value_name = "BYTES", env = "DCLUSTER_MEMORY_LIMIT", hide_env_values = true)]
    #[arg(value_parser = memory::parse)]
    pub memory_limit: Option<u64>,

    /// Where workers spill values when memory is short [default: $TMPDIR, or /tmp]
    ///
    /// On each node a local disk with room. Each worker has a private directory there, and removes it at its end.
    #[arg(
        long,
        global = true,
        value_name = "DIRECTORY",
        env = "DCLUSTER_SPILL_DIRECTORY",
        hide_env_values = true
    )]
    #[arg(value_hint = ValueHint::DirPath)]
    pub spill_directory: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Start the cluster with PROGRAM as its driver, and end with it
    ///
    /// Under mpirun or srun: rank 0 schedules and runs PROGRAM beside it, with DCLUSTER_CONNECTION_FILE set; the other
    /// ranks work. When PROGRAM ends, all ranks end with its exit code. If PROGRAM has a #[dcluster::main], the workers
    /// have its tasks. Without a launcher the cluster is on this machine, as with dcluster local.
    #[command(after_help = RUN_EXAMPLES)]
    Run(Run),

    /// Start a cluster on this machine, without MPI
    #[command(after_help = LOCAL_EXAMPLES)]
    Local(Local),

    /// Start a scheduler alone, by hand; workers join it by its connection file
    #[command(after_help = ROLES_EXAMPLES)]
    Scheduler,

    /// Start one more worker, by hand, that joins a running cluster
    #[command(after_help = ROLES_EXAMPLES)]
    Worker(Worker),

    /// Show workers, tasks and clients of a cluster
    Status(Status),

    /// End a cluster: driver, scheduler and all workers
    Stop(Stop),

    /// Draw which cores and memory each rank has, with a warning for each bad binding
    ///
    /// Under a launcher: of its ranks, without starting a cluster. By hand: of the cluster that --connection-file or
    /// --job names, else of this machine.
    #[command(after_help = TOPO_EXAMPLES)]
    Topo(Topo),

    /// Check MPI, launcher, hwloc, network and limits, and say what to fix
    Doctor,

    /// Say why a task waits, where it runs, and what holds its memory
    ///
    /// KEY is what Future::key() gives. A task is known while a future, or a task that waits for it, wants it.
    Explain(Explain),

    /// Tell what happened to a key: where its value was made, and each transfer of it
    ///
    /// KEY as for explain. The scheduler remembers the last 16384 events: values above 4 KiB that were made or copied,
    /// failures, lost workers, and transfers above 64 KiB with lane, bytes and seconds. Workers report these once a second.
    Story(Explain),

    /// Measure this machine: rates, latencies and memory per task
    ///
    /// Starts its own processes on this machine, and ends them. Nothing else should run meanwhile.
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(Bench),

    /// Print the completion script of a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Options of `run`.
#[derive(Debug, Clone, Args)]
pub struct Run {
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "PROGRAM")]
    #[arg(value_hint = ValueHint::CommandWithArguments)]
    pub program: Vec<OsString>,
}

/// Options of `local`.
#[derive(Debug, Clone, Args)]
pub struct Local {
    /// Number of worker processes [default: one per NUMA node]
    #[arg(short = 'n', long, value_name = "N", env = "DCLUSTER_WORKERS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub workers: Option<u32>,

    /// Threads of each worker [default: its cores]
    #[arg(short = 't', long, value_name = "T", env = "DCLUSTER_THREADS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub threads: Option<u32>,

    /// A program to drive the cluster, and its arguments; without it the cluster runs until it is stopped
    #[arg(allow_hyphen_values = true, value_name = "PROGRAM", last = true)]
    #[arg(value_hint = ValueHint::CommandWithArguments)]
    pub program: Vec<OsString>,
}

/// Options of `worker`.
#[derive(Debug, Clone, Args)]
pub struct Worker {
    /// Number of threads [default: the cores it may use]
    #[arg(short = 't', long, value_name = "T", env = "DCLUSTER_THREADS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub threads: Option<u32>,
}

/// Options of `status`.
#[derive(Debug, Clone, Args)]
pub struct Status {
    /// First wait until this many workers have joined, for as long as a launch may take
    #[arg(long, value_name = "WORKERS")]
    pub wait: Option<usize>,
}

/// Options of `stop`.
#[derive(Debug, Clone, Args)]
pub struct Stop {
    /// The exit code of all ranks
    #[arg(long, value_name = "CODE", default_value_t = 0)]
    #[arg(value_parser = clap::value_parser!(i32).range(0..=255))]
    pub code: i32,
}

/// Options of `topo`.
#[derive(Debug, Clone, Args)]
pub struct Topo {
    /// Plan this many ranks on this machine, and draw that
    #[arg(short = 'n', long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub ranks: Option<u32>,
}

/// Options of `explain`.
#[derive(Debug, Clone, Args)]
pub struct Explain {
    /// Your own name for the key, inc-1f0c2d3e as in errors, or its hexadecimal digits
    pub key: String,
}

/// Options of `bench`.
#[derive(Debug, Clone, Args)]
pub struct Bench {
    /// What to measure
    pub suite: Suite,

    /// Samples of each rate; the median is printed
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = one_or_more())]
    pub repeat: usize,

    /// Small sizes, to see that it works; not for figures
    #[arg(long)]
    pub quick: bool,

    /// Transfer: do not measure, but see that values of all sizes, up to 3 GiB, arrive unchanged on each lane
    #[arg(long)]
    pub check: bool,

    /// With --check: ranks die while values come from them, all but the first two and the last, under a launcher that
    /// lets the others live
    #[arg(long, requires = "check")]
    pub lose_ranks: bool,
}

/// The suites of `bench`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Suite {
    /// What the cluster costs per task, per idle rank and per launch
    Overhead,
    /// How fast values travel between ranks on each lane, against MPI alone; inside a launch, between its ranks
    Transfer,
    /// How fast a client hands a large value out and brings it back, beside a bare TCP stream; copies of a broadcast
    Collective,
    /// Sums from disk and of what is resident, a shuffle, a matrix product, beside plain threads on the same cores; and
    /// how much is in memory while a file is reduced
    Dataflow,
}

fn one_or_more() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// The help text, as printed for someone who typed nothing.
pub fn help() -> String {
    Arguments::command().render_help().to_string()
}

/// The completion script of `shell`.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "dcluster", &mut script);
    script
}

fn long_after_help() -> String {
    format!(
        "{EXAMPLES}\n\n{ENVIRONMENT}\n\nExit codes:\n{}   any  of PROGRAM, passed on unchanged",
        exit::table()
    )
}

const EXAMPLES: &str = "\
Examples:
  mpirun -n 4 dcluster                   a cluster of three workers, until it is stopped
  mpirun -n 4 dcluster run -- ./app      the same with ./app as its driver; ends when ./app ends
  srun dcluster run -- ./app             the same in a Slurm allocation
  dcluster local -- ./app                on this machine, without MPI
  dcluster status                        from another terminal or a login node
  dcluster doctor                        when something does not work";

const ENVIRONMENT: &str = "\
Environment:
  DCLUSTER_CONNECTION_FILE   the connection file, as --connection-file
  DCLUSTER_WORKERS           workers of a cluster on one machine (dcluster local, or ./app by itself)
  DCLUSTER_THREADS           threads of each of its workers, or of dcluster worker
  DCLUSTER_TASKS             libraries of tasks, separated by colons
  DCLUSTER_CLIENT_LEASE      seconds that a client may be cut off, as --client-lease
  DCLUSTER_PLACEMENT_WAIT    seconds that a call waits for workers it names, as --placement-wait
  DCLUSTER_MPI_LANE          off: large values do not go over MPI between ranks
  DCLUSTER_SHM_LANE          off: large values are not mapped by other processes of a host
  DCLUSTER_PROGRESS          off: do not show how far a scatter or gather is
  DCLUSTER_LOG               what to log: error, warn, info, debug, trace, or per module
  DCLUSTER_LOG_DIR           one log file per rank in this directory
  DCLUSTER_RUN_DIR           where connection files are, and where ranks meet without MPI
  DCLUSTER_LAUNCH_TIMEOUT    seconds that ranks wait for each other";

const RUN_EXAMPLES: &str = "\
Examples:
  mpirun -n 4 dcluster run -- ./app input.txt
  srun -N 2 --ntasks-per-node=4 dcluster run -- ./app
  mpirun -n 4 dcluster --tasks libmine.so run -- ./driver.sh

SIGTERM and Ctrl-C end the driver and then the cluster; SIGUSR1 and SIGUSR2 are handed to the
driver. What the driver leaves running when it ends is ended too.";

const BENCH_EXAMPLES: &str = "\
Examples:
  dcluster bench overhead            a table
  dcluster bench overhead --json     one JSON object, for programs
  dcluster bench dataflow            arrays on two workers or more of this machine; 1 GiB below $TMPDIR
  dcluster bench transfer            between two ranks on this machine, which mpirun starts
  srun -N2 -n3 dcluster bench transfer    between the ranks of a launch: rank 1 and the last
  mpirun -n 3 dcluster bench transfer --check    whether values arrive unchanged on each lane
  launchers/mpirun.sh -n 9 dcluster bench transfer --check --lose-ranks    and what a death costs";

const LOCAL_EXAMPLES: &str = "\
Examples:
  dcluster local                  one worker per NUMA node, until Ctrl-C or dcluster stop
  dcluster local -n 4 -t 2        four workers with two threads each
  dcluster local -- ./app         with ./app as the driver; ends with its exit code";

const ROLES_EXAMPLES: &str = "\
Examples:
  dcluster --connection-file ~/c.json scheduler       prints where it listens, and writes that file
  dcluster --connection-file ~/c.json worker -t 8     joins it, from any node that sees the file";

const TOPO_EXAMPLES: &str = "\
Examples:
  mpirun -n 4 dcluster topo       where these ranks would be bound
  dcluster topo -n 4              what four ranks would get on this machine
  dcluster topo --job 1234        of a cluster that runs";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  dcluster completions bash > ~/.local/share/bash-completion/completions/dcluster
  dcluster completions zsh > ~/.zfunc/_dcluster
  dcluster completions fish > ~/.config/fish/completions/dcluster.fish";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(words.split_whitespace())
    }

    #[test]
    fn the_declaration_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_options_of_a_program_stay_its_own() {
        let Some(Command::Run(run)) = parse("dcluster run -- ./app --json -n 3").unwrap().command else {
            panic!("not run")
        };
        assert_eq!(run.program, ["./app", "--json", "-n", "3"]);
        let typed = parse("dcluster run ./app --json").unwrap();
        assert!(!typed.global.json, "also without the two dashes");
    }

    #[test]
    fn local_takes_a_program_after_two_dashes() {
        let Some(Command::Local(local)) = parse("dcluster local -n 2 -- ./app -t 3").unwrap().command else {
            panic!("not local")
        };
        assert_eq!((local.workers, local.threads), (Some(2), None));
        assert_eq!(local.program, ["./app", "-t", "3"]);
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
        assert!(parse("dcluster --json status").unwrap().global.json);
        assert!(parse("dcluster status --json").unwrap().global.json);
        let typed = parse("dcluster --tasks a.so --tasks b.so run -- x").unwrap();
        assert_eq!(typed.global.tasks, [PathBuf::from("a.so"), PathBuf::from("b.so")]);
    }

    #[test]
    fn nonsense_is_a_usage_error() {
        for words in ["dcluster run", "dcluster nope", "dcluster local -n 0", "dcluster stop --code 256"] {
            assert_eq!(parse(words).unwrap_err().exit_code(), exit::Exit::Usage.code(), "{words}");
        }
    }

    #[test]
    fn every_shell_gets_a_completion_script() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(completions(shell)).unwrap();
            assert!(script.contains("doctor"), "{shell}");
        }
    }

    #[test]
    fn the_help_text_teaches() {
        insta::assert_snapshot!(Arguments::command().term_width(100).render_long_help());
    }
}
