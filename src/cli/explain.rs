//! `dcluster explain KEY`: the scheduler's answer as indented text.
//!
//! The answer is JSON whose shape the scheduler owns; it is printed as it comes.

use std::fmt::Write as _;

use serde_json::Value;

/// The answer as text, one fact per line.
pub(super) fn text(answer: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, answer, 0);
    text
}

fn write_value(text: &mut String, value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            let name = name.replace('_', " ");
            match value {
                Value::Object(_) | Value::Array(_) => {
                    let _ = writeln!(text, "{indent}{name}:");
                    write_value(text, value, depth + 1);
                }
                plain => drop(writeln!(text, "{indent}{name}: {}", line(plain))),
            }
        }),
        Value::Array(items) => items.iter().for_each(|item| match item {
            Value::Object(_) | Value::Array(_) => {
                write_value(text, item, depth);
                text.push('\n');
            }
            plain => drop(writeln!(text, "{indent}{}", line(plain))),
        }),
        plain => drop(writeln!(text, "{indent}{}", line(plain))),
    }
}

fn line(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_fact_per_line() {
        let answer =
            serde_json::json!({"key": "inc-1f", "waits_for": ["a", "b"], "worker": {"id": 3, "since": null}});
        assert_eq!(text(&answer), "key: inc-1f\nwaits for:\n  a\n  b\nworker:\n  id: 3\n  since: -\n");
    }
}
