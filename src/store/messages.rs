//! Reads a page of a conversation from the index `conversation`, in the order of the provider's time and, at equal times,
//! of `_id`.
//!
//! A page's queries are bounded: MongoDB walks the index from the page's place, in either direction, and reads about as
//! many documents as the page has. A team has two conversations, of a team and of a super team, whose index entries it
//! merges in their order. The filters compare times with numbers, so a message whose time is absent or is no number, which has no
//! place in the order, is on no page.

use futures_util::TryStreamExt;
use mongodb::bson::{Bson, DateTime, Document, RawDocument, RawDocumentBuf, doc};
use mongodb::options::Hint;

use super::backfill::columns;
use super::error::StoreError;
use super::indexes::CONVERSATION;
use super::marks::{covers, number};
use super::{Store, collection};
use crate::callback::ProviderName;
use crate::callback::columns::Columns;
use crate::callback::event::{Class, Conversation};
use crate::callback::ids::{Account, AppName};

/// The most bytes of one page, as MongoDB stores them. A page that would be larger ends before, with at least one message.
pub const MOST_PAGE_BYTES: usize = 4 * 1024 * 1024;

/// Which page of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhichPage {
    /// The newest messages.
    Newest,
    /// The newest of those before a place.
    Before(MessagePlace),
    /// The oldest of those after a place.
    After(MessagePlace),
}

/// A place in a conversation. It stays where it is if its message is deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessagePlace {
    /// A time in milliseconds. Before it is what was sent earlier, after it what was sent later.
    Time(i64),
    /// A message.
    Message {
        /// Its time, in milliseconds.
        sent_at: i64,
        /// Its class.
        class: Class,
        /// Its id in the class.
        id: String,
    },
}

/// A question for a page.
pub struct PageQuestion<'a> {
    /// The app.
    pub app: &'a AppName,
    /// Whose conversation it is.
    pub reader: &'a Account,
    /// With whom.
    pub of: &'a Conversation,
    /// The stored `conversation`s.
    pub conversations: &'a [String],
    /// Which page.
    pub which: &'a WhichPage,
    /// The most messages.
    pub limit: usize,
}

/// A page of a conversation.
#[derive(Default)]
pub struct MessagePage {
    /// The messages that the reader may see, the newest first.
    pub messages: Vec<StoredMessage>,
    /// The places of the newest and the oldest message that was read; `None` if there was none.
    pub ends: Option<(MessagePlace, MessagePlace)>,
    /// Whether there are more in the direction that was asked for.
    pub more: bool,
}

/// A message as it is stored. Not `Debug`: it has a text.
pub struct StoredMessage {
    /// Its class.
    pub class: Class,
    /// The provider's id.
    pub id: String,
    /// The id that the sending client gave it.
    pub client_id: Option<String>,
    /// Its sender.
    pub from: Option<String>,
    /// Its receiver, or the team.
    pub to: String,
    /// The provider's word for its kind.
    pub message_type: Option<String>,
    /// Its order.
    pub order_id: Option<String>,
    /// When the provider accepted it, in milliseconds.
    pub sent_at: i64,
    /// When its callback arrived.
    pub received_at: Option<DateTime>,
    /// The kind of client it was sent from.
    pub client: Option<String>,
    /// The sender's name then.
    pub nick: Option<String>,
    /// Whether its receiver has read it; `None` if it was sent to a team.
    pub is_read: Option<bool>,
    /// Whether the provider did not deliver it.
    pub is_held_back: bool,
    /// Its recall.
    pub recall: Option<StoredChange>,
    /// Its edits, the earliest first.
    pub edits: Vec<StoredChange>,
    /// The current text, usually a string.
    pub body: Option<Bson>,
    /// The text before the edits.
    pub original_body: Option<Bson>,
    /// The attachment.
    pub attach: Option<Bson>,
    /// The sender's own data.
    pub ext: Option<Bson>,
    /// The content as a whole, of providers that have such a field.
    pub content: Option<Bson>,
}

/// A recall or an edit, as it is stored with its message. Not `Debug`: it has a text.
pub struct StoredChange {
    /// When.
    pub at: Option<DateTime>,
    /// By whom.
    pub by: Option<String>,
    /// The new text, of an edit.
    pub text: Option<String>,
}

/// The read marks of both sides for each other.
struct BothMarks {
    /// The reader whose mark is the first.
    reader: String,
    of_reader: Option<i64>,
    of_peer: Option<i64>,
}

