//! What differs between the indexes that are there and those that the configuration asks for, and how that is mended.

use std::fmt;
use std::time::Duration;

use mongodb::IndexModel;
use mongodb::bson::doc;
use mongodb::options::IndexOptions;

use super::retention::{Deletion, Retention, span};
use super::{RETENTION, WantedIndex, indexes_of, is_named, other_indexes, query_indexes};
use crate::store::Store;
use crate::store::error::{StoreError, UNAUTHORIZED, code};

/// One difference between MongoDB and the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct IndexChange {
    /// The collection.
    pub collection: &'static str,
    /// The index's name.
    pub index: &'static str,
    /// What is done about it.
    pub change: ChangeToIndex,
}

/// What becomes of an index.
#[derive(Debug, Clone, PartialEq)]
pub enum ChangeToIndex {
    /// It is missing.
    Make,
    /// One of its name has other keys, from an older version.
    Replace,
    /// Documents are kept for another time than configured.
    Retain {
        /// The field that a document's age is counted from.
        field: &'static str,
        /// The time in MongoDB; `None` for ever.
        before: Option<Duration>,
        /// The time in the configuration; `None` for ever.
        after: Option<Duration>,
        /// What that deletes at once.
        deletes: Option<Deletion>,
    },
}

impl IndexChange {
    /// What it would delete at once. Such a change needs a person's yes.
    pub fn deletes(&self) -> Option<&Deletion> {
        match &self.change {
            ChangeToIndex::Retain { deletes, .. } => deletes.as_ref(),
            ChangeToIndex::Make | ChangeToIndex::Replace => None,
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, make: &str, replace: &str) -> fmt::Result {
        let Self {
            collection, index, ..
        } = self;
        match &self.change {
            ChangeToIndex::Make => write!(f, "{make} {index} on {collection}"),
            ChangeToIndex::Replace => {
                write!(
                    f,
                    "{replace} {index} on {collection}, whose keys were an older version's"
                )
            }
            ChangeToIndex::Retain {
                before,
                after,
                deletes,
                ..
            } => {
                let (before, after) = (span(*before), span(*after));
                write!(f, "{collection}: retention {before} → {after}")?;
                match deletes {
                    Some(deletion) => write!(f, ": deletes {deletion}"),
                    None => Ok(()),
                }
            }
        }
    }

    fn of(wanted: &WantedIndex, change: ChangeToIndex) -> Self {
        Self {
            collection: wanted.collection,
            index: wanted.name,
            change,
        }
    }
}

/// What is to be done, such as `make unread_by_peer on messages`.
impl fmt::Display for IndexChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "make", "replace")
    }
}

/// What was done, such as `made unread_by_peer on messages`.
#[derive(Debug)]
pub struct ChangeMade<'c>(pub &'c IndexChange);

impl fmt::Display for ChangeMade<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, "made", "replaced")
    }
}

impl Store {
    /// Compares the indexes in MongoDB with the configuration. Writes nothing.
    ///
    /// # Errors
    /// When MongoDB is unavailable or does not list its indexes.
    pub async fn index_plan(&self, retention: Retention) -> Result<Vec<IndexChange>, StoreError> {
        let mut changes = Vec::new();
        for wanted in query_indexes().into_iter().chain(other_indexes()) {
            let there = indexes_of(&self.collection(wanted.collection)?).await?;
            match there.iter().find(|model| is_named(model, wanted.name)) {
                None => changes.push(IndexChange::of(&wanted, ChangeToIndex::Make)),
                Some(model) if model.keys != wanted.keys => {
                    changes.push(IndexChange::of(&wanted, ChangeToIndex::Replace));
                }
                Some(_) => {}
            }
        }
        for (collection, field, after) in retention.by_collection() {
            changes.extend(self.retention_change(collection, field, after).await?);
        }
        Ok(changes)
    }

