//! The indexes by which MongoDB deletes old documents.

use std::time::Duration;

use mongodb::IndexModel;
use mongodb::bson::{Document, doc};
use mongodb::options::IndexOptions;

use super::plan::{ChangeToIndex, IndexChange};
use super::retention::{Ask, Retention};
use super::{RETENTION, indexes_of, is_named, name_of, partial_filter, rival};
use crate::store::Store;
use crate::store::error::{StoreError, UNAUTHORIZED, code};

/// How long MongoDB keeps the documents of a collection, by which index.
#[derive(Debug, Default)]
struct Expiry {
    /// `None` for ever.
    keeps: Option<Duration>,
    /// Whether the index of our name counts from another field, or for some documents only.
    is_another: bool,
    /// Somebody's own index, with which ours cannot be made.
    rival: Option<String>,
}

impl Expiry {
    fn read(there: &[IndexModel], field: &str) -> Self {
        let keys = keys(field);
        let keeps = |index: &IndexModel| index.options.as_ref()?.expire_after;
        if let Some(ours) = there.iter().find(|index| is_named(index, RETENTION)) {
            return Self {
                keeps: keeps(ours),
                is_another: ours.keys != keys || partial_filter(ours).is_some(),
                rival: None,
            };
        }
        match rival(there, RETENTION, &keys, None) {
            Some(theirs) => Self {
                keeps: keeps(theirs),
                is_another: false,
                rival: name_of(theirs).map(str::to_owned),
            },
            None => Self::default(),
        }
    }

    /// Whether it is as configured. Somebody's own index is no matter where nothing is configured.
    fn is(&self, after: Option<Duration>) -> bool {
        let is_theirs = after.is_none() && self.rival.is_some();
        is_theirs || (self.keeps == after && !self.is_another)
    }
}

fn keys(field: &str) -> Document {
    doc! { field: 1 }
}

impl Store {
    /// Whether documents are kept for the configured time.
    ///
    /// # Errors
    /// When MongoDB does not list its indexes.
    pub async fn has_retention(&self, retention: Retention) -> Result<bool, StoreError> {
        for (collection, field, after) in retention.by_collection() {
            let there = indexes_of(&self.collection(collection)?).await?;
            if !Expiry::read(&there, field).is(after.map(whole_seconds)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) async fn plan_of_retention(
        &self,
        retention: Retention,
        ask: Ask,
    ) -> Result<Vec<IndexChange>, StoreError> {
        let mut changes = Vec::new();
        for (collection, field, after) in retention.by_collection() {
            let change = self
                .retention_change(collection, field, after.map(whole_seconds), ask)
                .await?;
            changes.extend(change.map(|change| IndexChange {
                collection,
                index: RETENTION,
                change,
            }));
        }
        Ok(changes)
    }

    async fn retention_change(
        &self,
        collection: &'static str,
        field: &'static str,
        after: Option<Duration>,
        ask: Ask,
    ) -> Result<Option<ChangeToIndex>, StoreError> {
        let there = indexes_of(&self.collection(collection)?).await?;
        let expiry = Expiry::read(&there, field);
        if expiry.is(after) {
            return Ok(None);
        }
        if let Some(with) = expiry.rival {
            return Ok(Some(ChangeToIndex::Conflict { with }));
        }
        let before = expiry.keeps;
        let is_shorter =
            |keep: &Duration| expiry.is_another || before.is_none_or(|before| *keep < before);
        let deletes = match after.filter(is_shorter) {
            Some(keep) => self.deletion(collection, field, keep, ask).await?,
            None => None,
        };
        Ok(Some(ChangeToIndex::Retain {
            field,
            before,
            after,
            deletes,
        }))
    }

    pub(super) async fn set_retention(
        &self,
        collection: &str,
        field: &str,
        after: Option<Duration>,
    ) -> Result<(), StoreError> {
        let documents = self.collection(collection)?;
        let there = indexes_of(&documents).await?;
        let ours = there.iter().find(|index| is_named(index, RETENTION));
        let keys = keys(field);
        if let (Some(ours), Some(keep)) = (ours, after)
            && ours.keys == keys
            && partial_filter(ours).is_none()
        {
            let seconds = i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
            let change = doc! {
                "collMod": collection,
                "index": { "name": RETENTION, "expireAfterSeconds": seconds },
            };
            match self.database()?.run_command(change).await {
                // The role `readWrite` may make and drop indexes, and not change them.
                Err(error) if code(&error) == Some(UNAUTHORIZED) => {}
                changed => return Ok(changed.map(drop)?),
            }
        }
        if ours.is_some() {
            documents.drop_index(RETENTION).await?;
        }
        if let Some(keep) = after {
            let options = IndexOptions::builder()
                .name(RETENTION.to_owned())
                .expire_after(keep)
                .build();
            let model = IndexModel::builder().keys(keys).options(options).build();
            self.build(collection, vec![model]).await?;
        }
        Ok(())
    }
}

/// MongoDB keeps whole seconds.
fn whole_seconds(keep: Duration) -> Duration {
    Duration::from_secs(keep.as_secs())
}
