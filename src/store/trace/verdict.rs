//! Why a message counts as unread or does not, and whether its `state` agrees.
//!
//! The rule is derived by the same code as when the message came, and the mark is compared as counts compare it. Counts
//! read `state`, so where it disagrees with the rule, the count follows `state`.

use crate::callback::derived::{Counts, NotCounted};
use crate::store::marks::covers;

/// What decides whether a message counts.
pub struct UnreadFacts {
    /// Whether its own callback has come, and not only a recall or an edit.
    pub is_received: bool,
    /// What the app's rules say of its columns; `None` if another provider than the app's sent it.
    pub derived: Option<Result<Counts, NotCounted>>,
    /// Whether it is recalled.
    pub is_recalled: bool,
    /// When it was sent.
    pub sent_at: Option<i64>,
    /// The read mark of its receiver for its sender.
    pub mark: Option<i64>,
    /// Its `state`.
    pub state: Option<i64>,
}

/// The rule by which a message counts or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnreadRule {
    /// Only a recall or an edit of it has come.
    NotReceived,
    /// Another provider than the app's sent it, and it has no `state`.
    OtherProvider,
    /// It never counts.
    Never(NotCounted),
    /// It is recalled.
    Recalled,
    /// The read mark covers it.
    Read,
    /// Nothing keeps it from counting.
    Unread,
}

impl UnreadRule {
    /// The stable code, listed in `docs/trace.md`.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotReceived => "not_received",
            Self::OtherProvider => "other_provider",
            Self::Never(why) => why.code(),
            Self::Recalled => "recalled",
            Self::Read => "read",
            Self::Unread => "unread",
        }
    }

    /// Every rule.
    pub fn all() -> impl Iterator<Item = Self> {
        let own = [
            Self::NotReceived,
            Self::OtherProvider,
            Self::Recalled,
            Self::Read,
            Self::Unread,
        ];
        own.into_iter().chain(NotCounted::ALL.map(Self::Never))
    }
}

/// Whether `state` is what the rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateAgreement {
    /// It is.
    Agrees,
    /// It will be soon: the mark covers the message, and `state` follows. Counts are right already.
    Behind,
    /// It is not, and `im-callback reconcile` repairs it.
    Disagrees,
    /// It is absent, although the message counts by the app's rules of today; `im-callback backfill` sets it.
    Missing,
    /// It is there, although the message does not count by the app's rules of today; `im-callback backfill` removes it.
    LeftOver,
    /// It is there, although the message itself has not come. Only somebody's change causes this, and no command
    /// removes it: `im-callback reconcile` leaves alone what has no sender and time.
    Unexpected,
}

impl StateAgreement {
    /// Every case.
    pub const ALL: [Self; 6] = [
        Self::Agrees,
        Self::Behind,
        Self::Disagrees,
        Self::Missing,
        Self::LeftOver,
        Self::Unexpected,
    ];

    /// The stable code, listed in `docs/trace.md`.
    pub fn code(self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::Behind => "behind",
            Self::Disagrees => "disagrees",
            Self::Missing => "missing",
            Self::LeftOver => "left_over",
            Self::Unexpected => "unexpected",
        }
    }
}

/// Whether a message counts as unread now, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnreadVerdict {
    /// Whether it is part of the answer to a query.
    pub counts: bool,
    /// What its facts say.
    pub rule: UnreadRule,
    /// Whether its `state` says the same.
    pub agreement: StateAgreement,
}

/// Decides.
pub fn judge(facts: &UnreadFacts) -> UnreadVerdict {
    let (rule, agreement) = rule(facts);
    // As `unread` counts: the keys with `state: 0` that are later than their pair's mark.
    let is_later = |sent_at| !covers(facts.mark, sent_at);
    UnreadVerdict {
        counts: facts.state == Some(0) && facts.sent_at.is_some_and(is_later),
        rule,
        agreement,
    }
}

/// The rule, and what `state` is to it.
fn rule(facts: &UnreadFacts) -> (UnreadRule, StateAgreement) {
    let state = facts.state;
    // Without a `state` it agrees.
    let unless_absent = |agreement| state.map_or(StateAgreement::Agrees, |_| agreement);
    let sent_at = match &facts.derived {
        _ if !facts.is_received => {
            let agreement = unless_absent(StateAgreement::Unexpected);
            return (UnreadRule::NotReceived, agreement);
        }
        Some(Err(why)) => {
            let agreement = unless_absent(StateAgreement::LeftOver);
            return (UnreadRule::Never(*why), agreement);
        }
        Some(Ok(counts)) => Some(counts.sent_at.get()),
        // The rules of the app's provider of today say nothing about it, so what was derived when it came holds.
        None if state.is_none() => return (UnreadRule::OtherProvider, StateAgreement::Agrees),
        None => facts.sent_at,
    };
    let (agrees, disagrees) = (StateAgreement::Agrees, StateAgreement::Disagrees);
    let (rule, if_unread, if_not) = if facts.is_recalled {
        (UnreadRule::Recalled, disagrees, agrees)
    } else if sent_at.is_some_and(|sent_at| covers(facts.mark, sent_at)) {
        (UnreadRule::Read, StateAgreement::Behind, agrees)
    } else {
        (UnreadRule::Unread, agrees, disagrees)
    };
    let agreement = match state {
        None => StateAgreement::Missing,
        Some(0) => if_unread,
        Some(_) => if_not,
    };
    (rule, agreement)
}
