//! Whether a count is complete: acknowledged callbacks in any instance's spool are in no count.
//!
//! # Promise
//! When [`Complete::is_known`] returns true, every callback that any known instance acknowledged before the question is
//! in MongoDB. An instance is known from one second after its first contact with MongoDB, until it ends with an empty
//! spool, or somebody declares its spool lost (`im-callback spools --forget`). Quarantined callbacks are in no count
//! either; the log and `/readyz` report them.
//!
//! # Operation
//! - Each instance holds a **lease**, which promises that its spool is empty, for `LEASE` at a time by the clock of
//!   MongoDB's primary. It extends the lease while the spool is empty, and **acknowledges no callback that is only in
//!   the spool before the lease has expired**. This needs no message to MongoDB, which may be unreachable.
//! - An instance that is asked for counts reads all leases. Until the shortest of them expires, it may answer that
//!   everything is in MongoDB. It checks its own spool each time.
//! - So the first callbacks that go to a spool are acknowledged only when the lease has expired. A callback that has
//!   waited [`SLOW`] for MongoDB already stops the extension, so that in an outage the lease has expired by the time
//!   the callback is spooled.
//!
//! # Clocks
//! The end of a lease is a time of the server's clock, so a command that reaches MongoDB late extends nothing. Between
//! instances only the rate of their clocks matters. The members of a replica set, or the `mongos` of a cluster, may
//! differ by `MARGIN`. If they differ by more, an answer may wrongly claim to be complete: during a fail-over, or when
//! two instances ask two `mongos`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use mongodb::bson::DateTime;
use rustix::system::uname;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::outage::Outage;
use crate::spool::Spool;
use crate::store::spools::SpoolState;
use crate::store::{Store, StoreError};

/// How long a lease lasts.
const LEASE: Duration = Duration::from_secs(1);

/// How often it is extended.
const EXTENSION_INTERVAL: Duration = Duration::from_millis(250);

/// A reply with the server's time that took longer is not used.
const MAX_ROUND_TRIP: Duration = Duration::from_millis(250);

/// How much the clocks of a replica set's members may differ.
const MARGIN: Duration = Duration::from_millis(250);

/// How long a callback waits for MongoDB before the lease is no longer extended.
pub const SLOW: Duration = Duration::from_millis(500);

/// How many reports in a row must fail before MongoDB is probed.
const UNCONFIRMED: u32 = 2;

/// How long "not complete" is answered without reading the leases again.
const NOT_COMPLETE_CACHED: Duration = Duration::from_millis(100);

/// Knows whether all spools are empty, and holds the lease of this instance's own. Cheap to clone.
#[derive(Clone)]
pub struct Complete(Arc<CompleteInner>);

struct CompleteInner {
    store: Store,
    spool: Spool,
    /// Callbacks that may soon be acknowledged from the spool.
    spooling: AtomicUsize,
    /// When the lease has certainly expired.
    expires: StdMutex<Instant>,
    others: Mutex<Others>,
}

/// What is known about the other spools, and until when.
struct Others {
    are_empty: bool,
    until: Instant,
}

/// Keeps the lease from being extended.
pub struct Spooling<'c>(&'c CompleteInner);

impl Drop for Spooling<'_> {
    fn drop(&mut self) {
        self.0.spooling.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Spooling<'_> {
    /// Waits until the lease has expired. From then on callbacks that are only in the spool may be acknowledged.
    pub async fn lease_expired(&self) {
        // In a statement of its own, so that the lock is not held while waiting.
        let expires = *self.0.expires();
        sleep_until(expires).await;
    }
}

impl CompleteInner {
    fn expires(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.expires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the spool holds no callback that is acknowledged, or soon may be.
    fn is_empty(&self) -> bool {
        self.spooling.load(Ordering::Relaxed) == 0 && self.spool.status().bytes == 0
    }
}

impl Complete {
    /// Starts as if there were a lease: an earlier process may have held one.
    pub fn new(store: Store, spool: Spool) -> Self {
        let now = Instant::now();
        Self(Arc::new(CompleteInner {
            store,
            spool,
            spooling: AtomicUsize::new(0),
            expires: StdMutex::new(now + LEASE + MAX_ROUND_TRIP + MARGIN),
            others: Mutex::new(Others {
                are_empty: false,
                until: now,
            }),
        }))
    }

    /// Keeps the lease from being extended until the guard is dropped.
    pub fn spooling(&self) -> Spooling<'_> {
        // Under the lock of the extension, so that the caller sees an extension that came first.
        let _expires = self.0.expires();
        self.0.spooling.fetch_add(1, Ordering::Relaxed);
        Spooling(&self.0)
    }

