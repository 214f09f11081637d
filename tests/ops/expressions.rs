//! What the expressions of alerts and panels name. Not a parser of PromQL, which `promtool` has: it knows the forms
//! that are used here.

use std::collections::BTreeSet;

use super::{ALERTS, panels, read};

/// The expressions of all panels and rules, each with the place where it is.
pub fn all() -> Vec<(String, String)> {
    let of_panels = panels().into_iter().flat_map(|panel| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().unwrap().clone();
        let expression = |target: serde_json::Value| target["expr"].as_str().unwrap().to_owned();
        targets
            .into_iter()
            .map(move |target| (title.clone(), expression(target)))
    });
    of_panels.chain(of_rules()).collect()
}

/// A rule's expression is on the line of `expr:`, or on deeper lines after it.
fn of_rules() -> Vec<(String, String)> {
    let rules = read(ALERTS);
    let mut found: Vec<(String, String)> = Vec::new();
    let mut is_inside = false;
    for line in rules.lines().map(str::trim) {
        if let Some(name) = ["- alert: ", "- record: "]
            .iter()
            .find_map(|key| line.strip_prefix(key))
        {
            found.push((name.to_owned(), String::new()));
        }
        if let Some(expression) = line.strip_prefix("expr: ") {
            is_inside = true;
            found.last_mut().unwrap().1 = expression.trim_start_matches(">-").to_owned();
        } else if line.starts_with("for: ") || line.starts_with("- ") || line.is_empty() {
            is_inside = false;
        } else if is_inside {
            let (_, expression) = found.last_mut().unwrap();
            expression.push(' ');
            expression.push_str(line);
        }
    }
    found
}

/// Only what a rule records has a colon in its name.
fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_:".contains(c)
}

/// The recorded series that a text names.
pub fn recorded_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c| !is_name(c));
    let recorded = words.filter(|word| word.starts_with("app:"));
    recorded.map(str::to_owned).collect()
}

/// The service's metrics that a text names.
pub fn metrics_in(text: &str) -> BTreeSet<String> {
    text.split(|c| !is_name(c))
        .filter(|word| word.starts_with("im_callback_") || word.starts_with("process_"))
        // The guide names the prefix itself.
        .filter(|word| !word.ends_with('_'))
        .map(str::to_owned)
        .collect()
}

/// What an expression selects by: metric, label and value.
pub fn matchers(expression: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    for (at, _) in expression.match_indices('{') {
        let before = &expression[..at];
        let name = before.rfind(|c| !is_name(c)).map_or(0, |end| end + 1);
        let mut rest = &expression[at + 1..];
        while let Some((label, value)) = rest.split_once('=') {
            let label = label.trim_matches(|c| !is_name(c)).to_owned();
            let (_, value) = value.split_once('"').unwrap();
            let (value, after) = value.split_once('"').unwrap();
            found.push((before[name..].to_owned(), label, value.to_owned()));
            rest = after;
            if rest.starts_with('}') {
                break;
            }
        }
    }
    found
}

/// The labels in `by (…)`, `on (…)` and `group_left (…)`.
pub fn grouped_by(expression: &str) -> BTreeSet<String> {
    let mut labels = BTreeSet::new();
    for word in ["by (", "on (", "group_left ("] {
        for (at, _) in expression.match_indices(word) {
            let (inside, _) = expression[at + word.len()..].split_once(')').unwrap();
            let inside = inside.split(',').map(str::trim);
            labels.extend(inside.filter(|label| !label.is_empty()).map(str::to_owned));
        }
    }
    labels
}

#[test]
fn names_and_labels_are_found() {
    let expression = r#"sum by (app, le) (rate(im_callback_a_bucket{app=~"x|}",le!="1"}[5m])) and on () up{job="b"} > app:im_callback_c:increase1h"#;
    let names: Vec<_> = metrics_in(expression).into_iter().collect();
    assert_eq!(names, ["im_callback_a_bucket"]);
    let metric = "im_callback_a_bucket";
    let expected = [
        (metric, "app", "x|}"),
        (metric, "le", "1"),
        ("up", "job", "b"),
    ]
    .map(|(name, label, value)| (name.to_owned(), label.to_owned(), value.to_owned()));
    assert_eq!(matchers(expression), expected);
    let labels: Vec<_> = grouped_by(expression).into_iter().collect();
    assert_eq!(labels, ["app", "le"]);
    let recorded: Vec<_> = recorded_in(expression).into_iter().collect();
    assert_eq!(recorded, ["app:im_callback_c:increase1h"]);
}
