//! Events become documents: the analysts' interface, described for them in `docs/data-model.md`.
//!
//! A [`Write`] is one idempotent change. Facts about a message that come apart from it (a recall, an
//! edit) are merged onto the message's own `_id` by update pipelines that give the same document in
//! any order: what was sent is kept as a fact (`recall`, `edits`, `originalBody`), and what follows
//! from the facts (`state`, `body`) is derived anew each time by one stage, [`derive`].

use mongodb::bson::{Bson, DateTime, Document, doc};
use sha2::{Digest, Sha256};

use super::bson;
use crate::callback::event::{
    Class, Conversation, Decoded, Edit, Effect, Event, EventType, Message, MessageRef, Presence,
    ReadMark, Recall, Record,
};
use crate::callback::ids::{AppName, Millis, natural_key};
use crate::callback::json::{Fields, Json, RawValue, nested, scalar, view};

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
    pub fn mark_id(&self) -> Document {
        doc! { "app": &self.app, "reader": &self.reader, "peer": &self.peer }
    }
}

/// One idempotent change of the store.
#[derive(Debug)]
pub enum Write {
    /// Inserts a message.
    Message(MessageWrite),
    /// Merges a recall or an edit onto its message, which may not be there yet.
    Change(Change),
    /// Raises a read mark.
    Mark(MarkWrite),
    /// Replaces what is known of a device, if this is newer.
    Presence(PresenceWrite),
    /// Inserts the record of an event.
    Event(Document),
    /// Keeps a body that could not be decoded.
    DeadLetter(Document),
}

