//! The facts of one message, from its document and from what was found about it.

use mongodb::bson::{Bson, DateTime, Document, RawArray, RawDocument};

use super::TraceQuestion;
use super::verdict::{UnreadFacts, UnreadVerdict, judge};
use crate::callback::derived::{Counts, NotCounted};
use crate::callback::event::{Class, Conversation, MessageRef};
use crate::callback::ids::Account;
use crate::store::backfill::columns;
use crate::store::marks::{covers, number};

/// The most edits that are shown.
const MOST_EDITS: usize = 20;

/// The longest word for a kind of message that is shown, in characters.
const LONGEST_TYPE: usize = 64;

/// What is known about a message.
#[derive(Debug)]
pub struct TracedMessage {
    /// Its `_id`.
    pub id: String,
    /// The provider that sent it.
    pub provider: String,
    /// Its class, the provider's id, and its receiver.
    pub message: MessageRef,
    /// The id that the sending client gave it.
    pub client_id: Option<String>,
    /// The provider's word for its kind.
    pub message_type: Option<String>,
    /// Its sender.
    pub from: Option<String>,
    /// Its conversation.
    pub conversation: Option<String>,
    /// Its order.
    pub order_id: Option<String>,
    /// When the provider accepted it, in milliseconds.
    pub sent_at: Option<i64>,
    /// When its callback arrived; `None` if only a recall or an edit has.
    pub received_at: Option<DateTime>,
    /// Its `state`.
    pub state: Option<i64>,
    /// The time of the mark by which `state` became 1.
    pub read_at: Option<DateTime>,
    /// Its recall.
    pub recall: Option<TracedChange>,
    /// Its edits, the earliest first.
    pub edits: Vec<TracedChange>,
    /// How many edits it has.
    pub edit_count: usize,
    /// The read marks that decide, or would, whether it is read: for a team only those of the members asked for.
    pub marks: Vec<TracedMark>,
    /// The receipts at or after its time; `None` if no member of the team was named, or this provider's cannot be found
    /// by conversation and the site has reported none.
    pub receipts: Option<TracedReceipts>,
    /// The events with its recall and its edits.
    pub records: Vec<TracedRecord>,
    /// Whether it counts as unread, and why.
    pub verdict: UnreadVerdict,
}

/// A recall or an edit, as it is stored with its message.
#[derive(Debug)]
pub struct TracedChange {
    /// When.
    pub at: Option<DateTime>,
    /// By whom.
    pub by: Option<String>,
}

/// A read mark.
#[derive(Debug)]
pub struct TracedMark {
    /// Who has read.
    pub reader: String,
    /// Up to when, in milliseconds.
    pub read_up_to: i64,
    /// When the last receipt arrived.
    pub updated_at: Option<DateTime>,
}

/// An event, without its payload.
#[derive(Debug, Clone)]
pub struct TracedRecord {
    /// Its `_id`.
    pub id: String,
    /// Our name for its kind.
    pub kind: String,
    /// When it happened.
    pub at: Option<DateTime>,
    /// When its callback arrived.
    pub received_at: Option<DateTime>,
}

/// A document without what every document of its collection has: somebody changed it, or a restore broke it.
#[derive(Debug, PartialEq, Eq)]
pub struct UnreadableDocument {
    /// Its collection.
    pub collection: &'static str,
    /// Its `_id`, as in the shell unless it is a text.
    pub id: String,
}

/// Receipts at or after a message's time, and reads that the site reported.
#[derive(Debug)]
pub struct TracedReceipts {
    /// The earliest of them.
    pub found: Vec<TracedReceipt>,
    /// Whether there are more.
    pub more: bool,
    /// Whether only the site's own reads are among them: this provider's receipts cannot be found by conversation.
    pub by_site_only: bool,
}

/// A receipt.
#[derive(Debug, Clone)]
pub struct TracedReceipt {
    /// Its event.
    pub record: TracedRecord,
    /// Up to when its conversation was read, in milliseconds.
    pub up_to: i64,
}

impl TracedMark {
    /// Whether it makes the message read.
    pub fn covers(&self, message: &TracedMessage) -> bool {
        let sent_at = message.sent_at;
        sent_at.is_some_and(|sent_at| covers(Some(self.read_up_to), sent_at))
    }

    pub(super) fn of(mark: &RawDocument) -> Option<Self> {
        Some(Self {
            reader: mark.get_str("reader").ok()?.to_owned(),
            read_up_to: number(mark, "readUpTo")?,
            updated_at: mark.get_datetime("updatedAt").ok(),
        })
    }
}

impl TracedRecord {
    /// Whether it arrived before the message; `None` if only one of the two has arrived, or its time is not known.
    pub fn is_before(&self, message: &TracedMessage) -> Option<bool> {
        Some(self.received_at? < message.received_at?)
    }

    pub(super) fn of(event: &Document) -> Option<Self> {
        let time = |name: &str| event.get_datetime(name).ok().copied();
        Some(Self {
            id: event.get_str("_id").ok()?.to_owned(),
            kind: event.get_str("kind").unwrap_or_default().to_owned(),
            at: time("at"),
            received_at: time("receivedAt"),
        })
    }
}

