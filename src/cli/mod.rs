//! The command line: what was typed, which command that is, and its exit code.
//!
//! [`arguments`] says what can be typed; `start.rs` has the commands that become a cluster or a part of one, `ask.rs`
//! those that ask one. Nothing below this layer knows of clap.

pub mod arguments;
mod ask;
pub mod bench;
pub mod doctor;
mod explain;
mod start;
pub mod status;
mod story;
pub mod topo;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use self::arguments::{Arguments, Command, Global, Suite};
use self::doctor::Verdict;
use crate::launch::role::{self, Environment};
use crate::launch::{Exit, code_file, entry, exit, guard, log, process};

/// What the stock program does.
pub fn main() -> ExitCode {
    process::keep_marker();
    let env = entry::environment();
    if env.get(process::ROLE).map(String::as_str) == Some(guard::ROLE) {
        guard::guard();
    }
    code_file::open(&env);
    let code = match env.contains_key(process::ROLE) {
        true => start::told(&env),
        false => typed(&env),
    };
    exit::in_order(code)
}

fn typed(env: &Environment) -> i32 {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // A closed pipe has nobody to tell.
            let _ = error.print();
            return error.exit_code();
        }
    };
    let global = &arguments.global;
    let Some(command) = arguments.command else { return start::cluster(env, global) };
    match command {
        Command::Run(run) => start::run(env, global, &run.program),
        Command::Local(local) => start::local(global, &local),
        Command::Scheduler => start::scheduler(global),
        Command::Worker(worker) => start::worker(env, global, &worker),
        Command::Topo(topo) => start::topo(env, global, &topo),
        // Every rank takes part.
        Command::Bench(bench) if bench.suite == Suite::Transfer => {
            start_log("", "warn", global);
            bench::run(env, &bench, global.json)
        }
        asked => ask(env, global, asked),
    }
}

/// Commands that only look or ask; under a launcher rank 0 does so for all.
fn ask(env: &Environment, global: &Global, command: Command) -> i32 {
    if role::detect(env).is_some_and(|launch| launch.rank > 0) {
        return Exit::Success.code();
    }
    start_log("", "warn", global);
    match command {
        Command::Status(status) => ask::status(global, status.wait),
        Command::Stop(stop) => ask::stop(global, stop.code),
        Command::Explain(explain) => ask::explain(global, &explain.key),
        Command::Story(story) => ask::story(global, &story.key),
        Command::Doctor => doctor(env, global),
        Command::Bench(bench) => bench::run(env, &bench, global.json),
        Command::Completions { shell } => print(&arguments::completions(shell)),
        Command::Run(_) | Command::Local(_) | Command::Scheduler | Command::Worker(_) | Command::Topo(_) => {
            Exit::Internal.code()
        }
    }
}

fn doctor(env: &Environment, global: &Global) -> i32 {
    let checks = doctor::examine(env);
    let text = match global.json {
        true => serde_json::json!({"checks": checks, "verdict": doctor::worst(&checks)}).to_string() + "\n",
        false => doctor::report(&checks),
    };
    print(text.as_bytes());
    match doctor::worst(&checks) {
        Verdict::Fail => Exit::Failure.code(),
        Verdict::Ok | Verdict::Warn => Exit::Success.code(),
    }
}

/// Prints to standard output; a reader that has gone away, such as `head`, is no failure.
fn print(bytes: &[u8]) -> i32 {
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(bytes).and_then(|()| output.flush());
    Exit::Success.code()
}

fn start_log(who: &str, level: &str, global: &Global) {
    if let Err(error) = log::start(who, level, global.log_dir.as_deref()) {
        eprintln!("no log in {:?}: {error}", global.log_dir);
    }
}
