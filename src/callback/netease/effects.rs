//! Events with an effect: presence, recalls, edits and receipts.

use std::borrow::Cow;

use super::account;
use super::parts::{lower, message_ref, record};
use super::wire::{self, Kind};
use crate::callback::columns::{Columns, Value};
use crate::callback::event::{
    Class, Conversation, Edit, Effect, Event, EventType, MessageRef, ReadMark, Reason, Recall,
};
use crate::callback::fields::{
    Result, millis, optional, optional_millis, read_up_to, required, undecodable,
};
use crate::callback::ids::{Account, Millis, natural_key};
use crate::callback::json::{Fields, scalar};
use crate::callback::presence::{LogoutReason, Presence, PresenceChange};

/// The other fields of a recall or an edit, which are stored with the message.
fn rest<'a>(fields: &Fields<'a>, taken: &[&str]) -> Columns<'a> {
    let mut fields = fields.clone();
    taken.iter().for_each(|name| fields.remove(name));
    Columns::of(fields, |name, raw| match name {
        "from" => lower(Value::text(raw)),
        name => wire::typed(name, raw),
    })
}

pub fn presence<'a>(
    kind: &Kind,
    event_type: EventType,
    fields: Fields<'a>,
    arrived: Millis,
) -> Result<Event<'a>> {
    let is_login = event_type == EventType::Number(2);
    let change = if is_login {
        PresenceChange::Login
    } else {
        PresenceChange::Logout(logout_reason(&fields))
    };
    let presence = device(&fields, change)?;
    let key = natural_key([
        event_type.to_string().as_str(),
        presence.account.as_str(),
        &presence.device_id,
        &presence.client_type,
        &presence.at.get().to_string(),
    ]);
    // A login that the provider refused puts no device online.
    let is_refused = is_login && optional(&fields, "code").is_some_and(|code| code != "200");
    let effect = if is_refused {
        Effect::None
    } else {
        Effect::presence(presence, arrived)
    };
    Ok(Event::Record(record(kind, event_type, key, fields, effect)))
}

/// What a heartbeat says, if it names its account and its time. Without them it is stored all the same: a device
/// that is not heard of is not wrongly counted, and heartbeats are too many to become dead letters.
pub fn heartbeat(fields: &Fields<'_>) -> Option<Presence> {
    device(fields, PresenceChange::Heartbeat).ok()
}

fn device(fields: &Fields<'_>, change: PresenceChange) -> Result<Presence> {
    Ok(Presence {
        account: account(&required(fields, "accid")?),
        device_id: optional(fields, "deviceId")
            .unwrap_or_default()
            .into_owned(),
        client_type: wire::client_type(&optional(fields, "clientType").unwrap_or_default()),
        change,
        at: millis(fields, "timestamp")?,
    })
}

fn logout_reason(fields: &Fields<'_>) -> Option<LogoutReason> {
    let number = optional(fields, "logOutReason")?.trim().parse().ok()?;
    Some(match number {
        1 => LogoutReason::Logout,
        2 => LogoutReason::Disconnected,
        3 => LogoutReason::KickedByDevice,
        4 => LogoutReason::KickedByPolicy,
        other => LogoutReason::Other(other),
    })
}

pub fn recall<'a>(
    kind: &Kind,
    event_type: EventType,
    class: Class,
    fields: Fields<'a>,
) -> Result<Event<'a>> {
    let message = message_ref(&fields, class, "msgId")?;
    let key = natural_key([event_type.to_string().as_str(), &message.id]);
    let from = optional(&fields, "from").map(|from| account(&from));
    let at = optional_millis(&fields, "deleteTime")?;
    let effect = Effect::Recall(Recall {
        message,
        at: at.map(|at| ("deleteTime", at)),
        // In a team a manager may recall another's message, and the copy does not say who did (spec,
        // section 3.5).
        by: from.filter(|_| class == Class::P2p),
        rest: rest(&fields, &["eventType", "msgId", "to"]),
    });
    Ok(Event::Record(record(kind, event_type, key, fields, effect)))
}

