//! What happened to one message: the facts that are stored about it, and why it counts as unread or does not.
//!
//! Every query is bounded, whatever is stored: it looks up `_id`s, reads the beginning of a range of `_id`s, or walks
//! over the newest messages of one conversation. Few traces run at once, each with few queries at once, so that they
//! leave connections to commits; and a trace as a whole has the timeout of one query. A message's text and its other
//! content are read, because the app's rules derive from them, and are no part of the result.

mod facts;
mod related;
pub mod verdict;

use futures_util::TryStreamExt;
use mongodb::Collection;
use mongodb::bson::{RawDocumentBuf, doc};
use mongodb::options::{CountOptions, Hint};

use super::error::StoreError;
use super::indexes::CONVERSATION;
use super::{Store, collection};
use crate::callback::Provider;
use crate::callback::event::Class;
use crate::callback::ids::AppName;
pub use facts::{
    TracedChange, TracedMark, TracedMessage, TracedReceipt, TracedReceipts, TracedRecord,
    UnreadableDocument,
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
    /// Documents because of which a message that was found is not among them.
    pub unreadable: Vec<UnreadableDocument>,
    /// How many dead letters the app has, up to [`MOST_DEAD_LETTERS`]. Their bodies cannot be searched.
    pub dead_letters: u64,
}

impl MessageTrace {
    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty() && self.unreadable.is_empty()
    }
}

/// Why a message that was found is not told.
enum NotTraced {
    Unreadable(UnreadableDocument),
    Failed(StoreError),
}

impl From<StoreError> for NotTraced {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl Store {
    /// Finds messages, and what is stored about each.
    ///
    /// # Errors
    /// If MongoDB does not answer all of it within the timeout of one query, or an index is missing.
    /// [`StoreError::Overloaded`] if others' traces took as long.
    pub async fn trace(&self, question: &TraceQuestion<'_>) -> Result<MessageTrace, StoreError> {
        let facts = self.trace_facts(question);
        self.traces.take(self.settings.query_timeout, facts).await
    }

    async fn trace_facts(&self, question: &TraceQuestion<'_>) -> Result<MessageTrace, StoreError> {
        let (found, dead_letters) =
            tokio::try_join!(self.wanted(question), self.count_dead_letters(question.app))?;
        let (mut messages, mut unreadable) = (Vec::new(), Vec::new());
        for document in &found {
            match self.traced(question, document).await {
                Ok(message) => messages.push(message),
                Err(NotTraced::Unreadable(document)) => unreadable.push(document),
                Err(NotTraced::Failed(error)) => return Err(error),
            }
        }
        Ok(MessageTrace {
            messages,
            unreadable,
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
