//! Makes callbacks durable: in MongoDB, or in the spool when MongoDB cannot take them.
//!
//! A callback goes to the spool when an outage is known, when MongoDB did not confirm it in time, or when MongoDB is
//! too slow for the load: too many callbacks are in flight, or this one has waited too long. It is rejected when the
//! spool cannot take it either.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::complete::{Complete, SLOW};
use super::dead_letters::DeadLetterLines;
use super::group::{GroupCommit, Limits, NoVerdict, QueueStatus};
use super::outage::Outage;
use crate::callback::Received;
use crate::metrics::{Metrics, Overflow, ReasonLabel};
use crate::spool::Spool;
use crate::store::{Durability, NotStored, Store, Submission, Verdict};
use crate::throttle::Throttle;

/// Why a callback is not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Too many callbacks or bytes wait for the spool.
    #[error("too many callbacks are in flight")]
    Overloaded,
    /// Neither MongoDB nor the spool took it.
    #[error("the event could not be stored durably in time")]
    NotDurable,
}

/// MongoDB and the spool, each with its group commit. Cheap to clone.
#[derive(Clone)]
pub struct Durable {
    /// MongoDB.
    pub store: Store,
    /// The local queue.
    pub spool: Spool,
    /// Whether MongoDB is known to be unavailable.
    pub outage: Outage,
    /// Whether any spool may hold acknowledged callbacks.
    pub complete: Complete,
    commits: GroupCommit<Submission, Verdict>,
    appends: GroupCommit<Received, Result<(), NotAppended>>,
    commit_timeout: Duration,
    /// Logs new dead letters.
    pub dead_letter_lines: Arc<DeadLetterLines>,
    metrics: Arc<Metrics>,
}

/// How long a callback takes at most, so that it is answered before the provider gives up, after 5 s.
const ANSWERED: Duration = Duration::from_millis(4500);

/// The most callbacks that wait for the spool: more than are ever in flight, so that the disk decides.
const MOST_APPENDED: usize = 100_000;

/// The bytes of bodies that may wait for the spool, however few may wait for MongoDB.
const LEAST_APPENDED_BYTES: usize = 64 * 1024 * 1024;

/// The spool did not take it; the log says why.
struct NotAppended;

impl Durable {
    /// Starts the committers on the current runtime, tracked by `tracker`. A callback waits for MongoDB for at most
    /// `commit_timeout`.
    pub fn start(
        store: Store,
        spool: Spool,
        limits: Limits,
        commit_timeout: Duration,
        metrics: Arc<Metrics>,
        tracker: &TaskTracker,
    ) -> Self {
        let outage = Outage::new(metrics.clone());
        let commit = {
            let (store, outage) = (store.clone(), outage.clone());
            move |batch: Vec<Submission>| {
                let (store, outage) = (store.clone(), outage.clone());
                async move {
                    if outage.is_known() {
                        return vec![Err(NotStored::Unavailable); batch.len()];
                    }
                    let verdicts = store.commit(&batch).await;
                    if verdicts.contains(&Err(NotStored::Unavailable)) {
                        outage.begin();
                    } else if verdicts.iter().any(Result::is_ok) {
                        outage.confirmed();
                    }
                    verdicts
                }
            }
        };
        let append = {
            let (spool, lines) = (spool.clone(), Arc::new(Throttle::default()));
            let metrics = metrics.clone();
            move |batch| append(spool.clone(), lines.clone(), metrics.clone(), batch)
        };
        let one_by_one = Limits {
            commits_in_flight: 1,
            linger: Duration::ZERO,
            callbacks_in_flight: MOST_APPENDED,
            bytes_in_flight: limits.bytes_in_flight.max(LEAST_APPENDED_BYTES),
            ..limits
        };
        Self {
            complete: Complete::new(store.clone(), spool.clone()),
            store,
            spool,
            outage,
            commits: GroupCommit::start(commit, limits, tracker),
            appends: GroupCommit::start(append, one_by_one, tracker),
            commit_timeout,
            dead_letter_lines: Arc::default(),
            metrics,
        }
    }

    /// What waits for MongoDB, and what waits for the spool.
    pub fn queues(&self) -> [QueueStatus; 2] {
        [self.commits.status("mongodb"), self.appends.status("spool")]
    }

    /// Makes a callback durable. What MongoDB did not confirm in time goes to the spool, even if it may have been
    /// stored: storing it again changes nothing.
    ///
    /// # Errors
    /// [`Rejection`]; unless it is [`Rejection::Overloaded`], the callback may still have been stored.
    pub async fn commit(&self, submission: Submission) -> Result<Durability, Rejection> {
        let made_durable = timeout(ANSWERED, self.store_or_spool(submission)).await;
        made_durable.unwrap_or_else(|_elapsed| {
            // MongoDB's timeout is shorter, so it is the disk that does not answer.
            self.spool.disk_hangs();
            Err(Rejection::NotDurable)
        })
    }

    async fn store_or_spool(&self, submission: Submission) -> Result<Durability, Rejection> {
        let received = submission.received.clone();
        let mut spooling = None;
        let mut reason = Overflow::Outage;
        if !self.outage.is_known() {
            let bytes = submission.bytes();
            let committed = self.commits.commit(submission, bytes);
            tokio::pin!(committed);
            let slow = SLOW.min(self.commit_timeout);
            let verdict = match timeout(slow, &mut committed).await {
                Ok(verdict) => Some(verdict),
                Err(_elapsed) => {
                    spooling = Some(self.complete.spooling());
                    let left = self.commit_timeout - slow;
                    timeout(left, committed).await.ok()
                }
            };
            reason = match verdict {
                Some(Ok(Ok(durability))) => return Ok(durability),
                Some(Err(NoVerdict::Full)) => Overflow::QueueFull,
                Some(Ok(Err(_)) | Err(NoVerdict::Panicked)) => Overflow::NotConfirmed,
                None => Overflow::Slow,
            };
        }
        let spooling = spooling.unwrap_or_else(|| self.complete.spooling());
        let bytes = received.bytes();
        match self.appends.commit(received, bytes).await {
            Ok(Ok(())) => {
                spooling.lease_expired().await;
                let reason = reason.as_str();
                let overflows = &self.metrics.overflows;
                overflows.get_or_create(&ReasonLabel { reason }).inc();
                Ok(Durability::Spooled)
            }
            Err(NoVerdict::Full) => Err(Rejection::Overloaded),
            Ok(Err(NotAppended)) | Err(NoVerdict::Panicked) => Err(Rejection::NotDurable),
        }
    }
}

async fn append(
    spool: Spool,
    lines: Arc<Throttle>,
    metrics: Arc<Metrics>,
    batch: Vec<Received>,
) -> Vec<Result<(), NotAppended>> {
    let callbacks = batch.len();
    let started = std::time::Instant::now();
    let appended = spawn_blocking(move || spool.append(batch.iter())).await;
    let took = started.elapsed().as_secs_f64();
    metrics.spool_append_duration.observe(took);
    let why = match appended {
        Ok(Ok(())) => {
            metrics.spool_appended.inc_by(callbacks as u64);
            return std::iter::repeat_with(|| Ok(())).take(callbacks).collect();
        }
        Ok(Err(error)) => error.to_string(),
        Err(panic) => panic.to_string(),
    };
    if let Some(kept_back) = lines.pass(std::time::Instant::now()) {
        tracing::error!(callbacks, error = why, kept_back, "callbacks are rejected");
    }
    std::iter::repeat_with(|| Err(NotAppended))
        .take(callbacks)
        .collect()
}
