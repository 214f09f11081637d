//! The collections and their indexes, created at start and by `im-callback indexes`. Idempotent.
//!
//! Pages are 1 MB: MongoDB collects writes in pages in memory, by default of 10 MB in a collection and 5 MB in an
//! index, and a writer to a full page waits until it is compressed and split. Small pages replace a few pauses that
//! hold up every commit by many short ones; `docs/benchmarks.md` says more. Existing collections stay as they are.

use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use mongodb::bson::{Document, doc};
use mongodb::error::ErrorKind;
use mongodb::options::{Acknowledgment, IndexOptions, WriteConcern};
use mongodb::{Collection, IndexModel};

use super::error::{Blame, StoreError, blame};
use super::{Store, UnreadBy, collection};
use crate::callback::ids::AppName;

/// Unread messages by reader and sender. Also used to apply read marks.
pub const UNREAD_BY_PEER: &str = "unread_by_peer";
/// Unread messages by reader, order and sender.
pub const UNREAD_BY_ORDER: &str = "unread_by_order";
/// Messages by conversation and time, for whoever reads one.
pub const CONVERSATION: &str = "conversation";
/// Read marks by reader and peer.
pub const MARKS: &str = "marks";
/// The TTL index, where retention is configured.
pub const RETENTION: &str = "retention";

/// Dead letters by time, for lists.
pub const NEWEST: &str = "newest";

/// After how long documents are deleted; `None` keeps them forever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Of `messages`.
    pub messages: Option<Duration>,
    /// Of `events`.
    pub events: Option<Duration>,
    /// Of `dead_letters`.
    pub dead_letters: Option<Duration>,
    /// Of `presence`, after the device's last event.
    pub presence: Option<Duration>,
}

impl Retention {
    /// The collections, with the field that a document's age is counted from.
    fn by_collection(self) -> [(&'static str, &'static str, Option<Duration>); 4] {
        [
            (collection::MESSAGES, "receivedAt", self.messages),
            (collection::EVENTS, "receivedAt", self.events),
            (collection::DEAD_LETTERS, "receivedAt", self.dead_letters),
            (collection::PRESENCE, "lastEventAt", self.presence),
        ]
    }
}

/// The indexes that queries name. They cover all that a count reads. `state` is in the keys although it is always 0
/// there: MongoDB would fetch the document to check a condition on a field that the key lacks, even if the partial
/// filter implies it.
fn query_indexes() -> [(&'static str, &'static str, Document, Option<Document>); 3] {
    [
        (
            collection::MESSAGES,
            UNREAD_BY_PEER,
            doc! { "app": 1, "to": 1, "state": 1, "fromAccount": 1, "msgTimestamp": 1 },
            Some(doc! { "state": 0 }),
        ),
        (
            collection::MESSAGES,
            UNREAD_BY_ORDER,
            doc! { "app": 1, "to": 1, "state": 1, "orderId": 1, "fromAccount": 1, "msgTimestamp": 1 },
            Some(doc! { "state": 0, "orderId": { "$exists": true } }),
        ),
        (
            collection::READ_MARKS,
            MARKS,
            doc! { "app": 1, "reader": 1, "peer": 1, "readUpTo": 1 },
            None,
        ),
    ]
}

impl Store {
    /// Creates the collections that callbacks write to, once per process and before the first write.
    pub(super) async fn ensure_collections(&self) -> Result<(), StoreError> {
        let make = async || {
            let each = collection::WRITTEN.map(|name| self.ensure_collection(name));
            try_join_all(each).await.map(drop)
        };
        self.collections.get_or_try_init(make).await.copied()
    }

    async fn ensure_collection(&self, name: &str) -> Result<(), StoreError> {
        const EXISTS: i32 = 48;
        let small_pages = doc! { "wiredTiger": { "configString": "memory_page_max=1MB" } };
        let create = doc! {
            "create": name,
            "storageEngine": &small_pages,
            "indexOptionDefaults": { "storageEngine": &small_pages },
        };
        let Err(error) = self.database()?.run_command(create).await else {
            return Ok(());
        };
        match error.kind.as_ref() {
            ErrorKind::Command(command) if command.code == EXISTS => Ok(()),
            ErrorKind::Command(command) if blame(command.code) != Blame::Server => {
                let (code, why) = (command.code, &command.code_name);
                tracing::info!(
                    name,
                    code,
                    why,
                    "MongoDB creates the collection with its own page size"
                );
                Ok(())
            }
            _ => Err(StoreError::of_state(error)),
        }
    }

