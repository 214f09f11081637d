//! What happened to one message: the facts that are stored about it, and why it counts as unread or does not.
//!
//! Every query is bounded, whatever is stored: it looks up `_id`s, reads the beginning of a range of `_id`s, or walks
//! over the newest messages of one conversation; and each has the timeout of queries. A message's text and its other
//! content are read, because the app's rules derive from them, and are no part of the result.

mod facts;
pub mod verdict;

use futures_util::TryStreamExt;
use futures_util::future::try_join_all;
use mongodb::Collection;
use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::options::{CountOptions, Hint};

use super::error::StoreError;
use super::indexes::{CONVERSATION, MARKS};
use super::marks::marks_between;
use super::{Store, collection};
use crate::callback::Provider;
use crate::callback::event::{Class, Conversation};
use crate::callback::ids::{Account, AppName};
use facts::Stored;
pub use facts::{
    TracedChange, TracedMark, TracedMessage, TracedReceipt, TracedReceipts, TracedRecord,
};

/// The most messages in one trace: an id may be of several classes, and a client's id of several messages.
const MOST_MESSAGES: i64 = 8;

/// The newest messages of a conversation among which a client's id is looked for.
pub const NEWEST_IN_CONVERSATION: i64 = 5000;

/// The most receipts that are shown for a message.
pub const MOST_RECEIPTS: usize = 20;

/// The most records of a recall or edits that are shown for a message.
const MOST_RECORDS: usize = 20;

/// The most members of a team whose marks are shown.
pub const MOST_READERS: usize = 20;

/// The most dead letters that are counted.
pub const MOST_DEAD_LETTERS: u64 = 1000;

/// What to trace.
pub struct TraceQuestion<'a> {
    /// The app.
    pub app: &'a AppName,
    /// Its provider.
    pub provider: &'a Provider,
    /// The message.
    pub wanted: Wanted,
    /// Members of the team that the message was sent to.
    pub readers: Vec<String>,
}

/// What a message is looked for by.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// The provider's id, or the whole `_id`.
    Id(String),
    /// The id that the sending client gave it. No index has it, so both ends of the conversation are needed.
    ClientId {
        /// The id.
        id: String,
        /// The sender.
        from: String,
        /// The receiver, or the team.
        to: String,
    },
}

/// What is stored about the messages that were found.
#[derive(Debug)]
pub struct MessageTrace {
    /// The messages, by `_id`; several if the id is of several classes.
    pub messages: Vec<TracedMessage>,
    /// How many dead letters the app has, up to [`MOST_DEAD_LETTERS`]. Their bodies cannot be searched.
    pub dead_letters: u64,
}

impl Store {
    /// Finds messages, and what is stored about each.
    ///
    /// # Errors
    /// If MongoDB does not answer in time, or an index is missing.
    pub async fn trace(&self, question: &TraceQuestion<'_>) -> Result<MessageTrace, StoreError> {
        let (found, dead_letters) =
            tokio::try_join!(self.wanted(question), self.count_dead_letters(question.app))?;
        let mut messages = Vec::with_capacity(found.len());
        for document in &found {
            let stored = Stored::of(question, document).ok_or_else(unreadable)?;
            messages.push(self.traced(question, stored).await?);
        }
        Ok(MessageTrace {
            messages,
            dead_letters,
        })
    }

