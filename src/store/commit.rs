//! Commits a batch; each callback has its own verdict.
//!
//! # Promise
//! [`Durability::Stored`] means that every write of the callback is journaled on a majority of the replica set, so
//! every later count includes it. After [`NotStored`] the callback may be stored in part or in whole; committing
//! it again is always safe.
//!
//! # Operation
//! An attempt is one step, described in `write`. This module handles its failures.
//!
//! # What can go wrong
//! - MongoDB is at fault (unavailable, failing over, write not confirmed): the whole batch is retried until the
//!   deadline.
//! - A document is at fault (MongoDB refuses it, or it contradicts what is stored): the callback becomes a dead
//!   letter and the rest of the batch is stored. If MongoDB refuses a whole command, the batch is halved until the
//!   callback at fault is alone.
//! - One document fails with an unknown error code: its callback is tried once more without the rest of the batch,
//!   and becomes a dead letter if it is refused again.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use tokio::time::Instant;

use super::documents::{STORE_REFUSED, Submission, dead_letter};
use super::error::StoreError;
use super::write::WriteRejection;
use super::{Store, collection};
use crate::callback::Received;
use crate::metrics::DeadLetterLabels;

/// Where a callback is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// In MongoDB: every write is journaled on a majority.
    Stored,
    /// In MongoDB as a dead letter, because a part could not be decoded or was refused. Just as durable.
    DeadLetter,
    /// In the spool, fsynced, waiting for MongoDB.
    Spooled,
}

/// The result of a commit for one callback.
pub type Verdict = Result<Durability, NotStored>;

/// Why a callback is not known to be durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    /// MongoDB is unavailable, or did not confirm in time.
    #[error("the event could not be stored durably in time")]
    Unavailable,
    /// MongoDB refused it and stored others, but its dead letter could not be written in time.
    #[error("MongoDB refuses the event, and its dead letter was not stored")]
    Undecided,
}

impl Store {
    /// Commits a batch, and returns the verdicts in its order.
    pub async fn commit(&self, batch: &[Submission]) -> Vec<Verdict> {
        let verdicts = self.commit_again(batch).await;
        for (submission, verdict) in batch.iter().zip(&verdicts) {
            match verdict {
                Ok(Durability::Stored) => {
                    if let Some(dead_letter) = submission.dead_letter() {
                        self.count_dead_letter(&submission.received, dead_letter.code);
                    }
                }
                Ok(Durability::DeadLetter) => {
                    self.count_dead_letter(&submission.received, STORE_REFUSED);
                }
                Ok(Durability::Spooled) | Err(_) => {}
            }
        }
        verdicts
    }

    /// Commits callbacks that are dead letters already, so that none is made.
    pub async fn commit_again(&self, batch: &[Submission]) -> Vec<Verdict> {
        let _busy = self.busy();
        let started = Instant::now();
        let deadline = started + self.settings.commit_timeout;
        let all: Vec<&Submission> = batch.iter().collect();
        let verdicts = self.commit_until(&all, deadline).await;
        let stored = batch.iter().zip(&verdicts);
        let stored = stored.filter(|(_, verdict)| **verdict == Ok(Durability::Stored));
        let writes = stored.flat_map(|(submission, _)| &submission.writes);
        self.behind.add(writes, self.settings.state_delay);
        let took = started.elapsed().as_secs_f64();
        self.metrics.commit_duration.observe(took);
        self.metrics.commit_callbacks.observe(batch.len() as f64);
        verdicts
    }

    /// Counts a callback that is a dead letter now.
    pub fn count_dead_letter(&self, received: &Received, code: &'static str) {
        let app = received.origin.app.shared();
        let labels = DeadLetterLabels { app, code };
        self.metrics.dead_letters.get_or_create(&labels).inc();
    }

    async fn commit_until(&self, batch: &[&Submission], deadline: Instant) -> Vec<Verdict> {
        match self.attempt_until(batch, deadline).await {
            Ok(rejections) => self.decide(batch, &rejections, deadline).await,
            Err(StoreError::Refused(reason)) => match batch {
                [] => Vec::new(),
                [alone] => {
                    let why = [(&alone.received, reason)];
                    vec![self.write_dead_letters(&why, deadline).await]
                }
                _ => {
                    tracing::warn!(callbacks = batch.len(), reason, "a refused batch is halved");
                    let (first, second) = batch.split_at(batch.len() / 2);
                    let mut verdicts = Box::pin(self.commit_until(first, deadline)).await;
                    verdicts.extend(Box::pin(self.commit_until(second, deadline)).await);
                    verdicts
                }
            },
            Err(error) => {
                tracing::error!(callbacks = batch.len(), %error, "commit failed");
                vec![Err(NotStored::Unavailable); batch.len()]
            }
        }
    }

