//! Where log lines go: standard error with the rank in front, or one file per rank.
//!
//! The level comes from `DCLUSTER_LOG`, in the syntax of `tracing_subscriber::EnvFilter` (`debug`,
//! `dcluster::scheduler=trace`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The variable with the level.
pub const LEVEL: &str = "DCLUSTER_LOG";
/// The variable with the directory for one file per rank.
pub const DIRECTORY: &str = "DCLUSTER_LOG_DIR";

/// Starts logging, once per process; `who` is `rank 3`, `worker`, or empty.
///
/// # Errors
/// If the file in `directory` cannot be opened.
pub fn start(who: &str, level: &str, directory: Option<&Path>) -> io::Result<()> {
    let filter = EnvFilter::try_from_env(LEVEL).unwrap_or_else(|_| EnvFilter::new(level));
    let sink = match directory {
        Some(directory) => Sink::File(Arc::new(Mutex::new(open(directory, who)?))),
        None => {
            Sink::StandardError { prefix: if who.is_empty() { String::new() } else { format!("[{who}] ") } }
        }
    };
    let colours = matches!(sink, Sink::StandardError { .. }) && io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(colours)
        .with_writer(sink)
        .finish();
    // A program that has set its own subscriber keeps it.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

#[derive(Clone)]
enum Sink {
    StandardError { prefix: String },
    File(Arc<Mutex<File>>),
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { sink: self.clone(), bytes: Vec::new() }
    }
}

/// One event, written in one piece so that lines of different ranks do not mix.
struct Line {
    sink: Sink,
    bytes: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.is_empty()
            && let Sink::StandardError { prefix } = &self.sink
        {
            self.bytes.extend_from_slice(prefix.as_bytes());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // A log that cannot be written has nowhere to say so.
        let _ = match &self.sink {
            Sink::StandardError { .. } => io::stderr().write_all(&self.bytes),
            Sink::File(file) => match file.lock() {
                Ok(mut file) => file.write_all(&self.bytes),
                Err(_) => Ok(()),
            },
        };
    }
}

fn open(directory: &Path, who: &str) -> io::Result<File> {
    fs::create_dir_all(directory)?;
    let name = if who.is_empty() { "dcluster".to_owned() } else { who.replace(' ', "-") };
    let host = crate::topology::host_name();
    OpenOptions::new().create(true).append(true).open(directory.join(format!("{name}.{host}.log")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_piece_with_the_rank_in_front() {
        let sink = Sink::StandardError { prefix: "[rank 3] ".to_owned() };
        let mut line = sink.make_writer();
        line.write_all(b"one ").unwrap();
        line.write_all(b"line\n").unwrap();
        assert_eq!(line.bytes, b"[rank 3] one line\n");
        line.bytes.clear();
    }
}
