//! `im-callback unread`

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::client::{
    TIMEOUT, base_url, http, no_answer_from, read_secret, secret_variable, usage, web_address,
};
use super::dead_letters::plain;
use super::{Failure, Load};
use crate::auth::{Key, Scope};
use crate::config::Config;

/// The environment variable with a query key, for use without a configuration.
const KEY_VARIABLE: &str = "IM_CALLBACK_KEY";

#[derive(clap::Args, Debug)]
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
    /// Count those in this team; several with commas or repeated
    #[arg(long, short, value_name = "TEAM", value_delimiter = ',')]
    team: Vec<String>,
    /// Stop counting there: a count that reaches it means that many or more
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    cap: Option<u64>,
    /// Show at most this many entries of each kind of all of the user
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..),
          conflicts_with_all = ["peer", "order", "team"])]
    limit: Option<u64>,
    /// Go on after a page of all of the user, by the cursor at its end
    #[arg(long, value_name = "CURSOR", conflicts_with_all = ["peer", "order", "team"])]
    after: Option<String>,
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
    for (field, _, ids) in args.lists() {
        if !ids.is_empty() {
            body[field] = json!(ids);
        }
    }
    if let Some(app) = &args.app {
        body["app"] = json!(app);
    }
    if let Some(cap) = args.cap {
        body["cap"] = json!(cap);
    }
    if let Some(limit) = args.limit {
        body["limit"] = json!(limit);
    }
    if let Some(after) = &args.after {
        body["after"] = json!(after);
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
    let table = counts.and_then(|counts| args.table(&counts));
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

impl UnreadArgs {
    /// The lists: their fields, headings and ids.
    fn lists(&self) -> [(&'static str, &'static str, &[String]); 3] {
        [
            ("peers", "PEER", &self.peer),
            ("orders", "ORDER", &self.order),
            ("teams", "TEAM", &self.team),
        ]
    }

    /// The counts; `None` if one that was asked for is missing.
    fn table(&self, counts: &Map<String, Value>) -> Option<String> {
        let mut text = String::new();
        let is_overview = self.lists().iter().all(|(_, _, ids)| ids.is_empty());
        for (field, heading, asked) in self.lists() {
            let rows: Vec<_> = match is_overview {
                true => overview(counts, field)?,
                false => {
                    let row = |id: &String| {
                        let unread = counts.get(field)?.get(id)?.as_u64()?;
                        Some((id.clone(), unread, String::new()))
                    };
                    asked.iter().map(row).collect::<Option<_>>()?
                }
            };
            let width = rows.iter().map(|(id, ..)| id.chars().count());
            let width = width.chain([heading.len()]).max().unwrap_or_default();
            if !rows.is_empty() {
                let newest = if is_overview { "  NEWEST" } else { "" };
                text.push_str(&format!("{heading:width$}  UNREAD{newest}\n"));
            }
            for (id, unread, more) in rows {
                text.push_str(&format!("{id:width$}  {unread:>6}{more}\n"));
            }
        }
        let total = counts.get("total")?.as_u64()?;
        let or_more = match self.cap.is_some_and(|cap| total >= cap) {
            true => " or more",
            false => "",
        };
        let asked = self.lists();
        let of_several = asked.iter().filter(|(_, _, ids)| !ids.is_empty()).count() > 1;
        let total_of = counts.get("total_of").and_then(Value::as_str);
        let by = total_of.filter(|_| of_several);
        let by = by.map(|list| format!(" by {list}")).unwrap_or_default();
        text.push_str(&format!("{} has {total}{or_more} unread{by}\n", self.user));
        if let Some(next) = counts.get("next").and_then(Value::as_str) {
            text.push_str(&format!("there is more: --after {next}\n"));
        }
        if counts.get("complete") == Some(&Value::Bool(false)) {
            text.push_str("not complete: callbacks wait in a spool (`im-callback spools`)");
            if !self.team.is_empty() {
                text.push_str(
                    ", or older team messages for `im-callback backfill` (see `im-callback doctor`)",
                );
            }
            text.push('\n');
        }
        Some(text)
    }
}

/// The rows of a list of all of a user: the id, the count, and when the newest was sent.
fn overview(counts: &Map<String, Value>, field: &str) -> Option<Vec<(String, u64, String)>> {
    let Some(entries) = counts.get("newest")?.get(field) else {
        return Some(Vec::new());
    };
    let row = |entry: &Value| {
        let id = entry.get("peer").or(entry.get("order"))?.as_str()?;
        let at = entry.get("last_at").and_then(Value::as_str);
        let unread = entry.get("unread")?.as_u64()?;
        Some((
            plain(id),
            unread,
            at.map_or_else(String::new, |at| format!("  {at}")),
        ))
    };
    entries.as_array()?.iter().map(row).collect()
}
