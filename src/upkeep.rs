//! Background tasks that keep MongoDB's indexes and retention, and what is known of the spool's folder, as they should
//! be. No callback waits for them.

use std::collections::HashSet;
use std::time::Duration;

use backon::{ConstantBuilder, ExponentialBuilder, Retryable};
use secrecy::{ExposeSecret, SecretString};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::live::Live;
use crate::spool::Spool;
use crate::store::indexes::{IndexChange, Retention};
use crate::store::{RetentionState, Store, StoreError};

/// How often quarantined bytes are counted again.
const QUARANTINE_COUNTED: Duration = Duration::from_secs(5);

/// Creates the client as soon as the name of the connection string is resolved.
pub async fn keep_resolving(store: &Store, uri: &SecretString) {
    let resolved = (|| store.reach(uri.expose_secret()))
        .retry(
            ConstantBuilder::new()
                .with_delay(Duration::from_secs(1))
                .without_max_times(),
        )
        .notify(|_, _| tracing::debug!("the name in mongodb.uri is still not resolved"))
        .await;
    if resolved.is_ok() {
        tracing::info!("the name in mongodb.uri is resolved");
    }
}

/// Notices that somebody has moved a file out of quarantine. Apart from the other tasks, since the disk may hang.
pub async fn keep_counting_quarantine(spool: &Spool) {
    loop {
        sleep(QUARANTINE_COUNTED).await;
        let spool = spool.clone();
        let counted = spawn_blocking(move || spool.count_quarantined()).await;
        if let Ok(Err(error)) = counted {
            tracing::debug!(%error, "the folder of the spool cannot be read");
        }
    }
}

/// Creates the indexes that queries need as soon as MongoDB is available. Callbacks do not need them and do not wait.
pub async fn keep_ensuring_query_indexes(store: &Store) {
    if let Ok(left) = until_done(|| store.ensure_query_indexes()).await {
        tell_of_conflicts(&left);
        if left.is_empty() {
            tracing::info!("the indexes that queries need are present");
        }
    }
}

/// Creates the other indexes, which may take hours, and nothing waits for them.
pub async fn keep_ensuring_other_indexes(store: &Store) {
    if let Ok(left) = until_done(|| store.ensure_other_indexes()).await {
        tell_of_conflicts(&left);
        if left.is_empty() {
            tracing::info!("all other indexes are present");
        }
    }
}

/// Says which indexes cannot be made beside somebody's own.
fn tell_of_conflicts(left: &[IndexChange]) {
    for change in left {
        if change.is_for_analysts() {
            tracing::warn!(
                %change,
                "somebody's index is in the way of one for analysts, whose queries may be slow; then run `im-callback indexes`"
            );
        } else {
            tracing::error!(
                %change,
                "somebody's index is in the way of one that the service needs; then run `im-callback indexes`"
            );
        }
    }
}

/// How often the retention in MongoDB is compared with the configuration.
const RETENTION_PERIOD: Duration = Duration::from_secs(10);

/// Adopts the retention where that harms nothing, then notices that somebody has said yes, or changed it in MongoDB.
/// What others change is only told: two instances that are configured differently would undo each other's changes.
pub async fn keep_watching_retention(store: &Store, retention: Retention) {
    let Ok(left) = until_done(|| store.ensure_retention(retention)).await else {
        return;
    };
    for change in &left {
        if change.is_conflict() {
            tracing::error!(
                %change,
                "somebody's index is in the way of the retention; then run `im-callback indexes`"
            );
        } else {
            tracing::warn!(
                %change,
                "a retention waits, since it would delete documents at once or keep what was to be deleted; run `im-callback indexes --yes`"
            );
        }
    }
    let first = match left.as_slice() {
        [] => RetentionState::Applied,
        left if left.iter().any(IndexChange::needs_yes) => RetentionState::Waits,
        _ => RetentionState::Differs,
    };
    store.known().learn_retention(first);
    loop {
        sleep(RETENTION_PERIOD).await;
        let state = match store.has_retention(retention).await {
            Ok(true) => RetentionState::Applied,
            Ok(false) if store.known().retention() == Some(RetentionState::Waits) => continue,
            Ok(false) => RetentionState::Differs,
            Err(_) => continue,
        };
        if !store.known().learn_retention(state) {
            continue;
        }
        if state == RetentionState::Applied {
            tracing::info!("the retention is as configured");
        } else {
            tracing::warn!(
                "the retention in MongoDB is no longer as configured: somebody or another instance changed it; `im-callback doctor` compares"
            );
        }
    }
}

/// How long to wait after MongoDB did not answer.
const ASKED_AGAIN: Duration = Duration::from_secs(5);

/// Finds out of each app, also of those that a reload adds, whether its older team messages are counted, and warns.
pub async fn keep_watching_team_counts(store: &Store, live: &Live) {
    let mut replaced = live.replacements();
    let mut told = HashSet::new();
    loop {
        for app in &live.current().apps {
            let has_team_counts = loop {
                match store.has_team_counts(&app.name).await {
                    Ok(known) => break known,
                    Err(_) => sleep(ASKED_AGAIN).await,
                }
            };
            if !has_team_counts && told.insert(app.name.clone()) {
                tracing::warn!(
                    app = %app.name,
                    "team messages of an older version are not counted; run `im-callback backfill`"
                );
            }
        }
        if replaced.changed().await.is_err() {
            return;
        }
    }
}

/// Tries until MongoDB does it.
async fn until_done<F>(attempt: impl FnMut() -> F) -> Result<Vec<IndexChange>, StoreError>
where
    F: Future<Output = Result<Vec<IndexChange>, StoreError>>,
{
    attempt
        .retry(
            ExponentialBuilder::new()
                .with_min_delay(Duration::from_millis(500))
                .with_max_delay(Duration::from_secs(30))
                .without_max_times(),
        )
        .notify(|error, _| tracing::warn!(%error, "indexes cannot be made yet"))
        .await
}
