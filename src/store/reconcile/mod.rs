//! Checks what is stored, and makes `state` agree with the read marks and recalls.
//!
//! # Operation
//! - The **unread walk** reads the index `unread_by_peer`, which holds every unread message, looks up the mark of each
//!   pair, and applies it if it covers a message. It finds what `projection` forgot in a crash or a fail-over. The
//!   service does this walk at its start and from time to time, and gives way to commits. Where nothing is wrong it
//!   reads no document.
//! - The **history walk** reads the messages themselves by `_id`, and finds every wrong `state`, such as an unread
//!   message that was recalled, or a read one that is neither recalled nor covered by a mark. No crash causes these,
//!   only a manual change, or `read_marks` restored from an old backup. The latter must not make a hundred thousand
//!   messages unread again by itself, so only the command `im-callback reconcile` does this walk. It also finds recalled
//!   messages that count in their team, which an older version beside this one leaves.
//!
//! Both make `state` agree with facts that never go away, and the filter of each update repeats what was read. So
//! walks need no coordination with each other or with live traffic.
//!
//! # Cost
//! One connection reads `CHUNK` index entries or documents at a time.

mod finding;

use std::collections::HashMap;
use std::mem;
use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::Cursor;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::Hint;
use tokio::time::{Instant, sleep, timeout};

use super::error::StoreError;
use super::indexes::UNREAD_BY_PEER;
use super::place::Pair;
use super::{Store, collection};
use crate::metrics::ReconcileLabel;
use finding::{CountedRecall, Finding, Seen, entry};

/// How many index entries or documents are read at once, and how many pairs' marks are looked up at once.
const CHUNK: usize = 1000;

/// The timeout of one read or write. Longer than a query's: nobody waits for it, and a cold disk is slow.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// How long a chunk of the service's walk gives way to commits.
const GIVES_WAY: Duration = Duration::from_millis(200);

/// The pause after an error.
const PAUSE: Duration = Duration::from_secs(30);

/// The document in the collection `progress` with the position of the history walk.
const PROGRESS: &str = "reconcile/history";

/// The settings of the service's walks.
#[derive(Debug, Clone, Copy)]
pub struct ReconcileSettings {
    /// The time from the end of one walk to the start of the next.
    pub every: Duration,
}

/// What the command checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReconcileScope {
    /// All messages.
    All,
    /// The messages after the point where the last run was interrupted.
    Rest,
    /// All messages, without writes.
    DryRun,
}

/// The results of a run, up to an error if there was one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Messages checked, by index entry or document. The command checks unread ones twice.
    pub looked_at: u64,
    /// Messages that are covered by their mark and still had `state: 0`. Under live traffic there are always a few.
    pub behind: u64,
    /// Messages whose `state` was wrong in any other way, and recalled ones that counted in their team. That does not pass
    /// by itself.
    pub disagreed: u64,
    /// How many of both were repaired.
    pub repaired: u64,
}

impl Store {
    /// Walks over the unread messages at start and from time to time, forever.
    pub async fn keep_catching_up(&self, settings: ReconcileSettings) {
        let mut is_failing = false;
        loop {
            let mut report = Report::default();
            let pause = match self.catch_up(&mut report).await {
                Ok(()) => {
                    is_failing = false;
                    self.count_run("ok", report);
                    self.behind.caught_up();
                    let (looked_at, applied) = (report.looked_at, report.repaired);
                    tracing::info!(looked_at, applied, "reconciled");
                    settings.every
                }
                Err(error) => {
                    // Logged once per outage.
                    if !is_failing {
                        tracing::warn!(%error, "reconciling failed, and is tried again later");
                    }
                    is_failing = true;
                    self.count_run("failed", report);
                    settings.every.min(PAUSE)
                }
            };
            sleep(pause).await;
        }
    }

    fn count_run(&self, outcome: &'static str, report: Report) {
        let runs = &self.metrics.reconcile_runs;
        runs.get_or_create(&ReconcileLabel { outcome }).inc();
        self.metrics.reconcile_repaired.inc_by(report.repaired);
    }

    /// Applies every read mark that covers an unread message. After an error the report has what was done before.
    ///
    /// # Errors
    /// When MongoDB is unavailable or lacks the index `unread_by_peer`.
    pub async fn catch_up(&self, report: &mut Report) -> Result<(), StoreError> {
        let mut walk = self.unread_entries().await?;
        let mut oldest = HashMap::new();
        while let Some(found) = in_time(walk.try_next()).await? {
            report.looked_at += 1;
            let Some((pair, sent_at)) = entry(&found) else {
                continue;
            };
            // The index sorts a pair's entries next to each other and by time, so the first is the oldest.
            oldest.entry(pair).or_insert(sent_at);
            if oldest.len() == CHUNK {
                self.give_way(Instant::now() + GIVES_WAY).await;
                self.catch_up_pairs(mem::take(&mut oldest), report).await?;
            }
        }
        self.catch_up_pairs(oldest, report).await
    }

