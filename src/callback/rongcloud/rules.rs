//! An app's settings for decoding, and what they derive from a message's columns.

use std::collections::HashMap;

use super::types;
use crate::callback::OrderIdAt;
use crate::callback::columns::Columns;
use crate::callback::derived::{Counts, Derived, NotCounted};
use crate::callback::event::Class;
use crate::callback::ids::{Account, Millis, natural_key};

/// How messages of a type are handled. Callbacks do not contain it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Stored, and counted as unread.
    Counted,
    /// Stored, and not counted.
    Stored,
    /// Not stored as a message: it only notifies users who are online (状态消息).
    Status,
}

/// An app's settings for decoding.
#[derive(Debug, Clone)]
pub struct RongcloudRules {
    /// By `objectName`: the app's own types, and overrides of the provider's.
    pub types: HashMap<String, Weight>,
    /// For types that are in neither the app's settings nor the provider's table.
    pub other_types: Weight,
    /// Where a message carries the id of its order.
    pub order_id: Option<OrderIdAt>,
}

impl RongcloudRules {
    /// The weight of a message type: from the app's settings, otherwise from the provider's table, otherwise the
    /// app's default.
    pub fn weight(&self, object_name: &str) -> Weight {
        let own = self.types.get(object_name).copied();
        own.or_else(|| types::weight(object_name))
            .unwrap_or(self.other_types)
    }

    /// Derives from a message's columns.
    pub fn derive(&self, class: Class, columns: &Columns<'_>) -> Derived {
        let (from, to) = (columns.text("fromAccount"), columns.text("to"));
        let to = to.unwrap_or_default();
        let conversation = class.conversation(from.as_deref(), &to);
        // In an ultra group each channel is a conversation.
        let channel = columns.text("busChannel");
        let channel = channel.filter(|_| class == Class::SuperTeam);
        // A directed message is for some members only, and an edit in an ultra group is no message more.
        let is_for_some = |columns: &Columns<'_>| {
            let to = columns.get("groupUserIds");
            to.is_some_and(|to| !to.texts_at("").is_empty())
        };
        let is_edit = |columns: &Columns<'_>| columns.text("originalMsgUID").is_some();
        Derived {
            counts: match class.never_counts() {
                Some(why) => Err(why),
                None => self.counts(class, columns),
            },
            counts_in_team: class.is_team()
                && !is_for_some(columns)
                && !is_edit(columns)
                && self.counts(class, columns).is_ok(),
            joined: Vec::new(),
            order_id: self.order_id.as_ref().and_then(|at| at.find(columns)),
            conversation: conversation.map(|group| match &channel {
                Some(channel) => format!("{group}/{}", natural_key([&**channel])),
                None => group,
            }),
        }
    }

    /// Counts a message to another person or a group as unread if its type counts and it is delivered.
    fn counts(&self, class: Class, columns: &Columns<'_>) -> Result<Counts, NotCounted> {
        let time = columns.text("msgTimestamp");
        let sent_at = time.and_then(|time| Millis::new(time.trim().parse().ok()?));
        let (Some(peer), Some(sent_at), Some(to), Some(object_name)) = (
            columns.text("fromAccount"),
            sent_at,
            columns.text("to"),
            columns.text("objectName"),
        ) else {
            return Err(NotCounted::Incomplete);
        };
        if class == Class::P2p && to == peer {
            Err(NotCounted::ToSelf)
        } else if self.weight(&object_name) != Weight::Counted {
            Err(NotCounted::Type)
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

/// Whether a message was not delivered: one with a blocked word (`sensitiveType` 1) is not, one with replaced words (2)
/// is.
pub fn held_back(columns: &Columns<'_>) -> bool {
    let sensitive = columns.text("sensitiveType");
    sensitive.is_some_and(|sort| sort.trim() == "1")
}
