//! What operators rely on: the names that the dashboard, the alerts and the guide use are the service's, and each
//! alert has its runbook and its unit test.

#![allow(
    clippy::unwrap_used,
    reason = "a test that panics has failed, which is what it is for"
)]

mod expressions;
#[allow(
    dead_code,
    reason = "part of it is for services inside the test process"
)]
#[path = "../it/support/log_guard.rs"]
mod log_guard;
mod metrics;
mod otel;
mod promtool;

use std::collections::BTreeSet;
use std::path::PathBuf;

use im_callback::http::error::Code;
use im_callback::http::key_failures::KeyRejection;
use im_callback::http::route::Route;
use im_callback::metrics::Overflow;
use serde_json::Value;

const GUIDE: &str = "docs/operations.md";
const ALERTS: &str = "ops/prometheus/alerts.yml";
const DASHBOARD: &str = "ops/grafana/im-callback.json";

fn path(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file)
}

#[track_caller]
fn read(file: &str) -> String {
    std::fs::read_to_string(path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The dashboard's panels, without the rows that only part them.
fn panels() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels
        .filter(|panel| panel["type"] != "row")
        .cloned()
        .collect()
}

/// The values of a key in a YAML file with one key a line, such as `- alert: Name`.
fn values<'t>(yaml: &'t str, key: &str) -> Vec<&'t str> {
    let of_key = |line: &'t str| {
        let line = line.trim_start().trim_start_matches("- ");
        line.strip_prefix(key)?.strip_prefix(": ")
    };
    yaml.lines().filter_map(of_key).map(str::trim).collect()
}

#[test]
fn every_metric_that_is_named_exists() {
    let known = metrics::of_the_service();
    let mut named = BTreeSet::new();
    for file in [DASHBOARD, ALERTS, GUIDE] {
        let names = expressions::metrics_in(&read(file));
        assert!(names.len() > 10, "{file}");
        for name in names {
            let exists = metrics::find(&known, &name).is_some();
            assert!(exists, "{file}: the service has no {name}");
            named.insert(name);
        }
    }
    // Where a name does not begin with the prefix, the search above does not find it.
    assert!(named.contains("process_start_time_seconds"));
}

#[test]
fn the_guide_has_each_metric_with_its_type_and_labels() {
    let guide = read(GUIDE);
    let mut described: Vec<_> = metrics::in_the_guide(&guide);
    let mut known = metrics::of_the_service();
    described.sort();
    known.sort();
    for (described, known) in described.iter().zip(&known) {
        assert_eq!(described, known);
    }
    assert_eq!(described.len(), known.len());
}

#[test]
fn what_rules_use_is_recorded_and_what_is_recorded_is_used() {
    let rules = read(ALERTS);
    let recorded: BTreeSet<_> = values(&rules, "record")
        .into_iter()
        .map(str::to_owned)
        .collect();
    let used = expressions::all()
        .iter()
        .flat_map(|(_, expression)| expressions::recorded_in(expression))
        .collect();
    assert_eq!(recorded, used);
}

/// A renamed label would leave a panel empty, or an alert silent.
#[test]
fn expressions_use_labels_that_their_metrics_have() {
    let known = metrics::of_the_service();
    let expressions = expressions::all();
    assert!(expressions.len() > 60, "{}", expressions.len());
    for (place, expression) in expressions {
        for (name, label, _) in expressions::matchers(&expression) {
            let Some(metric) = metrics::find(&known, &name) else {
                assert!(["up", "ALERTS"].contains(&&*name), "{place}: {name}");
                continue;
            };
            let has = label == "instance" || label == "job" || metric.labels.contains(&label);
            assert!(has, "{place}: {name} has no label {label}");
        }
        let names = expressions::metrics_in(&expression);
        let labels = names
            .iter()
            .filter_map(|name| metrics::find(&known, name))
            .flat_map(|metric| metric.labels.iter().map(String::as_str))
            .chain(["instance", "le"])
            .collect::<BTreeSet<_>>();
        for label in expressions::grouped_by(&expression) {
            assert!(labels.contains(&*label), "{place}: no metric has {label}");
        }
    }
}

