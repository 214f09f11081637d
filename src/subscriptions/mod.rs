//! Subscribers are told how many messages are unread: at once, and after every change, whichever instance took the
//! callback.
//!
//! # Promise
//! A subscriber is told counts, never differences, so what it was told last is all that it needs. Every change that
//! MongoDB has confirmed is told, as long as the subscriber stays: within a second while MongoDB is well. Where that
//! cannot be, it is told that its counts are stale, and the counts again once they can be read.
//!
//! # Operation
//! - Subscribers who ask the same share one [`LiveQuestion`], which is counted once for all of them, by the code that
//!   answers queries. What was counted last is kept for each question, and no queue: a slow subscriber skips counts.
//! - `follow` reads one change stream of MongoDB while there are subscribers, of those who are asked about. A change
//!   only makes questions **due**. It is opened anew where the last one was read to when others are asked about. Until
//!   the stream has them a new question may miss changes, so it is counted once more then.
//! - After a stream failed, changes were missed, so every question is due when the next one is open.
//! - `recount` counts a question that is due, but not twice within `PAUSE`, so that a burst costs one recount. The pause
//!   is longer after a count that took long or failed, and only a few counts of teams and overviews run at once: counts
//!   that starve queries would make each other slower without end.
//! - `sweep` makes due what no change does: stale questions when MongoDB is back, incomplete ones when no spool holds
//!   callbacks, complete ones when a spool does, and each one from time to time, for what people and retention change.

mod follow;
mod questions;
mod recount;
mod sweep;
mod users;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::store::Store;
use crate::store::changes::ChangesError;
pub use questions::LiveQuestion;
use questions::{Asked, LiveQuestions};
use users::{PlaceOfUser, PlacesOfUsers};

/// Recounts at once: many, since the store coalesces those that wait.
const RECOUNTS: usize = 256;

/// Recounts at once that share no query with others, so that `/v1/unread` gets its turns.
const COSTLY_RECOUNTS: usize = 4;

/// Recalled messages whose receivers are not looked up yet. With more all questions are due.
const LOOK_UPS: usize = 10_000;

/// How subscribers are told.
#[derive(Debug, Clone)]
pub struct StreamSettings {
    /// The most subscribers at once.
    pub max_subscribers: usize,
    /// How often a silent stream shows that it is alive.
    pub heartbeat: Duration,
    /// How long a subscriber may take nothing of what is due to it.
    pub slow_reader_timeout: Duration,
    /// How often a question is counted without a change.
    pub recount_every: Duration,
    /// The most streams at once of one user by tokens.
    pub max_per_user: usize,
}

/// Counts of a question.
#[derive(Debug, PartialEq, Eq)]
pub struct LiveCounts {
    /// What is sent of them.
    pub event: Bytes,
    /// A digest of the counts.
    pub digest: String,
    /// Whether all that was acknowledged is in them.
    pub are_complete: bool,
}

/// What a subscriber is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The counts.
    Counts(Arc<LiveCounts>),
    /// The counts cannot be read now.
    Stale,
    /// The question cannot be answered any more, with the code of the error.
    Refused(&'static str),
}

/// Why a question is not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountFailure {
    /// Too many queries wait. Another try helps.
    Busy,
    /// MongoDB cannot answer now.
    Unavailable,
    /// It cannot be answered any more, with the code of the error.
    Refused(&'static str),
}

/// What counts questions: the same code that answers queries.
pub trait CountQuestions<Q>: Send + Sync {
    /// Counts a question.
    fn count<'c>(
        &'c self,
        question: &'c LiveQuestion<Q>,
    ) -> BoxFuture<'c, Result<LiveCounts, CountFailure>>;

    /// Whether a count of it takes queries of its own, as those of teams and overviews do.
    fn is_costly(&self, question: &LiveQuestion<Q>) -> bool;

    /// Whether no spool holds callbacks.
    fn is_complete(&self) -> BoxFuture<'_, bool>;

    /// Whether MongoDB is known to be away.
    fn is_away(&self) -> bool;
}

/// Why there is no subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotSubscribed {
    /// There are as many subscribers as may be, or their questions take all the memory.
    TooMany,
    /// This user has as many streams as one may have.
    TooManyOfUser,
    /// No change stream is open.
    NoChanges(ChangesError),
}

/// Whether changes are read.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Following {
    /// Nobody asks.
    No,
    /// A change stream is open.
    Yes,
    /// None can be opened.
    Failed(ChangesError),
}

/// All subscribers of this instance, who ask questions of one kind. Cheap to clone.
pub struct Subscriptions<Q>(Arc<Shared<Q>>);

impl<Q> Clone for Subscriptions<Q> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Shared<Q> {
    settings: StreamSettings,
    store: Store,
    counter: OnceLock<Box<dyn CountQuestions<Q>>>,
    questions: LiveQuestions<Q>,
    places: Arc<Semaphore>,
    of_users: PlacesOfUsers,
    following: watch::Sender<Following>,
    recounts: Semaphore,
    costly_recounts: Semaphore,
    /// Messages whose receivers are to be looked up.
    look_ups: mpsc::Sender<String>,
    to_look_up: tokio::sync::Mutex<mpsc::Receiver<String>>,
    /// For the questions' tasks, which outlive a request and its runtime.
    runtime: Handle,
    ended: CancellationToken,
    metrics: Arc<Metrics>,
}

