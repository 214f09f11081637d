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

/// Each panel's expression, as the rule of a file, with Grafana's variables filled in.
#[test]
fn expressions_of_the_dashboard_are_valid() {
    let mut rules = "groups:\n  - name: dashboard\n    rules:\n".to_owned();
    for (number, (_, expression)) in expressions::all().iter().enumerate() {
        let expression = expression
            .replace("$app", ".*")
            .replace("$instance", ".*")
            .replace("$__rate_interval", "1m")
            .replace("$__interval_ms", "15000")
            .replace("$__range_s", "21600")
            .replace("$__range", "6h");
        assert!(!expression.contains('$'), "{expression}");
        let quoted = serde_json::to_string(&expression).unwrap();
        rules += &format!("      - record: panel:{number}\n        expr: {quoted}\n");
    }
    let file = tempfile::NamedTempFile::with_suffix(".yml").unwrap();
    std::fs::write(file.path(), rules).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()]);
}
