//! Routed messages (全量消息路由): each callback is one form.

use std::borrow::Cow;

use super::decode::record;
use super::types::{self, Channel, RECALL_TIME, of_recall, recall_kind};
use super::{RongcloudRules, Weight};
use crate::callback::columns::{Columns, Value};
use crate::callback::event::{
    COMMON_COLUMNS, Class, Conversation, Effect, Event, Message, MessageRef, ReadMark, Reason,
    Recall, Record,
};
use crate::callback::fields::{
    Result, digest, optional, optional_millis, part, read_up_to, required, undecodable, within,
};
use crate::callback::ids::{Account, Millis, natural_key};
use crate::callback::json::{Fields, Json, RawValue, nested, scalar, view};

/// Decodes a body that was received at `arrived`. A message that the app shows becomes a message; receipts,
/// commands and status messages become records.
pub fn route<'r>(body: &[u8], arrived: Millis, rules: &RongcloudRules) -> Result<Event<'r>> {
    if !body.contains(&b'=') {
        return Err(undecodable("", Reason::BadValue("a form or JSON")));
    }
    let fields = Fields::from_form(body)
        .ok_or_else(|| undecodable("", Reason::BadValue("at most 10,000 parameters")))?;
    if looks_synchronous(&fields) {
        return Err(undecodable("objectName", Reason::SynchronousCallback));
    }
    let object_name = id(&fields, "objectName")?.into_owned();
    let channel = Channel::parse(&required(&fields, "channelType")?);
    let routed = Routed {
        channel,
        to: either(&fields, "toUserId", "targetId"),
        time: either(&fields, "msgTimestamp", "timestamp"),
        fields,
        object_name,
        body,
    };
    let class = match channel {
        Channel::Class(class) => class,
        Channel::Recorded(kind) => return Ok(routed.record(kind, Effect::None)),
    };
    Ok(match routed.object_name.as_str() {
        types::READ => match class {
            Class::P2p => routed.receipt(arrived)?,
            Class::Team | Class::SuperTeam | Class::CustomPerson | Class::CustomTeam => {
                routed.record("group_receipt", Effect::None)
            }
        },
        types::RECEIPT_REQUEST => routed.record("receipt_request", Effect::None),
        types::RECEIPT_RESPONSE => routed.record("group_receipt", Effect::None),
        // It does not name the peer reliably, so it raises no read mark.
        types::READ_SYNC => routed.record("read_sync", Effect::None),
        types::RECALL => routed.recall(class)?,
        other if rules.weight(other) == Weight::Status => {
            routed.record("status_message", Effect::None)
        }
        _ => routed.message(class, rules)?,
    })
}

/// Whether a form looks like the provider's synchronous hook before sending (消息回调服务), which names the type
/// `msgType` and the id, if there is one yet, `messageId`.
fn looks_synchronous(fields: &Fields<'_>) -> bool {
    !fields.contains("objectName")
        && (!fields.contains("msgUID")
            || fields.contains("msgType")
            || fields.contains("messageId"))
}

/// A required id. Decoding a form replaces invalid UTF-8 by U+FFFD, which could make different ids equal.
fn id<'f>(fields: &'f Fields<'_>, name: &str) -> Result<Cow<'f, str>> {
    let id = required(fields, name)?;
    match id.contains('\u{fffd}') {
        true => Err(undecodable(name, Reason::BadValue("UTF-8"))),
        false => Ok(id),
    }
}

/// The name of a parameter, or the name that older versions use if only that is present.
fn either(fields: &Fields<'_>, name: &'static str, older: &'static str) -> &'static str {
    match optional(fields, name).is_none() && optional(fields, older).is_some() {
        true => older,
        false => name,
    }
}

/// A form with a message type and a conversation.
struct Routed<'b> {
    body: &'b [u8],
    fields: Fields<'static>,
    object_name: String,
    channel: Channel,
    /// The receiver's parameter: `toUserId` or its older name.
    to: &'static str,
    /// The time's parameter: `msgTimestamp` or its older name.
    time: &'static str,
}

