//! Typed values under the names they are stored by: the output of decoding, and the input of an app's rules.
//!
//! Users of the database rely on each name and its type. Only the provider's decoder knows them; the store writes
//! them unchanged.

use std::borrow::Cow;
use std::fmt;

use super::json::{Fields, Json, RawValue, id, nested, scalar, value_at, view};

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
        let read = |raw: &RawValue| scalar(raw).map(Cow::into_owned);
        self.at(pointer, read, Self::owned_text)
    }

    /// The same to an id: a text or a whole number.
    pub fn id_at(&self, pointer: &str) -> Option<String> {
        let read = |raw: &RawValue| id(raw).map(Cow::into_owned);
        self.at(pointer, read, Self::owned_text)
    }

    /// The same to a list of scalars, or to one alone; empty if there is neither.
    pub fn texts_at(&self, pointer: &str) -> Vec<String> {
        let read = |raw: &RawValue| match view(raw) {
            Json::Array(items) => {
                let texts = items.into_iter().filter_map(scalar);
                Some(texts.map(Cow::into_owned).collect())
            }
            _ => scalar(raw).map(|text| vec![text.into_owned()]),
        };
        let plain = |value: &Self| match value {
            Self::Texts(texts) => Some(texts.clone()),
            other => other.owned_text().map(|text| vec![text]),
        };
        self.at(pointer, read, plain).unwrap_or_default()
    }

    fn owned_text(&self) -> Option<String> {
        self.as_text().map(Cow::into_owned)
    }

    /// Reads what a pointer leads to, or all of a value that is no JSON.
    fn at<T>(
        &self,
        pointer: &str,
        read: impl FnOnce(&RawValue) -> Option<T>,
        plain: impl FnOnce(&Self) -> Option<T>,
    ) -> Option<T> {
        let nested: Cow<'_, RawValue> = match self {
            Self::Json(raw) => Cow::Borrowed(raw),
            Self::Text(text) if text.trim_start().starts_with(['{', '[']) => {
                Cow::Owned(RawValue::from_string(text.trim().to_owned()).ok()?)
            }
            other if pointer.is_empty() => return plain(other),
            _ => return None,
        };
        read(&value_at(&nested, pointer)?)
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
