//! Events in the project's own terms: the result of decoding, and the input of storing.
//!
//! None of these types is serializable: each boundary (provider, MongoDB, API) has its own types.

use super::columns::Columns;
use super::derived::{Derived, NotCounted};
use super::ids::{Account, Millis, natural_key};
use super::presence::Presence;

/// Everything decoded from one callback.
#[derive(Debug, Default)]
pub struct Decoded<'a> {
    /// The decoded events, in the order sent. Empty for the provider's address probe.
    pub events: Vec<Event<'a>>,
    /// Set if a part cannot be decoded: the whole body becomes a dead letter, and the events take effect.
    pub undecodable: Option<Undecodable>,
}

impl<'a> From<Event<'a>> for Decoded<'a> {
    fn from(event: Event<'a>) -> Self {
        Self {
            events: vec![event],
            undecodable: None,
        }
    }
}

impl From<Undecodable> for Decoded<'_> {
    fn from(undecodable: Undecodable) -> Self {
        Self {
            events: Vec::new(),
            undecodable: Some(undecodable),
        }
    }
}

/// One event.
#[derive(Debug)]
pub enum Event<'a> {
    /// A conversation message, a team notice or a system notice.
    Message(Message<'a>),
    /// Any other event: stored unchanged, sometimes with an effect on messages, marks or presence.
    Record(Record<'a>),
}

/// The class of a message. Ids are unique only within a class, because number ranges differ by class.
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
    /// Every class.
    pub const ALL: [Self; 5] = [
        Self::P2p,
        Self::Team,
        Self::SuperTeam,
        Self::CustomPerson,
        Self::CustomTeam,
    ];

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

    /// Reads what [`Class::as_str`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == text)
    }

    /// The class's value of `convType`.
    pub fn conv_type(self) -> &'static str {
        match self {
            Self::P2p => "PERSON",
            Self::Team => "TEAM",
            Self::SuperTeam => "SUPER_TEAM",
            Self::CustomPerson => "CUSTOM_PERSON",
            Self::CustomTeam => "CUSTOM_TEAM",
        }
    }

    /// Whether it is a message that people send to a team.
    pub fn is_team(self) -> bool {
        matches!(self, Self::Team | Self::SuperTeam)
    }

    /// Why no message of this class has a `state`; `None` if its content decides.
    pub fn never_counts(self) -> Option<NotCounted> {
        match self {
            Self::P2p => None,
            Self::Team | Self::SuperTeam => Some(NotCounted::Team),
            Self::CustomPerson | Self::CustomTeam => Some(NotCounted::SystemNotice),
        }
    }

    /// Whether `to` is an account; otherwise it is a team's id.
    pub fn is_to_account(self) -> bool {
        match self {
            Self::P2p | Self::CustomPerson => true,
            Self::Team | Self::SuperTeam | Self::CustomTeam => false,
        }
    }

    /// The conversation of a message, the same for both directions. `None` if it depends on the sender, and the
    /// sender is not known.
    pub fn conversation(self, from: Option<&str>, to: &str) -> Option<String> {
        Some(match self {
            Self::P2p | Self::CustomPerson => {
                let from = from?;
                natural_key([self.as_str(), from.min(to), from.max(to)])
            }
            Self::Team | Self::SuperTeam | Self::CustomTeam => natural_key([self.as_str(), to]),
        })
    }
}

/// Identifies a message in its own callback, in a recall and in an edit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MessageRef {
    /// The class, within which the id is unique.
    pub class: Class,
    /// The provider's id of the message (`msgidServer`).
    pub id: String,
    /// The receiving account, or the team's id.
    pub to: String,
}

/// A message.
#[derive(Debug)]
pub struct Message<'a> {
    /// Its identity.
    pub message: MessageRef,
    /// When the provider's server accepted it (`msgTimestamp`), if known.
    pub sent_at: Option<Millis>,
    /// Derived from its columns by the app's rules.
    pub derived: Derived,
    /// Everything that was sent, under the names it is stored by. If the message counts, it counts by
    /// `fromAccount` and `msgTimestamp`.
    pub columns: Columns<'a>,
    /// Fields that were sent under the name of a column that means something else.
    pub extra: Columns<'a>,
}

/// The columns that messages of every provider have: indexes and counts read them.
pub const COMMON_COLUMNS: [&str; 6] = [
    "convType",
    "to",
    "fromAccount",
    "msgTimestamp",
    "msgidServer",
    "body",
];

