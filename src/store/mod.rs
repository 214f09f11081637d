//! MongoDB: what is stored, and how.
//!
//! - [`documents`] shapes events into documents, the analysts' interface; `statements` are the updates
//!   that merge what comes apart; [`bson`] turns the provider's JSON into BSON.
//! - `commit` makes a batch of them durable, exactly once, by an attempt of one step (`write`).
//! - `unread` counts: messages from their index, compared with the read marks (`marks`) from theirs.
//! - [`projection`] lets `state` follow the read marks; [`reconcile`] looks over all that is stored.
//! - [`spools`] is what the instances tell each other of their spools.
//! - [`indexes`] makes the indexes; [`error`] says whose fault a failure is.

pub mod bson;
mod commit;
pub mod dead_letters;
pub mod documents;
pub mod error;
pub mod indexes;
pub mod marks;
pub mod projection;
pub mod reconcile;
pub mod spools;
mod statements;
mod unread;
mod write;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::action::Find;
use mongodb::bson::Document;
use mongodb::options::{ClientOptions, ReadConcern, ReadPreference, SelectionCriteria};
use mongodb::raw_batch_cursor::RawBatch;
use mongodb::{Client, Collection, Database};
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, Semaphore};

pub use commit::{Durability, NotStored, Submission, Verdict};
pub use documents::Received;
pub use error::StoreError;
use projection::Behind;
use unread::Questions;
pub use unread::{MOST_KEYS, Reservation, UnreadBy};

/// The collections' names: part of the analysts' interface.
pub mod collection {
    /// One document per conversation message.
    pub const MESSAGES: &str = "messages";
    /// The highest receipt time per reader and peer, or reader and team.
    pub const READ_MARKS: &str = "read_marks";
    /// One document per device.
    pub const PRESENCE: &str = "presence";
    /// Every event that is no message, as it came.
    pub const EVENTS: &str = "events";
    /// Verified bodies that could not be decoded.
    pub const DEAD_LETTERS: &str = "dead_letters";
    /// Those that callbacks are written to.
    pub const WRITTEN: [&str; 4] = [MESSAGES, EVENTS, READ_MARKS, PRESENCE];
    /// How far the service's own work over the data has come.
    pub const PROGRESS: &str = "progress";
    /// The spools of all instances, and until when each is known to be empty.
    pub const SPOOLS: &str = "spools";
}

/// How the store reaches MongoDB.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// The database's name.
    pub database: String,
    /// How long one commit may take, retries included, before its callbacks are refused.
    pub commit_timeout: Duration,
    /// How long one query may take.
    pub query_timeout: Duration,
    /// How long `state` is behind the read marks, in the usual case.
    pub state_delay: Duration,
}

/// Connections for commits and queries, unless the connection string says how many.
const CONNECTIONS: u32 = 64;

/// Queries at once: some of the connections, so that commits always find one.
const QUERIES: usize = 24;

/// The MongoDB side of the service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    /// Absent until [`Store::reach`].
    database: Arc<OnceLock<Database>>,
    settings: StoreSettings,
    queries: Arc<Semaphore>,
    questions: Arc<Questions>,
    /// Whether the collections are made.
    collections: Arc<OnceCell<()>>,
    /// Where the work is done that outlives a request, whose own thread may end.
    runtime: Handle,
    /// What `state` has to follow.
    behind: Arc<Behind>,
    /// Commits under way.
    committing: Arc<AtomicUsize>,
}

/// A commit under way.
struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Store {
    /// A store that does not know yet where MongoDB is: until [`Store::reach`], it is not available.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(settings: StoreSettings) -> Self {
        Self {
            database: Arc::default(),
            settings,
            queries: Arc::new(Semaphore::new(QUERIES)),
            questions: Arc::default(),
            collections: Arc::default(),
            runtime: Handle::current(),
            behind: Arc::default(),
            committing: Arc::default(),
        }
    }

    /// Prepares the client. Connects in the background: MongoDB need not be there yet. To resolve a
    /// `mongodb+srv` address takes name servers, which do.
    ///
    /// # Errors
    /// When the connection string cannot be resolved or used.
    pub async fn reach(&self, uri: &str) -> mongodb::error::Result<()> {
        let mut options = ClientOptions::parse(uri).await?;
        options.app_name.get_or_insert("im-callback".to_owned());
        // Shorter than a commit, so that the loss of MongoDB is an error within it, not its end.
        let timeout = self.settings.commit_timeout / 2;
        options.server_selection_timeout = Some(timeout);
        options.connect_timeout.get_or_insert(timeout);
        // After an error the driver waits for the next heartbeat; the default of 10 s is beyond any commit.
        options.heartbeat_freq.get_or_insert(Duration::from_secs(1));
        // A count must see every acknowledged write, whatever the connection string prefers.
        options.read_concern = Some(ReadConcern::local());
        options.selection_criteria =
            Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        // Several commits are under way at once, each with several commands side by side, and queries.
        options.max_pool_size.get_or_insert(CONNECTIONS);
        let database = Client::with_options(options)?.database(&self.settings.database);
        // A second client would be as good as the first.
        let _ = self.database.set(database);
        Ok(())
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

    /// Ends the client: connections close, nothing more is accepted.
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
            // It is never closed.
            let _turn = self.queries.acquire().await;
            query.await
        };
        tokio::time::timeout(self.settings.query_timeout, query)
            .await
            .map_err(|_| StoreError::TimedOut)?
            .map_err(StoreError::from)
    }

    /// Runs a query, and takes all that it finds as it came.
    async fn batches(&self, find: Find<'_, Document>) -> Result<Vec<RawBatch>, StoreError> {
        self.within_query_timeout(async move {
            let batches: Vec<RawBatch> = find.batch().await?.try_collect().await?;
            batches
                .iter()
                .try_for_each(|batch| batch.doc_slices().map(drop))?;
            Ok(batches)
        })
        .await
    }
}
