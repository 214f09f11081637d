//! A batch of callbacks becomes durable, exactly once.
//!
//! # Promise
//! [`Durability::Stored`] for a callback means that all it says is on a majority of the replica set,
//! journaled, and that every unread count asked from now on reflects it. Anything else is [`Unavailable`], and then the
//! callback may be stored in part or in whole; committing it again is always right.
//!
//! # Operation
//! The steps are those of [`Attempt`]; here is what happens when one fails.
//!
//! # What can go wrong
//! - MongoDB's fault (away, failing over, write not confirmed): the whole batch is tried again until the
//!   time is up.
//! - A document's fault (MongoDB refuses it, or it contradicts what is stored): its body is kept as a dead
//!   letter, its neighbours are stored. Where MongoDB refuses a whole command, the batch is halved until
//!   the callback at fault stands alone.
//! - A crash between the steps leaves callbacks that were not acknowledged, and a redelivery runs all steps
//!   again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Store;
use super::attempt::{Attempt, Refusal};
use super::documents::{Received, STORE_REFUSED, Write, dead_letter};
use super::error::StoreError;

/// One callback's part of a batch. Not `Debug`: it holds a message's text.
pub struct Submission {
    /// The callback itself, for the case that MongoDB is away, or refuses what we made of it.
    pub received: Received,
    /// What it asks of the store.
    pub writes: Vec<Write>,
}

impl Submission {
    /// What it holds in memory, in bytes, near enough.
    pub fn bytes(&self) -> usize {
        self.received.body.len() + self.writes.iter().map(Write::bytes).sum::<usize>()
    }
}

/// Where a callback is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// All it says is on a majority of the replica set, journaled.
    Stored,
    /// MongoDB refused a document made of it, so its body is a dead letter there, as durably.
    DeadLetter,
    /// In the fsynced spool, on its way into MongoDB.
    Spooled,
}

/// What is known of a callback after a commit.
pub type Verdict = Result<Durability, Unavailable>;

/// The callback is not known to be durable: MongoDB is away, or did not confirm in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the event could not be stored durably in time")]
pub struct Unavailable;

/// The time that a commit has, however long its callbacks have waited.
const LEAST: Duration = Duration::from_millis(500);

impl Store {
    /// Commits a batch of which the oldest callback waits since then; the verdicts are in its order.
    pub async fn commit(&self, batch: &[Submission], since: Instant) -> Vec<Verdict> {
        let least = Instant::now() + LEAST.min(self.settings.commit_timeout);
        let deadline = since + self.settings.commit_timeout;
        self.commit_until(batch, deadline.max(least)).await
    }

    async fn commit_until(&self, batch: &[Submission], deadline: Instant) -> Vec<Verdict> {
        match self.attempt_until(batch, deadline).await {
            Ok(refusals) => {
                let mut verdicts = vec![Ok(Durability::Stored); batch.len()];
                let refused: BTreeMap<usize, i32> =
                    refusals.iter().map(|r| (r.callback, r.code)).collect();
                for (callback, code) in refused {
                    let why = format!("error {code}");
                    let received = &batch[callback].received;
                    verdicts[callback] = self.bury(received, &why, deadline).await;
                }
                verdicts
            }
            Err(StoreError::Refused(reason)) => match batch {
                [] => Vec::new(),
                [alone] => vec![self.bury(&alone.received, &reason, deadline).await],
                _ => {
                    tracing::warn!(callbacks = batch.len(), reason, "a refused batch is halved");
                    let (first, second) = batch.split_at(batch.len() / 2);
                    let mut verdicts = Box::pin(self.commit_until(first, deadline)).await;
                    verdicts.extend(Box::pin(self.commit_until(second, deadline)).await);
                    verdicts
                }
            },
            Err(error @ (StoreError::Unavailable(_) | StoreError::TimedOut)) => {
                tracing::error!(callbacks = batch.len(), %error, "commit failed");
                vec![Err(Unavailable); batch.len()]
            }
        }
    }

    /// Attempts a batch, again and again while MongoDB is at fault and time is left.
    async fn attempt_until(
        &self,
        batch: &[Submission],
        deadline: Instant,
    ) -> Result<Vec<Refusal>, StoreError> {
        let mut pause = Duration::from_millis(20);
        loop {
            let attempt = Attempt::new(self);
            let error = match tokio::time::timeout_at(deadline, attempt.store(batch)).await {
                Ok(Err(error @ (StoreError::Unavailable(_) | StoreError::TimedOut))) => error,
                Ok(result) => return result,
                Err(_elapsed) => return Err(StoreError::TimedOut),
            };
            if Instant::now() + pause >= deadline {
                return Err(error);
            }
            tracing::warn!(callbacks = batch.len(), %error, "commit is tried again");
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    /// Keeps a callback that MongoDB refuses as a dead letter. That it can be kept shows that the
    /// fault is the document's.
    pub async fn bury(&self, received: &Received, why: &str, deadline: Instant) -> Verdict {
        tracing::error!(app = %received.origin.app, why, "a refused callback becomes a dead letter");
        let reason = format!("MongoDB refused the document: {why}");
        let letter = dead_letter(received, STORE_REFUSED, &reason, "$");
        let attempt = Attempt::new(self);
        match tokio::time::timeout_at(deadline, attempt.store_dead_letter(&letter)).await {
            Ok(Ok(())) => Ok(Durability::DeadLetter),
            Ok(Err(_)) | Err(_) => Err(Unavailable),
        }
    }
}