    async fn wanted(
        &self,
        question: &TraceQuestion<'_>,
    ) -> Result<Vec<RawDocumentBuf>, StoreError> {
        let app = question.app.as_str();
        let messages: Collection<RawDocumentBuf> = self
            .collection(collection::MESSAGES)?
            .clone_with_type::<RawDocumentBuf>();
        let timeout = self.settings.query_timeout;
        match &question.wanted {
            Wanted::Id(id) => {
                let mut ids = Class::ALL
                    .map(|c| format!("{app}/{}/{id}", c.as_str()))
                    .to_vec();
                if is_whole_id(app, id) {
                    ids.push(id.clone());
                }
                let find = messages
                    .find(doc! { "_id": { "$in": ids }, "app": app })
                    .sort(doc! { "_id": 1 })
                    .hint(by_id())
                    .max_time(timeout);
                self.within_query_timeout(async move { find.await?.try_collect().await })
                    .await
            }
            Wanted::ClientId { id, from, to } => {
                let name = question.provider.name();
                let Some(field) = name.client_id_field() else {
                    return Ok(Vec::new());
                };
                let account = |id: &str| name.account(id).into_string();
                let conversations = Class::ALL.map(|class| match class.is_to_account() {
                    true => class.conversation(Some(&account(from)), &account(to)),
                    false => class.conversation(None, to),
                });
                let among = doc! { "$in": conversations.into_iter().flatten().collect::<Vec<_>>() };
                let pipeline = [
                    doc! { "$match": { "app": app, "conversation": among } },
                    doc! { "$sort": { "msgTimestamp": -1 } },
                    doc! { "$limit": NEWEST_IN_CONVERSATION },
                    doc! { "$match": { field: { "$eq": id } } },
                    doc! { "$limit": MOST_MESSAGES },
                ];
                let find = messages
                    .aggregate(pipeline)
                    .hint(Hint::Name(CONVERSATION.to_owned()))
                    .max_time(timeout)
                    .with_type::<RawDocumentBuf>();
                self.within_query_timeout(async move { find.await?.try_collect().await })
                    .await
            }
        }
    }

    async fn traced(
        &self,
        question: &TraceQuestion<'_>,
        stored: Stored<'_>,
    ) -> Result<TracedMessage, StoreError> {
        let name = question.provider.name();
        let read_by = stored.read_by(question);
        let keys = read_by
            .iter()
            .map(|(reader, of)| name.receipt_keys(reader, of));
        let keys: Option<Vec<_>> = keys.collect();
        let keys = keys.filter(|keys| !keys.is_empty());
        let changes = self.changes(question.app, name.change_keys(&stored.message));
        // After the message: a `state` that is 1 because of a mark was set after the mark.
        let (marks, receipts, changes) = tokio::try_join!(
            self.traced_marks(question.app, stored.class(), &read_by),
            self.receipts(question.app, keys, stored.sent_at),
            changes,
        )?;
        Ok(stored.with(marks, receipts, changes))
    }

    /// The read marks of these readers, as counts find them.
    async fn traced_marks(
        &self,
        app: &AppName,
        class: Class,
        read_by: &[(Account, Conversation)],
    ) -> Result<Vec<TracedMark>, StoreError> {
        if read_by.is_empty() {
            return Ok(Vec::new());
        }
        let marks = self.collection(collection::READ_MARKS)?;
        let (filter, hint) = match read_by {
            [(reader, Conversation::Peer(peer))] if class.is_to_account() => (
                marks_between(app, &[reader.as_str()], &[peer.as_str()]),
                Hint::Name(MARKS.to_owned()),
            ),
            _ => {
                let ids = read_by.iter().filter_map(|(reader, of)| match of {
                    Conversation::Team(team) => {
                        Some(doc! { "app": app.as_str(), "reader": reader.as_str(), "team": team })
                    }
                    Conversation::Peer(_) => None,
                });
                (doc! { "_id": { "$in": ids.collect::<Vec<_>>() } }, by_id())
            }
        };
        let find = marks
            .find(filter)
            .projection(doc! { "reader": 1, "readUpTo": 1, "updatedAt": 1 })
            .sort(doc! { "reader": 1 })
            .hint(hint)
            .max_time(self.settings.query_timeout);
        let found: Vec<RawDocumentBuf> = self
            .within_query_timeout(async move {
                find.await?
                    .with_type::<RawDocumentBuf>()
                    .try_collect()
                    .await
            })
            .await?;
        let marks = found.iter().map(|mark| TracedMark::of(mark));
        marks.collect::<Option<_>>().ok_or_else(unreadable)
    }

