//! The Python that tests compare with: NumPy, h5py and zarr in target/tools/python, made by `.ci/setup test`.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

/// A script that answers each line of JSON with one.
pub(crate) struct Python {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Python {
    /// Starts a script, named from the root of the repository.
    pub(crate) fn start(script: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = root.join("target/tools/python/bin/python3");
        assert!(python.exists(), "there is no {}: run .ci/setup test", python.display());
        let mut child = Command::new(python)
            .arg(root.join(script))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python starts");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        Self { requests: child.stdin.take(), answers, child }
    }

    /// What the script answers; what it raises is the panic of this test.
    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        let requests = self.requests.as_mut().expect("open until dropped");
        writeln!(requests, "{request}").expect("the script reads");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the script answers");
        let answer: Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("{request}: no answer: {line}"));
        if let Some(error) = answer.get("error") {
            panic!("{request}: {}", error.as_str().unwrap_or("?"));
        }
        answer
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        drop(self.requests.take()); // the end of its input is the end of the script
        let _ = self.child.wait();
    }
}
