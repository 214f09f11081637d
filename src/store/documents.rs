//! Turns events into documents, which are a public interface for analysts; `docs/data-model.md` describes it.
//!
//! A [`Write`] is one idempotent change; its update statement is made in `statements`.

use mongodb::bson::{Bson, Document, RawArrayBuf, RawDocumentBuf, cstr, doc, rawdoc};
use sha2::{Digest, Sha256};

use super::bson::{self, date, raw};
use super::place::{MessageKey, Pair};
use super::presence::presence_change;
use super::statements;
use crate::callback::event::{
    Conversation, Decoded, Effect, Event, EventType, Message, ReadMark, Reason, Record,
};
use crate::callback::ids::{Account, Millis};
use crate::callback::{Origin, Received};

/// One idempotent change: a document to insert or an update statement to run, already encoded. Not `Debug`, like
/// its parts: it may contain a message's text.
pub enum Write {
    /// Inserts a message.
    Message(MessageWrite),
    /// Merges a recall or an edit into its message, which may not be stored yet.
    Change(RawDocumentBuf),
    /// Raises a read mark.
    Mark(MarkWrite),
    /// Merges what an event says of a device into its document.
    Presence(RawDocumentBuf),
    /// Inserts an event.
    Event(RawDocumentBuf),
    /// Inserts a dead letter.
    DeadLetter(RawDocumentBuf),
}

impl Write {
    /// The size of the statement sent to MongoDB, in bytes.
    pub fn bytes(&self) -> usize {
        let document = match self {
            Self::Message(message) => &message.document,
            Self::Mark(mark) => &mark.statement,
            Self::Change(raw) | Self::Presence(raw) | Self::Event(raw) | Self::DeadLetter(raw) => {
                raw
            }
        };
        document.as_bytes().len()
    }
}

/// What a log line says of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterNote {
    /// Its `_id`.
    pub id: String,
    /// Why it is one.
    pub code: &'static str,
    /// The place in the body.
    pub path: String,
}

/// One callback's part of a batch. Not `Debug`: it contains a message's text.
pub struct Submission {
    /// The callback itself, for the spool or a dead letter.
    pub received: Received,
    /// Its writes.
    pub writes: Vec<Write>,
}

impl Submission {
    /// Its approximate size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.received.bytes() + self.writes.iter().map(Write::bytes).sum::<usize>()
    }

    /// The dead letter among its writes.
    pub fn dead_letter(&self) -> Option<DeadLetterNote> {
        let found = self.writes.iter().find_map(|write| match write {
            Write::DeadLetter(found) => Some(found),
            _ => None,
        })?;
        let text = |name: &str| found.get_str(name).unwrap_or_default();
        let mut codes = Reason::CODES.into_iter().chain(OTHER_CODES);
        Some(DeadLetterNote {
            id: text("_id").to_owned(),
            code: codes.find(|code| *code == text("code"))?,
            path: text("path").to_owned(),
        })
    }
}

/// A message to insert.
pub struct MessageWrite {
    /// Its key.
    pub key: MessageKey,
    /// The whole document.
    pub document: RawDocumentBuf,
    /// The pair for which it counts as unread, and its time; `None` if it never counts.
    pub counts: Option<(Pair, Millis)>,
}

/// A read mark to raise.
pub struct MarkWrite {
    /// The upsert that raises it. It has no effect if the mark is as high already.
    pub statement: RawDocumentBuf,
    /// The new mark.
    pub up_to: Millis,
    /// The pair whose messages become read. `None` for a team, whose messages have no `state`.
    pub pair: Option<Pair>,
}

/// The writes for a decoded callback.
pub fn writes(received: &Received, decoded: &Decoded<'_>) -> Vec<Write> {
    let origin = &received.origin;
    let mut writes = Vec::with_capacity(decoded.events.len() * 2);
    for event in &decoded.events {
        match event {
            Event::Message(message) => writes.push(Write::Message(message_write(origin, message))),
            Event::Record(record) => {
                writes.push(Write::Event(event_document(origin, record)));
                writes.extend(effect_write(origin, record));
            }
        }
    }
    if let Some(undecodable) = &decoded.undecodable {
        let reason = undecodable.reason.to_string();
        let code = undecodable.reason.code();
        let dead_letter = dead_letter(received, code, &reason, &undecodable.path);
        writes.push(Write::DeadLetter(dead_letter));
    }
    writes
}

/// The code of a dead letter whose document MongoDB refuses.
pub const STORE_REFUSED: &str = "store_refused";

/// The code of a dead letter whose app is no longer configured.
pub const UNKNOWN_APP: &str = "unknown_app";

/// The codes of dead letters besides those of [`Reason`].
pub const OTHER_CODES: [&str; 2] = [STORE_REFUSED, UNKNOWN_APP];

/// The document of a dead letter. Its `_id` is the digest of route and body: a redelivery has the same `_id`, but
/// the same body on another route means something else.
pub fn dead_letter(received: &Received, code: &str, reason: &str, path: &str) -> RawDocumentBuf {
    let Received {
        origin,
        envelope,
        body,
    } = received;
    let mut digest = Sha256::new();
    if !envelope.route.is_empty() {
        digest.update(&*envelope.route);
        digest.update(b"\n");
    }
    digest.update(body);
    let kept = match std::str::from_utf8(body) {
        Ok(text) => Bson::from(text),
        Err(_) => Bson::Binary(mongodb::bson::Binary {
            subtype: mongodb::bson::spec::BinarySubtype::Generic,
            bytes: body.to_vec(),
        }),
    };
    let mut dead_letter = doc! {
        "_id": format!("{}/{}", origin.app, hex::encode(digest.finalize())),
        "app": origin.app.as_str(),
        "provider": origin.provider.as_str(),
        "code": code,
        "reason": reason,
        "path": path,
        "body": kept,
        "receivedAt": date(origin.received_at),
    };
    for (name, value) in [("route", &envelope.route), ("query", &envelope.query)] {
        if !value.is_empty() {
            dead_letter.insert(name, &**value);
        }
    }
    if !envelope.headers.is_empty() {
        let headers = envelope.headers.iter();
        let headers = headers.map(|(name, value)| (name.to_string(), Bson::from(&**value)));
        dead_letter.insert("headers", headers.collect::<Document>());
    }
    raw(&dead_letter)
}

