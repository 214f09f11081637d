//! Where an overview goes on: after the last entry of each of its lists.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::http::error::{Code, Problem};
use crate::ingest::App;
use crate::store::NewestUnread;

/// A place in a list, newest first, and in the order of ids where times are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadPlace(i64, String);

impl UnreadPlace {
    /// The place of an entry.
    pub fn of(entry: &NewestUnread) -> Self {
        Self(entry.sent_at, entry.id.clone())
    }

    /// Whether an entry comes later in its list.
    pub fn is_before(&self, entry: &NewestUnread) -> bool {
        (Reverse(self.0), self.1.as_str()) < (Reverse(entry.sent_at), entry.id.as_str())
    }
}

/// A cursor. Whoever gets one needs to know nothing of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadCursor(pub Option<UnreadPlace>, pub Option<UnreadPlace>);

impl UnreadCursor {
    /// Reads what [`UnreadCursor::text`] wrote, and nothing else.
    ///
    /// # Errors
    /// A [`Problem`] of 422.
    pub fn parse(text: &str, app: &App) -> Result<Self, Problem> {
        let bytes = hex::decode(text).ok();
        let cursor: Option<Self> = bytes.and_then(|json| serde_json::from_slice(&json).ok());
        let has_orders = app.provider.order_id().is_some();
        let is_ours = |cursor: &Self| cursor.text() == text && (has_orders || cursor.1.is_none());
        cursor.filter(is_ours).ok_or_else(|| {
            let detail = "give the `next` of the answer before, or leave it out to begin";
            Problem::at(Code::InvalidCursor, "after", detail)
        })
    }

    /// As it is answered: harmless in an address.
    pub fn text(&self) -> String {
        hex::encode(serde_json::to_vec(self).unwrap_or_default())
    }
}
