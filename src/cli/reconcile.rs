//! `im-callback reconcile`

use std::io::Write;

use anyhow::{Context, anyhow};

use super::{Failure, Load};
use crate::app::connect;
use crate::store::Store;
use crate::store::reconcile::{ReconcileScope, Report};
use crate::words::counted;

#[derive(clap::Args, Debug)]
pub struct ReconcileArgs {
    /// Only count what is wrong; write nothing
    #[arg(long, conflicts_with = "resume")]
    dry_run: bool,
    /// Go on where the last run was interrupted, instead of beginning at the start
    #[arg(long)]
    resume: bool,
    /// Print JSON instead of a sentence
    #[arg(long)]
    json: bool,
}

pub async fn run(args: ReconcileArgs, load: impl Load) -> Result<(), Failure> {
    let config = load(&[])?;
    let store = connect(&config).await?;
    let scope = match (args.dry_run, args.resume) {
        (true, _) => ReconcileScope::DryRun,
        (false, true) => ReconcileScope::Rest,
        (false, false) => ReconcileScope::All,
    };
    let mut report = Report::default();
    let result = reconcile(&store, scope, &mut report).await;
    // Printed after a failure, too: the report has what was done before.
    if result.is_ok() || report != Report::default() {
        writeln!(std::io::stdout(), "{}", told(&args, report)).context("cannot print")?;
    }
    store.close().await;
    result
}

async fn reconcile(
    store: &Store,
    scope: ReconcileScope,
    report: &mut Report,
) -> Result<(), Failure> {
    let has_indexes = store.has_indexes().await;
    if !has_indexes.context("the indexes cannot be looked up")? {
        return Err(
            anyhow!("the indexes are not there; `im-callback indexes` makes them first").into(),
        );
    }
    let way_on = match scope {
        ReconcileScope::DryRun => "not finished",
        _ => "not finished; `--resume` goes on from there",
    };
    Ok(store.reconcile(scope, report).await.context(way_on)?)
}

fn told(args: &ReconcileArgs, report: Report) -> String {
    let Report {
        looked_at,
        behind,
        disagreed,
        repaired,
    } = report;
    if args.json {
        return format!(
            r#"{{"looked_at":{looked_at},"behind":{behind},"disagreed":{disagreed},"repaired":{repaired}}}"#
        );
    }
    let done = if args.dry_run {
        "nothing was written".to_owned()
    } else {
        format!("{repaired} repaired")
    };
    let messages = counted(looked_at, "message");
    format!("looked at {messages}: {behind} behind their read mark, {disagreed} disagreed, {done}")
}
