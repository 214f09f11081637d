//! The last unread messages of some pairs, as an overview shows them: the one place of this module that reads
//! documents, one for each entry.

use std::collections::HashMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{Document, RawDocument, doc};

use super::newest::NewestUnread;
use super::{Store, UnreadBy};
use crate::callback::ProviderName;
use crate::callback::ids::{Account, AppName};
use crate::store::backfill::columns;
use crate::store::marks::{documents, number};
use crate::store::{StoreError, collection};

/// The most characters of a message's text.
pub const LONGEST_TEXT: i32 = 500;

/// Pairs in one query: each is a range of the index.
const PAIRS: usize = 32;

/// The most messages of one query: of a pair there may be several with the same time.
const MOST_MESSAGES: i64 = 1000;

/// Queries at once for one question.
const QUERIES: usize = 4;

/// A message. Not `Debug`, for it has a text.
pub struct LastUnread {
    /// The provider's id of it.
    pub id: String,
    /// The provider's word or number for its type.
    pub message_type: Option<String>,
    /// The beginning of its text, if it has one.
    pub text: Option<String>,
}

impl Store {
    /// The unread messages that some pairs' newest are, in their order; `None` for one that was read or recalled
    /// meanwhile.
    ///
    /// # Errors
    /// When MongoDB does not answer in time, or the index is not there yet.
    pub async fn last_unread(
        &self,
        by: UnreadBy,
        app: &AppName,
        provider: ProviderName,
        reader: &Account,
        newest: &[&NewestUnread],
    ) -> Result<Vec<Option<LastUnread>>, StoreError> {
        let chunks = newest
            .chunks(PAIRS)
            .map(|chunk| self.last_of(by, app, provider, reader, chunk));
        // As a list: with the closure in it, the compiler would not see that the whole can move between threads.
        let chunks: Vec<_> = chunks.collect();
        let found = stream::iter(chunks).buffered(QUERIES);
        let found: Vec<Vec<_>> = found.try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn last_of(
        &self,
        by: UnreadBy,
        app: &AppName,
        provider: ProviderName,
        reader: &Account,
        newest: &[&NewestUnread],
    ) -> Result<Vec<Option<LastUnread>>, StoreError> {
        let messages = self.collection(collection::MESSAGES)?;
        let find = messages
            .find(last_messages(by, app, reader, newest))
            .projection(projection(provider))
            .hint(by.hint())
            .limit(MOST_MESSAGES)
            .batch_size(MOST_MESSAGES as u32 + 1)
            .max_time(self.settings.query_timeout);
        let batches = self.batches(find).await?;
        let mut found: HashMap<(&str, &str, i64), (&str, &RawDocument)> = HashMap::new();
        for message in documents(&batches).flatten() {
            let text = |name| message.get_str(name).unwrap_or_default();
            let sent_at = number(message, "msgTimestamp").unwrap_or_default();
            let place = (text(by.field()), text("fromAccount"), sent_at);
            let id = text("_id");
            // Of several with the same time always the same one.
            let kept = found.entry(place).or_insert((id, message));
            if kept.0 < id {
                *kept = (id, message);
            }
        }
        let last = newest.iter().map(|one| {
            let place = (one.id.as_str(), one.peer.as_str(), one.sent_at);
            let (_, message) = found.get(&place)?;
            Some(LastUnread {
                id: message.get_str("msgidServer").ok()?.to_owned(),
                message_type: provider.message_type(&columns(message)),
                text: message.get_str("body").ok().map(str::to_owned),
            })
        });
        Ok(last.collect())
    }
}

/// The messages that some pairs' newest are, and no others; public so that a test can ask for its plan.
pub fn last_messages(
    by: UnreadBy,
    app: &AppName,
    reader: &Account,
    newest: &[&NewestUnread],
) -> Document {
    let pairs = newest.iter().map(|one| {
        let mut pair = by.matching(app, &[reader.as_str()], &[&one.id]);
        pair.insert("fromAccount", one.peer.as_str());
        pair.insert("msgTimestamp", one.sent_at);
        pair
    });
    doc! { "$or": pairs.collect::<Vec<_>>() }
}

fn projection(provider: ProviderName) -> Document {
    let text = doc! { "$cond": [
        { "$eq": [{ "$type": "$body" }, "string"] },
        { "$substrCP": ["$body", 0, LONGEST_TEXT] },
        "$$REMOVE",
    ] };
    let mut shown = doc! {
        "orderId": 1, "fromAccount": 1, "msgTimestamp": 1, "msgidServer": 1, "body": text,
    };
    if let Some(field) = provider.message_type_field() {
        shown.insert(field, 1);
    }
    shown
}
