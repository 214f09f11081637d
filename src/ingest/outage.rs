//! Whether MongoDB is known to be unavailable and why, and the probe that ends the outage.
//!
//! # When a service gives up
//! Some causes pass by themselves, others only when a person acts: a wrong password, another replica set's name, a user
//! without rights. A service that starts with one of these would spool for ever and look as if MongoDB were away, so it
//! stops, with the reason and an exit code of its own. It does so only
//! - when MongoDB itself has said so, twice: silence, an election or a server that is starting is never final
//!   ([`Cause::is_permanent`]);
//! - before MongoDB confirmed its first write to this process. Nothing that was acknowledged is lost by then: it is in
//!   the spool, for the next start. After that the configuration was right once, so somebody is changing MongoDB: a
//!   service that stopped then would turn a rotated password into lost callbacks. It spools, and says why.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::metrics::Metrics;
use crate::store::Store;
use crate::store::diagnosis::{Cause, Deployment, Diagnosis, OutageReason, STANDALONE};

/// The interval of probes.
const INTERVAL: Duration = Duration::from_millis(250);

/// The interval of probes for what only a person can change, so that MongoDB's log is not filled with failed logins.
const INTERVAL_FOR_PEOPLE: Duration = Duration::from_secs(1);

/// How often the cause of an outage is looked for.
const DIAGNOSIS_INTERVAL: Duration = Duration::from_secs(2);

/// How long each question of a diagnosis waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// During a known outage callbacks go to the spool without trying MongoDB first. Cheap to clone.
#[derive(Clone)]
pub struct Outage(Arc<State>);

struct State {
    is_known: AtomicBool,
    changed: Notify,
    /// Whether MongoDB ever confirmed a write to this process.
    has_confirmed: AtomicBool,
    cause: Mutex<Option<Cause>>,
    /// Set once, when the service gives up.
    refused: Mutex<Option<Cause>>,
    metrics: Arc<Metrics>,
}

