//! The collections and their indexes, made at start and by `im-callback indexes`. Making them again changes nothing.
//!
//! Pages of 1 MB: MongoDB gathers writes in pages in memory, 10 MB large in a collection and 5 MB in an index, and
//! whoever writes to a full one waits until it is compressed and split. Many small pauses take the place of a
//! few that every commit waits for; `docs/benchmarks.md` says more. A collection that is there already stays as it is.

use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use mongodb::bson::{Document, doc};
use mongodb::error::ErrorKind;
use mongodb::options::IndexOptions;
use mongodb::{Collection, IndexModel};

use super::error::{StoreError, is_for_now};
use super::{Store, UnreadBy, collection};
use crate::callback::ids::{Account, AppName};

/// Unread messages by reader and sender; also finds what a receipt marks as read.
pub const UNREAD_BY_PEER: &str = "unread_by_peer";
/// Unread messages by reader and order.
pub const UNREAD_BY_ORDER: &str = "unread_by_order";
/// The index by which old documents expire, where the app's owner asked for that.
pub const RETENTION: &str = "retention";

/// Dead letters by time, for lists.
pub const NEWEST: &str = "newest";

/// After how long documents are deleted; `None` keeps them for good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Of `messages`.
    pub messages: Option<Duration>,
    /// Of `events`.
    pub events: Option<Duration>,
    /// Of `dead_letters`.
    pub dead_letters: Option<Duration>,
}

impl Retention {
    fn by_collection(self) -> [(&'static str, Option<Duration>); 3] {
        [
            (collection::MESSAGES, self.messages),
            (collection::EVENTS, self.events),
            (collection::DEAD_LETTERS, self.dead_letters),
        ]
    }
}

/// `state` is in the keys although it is always 0 there: MongoDB reads a document to check a condition
/// on a field that the index does not hold, even where the index's own filter implies it.
fn unread_indexes() -> [IndexModel; 2] {
    [
        index(
            UNREAD_BY_PEER,
            doc! { "app": 1, "to": 1, "state": 1, "fromAccount": 1, "msgTimestamp": 1 },
            doc! { "state": 0 },
        ),
        index(
            UNREAD_BY_ORDER,
            doc! { "app": 1, "to": 1, "state": 1, "orderId": 1 },
            doc! { "state": 0, "orderId": { "$exists": true } },
        ),
    ]
}

fn index(name: &str, keys: Document, filter: Document) -> IndexModel {
    let options = IndexOptions::builder()
        .name(name.to_owned())
        .partial_filter_expression(filter)
        .build();
    IndexModel::builder().keys(keys).options(options).build()
}

impl Store {
    /// Makes the collections that callbacks are written to, once in a service's life: before it writes to them.
    pub(super) async fn ensure_collections(&self) -> Result<(), StoreError> {
        let written = [
            collection::MESSAGES,
            collection::EVENTS,
            collection::READ_MARKS,
            collection::PRESENCE,
        ];
        let make = async || {
            let each = written.map(|name| self.ensure_collection(name));
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
            ErrorKind::Command(command) if !is_for_now(command.code) => {
                let (code, why) = (command.code, &command.code_name);
                tracing::info!(
                    name,
                    code,
                    why,
                    "MongoDB makes the collection in its own way"
                );
                Ok(())
            }
            _ => Err(StoreError::from(error).as_of_state()),
        }
    }

    /// Makes what is missing, and sets how long documents are kept.
    ///
    /// # Errors
    /// When MongoDB is away, or has an index of one of our names with other keys.
    pub async fn ensure_indexes(&self, retention: Retention) -> Result<(), StoreError> {
        self.ensure_collections().await?;
        self.database()?
            .collection::<Document>(collection::MESSAGES)
            .create_indexes(unread_indexes())
            .await?;
        let newest = IndexOptions::builder().name(NEWEST.to_owned()).build();
        self.database()?
            .collection::<Document>(collection::DEAD_LETTERS)
            .create_index(
                IndexModel::builder()
                    .keys(doc! { "receivedAt": -1, "_id": -1 })
                    .options(newest)
                    .build(),
            )
            .await?;
        for (name, keep) in retention.by_collection() {
            self.ensure_retention(name, keep).await?;
        }
        Ok(())
    }

    /// Whether the indexes that queries need are there, and built.
    ///
    /// # Errors
    /// When MongoDB does not answer in time.
    pub async fn has_indexes(&self) -> Result<bool, StoreError> {
        let messages = self
            .database()?
            .collection::<Document>(collection::MESSAGES);
        let names = self
            .within_query_timeout(async move { index_names(&messages).await })
            .await?;
        if ![UNREAD_BY_PEER, UNREAD_BY_ORDER]
            .iter()
            .all(|needed| names.iter().any(|name| name == needed))
        {
            return Ok(false);
        }
        // An index that is still being built is listed, too, and then a query that names it is refused.
        let nobody = Account::new("");
        let app = AppName::new("-").expect("a name by its rules");
        for by in [UnreadBy::Peer, UnreadBy::Order] {
            match self.unread(by, &app, &nobody, &[""]).await {
                Ok(_) => {}
                Err(StoreError::Refused(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    async fn ensure_retention(&self, name: &str, keep: Option<Duration>) -> Result<(), StoreError> {
        let documents = self.database()?.collection::<Document>(name);
        let there = index_names(&documents)
            .await?
            .iter()
            .any(|n| n == RETENTION);
        match (keep, there) {
            (None, false) => {}
            (None, true) => documents.drop_index(RETENTION).await?,
            (Some(keep), false) => {
                let options = IndexOptions::builder()
                    .name(RETENTION.to_owned())
                    .expire_after(keep)
                    .build();
                let keys = doc! { "receivedAt": 1 };
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

/// The names of a collection's indexes; none where the collection is not there yet.
async fn index_names(documents: &Collection<Document>) -> mongodb::error::Result<Vec<String>> {
    const NAMESPACE_NOT_FOUND: i32 = 26;
    let indexes = match documents.list_indexes().await {
        Ok(cursor) => cursor.try_collect::<Vec<_>>().await?,
        Err(e) => match e.kind.as_ref() {
            ErrorKind::Command(c) if c.code == NAMESPACE_NOT_FOUND => Vec::new(),
            _ => return Err(e),
        },
    };
    Ok(indexes
        .into_iter()
        .filter_map(|index| index.options?.name)
        .collect())
}