impl Routed<'_> {
    fn at(&self) -> Option<(&'static str, Millis)> {
        let at = optional_millis(&self.fields, self.time).ok().flatten()?;
        Some(("msgTimestamp", at))
    }

    /// A record of the whole form. Its key uses the id that the form has as a message, even if no message is
    /// stored.
    fn record<'r>(self, kind: &'static str, effect: Effect<'r>) -> Event<'r> {
        let id = optional(&self.fields, "msgUID");
        let id = id.map_or_else(|| digest(self.body), Cow::into_owned);
        let key = natural_key(["route", &self.object_name, &id]);
        let account = |name: &'static str, sent_as| {
            optional(&self.fields, sent_as).map(|id| (name, Account::new(id)))
        };
        let from = account("fromUserId", "fromUserId");
        // In other conversations `toUserId` is not a user.
        let is_users = matches!(
            self.channel,
            Channel::Class(Class::P2p | Class::CustomPerson)
        );
        let to = account("toUserId", self.to).filter(|_| is_users);
        Event::Record(Record {
            accounts: from.into_iter().chain(to).collect(),
            at: self.at(),
            effect,
            ..record(kind, &self.object_name, key, Columns::as_sent(self.fields))
        })
    }

    /// `fromUserId` has read the messages of `toUserId` up to `lastMessageSendTime`.
    fn receipt<'r>(self, arrived: Millis) -> Result<Event<'r>> {
        let content = part(&self.fields, "content")?;
        let up_to = within(
            "content",
            read_up_to(&content, "lastMessageSendTime", arrived),
        )?;
        let mark = ReadMark {
            reader: Account::new(id(&self.fields, "fromUserId")?),
            of: Conversation::Peer(Account::new(id(&self.fields, self.to)?)),
            up_to,
        };
        Ok(self.record("p2p_receipt", Effect::Read(mark)))
    }

    /// A command that recalls a message of its conversation. The case of its member names varies.
    fn recall<'r>(self, routed: Class) -> Result<Event<'r>> {
        let content = part(&self.fields, "content")?;
        let sent = optional(&content, spelled(&content, "conversationType"));
        let class = match sent.map(|sent| Channel::parse(&sent)) {
            Some(Channel::Class(class)) => class,
            // The command itself came in a conversation with messages, so that one decides.
            Some(Channel::Recorded(_)) | None => routed,
        };
        let recalled = required(&content, spelled(&content, "messageUId"));
        let message = MessageRef {
            class,
            id: within("content", recalled)?.into_owned(),
            to: id(&self.fields, self.to)?.into_owned(),
        };
        let at = optional_millis(&self.fields, self.time)?;
        let effect = Effect::Recall(Recall {
            message,
            at: at.map(|at| (RECALL_TIME, at)),
            by: optional(&self.fields, "fromUserId").map(Account::new),
            rest: rest(content),
        });
        Ok(self.record(recall_kind(class), effect))
    }

    fn message<'r>(self, class: Class, rules: &RongcloudRules) -> Result<Event<'r>> {
        let message = MessageRef {
            class,
            id: id(&self.fields, "msgUID")?.into_owned(),
            to: id(&self.fields, self.to)?.into_owned(),
        };
        let sent_at = optional_millis(&self.fields, self.time);
        if class == Class::P2p {
            // A count depends on both, and must not be guessed.
            id(&self.fields, "fromUserId")?;
            if sent_at.clone()?.is_none() {
                return Err(undecodable("msgTimestamp", Reason::MissingField));
            }
        }
        let (columns, extra) = self.columns(class);
        Ok(Event::Message(Message {
            derived: rules.derive(class, &columns),
            message,
            sent_at: sent_at.unwrap_or_default(),
            columns,
            extra,
        }))
    }

    /// A message's columns, and parameters with the name of another column. What messages are queried by has the same
    /// name for all providers; the rest keeps its own.
    fn columns<'r>(self, class: Class) -> (Columns<'r>, Columns<'r>) {
        let mut columns = Columns::with_capacity(16);
        columns.push("convType", Value::Text(class.conv_type().into()));
        let body = match types::has_binary_content(&self.object_name) {
            true => None,
            false => self.fields.get("content").and_then(text),
        };
        if let Some(text) = body {
            columns.push("body", Value::Text(text.into()));
        }
        let mut extra = Columns::default();
        for (sent_as, raw) in self.fields {
            let name = match &*sent_as {
                name if name == self.to => "to",
                name if name == self.time => "msgTimestamp",
                "fromUserId" => "fromAccount",
                "msgUID" => "msgidServer",
                name => name,
            };
            let value = types::typed(name, raw);
            let is_other = name == sent_as && COMMON_COLUMNS.contains(&name) && name != self.time;
            let place = if is_other { &mut extra } else { &mut columns };
            place.push(name.to_owned(), value);
        }
        (columns, extra)
    }
}

/// A message's text: `content` of the JSON in the parameter `content`, or the whole parameter if it is not JSON.
fn text(content: &RawValue) -> Option<String> {
    match view(&nested(content)) {
        Json::Object(parts) => parts.get("content").and_then(scalar).map(Cow::into_owned),
        Json::Text(text) => Some(text.into_owned()),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Array(_) => None,
    }
}

/// The spelling of a member's name, in any case; the given one if there is no such member.
fn spelled<'f>(fields: &'f Fields<'_>, name: &'f str) -> &'f str {
    let mut names = fields.iter().map(|(sent_as, _)| sent_as);
    names
        .find(|sent_as| sent_as.eq_ignore_ascii_case(name))
        .unwrap_or(name)
}

/// The other fields of a recall, which are stored with the message.
fn rest<'r>(content: Fields<'r>) -> Columns<'r> {
    const TAKEN: [&str; 3] = ["messageUId", "conversationType", "targetId"];
    const SPELLED: [&str; 5] = ["sentTime", "channelId", "isAdmin", "isDelete", "extra"];
    let mut rest = Columns::default();
    for (sent_as, raw) in content {
        let is = |name: &str| sent_as.eq_ignore_ascii_case(name);
        if TAKEN.iter().any(|name| is(name)) {
            continue;
        }
        match SPELLED.iter().find(|name| is(name)) {
            Some(name) => rest.push(*name, of_recall(name, raw)),
            None => {
                let value = of_recall(&sent_as, raw);
                rest.push(sent_as, value);
            }
        }
    }
    rest
}