/// What of a message is read. Without fields we do not know, and those that are for the analysts alone.
const FIELDS: [&str; 27] = [
    "to",
    "fromAccount",
    "fromNick",
    "fromClientType",
    "msgType",
    "objectName",
    "msgTimestamp",
    "msgidServer",
    "msgidClient",
    "provider",
    "orderId",
    "receivedAt",
    "body",
    "originalBody",
    "attach",
    "ext",
    "content",
    "payload",
    "recall",
    "edits.at",
    "edits.by",
    "edits.text",
    "antispam",
    "blacklist",
    "sensitiveType",
    "groupUserIds",
    "toUsers",
];

impl WhichPage {
    /// The direction in which the index is walked.
    fn direction(&self) -> i32 {
        match self {
            Self::Newest | Self::Before(_) => -1,
            Self::After(_) => 1,
        }
    }

    /// The filter of the page's query; public so that a test can ask for its plan. Each of its alternatives is one range
    /// of the index. MongoDB merges ranges in their order, but sorts what a list of conversations beside an alternative
    /// would find.
    pub fn filter(&self, app: &AppName, conversations: &[String]) -> Document {
        let (beyond, place) = match self {
            Self::Newest => ("$lte", &MessagePlace::Time(i64::MAX)),
            Self::Before(place) => ("$lt", place),
            Self::After(place) => ("$gt", place),
        };
        let mut ranges = Vec::new();
        for conversation in conversations {
            let range = |time: Document| {
                doc! { "app": app.as_str(), "conversation": conversation, "msgTimestamp": time }
            };
            match place {
                MessagePlace::Time(at) => ranges.push(range(doc! { beyond: at })),
                MessagePlace::Message { sent_at, class, id } => {
                    let mut at_once = range(doc! { "$eq": sent_at });
                    let id = format!("{app}/{}/{id}", class.as_str());
                    at_once.insert("_id", doc! { beyond: id });
                    ranges.extend([at_once, range(doc! { beyond: sent_at })]);
                }
            }
        }
        doc! { "$or": ranges }
    }

    /// The order of the page's query.
    pub fn sort(&self) -> Document {
        let direction = self.direction();
        doc! { "msgTimestamp": direction, "_id": direction }
    }
}

impl Store {
    /// Reads a page of a conversation.
    ///
    /// # Errors
    /// When MongoDB does not answer in time, or an index is not there yet.
    pub async fn message_page(
        &self,
        question: &PageQuestion<'_>,
    ) -> Result<MessagePage, StoreError> {
        let (marks, (documents, more)) =
            tokio::try_join!(self.both_marks(question), self.page_documents(question))?;
        let mut messages = Vec::with_capacity(documents.len());
        let mut places = Vec::with_capacity(documents.len());
        for document in &documents {
            let unreadable = || StoreError::Unavailable("a message is unreadable".to_owned());
            let message = StoredMessage::of(question.app, document, marks.as_ref());
            let message = message.ok_or_else(unreadable)?;
            places.push(message.place());
            if message.is_for(question.reader, document) {
                messages.push(message);
            }
        }
        if question.which.direction() > 0 {
            messages.reverse();
            places.reverse();
        }
        let ends = places.first().cloned().zip(places.pop());
        Ok(MessagePage {
            messages,
            ends,
            more,
        })
    }

    /// The documents of a page in the order of its query, and whether there are more.
    async fn page_documents(
        &self,
        question: &PageQuestion<'_>,
    ) -> Result<(Vec<RawDocumentBuf>, bool), StoreError> {
        let messages = self.collection(collection::MESSAGES)?;
        let messages = messages.clone_with_type::<RawDocumentBuf>();
        let PageQuestion { which, limit, .. } = question;
        let shown: Document = FIELDS
            .iter()
            .map(|name| ((*name).to_owned(), Bson::from(1)))
            .collect();
        let find = messages
            .find(which.filter(question.app, question.conversations))
            .projection(shown)
            .sort(which.sort())
            .limit(*limit as i64 + 1)
            .batch_size(*limit as u32 + 2)
            .hint(Hint::Name(CONVERSATION.to_owned()))
            .max_time(self.settings.query_timeout);
        self.within_query_timeout(async move {
            let mut cursor = find.await?;
            let (mut page, mut bytes) = (Vec::new(), 0);
            while let Some(document) = cursor.try_next().await? {
                bytes += document.as_bytes().len();
                let is_full = page.len() == *limit || bytes > MOST_PAGE_BYTES;
                if is_full && !page.is_empty() {
                    return Ok((page, true));
                }
                page.push(document);
            }
            Ok((page, false))
        })
        .await
    }

