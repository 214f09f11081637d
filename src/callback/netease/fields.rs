//! Reading single fields of a body: what is there, what must be there, and what is wrong with it.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use crate::callback::event::{Class, MessageRef, Reason, Undecodable};
use crate::callback::ids::{Account, Millis};
use crate::callback::json::{Fields, Json, RawValue, nested, scalar, view};

/// A field, or why it cannot be used.
pub type Result<T> = std::result::Result<T, Undecodable>;

/// What names the message that a body is or speaks of; `id` is the field with the server's id.
pub fn message_ref(fields: &Fields<'_>, class: Class, id: &'static str) -> Result<MessageRef> {
    let to = required(fields, "to")?;
    Ok(MessageRef {
        class,
        id: required(fields, id)?.into_owned(),
        to: if class.is_to_account() {
            Account::new(&to).as_str().to_owned()
        } else {
            to.into_owned()
        },
    })
}

/// A scalar that is there and not empty.
pub fn optional<'f>(fields: &'f Fields<'_>, name: &str) -> Option<Cow<'f, str>> {
    fields
        .get(name)
        .and_then(scalar)
        .filter(|text| !text.is_empty())
}

/// A scalar that the event cannot do without.
pub fn required<'f>(fields: &'f Fields<'_>, name: &str) -> Result<Cow<'f, str>> {
    match fields.get(name).map(scalar) {
        Some(None) => Err(undecodable(name, Reason::BadValue("a string or a number"))),
        Some(Some(text)) if !text.is_empty() => Ok(text),
        Some(Some(_)) | None => Err(undecodable(name, Reason::MissingField)),
    }
}

/// A time that the event cannot do without.
pub fn millis(fields: &Fields<'_>, name: &str) -> Result<Millis> {
    required(fields, name)?
        .trim()
        .parse()
        .ok()
        .and_then(Millis::new)
        .ok_or_else(|| undecodable(name, Reason::BadValue("milliseconds since 1970")))
}

/// How far a receipt's time may be after its callback's arrival: room for clocks that differ, in milliseconds.
const MAX_AHEAD: i64 = 24 * 60 * 60 * 1000;

/// A receipt's time. One far ahead is a mistake that would silence its conversation for good, since a read
/// mark only rises.
pub fn read_up_to(fields: &Fields<'_>, name: &str, arrived: Millis) -> Result<Millis> {
    let up_to = millis(fields, name)?;
    if up_to.get() - arrived.get() > MAX_AHEAD {
        return Err(undecodable(name, Reason::TimeAhead));
    }
    Ok(up_to)
}

/// A time that is right where it is there.
pub fn optional_millis(fields: &Fields<'_>, name: &str) -> Result<Option<Millis>> {
    match optional(fields, name) {
        Some(_) => millis(fields, name).map(Some),
        None => Ok(None),
    }
}

/// A fault in a field of the body; in the body itself where the name is empty.
pub fn undecodable(name: &str, reason: Reason) -> Undecodable {
    let path = if name.is_empty() {
        "$".to_owned()
    } else {
        format!("$.{name}")
    };
    Undecodable { reason, path }
}

/// The elements of a list as their JSON texts, whether it was sent as a value or as JSON text; a lone
/// object is a list of one.
pub fn elements(raw: &RawValue) -> Option<Vec<String>> {
    let list = nested(raw);
    match view(&list) {
        Json::Array(items) => Some(items.iter().map(|item| item.get().to_owned()).collect()),
        Json::Object(_) => Some(vec![list.get().to_owned()]),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_) => None,
    }
}

/// An element's fields, whether it was sent as an object or as JSON text.
pub fn own<'b>(element: &str) -> Option<Fields<'b>> {
    let element = RawValue::from_string(element.to_owned()).ok()?;
    let fields = Fields::parse(nested(&element).get().as_bytes())
        .ok()?
        .into_owned();
    Some(fields)
}

/// The bytes' SHA-256, in hex.
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}
