//! The collections and their indexes, created at start and by `im-callback indexes`. Idempotent.
//!
//! [`Store::index_plan`] says what differs from the configuration, and [`Store::apply_index_changes`] makes it so.
//! The service does both at its start, except for a [`Retention`] that would delete documents at once, or that ends:
//! somebody who mistypes `retention.messages` must not lose the history by a restart, and somebody who leaves it out must
//! not keep what was to be deleted. These wait for `im-callback indexes --yes`.
//!
//! Pages are 1 MB: MongoDB collects writes in pages in memory, by default of 10 MB in a collection and 5 MB in an
//! index, and a writer to a full page waits until it is compressed and split. Small pages replace a few pauses that
//! hold up every commit by many short ones; `docs/benchmarks.md` says more. Existing collections stay as they are.

mod analysts;
mod expiry;
mod plan;
mod retention;

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use mongodb::bson::{Document, doc};
use mongodb::error::ErrorKind;
use mongodb::options::{Acknowledgment, CommitQuorum, IndexOptions, WriteConcern};
use mongodb::{Collection, IndexModel};

use super::error::{Blame, StoreError, blame, code};
use super::messages::{PageQuestion, WhichPage};
use super::{Store, TeamLimits, UnreadBy, collection};
use crate::callback::event::Conversation;
use crate::callback::ids::{Account, AppName};

pub use analysts::IdleIndex;
pub use plan::{ChangeMade, ChangeToIndex, IndexChange};
pub use retention::{Deletion, DocumentCount, Retention};

/// Unread messages by reader and sender. Also used to apply read marks.
pub const UNREAD_BY_PEER: &str = "unread_by_peer";
/// Unread messages by reader, order and sender.
pub const UNREAD_BY_ORDER: &str = "unread_by_order";
/// Messages that count in their team, by team and time.
pub const UNREAD_BY_TEAM: &str = "unread_by_team";
/// Notices of who joined a team, by team and account.
pub const TEAM_JOINS: &str = "team_joins";
/// Messages by conversation and time, for whoever reads one.
pub const CONVERSATION: &str = "conversation";
/// Read marks by reader and peer.
pub const MARKS: &str = "marks";
/// Devices by account, state and the time of their last event.
pub const ACCOUNT: &str = "account";
/// The TTL index, where retention is configured.
pub const RETENTION: &str = "retention";

/// Dead letters by time, for lists.
pub const NEWEST: &str = "newest";

/// Dead letters of an app by time: a key that is limited to apps must not read all others' to find few.
pub const NEWEST_OF_APP: &str = "newest_of_app";

/// An index that the service needs.
struct WantedIndex {
    collection: &'static str,
    name: &'static str,
    keys: Document,
    filter: Option<Document>,
}

impl WantedIndex {
    /// What of an index of this name is not as it should be, in words.
    fn differs(&self, model: &IndexModel) -> Option<&'static str> {
        if model.keys != self.keys {
            return Some("its keys are an older version's");
        }
        if partial_filter(model) != self.filter.as_ref() {
            return Some("its partialFilterExpression is another");
        }
        is_hidden(model).then_some("it is hidden from queries")
    }

    fn model(&self) -> IndexModel {
        let options = IndexOptions::builder()
            .name(self.name.to_owned())
            .partial_filter_expression(self.filter.clone())
            .build();
        IndexModel::builder()
            .keys(self.keys.clone())
            .options(options)
            .build()
    }
}

/// The indexes that queries name. The first three cover all that a count reads. `state` is in the keys although it is always 0
/// there: MongoDB would fetch the document to check a condition on a field that the key lacks, even if the partial
/// filter implies it.
fn query_indexes() -> [WantedIndex; 7] {
    [
        WantedIndex {
            collection: collection::MESSAGES,
            name: UNREAD_BY_PEER,
            keys: doc! { "app": 1, "to": 1, "state": 1, "fromAccount": 1, "msgTimestamp": 1 },
            filter: Some(doc! { "state": 0 }),
        },
        WantedIndex {
            collection: collection::MESSAGES,
            name: UNREAD_BY_ORDER,
            keys: doc! { "app": 1, "to": 1, "state": 1, "orderId": 1, "fromAccount": 1, "msgTimestamp": 1 },
            filter: Some(doc! { "state": 0, "orderId": { "$exists": true } }),
        },
        WantedIndex {
            collection: collection::MESSAGES,
            name: UNREAD_BY_TEAM,
            keys: doc! { "app": 1, "to": 1, "countsInTeam": 1, "msgTimestamp": 1, "fromAccount": 1 },
            filter: Some(doc! { "countsInTeam": true }),
        },
        WantedIndex {
            collection: collection::MESSAGES,
            name: TEAM_JOINS,
            keys: doc! { "app": 1, "to": 1, "joined": 1, "msgTimestamp": 1 },
            filter: Some(doc! { "joined": { "$exists": true } }),
        },
        WantedIndex {
            collection: collection::MESSAGES,
            name: CONVERSATION,
            keys: doc! { "app": 1, "conversation": 1, "msgTimestamp": 1, "_id": 1 },
            filter: Some(doc! { "conversation": { "$exists": true } }),
        },
        WantedIndex {
            collection: collection::READ_MARKS,
            name: MARKS,
            keys: doc! { "app": 1, "reader": 1, "peer": 1, "readUpTo": 1 },
            filter: None,
        },
        WantedIndex {
            collection: collection::PRESENCE,
            name: ACCOUNT,
            keys: doc! { "app": 1, "account": 1, "state": 1, "lastEventTime": 1 },
            filter: None,
        },
    ]
}