    /// The read marks of a reader and a peer for each other; `None` for a team.
    async fn both_marks(
        &self,
        question: &PageQuestion<'_>,
    ) -> Result<Option<BothMarks>, StoreError> {
        let Conversation::Peer(peer) = question.of else {
            return Ok(None);
        };
        let (reader, peer) = (question.reader.as_str(), peer.as_str());
        let both = [reader, peer];
        let marks = self.marks_between(question.app, &both, &both).await?;
        let marks = marks.by_pair()?;
        Ok(Some(BothMarks {
            reader: reader.to_owned(),
            of_reader: marks.get(&(reader, peer)).copied(),
            of_peer: marks.get(&(peer, reader)).copied(),
        }))
    }
}

impl StoredMessage {
    fn of(app: &AppName, document: &RawDocument, marks: Option<&BothMarks>) -> Option<Self> {
        let id = document.get_str("_id").ok()?;
        let rest = id.strip_prefix(app.as_str())?.strip_prefix('/')?;
        let (class, id) = rest.split_once('/')?;
        let text = |name: &str| document.get_str(name).ok().map(str::to_owned);
        let value = |name: &str| {
            let value = document.get(name).ok().flatten()?;
            Bson::try_from(value)
                .ok()
                .filter(|value| *value != Bson::Null)
        };
        let (to, sent_at) = (text("to")?, number(document, "msgTimestamp")?);
        let columns = columns(document);
        let provider = document
            .get_str("provider")
            .ok()
            .and_then(ProviderName::parse);
        let of_provider = |read: fn(ProviderName, &Columns<'_>) -> Option<String>| {
            provider.and_then(|provider| read(provider, &columns))
        };
        let edits = document.get_array("edits").ok();
        let edits = edits.into_iter().flatten().flatten();
        let edits = edits.filter_map(|edit| edit.as_document().map(StoredChange::of));
        Some(Self {
            class: Class::parse(class)?,
            id: id.to_owned(),
            client_id: text("msgidClient"),
            from: text("fromAccount"),
            message_type: of_provider(ProviderName::message_type),
            order_id: text("orderId"),
            sent_at,
            received_at: document.get_datetime("receivedAt").ok(),
            client: text("fromClientType"),
            nick: text("fromNick"),
            is_read: marks.map(|marks| covers(marks.of(&to), sent_at)),
            is_held_back: provider.is_some_and(|provider| provider.held_back(&columns)),
            recall: recall(document),
            edits: edits.collect(),
            body: value("body"),
            original_body: value("originalBody"),
            attach: value("attach"),
            ext: value("ext"),
            content: value("content").or_else(|| value("payload")),
            to,
        })
    }

    /// Removes its content, of which a recall leaves only that it was there.
    pub fn withhold(&mut self) {
        let Self {
            body,
            original_body,
            attach,
            ext,
            content,
            edits,
            ..
        } = self;
        for part in [body, original_body, attach, ext, content] {
            *part = None;
        }
        edits.iter_mut().for_each(|edit| edit.text = None);
    }

    fn place(&self) -> MessagePlace {
        MessagePlace::Message {
            sent_at: self.sent_at,
            class: self.class,
            id: self.id.clone(),
        }
    }

    /// Whether a reader may see it: a message to a team may be for some of its members alone.
    fn is_for(&self, reader: &Account, document: &RawDocument) -> bool {
        let provider = document
            .get_str("provider")
            .ok()
            .and_then(ProviderName::parse);
        let field = provider.and_then(ProviderName::receivers_field);
        let receivers = field.and_then(|field| document.get_array(field).ok());
        let mut receivers = receivers.into_iter().flatten().flatten().peekable();
        let is_for_all = self.class.is_to_account() || receivers.peek().is_none();
        is_for_all
            || self.from.as_deref() == Some(reader.as_str())
            || receivers.any(|receiver| receiver.as_str() == Some(reader.as_str()))
    }
}

/// A message's recall. Whatever the field holds, a message that has it is recalled.
fn recall(document: &RawDocument) -> Option<StoredChange> {
    let recall = document.get("recall").ok().flatten()?;
    let nothing_known = StoredChange {
        at: None,
        by: None,
        text: None,
    };
    Some(recall.as_document().map_or(nothing_known, StoredChange::of))
}

impl StoredChange {
    fn of(change: &RawDocument) -> Self {
        let text = |name: &str| change.get_str(name).ok().map(str::to_owned);
        Self {
            at: change.get_datetime("at").ok(),
            by: text("by"),
            text: text("text"),
        }
    }
}

impl BothMarks {
    /// The mark of a message's receiver for its sender.
    fn of(&self, receiver: &str) -> Option<i64> {
        match receiver == self.reader {
            true => self.of_reader,
            false => self.of_peer,
        }
    }
}
