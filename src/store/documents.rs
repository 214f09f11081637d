//! Events become documents: the analysts' interface, described for them in `docs/data-model.md`.
//!
//! A [`Write`] is one idempotent change; the update statements are in `statements`.

use bytes::Bytes;
use mongodb::bson::{
    Bson, DateTime, Document, RawArrayBuf, RawBsonRef, RawDocumentBuf, cstr, doc, rawdoc,
};
use sha2::{Digest, Sha256};

use super::{bson, statements};
use crate::callback::event::{
    Conversation, Decoded, Effect, Event, EventType, Message, MessageRef, ReadMark, Record,
};
use crate::callback::ids::{AppName, Millis};
use crate::callback::json::{Json, RawValue, nested, scalar, view};

/// Where and when a callback came in.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The app it is for.
    pub app: AppName,
    /// The provider's name, such as `netease`.
    pub provider: &'static str,
    /// When it came, by this machine's clock.
    pub received_at: DateTime,
}

/// The provider's name in documents.
const PROVIDER: &str = "netease";

impl Origin {
    /// A callback of an app, at this time.
    pub fn new(app: &AppName, received_at: DateTime) -> Self {
        Self {
            app: app.clone(),
            provider: PROVIDER,
            received_at,
        }
    }
}

/// A verified callback, whole: what is kept of it until all that it says is stored. Not `Debug`: it holds
/// a message's text.
#[derive(Clone)]
pub struct Received {
    /// Where and when it came in.
    pub origin: Origin,
    /// The header by which products that share an address tell themselves apart.
    pub product: Option<Box<str>>,
    /// Its body, byte for byte as it was signed.
    pub body: Bytes,
}

/// A reader and the peer whose messages are read or unread.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pair {
    /// The app's name.
    pub app: String,
    /// Who reads.
    pub reader: String,
    /// Who wrote.
    pub peer: String,
}

impl Pair {
    /// The `_id` of the pair's read mark. Field order is part of an `_id`.
    pub fn mark_id(&self) -> RawDocumentBuf {
        rawdoc! { "app": &*self.app, "reader": &*self.reader, "peer": &*self.peer }
    }
}

/// One idempotent change of the store: documents to insert and update statements to run, already in the
/// bytes that are sent. They may hold a message's text, so none of these types is `Debug`.
pub enum Write {
    /// Inserts a message.
    Message(MessageWrite),
    /// Merges a recall or an edit onto its message, which may not be there yet.
    Change(RawDocumentBuf),
    /// Raises a read mark.
    Mark(MarkWrite),
    /// Replaces what is known of a device, if this is newer.
    Presence(RawDocumentBuf),
    /// Inserts the record of an event.
    Event(RawDocumentBuf),
    /// Keeps a body that could not be decoded.
    DeadLetter(RawDocumentBuf),
}

impl Write {
    /// The size of what is sent to MongoDB, in bytes.
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

/// A message to insert.
pub struct MessageWrite {
    /// Its place.
    pub key: MessageKey,
    /// The whole document.
    pub document: RawDocumentBuf,
    /// The pair for which it counts as unread, and its time; `None` when it never counts.
    pub counts: Option<(Pair, Millis)>,
}

/// A read mark to raise.
pub struct MarkWrite {
    /// The upsert that raises it, and touches nothing when it is as high already.
    pub statement: RawDocumentBuf,
    /// Up to where it is raised.
    pub up_to: Millis,
    /// The pair whose messages become read; `None` for a team, whose messages carry no `state`.
    pub pair: Option<Pair>,
}

/// A message's place. Every write to a message names all three, so that it can be routed when the
/// collection is sharded by `{app, to}`.
#[derive(Debug, Clone)]
pub struct MessageKey {
    /// `{app}/{class}/{msgidServer}`
    pub id: String,
    /// The app's name.
    pub app: String,
    /// The receiving account, lower-cased, or the team's number.
    pub to: String,
}

impl MessageKey {
    /// The place of a message that something speaks of.
    pub fn new(app: &AppName, message: &MessageRef) -> Self {
        Self {
            id: format!("{app}/{}/{}", message.class.as_str(), message.id),
            app: app.to_string(),
            to: message.to.clone(),
        }
    }

