//! The provider's names: routes, kinds of conversations and clients, and the types of fields.

use std::borrow::Cow;

use crate::callback::columns::Value;
use crate::callback::json::{Json, RawValue, nested, scalar, view};

/// An event kind.
#[derive(Debug)]
pub struct RouteKind {
    /// Our name for it, the `kind` field of `events`.
    pub name: &'static str,
    /// Fields that hold users.
    pub accounts: &'static [&'static str],
    /// The field that holds the time it happened, in milliseconds.
    pub time: Option<&'static str>,
}

const fn kind(
    name: &'static str,
    accounts: &'static [&'static str],
    time: Option<&'static str>,
) -> RouteKind {
    RouteKind {
        name,
        accounts,
        time,
    }
}

const fn message(name: &'static str) -> RouteKind {
    kind(name, &["sender"], Some("timestamp"))
}

/// Routes whose bodies are a message (`OutputMessageData`). The kind of a message depends only on its `conv.type`,
/// not on which of these routes it comes by.
pub const MESSAGES: &[&str] = &["message", "things/message"];

/// The route of recalls (`OutputRecallMessageData`).
pub const RECALL: &str = "recall_message";

/// The route of read conversations (`OutputReadData`), in the professional edition only.
pub const READ: &str = "message_read";

/// The route of devices that go online or offline (`UserOnlineStatus`).
pub const ONLINE: &str = "user/online";

/// The route of the synchronous hook before a message is sent. It expects a decision and is not an event.
pub const CENSOR: &str = "message/censor";

/// Routes whose events are only stored, by the paths of the provider's own receiver. Events of groups and channels
/// name their operator `operatorId`; the provider's older documents say `userId`, and `memberId` for the member.
pub const STORED: &[(&str, RouteKind)] = &[
    (
        "user/info",
        kind("user_info", &["userId"], Some("updateDt")),
    ),
    (
        "user/relation",
        kind("user_relation", &["userId", "targetId"], None),
    ),
    (
        "group/info",
        kind("group_info", &["operatorId", "userId"], None),
    ),
    (
        "group/member",
        kind("group_member", &["operatorId", "userId", "memberId"], None),
    ),
    (
        "channel/info",
        kind("channel_info", &["operatorId", "userId"], None),
    ),
    ("channel/message", message("channel_message")),
    (
        "channel/subscribe",
        kind("channel_subscribe", &["userId"], None),
    ),
    (
        "chatroom/info",
        kind("chatroom_info", &["operatorId", "userId"], None),
    ),
    (
        "chatroom/member",
        kind("chatroom_member", &["operatorId", "userId"], None),
    ),
    ("robot/message", message("robot_message")),
    ("im_exception_event", SERVER_EXCEPTION),
    ("exception", SERVER_EXCEPTION),
    (
        "conference/create",
        kind("conference_create", &["userId"], Some("timestamp")),
    ),
    (
        "conference/destroy",
        kind("conference_destroy", &["userId"], Some("timestamp")),
    ),
    (
        "conference/member_join",
        kind("conference_join", &["userId"], None),
    ),
    (
        "conference/member_leave",
        kind("conference_leave", &["userId"], None),
    ),
    (
        "conference/member_publish",
        kind("conference_publish", &["userId"], None),
    ),
    (
        "conference/member_unpublish",
        kind("conference_unpublish", &["userId"], None),
    ),
    ("moments_feed", message("moments_feed")),
    (
        "moments_feed_recall",
        kind("moments_feed_recall", &[], None),
    ),
    ("moments_comment", message("moments_comment")),
    (
        "moments_comment_recall",
        kind("moments_comment_recall", &[], None),
    ),
];

const SERVER_EXCEPTION: RouteKind = kind("server_exception", &[], None);

