//! Unread counts, from the index alone.
//!
//! The two unread indexes hold only messages with `state: 0` and have every queried field in their
//! key, so a count reads no document and costs what is unread, not what was ever stored. The query
//! names its index: without it the answer is an error, never a scan of the collection.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use mongodb::options::Hint;

use super::error::StoreError;
use super::indexes::{UNREAD_BY_ORDER, UNREAD_BY_PEER};
use super::{Store, collection};
use crate::callback::ids::{Account, AppName};

/// What unread messages are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnreadBy {
    /// Their sender; the ids are lower-cased accounts.
    Peer,
    /// Their order; the ids are as the messages carry them.
    Order,
}

impl UnreadBy {
    fn field(self) -> &'static str {
        match self {
            Self::Peer => "fromAccount",
            Self::Order => "orderId",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Self::Peer => UNREAD_BY_PEER,
            Self::Order => UNREAD_BY_ORDER,
        }
    }

    /// The aggregation, apart from [`Store::unread`] so that its plan can be asked for.
    pub fn pipeline(self, app: &AppName, reader: &Account, ids: &[&str]) -> Vec<Document> {
        let mut matching = doc! { "app": app.as_str(), "to": reader.as_str(), "state": 0 };
        matching.insert(self.field(), doc! { "$in": ids });
        let group = doc! { "_id": format!("${}", self.field()), "n": { "$sum": 1 } };
        vec![doc! { "$match": matching }, doc! { "$group": group }]
    }

    /// The index the aggregation is bound to.
    pub fn hint(self) -> Hint {
        Hint::Name(self.index().to_owned())
    }
}

impl Store {
    /// Counts a reader's unread messages by id. An id without any is absent from the result.
    ///
    /// # Errors
    /// When MongoDB does not answer in time, or the index is not there yet.
    pub async fn unread(
        &self,
        by: UnreadBy,
        app: &AppName,
        reader: &Account,
        ids: &[&str],
    ) -> Result<HashMap<String, u64>, StoreError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let messages = self
            .database()?
            .collection::<Document>(collection::MESSAGES);
        let query = messages
            .aggregate(by.pipeline(app, reader, ids))
            .hint(by.hint())
            .max_time(self.settings.query_timeout);
        let counts: Vec<Document> = self
            .within_query_timeout(async move { query.await?.try_collect().await })
            .await?;
        counts
            .iter()
            .map(|count| {
                let n = count
                    .get_i32("n")
                    .map(i64::from)
                    .or_else(|_| count.get_i64("n"));
                match (count.get_str("_id"), n.map(u64::try_from)) {
                    (Ok(id), Ok(Ok(n))) => Ok((id.to_owned(), n)),
                    _ => Err(StoreError::Unavailable("unreadable count".to_owned())),
                }
            })
            .collect()
    }
}
