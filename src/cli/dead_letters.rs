//! `im-callback dead-letters`: uses MongoDB directly, so it also works while the service is down.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::{ArgGroup, Subcommand};

use super::{Failure, Load};
use crate::app::connect;
use crate::http::dead_letters::view::{DeadLetterHead, WholeDeadLetter};
use crate::ingest::App;
use crate::ingest::dead_letters::{Retried, retry};
use crate::store::Store;
use crate::store::dead_letters::{Heading, Place, Which};
use crate::words::counted;

/// How many dead letters are read at once.
const PAGE: u32 = 500;

#[derive(clap::Args, Debug)]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Lists dead letters, newest first, without their bodies
    List {
        #[command(flatten)]
        filter: Filter,
        /// The most dead letters to list
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Shows a dead letter with its body
    Show {
        /// Its id, such as otc/0a1b…
        id: String,
        /// Print it as a JSON object
        #[arg(long)]
        json: bool,
    },
    /// Decodes dead letters again, by this version and the configured rules, and stores their events
    Retry(Chosen),
    /// Removes dead letters permanently
    Drop {
        #[command(flatten)]
        chosen: Chosen,
        /// With --all: remove them; without --yes they are only counted
        #[arg(long, requires = "all")]
        yes: bool,
    },
}

#[derive(clap::Args, Debug, Clone)]
struct Filter {
    /// Only dead letters of this app
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Only dead letters with this code, such as not_json
    #[arg(long)]
    code: Option<String>,
}

#[derive(clap::Args, Debug)]
#[command(group = ArgGroup::new("chosen").required(true).args(["ids", "all"]))]
struct Chosen {
    /// Their ids, such as otc/0a1b…
    #[arg(conflicts_with_all = ["app", "code"])]
    ids: Vec<String>,
    /// All dead letters that match --app and --code
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
}

pub async fn run(args: DeadLettersArgs, load: impl Load) -> Result<(), Failure> {
    let config = load(&[])?;
    let store = connect(&config).await?;
    let apps = config.apps.into_iter().map(|app| Arc::new(app.app));
    let apps: Vec<Arc<App>> = apps.collect();
    let done = match args.action {
        Action::List {
            filter,
            limit,
            json,
        } => list(&store, &filter, limit, json, &apps).await,
        Action::Show { id, json } => show(&store, &id, json).await,
        Action::Retry(chosen) => {
            let done = each(&store, &chosen, &apps, async |id| {
                one_retry(&apps, &store, id).await
            });
            let done = done.await;
            // After an error the service's next walk applies them.
            if let Err(error) = store.apply_noted_marks().await {
                tracing::debug!(%error, "read marks are applied later");
            }
            done
        }
        Action::Drop { chosen, yes } if chosen.all && !yes => {
            refuse(&store, &chosen.filter, &apps).await
        }
        Action::Drop { chosen, .. } => {
            each(&store, &chosen, &apps, async |id| {
                one_drop(&store, id).await
            })
            .await
        }
    };
    store.close().await;
    Ok(done?)
}

async fn list(
    store: &Store,
    filter: &Filter,
    limit: u32,
    json: bool,
    apps: &[Arc<App>],
) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let mut left = limit;
    let mut after = None;
    let mut is_all = false;
    while left > 0 {
        let page = left.min(PAGE);
        let dead_letters = store
            .dead_letters(&filter.which(), after.as_ref(), page)
            .await?;
        for heading in &dead_letters {
            let head = DeadLetterHead::from(heading);
            if json {
                writeln!(out, "{}", serde_json::to_string(&head)?).context("cannot print")?;
            } else {
                writeln!(out, "{}", line(heading)).context("cannot print")?;
            }
        }
        left -= page;
        after = dead_letters.last().map(Place::of).or(after);
        is_all = dead_letters.len() < page as usize;
        if is_all {
            break;
        }
    }
    if is_all && after.is_none() && !json {
        eprintln!("{}", filter.none(apps));
    }
    if !is_all {
        let which = filter.which();
        let more = store.dead_letters(&which, after.as_ref(), 1).await?;
        if !more.is_empty() {
            eprintln!("there are more; list them with a higher --limit");
        }
    }
    Ok(())
}

/// One line for a dead letter. Text from the provider is escaped, because it may contain control characters.
fn line(heading: &Heading) -> String {
    let Heading {
        id,
        code,
        reason,
        path,
        received_at,
        ..
    } = heading;
    let at = received_at.try_to_rfc3339_string().unwrap_or_default();
    format!("{id}  {at}  {code} at {}: {}", plain(path), plain(reason))
}

/// A text with its control characters escaped.
pub fn plain(text: &str) -> String {
    let escape = |c: char| -> String {
        if c.is_control() {
            c.escape_default().collect()
        } else {
            c.into()
        }
    };
    text.chars().map(escape).collect()
}

