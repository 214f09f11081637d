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

/// The service's status, and the checks that are not as they should be.
fn told(body: &Map<String, Value>) -> Option<String> {
    let status = body.get("status")?.as_str()?;
    let checks = body.get("checks").and_then(Value::as_object);
    let unusual = checks.into_iter().flatten().filter_map(|(name, value)| {
        let name = name.replace('_', " ");
        match value {
            Value::String(state) if state != "up" && state != "present" => {
                Some(format!("{name} {state}"))
            }
            Value::Bool(true) => Some(name),
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
            (json!({ "ok": true }), None),
        ];
        for (body, expected) in cases {
            let body = body.as_object().cloned().unwrap_or_default();
            assert_eq!(told(&body).as_deref(), expected);
        }
    }
}
