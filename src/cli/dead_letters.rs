//! `im-callback dead-letters`: directly on MongoDB, so it also works while the service is down.

use std::io::Write;

use anyhow::{Context, anyhow};
use clap::Subcommand;

use super::{Failure, Load};
use crate::app::connect;
use crate::http::dead_letters::{Letter, WholeLetter};
use crate::ingest::App;
use crate::ingest::dead_letters::{Retried, retry};
use crate::store::Store;
use crate::store::dead_letters::{Heading, Place, Which};

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
        /// At most so many
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// Print one JSON object a line
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
    /// Decodes dead letters by this version and the configured rules, and stores what comes of them
    Retry(Chosen),
    /// Removes dead letters for good
    Drop {
        #[command(flatten)]
        chosen: Chosen,
        /// With --all: yes, remove them; without it they are only counted
        #[arg(long, requires = "all")]
        yes: bool,
    },
}

#[derive(clap::Args, Debug, Clone)]
struct Filter {
    /// Only those of this app
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Only those of this code, such as not_json
    #[arg(long)]
    code: Option<String>,
}

#[derive(clap::Args, Debug)]
struct Chosen {
    /// Their ids, such as otc/0a1b…
    #[arg(required_unless_present = "all", conflicts_with_all = ["all", "app", "code"])]
    ids: Vec<String>,
    /// All of them, or all that --app and --code leave
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    filter: Filter,
}

pub async fn run(args: DeadLettersArgs, load: impl Load) -> Result<(), Failure> {
    let config = load(&[])?;
    let store = connect(&config).await?;
    let apps: Vec<App> = config.apps.into_iter().map(|app| app.app).collect();
    let done = match args.action {
        Action::List {
            filter,
            limit,
            json,
        } => list(&store, &filter, limit, json).await,
        Action::Show { id, json } => show(&store, &id, json).await,
        Action::Retry(chosen) => {
            let done = each(&store, chosen, async |id| {
                one_retry(&apps, &store, id).await
            });
            let done = done.await;
            // On an error the service's next walk finds what this process leaves.
            if let Err(error) = store.apply_noted_marks().await {
                tracing::debug!(%error, "read marks are applied later");
            }
            done
        }
        Action::Drop { chosen, yes } if chosen.all && !yes => refuse(&store, &chosen.filter).await,
        Action::Drop { chosen, .. } => {
            each(&store, chosen, async |id| one_drop(&store, id).await).await
        }
    };
    store.close().await;
    Ok(done?)
}

async fn list(store: &Store, filter: &Filter, limit: usize, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let mut left = limit;
    let mut after = None;
    while left > 0 {
        let page = u32::try_from(left).unwrap_or(PAGE).min(PAGE);
        let letters = store
            .dead_letters(&filter.which(), after.as_ref(), page)
            .await?;
        for heading in &letters {
            let letter = Letter::from(heading);
            if json {
                writeln!(out, "{}", serde_json::to_string(&letter)?).context("cannot print")?;
            } else {
                writeln!(out, "{}", line(heading)).context("cannot print")?;
            }
        }
        let (read, last) = (letters.len(), letters.last().map(Place::of));
        if read < page as usize {
            break;
        }
        left -= read;
        after = last;
    }
    Ok(())
}

/// One dead letter per line. Text of the provider is escaped, because it may hold control characters.
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

/// A text without control characters.
fn plain(text: &str) -> String {
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
    let letter = store.dead_letter(id).await?;
    let letter = letter.ok_or_else(|| anyhow!("no dead letter has the id `{id}`"))?;
    let mut out = std::io::stdout().lock();
    if json {
        let whole = serde_json::to_string(&WholeLetter::from(&letter))?;
        return writeln!(out, "{whole}").context("cannot print");
    }
    let body = match std::str::from_utf8(&letter.body) {
        Ok(text) => plain(text),
        Err(_) => format!("(no UTF-8, in hexadecimal) {}", hex::encode(&letter.body)),
    };
    writeln!(out, "{}\n{body}", line(&letter.heading)).context("cannot print")
}

/// Does something with each chosen dead letter, prints the outcomes, and fails if one failed.
async fn each(
    store: &Store,
    chosen: Chosen,
    act: impl AsyncFn(&str) -> anyhow::Result<Result<&'static str, String>>,
) -> anyhow::Result<()> {
    let mut failed = 0;
    let mut act_on = async |id: &str| -> anyhow::Result<()> {
        let outcome = act(id).await?;
        failed += usize::from(outcome.is_err());
        let outcome = match &outcome {
            Ok(done) => done,
            Err(why) => why.as_str(),
        };
        writeln!(std::io::stdout(), "{id}  {}", plain(outcome)).context("cannot print")
    };
    for id in &chosen.ids {
        act_on(id).await?;
    }
    let mut after = None;
    let mut is_last = !chosen.all;
    while !is_last {
        let which = chosen.filter.which();
        let letters = store.dead_letters(&which, after.as_ref(), PAGE).await?;
        for letter in &letters {
            act_on(&letter.id).await?;
        }
        after = letters.last().map(Place::of);
        is_last = after.is_none();
    }
    if failed > 0 {
        return Err(anyhow!("{failed} dead letter(s) are still there"));
    }
    Ok(())
}

/// Reports how many dead letters would be removed, and fails.
async fn refuse(store: &Store, filter: &Filter) -> anyhow::Result<()> {
    let (mut number, mut after) = (0, None);
    loop {
        let letters = store
            .dead_letters(&filter.which(), after.as_ref(), PAGE)
            .await?;
        let Some(last) = letters.last() else { break };
        number += letters.len();
        after = Some(Place::of(last));
    }
    Err(anyhow!(
        "{number} dead letter(s) would be gone for good; add --yes to drop them"
    ))
}

async fn one_retry(
    apps: &[App],
    store: &Store,
    id: &str,
) -> anyhow::Result<Result<&'static str, String>> {
    Ok(match retry(apps, store, id).await? {
        Retried::Stored => Ok("stored"),
        Retried::StillUndecodable { code, reason, path } => {
            Err(format!("still undecodable: {code} at {path}: {reason}"))
        }
        Retried::StillRefused => Err("still refused by MongoDB".to_owned()),
        Retried::SaysNothing => Err("says nothing; drop it if it is of no use".to_owned()),
        Retried::UnknownApp => Err("its app is not configured".to_owned()),
        Retried::NotThere => Err("is not there".to_owned()),
    })
}

async fn one_drop(store: &Store, id: &str) -> anyhow::Result<Result<&'static str, String>> {
    Ok(match store.remove_dead_letter(id).await? {
        true => Ok("dropped"),
        false => Err("is not there".to_owned()),
    })
}

impl Filter {
    fn which(&self) -> Which {
        Which {
            app: self.app.clone(),
            code: self.code.clone(),
        }
    }
}
