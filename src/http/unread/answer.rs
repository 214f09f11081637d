//! What is answered.

use indexmap::IndexMap;
use serde::Serialize;
use utoipa::ToSchema;

/// The counts: the lists that were asked for, every id in them, spelled as asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(example = json!({ "user": "bob", "peers": { "ann": 3, "bea": 0 }, "total": 3 }))]
pub struct UnreadAnswer {
    /// The user, as asked.
    pub user: String,
    /// Unread messages by sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub peers: Option<IndexMap<String, u64>>,
    /// Unread messages by order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub orders: Option<IndexMap<String, u64>>,
    /// The sum of the first list, each id once.
    pub total: u64,
    /// Only where it is not so: acknowledged callbacks wait in a spool, and may change the counts.
    #[serde(skip_serializing_if = "is_true")]
    pub complete: bool,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn is_true(flag: &bool) -> bool {
    *flag
}