impl TracedReceipt {
    /// A receipt whose `_id` goes on with its time after `under`.
    pub(super) fn of(record: TracedRecord, under: &str) -> Option<Self> {
        let rest = record.id.strip_prefix(under)?;
        let up_to = rest.split('/').next()?.parse().ok()?;
        Some(Self { record, up_to })
    }
}

impl UnreadableDocument {
    pub(super) fn of(collection: &'static str, document: &RawDocument) -> Self {
        let id = document.get("_id").ok().flatten();
        let id = id.and_then(|id| Bson::try_from(id).ok());
        Self {
            collection,
            id: match id {
                Some(Bson::String(id)) => id,
                // In the order of its fields, which matters in an `_id`.
                Some(id) => id.to_string(),
                None => "unknown".to_owned(),
            },
        }
    }
}

/// A message's document with what the app's rules derive from it.
pub struct Stored<'d> {
    pub message: MessageRef,
    pub sent_at: Option<i64>,
    document: &'d RawDocument,
    id: &'d str,
    message_type: Option<String>,
    client_id: Option<String>,
    /// `None` if another provider sent it.
    derived: Option<Result<Counts, NotCounted>>,
}

impl<'d> Stored<'d> {
    pub fn of(question: &TraceQuestion<'_>, document: &'d RawDocument) -> Option<Self> {
        let id = document.get_str("_id").ok()?;
        let rest = id.strip_prefix(question.app.as_str())?.strip_prefix('/')?;
        let (class, msgid) = rest.split_once('/')?;
        let class = Class::parse(class)?;
        let name = question.provider.name();
        let columns = columns(document);
        let is_same = document.get_str("provider").ok() == Some(name.as_str());
        let message_type = name.message_type(&columns).filter(|_| is_same);
        let client_id = name.client_id_field().and_then(|name| columns.text(name));
        Some(Self {
            message: MessageRef {
                class,
                id: msgid.to_owned(),
                to: document.get_str("to").ok()?.to_owned(),
            },
            sent_at: number(document, "msgTimestamp"),
            document,
            id,
            message_type: message_type.map(|word| word.chars().take(LONGEST_TYPE).collect()),
            client_id: client_id.map(|id| id.into_owned()),
            derived: is_same.then(|| question.provider.derive(class, &columns).counts),
        })
    }

    pub fn class(&self) -> Class {
        self.message.class
    }

    /// Whose read marks are about it: its receiver's for its sender, or those of the members asked for.
    pub fn read_by(&self, question: &TraceQuestion<'_>) -> Vec<(Account, Conversation)> {
        let name = question.provider.name();
        let to = &self.message.to;
        // Counts look at nothing but `state`, whatever its class.
        let has_state = number(self.document, "state").is_some();
        match self.class() {
            Class::CustomPerson if !has_state => Vec::new(),
            Class::P2p | Class::CustomPerson => {
                let peer = self.document.get_str("fromAccount").ok();
                let peer = peer.map(|peer| Conversation::Peer(Account::new(peer)));
                peer.map(|peer| (Account::new(to), peer))
                    .into_iter()
                    .collect()
            }
            Class::Team | Class::SuperTeam => {
                let readers = question.readers.iter();
                let readers = readers.map(|id| (name.account(id), Conversation::Team(to.clone())));
                readers.collect()
            }
            Class::CustomTeam => Vec::new(),
        }
    }

    pub fn with(
        self,
        marks: Vec<TracedMark>,
        receipts: Option<TracedReceipts>,
        records: Vec<TracedRecord>,
    ) -> TracedMessage {
        let document = self.document;
        let text = |name: &str| document.get_str(name).ok().map(str::to_owned);
        let received_at = document.get_datetime("receivedAt").ok();
        let recall = document.get_document("recall").ok().map(TracedChange::of);
        let (edits, edit_count) = document.get_array("edits").map_or((Vec::new(), 0), edits);
        let state = number(document, "state");
        let mark = marks.first().map(|mark| mark.read_up_to);
        let verdict = judge(&UnreadFacts {
            is_received: received_at.is_some(),
            derived: self.derived,
            is_recalled: recall.is_some(),
            sent_at: self.sent_at,
            mark: mark.filter(|_| self.message.class.is_to_account()),
            state,
        });
        TracedMessage {
            id: self.id.to_owned(),
            provider: text("provider").unwrap_or_default(),
            message: self.message,
            client_id: self.client_id,
            message_type: self.message_type,
            from: text("fromAccount"),
            conversation: text("conversation"),
            order_id: text("orderId"),
            sent_at: self.sent_at,
            received_at,
            state,
            read_at: document.get_datetime("readAt").ok(),
            recall,
            edits,
            edit_count,
            marks,
            receipts,
            records,
            verdict,
        }
    }
}

impl TracedChange {
    fn of(change: &RawDocument) -> Self {
        Self {
            at: change.get_datetime("at").ok(),
            by: change.get_str("by").ok().map(str::to_owned),
        }
    }
}

/// The first edits, and how many there are.
fn edits(edits: &RawArray) -> (Vec<TracedChange>, usize) {
    let documents = edits.into_iter().flatten();
    let changes = documents.filter_map(|edit| edit.as_document().map(TracedChange::of));
    let mut changes: Vec<_> = changes.collect();
    let count = changes.len();
    changes.truncate(MOST_EDITS);
    (changes, count)
}
