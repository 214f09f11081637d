//! Whether MongoDB is known to be away, and how that ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::store::Store;

/// How long it waits before it asks MongoDB again.
const PAUSE: Duration = Duration::from_millis(250);

/// Whether MongoDB is known to be away: then callbacks go to the spool without trying it first.
/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Outage(Arc<State>);

#[derive(Default)]
struct State {
    is_known: AtomicBool,
    changed: Notify,
}

impl Outage {
    /// Whether it goes on, as far as is known.
    pub fn is_known(&self) -> bool {
        self.0.is_known.load(Ordering::Relaxed)
    }

    /// MongoDB did not confirm a commit.
    pub fn begin(&self) {
        if !self.0.is_known.swap(true, Ordering::Relaxed) {
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

    /// Waits until it is known, or known to be over.
    pub async fn until(&self, is_known: bool) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            if self.is_known() == is_known {
                return;
            }
            changed.await;
        }
    }

    /// Asks MongoDB during an outage whether it confirms a write, and ends the outage when it does. Without end, and
    /// apart from the drain, which may wait for a disk.
    pub async fn keep_probing(&self, store: &Store) {
        loop {
            self.until(true).await;
            sleep(PAUSE).await;
            match store.probe().await {
                Ok(()) => self.end(),
                Err(error) => tracing::debug!(%error, "MongoDB is still away"),
            }
        }
    }
}
