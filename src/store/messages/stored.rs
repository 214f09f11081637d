//! A message of a conversation, from its document.

use mongodb::bson::{Bson, DateTime, Document, RawBsonRef, RawDocument};

use super::MessagePlace;
use crate::callback::ProviderName;
use crate::callback::columns::Columns;
use crate::callback::event::Class;
use crate::callback::ids::{Account, AppName};
use crate::store::backfill::columns;
use crate::store::marks::{covers, number};

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
pub struct BothMarks {
    /// The reader whose mark is the first.
    pub reader: String,
    /// The reader's mark for the peer.
    pub of_reader: Option<i64>,
    /// The peer's mark for the reader.
    pub of_peer: Option<i64>,
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

/// The projection of these.
pub fn fields() -> Document {
    let fields = FIELDS.iter();
    fields
        .map(|name| ((*name).to_owned(), Bson::from(1)))
        .collect()
}

impl StoredMessage {
    pub(super) fn of(
        app: &AppName,
        document: &RawDocument,
        marks: Option<&BothMarks>,
    ) -> Option<Self> {
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

    pub(super) fn place(&self) -> MessagePlace {
        MessagePlace::Message {
            sent_at: self.sent_at,
            class: self.class,
            id: self.id.clone(),
        }
    }

    /// Whether a reader has sent it.
    pub(super) fn is_from(&self, reader: &Account) -> bool {
        self.from.as_deref() == Some(reader.as_str())
    }

    /// Whether it is for a reader who has not sent it: a message to a team may be for some of its members alone. If their
    /// list is unreadable, it is for none.
    pub(super) fn is_for(&self, reader: &Account, document: &RawDocument) -> bool {
        let provider = document
            .get_str("provider")
            .ok()
            .and_then(ProviderName::parse);
        let field = provider.and_then(ProviderName::receivers_field);
        let field = field.filter(|_| !self.class.is_to_account());
        match field.map_or(Ok(None), |field| document.get(field)) {
            Ok(None | Some(RawBsonRef::Null)) => true,
            Ok(Some(RawBsonRef::Array(list))) => {
                let mut receivers = list.into_iter().flatten();
                list.is_empty() || receivers.any(|one| one.as_str() == Some(reader.as_str()))
            }
            Ok(Some(_)) | Err(_) => false,
        }
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