    /// Whether documents are kept for the configured time.
    ///
    /// # Errors
    /// When MongoDB does not list its indexes.
    pub async fn has_retention(&self, retention: Retention) -> Result<bool, StoreError> {
        for (collection, _, after) in retention.by_collection() {
            if self.kept_for(collection).await? != after.map(whole_seconds) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// For how long MongoDB keeps documents.
    async fn kept_for(&self, collection: &str) -> Result<Option<Duration>, StoreError> {
        let there = indexes_of(&self.collection(collection)?).await?;
        let index = there.iter().find(|model| is_named(model, RETENTION));
        Ok(index.and_then(|model| model.options.as_ref()?.expire_after))
    }

    async fn retention_change(
        &self,
        collection: &'static str,
        field: &'static str,
        after: Option<Duration>,
    ) -> Result<Option<IndexChange>, StoreError> {
        let before = self.kept_for(collection).await?;
        let after = after.map(whole_seconds);
        if before == after {
            return Ok(None);
        }
        let is_shorter = |keep: &Duration| before.is_none_or(|before| *keep < before);
        let deletes = match after.filter(is_shorter) {
            Some(keep) => self.deletion(collection, field, keep).await?,
            None => None,
        };
        Ok(Some(IndexChange {
            collection,
            index: RETENTION,
            change: ChangeToIndex::Retain {
                field,
                before,
                after,
                deletes,
            },
        }))
    }

    /// Makes the changes, and creates the collections with small pages before. Says each that is done.
    ///
    /// # Errors
    /// When MongoDB is unavailable or refuses a change; those before it are made.
    pub async fn apply_index_changes(
        &self,
        changes: &[IndexChange],
        mut done: impl FnMut(&IndexChange),
    ) -> Result<(), StoreError> {
        self.ensure_collections().await?;
        // Queries do not find marks without these fields. ChangeMade again after the index is built, for marks that another
        // version wrote meanwhile.
        self.complete_marks().await?;
        let wanted = query_indexes().into_iter().chain(other_indexes());
        let wanted: Vec<_> = wanted.collect();
        for change in changes {
            match &change.change {
                ChangeToIndex::Retain {
                    field,
                    before,
                    after,
                    ..
                } => {
                    self.set_retention(change.collection, field, *before, *after)
                        .await?;
                }
                ChangeToIndex::Make | ChangeToIndex::Replace => {
                    let is_it = |w: &&WantedIndex| w.name == change.index;
                    if let Some(wanted) = wanted.iter().find(is_it) {
                        self.make_index(wanted, &change.change).await?;
                    }
                }
            }
            done(change);
        }
        self.complete_marks().await
    }

    /// Makes what is missing, and adopts the retention where that deletes nothing. Returns the changes that are left:
    /// they would delete documents at once.
    ///
    /// # Errors
    /// When MongoDB is unavailable or refuses an index.
    pub async fn ensure_indexes(
        &self,
        retention: Retention,
    ) -> Result<Vec<IndexChange>, StoreError> {
        let plan = self.index_plan(retention).await?;
        let (left, harmless): (Vec<_>, Vec<_>) = plan
            .into_iter()
            .partition(|change| change.deletes().is_some());
        self.apply_index_changes(&harmless, |change| {
            tracing::info!(change = %ChangeMade(change), "the indexes of MongoDB were changed");
        })
        .await?;
        Ok(left)
    }

    async fn make_index(
        &self,
        wanted: &WantedIndex,
        change: &ChangeToIndex,
    ) -> Result<(), StoreError> {
        let documents = self.collection(wanted.collection)?;
        if matches!(change, ChangeToIndex::Replace) {
            documents.drop_index(wanted.name).await?;
        }
        let options = IndexOptions::builder()
            .name(wanted.name.to_owned())
            .partial_filter_expression(wanted.filter.clone())
            .build();
        let keys = wanted.keys.clone();
        let model = IndexModel::builder().keys(keys).options(options).build();
        documents.create_index(model).await?;
        Ok(())
    }

    async fn set_retention(
        &self,
        collection: &str,
        field: &str,
        before: Option<Duration>,
        after: Option<Duration>,
    ) -> Result<(), StoreError> {
        let documents = self.collection(collection)?;
        let Some(keep) = after else {
            documents.drop_index(RETENTION).await?;
            return Ok(());
        };
        if before.is_some() {
            let seconds = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
            let change = doc! {
                "collMod": collection,
                "index": { "name": RETENTION, "expireAfterSeconds": seconds },
            };
            match self.database()?.run_command(change).await {
                // The role `readWrite` may make and drop indexes, and not change them.
                Err(error) if code(&error) == Some(UNAUTHORIZED) => {
                    documents.drop_index(RETENTION).await?;
                }
                changed => return Ok(changed.map(drop)?),
            }
        }
        let options = IndexOptions::builder()
            .name(RETENTION.to_owned())
            .expire_after(keep)
            .build();
        let keys = doc! { field: 1 };
        let model = IndexModel::builder().keys(keys).options(options).build();
        documents.create_index(model).await?;
        Ok(())
    }
}

/// MongoDB keeps whole seconds.
fn whole_seconds(keep: Duration) -> Duration {
    Duration::from_secs(keep.as_secs())
}
