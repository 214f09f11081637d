//! `im-callback indexes`

use std::io::Write;

use anyhow::{Context, anyhow};

use super::{Failure, Load};
use crate::app::connect;
use crate::store::indexes::{ChangeMade, IndexChange};

#[derive(clap::Args, Debug)]
pub struct IndexesArgs {
    /// Say what would be done, and do nothing
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Also set a retention that deletes documents at once, and end one that is no longer configured
    #[arg(long)]
    yes: bool,
}

pub async fn run(args: IndexesArgs, load: impl Load) -> Result<(), Failure> {
    let config = load(&[])?;
    let store = connect(&config).await?;
    let plan = store.index_plan(config.retention).await.context(
        "the indexes cannot be compared with the configuration (`im-callback doctor` finds out why)",
    )?;
    let idle = store.idle_indexes().await;
    let idle = idle.context("the indexes cannot be listed")?;
    let mut out = std::io::stdout().lock();
    for index in &idle {
        writeln!(out, "left alone: {index}").context("cannot print")?;
    }
    if args.dry_run {
        for change in &plan {
            writeln!(out, "to do: {change}").context("cannot print")?;
        }
        if plan.is_empty() {
            writeln!(out, "nothing to do").context("cannot print")?;
        }
        store.close().await;
        return Ok(());
    }
    let is_left = |change: &IndexChange| change.is_conflict() || (change.needs_yes() && !args.yes);
    let (left, agreed): (Vec<_>, Vec<_>) = plan.into_iter().partition(is_left);
    let mut printed = Ok(());
    let made = store
        .apply_index_changes(&agreed, |change| {
            // What is done is done, whether it can be said or not.
            if printed.is_ok() {
                printed = writeln!(out, "{}", ChangeMade(change));
            }
        })
        .await;
    made.context("the indexes cannot be made")?;
    printed.context("cannot print")?;
    store.close().await;
    if !left.is_empty() {
        for change in &left {
            writeln!(out, "not done: {change}").context("cannot print")?;
        }
        let why = match left.iter().any(IndexChange::needs_yes) {
            true => {
                "a retention that deletes documents at once or ends needs a yes: run `im-callback indexes --yes`, or configure another"
            }
            false => "indexes of others are in the way",
        };
        return Err(anyhow!(why).into());
    }
    let nothing = if agreed.is_empty() {
        "nothing to do: "
    } else {
        ""
    };
    let database = &config.store.database;
    writeln!(out, "{nothing}indexes are present in database {database}").context("cannot print")?;
    Ok(())
}
