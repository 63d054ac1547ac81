//! `dcluster doctor`: checks what a cluster stands on, and says for each thing what to fix.
//!
//! A [`Check`] is a fact with a verdict. `launcher.rs` looks at MPI and Slurm, `machine.rs` at the host; the functions
//! that judge are pure, those that look are small.

mod launcher;
mod machine;

use std::fmt::Write as _;

use serde::Serialize;

use crate::launch::role::Environment;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether it is well.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it, unless it is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// How well a thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// A cluster runs, but something is slower or missing.
    Warn,
    /// A cluster does not run.
    Fail,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), fix: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), fix: Some(fix.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, found: found.into(), fix: Some(fix.into()) }
    }
}

/// Looks at everything.
pub fn examine(env: &Environment) -> Vec<Check> {
    let mut checks = launcher::checks(env);
    checks.extend(machine::checks(env));
    checks
}

/// The checks as text, one line each, and a line for each fix.
pub fn report(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Ok => "OK  ",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        let _ = writeln!(text, "{verdict}  {:<width$}  {}", check.name, check.found);
        if let Some(fix) = &check.fix {
            let _ = writeln!(text, "      {:<width$}  -> {fix}", "");
        }
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let (warnings, failures) = (count(Verdict::Warn), count(Verdict::Fail));
    let _ = match (warnings, failures) {
        (0, 0) => writeln!(text, "\nAll is well."),
        (_, 0) => writeln!(text, "\nA cluster runs here; {warnings} to look at."),
        _ => writeln!(text, "\n{failures} to fix before a cluster runs here, {warnings} to look at."),
    };
    text
}

/// The worst verdict.
pub fn worst(checks: &[Check]) -> Verdict {
    checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_to_fix() {
        let checks = [
            Check::ok("hwloc", "1 package, 2 cores"),
            Check::warn("open files", "256 per process", "raise it: ulimit -n 4096"),
            Check::fail("run directory", "/home/a/.dcluster cannot be written", "set DCLUSTER_RUN_DIR"),
        ];
        insta::assert_snapshot!(report(&checks));
        assert_eq!(worst(&checks), Verdict::Fail);
    }

    #[test]
    fn a_healthy_machine_is_called_well() {
        let text = report(&[Check::ok("hwloc", "1 package")]);
        assert!(text.ends_with("All is well.\n"), "{text}");
    }

    #[test]
    fn every_check_that_is_not_well_has_a_fix() {
        let env = std::env::vars().collect();
        for check in examine(&env) {
            assert_eq!(check.fix.is_some(), check.verdict != Verdict::Ok, "{check:?}");
            assert!(!check.found.is_empty(), "{check:?}");
        }
    }
}
