//! Prometheus' own checks, where its `promtool` is installed (Debian's package `prometheus`).

use std::process::Command;

use super::expressions;

/// Runs promtool in the folder of its files, unless it is not installed.
#[track_caller]
fn promtool(arguments: &[&str]) {
    let folder = super::path("ops/prometheus");
    let run = Command::new("promtool")
        .args(arguments)
        .current_dir(folder)
        .output();
    let output = match run {
        Ok(output) => output,
        Err(error) => {
            let never = std::env::var("TESTS_SKIP").is_ok_and(|word| word == "never");
            assert!(!never, "promtool: {error}");
            eprintln!("skipped: promtool: {error}");
            return;
        }
    };
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stdout)
    );
}

#[test]
fn the_configuration_and_the_rules_are_valid() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "alerts.yml"]);
}

#[test]
fn alerts_fire_when_they_should() {
    promtool(&["test", "rules", "alerts_test.yml", "alerts_week_test.yml"]);
}

/// An expression with Grafana's variables filled in.
fn filled_in(expression: &str) -> String {
    // The longer names first.
    let filled_in = expression
        .replace("$app", ".*")
        .replace("$instance", ".*")
        .replace("$__rate_interval", "1m")
        .replace("$__interval_ms", "15000")
        .replace("$__range_s", "21600")
        .replace("$__range", "6h");
    assert!(!filled_in.contains('$'), "{filled_in}");
    filled_in
}

/// Each panel's expression, as the rule of a file.
#[test]
fn expressions_of_the_dashboard_are_valid() {
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, (_, expression)) in expressions::all().iter().enumerate() {
        let quoted = serde_json::to_string(&filled_in(expression)).unwrap();
        rules += &format!("      - record: panel:{number}\n        expr: {quoted}\n");
    }
    let file = tempfile::NamedTempFile::with_suffix(".yml").unwrap();
    std::fs::write(file.path(), rules).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()]);
}

/// Series with their values, in promtool's notation.
type Series<'s> = &'s [(&'s str, &'s str)];

/// What the panels that are looked at first show, where it is easily wrong.
#[test]
fn the_first_row_tells_nothing_from_all() {
    let rejected =
        r#"im_callback_callbacks_total{instance="a",app="otc",kind="none",outcome="not_fresh"}"#;
    let stored =
        r#"im_callback_callbacks_total{instance="a",app="otc",kind="message",outcome="stored"}"#;
    let letters = r#"im_callback_dead_letters_total{instance="a",app="otc",code="not_json"}"#;
    let started = r#"process_start_time_seconds{instance="a",job="im-callback"}"#;
    let up = |instance| format!(r#"up{{job="im-callback",instance="{instance}"}}"#);
    let cases: [(&str, Series, Option<f64>); 7] = [
        ("Acknowledged", &[(rejected, "0+60x800")], Some(0.0)),
        (
            "Acknowledged",
            &[(rejected, "0+60x800"), (stored, "0+60x800")],
            Some(0.5),
        ),
        (
            "Acknowledged",
            &[(rejected, "0x800"), (stored, "9x800")],
            None,
        ),
        (
            "Instances that answer",
            &[(&up("a"), "1x800"), (&up("b"), "0x800")],
            Some(0.5),
        ),
        // Before the first scrape of a new process; long before a gap in Prometheus' own data.
        (
            "Dead letters",
            &[(letters, "_x700 3x100"), (started, "_x700 41990x100")],
            Some(3.0),
        ),
        (
            "Dead letters",
            &[
                (letters, "3x100 _x600 3x100"),
                (started, "0x100 _x600 0x100"),
            ],
            Some(0.0),
        ),
        ("Dead letters", &[], Some(0.0)),
    ];
    let mut tests = "rule_files: []\ntests:\n".to_owned();
    for (title, series, expected) in cases {
        let (_, expression) = expressions::all()
            .into_iter()
            .find(|(place, _)| place == title)
            .unwrap();
        let series = series
            .iter()
            .map(|(series, values)| serde_json::json!({ "series": series, "values": values }));
        let samples = expected.map(|value| serde_json::json!({ "labels": "{}", "value": value }));
        let question = serde_json::json!({
            "interval": "1m",
            "input_series": series.collect::<Vec<_>>(),
            "promql_expr_test": [{
                "expr": filled_in(&expression),
                "eval_time": "750m",
                "exp_samples": samples.into_iter().collect::<Vec<_>>(),
            }],
        });
        // JSON is YAML.
        tests += &format!("  - {question}\n");
    }
    let file = tempfile::NamedTempFile::with_suffix(".yml").unwrap();
    std::fs::write(file.path(), tests).unwrap();
    promtool(&["test", "rules", file.path().to_str().unwrap()]);
}