impl Outage {
    /// No outage is known yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(State {
            is_known: AtomicBool::new(false),
            changed: Notify::new(),
            has_confirmed: AtomicBool::new(false),
            cause: Mutex::default(),
            refused: Mutex::default(),
            metrics,
        }))
    }

    /// Whether an outage is known.
    pub fn is_known(&self) -> bool {
        self.0.is_known.load(Ordering::Relaxed)
    }

    /// Why MongoDB does not confirm writes, as far as is known during an outage.
    pub fn reason(&self) -> OutageReason {
        let cause = self.cause();
        cause
            .as_ref()
            .map_or(OutageReason::NotAnswering, |cause| cause.reason)
    }

    /// Records that MongoDB did not confirm a commit.
    pub fn begin(&self) {
        if !self.0.is_known.swap(true, Ordering::Relaxed) {
            self.0.metrics.outages.inc();
            tracing::error!("MongoDB does not confirm writes; callbacks go to the spool");
        }
        self.0.changed.notify_waiters();
    }

    /// Records that MongoDB confirmed a write.
    pub fn confirmed(&self) {
        if !self.0.has_confirmed.load(Ordering::Relaxed) {
            self.0.has_confirmed.store(true, Ordering::Relaxed);
        }
    }

    /// Waits until the service gives up, which most never do.
    pub async fn refused(&self) -> Cause {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(cause) = &*locked(&self.0.refused) {
                return cause.clone();
            }
            changed.await;
        }
    }

    fn cause(&self) -> MutexGuard<'_, Option<Cause>> {
        locked(&self.0.cause)
    }

    fn end(&self) {
        self.confirmed();
        *self.cause() = None;
        if self.0.is_known.swap(false, Ordering::Relaxed) {
            tracing::info!("MongoDB confirms writes again");
        }
        self.0.changed.notify_waiters();
    }

    /// Takes note of a cause, and logs it when it is another than before. Gives up if it is permanent, as described above.
    fn learn(&self, cause: Cause) {
        let before = self.cause().replace(cause.clone());
        let is_again = before.is_some_and(|before| before.reason == cause.reason);
        let (reason, found) = (cause.reason.code(), &cause.found);
        let has_confirmed = self.0.has_confirmed.load(Ordering::Relaxed);
        if !is_again {
            let way_out = &cause.way_out;
            tracing::error!(
                reason,
                found,
                way_out,
                "why MongoDB does not confirm writes"
            );
        } else if cause.is_permanent && !has_confirmed {
            let mut refused = locked(&self.0.refused);
            if refused.is_none() {
                *refused = Some(cause);
                drop(refused);
                self.0.changed.notify_waiters();
            }
        }
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

    /// Probes once whether MongoDB confirms a write, unless that is known from the start. During an outage, goes on with
    /// that, and ends the outage when it does; meanwhile it looks for the cause. Runs forever, and apart from the drain,
    /// which may be waiting for a disk.
    pub async fn keep_probing(&self, store: &Store, uri: &SecretString) {
        if !self.is_known() && !self.0.has_confirmed.load(Ordering::Relaxed) {
            match store.probe().await {
                Ok(()) => self.confirmed(),
                Err(_) => self.begin(),
            }
        }
        loop {
            if !self.is_known() && store.known().deployment().is_none() {
                let diagnosis = store.diagnose(uri.expose_secret(), PATIENCE).await;
                note_deployment(store, &diagnosis);
            }
            self.until(true).await;
            self.probe_until_confirmed(store, uri).await;
        }
    }

    async fn probe_until_confirmed(&self, store: &Store, uri: &SecretString) {
        let mut diagnosed: Option<Instant> = None;
        loop {
            let is_permanent = self
                .cause()
                .as_ref()
                .is_some_and(|cause| cause.is_permanent);
            sleep(if is_permanent {
                INTERVAL_FOR_PEOPLE
            } else {
                INTERVAL
            })
            .await;
            match store.probe().await {
                Ok(()) => return self.end(),
                Err(error) => tracing::debug!(%error, "MongoDB is still away"),
            }
            if diagnosed.is_none_or(|at| at.elapsed() >= DIAGNOSIS_INTERVAL) {
                let diagnosis = store.diagnose(uri.expose_secret(), PATIENCE).await;
                diagnosed = Some(Instant::now());
                note_deployment(store, &diagnosis);
                match diagnosis.cause {
                    Some(cause) => self.learn(cause),
                    // It has confirmed a write just now, and the next probe will tell.
                    None => *self.cause() = None,
                }
            }
        }
    }
}

/// Takes note of what MongoDB is, and says loudly if it is a server alone.
pub fn note_deployment(store: &Store, diagnosis: &Diagnosis) {
    let Some(deployment) = diagnosis.deployment() else {
        return;
    };
    let is_news = store.known().learn(deployment);
    if is_news && deployment == Deployment::Standalone {
        let (found, way_out) = STANDALONE;
        tracing::warn!(found, way_out, "MongoDB is a standalone server");
    }
}

fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under the lock leaves no state that is unsafe to go on with.
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn cause(reason: OutageReason, is_permanent: bool) -> Cause {
        Cause {
            is_permanent,
            ..Cause::passing(reason, "found", "way out")
        }
    }

    #[tokio::test]
    async fn a_service_gives_up_only_before_its_first_confirmed_write_and_when_told_twice() {
        let wrong = || cause(OutageReason::AuthenticationFailed, true);
        let away = || cause(OutageReason::Unreachable, false);
        let has_given_up = |outage: &Outage| outage.refused().now_or_never().is_some();
        let outage = Outage::new(Arc::default());
        outage.begin();
        for other in [wrong(), away(), wrong(), away(), away()] {
            outage.learn(other);
            assert!(!has_given_up(&outage));
        }
        outage.learn(wrong());
        outage.learn(wrong());
        assert!(has_given_up(&outage));

        let outage = Outage::new(Arc::default());
        outage.confirmed();
        for _ in 0..3 {
            outage.learn(wrong());
        }
        assert!(!has_given_up(&outage));
        assert_eq!(outage.reason(), OutageReason::AuthenticationFailed);
        outage.end();
        assert_eq!(outage.reason(), OutageReason::NotAnswering);
    }
}
