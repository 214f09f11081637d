//! MongoDB: what is stored, and how.
//!
//! - [`documents`] shapes events into documents, the analysts' interface; `statements` are the updates
//!   that merge what comes apart; [`bson`] turns the provider's JSON into BSON.
//! - `commit` makes a batch of them durable, exactly once, by the steps of `attempt`.
//! - `unread` counts, from the index alone.
//! - [`reconcile`] finds messages whose `state` is wrong, and repairs them.
//! - [`indexes`] makes the indexes; [`error`] says whose fault a failure is.

mod attempt;
pub mod bson;
mod commit;
pub mod dead_letters;
pub mod documents;
pub mod error;
pub mod indexes;
pub mod reconcile;
mod statements;
mod unread;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mongodb::options::{ClientOptions, ReadConcern, ReadPreference, SelectionCriteria};
use mongodb::{Client, Database};
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, Semaphore};

use attempt::Attempt;
pub use commit::{Durability, Submission, Unavailable, Verdict};
pub use documents::Received;
pub use error::StoreError;
use unread::Questions;
pub use unread::{TOGETHER, UnreadBy};

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
    /// How far the service's own work over the data has come.
    pub const PROGRESS: &str = "progress";
}

/// How the store reaches MongoDB.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The database's name.
    pub database: String,
    /// How long one commit may take, retries included, before its callbacks are refused.
    pub commit_timeout: Duration,
    /// How long one query may take.
    pub query_timeout: Duration,
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
    settings: Settings,
    queries: Arc<Semaphore>,
    questions: Arc<Questions>,
    /// Whether the collections are made.
    collections: Arc<OnceCell<()>>,
    /// Where the work is done that outlives a request, whose own thread may end.
    runtime: Handle,
    /// Whether the server's replies tell no term, so that every write has to wait for itself.
    confirms_each: Arc<AtomicBool>,
}

impl Store {
    /// A store that does not know yet where MongoDB is: until [`Store::reach`], it is not available.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn new(settings: Settings) -> Self {
        Self {
            database: Arc::default(),
            settings,
            queries: Arc::new(Semaphore::new(QUERIES)),
            questions: Arc::default(),
            collections: Arc::default(),
            runtime: Handle::current(),
            confirms_each: Arc::default(),
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
        let patience = self.settings.commit_timeout / 2;
        options.server_selection_timeout = Some(patience);
        options.connect_timeout.get_or_insert(patience);
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

    /// Whether a write is confirmed now, by the same rule as a commit's.
    ///
    /// # Errors
    /// When it is not, within the commit timeout.
    pub async fn probe(&self) -> Result<(), StoreError> {
        tokio::time::timeout(self.settings.commit_timeout, Attempt::new(self).probe())
            .await
            .map_err(|_| StoreError::TimedOut)?
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
}