pub fn edit<'a>(
    kind: &Kind,
    event_type: EventType,
    class: Class,
    fields: Fields<'a>,
) -> Result<Event<'a>> {
    let message = message_ref(&fields, class, "msgId")?;
    let at = millis(&fields, "modifyTime")?;
    let key = natural_key([
        event_type.to_string().as_str(),
        &message.id,
        &at.get().to_string(),
    ]);
    let effect = Effect::Edit(Edit {
        message,
        at: ("modifyTime", at),
        by: optional(&fields, "modifyAccountId").map(|by| account(&by)),
        text: fields.get("text").and_then(scalar).map(Cow::into_owned),
        rest: rest(&fields, &["eventType", "msgId", "to", "modifyAccountId"]),
    });
    Ok(Event::Record(record(kind, event_type, key, fields, effect)))
}

/// `fromAccount` is the reader, and `toAccount` the peer whose messages were read. The provider's SDK headers
/// define the time: "everything before it is read".
pub fn receipt<'a>(
    kind: &Kind,
    event_type: EventType,
    fields: Fields<'a>,
    arrived: Millis,
) -> Result<Event<'a>> {
    let reader = account(&required(&fields, "fromAccount")?);
    let peer = account(&required(&fields, "toAccount")?);
    let up_to = read_up_to(&fields, "timestamp", arrived)?;
    let key = natural_key([
        event_type.to_string().as_str(),
        reader.as_str(),
        peer.as_str(),
        &up_to.get().to_string(),
        &optional(&fields, "msgidClient").unwrap_or_default(),
        &optional(&fields, "clientType").unwrap_or_default(),
    ]);
    let effect = Effect::Read(ReadMark {
        reader,
        of: Conversation::Peer(peer),
        up_to,
    });
    Ok(Event::Record(record(kind, event_type, key, fields, effect)))
}

pub fn conversation_read<'a>(
    kind: &Kind,
    event_type: EventType,
    fields: Fields<'a>,
    arrived: Millis,
) -> Result<Event<'a>> {
    let reader = account(&required(&fields, "accid")?);
    let up_to = read_up_to(&fields, "ackMsgTime", arrived)?;
    let team = optional(&fields, "ackTeamId").map(Cow::into_owned);
    let is_team = match optional(&fields, "msgType").as_deref() {
        Some("0") => false,
        Some("1") => true,
        _ => team.is_some(),
    };
    let of = match team {
        Some(team) if is_team => Conversation::Team(team),
        None if is_team => return Err(undecodable("ackTeamId", Reason::MissingField)),
        _ => Conversation::Peer(account(&required(&fields, "ackAccid")?)),
    };
    let (side, other) = match &of {
        Conversation::Peer(peer) => ("peer", peer.as_str()),
        Conversation::Team(team) => ("team", team.as_str()),
    };
    let key = natural_key([
        event_type.to_string().as_str(),
        reader.as_str(),
        side,
        other,
        &up_to.get().to_string(),
    ]);
    let effect = Effect::Read(ReadMark { reader, of, up_to });
    Ok(Event::Record(record(kind, event_type, key, fields, effect)))
}

/// The records of a message's recall and edits: each has one of these keys, or a longer one.
pub fn change_keys(message: &MessageRef) -> Vec<String> {
    let (recall, edit) = match message.class {
        Class::P2p => ("7", "89"),
        Class::Team => ("8", "90"),
        Class::SuperTeam => ("25", "91"),
        Class::CustomPerson | Class::CustomTeam => return Vec::new(),
    };
    [recall, edit]
        .map(|event_type| natural_key([event_type, &message.id]))
        .into()
}

/// The records of a conversation's receipts: after one of these the key goes on with the receipt's time.
pub fn receipt_keys(reader: &Account, of: &Conversation) -> Vec<String> {
    let reader = reader.as_str();
    match of {
        Conversation::Peer(peer) => vec![
            natural_key(["30", reader, peer.as_str()]),
            natural_key(["85", reader, "peer", peer.as_str()]),
        ],
        Conversation::Team(team) => vec![natural_key(["85", reader, "team", team])],
    }
}
