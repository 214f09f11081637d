//! MongoDB: what is stored, and how.
//!
//! - [`documents`] shapes events into documents, the analysts' interface; `statements` are the updates
//!   that merge what comes apart; [`bson`] turns the provider's JSON into BSON.
//! - `commit` makes a batch of them durable, exactly once; `write` is its one step.
//! - [`read`] raises read marks for the site itself; [`messages`] reads a conversation.
//! - `unread` counts messages from their index and compares them with the read marks (`marks`) from theirs.
//! - [`projection`] updates `state` from the read marks in the background; [`reconcile`] checks all that is stored.
//! - [`backfill`] derives anew what follows from stored messages when an app's rules change.
//! - [`changes`] tells what changes the counts of some users, whichever instance wrote it.
//! - [`spools`] shares between instances whether their spools are empty.
//! - [`presence`] merges what is heard of devices, and says who is online.
//! - [`trace`] says what happened to one message, and why it counts or does not.
//! - [`indexes`] creates the indexes; [`error`] says whether MongoDB or a document is at fault.
//! - [`validators`] are schemas by which MongoDB warns of odd documents, where somebody wants that.
//! - [`diagnosis`] finds out why MongoDB does not take writes.

pub mod backfill;
pub mod bson;
pub mod changes;
mod commit;
pub mod dead_letters;
pub mod diagnosis;
pub mod documents;
pub mod error;
pub mod indexes;
mod known;
pub mod marks;
pub mod messages;
mod place;
pub mod presence;
pub mod projection;
pub mod read;
pub mod reconcile;
pub mod spools;
mod statements;
mod team_counts;
pub mod trace;
mod turns;
mod unread;
pub mod validators;
mod write;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::action::Find;
use mongodb::bson::Document;
use mongodb::options::{ClientOptions, ReadConcern, ReadPreference, SelectionCriteria};
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use mongodb::{Client, Collection, Database};
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, Semaphore};

use crate::metrics::Metrics;
use crate::throttle::Throttle;

pub use commit::{Durability, NotStored, Verdict};
pub use documents::Submission;
pub use error::StoreError;
pub use known::{Known, RetentionState};
use projection::Behind;
use turns::Turns;
use unread::Questions;
pub use unread::{
    IdReservation, LastUnread, MOST_KEYS, MOST_NEWEST, NewestUnread, Question, TeamLimits,
    UnreadBy, UnreadCount, UnreadPairs, last_messages, newest_of, team_joins, team_messages,
};

/// The collections' names: part of the analysts' interface.
pub mod collection {
    /// One document per conversation message.
    pub const MESSAGES: &str = "messages";
    /// The highest receipt time per reader and peer, or reader and team.
    pub const READ_MARKS: &str = "read_marks";
    /// One document per device.
    pub const PRESENCE: &str = "presence";
    /// Every event that is not a message, as received.
    pub const EVENTS: &str = "events";
    /// Verified bodies that could not be decoded.
    pub const DEAD_LETTERS: &str = "dead_letters";
    /// The collections that callbacks write to.
    pub const WRITTEN: [&str; 4] = [MESSAGES, EVENTS, READ_MARKS, PRESENCE];
    /// The service's own bookkeeping: the progress of `im-callback reconcile`, and whose team messages can be counted.
    pub const PROGRESS: &str = "progress";
    /// The spools of all instances, and until when each promises to be empty.
    pub const SPOOLS: &str = "spools";
}

/// How the store reaches MongoDB.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// The database's name.
    pub database: String,
    /// The timeout of one commit, retries included.
    pub commit_timeout: Duration,
    /// The timeout of one query.
    pub query_timeout: Duration,
    /// How far `state` may usually lag behind the read marks.
    pub state_delay: Duration,
    /// Whether analysts' queries have indexes.
    pub analyst_indexes: bool,
}

/// The size of the connection pool, unless the connection string sets it.
const CONNECTIONS: u32 = 64;

/// Queries at once: fewer than connections, so that commits always find a free one.
const QUERIES: usize = 24;

/// Traces at once. Each is many queries, and operators are few.
const TRACES: usize = 2;

/// Queries of questions by team at once, since each may ask for a thousand teams.
const TEAM_QUERIES: usize = 3;

/// Overviews at once. Each page reads the pairs and counts of all of a user.
const OVERVIEWS: usize = 2;

/// Questions for presence at once: fewer than [`QUERIES`], since each may ask for a thousand users.
const PRESENCE_QUESTIONS: usize = 4;

/// Pages of conversations at once: fewer than [`QUERIES`], since each may be of some megabytes.
const PAGES: usize = 8;

