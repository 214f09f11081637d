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

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mongodb::bson::doc;
use mongodb::options::{ClientOptions, ReadConcern, ReadPreference, SelectionCriteria};
use mongodb::{Client, Database};

use attempt::Attempt;
pub use commit::{Durability, Submission, Unavailable, Verdict};
pub use documents::Received;
pub use error::StoreError;
pub use unread::UnreadBy;

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

/// The MongoDB side of the service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    database: Database,
    settings: Settings,
    /// Whether the server's replies tell no term, so that every write has to wait for itself.
    confirms_each: Arc<AtomicBool>,
}

impl Store {
    /// Prepares a client. Connects in the background: MongoDB need not be there yet.
    ///
    /// # Errors
    /// When the options cannot be used.
    pub fn new(mut options: ClientOptions, settings: Settings) -> mongodb::error::Result<Self> {
        options.app_name.get_or_insert("im-callback".to_owned());
        // Shorter than a commit, so that the loss of MongoDB is an error within it, not its end.
        let patience = settings.commit_timeout / 2;
        options.server_selection_timeout = Some(patience);
        options.connect_timeout.get_or_insert(patience);
        // After an error the driver waits for the next heartbeat; the default of 10 s is beyond any commit.
        options.heartbeat_freq.get_or_insert(Duration::from_secs(1));
        // A count must see every acknowledged write, whatever the connection string prefers.
        options.read_concern = Some(ReadConcern::local());
        options.selection_criteria =
            Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        // Several commits are under way at once, each with several commands side by side, and queries.
        options.max_pool_size.get_or_insert(64);
        let database = Client::with_options(options)?.database(&settings.database);
        Ok(Self {
            database,
            settings,
            confirms_each: Arc::default(),
        })
    }

    /// Whether a primary answers.
    ///
    /// # Errors
    /// When none does within the query timeout.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let ping = self.database.run_command(doc! { "ping": 1 });
        self.within_query_timeout(async move { ping.await }).await?;
        Ok(())
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
        self.database.client().clone().shutdown().await;
    }

    async fn within_query_timeout<T>(
        &self,
        query: impl Future<Output = mongodb::error::Result<T>>,
    ) -> Result<T, StoreError> {
        tokio::time::timeout(self.settings.query_timeout, query)
            .await
            .map_err(|_| StoreError::TimedOut)?
            .map_err(StoreError::from)
    }
}
