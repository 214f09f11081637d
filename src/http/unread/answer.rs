//! What is answered.

use std::collections::BTreeMap;
use std::fmt;

use indexmap::IndexMap;
use serde::Serialize;
use utoipa::ToSchema;

/// Counts of unread messages: by the lists that were asked for, with every id in them, spelled as asked. Or, without
/// lists, all of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(example = json!({ "user": "bob", "peers": { "ann": 3, "bea": 0 }, "total": 3, "total_of": "peers" }))]
pub struct UnreadAnswer {
    /// The user, as asked.
    pub user: String,
    /// Unread messages by sender. Without lists: of the senders on this page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub peers: Option<IndexMap<String, u64>>,
    /// Unread messages by order. Without lists: of the orders on this page, if the app has orders.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub orders: Option<IndexMap<String, u64>>,
    /// Unread messages by team.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub teams: Option<IndexMap<String, u64>>,
    /// Who wrote the unread messages of each order, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub order_peers: Option<IndexMap<String, BTreeMap<String, u64>>>,
    /// The sum of the list that `total_of` names, each id once. Without lists: of all senders, also those on other
    /// pages.
    pub total: u64,
    /// What `total` is the sum of: the first list that was asked for.
    pub total_of: TotalOf,
    /// Without lists: the entries of this page, the newest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub newest: Option<NewestLists>,
    /// Without lists: the cursor of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next: Option<String>,
    /// `false` if acknowledged callbacks wait in a spool and may change the counts, or if a team's messages of an older
    /// version are not counted until `im-callback backfill` has run; otherwise absent.
    #[serde(skip_serializing_if = "is_true")]
    pub complete: bool,
    /// Whether callbacks wait in a spool.
    #[serde(skip)]
    pub waits_for_spool: bool,
}

/// The list that a total is the sum of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TotalOf {
    /// The senders.
    Peers,
    /// The orders.
    Orders,
    /// The teams.
    Teams,
}

/// What a user has not read, the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NewestLists {
    /// By sender.
    pub peers: Vec<NewestPeer>,
    /// By order, if the app has orders.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub orders: Option<Vec<NewestOrder>>,
}

/// A sender of unread messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NewestPeer {
    /// The sender.
    pub peer: String,
    /// How many are unread.
    pub unread: u64,
    /// When the newest was sent, in UTC. Absent at the end of the year 9999.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    pub last_at: Option<String>,
    /// The same in milliseconds, the provider's own number.
    pub last_timestamp: i64,
    /// The newest; absent if it was read or recalled in that very moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last: Option<LastMessage>,
}

/// An order with unread messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NewestOrder {
    /// The order.
    pub order: String,
    /// How many are unread.
    pub unread: u64,
    /// How many by sender.
    pub peers: BTreeMap<String, u64>,
    /// When the newest was sent, in UTC. Absent at the end of the year 9999.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    pub last_at: Option<String>,
    /// The same in milliseconds, the provider's own number.
    pub last_timestamp: i64,
    /// The newest; absent if it was read or recalled in that very moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last: Option<LastMessage>,
}

/// An unread message.
#[derive(Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct LastMessage {
    /// The provider's id of it.
    pub id: String,
    /// The provider's word or number for its type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub message_type: Option<String>,
    /// Who wrote it.
    pub from: String,
    /// The first 500 characters of its text, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub text: Option<String>,
}

/// Hides the text.
impl fmt::Debug for LastMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("LastMessage");
        shown.field("id", &self.id).field("from", &self.from);
        shown.finish_non_exhaustive()
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn is_true(flag: &bool) -> bool {
    *flag
}