/// The MongoDB side of the service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    /// Absent until [`Store::reach`].
    database: Arc<OnceLock<Database>>,
    settings: StoreSettings,
    queries: Arc<Semaphore>,
    questions: Arc<Questions>,
    traces: Arc<Turns>,
    presence_turns: Arc<Turns>,
    page_turns: Arc<Turns>,
    /// Those that the site reports, running or waiting.
    reads: Arc<Semaphore>,
    team_turns: Arc<Turns>,
    overview_turns: Arc<Turns>,
    /// Set when the collections are created.
    collections: Arc<OnceCell<()>>,
    /// For tasks that outlive a request, whose own runtime may end.
    runtime: Handle,
    /// The pairs whose `state` lags behind.
    behind: Arc<Behind>,
    /// Running commits.
    committing: Arc<AtomicUsize>,
    /// What was learned about MongoDB.
    known: Arc<Known>,
    /// Limits the log lines about callbacks that MongoDB refuses.
    refused_lines: Arc<Throttle>,
    metrics: Arc<Metrics>,
}

/// A running commit.
struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Store {
    /// A store without a client: it is unavailable until [`Store::reach`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(settings: StoreSettings, metrics: Arc<Metrics>) -> Self {
        Self {
            database: Arc::default(),
            settings,
            queries: Arc::new(Semaphore::new(QUERIES)),
            questions: Arc::default(),
            traces: Arc::new(Turns::new(TRACES)),
            presence_turns: Arc::new(Turns::new(PRESENCE_QUESTIONS)),
            page_turns: Arc::new(Turns::new(PAGES)),
            reads: Arc::new(Semaphore::new(read::MOST_READS)),
            team_turns: Arc::new(Turns::new(TEAM_QUERIES)),
            overview_turns: Arc::new(Turns::new(OVERVIEWS)),
            collections: Arc::default(),
            runtime: Handle::current(),
            behind: Arc::default(),
            committing: Arc::default(),
            known: Arc::default(),
            refused_lines: Arc::default(),
            metrics,
        }
    }

    /// What was learned about MongoDB.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Creates the client, which connects in the background, so MongoDB may still be unavailable. To resolve a
    /// `mongodb+srv` address, name servers must be available.
    ///
    /// # Errors
    /// When the connection string cannot be resolved or used.
    pub async fn reach(&self, uri: &str) -> mongodb::error::Result<()> {
        let mut options = ClientOptions::parse(uri).await?;
        options.app_name.get_or_insert("im-callback".to_owned());
        // Shorter than a commit, so that the commit sees an error of the driver before its own timeout.
        let timeout = self.settings.commit_timeout / 2;
        options.server_selection_timeout = Some(timeout);
        options.connect_timeout.get_or_insert(timeout);
        // After an error the driver waits for the next heartbeat. Its default of 10 s is longer than any commit.
        options.heartbeat_freq.get_or_insert(Duration::from_secs(1));
        // A count must see every acknowledged write, whatever the connection string prefers.
        options.read_concern = Some(ReadConcern::local());
        options.selection_criteria =
            Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        // Several commits run at once, each with several commands in parallel, and queries beside them.
        options.max_pool_size.get_or_insert(CONNECTIONS);
        let database = Client::with_options(options)?.database(&self.settings.database);
        // If two calls race, either client will do.
        let _ = self.database.set(database);
        Ok(())
    }

    /// Whether there is a client.
    pub fn is_reached(&self) -> bool {
        self.database.get().is_some()
    }

    /// The timeout of one query.
    pub fn query_timeout(&self) -> Duration {
        self.settings.query_timeout
    }

    fn database(&self) -> Result<&Database, StoreError> {
        let unresolved = || StoreError::Unavailable("mongodb.uri is not resolved yet".to_owned());
        self.database.get().ok_or_else(unresolved)
    }

    fn collection(&self, name: &str) -> Result<Collection<Document>, StoreError> {
        Ok(self.database()?.collection(name))
    }

    fn busy(&self) -> Busy {
        self.committing.fetch_add(1, Ordering::Relaxed);
        Busy(self.committing.clone())
    }

    fn is_busy(&self) -> bool {
        self.committing.load(Ordering::Relaxed) > 0
    }

    /// Closes the client and its connections.
    pub async fn close(self) {
        if let Some(database) = self.database.get() {
            database.client().clone().shutdown().await;
        }
    }

    async fn within_query_timeout<T>(
        &self,
        query: impl Future<Output = mongodb::error::Result<T>>,
    ) -> Result<T, StoreError> {
        let query = async {
            // An error would mean that the semaphore is closed, which never happens.
            let _turn = self.queries.acquire().await;
            query.await
        };
        tokio::time::timeout(self.settings.query_timeout, query)
            .await
            .map_err(|_| StoreError::TimedOut)?
            .map_err(StoreError::from)
    }

    /// Runs a query and returns all results as raw batches.
    async fn batches(&self, find: Find<'_, Document>) -> Result<Vec<RawBatch>, StoreError> {
        self.all_batches(find.batch()).await
    }

    async fn all_batches(
        &self,
        cursor: impl Future<Output = mongodb::error::Result<RawBatchCursor>>,
    ) -> Result<Vec<RawBatch>, StoreError> {
        self.within_query_timeout(async move {
            let batches: Vec<RawBatch> = cursor.await?.try_collect().await?;
            batches
                .iter()
                .try_for_each(|batch| batch.doc_slices().map(drop))?;
            Ok(batches)
        })
        .await
    }
}
