//! `im-callback backfill`

use std::io::Write;

use anyhow::Context;

use super::client::unknown_app;
use super::{Failure, Load};
use crate::app::connect;
use crate::callback::columns::Columns;
use crate::ingest::App;
use crate::store::Store;
use crate::store::backfill::{Backfill, BackfillReport};
use crate::store::reconcile;
use crate::words::counted;

#[derive(clap::Args, Debug)]
pub struct BackfillArgs {
    /// Only this app's messages instead of those of all configured apps
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Only count what would change; write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object per app instead of text
    #[arg(long)]
    json: bool,
}

pub async fn run(args: BackfillArgs, load: impl Load) -> Result<(), Failure> {
    let config = load(&[])?;
    if let Some(name) = &args.app
        && !config.apps.iter().any(|a| a.app.name.as_str() == name)
    {
        return Err(unknown_app(name, config.apps.iter().map(|a| &a.app.name)));
    }
    let store = connect(&config).await?;
    let apps = config.apps.into_iter().map(|configured| configured.app);
    let is_chosen = |app: &App| {
        let wanted = args.app.as_deref();
        wanted.is_none_or(|name| app.name.as_str() == name)
    };
    let chosen: Vec<App> = apps.filter(is_chosen).collect();
    let result = backfill_all(&store, &chosen, &args).await;
    store.close().await;
    Ok(result?)
}

async fn backfill_all(store: &Store, apps: &[App], args: &BackfillArgs) -> anyhow::Result<()> {
    let mut some_count_now = false;
    for app in apps {
        let mut report = BackfillReport::default();
        let backfill = Backfill {
            app: &app.name,
            provider: app.provider.name(),
            derive: |class, columns: &Columns<'_>| app.provider.derive(class, columns),
            is_dry_run: args.dry_run,
        };
        let result = store.backfill(&backfill, &mut report).await;
        // After an error, too, the report says what was done.
        writeln!(std::io::stdout(), "{}", told(app, report, args)).context("cannot print")?;
        result
            .context("not finished; the changes so far are kept, and another run does the rest")?;
        some_count_now |= report.count_now > 0 && !args.dry_run;
    }
    if some_count_now {
        // The service's next walk would do the same, but users look at `state` right after this command.
        let mut report = reconcile::Report::default();
        let caught_up = store.catch_up(&mut report).await;
        caught_up.context("everything is derived; the service's next walk updates `state`")?;
    }
    Ok(())
}

fn told(app: &App, report: BackfillReport, args: &BackfillArgs) -> String {
    let BackfillReport {
        looked_at,
        other_provider,
        conversations,
        orders,
        count_now,
        count_no_more,
        teams,
        changed,
    } = report;
    let name = &app.name;
    if args.json {
        return format!(
            r#"{{"app":"{name}","looked_at":{looked_at},"other_provider":{other_provider},"conversations":{conversations},"orders":{orders},"count_now":{count_now},"count_no_more":{count_no_more},"teams":{teams},"changed":{changed}}}"#
        );
    }
    let done = match args.dry_run {
        true => "nothing was written".to_owned(),
        false => format!("{changed} changed"),
    };
    let others = match other_provider {
        0 => String::new(),
        n => format!("; {n} of another provider left alone"),
    };
    let messages = counted(looked_at, "message");
    format!(
        "{name}: looked at {messages}: {conversations} without their conversation, {orders} with \
         another order, {count_now} that count now, {count_no_more} that count no longer, {teams} that mean something else for their \
         team; {done}{others}"
    )
}