    async fn catch_up_pairs(
        &self,
        oldest: HashMap<Pair, i64>,
        report: &mut Report,
    ) -> Result<(), StoreError> {
        let pairs: Vec<&Pair> = oldest.keys().collect();
        let marks = self.marks(&pairs).await?;
        let reached = marks.iter().filter(|(pair, mark)| oldest[*pair] <= **mark);
        let applied = self
            .apply_marks(reached.map(|(pair, mark)| (pair, *mark)))
            .await?;
        report.behind += applied;
        report.repaired += applied;
        Ok(())
    }

    async fn unread_entries(&self) -> Result<Cursor<Document>, StoreError> {
        let keys = doc! { "app": 1, "to": 1, "state": 1, "fromAccount": 1, "msgTimestamp": 1 };
        let mut shown = keys.clone();
        shown.insert("_id", 0);
        let messages = self.collection(collection::MESSAGES)?;
        // Without bounds on the first keys, MongoDB would fetch documents to check `state`.
        let found = messages
            .find(doc! { "app": { "$gt": "" }, "to": { "$gte": "" }, "state": 0 })
            .projection(shown)
            .sort(keys)
            .hint(Hint::Name(UNREAD_BY_PEER.to_owned()))
            .batch_size(CHUNK as u32);
        in_time(async { found.await }).await
    }

    /// Finds every wrong `state` and every recalled message that counts in its team, and repairs them unless this is a dry run. After an error the report has what was done
    /// before.
    ///
    /// # Errors
    /// When MongoDB is unavailable or lacks the index `unread_by_peer`.
    pub async fn reconcile(
        &self,
        scope: ReconcileScope,
        report: &mut Report,
    ) -> Result<(), StoreError> {
        let repairs = scope != ReconcileScope::DryRun;
        let mut after = match scope {
            ReconcileScope::Rest => self.progress().await?,
            ReconcileScope::All | ReconcileScope::DryRun => String::new(),
        };
        loop {
            let chunk = self.messages_after(&after).await?;
            report.looked_at += chunk.len() as u64;
            let wrong = self.judge(&chunk).await?;
            let behind = wrong.iter().filter(|finding| finding.is_behind()).count() as u64;
            report.behind += behind;
            let counted: Vec<_> = chunk.iter().filter_map(CountedRecall::of).collect();
            report.disagreed += (wrong.len() + counted.len()) as u64 - behind;
            if repairs {
                let of_teams = counted.iter().map(CountedRecall::repair);
                let repairs = wrong.iter().map(Finding::repair).chain(of_teams);
                let repairs: Vec<_> = repairs.collect();
                report.repaired += self.write_projection(&repairs).await?;
            }
            after = match chunk.last().map(|message| message.get_str("_id")) {
                Some(Ok(id)) if chunk.len() == CHUNK => id.to_owned(),
                _ => break,
            };
            if repairs {
                self.save_progress(&after).await?;
            }
        }
        if repairs {
            self.save_progress("").await?;
            // For receipts that arrived after their mark was read here and before a message became unread again.
            self.catch_up(report).await?;
        }
        Ok(())
    }

    async fn messages_after(&self, id: &str) -> Result<Vec<Document>, StoreError> {
        let messages = self.collection(collection::MESSAGES)?;
        let chunk = messages
            .find(doc! { "_id": { "$gt": id } })
            .sort(doc! { "_id": 1 })
            .limit(CHUNK as i64)
            .projection(Seen::projection());
        in_time(async { chunk.await?.try_collect().await }).await
    }

    /// Finds the messages whose `state` is wrong. Marks are read after messages: with an older mark, a message that was
    /// just read would look as if its `state` were wrong.
    async fn judge(&self, messages: &[Document]) -> Result<Vec<Finding>, StoreError> {
        let seen: Vec<_> = messages.iter().filter_map(Seen::of).collect();
        let pairs: HashMap<_, ()> = seen.iter().map(|seen| (&seen.pair, ())).collect();
        let pairs: Vec<_> = pairs.into_keys().collect();
        let marks = self.marks(&pairs).await?;
        let judged = seen.into_iter().filter_map(|seen| {
            let mark = marks.get(&seen.pair).copied();
            seen.judge(mark)
        });
        Ok(judged.collect())
    }

    async fn progress(&self) -> Result<String, StoreError> {
        let progress = self.collection(collection::PROGRESS)?;
        let found = progress.find_one(doc! { "_id": PROGRESS });
        let found = in_time(async { found.await }).await?;
        let after = found.as_ref().and_then(|found| found.get_str("after").ok());
        Ok(after.unwrap_or_default().to_owned())
    }

    async fn save_progress(&self, after: &str) -> Result<(), StoreError> {
        let progress = self.collection(collection::PROGRESS)?;
        let moved = doc! { "$set": { "after": after, "updatedAt": DateTime::now() } };
        let saved = progress
            .update_one(doc! { "_id": PROGRESS }, moved)
            .upsert(true);
        in_time(async { saved.await }).await.map(drop)
    }
}

/// Runs a command with the timeout.
pub(super) async fn in_time<T>(
    command: impl Future<Output = mongodb::error::Result<T>>,
) -> Result<T, StoreError> {
    timeout(TIMEOUT, command)
        .await
        .map_err(|_| StoreError::TimedOut)?
        .map_err(StoreError::of_state)
}
