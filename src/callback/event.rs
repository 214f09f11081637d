//! What happened, in the project's own words: the result of decoding, the input of storing.
//!
//! None of these types is serializable. Each boundary (provider, MongoDB, API) has shapes of its own.

use super::ids::{Account, Millis};
use super::json::Fields;

/// All that one callback says.
#[derive(Debug, Default)]
pub struct Decoded<'a> {
    /// What could be read, in the order sent. Empty for the provider's address probe.
    pub events: Vec<Event<'a>>,
    /// What could not: then the whole body is kept as a dead letter, beside the events that could.
    pub undecodable: Option<Undecodable>,
}

/// One thing that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A conversation message, a team notice or a system notice (eventType 1).
    Message(Message<'a>),
    /// Everything else: kept as it came, and perhaps with an effect on messages, marks or presence.
    Record(Record<'a>),
}

/// The family of a message: number ranges differ by family, so ids are unique only within one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// One person to another (`PERSON`).
    P2p,
    /// To a team (`TEAM`).
    Team,
    /// To a super team (`SUPER_TEAM`).
    SuperTeam,
    /// A system notice to a person (`CUSTOM_PERSON`).
    CustomPerson,
    /// A system notice about a team (`CUSTOM_TEAM`).
    CustomTeam,
}

impl Class {
    /// The class's part of a message's `_id`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P2p => "p2p",
            Self::Team => "team",
            Self::SuperTeam => "super_team",
            Self::CustomPerson => "custom_person",
            Self::CustomTeam => "custom_team",
        }
    }

    /// Whether `to` is an account, and so regardless of case; otherwise it is a team's number.
    pub fn is_to_account(self) -> bool {
        match self {
            Self::P2p | Self::CustomPerson => true,
            Self::Team | Self::SuperTeam | Self::CustomTeam => false,
        }
    }
}

/// What names a message wherever it is mentioned: in its own callback, in a recall, in an edit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MessageRef {
    /// The family of the id.
    pub class: Class,
    /// The provider's id of the message (`msgidServer`, elsewhere `msgId`).
    pub id: String,
    /// The receiving account, lower-cased, or the team's number.
    pub to: String,
}

/// A message.
#[derive(Debug)]
pub struct Message<'a> {
    /// Its identity.
    pub message: MessageRef,
    /// Who sent it, where the provider says so.
    pub from: Option<Account>,
    /// When the provider's server took it (`msgTimestamp`), where it says so.
    pub sent_at: Option<Millis>,
    /// Set when it counts as unread for its receiver until it is read or recalled; never changes.
    pub counts: Option<Counts>,
    /// The order it belongs to, where the app's setting finds one.
    pub order_id: Option<String>,
    /// All that was sent.
    pub fields: Fields<'a>,
}

/// What a message that counts is counted by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Who sent it.
    pub peer: Account,
    /// When; it is read once the read mark is there.
    pub sent_at: Millis,
}

/// An event other than a message, as it came.
#[derive(Debug)]
pub struct Record<'a> {
    /// A key that a redelivery repeats and no other event of the app has.
    pub key: String,
    /// The provider's product that sent it.
    pub product: Product,
    /// The provider's number or word for the kind.
    pub event_type: EventType,
    /// Our name of the kind.
    pub kind: &'static str,
    /// The accounts it names, under the provider's field names.
    pub accounts: Vec<(&'static str, Account)>,
    /// When it happened, under the provider's field name, where the provider says so.
    pub at: Option<(&'static str, Millis)>,
    /// All that was sent.
    pub payload: Fields<'a>,
    /// What it changes beside itself.
    pub effect: Effect,
}

/// The products that may share one callback address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// Chat.
    Im,
    /// Audio and video rooms (RTC 2.0), whose event numbers overlap with chat's.
    Rtc,
}

impl Product {
    /// The value of the `product` field.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Im => "im",
            Self::Rtc => "rtc",
        }
    }
}