/// A message in a chatroom.
pub const CHATROOM_MESSAGE: RouteKind = message("chatroom_message");
/// A message in a channel.
pub const CHANNEL_MESSAGE: RouteKind = message("channel_message");
/// A message in a conversation with a device (物联网).
pub const THINGS_MESSAGE: RouteKind = message("things_message");
/// A message in a secret chat (密聊), whose content only its two sides can read.
pub const SECRET_MESSAGE: RouteKind = message("secret_message");
/// A message in a conversation of an unknown type.
pub const UNKNOWN_CONVERSATION: RouteKind = message("unknown_conversation");
/// A message that the provider does not store: it only notifies users who are online, such as "typing".
pub const STATUS_MESSAGE: RouteKind = message("status_message");

/// A recall of a message.
pub const RECALLED: RouteKind = kind("recall", &["userId"], Some("timestamp"));
/// A recall of a group's message.
pub const TEAM_RECALLED: RouteKind = kind("team_recall", &["userId"], Some("timestamp"));
/// A conversation was read.
pub const CONVERSATION_READ: RouteKind = kind("conversation_read", &["user"], Some("readTime"));
/// A device went online.
pub const LOGIN: RouteKind = kind("login", &["userId"], Some("timestamp"));
/// A device went offline.
pub const LOGOUT: RouteKind = kind("logout", &["userId"], Some("timestamp"));
/// A device with an unknown status.
pub const UNKNOWN_STATUS: RouteKind = kind("unknown_status", &["userId"], Some("timestamp"));

/// The kind of a route whose events are only stored.
pub fn stored(route: &str) -> Option<&'static RouteKind> {
    let found = STORED.iter().find(|(name, _)| *name == route);
    found.map(|(_, kind)| kind)
}

/// `persistFlag`, if it is a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Persist(u32);

impl Persist {
    /// Parses the number, which the sending client sets.
    pub fn parse(sent: &str) -> Option<Self> {
        sent.trim().parse().ok().map(Self)
    }

    /// Whether the provider stores the message: not for 0 (No_Persist) and 4 (Transparent).
    pub fn is_kept(self) -> bool {
        self.0 & 3 != 0
    }

    /// Whether its receiver counts it: 3 (Persist_And_Count). The provider's server tests the same bit.
    pub fn counts(self) -> bool {
        self.0 & 2 != 0
    }
}

/// The number of a conversation's line; 0 if absent, `None` if it is not a number.
pub fn line(sent: Option<&str>) -> Option<i64> {
    match sent.map(str::trim) {
        None | Some("") => Some(0),
        Some(sent) => sent.parse().ok(),
    }
}

/// The name of a platform, sent as a number.
pub fn client_type(platform: &str) -> String {
    match platform.trim() {
        "1" => "IOS",
        "2" => "ANDROID",
        "3" => "WINDOWS",
        "4" => "OSX",
        "5" => "WEB",
        "6" => "WX",
        "7" => "LINUX",
        "8" => "IPAD",
        "9" => "APAD",
        "10" => "HARMONY",
        "11" => "HARMONYPAD",
        "12" => "HARMONYPC",
        other => other,
    }
    .to_owned()
}

/// A field of a message or a recall, in the type in which it is stored.
pub fn typed<'a>(name: &str, raw: Cow<'a, RawValue>) -> Value<'a> {
    match name {
        "conv" | "payload" | "client" | "senderUserInfo" => Value::nested(raw),
        "isAdmin" => Value::flag(raw),
        "toRobotId" => Value::text(raw),
        "timestamp" => Value::int(raw),
        "toUsers" => match texts(&raw) {
            Some(users) => Value::Texts(users),
            None => Value::Json(raw),
        },
        _ => Value::Json(raw),
    }
}

fn texts(raw: &RawValue) -> Option<Vec<String>> {
    match view(&nested(raw)) {
        Json::Array(items) => {
            let texts = items.iter().map(|item| scalar(item).map(Cow::into_owned));
            texts.collect()
        }
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_) | Json::Object(_) => None,
    }
}
