//! The stock cluster program.

use std::process::ExitCode;

fn main() -> ExitCode {
    dcluster::cli::main()
}