/// A message to insert.
#[derive(Debug)]
pub struct MessageWrite {
    /// Its place.
    pub key: MessageKey,
    /// The whole document.
    pub document: Document,
    /// The pair for which it counts as unread, and its time; `None` when it never counts.
    pub counts: Option<(Pair, Millis)>,
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
    fn new(app: &AppName, message: &MessageRef) -> Self {
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

/// A fact about a message that came apart from it.
#[derive(Debug)]
pub struct Change {
    key: MessageKey,
    facts: Document,
}

/// A read mark to raise.
#[derive(Debug)]
pub struct MarkWrite {
    /// The mark's `_id`.
    pub id: Document,
    /// Up to when everything is read.
    pub up_to: Millis,
    /// The pair whose messages become read; `None` for a team, whose messages carry no `state`.
    pub pair: Option<Pair>,
    now: DateTime,
}

/// A device's newest event, perhaps.
#[derive(Debug)]
pub struct PresenceWrite {
    id: String,
    document: Document,
    online: bool,
    at: Millis,
}

/// The writes that make one decoded callback part of the store.
pub fn writes(origin: &Origin, body: &[u8], decoded: &Decoded<'_>) -> Vec<Write> {
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
        let letter = dead_letter(
            origin,
            body,
            undecodable.reason.code(),
            &reason,
            &undecodable.path,
        );
        writes.push(Write::DeadLetter(letter));
    }
    writes
}

/// The document of a dead letter. Its `_id` is the body's digest, so a redelivery is no second letter.
pub fn dead_letter(origin: &Origin, body: &[u8], code: &str, reason: &str, path: &str) -> Document {
    let kept = match std::str::from_utf8(body) {
        Ok(text) => Bson::from(text),
        Err(_) => Bson::Binary(mongodb::bson::Binary {
            subtype: mongodb::bson::spec::BinarySubtype::Generic,
            bytes: body.to_vec(),
        }),
    };
    doc! {
        "_id": format!("{}/{}", origin.app, hex::encode(Sha256::digest(body))),
        "app": origin.app.as_str(),
        "provider": origin.provider,
        "code": code,
        "reason": reason,
        "path": path,
        "body": kept,
        "receivedAt": origin.received_at,
    }
}

fn date(at: Millis) -> DateTime {
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

fn typed(name: &str, raw: &RawValue) -> Bson {
    match column(name) {
        Column::Text => match scalar(raw) {
            Some(text) => Bson::String(text.into_owned()),
            None => bson::value(raw),
        },
        Column::Millis => scalar(raw)
            .and_then(|text| text.trim().parse().ok())
            .map_or_else(|| bson::value(raw), Bson::Int64),
        Column::Flag => match scalar(raw).as_deref() {
            Some("true" | "1") => Bson::Boolean(true),
            Some("false" | "0" | "") => Bson::Boolean(false),
            _ => bson::value(raw),
        },
        Column::Nested => bson::value(&nested(raw)),
        Column::Accounts => accounts(raw).unwrap_or_else(|| bson::value(raw)),
        Column::AsSent => bson::value(raw),
    }
}

/// The members of a team notice: a JSON array, or the provider's `[a, b]`, which is none.
fn accounts(raw: &RawValue) -> Option<Bson> {
    let lower = |account: &str| Bson::String(account.trim().to_lowercase());
    match view(&nested(raw)) {
        Json::Array(items) => items.iter().map(|i| Some(lower(&scalar(i)?))).collect(),
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
    let mut document = doc! {
        "_id": &key.id,
        "app": &key.app,
        "provider": origin.provider,
        "eventType": 1,
    };
    let mut extra = Document::new();
    for (name, raw) in message.fields.iter() {
        match name {
            "eventType" => continue,
            "to" => document.insert("to", &key.to),
            "fromAccount" => document.insert("fromAccount", message.from.as_str()),
            name if OUR_FIELDS.contains(&name) => extra.insert(bson::key(name), bson::value(raw)),
            name => document.insert(bson::key(name), typed(name, raw)),
        };
    }
    if message.counts {
        document.insert("state", 0);
    }
    if let Some(order_id) = &message.order_id {
        document.insert("orderId", order_id);
    }
    document.insert("sentAt", date(message.sent_at));
    document.insert("receivedAt", origin.received_at);
    if !extra.is_empty() {
        document.insert("extra", extra);
    }
    let counts = message.counts.then(|| {
        let pair = Pair {
            app: key.app.clone(),
            reader: key.to.clone(),
            peer: message.from.as_str().to_owned(),
        };
        (pair, message.sent_at)
    });
    MessageWrite {
        key,
        document,
        counts,
    }
}

fn event_document(origin: &Origin, record: &Record<'_>) -> Document {
    let mut document = doc! {
        "_id": format!("{}/{}", origin.app, record.key),
        "app": origin.app.as_str(),
        "provider": origin.provider,
        "product": record.product.as_str(),
        "eventType": match &record.event_type {
            EventType::Number(number) => Bson::Int32(*number),
            EventType::Word(word) => Bson::from(word),
        },
        "kind": record.kind,
    };
    for (name, account) in &record.accounts {
        document.insert(*name, account.as_str());
    }
    if let Some((name, at)) = record.at {
        document.insert(name, at.get());
        document.insert("at", date(at));
    }
    document.insert("receivedAt", origin.received_at);
    document.insert("payload", bson::document(&record.payload));
    document
}

fn effect_write(origin: &Origin, record: &Record<'_>) -> Option<Write> {
    Some(match &record.effect {
        Effect::None => return None,
        Effect::Read(mark) => Write::Mark(mark_write(origin, mark)),
        Effect::Recall(recall) => Write::Change(recall_change(origin, recall, &record.payload)),
        Effect::Edit(edit) => Write::Change(edit_change(origin, edit, &record.payload)),
        Effect::Presence(presence) => Write::Presence(presence_write(origin, presence)),
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
        Conversation::Team(team) => (doc! { "app": app, "reader": reader, "team": team }, None),
    };
    MarkWrite {
        id,
        up_to: mark.up_to,
        pair,
        now: origin.received_at,
    }
}

fn recall_change(origin: &Origin, recall: &Recall, payload: &Fields<'_>) -> Change {
    let mut fact = Document::new();
    // The time comes first because of two recalls of one message the lesser document is kept.
    if let Some(at) = recall.at {
        fact.insert("deleteTime", at.get());
        fact.insert("at", date(at));
    }
    if let Some(by) = &recall.by {
        fact.insert("by", by.as_str());
    }
    add_rest(&mut fact, payload, &["eventType", "msgId", "to"]);
    let mut facts = stub(origin, &recall.message);
    facts.insert("recall", doc! { "$min": ["$recall", { "$literal": fact }] });
    Change {
        key: MessageKey::new(&origin.app, &recall.message),
        facts,
    }
}

fn edit_change(origin: &Origin, edit: &Edit, payload: &Fields<'_>) -> Change {
    // The time comes first because of several edits the greatest document is the latest.
    let mut fact = doc! { "modifyTime": edit.at.get(), "at": date(edit.at) };
    if let Some(by) = &edit.by {
        fact.insert("by", by.as_str());
    }
    if let Some(text) = &edit.text {
        fact.insert("text", text);
    }
    add_rest(
        &mut fact,
        payload,
        &["eventType", "msgId", "to", "modifyAccountId"],
    );
    let mut facts = stub(origin, &edit.message);
    facts.insert(
        "edits",
        doc! { "$sortArray": {
            "input": { "$setUnion": [{ "$ifNull": ["$edits", []] }, [{ "$literal": fact }]] },
            "sortBy": { "modifyTime": 1, "text": 1 },
        } },
    );
    // The first edit to meet the message keeps the text it replaces.
    facts.insert(
        "originalBody",
        doc! { "$cond": [
            { "$and": [is_there("$receivedAt"), { "$not": [is_there("$edits")] }] },
            "$body",
            "$originalBody",
        ] },
    );
    Change {
        key: MessageKey::new(&origin.app, &edit.message),
        facts,
    }
}

/// What a message's document says before the message itself has come. `_id`, `app` and `to` come from
/// the filter.
fn stub(origin: &Origin, message: &MessageRef) -> Document {
    let conv_type = match message.class {
        Class::P2p => "PERSON",
        Class::Team => "TEAM",
        Class::SuperTeam => "SUPER_TEAM",
        Class::CustomPerson => "CUSTOM_PERSON",
        Class::CustomTeam => "CUSTOM_TEAM",
    };
    let if_absent = |field: &str, value: &str| {
        doc! { "$ifNull": [format!("${field}"), { "$literal": value }] }
    };
    doc! {
        "provider": if_absent("provider", origin.provider),
        "convType": if_absent("convType", conv_type),
        "msgidServer": if_absent("msgidServer", &message.id),
    }
}

fn add_rest(fact: &mut Document, payload: &Fields<'_>, taken: &[&str]) {
    for (name, raw) in payload.iter() {
        if !taken.contains(&name) && !fact.contains_key(name) {
            let value = match name {
                "from" => scalar(raw).map_or(Bson::Null, |from| Bson::String(from.to_lowercase())),
                name => typed(name, raw),
            };
            fact.insert(bson::key(name), value);
        }
    }
}

fn presence_write(origin: &Origin, presence: &Presence) -> PresenceWrite {
    let device = if presence.device_id.is_empty() {
        &presence.client_type
    } else {
        &presence.device_id
    };
    let app = origin.app.as_str();
    let id = natural_key([app, presence.account.as_str(), device]);
    let mut document = doc! {
        "_id": &id,
        "app": app,
        "provider": origin.provider,
        "account": presence.account.as_str(),
        "device": device,
        "clientType": &presence.client_type,
        "state": if presence.online { "online" } else { "offline" },
        "since": date(presence.at),
        "lastEventTime": presence.at.get(),
        "lastEventAt": date(presence.at),
    };
    if presence.device_id.is_empty() {
        // Whether a device or only a kind of client is meant must be seen without guessing.
        document.insert("deviceId", Bson::Null);
    } else {
        document.insert("deviceId", &presence.device_id);
    }
    PresenceWrite {
        id,
        document,
        online: presence.online,
        at: presence.at,
    }
}

fn is_there(field: &str) -> Document {
    doc! { "$ne": [{ "$type": field }, "missing"] }
}

impl MessageWrite {
    /// Fills a message into the document that a recall or an edit made before it came. Touches no
    /// document that already holds a message.
    pub fn fill_in(&self) -> Document {
        let mut filter = self.key.filter();
        filter.insert("receivedAt", doc! { "$exists": false });
        doc! {
            "q": filter,
            "u": [
                { "$replaceWith": { "$mergeObjects": ["$$ROOT", { "$literal": &self.document }] } },
                { "$set": { "originalBody": { "$cond": [is_there("$edits"), "$body", "$originalBody"] } } },
                derive(),
            ],
        }
    }
}

impl Change {
    /// The upsert that merges the fact.
    pub fn statement(&self) -> Document {
        doc! { "q": self.key.filter(), "u": [{ "$set": &self.facts }, derive()], "upsert": true }
    }
}

/// What follows from the facts on a message: a recalled message is not unread, and the body of an
/// edited one is its latest edit's text.
fn derive() -> Document {
    let with_text = doc! { "$filter": {
        "input": { "$ifNull": ["$edits", []] },
        "cond": is_there("$$this.text"),
    } };
    doc! { "$set": {
        "state": { "$cond": [
            { "$and": [{ "$eq": ["$state", 0] }, is_there("$recall")] },
            1,
            "$state",
        ] },
        "body": { "$let": {
            "vars": { "latest": { "$max": with_text } },
            "in": { "$cond": [
                { "$and": [is_there("$receivedAt"), is_there("$$latest.text")] },
                "$$latest.text",
                "$body",
            ] },
        } },
    } }
}

impl MarkWrite {
    /// The upsert that raises the mark, and touches nothing when it is as high already.
    pub fn statement(&self) -> Document {
        let up_to = self.up_to.get();
        let rises = doc! { "$gt": [up_to, { "$ifNull": ["$readUpTo", -1_i64] }] };
        doc! {
            "q": { "_id": &self.id },
            "u": [{ "$set": {
                "readUpTo": { "$max": ["$readUpTo", up_to] },
                "updatedAt": { "$cond": [rises, self.now, "$updatedAt"] },
            } }],
            "upsert": true,
        }
    }
}

impl PresenceWrite {
    /// The upsert that replaces the device's document if this event is newer. At the same time a
    /// logout wins: who logs in and out within one millisecond is gone.
    pub fn statement(&self) -> Document {
        let at = self.at.get();
        let known = doc! { "$ifNull": ["$lastEventTime", -1_i64] };
        let logged_out_at_once = doc! { "$and": [
            !self.online,
            { "$eq": [known.clone(), at] },
            { "$eq": ["$state", "online"] },
        ] };
        let newer = doc! { "$or": [{ "$gt": [at, known] }, logged_out_at_once] };
        doc! {
            "q": { "_id": &self.id },
            "u": [{ "$replaceWith": { "$cond": [newer, { "$literal": &self.document }, "$$ROOT"] } }],
            "upsert": true,
        }
    }
}

/// Marks a pair's messages as read up to its mark.
pub fn settle(pair: &Pair, read_up_to: i64) -> Document {
    doc! {
        "q": {
            "app": &pair.app,
            "to": &pair.reader,
            "state": 0,
            "fromAccount": &pair.peer,
            "msgTimestamp": { "$lte": read_up_to },
        },
        "u": { "$set": { "state": 1, "readAt": DateTime::from_millis(read_up_to) } },
        "multi": true,
    }
}

/// An update of `read_marks` that finds nothing and changes nothing: to confirm it is to confirm all
/// that was written before it, since MongoDB makes a write without effect wait for its whole log.
pub fn confirmation() -> Document {
    doc! { "q": { "_id": "confirmation" }, "u": { "$set": { "readUpTo": 0_i64 } } }
}
