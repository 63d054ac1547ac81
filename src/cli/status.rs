//! `dcluster status`: the scheduler's answer as a table.
//!
//! The scheduler answers JSON; what is missing in it is shown as `-`, so that a client and a scheduler of different
//! versions understand each other.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

/// The table of a status.
pub fn table(status: &Value) -> String {
    let mut text = String::new();
    head(&mut text, &status["scheduler"]);
    let workers = status["workers"].as_array().map_or(&[][..], Vec::as_slice);
    summary(&mut text, status, workers);
    if !workers.is_empty() {
        text.push('\n');
        columns(&mut text, &rows(workers));
    }
    text
}

fn head(text: &mut String, scheduler: &Value) {
    let uptime = scheduler["uptime_s"].as_f64().map_or("-".to_owned(), duration);
    let _ = writeln!(
        text,
        "scheduler  {} on {}, pid {}, up {uptime}, version {}",
        show(&scheduler["address"]),
        show(&scheduler["host"]),
        show(&scheduler["pid"]),
        show(&scheduler["version"]),
    );
}

fn summary(text: &mut String, status: &Value, workers: &[Value]) {
    let total = |field: &str| workers.iter().filter_map(|worker| worker[field].as_u64()).sum::<u64>();
    let _ = writeln!(
        text,
        "workers    {}, {} threads, {} of memory",
        workers.len(),
        total("threads"),
        bytes(total("memory_bytes_max"))
    );
    let clients = status["clients"].as_array().map_or(&[][..], Vec::as_slice);
    let _ = writeln!(text, "clients    {}{}", clients.len(), absent(clients));
    // In an order of its own: whether JSON keeps that of the scheduler depends on what else is linked.
    let counts: BTreeMap<_, _> = status["tasks"].as_object().into_iter().flatten().collect();
    let counts: Vec<String> = counts
        .into_iter()
        .filter(|(_, count)| count.as_u64() != Some(0))
        .map(|(state, count)| format!("{} {state}", show(count)))
        .collect();
    let _ = writeln!(
        text,
        "tasks      {}",
        if counts.is_empty() { "none".to_owned() } else { counts.join(", ") }
    );
}

/// Clients whose connection broke, and for how long they are waited for.
fn absent(clients: &[Value]) -> String {
    let lease = |client: &Value| {
        let left = duration(client["lease_left_s"].as_f64()?);
        Some(format!("client-{} on {} (kept for {left} more)", show(&client["id"]), show(&client["host"])))
    };
    let leases: Vec<String> = clients.iter().filter_map(lease).collect();
    if leases.is_empty() { String::new() } else { format!(", cut off: {}", leases.join(", ")) }
}

const HEADINGS: [&str; 10] =
    ["worker", "rank", "host", "threads", "running", "queued", "cpu", "memory", "values", "spilled"];

fn rows(workers: &[Value]) -> Vec<[String; 10]> {
    let row = |worker: &Value| {
        let size = |field: &str| worker[field].as_u64().map_or("-".to_owned(), bytes);
        [
            show(&worker["id"]),
            show(&worker["rank"]),
            show(&worker["host"]),
            show(&worker["threads"]),
            show(&worker["running"]),
            show(&worker["queued"]),
            worker["cpu_percent"].as_f64().map_or("-".to_owned(), |percent| format!("{percent:.0} %")),
            format!("{} / {}", size("resident_bytes"), size("memory_bytes_max")),
            values(worker),
            spilled(worker),
        ]
    };
    workers.iter().map(row).collect()
}

/// What is in its memory, and what others lend it.
fn values(worker: &Value) -> String {
    let size = worker["managed_bytes"].as_u64().map_or("-".to_owned(), bytes);
    match worker["lent_bytes"].as_u64() {
        None | Some(0) => size,
        Some(lent) => format!("{size} + {} lent", bytes(lent)),
    }
}

/// What is on disk, and what that leads to.
fn spilled(worker: &Value) -> String {
    let size = worker["spilled_bytes"].as_u64().map_or("-".to_owned(), bytes);
    let is = |field: &str| worker[field].as_bool() == Some(true);
    let paused = match (is("full"), is("paused")) {
        (true, _) => ", full",
        (false, true) => ", paused",
        (false, false) => "",
    };
    let failing = if is("spill_failing") { ", disk fails" } else { "" };
    format!("{size}{paused}{failing}")
}

fn columns(text: &mut String, rows: &[[String; 10]]) {
    let headings = HEADINGS.map(str::to_owned);
    let lines: Vec<&[String; 10]> = std::iter::once(&headings).chain(rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    for line in lines {
        let mut cells = String::new();
        for (column, cell) in line.iter().enumerate() {
            // Names to the left, figures to the right.
            let _ = match HEADINGS[column] {
                "worker" | "host" => write!(cells, "{cell:<width$}  ", width = widths[column]),
                _ => write!(cells, "{cell:>width$}  ", width = widths[column]),
            };
        }
        let _ = writeln!(text, "{}", cells.trim_end());
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// A size with three digits and a binary unit.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut size = count as f64;
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 || size >= 100.0 { 0 } else { 1 };
    format!("{size:.digits$} {}", UNITS[unit])
}

fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, ..) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_shown_as_a_table() {
        let status = serde_json::json!({
            "scheduler": {"address": "10.0.0.1:4711", "pid": 42, "host": "n1", "uptime_s": 3725.5, "version": "0.1.0"},
            "workers": [
                {"id": 0, "rank": 1, "host": "n1", "pid": 43, "address": "10.0.0.1:1", "threads": 8,
                 "memory_bytes_max": 8_589_934_592u64, "running": 8, "queued": 120, "resident_bytes": 734_003_200,
                 "managed_bytes": 1536, "lent_bytes": 75_497_472u64, "cpu_percent": 797.4, "spilled_bytes": 3_221_225_472u64, "paused": true},
                {"id": 10, "rank": null, "host": "login-node", "pid": 44, "address": "10.0.0.2:1", "threads": 16,
                 "memory_bytes_max": 17_179_869_184u64, "running": 0, "queued": 0, "resident_bytes": 0,
                 "managed_bytes": 0, "cpu_percent": 0.0}
            ],
            "tasks": {"waiting": 3, "ready": 0, "assigned": 128, "stored": 1000, "failed": 1},
            "clients": [
                {"id": 0, "away_s": null, "lease_left_s": null},
                {"id": 3, "host": "login-node", "away_s": 12.2, "lease_left_s": 47.8}
            ]
        });
        insta::assert_snapshot!(table(&status));
    }

    #[test]
    fn an_empty_answer_is_still_shown() {
        insta::assert_snapshot!(table(&serde_json::json!({})));
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(200 << 30), "200 GiB");
        assert_eq!(bytes(u64::MAX), "16384 PiB");
    }
}
