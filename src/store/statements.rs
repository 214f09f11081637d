//! The update statements: facts that come apart from their message, marks, presence.
//!
//! Facts about a message that come apart from it (a recall, an edit) are merged onto the message's own
//! `_id` by update pipelines that give the same document in any order: what was sent is kept as a fact
//! (`recall`, `edits`, `originalBody`), and what follows from the facts (`state`, `body`) is derived anew
//! each time by one stage, [`derive()`]. Whatever a provider sent stands in a `$literal`, so that a text
//! such as `$body` stays a text.

use mongodb::bson::{
    Bson, DateTime, Document, RawBsonRef, RawDocument, RawDocumentBuf, cstr, doc, rawdoc,
};

use super::bson;
use super::documents::{MessageKey, MessageWrite, Origin, Pair, date, raw, typed};
use super::indexes::UNREAD_BY_PEER;
use crate::callback::event::{Class, Edit, MessageRef, Presence, Recall};
use crate::callback::ids::{Millis, natural_key};
use crate::callback::json::{Fields, scalar};

/// Merges a recall.
pub fn recall(origin: &Origin, recall: &Recall, payload: &Fields<'_>) -> RawDocumentBuf {
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
    merge(origin, &recall.message, facts)
}

/// Merges an edit.
pub fn edit(origin: &Origin, edit: &Edit, payload: &Fields<'_>) -> RawDocumentBuf {
    // The time comes first because of several edits the greatest document is the latest.
    let mut fact = doc! { "modifyTime": edit.at.get(), "at": date(edit.at) };
    if let Some(by) = &edit.by {
        fact.insert("by", by.as_str());
    }
    if let Some(text) = &edit.text {
        fact.insert("text", text);
    }
    let taken = ["eventType", "msgId", "to", "modifyAccountId"];
    add_rest(&mut fact, payload, &taken);
    let mut facts = stub(origin, &edit.message);
    facts.insert(
        "edits",
        doc! { "$sortArray": {
            "input": { "$setUnion": [{ "$ifNull": ["$edits", []] }, [{ "$literal": fact }]] },
            "sortBy": 1,
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
    merge(origin, &edit.message, facts)
}

fn merge(origin: &Origin, message: &MessageRef, facts: Document) -> RawDocumentBuf {
    let filter = MessageKey::new(&origin.app, message).filter();
    raw(&doc! { "q": filter, "u": [{ "$set": facts }, derive()], "upsert": true })
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
    for (name, value) in payload.iter() {
        if !taken.contains(&name) && !fact.contains_key(name) {
            let value = match name {
                "from" => {
                    scalar(value).map_or(Bson::Null, |from| Bson::String(from.to_lowercase()))
                }
                name => typed(name, value),
            };
            fact.insert(bson::key(name).into_owned(), value);
        }
    }
}

/// Fills a message into the document that a recall or an edit made before it came. Touches no document
/// that already holds a message.
pub fn fill_in(message: &MessageWrite) -> RawDocumentBuf {
    let mut filter = message.key.filter();
    filter.insert("receivedAt", doc! { "$exists": false });
    let document = as_document(&message.document);
    let keep = doc! { "$cond": [is_there("$edits"), "$body", "$originalBody"] };
    raw(&doc! {
        "q": filter,
        "u": [
            { "$replaceWith": { "$mergeObjects": ["$$ROOT", { "$literal": document }] } },
            { "$set": { "originalBody": keep } },
            derive(),
        ],
    })
}

fn as_document(raw: &RawDocument) -> Document {
    Document::try_from(raw).expect("bytes that were made of a document")
}

/// What follows from the facts on a message: a recalled message is not unread and was not read, and the
/// body of an edited one is its latest edit's text. What was sent as `text` and is none, such as `null`,
/// changes no text.
pub fn derive() -> Document {
    let with_text = doc! { "$filter": {
        "input": { "$ifNull": ["$edits", []] },
        "cond": { "$eq": [{ "$type": "$$this.text" }, "string"] },
    } };
    doc! { "$set": {
        "state": { "$cond": [
            { "$and": [{ "$eq": ["$state", 0] }, is_there("$recall")] },
            1,
            "$state",
        ] },
        "readAt": { "$cond": [is_there("$recall"), "$$REMOVE", "$readAt"] },
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

/// Whether a field is there, as an expression; the name is written `$field`.
pub fn is_there(field: &str) -> Document {
    doc! { "$ne": [{ "$type": field }, "missing"] }
}

/// Raises a read mark. The names beside the `_id` are keys of the index that counts read marks by.
pub fn raise_mark(id: RawDocumentBuf, up_to: Millis, now: DateTime) -> RawDocumentBuf {
    rawdoc! {
        "q": { "_id": id.clone() },
        "u": { "$max": { "readUpTo": up_to.get(), "updatedAt": now }, "$set": id },
        "upsert": true,
    }
}

/// Replaces a device's document if this event is newer. At the same time a logout wins: who logs in and
/// out within one millisecond is gone.
pub fn presence(origin: &Origin, presence: &Presence) -> RawDocumentBuf {
    let device: &str = if presence.device_id.is_empty() {
        &presence.client_type
    } else {
        &presence.device_id
    };
    let app = origin.app.as_str();
    let at = presence.at.get();
    let id = natural_key([app, presence.account.as_str(), device]);
    let mut document = rawdoc! {
        "_id": &*id,
        "app": app,
        "provider": origin.provider,
        "account": presence.account.as_str(),
        "device": device,
        "clientType": &*presence.client_type,
        "state": if presence.online { "online" } else { "offline" },
        "since": date(presence.at),
        "lastEventTime": at,
        "lastEventAt": date(presence.at),
    };
    if presence.device_id.is_empty() {
        // Whether a device or only a kind of client is meant must be seen without guessing.
        document.append(cstr!("deviceId"), RawBsonRef::Null);
    } else {
        document.append(cstr!("deviceId"), &*presence.device_id);
    }
    let known = rawdoc! { "$ifNull": ["$lastEventTime", -1_i64] };
    let logged_out_at_once = rawdoc! { "$and": [
        !presence.online,
        { "$eq": [known.clone(), at] },
        { "$eq": ["$state", "online"] },
    ] };
    let newer = rawdoc! { "$or": [{ "$gt": [at, known] }, logged_out_at_once] };
    rawdoc! {
        "q": { "_id": &*id },
        "u": [{ "$replaceWith": { "$cond": [newer, { "$literal": document }, "$$ROOT"] } }],
        "upsert": true,
    }
}

/// Says of a pair's messages up to its mark that they are read.
pub fn apply_mark(pair: &Pair, read_up_to: i64) -> RawDocumentBuf {
    rawdoc! {
        "q": {
            "app": &*pair.app,
            "to": &*pair.reader,
            "state": 0,
            "fromAccount": &*pair.peer,
            "msgTimestamp": { "$lte": read_up_to },
        },
        "u": { "$set": { "state": 1, "readAt": DateTime::from_millis(read_up_to) } },
        "multi": true,
        "hint": UNREAD_BY_PEER,
    }
}

/// An update that finds nothing and changes nothing.
pub fn without_effect() -> RawDocumentBuf {
    rawdoc! { "q": { "_id": "probe" }, "u": { "$set": { "readUpTo": 0_i64 } } }
}
