//! Parts that several kinds of events have in common.

use super::account;
use super::wire::Kind;
use crate::callback::columns::{Columns, Value};
use crate::callback::event::{Class, Effect, EventType, MessageRef, Product, Record};
use crate::callback::fields::{Result, accounts, required, time};
use crate::callback::json::Fields;

/// The message that a body is about. `id` is the field with the server's id.
pub fn message_ref(fields: &Fields<'_>, class: Class, id: &'static str) -> Result<MessageRef> {
    let to = required(fields, "to")?;
    Ok(MessageRef {
        class,
        id: required(fields, id)?.into_owned(),
        to: if class.is_to_account() {
            account(&to).into_string()
        } else {
            to.into_owned()
        },
    })
}

/// An account, normalized for comparison.
pub fn lower(value: Value<'_>) -> Value<'_> {
    match value {
        Value::Text(id) if !is_lower(&id) => Value::Text(account(&id).into_string().into()),
        other => other,
    }
}

/// A fast check that an id is in lower case, as nearly all are.
fn is_lower(id: &str) -> bool {
    id.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase())
}

/// A record of a kind, with the kind's accounts and time.
pub fn record<'a>(
    kind: &Kind,
    event_type: EventType,
    key: String,
    payload: Fields<'a>,
    effect: Effect<'a>,
) -> Record<'a> {
    Record {
        key,
        product: Product::Im,
        event_type,
        kind: kind.name,
        accounts: accounts(&payload, kind.accounts, account),
        at: time(&payload, kind.time),
        payload: Columns::as_sent(payload),
        effect,
    }
}