    /// The filter that finds it.
    pub fn filter(&self) -> Document {
        doc! { "_id": &self.id, "app": &self.app, "to": &self.to }
    }
}

/// The writes that make one decoded callback part of the store.
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
        let letter = dead_letter(received, code, &reason, &undecodable.path);
        writes.push(Write::DeadLetter(letter));
    }
    writes
}

/// The code of a dead letter whose document MongoDB refuses.
pub const STORE_REFUSED: &str = "store_refused";

/// The document of a dead letter. Its `_id` is the body's digest, so a redelivery is no second letter.
pub fn dead_letter(received: &Received, code: &str, reason: &str, path: &str) -> RawDocumentBuf {
    let Received {
        origin,
        product,
        body,
    } = received;
    let kept = match std::str::from_utf8(body) {
        Ok(text) => Bson::from(text),
        Err(_) => Bson::Binary(mongodb::bson::Binary {
            subtype: mongodb::bson::spec::BinarySubtype::Generic,
            bytes: body.to_vec(),
        }),
    };
    let mut letter = doc! {
        "_id": format!("{}/{}", origin.app, hex::encode(Sha256::digest(body))),
        "app": origin.app.as_str(),
        "provider": origin.provider,
        "code": code,
        "reason": reason,
        "path": path,
        "body": kept,
        "receivedAt": origin.received_at,
    };
    if let Some(product) = product {
        letter.insert("product", &**product);
    }
    raw(&letter)
}

/// The bytes of a document.
pub(super) fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).expect("a document whose keys went through `bson::key`")
}

pub(super) fn date(at: Millis) -> DateTime {
    DateTime::from_millis(at.get())
}

/// How a field of a message, a recall or an edit is stored, however it was sent.
enum Column {
    Text,
    Millis,
    Flag,
    Nested,
    Accounts,
    AsSent,
}

fn column(name: &str) -> Column {
    match name {
        "body" | "clientId" | "convType" | "customApnsText" | "customSafeFlag" | "fromAccount"
        | "fromClientType" | "fromDeviceId" | "fromNick" | "ip" | "msgId" | "msgType"
        | "msgidClient" | "msgidServer" | "port" | "resendFlag" | "selfMsg" | "subType"
        | "text" | "to" => Column::Text,
        "msgTimestamp" | "sendTime" | "deleteTime" | "modifyTime" => Column::Millis,
        "antispam" | "blacklist" => Column::Flag,
        "attach" | "attachment" | "aiParams" | "ext" | "extension" | "yidunRes" => Column::Nested,
        "tMembers" => Column::Accounts,
        _ => Column::AsSent,
    }
}

