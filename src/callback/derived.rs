//! What an app's rules derive from a message's columns, both when it comes and later from what is stored.

use super::ids::{Account, Millis};

/// Derived from a message's columns by the app's rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derived {
    /// How it counts as unread for its receiver until it is read or recalled, or why it never does.
    pub counts: Result<Counts, NotCounted>,
    /// Whether it counts for the members of the team that it was sent to, until it is recalled.
    pub counts_in_team: bool,
    /// Who joined the team by it, if it is a notice that says so.
    pub joined: Vec<Account>,
    /// The order it belongs to, if the app's `order_id` setting finds one.
    pub order_id: Option<String>,
    /// The conversation it belongs to, the same for both directions.
    pub conversation: Option<String>,
}

impl Derived {
    /// Of a message whose columns are unknown.
    pub const NONE: Self = Self {
        counts: Err(NotCounted::NotDecoded),
        counts_in_team: false,
        joined: Vec::new(),
        order_id: None,
        conversation: None,
    };
}

/// How a message counts as unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// The sender.
    pub peer: Account,
    /// When it was sent. A read mark at or after this time makes it read.
    pub sent_at: Millis,
}

/// The rule by which a message never counts as unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotCounted {
    /// Its provider's messages are not decoded.
    NotDecoded,
    /// It was sent to a team.
    Team,
    /// It is a system notice.
    SystemNotice,
    /// A field by which it would count is absent or unusable.
    Incomplete,
    /// Sender and receiver are the same.
    ToSelf,
    /// Its type is NOTIFICATION.
    Notification,
    /// Its type is TIPS, and the app does not count these.
    Tips,
    /// Its type does not count.
    Type,
    /// Its sender's client says that it does not count.
    SenderSays,
    /// It belongs to a line that the app does not count.
    OtherLine,
    /// The provider did not deliver it.
    HeldBack,
}

impl NotCounted {
    /// Every rule.
    pub const ALL: [Self; 11] = [
        Self::NotDecoded,
        Self::Team,
        Self::SystemNotice,
        Self::Incomplete,
        Self::ToSelf,
        Self::Notification,
        Self::Tips,
        Self::Type,
        Self::SenderSays,
        Self::OtherLine,
        Self::HeldBack,
    ];

    /// The stable code, listed in `docs/trace.md`.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotDecoded => "not_decoded",
            Self::Team => "team",
            Self::SystemNotice => "system_notice",
            Self::Incomplete => "incomplete",
            Self::ToSelf => "to_self",
            Self::Notification => "notification",
            Self::Tips => "tips",
            Self::Type => "type",
            Self::SenderSays => "sender_says",
            Self::OtherLine => "other_line",
            Self::HeldBack => "held_back",
        }
    }

    /// The rule in words.
    pub fn text(self) -> &'static str {
        match self {
            Self::NotDecoded => "messages of this provider are not decoded",
            Self::Team => {
                "it was sent to a team, whose members' counts are asked by `teams`; only a message to one \
                 person counts by its sender or order"
            }
            Self::SystemNotice => "it is a system notice, and only messages to one person count",
            Self::Incomplete => "a field by which it would count is absent or unusable",
            Self::ToSelf => "its sender is its receiver",
            Self::Notification => "messages of the type NOTIFICATION do not count",
            Self::Tips => "messages of the type TIPS do not count unless the app sets `count_tips`",
            Self::Type => {
                "its type does not count, by the app's `custom_types` or the provider's table"
            }
            Self::SenderSays => "the sending client says that it does not count (`persistFlag`)",
            Self::OtherLine => "it belongs to another line than the app's `line`",
            Self::HeldBack => "the provider did not deliver it to its receiver",
        }
    }
}
