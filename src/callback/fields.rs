//! Reading single fields of a body, required or optional, with the error and its path.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use super::event::{ReadMark, Reason, Undecodable};
use super::ids::{Account, Millis};
use super::json::{Fields, Json, NotAnObject, RawValue, nested, scalar, view};

/// A field, or why it is unusable.
pub type Result<T> = std::result::Result<T, Undecodable>;

/// A body's fields; `None` if it is empty, as in a probe of the address.
pub fn parse_body(body: &[u8]) -> Result<Option<Fields<'_>>> {
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    match Fields::parse(body) {
        Ok(fields) if fields.is_empty() => Ok(None),
        Ok(fields) => Ok(Some(fields)),
        Err(NotAnObject::Syntax { line, column }) => {
            Err(undecodable("", Reason::NotJson { line, column }))
        }
        Err(NotAnObject::OtherType) => Err(undecodable("", Reason::NotAnObject)),
    }
}

/// A scalar that is present and not empty.
pub fn optional<'f>(fields: &'f Fields<'_>, name: &str) -> Option<Cow<'f, str>> {
    fields
        .get(name)
        .and_then(scalar)
        .filter(|text| !text.is_empty())
}

/// A required scalar.
pub fn required<'f>(fields: &'f Fields<'_>, name: &str) -> Result<Cow<'f, str>> {
    match fields.get(name).map(scalar) {
        Some(None) => Err(undecodable(name, Reason::BadValue("a string or a number"))),
        Some(Some(text)) if !text.is_empty() => Ok(text),
        Some(Some(_)) | None => Err(undecodable(name, Reason::MissingField)),
    }
}

/// A required time.
pub fn millis(fields: &Fields<'_>, name: &str) -> Result<Millis> {
    required(fields, name)?
        .trim()
        .parse()
        .ok()
        .and_then(Millis::new)
        .ok_or_else(|| undecodable(name, Reason::BadValue("milliseconds since 1970")))
}

/// A receipt's time. Times too far ahead of its callback's arrival are rejected.
pub fn read_up_to(fields: &Fields<'_>, name: &str, arrived: Millis) -> Result<Millis> {
    let up_to = millis(fields, name)?;
    if ReadMark::is_ahead(up_to, arrived) {
        return Err(undecodable(name, Reason::TimeAhead));
    }
    Ok(up_to)
}

/// An optional time; an error if it is present and not a time.
pub fn optional_millis(fields: &Fields<'_>, name: &str) -> Result<Option<Millis>> {
    match optional(fields, name) {
        Some(_) => millis(fields, name).map(Some),
        None => Ok(None),
    }
}

/// An error in a field of the body, or in the whole body if the name is empty.
pub fn undecodable(name: &str, reason: Reason) -> Undecodable {
    let path = if name.is_empty() {
        "$".to_owned()
    } else {
        format!("$.{name}")
    };
    Undecodable { reason, path }
}

/// The accounts in these fields, as far as they are sent, in the form that `account` gives them.
pub fn accounts(
    fields: &Fields<'_>,
    names: &[&'static str],
    account: impl Fn(&str) -> Account,
) -> Vec<(&'static str, Account)> {
    let accounts = names
        .iter()
        .filter_map(|name| optional(fields, name).map(|id| (*name, account(&id))));
    accounts.collect()
}

/// The time in this field, with its name, if it is one.
pub fn time(fields: &Fields<'_>, name: Option<&'static str>) -> Option<(&'static str, Millis)> {
    let name = name?;
    Some((name, millis(fields, name).ok()?))
}

/// Puts the name of a part of the body before the path of an error in it.
pub fn within<T>(name: &str, read: Result<T>) -> Result<T> {
    read.map_err(|Undecodable { reason, path }| Undecodable {
        reason,
        path: path.replacen('$', &format!("$.{name}"), 1),
    })
}

/// A required object, whether sent as a value or as JSON text.
pub fn part<'b>(fields: &Fields<'_>, name: &str) -> Result<Fields<'b>> {
    let missing = || undecodable(name, Reason::MissingField);
    let object = own(fields.get(name).ok_or_else(missing)?.get());
    object.ok_or_else(|| undecodable(name, Reason::BadValue("an object")))
}

/// The elements of a list as JSON text, whether sent as a value or as JSON text; a single object is a list of one.
pub fn elements(raw: &RawValue) -> Option<Vec<String>> {
    let list = nested(raw);
    match view(&list) {
        Json::Array(items) => Some(items.iter().map(|item| item.get().to_owned()).collect()),
        Json::Object(_) => Some(vec![list.get().to_owned()]),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_) => None,
    }
}

/// An element's fields, whether sent as an object or as JSON text.
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