/// Converts a field's value to the type of its column, and gives it to `take`, once.
fn with_typed(name: &str, raw: &RawValue, take: &mut dyn FnMut(RawBsonRef<'_>)) {
    match column(name) {
        Column::Text => match scalar(raw) {
            Some(text) => take(RawBsonRef::String(&text)),
            None => bson::with(raw, take),
        },
        Column::Millis => match scalar(raw).and_then(|text| text.trim().parse().ok()) {
            Some(millis) => take(RawBsonRef::Int64(millis)),
            None => bson::with(raw, take),
        },
        Column::Flag => match scalar(raw).as_deref() {
            Some("true" | "1") => take(RawBsonRef::Boolean(true)),
            Some("false" | "0" | "") => take(RawBsonRef::Boolean(false)),
            _ => bson::with(raw, take),
        },
        Column::Nested => bson::with(&nested(raw), take),
        Column::Accounts => match accounts(raw) {
            Some(accounts) => take(RawBsonRef::Array(&accounts)),
            None => bson::with(raw, take),
        },
        Column::AsSent => bson::with(raw, take),
    }
}

/// A field's value in the type of its column.
pub(super) fn typed(name: &str, raw: &RawValue) -> Bson {
    let mut value = Bson::Null;
    with_typed(name, raw, &mut |it| value = bson::owned(it));
    value
}

/// The members of a team notice: a JSON array, or the provider's `[a, b]`, which is none.
fn accounts(raw: &RawValue) -> Option<RawArrayBuf> {
    let lower = |account: &str| account.trim().to_lowercase();
    match view(&nested(raw)) {
        Json::Array(items) => {
            let accounts = items.iter().map(|i| Some(lower(&scalar(i)?)));
            Some(accounts.collect::<Option<Vec<_>>>()?.into_iter().collect())
        }
        Json::Text(text) => {
            let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?;
            Some(
                inner
                    .split(',')
                    .filter(|account| !account.trim().is_empty())
                    .map(lower)
                    .collect(),
            )
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Object(_) => None,
    }
}

/// Field names of `messages` that are ours. A field that a provider sends under one of them goes
/// into `extra`, where it can neither be lost nor be taken for ours.
const OUR_FIELDS: &[&str] = &[
    "_id",
    "app",
    "provider",
    "state",
    "orderId",
    "sentAt",
    "receivedAt",
    "readAt",
    "recall",
    "edits",
    "originalBody",
    "extra",
];

fn message_write(origin: &Origin, message: &Message<'_>) -> MessageWrite {
    let key = MessageKey::new(&origin.app, &message.message);
    // Most fields are small, and BSON is about as long as JSON.
    let mut document = bson::with_capacity(1024);
    document.append(cstr!("_id"), &*key.id);
    document.append(cstr!("app"), &*key.app);
    document.append(cstr!("provider"), origin.provider);
    document.append(cstr!("eventType"), 1);
    let mut extra = RawDocumentBuf::new();
    for (name, value) in message.fields.iter() {
        match (name, &message.from) {
            ("eventType", _) => {}
            ("to", _) => document.append(cstr!("to"), &*key.to),
            ("fromAccount", Some(from)) => document.append(cstr!("fromAccount"), from.as_str()),
            (name, _) if OUR_FIELDS.contains(&name) => {
                bson::with(value, &mut |it| bson::append(&mut extra, name, it));
            }
            (name, _) => with_typed(name, value, &mut |it| bson::append(&mut document, name, it)),
        }
    }
    if message.counts.is_some() {
        document.append(cstr!("state"), 0);
    }
    if let Some(order_id) = &message.order_id {
        document.append(cstr!("orderId"), order_id.as_str());
    }
    if let Some(sent_at) = message.sent_at {
        document.append(cstr!("sentAt"), date(sent_at));
    }
    document.append(cstr!("receivedAt"), origin.received_at);
    if !extra.is_empty() {
        document.append(cstr!("extra"), &extra);
    }
    let counts = message.counts.as_ref().map(|counts| {
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
    document.append(cstr!("provider"), origin.provider);
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
    document.append(cstr!("receivedAt"), origin.received_at);
    document.append(cstr!("payload"), bson::document(&record.payload));
    document
}

fn effect_write(origin: &Origin, record: &Record<'_>) -> Option<Write> {
    let payload = &record.payload;
    Some(match &record.effect {
        Effect::None => return None,
        Effect::Read(mark) => Write::Mark(mark_write(origin, mark)),
        Effect::Recall(recall) => Write::Change(statements::recall(origin, recall, payload)),
        Effect::Edit(edit) => Write::Change(statements::edit(origin, edit, payload)),
        Effect::Presence(presence) => Write::Presence(statements::presence(origin, presence)),
    })
}

fn mark_write(origin: &Origin, mark: &ReadMark) -> MarkWrite {
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
        statement: statements::raise_mark(id, mark.up_to, origin.received_at),
        up_to: mark.up_to,
        pair,
    }
}
