//! An app's settings for decoding, and what they derive from a message's columns.

use crate::callback::OrderIdAt;
use crate::callback::columns::Columns;
use crate::callback::derived::{Counts, Derived, NotCounted};
use crate::callback::event::Class;
use crate::callback::ids::{Account, Millis};

/// An app's settings for decoding.
#[derive(Debug, Clone, Default)]
pub struct NeteaseRules {
    /// Whether messages of type TIPS count as unread.
    pub count_tips: bool,
    /// Where a message carries the id of its order.
    pub order_id: Option<OrderIdAt>,
}

impl NeteaseRules {
    /// Derives from a message's columns.
    pub fn derive(&self, class: Class, columns: &Columns<'_>) -> Derived {
        let (from, to) = (columns.text("fromAccount"), columns.text("to"));
        let to = to.unwrap_or_default();
        Derived {
            counts: match class {
                Class::P2p => self.counts(columns),
                Class::Team | Class::SuperTeam => Err(NotCounted::Team),
                Class::CustomPerson | Class::CustomTeam => Err(NotCounted::SystemNotice),
            },
            order_id: self.order_id.as_ref().and_then(|at| at.find(columns)),
            conversation: class.conversation(from.as_deref(), &to),
        }
    }

    /// Counts a message to another person as unread, unless the provider blocks it or an app shows it as a notice
    /// only.
    fn counts(&self, columns: &Columns<'_>) -> Result<Counts, NotCounted> {
        let peer = columns.text("fromAccount");
        let sent_at = columns.int("msgTimestamp").and_then(Millis::new);
        let (Some(peer), Some(sent_at), Some(to)) = (peer, sent_at, columns.text("to")) else {
            return Err(NotCounted::Incomplete);
        };
        let msg_type = columns.text("msgType").unwrap_or_default();
        if to == peer {
            Err(NotCounted::ToSelf)
        } else if msg_type.eq_ignore_ascii_case("NOTIFICATION") {
            Err(NotCounted::Notification)
        } else if !self.count_tips && msg_type.eq_ignore_ascii_case("TIPS") {
            Err(NotCounted::Tips)
        } else if held_back(columns) {
            Err(NotCounted::HeldBack)
        } else {
            Ok(Counts {
                peer: Account::new(peer),
                sent_at,
            })
        }
    }
}

/// Whether the provider blocked a message.
pub fn held_back(columns: &Columns<'_>) -> bool {
    ["blacklist", "antispam"].into_iter().any(|name| {
        let flag = columns.text(name);
        flag.is_some_and(|v| v == "1" || v.eq_ignore_ascii_case("true"))
    })
}
