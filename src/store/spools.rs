//! The collection `spools`: one document for each instance's spool, with the time until which it promises to be
//! **empty** of acknowledged callbacks, by the clock of MongoDB's primary.
//!
//! That is a lease; `ingest::complete` has its rules.

use std::time::Duration;

use futures_util::TryStreamExt;
use mongodb::bson::{DateTime, Document, doc};
use mongodb::options::{Acknowledgment, ReturnDocument, WriteConcern};

use super::error::StoreError;
use super::{Store, collection};

/// What an instance reports about its spool.
#[derive(Debug, Clone)]
pub struct SpoolState {
    /// The spool's id.
    pub id: String,
    /// The machine it is on, for people.
    pub host: String,
    /// Its folder there, for people.
    pub path: String,
    /// Bytes on their way into MongoDB.
    pub bytes: u64,
}

/// A spool that an instance has reported.
#[derive(Debug, Clone)]
pub struct KnownSpool {
    /// The last report.
    pub state: SpoolState,
    /// The time of that report.
    pub seen_at: DateTime,
    /// Whether its lease holds.
    pub is_empty: bool,
}

impl Store {
    /// The time by the clock of MongoDB's primary.
    ///
    /// # Errors
    /// When MongoDB does not answer in time.
    pub async fn server_time(&self) -> Result<DateTime, StoreError> {
        let database = self.database()?.clone();
        let hello = self
            .within_query_timeout(async move { database.run_command(doc! { "hello": 1 }).await })
            .await?;
        let told = hello.get_datetime("localTime");
        told.copied()
            .map_err(|_| StoreError::Unavailable("the server tells no time".to_owned()))
    }

    /// Reports a spool, with the end of its lease if it is empty. Returns the server's time.
    ///
    /// # Errors
    /// When MongoDB does not confirm it in time. The report may still have been stored.
    pub async fn report_spool(
        &self,
        spool: &SpoolState,
        empty_until: Option<DateTime>,
    ) -> Result<DateTime, StoreError> {
        let SpoolState {
            id,
            host,
            path,
            bytes,
        } = spool;
        let literal = |text: &str| doc! { "$literal": text };
        let mut told = doc! {
            "host": literal(host), "path": literal(path),
            "bytes": i64::try_from(*bytes).unwrap_or(i64::MAX), "seenAt": "$$NOW",
        };
        if let Some(until) = empty_until {
            // A lease is never shortened.
            told.insert("emptyUntil", doc! { "$max": ["$emptyUntil", until] });
        }
        let spools = self.collection(collection::SPOOLS)?;
        let tell = spools
            .find_one_and_update(doc! { "_id": id }, vec![doc! { "$set": told }])
            .upsert(true)
            .return_document(ReturnDocument::After)
            .write_concern(majority());
        let told = self.within_query_timeout(async move { tell.await }).await?;
        let seen_at = told
            .as_ref()
            .and_then(|told| told.get_datetime("seenAt").ok());
        let unreadable = || StoreError::Unavailable("a spool's document is unreadable".to_owned());
        seen_at.copied().ok_or_else(unreadable)
    }

    /// How long all other spools promise to be empty, from the call on; `None` if one does not.
    ///
    /// # Errors
    /// When MongoDB does not answer in time.
    pub async fn others_are_empty_for(
        &self,
        own: &str,
        most: Duration,
    ) -> Result<Option<Duration>, StoreError> {
        let spools = self.collection(collection::SPOOLS)?;
        let left = [
            doc! { "$match": { "_id": { "$ne": own } } },
            doc! { "$project": { "left": { "$subtract": ["$emptyUntil", "$$NOW"] } } },
        ];
        let left = spools.aggregate(left).max_time(self.settings.query_timeout);
        let left: Vec<Document> = self
            .within_query_timeout(async move { left.await?.try_collect().await })
            .await?;
        let mut least = most;
        for spool in left {
            match spool.get_i64("left").map(u64::try_from) {
                Ok(Ok(left)) if left > 0 => least = least.min(Duration::from_millis(left)),
                _ => return Ok(None),
            }
        }
        Ok(Some(least))
    }

    /// Every spool that an instance has reported.
    ///
    /// # Errors
    /// When MongoDB does not answer in time.
    pub async fn known_spools(&self) -> Result<Vec<KnownSpool>, StoreError> {
        let spools = self.collection(collection::SPOOLS)?;
        let all = [
            doc! { "$set": { "isEmpty": { "$gt": ["$emptyUntil", "$$NOW"] } } },
            doc! { "$sort": { "_id": 1 } },
        ];
        let all = spools.aggregate(all).max_time(self.settings.query_timeout);
        let all: Vec<Document> = self
            .within_query_timeout(async move { all.await?.try_collect().await })
            .await?;
        let known = all.into_iter().map(|spool| {
            let text = |name: &str| spool.get_str(name).unwrap_or_default().to_owned();
            KnownSpool {
                state: SpoolState {
                    id: text("_id"),
                    host: text("host"),
                    path: text("path"),
                    bytes: spool.get_i64("bytes").unwrap_or_default().unsigned_abs(),
                },
                seen_at: *spool.get_datetime("seenAt").unwrap_or(&DateTime::MIN),
                is_empty: spool.get_bool("isEmpty").unwrap_or_default(),
            }
        });
        Ok(known.collect())
    }

    /// Forgets a spool, and returns whether it was known.
    ///
    /// # Errors
    /// When MongoDB does not confirm it in time.
    pub async fn forget_spool(&self, id: &str) -> Result<bool, StoreError> {
        let spools = self.collection(collection::SPOOLS)?;
        let delete = spools
            .delete_one(doc! { "_id": id })
            .write_concern(majority());
        let deleted = self
            .within_query_timeout(async move { delete.await })
            .await?;
        Ok(deleted.deleted_count > 0)
    }
}

fn majority() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Majority).build()
}
