//! Typed values under the names they are stored by: the output of decoding, and the input of an app's rules.
//!
//! Users of the database rely on each name and its type. Only the provider's decoder knows them; the store writes
//! them unchanged.

use std::borrow::Cow;
use std::fmt;

use super::json::{Fields, RawValue, id, nested, scalar, value_at};

/// A value in the type in which it is stored.
#[derive(Clone)]
pub enum Value<'a> {
    /// Text.
    Text(Cow<'a, str>),
    /// A 32-bit integer.
    Number(i32),
    /// A 64-bit integer.
    Int(i64),
    /// A boolean.
    Flag(bool),
    /// A list of strings.
    Texts(Vec<String>),
    /// Bytes that are not text.
    Bytes(Cow<'a, [u8]>),
    /// JSON; its parts keep the types they were sent with.
    Json(Cow<'a, RawValue>),
}

impl<'a> Value<'a> {
    /// A scalar as text, whether sent as a string or as a number; anything else stays JSON.
    pub fn text(raw: Cow<'a, RawValue>) -> Self {
        let text = match &raw {
            Cow::Borrowed(raw) => scalar(raw),
            Cow::Owned(raw) => scalar(raw).map(|text| Cow::Owned(text.into_owned())),
        };
        text.map_or(Self::Json(raw), Self::Text)
    }

    /// An integer, whether sent as a string or as a number; anything else stays JSON.
    pub fn int(raw: Cow<'a, RawValue>) -> Self {
        match scalar(&raw).and_then(|text| text.trim().parse().ok()) {
            Some(number) => Self::Int(number),
            None => Self::Json(raw),
        }
    }

    /// A flag, whether sent as a boolean, a word or a digit; anything else stays JSON.
    pub fn flag(raw: Cow<'a, RawValue>) -> Self {
        match scalar(&raw).as_deref() {
            Some("true" | "1") => Self::Flag(true),
            Some("false" | "0" | "") => Self::Flag(false),
            _ => Self::Json(raw),
        }
    }

    /// A nested part, whether sent as a value or as JSON text.
    pub fn nested(raw: Cow<'a, RawValue>) -> Self {
        Self::Json(match raw {
            Cow::Borrowed(raw) => nested(raw),
            Cow::Owned(raw) => Cow::Owned(nested(&raw).into_owned()),
        })
    }

    /// The value as text, if it is a scalar.
    pub fn as_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Text(text) => Some(Cow::Borrowed(text)),
            Self::Number(number) => Some(Cow::Owned(number.to_string())),
            Self::Int(number) => Some(Cow::Owned(number.to_string())),
            Self::Flag(flag) => Some(Cow::Borrowed(if *flag { "true" } else { "false" })),
            Self::Json(raw) => scalar(raw),
            Self::Texts(_) | Self::Bytes(_) => None,
        }
    }

    /// Follows a JSON pointer (RFC 6901) to a scalar, also through JSON text inside strings.
    pub fn scalar_at(&self, pointer: &str) -> Option<String> {
        self.at(pointer, scalar)
    }

    /// The same to an id: a text or a whole number.
    pub fn id_at(&self, pointer: &str) -> Option<String> {
        self.at(pointer, id)
    }

    fn at(&self, pointer: &str, read: fn(&RawValue) -> Option<Cow<'_, str>>) -> Option<String> {
        let nested: Cow<'_, RawValue> = match self {
            Self::Json(raw) => Cow::Borrowed(raw),
            Self::Text(text) if text.trim_start().starts_with(['{', '[']) => {
                Cow::Owned(RawValue::from_string(text.trim().to_owned()).ok()?)
            }
            scalar if pointer.is_empty() => return scalar.as_text().map(Cow::into_owned),
            _ => return None,
        };
        let found = value_at(&nested, pointer)?;
        read(&found).map(Cow::into_owned)
    }
}

/// Named values, in the order in which they are stored.
#[derive(Clone, Default)]
pub struct Columns<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

impl<'a> Columns<'a> {
    /// An empty list with room for so many columns.
    pub fn with_capacity(columns: usize) -> Self {
        Self(Vec::with_capacity(columns))
    }

    /// An object's members; `typed` gives each its type by its name.
    pub fn of(
        fields: Fields<'a>,
        mut typed: impl FnMut(&str, Cow<'a, RawValue>) -> Value<'a>,
    ) -> Self {
        let columns = fields.into_iter().map(|(name, raw)| {
            let value = typed(&name, raw);
            (name, value)
        });
        Self(columns.collect())
    }

    /// An object's members, unchanged.
    pub fn as_sent(fields: Fields<'a>) -> Self {
        Self::of(fields, |_, raw| Value::Json(raw))
    }

    /// Adds a column at the end.
    pub fn push(&mut self, name: impl Into<Cow<'a, str>>, value: Value<'a>) {
        self.0.push((name.into(), value));
    }

    /// The column of this name.
    pub fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// The column of this name as text, if it is a scalar and not empty.
    pub fn text(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name)?.as_text().filter(|text| !text.is_empty())
    }

    /// The column of this name as an integer, if it is one, or its digits as text.
    pub fn int(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Value::Int(number) => Some(*number),
            other => other.as_text()?.trim().parse().ok(),
        }
    }

    /// The columns, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }
}

/// Prints names only: a value may be a message's text.
impl fmt::Debug for Columns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.0.iter().map(|(n, _)| n))
            .finish()
    }
}
