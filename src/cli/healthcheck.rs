//! `im-callback healthcheck`: for containers and monitors.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde_json::{Map, Value};

use super::Failure;
use super::client::{http, no_answer_from, reachable, web_address};
use crate::config::Config;

/// Longer than the service takes for its checks, and shorter than monitors wait.
const TIMEOUT: Duration = Duration::from_secs(3);

#[derive(clap::Args, Debug)]
pub struct HealthcheckArgs {
    /// Address of the service; the configured http.listen without it
    #[arg(long, value_name = "URL", value_parser = web_address)]
    url: Option<String>,
    /// Only ask whether the process answers, at /livez; otherwise /readyz says whether it takes callbacks
    #[arg(long)]
    live: bool,
}

/// Of the configuration it needs the address alone, so it also works where the secrets are not readable. Its exit codes
/// are 0 and 1: what 2 means is up to the container's engine.
pub async fn run(args: HealthcheckArgs, config: Option<&Path>) -> Result<(), Failure> {
    let said = ask(args, config).await.map_err(Failure::Failed)?;
    writeln!(std::io::stdout(), "{said}").context("cannot print")?;
    Ok(())
}

async fn ask(args: HealthcheckArgs, config: Option<&Path>) -> anyhow::Result<String> {
    let url = match args.url {
        Some(url) => url,
        None => match Config::listen(config)? {
            listen if listen.port() == 0 => bail!("http.listen has any free port; give --url"),
            listen => reachable(listen),
        },
    };
    let path = if args.live { "livez" } else { "readyz" };
    let asked = http(TIMEOUT)?
        .get(format!("{}/{path}", url.trim_end_matches('/')))
        .send()
        .await;
    let response = asked.map_err(|error| no_answer_from(&url, &error))?;
    let status = response.status();
    let body: Map<String, Value> = response
        .json()
        .await
        .with_context(|| format!("{url} answers {status}, but not as im-callback does"))?;
    let said = told(&body);
    match (status.is_success(), said) {
        (_, None) => Err(anyhow!(
            "{url} answers {status}, but not as im-callback does"
        )),
        (true, Some(said)) => Ok(said),
        (false, Some(said)) => Err(anyhow!("{said}")),
    }
}

/// The states in which a check is as it should be.
const AS_IT_SHOULD_BE: [&str; 5] = ["up", "present", "replica_set", "sharded", "applied"];

/// Checks of what is not known yet just after the start.
const KNOWN_LATER: [&str; 2] = ["mongodb_kind", "retention"];

/// The service's status, the checks that are not as they should be, and why MongoDB is down.
fn told(body: &Map<String, Value>) -> Option<String> {
    let status = body.get("status")?.as_str()?;
    let checks = body.get("checks").and_then(Value::as_object);
    let unusual = checks.into_iter().flatten().filter_map(|(name, value)| {
        let may_be_unknown = KNOWN_LATER.contains(&name.as_str());
        let words = name.replace('_', " ");
        match value {
            Value::String(state) if AS_IT_SHOULD_BE.contains(&state.as_str()) => None,
            Value::String(state) if may_be_unknown && state == "unknown" => None,
            Value::String(state) => Some(format!("{words} {state}")),
            Value::Bool(true) => Some(words),
            _ => None,
        }
    });
    let unusual: Vec<_> = unusual.collect();
    let mut said = status.to_owned();
    if status == "degraded" {
        said.push_str(": callbacks are taken, queries are not answered");
    }
    if !unusual.is_empty() {
        said.push_str(&format!(" ({})", unusual.join(", ")));
    }
    if let Some(why) = body.get("detail").and_then(Value::as_str) {
        said.push_str(&format!(": {why}"));
    }
    Some(said)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_unusual_is_told() {
        let cases = [
            (json!({ "status": "alive" }), Some("alive")),
            (
                json!({ "status": "ready", "checks": { "mongodb": "up", "indexes": "present", "spool": "up", "stopping": false } }),
                Some("ready"),
            ),
            (
                json!({ "status": "degraded", "checks": { "mongodb": "down", "spool": "up", "stopping": false } }),
                Some("degraded: callbacks are taken, queries are not answered (mongodb down)"),
            ),
            (
                json!({ "status": "not ready", "checks": { "mongodb": "unknown", "spool": "down", "stopping": true } }),
                Some("not ready (mongodb unknown, spool down, stopping)"),
            ),
            (
                json!({ "status": "ready", "checks": { "mongodb": "up", "mongodb_kind": "replica_set", "retention": "unknown" } }),
                Some("ready"),
            ),
            (
                json!({ "status": "ready", "checks": { "mongodb": "up", "mongodb_kind": "standalone", "retention": "waits" } }),
                Some("ready (mongodb kind standalone, retention waits)"),
            ),
            (
                json!({ "status": "degraded", "checks": { "mongodb": "down" }, "detail": "the replica set has no primary now" }),
                Some(
                    "degraded: callbacks are taken, queries are not answered (mongodb down): the replica set has no primary now",
                ),
            ),
            (json!({ "ok": true }), None),
        ];
        for (body, expected) in cases {
            let body = body.as_object().cloned().unwrap_or_default();
            assert_eq!(told(&body).as_deref(), expected);
        }
    }
}