    /// The records of receipts at or after a time, the earliest first. `None` if there are no keys to find them by.
    async fn receipts(
        &self,
        app: &AppName,
        keys: Option<Vec<Vec<String>>>,
        sent_at: Option<i64>,
    ) -> Result<Option<TracedReceipts>, StoreError> {
        let (Some(keys), Some(sent_at)) = (keys, sent_at) else {
            return Ok(None);
        };
        let keys: Vec<String> = keys.into_iter().flatten().collect();
        let found = keys.iter().map(|key| {
            let under = format!("{app}/{key}/");
            // Texts are in the order of the times as long as these have 13 digits, from 2001 to 2286.
            let first = match sent_at {
                1_000_000_000_000.. => format!("{under}{sent_at}"),
                _ => under.clone(),
            };
            let end = format!("{app}/{key}0");
            async move {
                let records = self.records(doc! { "$gte": first, "$lt": end }, MOST_RECEIPTS);
                let records = records.await?.into_iter();
                Ok::<_, StoreError>(
                    records
                        .filter_map(|record| TracedReceipt::of(record, &under))
                        .filter(|receipt| receipt.up_to >= sent_at)
                        .collect::<Vec<_>>(),
                )
            }
        });
        let mut found = try_join_all(found).await?.concat();
        found.sort_by_key(|receipt| receipt.up_to);
        let more = found.len() > MOST_RECEIPTS;
        found.truncate(MOST_RECEIPTS);
        Ok(Some(TracedReceipts { found, more }))
    }

    /// The records with one of these keys, or a longer one.
    async fn changes(
        &self,
        app: &AppName,
        keys: Vec<String>,
    ) -> Result<Vec<TracedRecord>, StoreError> {
        let exact: Vec<String> = keys.iter().map(|key| format!("{app}/{key}")).collect();
        let longer = exact.iter().map(|id| {
            self.records(
                doc! { "$gte": format!("{id}/"), "$lt": format!("{id}0") },
                MOST_RECORDS,
            )
        });
        let (exactly, longer) = tokio::try_join!(
            self.records(doc! { "$in": &exact }, MOST_RECORDS),
            try_join_all(longer),
        )?;
        let mut records = [exactly, longer.concat()].concat();
        records.sort_by_key(|record| record.received_at);
        records.truncate(MOST_RECORDS);
        Ok(records)
    }

    /// The first `most` events whose `_id` matches, and one more if there are more. Without their payloads.
    async fn records(&self, id: Document, most: usize) -> Result<Vec<TracedRecord>, StoreError> {
        if id.get_array("$in").is_ok_and(Vec::is_empty) {
            return Ok(Vec::new());
        }
        let events = self.collection(collection::EVENTS)?;
        let find = events
            .find(doc! { "_id": id })
            .projection(doc! { "kind": 1, "at": 1, "receivedAt": 1 })
            .sort(doc! { "_id": 1 })
            .hint(by_id())
            .limit(most as i64 + 1)
            .max_time(self.settings.query_timeout);
        let found: Vec<Document> = self
            .within_query_timeout(async move { find.await?.try_collect().await })
            .await?;
        let records = found.iter().map(TracedRecord::of);
        records.collect::<Option<_>>().ok_or_else(unreadable)
    }

    /// Counts an app's dead letters, up to [`MOST_DEAD_LETTERS`].
    async fn count_dead_letters(&self, app: &AppName) -> Result<u64, StoreError> {
        // `0` is the character after the slash.
        let of_app = doc! { "_id": { "$gte": format!("{app}/"), "$lt": format!("{app}0") } };
        let options = CountOptions::builder()
            .hint(by_id())
            .limit(MOST_DEAD_LETTERS)
            .max_time(self.settings.query_timeout)
            .build();
        let dead_letters = self.collection(collection::DEAD_LETTERS)?;
        let count = dead_letters.count_documents(of_app).with_options(options);
        self.within_query_timeout(async move { count.await }).await
    }
}

/// The index that every collection has. Named in each query, so that none ever scans.
fn by_id() -> Hint {
    Hint::Keys(doc! { "_id": 1 })
}

/// Whether an id is a whole `_id` of this app.
fn is_whole_id(app: &str, id: &str) -> bool {
    let rest = id.strip_prefix(app).and_then(|rest| rest.strip_prefix('/'));
    let class = rest.and_then(|rest| rest.split_once('/'));
    class.is_some_and(|(class, _)| Class::parse(class).is_some())
}

fn unreadable() -> StoreError {
    StoreError::Unavailable("a stored document is unreadable".to_owned())
}