    /// Creates what is missing, and sets the retention.
    ///
    /// # Errors
    /// When MongoDB is unavailable or refuses an index.
    pub async fn ensure_indexes(&self, retention: Retention) -> Result<(), StoreError> {
        self.ensure_collections().await?;
        // Queries do not find marks without these fields. Done again after the index is built, for marks that another
        // version wrote meanwhile.
        self.complete_marks().await?;
        for (name, index, keys, filter) in query_indexes() {
            self.ensure_index(name, index, keys, filter).await?;
        }
        self.complete_marks().await?;
        let keys = doc! { "app": 1, "conversation": 1, "msgTimestamp": 1, "_id": 1 };
        let has_one = doc! { "conversation": { "$exists": true } };
        self.ensure_index(collection::MESSAGES, CONVERSATION, keys, Some(has_one))
            .await?;
        let newest = IndexOptions::builder().name(NEWEST.to_owned()).build();
        self.collection(collection::DEAD_LETTERS)?
            .create_index(
                IndexModel::builder()
                    .keys(doc! { "receivedAt": -1, "_id": -1 })
                    .options(newest)
                    .build(),
            )
            .await?;
        for (name, from, keep) in retention.by_collection() {
            self.ensure_retention(name, from, keep).await?;
        }
        Ok(())
    }

    /// Creates an index, and replaces one of the same name that an older version created with other keys.
    async fn ensure_index(
        &self,
        name: &str,
        index: &str,
        keys: Document,
        filter: Option<Document>,
    ) -> Result<(), StoreError> {
        let documents = self.collection(name)?;
        let there = indexes_of(&documents).await?;
        let is_other = |model: &IndexModel| is_named(model, index) && model.keys != keys;
        if there.iter().any(is_other) {
            tracing::warn!(
                collection = name,
                index,
                "an index of an older version is replaced"
            );
            documents.drop_index(index).await?;
        }
        let options = IndexOptions::builder()
            .name(index.to_owned())
            .partial_filter_expression(filter)
            .build();
        let model = IndexModel::builder().keys(keys).options(options).build();
        documents.create_index(model).await?;
        Ok(())
    }

    /// Adds the indexed fields to read marks of an older version.
    async fn complete_marks(&self) -> Result<(), StoreError> {
        let marks = self.collection(collection::READ_MARKS)?;
        let from_id = doc! { "$set": {
            "app": "$_id.app", "reader": "$_id.reader", "peer": "$_id.peer", "team": "$_id.team",
        } };
        let completed = marks
            .update_many(doc! { "app": null }, vec![from_id])
            .write_concern(WriteConcern::builder().w(Acknowledgment::Majority).build())
            .await?;
        if completed.modified_count > 0 {
            let marks = completed.modified_count;
            tracing::info!(marks, "read marks of an older version were completed");
        }
        Ok(())
    }

    /// Whether the indexes that queries need exist and are built.
    ///
    /// # Errors
    /// When MongoDB does not answer in time.
    pub async fn has_indexes(&self) -> Result<bool, StoreError> {
        for (name, index, keys, _) in query_indexes() {
            let documents = self.collection(name)?;
            let there = self
                .within_query_timeout(async move { indexes_of(&documents).await })
                .await?;
            let is_it = |model: &IndexModel| is_named(model, index) && model.keys == keys;
            if !there.iter().any(is_it) {
                return Ok(false);
            }
        }
        // An index is listed while it is still being built, but a query that names it is refused.
        let app = AppName::new("-").expect("a name by its rules");
        for by in [UnreadBy::Peer, UnreadBy::Order] {
            let keys = self.unread_keys(by, by.matching(&app, &[""], &[""]), 1);
            let asked = tokio::try_join!(keys, self.marks_between(&app, &[""], &[""]));
            match asked {
                Ok(_) => {}
                Err(StoreError::Refused(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    async fn ensure_retention(
        &self,
        name: &str,
        from: &str,
        keep: Option<Duration>,
    ) -> Result<(), StoreError> {
        let documents = self.collection(name)?;
        let there = indexes_of(&documents)
            .await?
            .iter()
            .any(|index| is_named(index, RETENTION));
        match (keep, there) {
            (None, false) => {}
            (None, true) => documents.drop_index(RETENTION).await?,
            (Some(keep), false) => {
                let options = IndexOptions::builder()
                    .name(RETENTION.to_owned())
                    .expire_after(keep)
                    .build();
                let keys = doc! { from: 1 };
                let model = IndexModel::builder().keys(keys).options(options).build();
                documents.create_index(model).await?;
            }
            (Some(keep), true) => {
                let seconds = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
                self.database()?
                    .run_command(doc! {
                        "collMod": name,
                        "index": { "name": RETENTION, "expireAfterSeconds": seconds },
                    })
                    .await?;
            }
        }
        Ok(())
    }
}

/// A collection's indexes; none if the collection does not exist.
async fn indexes_of(documents: &Collection<Document>) -> mongodb::error::Result<Vec<IndexModel>> {
    const NAMESPACE_NOT_FOUND: i32 = 26;
    match documents.list_indexes().await {
        Ok(cursor) => cursor.try_collect().await,
        Err(e) => match e.kind.as_ref() {
            ErrorKind::Command(c) if c.code == NAMESPACE_NOT_FOUND => Ok(Vec::new()),
            _ => Err(e),
        },
    }
}

fn is_named(index: &IndexModel, name: &str) -> bool {
    let options = index.options.as_ref();
    options.is_some_and(|options| options.name.as_deref() == Some(name))
}
