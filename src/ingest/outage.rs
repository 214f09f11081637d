//! Whether MongoDB is known to be unavailable, and the probe that ends the outage.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::metrics::Metrics;
use crate::store::Store;

/// The interval of probes.
const INTERVAL: Duration = Duration::from_millis(250);

/// During a known outage callbacks go to the spool without trying MongoDB first. Cheap to clone.
#[derive(Clone)]
pub struct Outage(Arc<State>);

struct State {
    is_known: AtomicBool,
    changed: Notify,
    metrics: Arc<Metrics>,
}

impl Outage {
    /// No outage is known yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(State {
            is_known: AtomicBool::new(false),
            changed: Notify::new(),
            metrics,
        }))
    }

    /// Whether an outage is known.
    pub fn is_known(&self) -> bool {
        self.0.is_known.load(Ordering::Relaxed)
    }

    /// Records that MongoDB did not confirm a commit.
    pub fn begin(&self) {
        if !self.0.is_known.swap(true, Ordering::Relaxed) {
            self.0.metrics.outages.inc();
            tracing::error!("MongoDB does not confirm writes; callbacks go to the spool");
        }
        self.0.changed.notify_waiters();
    }

    fn end(&self) {
        if self.0.is_known.swap(false, Ordering::Relaxed) {
            tracing::info!("MongoDB confirms writes again");
        }
        self.0.changed.notify_waiters();
    }

    /// Waits until an outage is known, or until none is.
    pub async fn until(&self, is_known: bool) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Enabled before the check, so that no change is missed.
            changed.as_mut().enable();
            if self.is_known() == is_known {
                return;
            }
            changed.await;
        }
    }

    /// During an outage, probes whether MongoDB confirms a write, and ends the outage when it does. Runs forever, and
    /// apart from the drain, which may be waiting for a disk.
    pub async fn keep_probing(&self, store: &Store) {
        loop {
            self.until(true).await;
            sleep(INTERVAL).await;
            match store.probe().await {
                Ok(()) => self.end(),
                Err(error) => tracing::debug!(%error, "MongoDB is still away"),
            }
        }
    }
}
