//! Update statements for recalls, edits and marks.
//!
//! A recall or an edit may arrive before or after its message. It is merged into the document with the message's
//! `_id` by an update pipeline that gives the same document in any order: what was sent is stored as a fact
//! (`recall`, `edits`, `originalBody`), and one stage, [`derive()`], computes `state`, `countsInTeam` and `body` from
//! the facts each time. Everything that a provider sent is put into `$literal`, so that a text such as `$body` stays a text.

use mongodb::bson::{DateTime, Document, RawDocument, RawDocumentBuf, doc, rawdoc};

use super::bson::{self, date, raw};
use super::indexes::UNREAD_BY_PEER;
use super::place::{MessageKey, Pair};
use crate::callback::Origin;
use crate::callback::columns::Columns;
use crate::callback::event::{Edit, MessageRef, Recall};
use crate::callback::ids::Millis;

/// Merges a recall.
pub fn recall(origin: &Origin, recall: &Recall<'_>) -> RawDocumentBuf {
    let mut fact = Document::new();
    // The time comes first: of two recalls of a message the lesser document is kept, which is the earlier one.
    if let Some((name, at)) = recall.at {
        fact.insert(name, at.get());
        fact.insert("at", date(at));
    }
    if let Some(by) = &recall.by {
        fact.insert("by", by.as_str());
    }
    add_rest(&mut fact, &recall.rest);
    let mut facts = stub(origin, &recall.message);
    facts.insert("recall", doc! { "$min": ["$recall", { "$literal": fact }] });
    merge(origin, &recall.message, facts)
}

/// Merges an edit.
pub fn edit(origin: &Origin, edit: &Edit<'_>) -> RawDocumentBuf {
    // The time comes first: of several edits the greatest document wins, which is the latest one.
    let (name, at) = edit.at;
    let mut fact = doc! { name: at.get(), "at": date(at) };
    if let Some(by) = &edit.by {
        fact.insert("by", by.as_str());
    }
    if let Some(text) = &edit.text {
        fact.insert("text", text);
    }
    add_rest(&mut fact, &edit.rest);
    let mut facts = stub(origin, &edit.message);
    facts.insert(
        "edits",
        doc! { "$sortArray": {
            "input": { "$setUnion": [{ "$ifNull": ["$edits", []] }, [{ "$literal": fact }]] },
            "sortBy": 1,
        } },
    );
    // The first edit that meets the message keeps the text it replaces.
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

/// The fields of a message's document before the message itself is stored. The filter adds `_id`, `app` and `to`.
fn stub(origin: &Origin, message: &MessageRef) -> Document {
    let if_absent = |field: &str, value: &str| {
        doc! { "$ifNull": [format!("${field}"), { "$literal": value }] }
    };
    doc! {
        "provider": if_absent("provider", origin.provider.as_str()),
        "convType": if_absent("convType", message.class.conv_type()),
        "msgidServer": if_absent("msgidServer", &message.id),
    }
}

fn add_rest(fact: &mut Document, rest: &Columns<'_>) {
    for (name, value) in rest.iter() {
        let name = bson::key(name);
        if !fact.contains_key(&*name) {
            fact.insert(name.into_owned(), bson::of_value(value));
        }
    }
}

/// Fills a message into the document that an earlier recall or edit left. Has no effect if the document already
/// contains a message.
pub fn fill_in(key: &MessageKey, message: &RawDocument) -> RawDocumentBuf {
    let mut filter = key.filter();
    filter.insert("receivedAt", doc! { "$exists": false });
    let document = as_document(message);
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

/// Derives fields from the facts of a message: a recalled message is neither unread nor was it read, nor does it count
/// in its team, and the body of an edited message is the text of its latest edit. A `text` that is no text, such as `null`, changes nothing.
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
        "countsInTeam": { "$cond": [
            { "$and": [is_there("$countsInTeam"), is_there("$recall")] },
            false,
            "$countsInTeam",
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

/// An expression: whether a field exists. The name is written as `$field`.
pub fn is_there(field: &str) -> Document {
    doc! { "$ne": [{ "$type": field }, "missing"] }
}

/// Raises a read mark. The fields besides `_id` are keys of the index by which counts read marks.
pub fn raise_mark(id: RawDocumentBuf, up_to: Millis, now: DateTime) -> RawDocumentBuf {
    rawdoc! {
        "q": { "_id": id.clone() },
        "u": { "$max": { "readUpTo": up_to.get(), "updatedAt": now }, "$set": id },
        "upsert": true,
    }
}

/// Marks a pair's messages up to its mark as read.
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

/// An update that matches and changes nothing.
pub fn without_effect() -> RawDocumentBuf {
    rawdoc! { "q": { "_id": "probe" }, "u": { "$set": { "readUpTo": 0_i64 } } }
}
