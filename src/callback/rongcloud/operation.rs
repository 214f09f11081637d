//! Operations on messages that were sent (消息操作状态同步): a recall, or a deletion for one user.

use super::decode::record;
use super::types::{Channel, RECALL_TIME, of_recall, recall_kind};
use crate::callback::columns::Columns;
use crate::callback::event::{Effect, Event, MessageRef, Recall, Record};
use crate::callback::fields::{
    Result, digest, optional, optional_millis, own, part, required, within,
};
use crate::callback::ids::{Account, Millis, natural_key};
use crate::callback::json::Fields;

/// Decodes an operation by its `eventType`: 1 is a recall; 2 is a deletion for one user, which changes no message.
pub fn operation<'a>(body: &[u8], fields: Fields<'a>) -> Result<Event<'a>> {
    match optional(&fields, "eventType").as_deref() {
        Some("1") => recall(body, fields),
        Some("2") => Ok(as_it_came("message_delete", body, fields)),
        _ => Ok(as_it_came("unknown", body, fields)),
    }
}

/// An operation without effect. It has no certain id, so its key is the digest of the body.
fn as_it_came<'a>(kind: &'static str, body: &[u8], fields: Fields<'a>) -> Event<'a> {
    let key = natural_key(["operation", &digest(body)]);
    let at = optional_millis(&fields, "optTime").ok().flatten();
    by_operator(kind, key, at, fields, Effect::None)
}

fn by_operator<'a>(
    kind: &'static str,
    key: String,
    at: Option<Millis>,
    fields: Fields<'a>,
    effect: Effect<'a>,
) -> Event<'a> {
    let from = optional(&fields, "fromUserId").map(Account::new);
    Event::Record(Record {
        accounts: from.into_iter().map(|id| ("fromUserId", id)).collect(),
        at: at.map(|at| ("optTime", at)),
        effect,
        ..record(kind, "message_operation", key, Columns::as_sent(fields))
    })
}

fn recall<'a>(body: &[u8], fields: Fields<'a>) -> Result<Event<'a>> {
    let conversation = part(&fields, "conversationInfo")?;
    let of_conversation = |name| within("conversationInfo", required(&conversation, name));
    let class = match Channel::parse(&of_conversation("conversationType")?) {
        Channel::Class(class) => class,
        Channel::Recorded(kind) => return Ok(as_it_came(kind, body, fields)),
    };
    let original = part(&fields, "originalMsgInfo")?;
    let message = MessageRef {
        class,
        id: within("originalMsgInfo", required(&original, "messageId"))?.into_owned(),
        to: of_conversation("targetId")?.into_owned(),
    };
    let at = optional_millis(&fields, "optTime")?;
    let by = optional(&fields, "fromUserId").map(Account::new);
    let key = natural_key([
        "operation",
        "1",
        class.as_str(),
        &message.to,
        &message.id,
        by.as_ref().map_or("", Account::as_str),
        &at.map(|at| at.get().to_string()).unwrap_or_default(),
    ]);
    let effect = Effect::Recall(Recall {
        message,
        at: at.map(|at| (RECALL_TIME, at)),
        by,
        rest: rest(&fields),
    });
    Ok(by_operator(recall_kind(class), key, at, fields, effect))
}

/// The other fields of a recall, which are stored with the message.
fn rest<'a>(fields: &Fields<'a>) -> Columns<'a> {
    let mut rest = fields.clone();
    let parts = [
        "originalMsgInfo",
        "conversationInfo",
        "recallMsgInfo",
        "eventType",
        "fromUserId",
    ];
    parts.iter().for_each(|name| rest.remove(name));
    if let Some(recall) = fields.get("recallMsgInfo").and_then(|raw| own(raw.get())) {
        rest.add_missing(&recall);
    }
    Columns::of(rest, of_recall)
}

/// The records of a message's recall: each has this key, or a longer one. A recall that comes as a command (`RC:RcCmd`)
/// has its own id in its key instead.
pub fn change_keys(message: &MessageRef) -> Vec<String> {
    let (class, to, id) = (message.class.as_str(), &message.to, &message.id);
    vec![natural_key(["operation", "1", class, to, id])]
}
