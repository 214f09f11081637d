//! An app's settings for decoding, and what they derive from a message's columns.

use super::account;
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
            counts: match class.never_counts() {
                Some(why) => Err(why),
                None => self.counts(class, columns),
            },
            counts_in_team: class.is_team() && self.counts(class, columns).is_ok(),
            joined: match class.is_team() && is_notification(columns) {
                true => joined(columns),
                false => Vec::new(),
            },
            order_id: self.order_id.as_ref().and_then(|at| at.find(columns)),
            conversation: class.conversation(from.as_deref(), &to),
        }
    }

    /// Counts a message to another person or a team as unread, unless the provider blocks it or an app shows it as a
    /// notice only.
    fn counts(&self, class: Class, columns: &Columns<'_>) -> Result<Counts, NotCounted> {
        let peer = columns.text("fromAccount");
        let sent_at = columns.int("msgTimestamp").and_then(Millis::new);
        let (Some(peer), Some(sent_at), Some(to)) = (peer, sent_at, columns.text("to")) else {
            return Err(NotCounted::Incomplete);
        };
        let msg_type = columns.text("msgType").unwrap_or_default();
        if class == Class::P2p && to == peer {
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

fn is_notification(columns: &Columns<'_>) -> bool {
    let msg_type = columns.text("msgType");
    msg_type.is_some_and(|word| word.eq_ignore_ascii_case("NOTIFICATION"))
}

/// Who joined by a team notice. `attach.id` says what happened (spec, section 3.1); a super team's numbers are higher
/// by 401. `tMembers` is no help: every notice has the members of its time there.
fn joined(columns: &Columns<'_>) -> Vec<Account> {
    let attach = columns.get("attach");
    let what = attach.and_then(|attach| attach.scalar_at("/id"));
    let named = |pointer| attach.map_or_else(Vec::new, |attach| attach.texts_at(pointer));
    let ids = match what.as_deref() {
        // The sender invited these, or let them in.
        Some("0" | "5" | "401" | "406") => [named("/data/ids"), named("/data/id")].concat(),
        // The sender accepted an invitation of these.
        Some("9" | "410") => columns
            .text("fromAccount")
            .map_or_else(Vec::new, |from| vec![from.into_owned()]),
        _ => Vec::new(),
    };
    let accounts = ids.iter().filter(|id| !id.is_empty()).map(|id| account(id));
    accounts.collect()
}
