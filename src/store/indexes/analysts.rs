//! The indexes that serve analysts' queries (`docs/analysts.md`). Optional, since each makes every insert dearer, and no
//! query of the service uses one.

use mongodb::bson::doc;

use super::{WantedIndex, is_named};
use crate::store::error::StoreError;
use crate::store::{Store, collection};

/// Messages by time. Counts of messages and of orders in a period read nothing but its keys.
pub const ANALYSTS_SENT: &str = "analysts_sent";
/// The messages of an order.
pub const ANALYSTS_ORDER: &str = "analysts_order";
/// Events of a kind by time.
pub const ANALYSTS_EVENTS: &str = "analysts_events";

/// An optional index that is in MongoDB although the configuration does not ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleIndex {
    /// The collection.
    pub collection: &'static str,
    /// The index's name.
    pub index: &'static str,
}

/// What it is, and how to drop it, such as `analysts_sent on messages: mongodb.analyst_indexes is off; …`.
impl std::fmt::Display for IdleIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { collection, index } = self;
        write!(
            f,
            "{index} on {collection}: mongodb.analyst_indexes is off; to drop it: db.{collection}.dropIndex(\"{index}\")"
        )
    }
}

/// They come last where indexes are made, since counts wait for theirs.
pub(super) fn analyst_indexes() -> [WantedIndex; 3] {
    [
        WantedIndex {
            collection: collection::MESSAGES,
            name: ANALYSTS_SENT,
            keys: doc! { "app": 1, "sentAt": 1, "convType": 1, "orderId": 1 },
            filter: None,
        },
        WantedIndex {
            collection: collection::MESSAGES,
            name: ANALYSTS_ORDER,
            keys: doc! { "app": 1, "orderId": 1, "sentAt": 1 },
            filter: Some(doc! { "orderId": { "$exists": true } }),
        },
        WantedIndex {
            collection: collection::EVENTS,
            name: ANALYSTS_EVENTS,
            keys: doc! { "app": 1, "kind": 1, "at": 1 },
            filter: None,
        },
    ]
}

impl Store {
    /// The analysts' indexes that are there although `mongodb.analyst_indexes` is off. They are left alone: another
    /// instance may be configured otherwise, and to make them anew takes long.
    ///
    /// # Errors
    /// When MongoDB does not list its indexes.
    pub async fn idle_indexes(&self) -> Result<Vec<IdleIndex>, StoreError> {
        let mut idle = Vec::new();
        if self.settings.analyst_indexes {
            return Ok(idle);
        }
        let analysts = analyst_indexes();
        let there = self.indexes_there(&analysts)?.await?;
        for WantedIndex {
            collection, name, ..
        } in analysts
        {
            if there[collection].iter().any(|model| is_named(model, name)) {
                idle.push(IdleIndex {
                    collection,
                    index: name,
                });
            }
        }
        Ok(idle)
    }
}