/// The indexes that lists of dead letters may do without.
fn other_indexes() -> [WantedIndex; 2] {
    [
        WantedIndex {
            collection: collection::DEAD_LETTERS,
            name: NEWEST,
            keys: doc! { "receivedAt": -1, "_id": -1 },
            filter: None,
        },
        WantedIndex {
            collection: collection::DEAD_LETTERS,
            name: NEWEST_OF_APP,
            keys: doc! { "app": 1, "receivedAt": -1, "_id": -1 },
            filter: None,
        },
    ]
}

impl Store {
    /// All that the configuration asks for, those first that counts need.
    fn wanted_indexes(&self) -> Vec<WantedIndex> {
        let mut wanted = Vec::from(query_indexes());
        wanted.extend(self.wanted_beside_queries());
        wanted
    }

    /// Those that no query of the service waits for.
    fn wanted_beside_queries(&self) -> Vec<WantedIndex> {
        let mut wanted = Vec::from(other_indexes());
        if self.settings.analyst_indexes {
            wanted.extend(analysts::analyst_indexes());
        }
        wanted
    }

    /// Makes indexes of one collection in one pass over it. They are ready when a majority of the members has built
    /// them: by default MongoDB waits for every member that votes, which may be down for days.
    async fn build(&self, collection: &str, models: Vec<IndexModel>) -> Result<(), StoreError> {
        const BAD_VALUE: i32 = 2;
        let documents = self.collection(collection)?;
        let built = documents
            .create_indexes(models.clone())
            .commit_quorum(CommitQuorum::Majority)
            .await;
        match built {
            // A server alone has no members to wait for, and refuses the option.
            Err(error) if code(&error) == Some(BAD_VALUE) => {
                documents.create_indexes(models).await?;
            }
            built => drop(built?),
        }
        Ok(())
    }

    /// Creates the collections that callbacks write to, once per process and before the first write.
    pub(super) async fn ensure_collections(&self) -> Result<(), StoreError> {
        let make = async || {
            let each = collection::WRITTEN.map(|name| self.ensure_collection(name));
            try_join_all(each).await.map(drop)
        };
        self.collections.get_or_try_init(make).await.copied()
    }

    /// Creates a collection, with small pages where MongoDB allows it. No error if it exists.
    pub(super) async fn ensure_collection(&self, name: &str) -> Result<(), StoreError> {
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
        let all = query_indexes();
        let there = self.within_query_timeout(self.indexes_there(&all)?).await?;
        let is_there = |wanted: &WantedIndex| {
            there[wanted.collection]
                .iter()
                .any(|model| is_named(model, wanted.name) && wanted.differs(model).is_none())
        };
        if !all.iter().all(is_there) {
            return Ok(false);
        }
        // An index is listed while it is still being built, but a query that names it is refused.
        let app = AppName::new("-").expect("a name by its rules");
        let nobody = Account::new("");
        let nobodys_page = PageQuestion {
            app: &app,
            reader: &nobody,
            of: &Conversation::Team(String::new()),
            conversations: &[String::new()],
            which: &WhichPage::Newest,
            limit: 1,
            withholds_held_back: false,
        };
        let limits = TeamLimits { most: 1, keys: 1 };
        let keys = |by: UnreadBy| self.unread_keys(by, by.matching(&app, &[""], &[""]), 1);
        let asked = tokio::try_join!(
            keys(UnreadBy::Peer),
            keys(UnreadBy::Order),
            self.marks_between(&app, &[""], &[""]),
            self.joined_at(&app, &nobody, &[""]),
            self.count_in_team(&app, &nobody, "", None, limits),
            self.page_documents(&nobodys_page),
            self.devices(&app, &[""]),
        );
        match asked {
            Ok(_) => Ok(true),
            Err(StoreError::Refused(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The indexes of the collections that these are wanted in, each listed once.
    fn indexes_there(
        &self,
        wanted: &[WantedIndex],
    ) -> Result<
        impl Future<Output = mongodb::error::Result<HashMap<&'static str, Vec<IndexModel>>>> + use<>,
        StoreError,
    > {
        let names: HashSet<_> = wanted.iter().map(|wanted| wanted.collection).collect();
        let mut lists = Vec::new();
        for name in names {
            let documents = self.collection(name)?;
            lists.push(async move { Ok((name, indexes_of(&documents).await?)) });
        }
        Ok(async { try_join_all(lists).await.map(HashMap::from_iter) })
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
    name_of(index) == Some(name)
}

fn name_of(index: &IndexModel) -> Option<&str> {
    index.options.as_ref()?.name.as_deref()
}

fn partial_filter(index: &IndexModel) -> Option<&Document> {
    index.options.as_ref()?.partial_filter_expression.as_ref()
}

fn is_hidden(index: &IndexModel) -> bool {
    let options = index.options.as_ref();
    options.is_some_and(|options| options.hidden == Some(true))
}

/// Somebody's own index, beside which MongoDB makes none of this name: it tells indexes apart by these properties.
fn rival<'t>(
    there: &'t [IndexModel],
    name: &str,
    keys: &Document,
    filter: Option<&Document>,
) -> Option<&'t IndexModel> {
    let is_plain = |index: &IndexModel| {
        index.options.as_ref().is_none_or(|options| {
            options.collation.is_none()
                && options.sparse != Some(true)
                && options.unique != Some(true)
        })
    };
    there.iter().find(|index| {
        !is_named(index, name)
            && index.keys == *keys
            && partial_filter(index) == filter
            && is_plain(index)
    })
}
