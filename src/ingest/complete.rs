//! Whether a count can be complete: whether any instance's spool may hold acknowledged callbacks, which no count has.
//!
//! # Promise
//! When [`Complete::is_known`] says yes, every callback that any known instance acknowledged before the question is in
//! MongoDB. An instance is known from a second after its first contact with MongoDB on, until it ends with an empty
//! spool, or somebody says that its spool is gone (`im-callback spools --forget`). What was set aside as damaged is in no count;
//! the log and `/readyz` tell of that.
//!
//! # Operation
//! - Each instance holds a **lease** that its spool is empty, for `LEASE` at a time, by the clock of MongoDB's primary. It
//!   extends it as long as the spool is empty, and **no callback that is only in the spool is acknowledged before
//!   the lease has run out**. That needs no word to MongoDB, which may be out of reach.
//! - An instance that is asked for counts reads all leases, and may then say for as long as the shortest of them lasts
//!   that everything is in MongoDB. Its own spool it looks at each time.
//! - So the first callbacks that go to a spool wait for their acknowledgement until the lease has run out. A callback that
//!   has waited for MongoDB for [`SLOW`] keeps the lease from being extended, so that in an outage it has
//!   run out by the time the callback is spooled.
//!
//! # Clocks
//! The end of a lease is written as a time of the server's, so that an order that reaches MongoDB late promises nothing
//! new. Between instances only the rate of their clocks matters. The members of a replica set, or
//! the `mongos` of a cluster, may be `MARGIN` apart. Where they are further apart, an answer may be wrong about being
//! complete: in the moment of a fail-over, or where two instances ask two `mongos`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use mongodb::bson::DateTime;
use rustix::system::uname;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::spool::Spool;
use crate::store::spools::SpoolState;
use crate::store::{Store, StoreError};

/// How long a lease lasts.
const LEASE: Duration = Duration::from_secs(1);

/// How often it is extended.
const EXTENDED: Duration = Duration::from_millis(250);

/// The longest that a reply with the server's time may take and be believed.
const PROMPT: Duration = Duration::from_millis(250);

/// How far the clocks of a replica set's members may be apart.
const MARGIN: Duration = Duration::from_millis(250);

/// How long a callback waits for MongoDB before the lease is let run out.
pub const SLOW: Duration = Duration::from_millis(500);

/// How long it is not asked again once a spool was not known to be empty.
const PAUSE: Duration = Duration::from_millis(100);

/// What this instance knows of the spools, and tells of its own. Cheap to clone.
#[derive(Clone)]
pub struct Complete(Arc<Inner>);

struct Inner {
    store: Store,
    spool: Spool,
    /// Callbacks that may be acknowledged out of the spool.
    spooling: AtomicUsize,
    /// When the lease has run out for sure.
    runs_out: StdMutex<Instant>,
    others: Mutex<Others>,
}

/// What is known of the other spools, until then.
struct Others {
    are_empty: bool,
    until: Instant,
}

/// Keeps the lease from being extended.
pub struct Spooling<'c>(&'c Inner);

impl Drop for Spooling<'_> {
    fn drop(&mut self) {
        self.0.spooling.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Spooling<'_> {
    /// Waits until the lease has run out: from then on a callback may be acknowledged that is only in the spool.
    pub async fn lease_has_run_out(&self) {
        // Not in one line: the lock would be held until it has run out.
        let runs_out = *self.0.runs_out();
        sleep_until(runs_out).await;
    }
}

impl Inner {
    fn runs_out(&self) -> std::sync::MutexGuard<'_, Instant> {
        self.runs_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is nothing in the spool that is acknowledged, or soon may be.
    fn is_empty(&self) -> bool {
        self.spooling.load(Ordering::Relaxed) == 0 && self.spool.status().bytes == 0
    }
}

impl Complete {
    /// Begins as if there were a lease, for a process before this one may have had one.
    pub fn new(store: Store, spool: Spool) -> Self {
        let now = Instant::now();
        Self(Arc::new(Inner {
            store,
            spool,
            spooling: AtomicUsize::new(0),
            runs_out: StdMutex::new(now + LEASE + PROMPT + MARGIN),
            others: Mutex::new(Others {
                are_empty: false,
                until: now,
            }),
        }))
    }

    /// Keeps the lease from being extended until the guard is dropped.
    pub fn spooling(&self) -> Spooling<'_> {
        // Under the lock that the lease is extended under, so that whoever comes later sees the extension.
        let _runs_out = self.0.runs_out();
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
            // The answer may have taken longer than what it says lasts.
            let are_empty = Instant::now() < until;
            // Those who wait behind this question must not ask the same in turn, least of all where it fails.
            let again = Instant::now() + PAUSE;
            *others = Others {
                are_empty,
                until: if are_empty { until } else { again },
            };
            left?;
        }
        Ok(others.are_empty)
    }

    /// Tells MongoDB of the spool, until it is stopped. What is being told then is waited for: it must not
    /// come after the spool is forgotten.
    pub async fn keep_telling(&self, stop: &CancellationToken) {
        let mut clock = None;
        while !stop.is_cancelled() {
            if clock.is_none() {
                clock = self.read_clock().await;
            }
            if let Some(read) = clock.take() {
                clock = self.tell(read).await;
            }
            stop.run_until_cancelled(sleep(EXTENDED)).await;
        }
    }

    /// Ends the telling: a spool that is empty for good is forgotten, any other one stays known.
    pub async fn end(&self) {
        if self.0.is_empty()
            && let Err(error) = self.0.store.forget_spool(self.0.spool.id()).await
        {
            tracing::warn!(%error, "MongoDB was not told that this spool is out of use");
        }
    }

    async fn read_clock(&self) -> Option<ServerClock> {
        let asked = Instant::now();
        let told = self.0.store.server_time().await;
        ServerClock::new(asked, told.ok()?)
    }

    /// Tells of the spool, with a longer lease where it is empty.
    async fn tell(&self, clock: ServerClock) -> Option<ServerClock> {
        let asked = Instant::now();
        let empty_until = {
            let mut runs_out = self.0.runs_out();
            self.0.is_empty().then(|| {
                *runs_out = asked + LEASE + clock.within + MARGIN;
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
        match self.0.store.tell_spool(&own, empty_until).await {
            Ok(told) => ServerClock::new(asked, told),
            Err(error) => {
                tracing::debug!(%error, "MongoDB cannot be told of the spool");
                None
            }
        }
    }
}

/// The server's clock, as it was told.
struct ServerClock {
    told: DateTime,
    /// Before that was told.
    asked: Instant,
    /// The time the telling took, by which the clock may be behind.
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
        (within <= PROMPT).then_some(clock)
    }

    /// The server's time at a moment, or a little more: by [`ServerClock::within`] at most.
    fn at(&self, moment: Instant) -> DateTime {
        let passed = moment.saturating_duration_since(self.asked).as_millis();
        let passed = i64::try_from(passed).unwrap_or(i64::MAX);
        DateTime::from_millis(self.told.timestamp_millis().saturating_add(passed))
    }
}