/// The provider's `eventType`: a number for every chat event, a word for some other products'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventType {
    /// Such as 30.
    Number(i32),
    /// Such as `MEETING_STATE_CHANGE_EVENT`.
    Word(String),
}

impl std::fmt::Display for EventType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Word(w) => f.write_str(w),
        }
    }
}

/// What a record changes beside itself. Each is idempotent and commutes with every other: a maximum,
/// a set union, or a tombstone.
#[derive(Debug)]
pub enum Effect {
    /// Nothing.
    None,
    /// Raises a read mark.
    Read(ReadMark),
    /// Takes a message back.
    Recall(Recall),
    /// Changes a message's text.
    Edit(Edit),
    /// Says that a device came or went.
    Presence(Presence),
}

/// "`reader` has read what came from `of`, up to and including `up_to`."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadMark {
    /// Who has read.
    pub reader: Account,
    /// What was read.
    pub of: Conversation,
    /// Up to when.
    pub up_to: Millis,
}

/// The other side of a reader's conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conversation {
    /// One person.
    Peer(Account),
    /// A team, by its number.
    Team(String),
}

/// A message taken back.
#[derive(Debug)]
pub struct Recall {
    /// Which.
    pub message: MessageRef,
    /// When, where the provider says so.
    pub at: Option<Millis>,
    /// By whom. Known for person-to-person messages only: in a team a manager may recall another's
    /// message, and the callback does not say who did (spec, section 3.5).
    pub by: Option<Account>,
}

/// A message changed after it was sent.
pub struct Edit {
    /// Which.
    pub message: MessageRef,
    /// When; of several edits the latest counts.
    pub at: Millis,
    /// By whom, where the provider says so.
    pub by: Option<Account>,
    /// The new text, where the edit changes it.
    pub text: Option<String>,
}

/// Hides the text.
impl std::fmt::Debug for Edit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            message,
            at,
            by,
            text: _,
        } = self;
        f.debug_struct("Edit")
            .field("message", message)
            .field("at", at)
            .field("by", by)
            .finish_non_exhaustive()
    }
}

/// A device that came or went.
#[derive(Debug)]
pub struct Presence {
    /// Whose device.
    pub account: Account,
    /// The device's id; empty where the provider does not say it.
    pub device_id: String,
    /// The kind of client, by its upper-case name, such as `IOS`; empty where unknown.
    pub client_type: String,
    /// Whether it came (login) or went (logout).
    pub online: bool,
    /// When. Of several events of a device the newest counts.
    pub at: Millis,
}

/// Why no event could be made of a body, or of a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecodable {
    /// What is wrong.
    pub reason: Reason,
    /// Where, as a JSON path: `$` is the whole body, `$.objects[1].timestamp` a part.
    pub path: String,
}

/// What can be wrong with a signed body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Not JSON at all.
    #[error("the body is not JSON: syntax error at line {line} column {column}")]
    NotJson {
        /// Line, counted from 1.
        line: usize,
        /// Column in bytes, counted from 1.
        column: usize,
    },
    /// JSON of another type than object.
    #[error("the body is JSON, but not an object")]
    NotAnObject,
    /// A field that the event cannot do without is absent, `null` or empty.
    #[error("a field that this event needs is absent or empty")]
    MissingField,
    /// A field has a value that cannot be used.
    #[error("expected {0}")]
    BadValue(&'static str),
    /// A receipt is of a time that was still to come.
    #[error(
        "the receipt's time is more than a day after its callback came, and a read mark that high \
         would never fall"
    )]
    TimeAhead,
    /// The body is a question of the provider's synchronous 第三方回调, which needs an answer.
    #[error(
        "looks like the provider's synchronous callback (第三方回调), which shares numbers with \
         copies but wants an answer; give it an address of its own"
    )]
    SynchronousCallback,
}

impl Reason {
    /// The stable code, listed in `docs/errors.md`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotJson { .. } => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::MissingField => "missing_field",
            Self::BadValue(_) => "bad_value",
            Self::TimeAhead => "time_ahead",
            Self::SynchronousCallback => "synchronous_callback",
        }
    }
}