    /// The verdicts after an attempt in which some writes were refused.
    async fn decide(
        &self,
        batch: &[&Submission],
        rejections: &[WriteRejection],
        deadline: Instant,
    ) -> Vec<Verdict> {
        let mut verdicts = vec![Ok(Durability::Stored); batch.len()];
        let mut refused = Vec::new();
        let mut unclear = Vec::new();
        for (callback, submission) in batch.iter().enumerate() {
            let of_it = || rejections.iter().filter(|r| r.callback == callback);
            match of_it().find(|r| r.is_certain).or_else(|| of_it().next()) {
                Some(refusal) if refusal.is_certain => refused.push((callback, refusal.code)),
                Some(_) => unclear.push((callback, *submission)),
                None => {}
            }
        }
        if !unclear.is_empty() {
            let alone: Vec<&Submission> = unclear.iter().map(|(_, s)| *s).collect();
            match self.attempt_until(&alone, deadline).await {
                Ok(again) => {
                    let callback = |r: &WriteRejection| (unclear[r.callback].0, r.code);
                    refused.extend(again.iter().map(callback));
                }
                // MongoDB refused a whole command, so the callback at fault is unknown.
                Err(error) => {
                    tracing::error!(callbacks = alone.len(), %error, "refused callbacks stay undecided");
                    for (callback, _) in unclear {
                        verdicts[callback] = Err(NotStored::Undecided);
                    }
                }
            }
        }
        refused.sort_unstable();
        refused.dedup_by_key(|(callback, _)| *callback);
        let dead_letters: Vec<_> = refused
            .iter()
            .map(|(callback, code)| (&batch[*callback].received, format!("error {code}")))
            .collect();
        let verdict = self.write_dead_letters(&dead_letters, deadline).await;
        for (callback, _) in refused {
            verdicts[callback] = verdict;
        }
        verdicts
    }

    async fn attempt_until(
        &self,
        batch: &[&Submission],
        deadline: Instant,
    ) -> Result<Vec<WriteRejection>, StoreError> {
        self.retry_until(batch, deadline, |error| {
            self.metrics.commit_retries.inc();
            tracing::warn!(callbacks = batch.len(), %error, "a commit is retried");
        })
        .await
    }

    /// Attempts a batch, with retries until the deadline as long as MongoDB is at fault, and tells of each.
    pub(super) async fn retry_until(
        &self,
        batch: &[&Submission],
        deadline: Instant,
        tell: impl Fn(&StoreError),
    ) -> Result<Vec<WriteRejection>, StoreError> {
        let attempt = async || {
            let attempt = tokio::time::timeout_at(deadline, self.attempt(batch));
            attempt.await.unwrap_or(Err(StoreError::TimedOut))
        };
        attempt
            .retry(
                ExponentialBuilder::new()
                    .with_min_delay(Duration::from_millis(20))
                    .without_max_delay()
                    .without_max_times(),
            )
            .when(|error| matches!(error, StoreError::Unavailable(_) | StoreError::TimedOut))
            // No attempt starts at or after the deadline.
            .adjust(|_, pause| pause.filter(|pause| Instant::now() + *pause < deadline))
            .notify(|error, _| tell(error))
            .await
    }

    /// Writes refused callbacks as dead letters, each with MongoDB's reason. If that succeeds, the documents were
    /// at fault and not MongoDB.
    pub async fn write_dead_letters(
        &self,
        refused: &[(&Received, String)],
        deadline: Instant,
    ) -> Verdict {
        let dead_letters: Vec<_> = refused
            .iter()
            .map(|(received, why)| {
                let reason = format!("MongoDB refused the document: {why}");
                let refused = dead_letter(received, STORE_REFUSED, &reason, "$");
                if let Some(kept_back) = self.refused_lines.pass(std::time::Instant::now()) {
                    tracing::error!(
                        app = %received.origin.app,
                        id = refused.get_str("_id").unwrap_or_default(),
                        code = STORE_REFUSED,
                        why,
                        kept_back,
                        "MongoDB refuses a callback, which is kept as a dead letter"
                    );
                }
                refused
            })
            .collect();
        let all: Vec<_> = dead_letters.iter().map(|one| (0, &**one)).collect();
        let written = self.insert(collection::DEAD_LETTERS, &all);
        match tokio::time::timeout_at(deadline, written).await {
            Ok(Ok(rejections)) if rejections.is_empty() => Ok(Durability::DeadLetter),
            Ok(_) | Err(_) => Err(NotStored::Undecided),
        }
    }
}
