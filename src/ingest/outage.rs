//! Whether MongoDB is known to be unavailable and why, and the probe that ends the outage.
//!
//! # When a service gives up
//! Some causes pass by themselves, others only when a person acts: a wrong password, another replica set's name, a user
//! without rights. A service that starts with one of these would spool for ever and look as if MongoDB were away, so it
//! stops, with the reason and an exit code of its own. It does so only
//! - when MongoDB itself has said so again and again for half a minute (`LASTING`): silence, an election or a start
//!   is never final ([`Cause::is_permanent`]), and an image that is set up for the first time has other rules, and no
//!   users, for some seconds;
//! - when this MongoDB never confirmed a write to a service with this spool. After that the configuration was right once,
//!   so somebody is changing MongoDB: a service that stopped then would turn a rotated password into lost callbacks. It
//!   spools, and says why, after a restart as well.
//!
//! Until then it listens and takes callbacks. Nothing that was acknowledged is lost: it is in the spool, for the next
//! start.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::metrics::Metrics;
use crate::store::Store;
use crate::store::diagnosis::{Cause, Deployment, MongodbKind, OutageReason, STANDALONE};

/// The interval of probes.
const INTERVAL: Duration = Duration::from_millis(250);

/// The interval of probes for what only a person can change, so that MongoDB's log is not filled.
const INTERVAL_FOR_PEOPLE: Duration = Duration::from_secs(1);

/// How often the cause of an outage is looked for.
const DIAGNOSIS_INTERVAL: Duration = Duration::from_secs(2);

/// The longest interval while MongoDB refuses the login or the user's rights: many servers lock a user, or an address,
/// after some failed logins. It grows to that from [`LEAST_BACKOFF`].
const MOST_BACKOFF: Duration = Duration::from_secs(30);
const LEAST_BACKOFF: Duration = Duration::from_secs(1);

/// For how long MongoDB must have said the same before the service gives up. Setting up an image for the first time, or
/// creating the user after `rs.initiate()`, takes less.
const LASTING: Duration = Duration::from_secs(30);

/// How often MongoDB is asked what it is while it is well.
const LOOK_INTERVAL: Duration = Duration::from_secs(20);

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
    /// Whether it did before, to another process with this spool.
    had_confirmed: AtomicBool,
    cause: Mutex<Option<Cause>>,
    /// Since when MongoDB says the same, and only a person can change it.
    lasting: Mutex<Option<(OutageReason, Instant)>>,
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
            had_confirmed: AtomicBool::new(false),
            cause: Mutex::default(),
            lasting: Mutex::default(),
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
            self.0.changed.notify_waiters();
        }
    }

    /// Records that MongoDB confirmed a write to an earlier process, so that this one never gives up.
    pub fn confirmed_before(&self) {
        self.0.had_confirmed.store(true, Ordering::Relaxed);
    }

    /// Waits until MongoDB has confirmed a write to this process.
    pub async fn until_confirmed(&self) {
        self.wait(|| self.0.has_confirmed.load(Ordering::Relaxed).then_some(()))
            .await;
    }

    /// Waits until the service gives up, which most never do.
    pub async fn refused(&self) -> Cause {
        self.wait(|| locked(&self.0.refused).clone()).await
    }

    /// Waits until this is there.
    async fn wait<T>(&self, is_there: impl Fn() -> Option<T>) -> T {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Enabled before the check, so that no change is missed.
            changed.as_mut().enable();
            if let Some(found) = is_there() {
                return found;
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
        *locked(&self.0.lasting) = None;
        if self.0.is_known.swap(false, Ordering::Relaxed) {
            tracing::info!("MongoDB confirms writes again");
        }
        self.0.changed.notify_waiters();
    }

    /// Takes note of a cause, and logs it when it is another than before. Gives up if it is permanent, as described above.
    fn learn(&self, cause: Cause) {
        let before = self.cause().replace(cause.clone());
        if before.is_none_or(|before| before.reason != cause.reason) {
            let (reason, found) = (cause.reason.code(), &cause.found);
            let way_out = &cause.way_out;
            tracing::error!(
                reason,
                found,
                way_out,
                "why MongoDB does not confirm writes"
            );
        }
        let mut lasting = locked(&self.0.lasting);
        if !cause.is_permanent {
            *lasting = None;
            return;
        }
        let is_same = lasting.is_some_and(|(reason, _)| reason == cause.reason);
        if !is_same {
            *lasting = Some((cause.reason, Instant::now()));
        }
        let has_lasted = lasting.is_some_and(|(_, since)| since.elapsed() >= LASTING);
        drop(lasting);
        let has_confirmed = self.0.has_confirmed.load(Ordering::Relaxed)
            || self.0.had_confirmed.load(Ordering::Relaxed);
        if has_lasted && !has_confirmed {
            locked(&self.0.refused).get_or_insert(cause);
            self.0.changed.notify_waiters();
        }
    }

    /// Waits until an outage is known, or until none is.
    pub async fn until(&self, is_known: bool) {
        self.wait(|| (self.is_known() == is_known).then_some(()))
            .await;
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
            tokio::select! {
                () = self.until(true) => {}
                () = keep_looking(store, uri) => {}
            }
            // Apart, since a diagnosis waits long for a silent server: whichever sees a confirmed write ends the outage.
            tokio::select! {
                () = self.probe_until_confirmed(store) => {}
                () = self.diagnose_until_confirmed(store, uri) => {}
            }
            self.end();
        }
    }

    async fn probe_until_confirmed(&self, store: &Store) {
        loop {
            let cause = self.cause().clone();
            sleep(if cause.is_some_and(|cause| cause.is_permanent) {
                INTERVAL_FOR_PEOPLE
            } else {
                INTERVAL
            })
            .await;
            // A probe logs in once for each collection. The diagnosis logs in once, and probes if that is accepted.
            if self.backs_off() {
                continue;
            }
            match store.probe().await {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, "MongoDB is still away"),
            }
        }
    }

    async fn diagnose_until_confirmed(&self, store: &Store, uri: &SecretString) {
        let mut backoff = LEAST_BACKOFF;
        loop {
            let diagnosis = store.diagnose(uri.expose_secret(), PATIENCE).await;
            if let Some(kind) = diagnosis.kind() {
                note_kind(store, kind);
            }
            match diagnosis.cause {
                Some(cause) => self.learn(cause),
                None => return,
            }
            if self.backs_off() {
                sleep(backoff).await;
                backoff = (backoff * 2).min(MOST_BACKOFF);
            } else {
                sleep(DIAGNOSIS_INTERVAL).await;
                backoff = LEAST_BACKOFF;
            }
        }
    }

    /// Whether a question costs the user a failed login, or is refused anyway.
    fn backs_off(&self) -> bool {
        matches!(
            self.reason(),
            OutageReason::AuthenticationFailed | OutageReason::Unauthorized
        )
    }
}

