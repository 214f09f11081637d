//! Where a message carries its order's id.

use super::columns::Columns;

/// The longest accepted order id, in bytes. A longer value is not an id.
const MAX_ORDER_ID: usize = 256;

/// A place in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderIdAt {
    /// The column, one of those that [`ProviderName::order_fields`](super::ProviderName::order_fields) lists.
    pub field: &'static str,
    /// A JSON pointer (RFC 6901) into it.
    pub pointer: String,
}

impl OrderIdAt {
    /// The order id of a message with these columns.
    pub fn find(&self, columns: &Columns<'_>) -> Option<String> {
        columns
            .get(self.field)?
            .id_at(&self.pointer)
            .filter(|id| (1..=MAX_ORDER_ID).contains(&id.len()))
    }
}
