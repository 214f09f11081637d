//! `im-callback dead-letters`: uses MongoDB directly, so it also works while the service is down.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use clap::Subcommand;

use super::{Failure, Load};
use crate::app::connect;
use crate::http::dead_letters::{DeadLetterHead, WholeDeadLetter};
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
        /// The most dead letters to list
        #[arg(long, default_value_t = 50)]
        limit: usize,
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
struct Chosen {
    /// Their ids, such as otc/0a1b…
    #[arg(required_unless_present = "all", conflicts_with_all = ["all", "app", "code"])]
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
        } => list(&store, &filter, limit, json).await,
        Action::Show { id, json } => show(&store, &id, json).await,
        Action::Retry(chosen) => {
            let done = each(&store, chosen, async |id| {
                one_retry(&apps, &store, id).await
            });
            let done = done.await;
            // After an error the service's next walk applies them.
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
        let (read, last) = (dead_letters.len(), dead_letters.last().map(Place::of));
        if read < page as usize {
            break;
        }
        left -= read;
        after = last;
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
    let dead_letter = dead_letter.ok_or_else(|| anyhow!("no dead letter has the id `{id}`"))?;
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

/// Applies an action to each chosen dead letter, prints the outcomes, and fails if one failed.
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
        let dead_letters = store.dead_letters(&which, after.as_ref(), PAGE).await?;
        for dead_letter in &dead_letters {
            act_on(&dead_letter.id).await?;
        }
        after = dead_letters.last().map(Place::of);
        is_last = after.is_none();
    }
    if failed > 0 {
        return Err(anyhow!("{failed} dead letter(s) remain"));
    }
    Ok(())
}

/// Reports how many dead letters would be removed, and fails.
async fn refuse(store: &Store, filter: &Filter) -> anyhow::Result<()> {
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
    Err(anyhow!(
        "{number} dead letter(s) would be removed permanently; add --yes to drop them"
    ))
}

async fn one_retry(
    apps: &[Arc<App>],
    store: &Store,
    id: &str,
) -> anyhow::Result<Result<&'static str, String>> {
    Ok(match retry(apps, store, id, None).await? {
        Retried::Stored => Ok("stored"),
        Retried::StillUndecodable { code, reason, path } => {
            Err(format!("still undecodable: {code} at {path}: {reason}"))
        }
        Retried::StillRefused => Err("still refused by MongoDB".to_owned()),
        Retried::SaysNothing => Err("contains no event; drop it if it is not needed".to_owned()),
        Retried::UnknownApp => Err("its app is not configured".to_owned()),
        Retried::NotThere => Err("does not exist".to_owned()),
    })
}

async fn one_drop(store: &Store, id: &str) -> anyhow::Result<Result<&'static str, String>> {
    Ok(match store.remove_dead_letter(id).await? {
        Some(_code) => Ok("dropped"),
        None => Err("does not exist".to_owned()),
    })
}

impl Filter {
    fn which(&self) -> Which {
        Which {
            apps: self.app.clone().map(|app| vec![app]),
            code: self.code.clone(),
        }
    }
}
