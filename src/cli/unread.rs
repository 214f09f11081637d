//! `im-callback unread`

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::ArgGroup;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::client::{
    TIMEOUT, base_url, http, no_answer_from, read_secret, secret_variable, usage, web_address,
};
use super::{Failure, Load};
use crate::auth::{Key, Scope};
use crate::config::Config;

/// The environment variable with a query key, for use without a configuration.
const KEY_VARIABLE: &str = "IM_CALLBACK_KEY";

#[derive(clap::Args, Debug)]
#[command(group = ArgGroup::new("counted").required(true).multiple(true).args(["peer", "order"]))]
pub struct UnreadArgs {
    /// Whose unread messages to count
    #[arg(long, short, value_name = "ACCOUNT")]
    user: String,
    /// Count those from this account; several with commas or repeated
    #[arg(long, short, value_name = "ACCOUNT", value_delimiter = ',')]
    peer: Vec<String>,
    /// Count those of this order; several with commas or repeated
    #[arg(long, short, value_name = "ORDER", value_delimiter = ',')]
    order: Vec<String>,
    /// App to ask about; needed when the service has several
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Address of the service; the configured one without it
    #[arg(long, value_name = "URL", value_parser = web_address)]
    url: Option<String>,
    /// File with the query key; otherwise it comes from the variable IM_CALLBACK_KEY, or is the first
    /// configured key with the scope `read` for the app
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Print the service's JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub async fn run(args: UnreadArgs, load: impl Load, has_config: bool) -> Result<(), Failure> {
    let (url, key) = address_and_key(&args, load, has_config)?;
    let mut body = json!({ "user": args.user });
    for (field, ids) in [("peers", &args.peer), ("orders", &args.order)] {
        if !ids.is_empty() {
            body[field] = json!(ids);
        }
    }
    if let Some(app) = &args.app {
        body["app"] = json!(app);
    }
    let response = http(TIMEOUT)?
        .post(format!("{}/v1/unread", url.trim_end_matches('/')))
        .bearer_auth(key.expose_secret())
        .json(&body)
        .send()
        .await
        .map_err(|error| no_answer_from(&url, &error))?;
    let status = response.status();
    let text = response
        .text()
        .await
        .context("the answer did not arrive whole")?;
    if !status.is_success() {
        return Err(anyhow!("{}", refusal(&url, &status.to_string(), &text)).into());
    }
    let counts: Option<Map<String, Value>> = serde_json::from_str(&text).ok();
    let table = counts.and_then(|counts| table(&args, &counts));
    let table = table.ok_or_else(|| anyhow!("{}", not_ours(&url, &status.to_string())))?;
    let mut out = std::io::stdout().lock();
    match args.json {
        true => writeln!(out, "{text}"),
        false => out.write_all(table.as_bytes()),
    }
    .context("cannot print")?;
    Ok(())
}

/// What a problem document says.
fn refusal(url: &str, status: &str, answer: &str) -> String {
    let problem: Value = serde_json::from_str(answer).unwrap_or_default();
    let (Some(code), Some(detail)) = (problem["code"].as_str(), problem["detail"].as_str()) else {
        return not_ours(url, status);
    };
    let path = problem["path"].as_str();
    let path = path.map(|p| format!(" at {p}")).unwrap_or_default();
    format!("the service answers {status} {code}{path}: {detail}")
}

fn not_ours(url: &str, status: &str) -> String {
    format!("{url} answers {status}, but not as im-callback does")
}

fn address_and_key(
    args: &UnreadArgs,
    load: impl Load,
    has_config: bool,
) -> Result<(String, SecretString), Failure> {
    let given = match &args.key_file {
        Some(path) => Some(read_secret(path)?),
        None => secret_variable(KEY_VARIABLE),
    };
    if let (Some(url), Some(key)) = (&args.url, &given) {
        return Ok((url.clone(), key.clone()));
    }
    if !has_config {
        return Err(usage(
            "give --config, or --url and a key by --key-file or IM_CALLBACK_KEY",
        ));
    }
    let config = load(&[])?;
    let key = match given {
        Some(key) => key,
        None => configured_key(&config, args.app.as_deref())?,
    };
    Ok((args.url.clone().unwrap_or_else(|| base_url(&config)), key))
}

/// The first configured key that may ask about the app.
fn configured_key(config: &Config, app: Option<&str>) -> Result<SecretString, Failure> {
    // A key that is limited to one app would choose the app, and nobody would see it.
    if app.is_none() && config.apps.len() > 1 {
        return Err(usage("several apps are configured; choose one with --app"));
    }
    let may =
        |key: &&Key| key.allows(Scope::Read) && app.is_none_or(|app| key.check_app(app).is_ok());
    match config.keys.iter().find(may) {
        Some(key) => Ok(key.secret().clone()),
        None => Err(usage(
            "no configured key has the scope `read` for the app; give --key-file",
        )),
    }
}

/// The counts; `None` if one that was asked for is missing.
fn table(args: &UnreadArgs, counts: &Map<String, Value>) -> Option<String> {
    let mut text = String::new();
    let lists = [
        ("peers", "PEER", &args.peer),
        ("orders", "ORDER", &args.order),
    ];
    for (field, heading, asked) in lists {
        if asked.is_empty() {
            continue;
        }
        let width = asked
            .iter()
            .map(|id| id.chars().count())
            .chain([heading.len()])
            .max();
        let width = width.unwrap_or_default();
        text.push_str(&format!("{heading:width$}  UNREAD\n"));
        for id in asked {
            let n = counts.get(field)?.get(id)?.as_u64()?;
            text.push_str(&format!("{id:width$}  {n:>6}\n"));
        }
    }
    let total = counts.get("total")?.as_u64()?;
    text.push_str(&format!("{} has {total} unread\n", args.user));
    if counts.get("complete") == Some(&Value::Bool(false)) {
        text.push_str("not complete: callbacks wait in a spool (`im-callback spools`)\n");
    }
    Some(text)
}
