//! `dcluster story KEY`: what happened to a value, a line per event.

use std::fmt::Write as _;

use serde_json::Value;

use super::{explain, status};

/// The scheduler's answer as text.
pub(super) fn text(answer: &Value) -> String {
    let mut text = match &answer["task"] {
        Value::Null => format!("key: {}\nforgotten: nobody wants it any more\n", show(&answer["key"])),
        task => explain::text(task),
    };
    let events = answer["events"].as_array().map(Vec::as_slice).unwrap_or_default();
    if events.is_empty() {
        text += "no events: it was small, or has not run\n";
    }
    for event in events {
        let _ = writeln!(text, "{:>12.6} s  {}", event["at_s"].as_f64().unwrap_or_default(), line(event));
    }
    text
}

fn line(event: &Value) -> String {
    let worker = |field: &str| format!("worker-{}", show(&event[field]));
    let bytes = || status::bytes(event["bytes"].as_u64().unwrap_or_default());
    let took = || format!("{:.6} s", event["seconds"].as_f64().unwrap_or_default());
    match event["event"].as_str().unwrap_or_default() {
        "made" => format!("made on {}, {}, in {}", worker("worker"), bytes(), took()),
        "failed" => format!("failed on {} after {}", worker("worker"), took()),
        "held" => format!("a copy is on {}, {}", worker("worker"), bytes()),
        "moved" => format!(
            "moved from {} to {} over {}, {}, in {}",
            worker("from"),
            worker("to"),
            show(&event["lane"]),
            bytes(),
            took()
        ),
        "unavailable" => format!("{} could not fetch it from {}", worker("worker"), worker("from")),
        "worker lost" => format!("{} was lost", worker("worker")),
        other => other.to_owned(),
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_a_line() {
        let answer = serde_json::json!({
            "key": "1f0c", "task": null,
            "events": [
                {"at_s": 1.5, "event": "made", "worker": 0, "bytes": 1_048_576, "seconds": 0.25},
                {"at_s": 1.75, "event": "moved", "from": 0, "to": 1, "lane": "mpi", "bytes": 1_048_576, "seconds": 0.001},
            ]
        });
        assert_eq!(
            text(&answer),
            "key: 1f0c\nforgotten: nobody wants it any more\n    1.500000 s  made on worker-0, 1.0 MiB, in 0.250000 s\n    \
             1.750000 s  moved from worker-0 to worker-1 over mpi, 1.0 MiB, in 0.001000 s\n"
        );
    }
}
