//! Where a program that is a cluster begins: `#[dcluster::main]` hands its driver over here.

use std::fmt::Display;
use std::process::ExitCode;

/// Runs this process's part of the cluster, and the driver where the driver belongs.
pub fn main_async<F, Client, Running, R>(driver: F) -> ExitCode
where
    F: FnOnce(Client) -> Running,
    Running: Future<Output = R>,
    R: Outcome,
{
    let _ = driver;
    ExitCode::FAILURE
}

/// [`main_async`] for a driver that blocks.
pub fn main_blocking<F, Client, R>(driver: F) -> ExitCode
where
    F: FnOnce(Client) -> R,
    R: Outcome,
{
    let _ = driver;
    ExitCode::FAILURE
}

/// What a driver may return.
#[diagnostic::on_unimplemented(
    message = "a driver cannot return `{Self}`",
    note = "it returns nothing, an `ExitCode`, or a `Result` of one of these with an error that can be shown"
)]
pub trait Outcome {
    /// The exit code of the program, or the error's text.
    ///
    /// # Errors
    /// The text of the driver's error.
    fn into_exit(self) -> Result<ExitCode, String>;
}

impl Outcome for () {
    fn into_exit(self) -> Result<ExitCode, String> {
        Ok(ExitCode::SUCCESS)
    }
}

impl Outcome for ExitCode {
    fn into_exit(self) -> Result<ExitCode, String> {
        Ok(self)
    }
}

impl<T: Outcome, E: Display> Outcome for Result<T, E> {
    fn into_exit(self) -> Result<ExitCode, String> {
        match self {
            Ok(outcome) => outcome.into_exit(),
            Err(error) => Err(format!("{error:#}")),
        }
    }
}