/// Asks MongoDB again and again what it is: it may be restarted as something else while no callback comes.
async fn keep_looking(store: &Store, uri: &SecretString) {
    loop {
        if let Some(kind) = store.look(uri.expose_secret(), PATIENCE).await {
            note_kind(store, kind);
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Takes note of what MongoDB is, and says loudly what makes it less than the service needs.
fn note_kind(store: &Store, kind: MongodbKind) {
    let before = store.known().learn(kind);
    let was = before.map(|before| before.deployment);
    if was != Some(kind.deployment) {
        match (was, kind.deployment) {
            (None, Deployment::Standalone) => {
                let (found, way_out) = STANDALONE;
                tracing::warn!(found, way_out, "MongoDB is a standalone server");
            }
            (Some(_), Deployment::Standalone) => {
                let (found, way_out) = STANDALONE;
                tracing::error!(
                    found,
                    way_out,
                    "MongoDB has become a standalone server; was it restarted without --replSet?"
                );
            }
            (Some(_), now) => {
                let kind = now.as_str();
                tracing::info!(kind, "MongoDB has become something else");
            }
            (None, _) => {}
        }
    }
    if kind.is_too_old && !before.is_some_and(|before| before.is_too_old) {
        tracing::error!(
            "MongoDB is older than 6.0: it refuses edits of messages, which become dead letters; update it"
        );
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

    fn has_given_up(outage: &Outage) -> bool {
        outage.refused().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_gives_up_only_when_told_the_same_for_long() {
        let wrong = || cause(OutageReason::AuthenticationFailed, true);
        let perhaps = || cause(OutageReason::AuthenticationFailed, false);
        let other = || cause(OutageReason::Unauthorized, true);
        let away = || cause(OutageReason::Unreachable, false);
        let outage = Outage::new(Arc::default());
        outage.begin();
        let second = Duration::from_secs(1);
        for between in [away(), perhaps(), other()] {
            for told in [wrong(), wrong(), between] {
                outage.learn(told);
                assert!(!has_given_up(&outage));
                sleep(LASTING - second).await;
            }
        }
        outage.learn(wrong());
        sleep(LASTING - second).await;
        outage.learn(wrong());
        assert!(!has_given_up(&outage));
        sleep(second).await;
        outage.learn(wrong());
        assert!(has_given_up(&outage));
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_has_stored_or_had_never_gives_up() {
        let wrong = || cause(OutageReason::AuthenticationFailed, true);
        for confirmed in [Outage::confirmed, Outage::confirmed_before] {
            let outage = Outage::new(Arc::default());
            confirmed(&outage);
            for _ in 0..3 {
                outage.learn(wrong());
                sleep(LASTING).await;
            }
            assert!(!has_given_up(&outage));
            assert_eq!(outage.reason(), OutageReason::AuthenticationFailed);
            outage.end();
            assert_eq!(outage.reason(), OutageReason::NotAnswering);
        }
    }
}
