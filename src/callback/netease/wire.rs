//! The provider's names: event kinds, and the fields by which they are told apart.

/// What is known of an event kind that is stored as it came.
#[derive(Debug)]
pub struct Kind {
    /// The provider's `eventType`.
    pub event_type: i32,
    /// Our name of it, the `kind` field of `events`.
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

/// Every kind of chat event the provider documents, but for 1 (messages, a class of their own).
/// A number that is not here is stored under the kind [`UNKNOWN`].
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
    // The times of 11 and 12 are local and without a zone, so no `at` is made of them.
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
    // Listed beside 5 for the same event in some versions of the provider's page.
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

/// The kind of an event whose number nobody has told us about.
pub const UNKNOWN: Kind = kind(0, "unknown", &[], None);

/// The kind of a conversation event (1) whose `convType` nobody has told us about.
pub const UNKNOWN_CONVERSATION: Kind = kind(
    1,
    "unknown_conversation",
    &["fromAccount"],
    Some("msgTimestamp"),
);

/// The kind of an audio or video room's event (RTC 2.0), whose numbers mean other things than chat's.
pub const RTC: Kind = kind(0, "rtc", &[], None);

/// Finds a kind by number.
pub fn kind_of(event_type: i32) -> &'static Kind {
    KINDS
        .iter()
        .find(|kind| kind.event_type == event_type)
        .unwrap_or(&UNKNOWN)
}

/// The name of a client type that may be sent as a name in any case or as a number.
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
