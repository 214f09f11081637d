//! An app's settings for decoding, and what they derive from a message's columns.

use super::wire::{self, Persist};
use crate::callback::OrderIdAt;
use crate::callback::columns::Columns;
use crate::callback::event::{Class, Counts, Derived};
use crate::callback::ids::{Account, Millis};

/// An app's settings for decoding.
#[derive(Debug, Clone, Default)]
pub struct WildfireRules {
    /// The line whose private conversations count. A conversation has a line besides its type and target, and each
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
        Derived {
            counts: match class {
                Class::P2p if line == Some(self.line) => counts(columns),
                Class::P2p
                | Class::Team
                | Class::SuperTeam
                | Class::CustomPerson
                | Class::CustomTeam => None,
            },
            order_id: self.order_id.as_ref().and_then(|at| at.find(columns)),
            conversation: conversation.zip(line).map(|(both, line)| match line {
                0 => both,
                line => format!("{both}/{line}"),
            }),
        }
    }
}

/// Counts a private message to another person as unread if the sending client says that it counts. It does not
/// matter whether the receiver is online or has muted the conversation (spec, section 1.4).
fn counts(columns: &Columns<'_>) -> Option<Counts> {
    let peer = columns.text("fromAccount")?;
    let sent_at = Millis::new(columns.text("msgTimestamp")?.parse().ok()?)?;
    let flag = columns.get("payload")?.scalar_at("/persistFlag")?;
    let counts = columns.text("to")? != peer && Persist::parse(&flag)?.counts();
    counts.then(|| Counts {
        peer: Account::new(peer),
        sent_at,
    })
}