    /// Whether all that was acknowledged before the question is in MongoDB.
    ///
    /// # Errors
    /// When MongoDB cannot be asked for the others' leases.
    pub async fn is_known(&self) -> Result<bool, StoreError> {
        if self.0.spool.status().bytes > 0 {
            return Ok(false);
        }
        let mut others = self.0.others.lock().await;
        let asked = Instant::now();
        if asked >= others.until {
            let own = self.0.spool.id();
            let left = self.0.store.others_are_empty_for(own, LEASE).await;
            let known = left.as_ref().copied().unwrap_or(None);
            let until = asked + known.unwrap_or_default();
            // The answer may have taken longer than the lease that it reports.
            let are_empty = Instant::now() < until;
            // The callers that wait for this lock must not repeat the question one after the other.
            let again = Instant::now() + NOT_COMPLETE_CACHED;
            *others = Others {
                are_empty,
                until: if are_empty { until } else { again },
            };
            left?;
        }
        Ok(others.are_empty)
    }

    /// Reports the spool to MongoDB until `stop`. A report under way is waited for: it must not arrive after the
    /// spool is forgotten.
    ///
    /// Reports that MongoDB does not confirm are how an outage is noticed where no callbacks come. They are no proof:
    /// nothing repeats them, and they wait for their turn among the queries. So a probe decides, which asks for the same
    /// as commits.
    pub async fn keep_reporting(&self, outage: &Outage, stop: &CancellationToken) {
        let mut clock = None;
        let mut unconfirmed = 0;
        while !stop.is_cancelled() {
            let reported = self.try_report(&mut clock).await;
            unconfirmed = match &reported {
                // Its probe is under way.
                _ if outage.is_known() => 0,
                Ok(true) => 0,
                Err(StoreError::Unavailable(_) | StoreError::TimedOut) => unconfirmed + 1,
                Ok(false)
                | Err(StoreError::Refused(_) | StoreError::Overloaded | StoreError::TooManyOwn) => {
                    unconfirmed
                }
            };
            if unconfirmed >= UNCONFIRMED {
                unconfirmed = 0;
                let probed = stop.run_until_cancelled(self.0.store.probe()).await;
                if matches!(probed, Some(Err(_))) {
                    outage.begin();
                }
            }
            stop.run_until_cancelled(sleep(EXTENSION_INTERVAL)).await;
        }
    }

    /// Ends the reports: MongoDB forgets the spool if it is empty, and keeps it otherwise.
    pub async fn end(&self) {
        if self.0.is_empty()
            && let Err(error) = self.0.store.forget_spool(self.0.spool.id()).await
        {
            tracing::warn!(%error, "MongoDB was not told that this spool is out of use");
        }
    }

    /// Sends a report if the server's clock is known well enough, and returns whether it was sent.
    async fn try_report(&self, clock: &mut Option<ServerClock>) -> Result<bool, StoreError> {
        if clock.is_none() {
            *clock = self.read_clock().await?;
        }
        let Some(read) = clock.take() else {
            return Ok(false);
        };
        *clock = self.report(read).await?;
        Ok(true)
    }

    /// `None` if the answer took too long.
    async fn read_clock(&self) -> Result<Option<ServerClock>, StoreError> {
        let asked = Instant::now();
        let told = self.0.store.server_time().await?;
        Ok(ServerClock::new(asked, told))
    }

    /// Reports the spool, and extends the lease if it is empty.
    async fn report(&self, clock: ServerClock) -> Result<Option<ServerClock>, StoreError> {
        let asked = Instant::now();
        let empty_until = {
            let mut expires = self.0.expires();
            self.0.is_empty().then(|| {
                *expires = asked + LEASE + clock.within + MARGIN;
                clock.at(asked + LEASE)
            })
        };
        let path = self.0.spool.path();
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let own = SpoolState {
            id: self.0.spool.id().to_owned(),
            host: uname().nodename().to_string_lossy().into_owned(),
            path: path.display().to_string(),
            bytes: self.0.spool.status().bytes,
        };
        let told = self.0.store.report_spool(&own, empty_until).await;
        if let Err(error) = &told {
            tracing::debug!(%error, "MongoDB cannot be told of the spool");
        }
        Ok(ServerClock::new(asked, told?))
    }
}

/// The server's clock, from one reply.
struct ServerClock {
    told: DateTime,
    /// Just before the request.
    asked: Instant,
    /// How long the request took, and so how far the clock may be behind.
    within: Duration,
}

impl ServerClock {
    fn new(asked: Instant, told: DateTime) -> Option<Self> {
        let within = asked.elapsed();
        let clock = Self {
            told,
            asked,
            within,
        };
        (within <= MAX_ROUND_TRIP).then_some(clock)
    }

    /// The server's time at a moment, or later by at most [`ServerClock::within`].
    fn at(&self, moment: Instant) -> DateTime {
        let passed = moment.saturating_duration_since(self.asked).as_millis();
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        DateTime::from_millis(self.told.timestamp_millis().saturating_add(passed))
    }
}
