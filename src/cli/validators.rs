//! `im-callback validators`

use std::io::Write;

use anyhow::{Context, anyhow};
use clap::Subcommand;

use super::{Failure, Load};
use crate::app::connect;
use crate::store::Store;
use crate::store::validators::ValidatorState::{Absent, Foreign, NoCollection, Ours, Outdated};
use crate::store::validators::fields::{CollectionFields, FIELDS};
use crate::store::validators::{ValidatorState, validator};

#[derive(clap::Args, Debug)]
pub struct ValidatorsArgs {
    #[command(subcommand)]
    action: ValidatorsAction,
}

#[derive(Subcommand, Debug)]
enum ValidatorsAction {
    /// Prints the validators as a JSON object by collection, without MongoDB
    Print,
    /// Says what validates each collection
    Status,
    /// Sets the validators: MongoDB's log warns of documents that do not match, and none is refused
    Apply,
    /// Removes the validators that `apply` has set
    Remove,
}

pub async fn run(args: ValidatorsArgs, load: impl Load) -> Result<(), Failure> {
    if matches!(args.action, ValidatorsAction::Print) {
        let each = FIELDS.iter().map(|of| (of.collection, validator(of)));
        let all = each.collect::<std::collections::BTreeMap<_, _>>();
        let text = serde_json::to_string_pretty(&all).context("cannot print")?;
        writeln!(std::io::stdout(), "{text}").context("cannot print")?;
        return Ok(());
    }
    let store = connect(&load(&[])?).await?;
    let states = store.validator_states().await;
    let states = states.context("the validators cannot be read")?;
    let mut is_foreign = false;
    for (of, state) in states {
        let said = match args.action {
            ValidatorsAction::Apply => apply(&store, of, state).await,
            ValidatorsAction::Remove => remove(&store, of, state).await,
            ValidatorsAction::Print | ValidatorsAction::Status => Ok(status(state)),
        };
        let said = said.context("the validators cannot be changed; that needs the right collMod, such as of the role dbAdmin")?;
        is_foreign |= state == Foreign;
        writeln!(std::io::stdout(), "{}: {said}", of.collection).context("cannot print")?;
    }
    store.close().await;
    if is_foreign && matches!(args.action, ValidatorsAction::Apply) {
        return Err(anyhow!("somebody else's validators are in the way").into());
    }
    Ok(())
}

fn status(state: ValidatorState) -> &'static str {
    match state {
        NoCollection | Absent => "not validated",
        Ours => "validated; MongoDB's log warns of documents that do not match",
        Outdated => {
            "validated, by another version's validator or one that was changed; `im-callback validators apply` renews it"
        }
        Foreign => "validated by somebody else's validator",
    }
}

async fn apply(
    store: &Store,
    of: &CollectionFields,
    state: ValidatorState,
) -> anyhow::Result<&'static str> {
    match state {
        Foreign => return Ok("left alone: it has somebody else's validator"),
        Ours => return Ok("nothing to do"),
        NoCollection | Absent | Outdated => {}
    }
    store.set_validator(of).await?;
    Ok("validator set; MongoDB's log warns of documents that do not match")
}

async fn remove(
    store: &Store,
    of: &CollectionFields,
    state: ValidatorState,
) -> anyhow::Result<&'static str> {
    match state {
        Foreign => return Ok("left alone: it has somebody else's validator"),
        NoCollection | Absent => return Ok("nothing to do"),
        Ours | Outdated => {}
    }
    store.remove_validator(of).await?;
    Ok("validator removed")
}
