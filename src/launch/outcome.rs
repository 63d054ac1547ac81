//! What a driver may return, as the exit code of all ranks.

use std::fmt::Display;
use std::process::ExitCode;

use super::Exit;

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

/// The number in an exit code, which the standard library keeps to itself but compares.
pub(super) fn number(code: ExitCode) -> i32 {
    (0..=u8::MAX).find(|&number| ExitCode::from(number) == code).map_or(Exit::Failure.code(), i32::from)
}

/// The exit code that says `number` to the parent process.
pub(super) fn exit_code(number: i32) -> ExitCode {
    ExitCode::from(u8::try_from(number & 0xff).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_the_way_to_the_other_ranks() {
        for code in [0, 1, 7, 255] {
            assert_eq!(number(exit_code(code)), code);
        }
    }

    #[test]
    fn a_drivers_error_becomes_text() {
        let failed: Result<(), &str> = Err("no input");
        assert_eq!(failed.into_exit().unwrap_err(), "no input");
        assert_eq!(Ok::<_, &str>(ExitCode::from(3)).into_exit().map(number), Ok(3));
    }
}
