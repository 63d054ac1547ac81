//! What a command of the system prints, if it exists and answers in time.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::process;

const ANSWER_WAIT_MAX: Duration = Duration::from_secs(5);

/// Both of its outputs, standard output first.
pub fn of(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(process::find_program(program.as_ref())?);
    process::strip_launcher(&mut command);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    let (mut stdout, mut stderr) = (child.stdout.take()?, child.stderr.take()?);
    let (answer, heard) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.read_to_end(&mut bytes).and_then(|_| stderr.read_to_end(&mut bytes));
        let _ = answer.send(read.map(|_| bytes));
    });
    let bytes = heard.recv_timeout(ANSWER_WAIT_MAX);
    let _ = child.kill();
    let _ = child.wait();
    Some(String::from_utf8_lossy(&bytes.ok()?.ok()?).into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_not_there_gives_no_answer() {
        assert_eq!(of("no-such-program-here", &[]), None);
        assert_eq!(of("echo", &["hello"]).unwrap(), "hello\n");
    }
}