/// Names of our own fields in `messages`. A provider's field with such a name goes into `extra`, so that it is
/// neither lost nor mistaken for ours.
const OUR_FIELDS: &[&str] = &[
    "_id",
    "app",
    "provider",
    "state",
    "countsInTeam",
    "joined",
    "orderId",
    "conversation",
    "sentAt",
    "receivedAt",
    "readAt",
    "recall",
    "edits",
    "originalBody",
    "extra",
];

/// Whether a field of a message is ours and not the provider's.
pub fn is_ours(name: &str) -> bool {
    OUR_FIELDS.contains(&name)
}

fn message_write(origin: &Origin, message: &Message<'_>) -> MessageWrite {
    let key = MessageKey::new(&origin.app, &message.message);
    let derived = &message.derived;
    // Most fields are small, and BSON is about as long as JSON.
    let mut document = bson::with_capacity(1024);
    document.append(cstr!("_id"), &*key.id);
    document.append(cstr!("app"), &*key.app);
    document.append(cstr!("provider"), origin.provider.as_str());
    let mut extra = RawDocumentBuf::new();
    for (name, value) in message.columns.iter() {
        let place = match is_ours(name) {
            true => &mut extra,
            false => &mut document,
        };
        bson::with_value(value, &mut |it| bson::append(place, name, it));
    }
    for (name, value) in message.extra.iter() {
        bson::with_value(value, &mut |it| bson::append(&mut extra, name, it));
    }
    if derived.counts.is_ok() {
        document.append(cstr!("state"), 0);
    }
    if derived.counts_in_team {
        document.append(cstr!("countsInTeam"), true);
    }
    if !derived.joined.is_empty() {
        let joined = derived.joined.iter().map(Account::as_str);
        document.append(cstr!("joined"), joined.collect::<RawArrayBuf>());
    }
    if let Some(order_id) = &derived.order_id {
        document.append(cstr!("orderId"), order_id.as_str());
    }
    if let Some(conversation) = &derived.conversation {
        document.append(cstr!("conversation"), conversation.as_str());
    }
    if let Some(sent_at) = message.sent_at {
        document.append(cstr!("sentAt"), date(sent_at));
    }
    document.append(cstr!("receivedAt"), date(origin.received_at));
    if !extra.is_empty() {
        document.append(cstr!("extra"), &extra);
    }
    let counts = derived.counts.as_ref().ok().map(|counts| {
        let pair = Pair {
            app: key.app.clone(),
            reader: key.to.clone(),
            peer: counts.peer.as_str().to_owned(),
        };
        (pair, counts.sent_at)
    });
    MessageWrite {
        key,
        document,
        counts,
    }
}

fn event_document(origin: &Origin, record: &Record<'_>) -> RawDocumentBuf {
    let mut document = bson::with_capacity(768);
    let id = format!("{}/{}", origin.app, record.key);
    document.append(cstr!("_id"), &*id);
    document.append(cstr!("app"), origin.app.as_str());
    document.append(cstr!("provider"), origin.provider.as_str());
    document.append(cstr!("product"), record.product.as_str());
    match &record.event_type {
        EventType::Number(number) => document.append(cstr!("eventType"), *number),
        EventType::Word(word) => document.append(cstr!("eventType"), word.as_str()),
    }
    document.append(cstr!("kind"), record.kind);
    for (name, account) in &record.accounts {
        bson::append(&mut document, name, account.as_str());
    }
    if let Some((name, at)) = record.at {
        bson::append(&mut document, name, at.get());
        document.append(cstr!("at"), date(at));
    }
    document.append(cstr!("receivedAt"), date(origin.received_at));
    document.append(cstr!("payload"), bson::columns(&record.payload));
    document
}

fn effect_write(origin: &Origin, record: &Record<'_>) -> Option<Write> {
    Some(match &record.effect {
        Effect::None => return None,
        Effect::Read(mark) => Write::Mark(mark_write(origin, mark)),
        Effect::Recall(recall) => Write::Change(statements::recall(origin, recall)),
        Effect::Edit(edit) => Write::Change(statements::edit(origin, edit)),
        Effect::Presence(presence) => Write::Presence(presence_change(origin, presence)),
    })
}

/// The write that raises a read mark.
pub(super) fn mark_write(origin: &Origin, mark: &ReadMark) -> MarkWrite {
    let (app, reader) = (origin.app.as_str(), mark.reader.as_str());
    let (id, pair) = match &mark.of {
        Conversation::Peer(peer) => {
            let pair = Pair {
                app: app.to_owned(),
                reader: reader.to_owned(),
                peer: peer.as_str().to_owned(),
            };
            (pair.mark_id(), Some(pair))
        }
        Conversation::Team(team) => (
            rawdoc! { "app": app, "reader": reader, "team": &**team },
            None,
        ),
    };
    MarkWrite {
        statement: statements::raise_mark(id, mark.up_to, date(origin.received_at)),
        up_to: mark.up_to,
        pair,
    }
}