/// An event other than a message, unchanged.
#[derive(Debug)]
pub struct Record<'a> {
    /// A key that is the same in a redelivery, and unique among the app's events.
    pub key: String,
    /// The provider's product that sent it.
    pub product: Product,
    /// The provider's number or word for the kind.
    pub event_type: EventType,
    /// Our name for the kind.
    pub kind: &'static str,
    /// Its accounts, under the provider's field names.
    pub accounts: Vec<(&'static str, Account)>,
    /// When it happened, under the provider's field name, if known.
    pub at: Option<(&'static str, Millis)>,
    /// Everything that was sent.
    pub payload: Columns<'a>,
    /// What it changes besides being stored.
    pub effect: Effect<'a>,
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

/// What a record changes besides being stored. Each effect is idempotent and commutes with every other: a maximum,
/// a set union, or a tombstone.
#[derive(Debug)]
pub enum Effect<'a> {
    /// Nothing.
    None,
    /// Raises a read mark.
    Read(ReadMark),
    /// Recalls a message.
    Recall(Recall<'a>),
    /// Changes a message's text.
    Edit(Edit<'a>),
    /// Adds to what is known of whether a device is online.
    Presence(Presence),
}

impl Effect<'_> {
    /// What an event of a device does that arrived then. A time too far ahead would be the device's last for ever, so such
    /// an event does nothing.
    pub fn presence(presence: Presence, arrived: Millis) -> Self {
        match is_ahead(presence.at, arrived) {
            true => Self::None,
            false => Self::Presence(presence),
        }
    }
}

/// `reader` has read all messages from `of` up to and including `up_to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadMark {
    /// The account that has read.
    pub reader: Account,
    /// The conversation that was read.
    pub of: Conversation,
    /// The time of the last message read.
    pub up_to: Millis,
}

/// How far an event may be ahead of the clock that hears of it, in milliseconds: tolerance for clocks that differ.
const MAX_AHEAD: i64 = 24 * 60 * 60 * 1000;

/// Whether a time of which only the latest counts is too far ahead of now.
fn is_ahead(time: Millis, now: Millis) -> bool {
    time.get() - now.get() > MAX_AHEAD
}

impl ReadMark {
    /// Whether a read up to this time is too far ahead of now. A read mark never falls, so such a mark would hide the
    /// conversation's messages permanently.
    pub fn is_ahead(up_to: Millis, now: Millis) -> bool {
        is_ahead(up_to, now)
    }
}

/// The other side of a reader's conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conversation {
    /// One person.
    Peer(Account),
    /// A team, by its number.
    Team(String),
}

/// A recall of a message.
#[derive(Debug)]
pub struct Recall<'a> {
    /// The message.
    pub message: MessageRef,
    /// When, under the provider's field name, if known.
    pub at: Option<(&'static str, Millis)>,
    /// By whom, if known.
    pub by: Option<Account>,
    /// Other fields of the recall, stored with the message.
    pub rest: Columns<'a>,
}

/// An edit of a message after it was sent.
pub struct Edit<'a> {
    /// The message.
    pub message: MessageRef,
    /// When, under the provider's field name. The latest of several edits wins.
    pub at: (&'static str, Millis),
    /// By whom, if known.
    pub by: Option<Account>,
    /// The new text, if the edit changes it.
    pub text: Option<String>,
    /// Other fields of the edit, stored with the message.
    pub rest: Columns<'a>,
}

/// Hides the text.
impl std::fmt::Debug for Edit<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            message,
            at,
            by,
            text: _,
            rest,
        } = self;
        f.debug_struct("Edit")
            .field("message", message)
            .field("at", at)
            .field("by", by)
            .field("rest", rest)
            .finish_non_exhaustive()
    }
}

/// Why a body, or a part of it, cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecodable {
    /// What is wrong.
    pub reason: Reason,
    /// Where, as a JSON path: `$` is the whole body, `$.objects[1].timestamp` a part.
    pub path: String,
}

/// Errors in a verified body.
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
    /// JSON, but not an object.
    #[error("the body is JSON, but not an object")]
    NotAnObject,
    /// A required field is absent, `null` or empty.
    #[error("a field that this event needs is absent or empty")]
    MissingField,
    /// A field has an unusable value.
    #[error("expected {0}")]
    BadValue(&'static str),
    /// A receipt's time is in the future.
    #[error(
        "the receipt's time is more than a day after its callback came, and a read mark that high \
         would never fall"
    )]
    TimeAhead,
    /// The provider is not known to send events to this path, and only the path says what a body means.
    #[error(
        "this version knows no events of this path; check the address in the provider's settings"
    )]
    UnknownRoute,
    /// The app's provider has changed since the callback was received.
    #[error("the app's provider has changed since the callback was received")]
    OtherProvider,
    /// The body belongs to the provider's synchronous 第三方回调, which waits for a decision.
    #[error(
        "looks like the provider's synchronous callback (第三方回调), which wants an answer; give it an \
         address of its own"
    )]
    SynchronousCallback,
}

impl Reason {
    /// Every code.
    pub const CODES: [&str; 8] = [
        "not_json",
        "not_an_object",
        "missing_field",
        "bad_value",
        "time_ahead",
        "unknown_route",
        "other_provider",
        "synchronous_callback",
    ];

    /// The stable code, listed in `docs/errors.md`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotJson { .. } => "not_json",
            Self::NotAnObject => "not_an_object",
            Self::MissingField => "missing_field",
            Self::BadValue(_) => "bad_value",
            Self::TimeAhead => "time_ahead",
            Self::UnknownRoute => "unknown_route",
            Self::OtherProvider => "other_provider",
            Self::SynchronousCallback => "synchronous_callback",
        }
    }
}