impl<Q: Eq + std::hash::Hash + Send + Sync + 'static> Subscriptions<Q> {
    /// Nobody subscribes yet, and nothing is counted before [`Subscriptions::begin`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(settings: StreamSettings, store: Store, metrics: Arc<Metrics>) -> Self {
        let (look_ups, to_look_up) = mpsc::channel(LOOK_UPS);
        Self(Arc::new(Shared {
            places: Arc::new(Semaphore::new(settings.max_subscribers)),
            of_users: PlacesOfUsers::default(),
            settings,
            store,
            counter: OnceLock::new(),
            questions: LiveQuestions::default(),
            following: watch::Sender::new(Following::No),
            recounts: Semaphore::new(RECOUNTS),
            costly_recounts: Semaphore::new(COSTLY_RECOUNTS),
            look_ups,
            to_look_up: to_look_up.into(),
            runtime: Handle::current(),
            ended: CancellationToken::new(),
            metrics,
        }))
    }

    /// The settings.
    pub fn settings(&self) -> &StreamSettings {
        &self.0.settings
    }

    /// Gives what counts. It must not own these subscriptions.
    pub fn begin(&self, counter: Box<dyn CountQuestions<Q>>) {
        // A second one would count the same.
        let _ = self.0.counter.set(counter);
    }

    /// Lowers the number of subscribers to the same share of so many connections, where the system allows fewer than
    /// are configured.
    pub fn within_connections(&self, configured: usize, allowed: usize) {
        let most = self.0.settings.max_subscribers;
        let share = (most * allowed).div_ceil(configured.max(1));
        self.0.places.forget_permits(most.saturating_sub(share));
    }

    /// Reads changes and keeps counts up to date. Runs until it is dropped.
    pub async fn keep_following(&self) {
        tokio::join!(self.0.follow(), self.0.look_up_receivers(), self.0.sweep());
    }

    /// Ends all counting.
    pub fn end(&self) {
        self.0.ended.cancel();
    }

    /// Subscribes. The first counts are told as soon as they are read: none that were read before. A user, who asks by a
    /// token, has few streams at once.
    ///
    /// # Errors
    /// [`NotSubscribed`]
    pub async fn subscribe(
        &self,
        question: LiveQuestion<Q>,
        by_user: bool,
    ) -> Result<Subscription<Q>, NotSubscribed> {
        let place_of_user = by_user.then(|| {
            let user = (question.app.clone(), question.reader.clone());
            self.0.of_users.take(user, self.0.settings.max_per_user)
        });
        let place_of_user = match place_of_user {
            Some(place) => Some(place.ok_or(NotSubscribed::TooManyOfUser)?),
            None => None,
        };
        let place = self.0.places.clone().try_acquire_owned();
        let place = place.map_err(|_| NotSubscribed::TooMany)?;
        let (asked, is_first) = self.0.questions.join(question)?;
        self.0.metrics.streams.inc();
        let mut told = asked.told.subscribe();
        if !is_first {
            asked.greet();
            // Counts of before may lack what this caller has just done; but that they are stale, it must know.
            let is_known = !matches!(&*told.borrow(), None | Some(Told::Counts(_)));
            if is_known {
                told.mark_changed();
            }
        }
        let subscription = Subscription {
            told,
            asked: asked.clone(),
            shared: self.0.clone(),
            _place: place,
            _place_of_user: place_of_user,
        };
        if is_first {
            let task = self.0.clone().keep_counting(asked);
            self.0.runtime.spawn(task);
        }
        self.until_followed().await?;
        Ok(subscription)
    }

    /// Waits until a change stream is open, or cannot be.
    async fn until_followed(&self) -> Result<(), NotSubscribed> {
        let mut following = self.0.following.subscribe();
        let known = timeout(
            OPENED,
            following.wait_for(|following| *following != Following::No),
        );
        match known.await {
            Ok(Ok(following)) => match &*following {
                Following::Failed(error) => Err(NotSubscribed::NoChanges(error.clone())),
                Following::No | Following::Yes => Ok(()),
            },
            Ok(Err(_)) | Err(_) => Err(NotSubscribed::NoChanges(ChangesError::Store(
                crate::store::StoreError::TimedOut,
            ))),
        }
    }
}

/// How long a subscriber waits for the first change stream. The store has a timeout of its own.
const OPENED: Duration = Duration::from_secs(5);

/// A subscriber, until it is dropped.
pub struct Subscription<Q: Eq + std::hash::Hash> {
    told: watch::Receiver<Option<Told>>,
    asked: Arc<Asked<Q>>,
    shared: Arc<Shared<Q>>,
    _place: OwnedSemaphorePermit,
    _place_of_user: Option<PlaceOfUser>,
}

impl<Q: Eq + std::hash::Hash> Subscription<Q> {
    /// Waits for what was not told yet. Of several counts only the last is told.
    pub async fn next(&mut self) -> Told {
        loop {
            // The sender lives as long as `asked`.
            let _ = self.told.changed().await;
            if let Some(told) = &*self.told.borrow_and_update() {
                return told.clone();
            }
        }
    }

    /// What is counted for this subscriber.
    pub fn question(&self) -> &LiveQuestion<Q> {
        &self.asked.question
    }
}

impl<Q: Eq + std::hash::Hash> Drop for Subscription<Q> {
    fn drop(&mut self) {
        self.shared.questions.leave(&self.asked);
        self.shared.metrics.streams.dec();
    }
}
