//! A batch becomes durable: in MongoDB, or in the spool while MongoDB cannot.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::spool::Spool;
use crate::store::{Durability, Store, Submission, Unavailable, Verdict};
use crate::telemetry::Throttle;

/// Whether MongoDB is known to be away: then callbacks go to the spool without trying it first.
/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Outage(Arc<(AtomicBool, Notify)>);

impl Outage {
    /// Whether it goes on, as far as is known.
    pub fn is_known(&self) -> bool {
        self.0.0.load(Ordering::Relaxed)
    }

    /// MongoDB did not confirm a commit.
    pub fn begin(&self) {
        if !self.0.0.swap(true, Ordering::Relaxed) {
            tracing::error!("MongoDB does not confirm writes; callbacks go to the spool");
        }
        self.0.1.notify_one();
    }

    /// MongoDB confirms writes.
    pub fn end(&self) {
        if self.0.0.swap(false, Ordering::Relaxed) {
            tracing::info!("MongoDB confirms writes again");
        }
    }

    /// Waits until it has begun since the last wait.
    pub async fn begun(&self) {
        self.0.1.notified().await;
    }
}

/// The two durable places, and which of them is up. Cheap to clone.
#[derive(Clone)]
pub struct Durable {
    /// The place to be.
    pub store: Store,
    /// The place to wait.
    pub spool: Spool,
    /// Whether MongoDB need not be tried.
    pub outage: Outage,
    /// Which batches that found no place are logged.
    pub refusals: Arc<Throttle>,
}

impl Durable {
    /// Commits a batch of which the oldest callback waits since then; the verdicts are in its order.
    /// Whatever MongoDB does not confirm in time goes to the spool, also where it may have been stored: to
    /// store it again changes nothing.
    pub async fn commit(&self, batch: Arc<[Submission]>, since: Instant) -> Vec<Verdict> {
        if self.outage.is_known() {
            return self.spool(batch, vec![Err(Unavailable)]).await;
        }
        let stored = AssertUnwindSafe(self.store.commit(&batch, since)).catch_unwind();
        match stored.await {
            Ok(verdicts) if verdicts.iter().all(Result::is_ok) => verdicts,
            Ok(verdicts) => {
                self.outage.begin();
                self.spool(batch, verdicts).await
            }
            // Our own fault, and no callback's: the drain finds out whose.
            Err(_panic) => {
                tracing::error!("a commit panicked; its callbacks go to the spool");
                self.spool(batch, vec![Err(Unavailable)]).await
            }
        }
    }

    /// Spools what has no verdict yet, or a bad one.
    async fn spool(&self, batch: Arc<[Submission]>, mut verdicts: Vec<Verdict>) -> Vec<Verdict> {
        verdicts.resize(batch.len(), Err(Unavailable));
        let spool = self.spool.clone();
        let open: Vec<usize> = (0..verdicts.len())
            .filter(|i| verdicts[*i].is_err())
            .collect();
        let to_spool = open.clone();
        let appended = tokio::task::spawn_blocking(move || {
            spool.append(to_spool.into_iter().map(|i| &batch[i].received))
        });
        match appended.await {
            Ok(Ok(())) => open
                .into_iter()
                .for_each(|i| verdicts[i] = Ok(Durability::Spooled)),
            Ok(Err(error)) => {
                if let Some(kept_back) = self.refusals.pass(std::time::Instant::now()) {
                    let callbacks = open.len();
                    tracing::error!(callbacks, %error, kept_back, "callbacks are refused");
                }
            }
            Err(error) => {
                tracing::error!(callbacks = open.len(), %error, "the spool panicked");
            }
        }
        verdicts
    }
}
