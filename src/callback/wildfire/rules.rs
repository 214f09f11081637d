//! An app's settings for decoding, and what they derive from a message's columns.

use super::wire::{self, Persist};
use crate::callback::OrderIdAt;
use crate::callback::columns::Columns;
use crate::callback::derived::{Counts, Derived, NotCounted};
use crate::callback::event::Class;
use crate::callback::ids::{Account, Millis};

/// An app's settings for decoding.
#[derive(Debug, Clone, Default)]
pub struct WildfireRules {
    /// The line whose conversations count. A conversation has a line besides its type and target, and each
    /// line is read separately.
    pub line: i64,
    /// Where a message carries the id of its order.
    pub order_id: Option<OrderIdAt>,
}

impl WildfireRules {
    /// Derives from a message's columns.
    pub fn derive(&self, class: Class, columns: &Columns<'_>) -> Derived {
        let line = columns.get("conv").and_then(|conv| conv.scalar_at("/line"));
        let line = wire::line(line.as_deref());
        let (from, to) = (columns.text("fromAccount"), columns.text("to"));
        let to = to.unwrap_or_default();
        let conversation = class.conversation(from.as_deref(), &to);
        let is_ours = line == Some(self.line);
        // A directed message is for some members only.
        let is_for_some = |columns: &Columns<'_>| {
            let to = columns.get("toUsers");
            to.is_some_and(|to| !to.texts_at("").is_empty())
        };
        Derived {
            counts: match class.never_counts() {
                Some(why) => Err(why),
                None if is_ours => counts(class, columns),
                None => Err(NotCounted::OtherLine),
            },
            counts_in_team: class.is_team()
                && is_ours
                && !is_for_some(columns)
                && counts(class, columns).is_ok(),
            joined: Vec::new(),
            order_id: self.order_id.as_ref().and_then(|at| at.find(columns)),
            conversation: conversation.zip(line).map(|(both, line)| match line {
                0 => both,
                line => format!("{both}/{line}"),
            }),
        }
    }
}

/// Counts a message to another person or a group as unread if the sending client says that it counts. It does not
/// matter whether the receiver is online or has muted the conversation (spec, section 1.4).
fn counts(class: Class, columns: &Columns<'_>) -> Result<Counts, NotCounted> {
    let time = columns.text("msgTimestamp");
    let sent_at = time.and_then(|time| Millis::new(time.parse().ok()?));
    let flag = columns.get("payload");
    let flag = flag.and_then(|payload| payload.scalar_at("/persistFlag"));
    let flag = flag.and_then(|flag| Persist::parse(&flag));
    let (Some(peer), Some(sent_at), Some(to), Some(persist)) = (
        columns.text("fromAccount"),
        sent_at,
        columns.text("to"),
        flag,
    ) else {
        return Err(NotCounted::Incomplete);
    };
    if class == Class::P2p && to == peer {
        Err(NotCounted::ToSelf)
    } else if !persist.counts() {
        Err(NotCounted::SenderSays)
    } else {
        Ok(Counts {
            peer: Account::new(peer),
            sent_at,
        })
    }
}