async fn show(store: &Store, id: &str, json: bool) -> anyhow::Result<()> {
    let dead_letter = store.dead_letter(id).await?;
    let dead_letter = dead_letter.ok_or_else(|| {
        anyhow!("no dead letter has the id `{id}`; `im-callback dead-letters list` lists them")
    })?;
    let mut out = std::io::stdout().lock();
    if json {
        let whole = serde_json::to_string(&WholeDeadLetter::from(&dead_letter))?;
        return writeln!(out, "{whole}").context("cannot print");
    }
    let body = match std::str::from_utf8(&dead_letter.received.body) {
        Ok(text) => plain(text),
        Err(_) => format!(
            "(not UTF-8, in hexadecimal) {}",
            hex::encode(&dead_letter.received.body)
        ),
    };
    writeln!(out, "{}\n{body}", line(&dead_letter.heading)).context("cannot print")
}

/// A chosen dead letter that an action left as it is.
enum Left {
    /// Why it stays.
    Remains(String),
    NotThere,
}

/// Applies an action to each chosen dead letter, prints the outcomes, and fails if one failed.
async fn each(
    store: &Store,
    chosen: &Chosen,
    apps: &[Arc<App>],
    act: impl AsyncFn(&str) -> anyhow::Result<Result<&'static str, Left>>,
) -> anyhow::Result<()> {
    let (mut done, mut remain, mut absent) = (0_u64, 0_u64, 0_u64);
    let mut act_on = async |id: &str| -> anyhow::Result<()> {
        done += 1;
        let outcome = match act(id).await? {
            Ok(done) => done.to_owned(),
            Err(Left::Remains(why)) => {
                remain += 1;
                why
            }
            Err(Left::NotThere) => {
                absent += 1;
                "does not exist".to_owned()
            }
        };
        writeln!(std::io::stdout(), "{id}  {}", plain(&outcome)).context("cannot print")
    };
    for id in &chosen.ids {
        act_on(id).await?;
    }
    let mut after = None;
    let mut is_last = !chosen.all;
    while !is_last {
        let which = chosen.filter.which();
        let dead_letters = store.dead_letters(&which, after.as_ref(), PAGE).await?;
        for dead_letter in &dead_letters {
            act_on(&dead_letter.id).await?;
        }
        after = dead_letters.last().map(Place::of);
        is_last = after.is_none();
    }
    if done == 0 {
        eprintln!("{}", chosen.filter.none(apps));
    }
    let mut left = Vec::new();
    if remain > 0 {
        let verb = if remain == 1 { "remains" } else { "remain" };
        left.push(format!("{} {verb}", counted(remain, "dead letter")));
    }
    if absent > 0 {
        let verb = if absent == 1 { "does" } else { "do" };
        left.push(format!(
            "{} {verb} not exist",
            counted(absent, "dead letter")
        ));
    }
    match left.is_empty() {
        true => Ok(()),
        false => Err(anyhow!("{}", left.join(", "))),
    }
}

/// Reports how many dead letters would be removed, and fails.
async fn refuse(store: &Store, filter: &Filter, apps: &[Arc<App>]) -> anyhow::Result<()> {
    let (mut number, mut after) = (0, None);
    loop {
        let dead_letters = store
            .dead_letters(&filter.which(), after.as_ref(), PAGE)
            .await?;
        let Some(last) = dead_letters.last() else {
            break;
        };
        number += dead_letters.len();
        after = Some(Place::of(last));
    }
    if number == 0 {
        eprintln!("{}", filter.none(apps));
        return Ok(());
    }
    let number = counted(number, "dead letter");
    Err(anyhow!(
        "{number} would be removed permanently; add --yes to do so"
    ))
}

async fn one_retry(
    apps: &[Arc<App>],
    store: &Store,
    id: &str,
) -> anyhow::Result<Result<&'static str, Left>> {
    let why = match retry(apps, store, id, None).await? {
        Retried::Stored => return Ok(Ok("stored")),
        Retried::NotThere => return Ok(Err(Left::NotThere)),
        Retried::StillUndecodable { code, reason, path } => {
            format!("still undecodable: {code} at {path}: {reason}")
        }
        Retried::StillRefused => "still refused by MongoDB".to_owned(),
        Retried::SaysNothing => "contains no event; drop it if it is not needed".to_owned(),
        Retried::UnknownApp => "its app is not configured".to_owned(),
    };
    Ok(Err(Left::Remains(why)))
}

async fn one_drop(store: &Store, id: &str) -> anyhow::Result<Result<&'static str, Left>> {
    Ok(match store.remove_dead_letter(id).await? {
        Some(_code) => Ok("dropped"),
        None => Err(Left::NotThere),
    })
}

impl Filter {
    fn which(&self) -> Which {
        Which {
            apps: self.app.clone().map(|app| vec![app]),
            code: self.code.clone(),
        }
    }

    /// What is said when none matches.
    fn none(&self, apps: &[Arc<App>]) -> String {
        let mut said = "no dead letters".to_owned();
        if let Some(code) = &self.code {
            said.push_str(&format!(" with the code `{code}`"));
        }
        if let Some(app) = &self.app {
            said.push_str(&format!(" of app `{app}`"));
            if !apps.iter().any(|known| known.name.as_str() == app) {
                said.push_str(", which is not configured");
            }
        }
        said
    }
}
