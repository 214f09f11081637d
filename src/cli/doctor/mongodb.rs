//! The doctor's look at MongoDB, its indexes and the retention.

use std::sync::Arc;
use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::time::timeout;

use crate::check::Check;
use crate::config::Config;
use crate::store::changes::{ChangesError, Watched};
use crate::store::indexes::{IdleIndex, IndexChange};
use crate::store::{Store, StoreError, diagnosis};

const INDEXES: &str = "indexes";
const RETENTION: &str = "retention";
const TEAM_COUNTS: &str = "team_counts";
const CHANGE_STREAMS: &str = "change_streams";

/// The names of all checks of MongoDB.
pub const CHECKS: [&str; diagnosis::CHECKS.len() + 4] = {
    let mut names = [INDEXES; diagnosis::CHECKS.len() + 4];
    let mut i = 0;
    while i < diagnosis::CHECKS.len() {
        names[i] = diagnosis::CHECKS[i];
        i += 1;
    }
    names[i + 1] = RETENTION;
    names[i + 2] = TEAM_COUNTS;
    names[i + 3] = CHANGE_STREAMS;
    names
};

/// How long each question waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long the comparison of indexes may take, with counting what a retention would delete.
const PLANNING: Duration = Duration::from_secs(60);

/// Checks MongoDB. Changes nothing: the only write is one without effect.
pub async fn checks(config: &Config) -> Vec<Check> {
    let store = Store::new(config.store.clone(), Arc::default());
    let uri = config.mongodb_uri.expose_secret();
    // If that fails the diagnosis says why.
    let _ = timeout(PATIENCE, store.reach(uri)).await;
    let diagnosis = store.diagnose(uri, PATIENCE).await;
    let mut checks = diagnosis.checks().await;
    if diagnosis.cause.is_none() {
        checks.extend(of_indexes(&store, config).await);
        checks.push(of_team_counts(&store, config).await);
        checks.push(of_change_streams(&store).await);
    } else {
        let why = "MongoDB does not take writes";
        let names = [INDEXES, RETENTION, TEAM_COUNTS, CHANGE_STREAMS];
        checks.extend(names.map(|name| Check::not_checked(name, why)));
    }
    store.close().await;
    checks
}

async fn of_indexes(store: &Store, config: &Config) -> [Check; 2] {
    let plan = timeout(PLANNING, store.index_plan(config.retention)).await;
    let changes = match plan.unwrap_or(Err(StoreError::TimedOut)) {
        Ok(changes) => changes,
        Err(error) => {
            let why = error.to_string();
            return [INDEXES, RETENTION].map(|name| Check::not_checked(name, &why));
        }
    };
    let (retention, indexes): (Vec<_>, Vec<_>) =
        changes.into_iter().partition(IndexChange::is_retention);
    let are_built = indexes.is_empty().then_some(store.has_indexes().await);
    // Only to be told, so it is left out where it cannot be found out.
    let idle = store.idle_indexes().await.unwrap_or_default();
    [
        indexes_check(&indexes, are_built, &idle),
        retention_check(&retention),
    ]
}

/// As the service finds it out, without writing it down.
async fn of_team_counts(store: &Store, config: &Config) -> Check {
    let mut lacking = Vec::new();
    for app in config.apps.iter().map(|configured| &configured.app.name) {
        let asked = async {
            Ok::<_, StoreError>(
                !store.is_team_counts_stored(app).await?
                    && store.is_older_team_message_possible(app).await?,
            )
        };
        match asked.await {
            Ok(false) => {}
            Ok(true) => lacking.push(app.as_str()),
            Err(error) => return Check::not_checked(TEAM_COUNTS, error.to_string()),
        }
    }
    if lacking.is_empty() {
        return Check::ok(TEAM_COUNTS, "all team messages are counted");
    }
    let found = format!(
        "team messages of an older version are not counted (apps: {}), so answers with `teams` have `\"complete\": false`",
        lacking.join(", ")
    );
    let way_out = "run `im-callback backfill` once all instances are updated";
    Check::warning(TEAM_COUNTS, found, way_out)
}

/// Opens one that tells nothing, and closes it.
async fn of_change_streams(store: &Store) -> Check {
    let opened = store.watch_changes(&Watched::default(), None).await;
    let way_out = match opened {
        Ok(_) => return Check::ok(CHANGE_STREAMS, "can be opened"),
        Err(ChangesError::NoReplicaSet) => {
            "make it a replica set of one node: start it with --replSet rs0, then run rs.initiate()"
        }
        Err(ChangesError::NotAllowed) => {
            "grant the user the role `readWrite` on the database, or the action `changeStream`"
        }
        Err(error) => return Check::not_checked(CHANGE_STREAMS, error.to_string()),
    };
    let found = "cannot be opened, so /v1/unread/stream answers 501";
    Check::warning(CHANGE_STREAMS, found, way_out)
}

fn said(changes: &[IndexChange]) -> String {
    let each: Vec<_> = changes.iter().map(IndexChange::to_string).collect();
    each.join("; ")
}

fn indexes_check(
    missing: &[IndexChange],
    are_built: Option<Result<bool, StoreError>>,
    idle: &[IdleIndex],
) -> Check {
    match are_built {
        None if missing.iter().any(IndexChange::is_conflict) => Check::warning(
            INDEXES,
            format!("not as they should be: {}", said(missing)),
            "do so, then run `im-callback indexes`; the service does not touch indexes of others, and without its own queries are answered 503",
        ),
        None if missing.iter().all(IndexChange::is_for_analysts) => Check::warning(
            INDEXES,
            format!("not as they should be: {}", said(missing)),
            "the service does so at its start; to do it before, run `im-callback indexes`; until then analyses read whole collections",
        ),
        None => Check::warning(
            INDEXES,
            format!("not as they should be: {}", said(missing)),
            "the service does so at its start; to do it before, run `im-callback indexes`; without them queries are answered 503",
        ),
        Some(Ok(true)) => {
            let mut found = "all are there and built".to_owned();
            for index in idle {
                found.push_str("; no longer asked for, and left alone: ");
                found.push_str(&index.to_string());
            }
            Check::ok(INDEXES, found)
        }
        Some(Ok(false)) => Check::warning(
            INDEXES,
            "one is still being built",
            "wait; until then queries are answered 503, and callbacks are taken",
        ),
        Some(Err(error)) => Check::not_checked(INDEXES, error.to_string()),
    }
}

fn retention_check(changes: &[IndexChange]) -> Check {
    if changes.is_empty() {
        return Check::ok(RETENTION, "as configured");
    }
    if changes.iter().any(IndexChange::is_conflict) {
        return Check::warning(
            RETENTION,
            said(changes),
            "do so, then run `im-callback indexes`; until then documents are not deleted as configured",
        );
    }
    if changes.iter().any(IndexChange::needs_yes) {
        return Check::warning(
            RETENTION,
            said(changes),
            "the service leaves such a retention alone: run `im-callback indexes --yes` if that is meant, or configure another",
        );
    }
    let found = format!(
        "deletes nothing now, and is set at the next start: {}",
        said(changes)
    );
    Check::ok(RETENTION, found)
}