/// A code or a route that was renamed would leave its alert silent.
#[test]
fn expressions_ask_for_values_that_there_are() {
    let others = ["stored", "spooled", "dead_letter", "empty", "ok", "failed"];
    let codes = Code::ALL.iter().map(|code| code.as_str());
    let outcomes: BTreeSet<_> = codes.chain(others).collect();
    let routes = Route::ALL.iter().map(|route| route.as_str()).collect();
    let of_keys = KeyRejection::ALL.map(KeyRejection::as_str);
    let reasons = Overflow::ALL.map(Overflow::as_str);
    let reasons = reasons.into_iter().chain(of_keys).collect();
    let known = [
        ("outcome", outcomes),
        ("route", routes),
        ("reason", reasons),
    ];
    let mut asked = BTreeSet::new();
    for (place, expression) in expressions::all() {
        for (_, label, values) in expressions::matchers(&expression) {
            let Some((_, known)) = known.iter().find(|(name, _)| *name == label) else {
                continue;
            };
            for value in values.split('|') {
                let (start, end) = (value.strip_suffix(".*"), value.strip_prefix(".*"));
                let is_known = match (start, end) {
                    (Some(start), _) => known.iter().any(|code| code.starts_with(start)),
                    (_, Some(end)) => known.iter().any(|code| code.ends_with(end)),
                    (None, None) => known.contains(value),
                };
                assert!(is_known, "{place}: there is no {label} {value}");
                asked.insert(value.to_owned());
            }
        }
    }
    assert!(asked.len() > 12, "{asked:?}");
}

#[test]
fn every_alert_is_complete_tested_and_has_a_runbook() {
    let (rules, guide) = (read(ALERTS), read(GUIDE));
    let tests =
        read("ops/prometheus/alerts_test.yml") + &read("ops/prometheus/alerts_week_test.yml");
    let alerts = values(&rules, "alert");
    assert!(alerts.len() > 20, "{}", alerts.len());
    let runbooks: Vec<_> = guide
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .filter(|title| title.starts_with("ImCallback"))
        .collect();
    assert_eq!(
        runbooks, alerts,
        "{GUIDE} has other runbooks than there are alerts"
    );
    for alert in &alerts {
        let fires = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"");
        let is_tested = tests.contains(&fires) || tests.contains(&format!("alertname: {alert}\n"));
        assert!(is_tested, "no unit test sees {alert} fire");
    }
    for key in ["for", "summary", "description", "runbook_url"] {
        assert_eq!(values(&rules, key).len(), alerts.len(), "{key}");
    }
    let anchors: Vec<_> = alerts
        .iter()
        .map(|alert| format!("{GUIDE}#{}", alert.to_lowercase()))
        .collect();
    assert_eq!(values(&rules, "runbook_url"), anchors);
    for labels in values(&rules, "labels") {
        let known = ["{ severity: critical }", "{ severity: warning }"];
        assert!(known.contains(&labels), "{labels}");
    }
}

#[test]
fn panels_say_what_they_show_and_do_not_overlap() {
    let panels = panels();
    assert!(panels.len() > 30, "{}", panels.len());
    let side = |panel: &Value, key: &str| panel["gridPos"][key].as_u64().unwrap();
    let mut taken = BTreeSet::new();
    for panel in &panels {
        let title = panel["title"].as_str().unwrap();
        assert!(!title.is_empty());
        for text in [
            &panel["description"],
            &panel["fieldConfig"]["defaults"]["unit"],
        ] {
            assert!(
                text.as_str().is_some_and(|text| !text.is_empty()),
                "{title}"
            );
        }
        let (x, y) = (side(panel, "x"), side(panel, "y"));
        assert!(x + side(panel, "w") <= 24, "{title}");
        for x in x..x + side(panel, "w") {
            for y in y..y + side(panel, "h") {
                assert!(taken.insert((x, y)), "{title} overlaps another panel");
            }
        }
    }
}

#[test]
fn the_dashboard_is_what_its_source_makes() {
    let made = std::process::Command::new("python3")
        .args(["-B", "ops/grafana/dashboard.py", "--check"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}
