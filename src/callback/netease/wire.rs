//! The provider's names: event kinds, the fields that tell them apart, and the types of fields.

use std::borrow::Cow;

use super::account;
use crate::callback::columns::Value;
use crate::callback::json::{Json, RawValue, nested, scalar, view};

/// An event kind.
#[derive(Debug)]
pub struct Kind {
    /// The provider's `eventType`.
    pub event_type: i32,
    /// Our name for it, the `kind` field of `events`.
    pub name: &'static str,
    /// Fields that hold accounts.
    pub accounts: &'static [&'static str],
    /// The field that holds the time it happened, in milliseconds.
    pub time: Option<&'static str>,
}

const fn kind(
    event_type: i32,
    name: &'static str,
    accounts: &'static [&'static str],
    time: Option<&'static str>,
) -> Kind {
    Kind {
        event_type,
        name,
        accounts,
        time,
    }
}

/// Every kind of chat event that the provider documents, except 1 (messages, which are a type of their own). Other
/// numbers are stored as [`UNKNOWN`].
pub const KINDS: &[Kind] = &[
    kind(2, "login", &["accid"], Some("timestamp")),
    kind(3, "logout", &["accid"], Some("timestamp")),
    kind(
        4,
        "chatroom_message",
        &["fromAccount"],
        Some("msgTimestamp"),
    ),
    kind(5, "av_duration", &[], Some("createtime")),
    kind(6, "av_file", &[], None),
    kind(7, "recall", &["from", "to"], Some("deleteTime")),
    kind(8, "team_recall", &["from"], Some("deleteTime")),
    kind(9, "chatroom_inout", &["accid"], Some("timestamp")),
    kind(10, "call", &[], None),
    // The times of 11 and 12 are local, without a time zone, so `at` is not set.
    kind(11, "sms_receipt", &[], None),
    kind(12, "sms_uplink", &[], None),
    kind(13, "avroom_inout", &["accid"], Some("timestamp")),
    kind(
        14,
        "chatroom_queue",
        &["operator", "belongTo"],
        Some("operationTime"),
    ),
    kind(20, "antispam_hit", &["from"], None),
    // Some versions of the provider's page list it for the same event as 5.
    kind(21, "av_duration", &[], Some("createtime")),
    kind(25, "super_team_recall", &["from"], Some("deleteTime")),
    kind(
        30,
        "p2p_receipt",
        &["fromAccount", "toAccount"],
        Some("timestamp"),
    ),
    kind(
        31,
        "signalling",
        &["creator", "from", "to"],
        Some("timestamp"),
    ),
    kind(36, "upload_task", &[], None),
    kind(42, "heartbeat", &["accid"], Some("timestamp")),
    kind(83, "callback_failed", &[], Some("timestamp")),
    kind(84, "login_failed", &["accid"], Some("timestamp")),
    kind(
        85,
        "conversation_read",
        &["accid", "ackAccid"],
        Some("ackMsgTime"),
    ),
    kind(
        89,
        "message_update",
        &["from", "to", "modifyAccountId"],
        Some("modifyTime"),
    ),
    kind(
        90,
        "team_message_update",
        &["from", "modifyAccountId"],
        Some("modifyTime"),
    ),
    kind(
        91,
        "super_team_message_update",
        &["from", "modifyAccountId"],
        Some("modifyTime"),
    ),
];

/// An event whose number is not documented.
pub const UNKNOWN: Kind = kind(0, "unknown", &[], None);

/// A conversation event (1) whose `convType` is not documented.
pub const UNKNOWN_CONVERSATION: Kind = kind(
    1,
    "unknown_conversation",
    &["fromAccount"],
    Some("msgTimestamp"),
);

/// An event of an audio or video room (RTC 2.0), whose numbers differ from chat's.
pub const RTC: Kind = kind(0, "rtc", &[], None);

/// Finds a kind by number.
pub fn kind_of(event_type: i32) -> &'static Kind {
    KINDS
        .iter()
        .find(|kind| kind.event_type == event_type)
        .unwrap_or(&UNKNOWN)
}

/// The name of a client type, sent as a name in any case or as a number.
pub fn client_type(sent: &str) -> String {
    match sent {
        "1" => "AOS",
        "2" => "IOS",
        "4" => "PC",
        "8" => "WINPHONE",
        "16" => "WEB",
        "32" => "REST",
        "64" => "MAC",
        "65" => "HARMONY",
        other => return other.to_ascii_uppercase(),
    }
    .to_owned()
}

/// A field of a message, a recall or an edit, in the type in which it is stored.
pub fn typed<'a>(name: &str, raw: Cow<'a, RawValue>) -> Value<'a> {
    match name {
        "body" | "clientId" | "convType" | "customApnsText" | "customSafeFlag" | "fromAccount"
        | "fromClientType" | "fromDeviceId" | "fromNick" | "ip" | "msgId" | "msgType"
        | "msgidClient" | "msgidServer" | "port" | "resendFlag" | "selfMsg" | "subType"
        | "text" | "to" => Value::text(raw),
        "msgTimestamp" | "sendTime" | "deleteTime" | "modifyTime" => Value::int(raw),
        "antispam" | "blacklist" => Value::flag(raw),
        "attach" | "attachment" | "aiParams" | "ext" | "extension" | "yidunRes" => {
            Value::nested(raw)
        }
        "tMembers" => match accounts(&raw) {
            Some(accounts) => Value::Texts(accounts),
            None => Value::Json(raw),
        },
        _ => Value::Json(raw),
    }
}

/// The members of a team notice: a JSON array, or the provider's `[a, b]`, which is not JSON.
fn accounts(raw: &RawValue) -> Option<Vec<String>> {
    let one = |id: &str| account(id.trim()).into_string();
    match view(&nested(raw)) {
        Json::Array(items) => {
            let accounts = items.iter().map(|item| Some(one(&scalar(item)?)));
            accounts.collect()
        }
        Json::Text(text) => {
            let inner = text.trim().strip_prefix('[')?.strip_suffix(']')?;
            let ids = inner.split(',').filter(|id| !id.trim().is_empty());
            Some(ids.map(one).collect())
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Object(_) => None,
    }
}
