//! A batch becomes durable: in MongoDB, or in the spool while MongoDB cannot.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;

use crate::spool::{Outage, Spool};
use crate::store::{Durability, Store, Submission, Unavailable, Verdict};

/// The two durable places, and which of them is up. Cheap to clone.
#[derive(Clone)]
pub struct Durable {
    /// The place to be.
    pub store: Store,
    /// The place to wait.
    pub spool: Spool,
    /// Whether MongoDB need not be tried.
    pub outage: Outage,
}

impl Durable {
    /// Commits a batch; the verdicts are in its order. Whatever MongoDB does not confirm in time goes to
    /// the spool, also where it may have been stored: to store it again changes nothing.
    pub async fn commit(&self, batch: Arc<[Submission]>) -> Vec<Verdict> {
        if self.outage.is_known() {
            return self.spool(batch, vec![Err(Unavailable)]).await;
        }
        let stored = AssertUnwindSafe(self.store.commit(&batch)).catch_unwind();
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
                tracing::error!(callbacks = open.len(), %error, "callbacks are refused");
            }
            Err(error) => {
                tracing::error!(callbacks = open.len(), %error, "the spool panicked");
            }
        }
        verdicts
    }
}
