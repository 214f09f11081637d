//! Names and ids, checked once where they enter.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, de::Error as _};

/// The name of an app: the first part of every `_id`, and a path segment of its callback address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppName(Arc<str>);

/// Why a text is not an [`AppName`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an app's name is 1 to 64 letters, digits, `-` or `_`")]
pub struct BadAppName;

impl AppName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`BadAppName`] unless it is 1 to 64 ASCII letters, digits, `-` or `_`: such a name needs no
    /// escaping in a path or in an `_id`.
    pub fn new(name: impl Into<Arc<str>>) -> Result<Self, BadAppName> {
        let name = name.into();
        let fits = (1..=64).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if fits {
            Ok(Self(name))
        } else {
            Err(BadAppName)
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as a shared text.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for AppName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// A user's id at the provider, normalized so that equal ids are the same user. Made by
/// [`ProviderName::account`](super::ProviderName::account); every comparison uses this type on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account(String);

impl Account {
    /// Takes an id unchanged. The caller checks for an empty id, since the error depends on where the id came
    /// from.
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as an owned string.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z, the provider's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Millis(i64);

impl Millis {
    /// The last millisecond of the year 9999. RFC 3339 cannot express a later time, which must be a mistake.
    const MAX: i64 = 253_402_300_799_999;

    /// A time from a number of milliseconds; `None` if negative or after the year 9999.
    pub fn new(millis: i64) -> Option<Self> {
        (0..=Self::MAX).contains(&millis).then_some(Self(millis))
    }

    /// The nearest valid time, for a clock that may be set to anything.
    pub fn nearest(millis: i64) -> Self {
        Self(millis.clamp(0, Self::MAX))
    }

    /// The number of milliseconds.
    pub fn get(self) -> i64 {
        self.0
    }
}

/// Joins the parts of a natural key with `/`. Escapes `/` and `%` in the parts, so that different parts never make
/// the same key.
pub fn natural_key<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut key = String::with_capacity(96);
    for (i, part) in parts.into_iter().enumerate() {
        if i > 0 {
            key.push('/');
        }
        if !part.contains(['/', '%']) {
            key.push_str(part);
            continue;
        }
        for c in part.chars() {
            match c {
                '/' => key.push_str("%2F"),
                '%' => key.push_str("%25"),
                c => key.push(c),
            }
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_names_need_no_escaping() {
        for good in ["otc", "a", "OTC-2_b", &"x".repeat(64)] {
            assert!(AppName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "a/b", "a b", "é", "a.b", &"x".repeat(65)] {
            assert_eq!(AppName::new(bad), Err(BadAppName), "{bad}");
        }
    }

    #[test]
    fn the_nearest_time_of_any_clock_is_a_time() {
        for (clock, nearest) in [(-1, 0), (5, 5), (i64::MAX, Millis::MAX)] {
            assert_eq!(Some(Millis::nearest(clock)), Millis::new(nearest));
        }
    }

    #[test]
    fn natural_keys_of_different_parts_differ() {
        assert_ne!(natural_key(["a/b", "c"]), natural_key(["a", "b/c"]));
        assert_ne!(natural_key(["a%2F", "c"]), natural_key(["a/", "c"]));
        assert_eq!(natural_key(["a", "b"]), "a/b");
    }
}
