//! Reads JSON as providers send it, leniently and without loss.
//!
//! Providers send scalars as strings or numbers, and nested parts as values or as JSON text in a string. They add
//! fields without notice, and use ids too large for a float. So a body becomes [`Fields`]: its top level in the
//! order sent, with every value still as JSON text ([`RawValue`]). [`view`] reads one level of a value.

use std::borrow::Cow;
use std::fmt;

use indexmap::IndexMap;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
pub use serde_json::value::RawValue;

/// The members of a JSON object, in the order sent. The last of repeated keys wins, as in JavaScript.
#[derive(Clone, Default)]
pub struct Fields<'a>(IndexMap<Cow<'a, str>, Cow<'a, RawValue>>);

/// Why a text is not a JSON object. Gives the position and never quotes the text, which may be a message's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnObject {
    /// The text is not JSON.
    #[error("not JSON: syntax error at line {line} column {column}")]
    Syntax {
        /// Line of the error, counted from 1.
        line: usize,
        /// Column of the error in bytes, counted from 1.
        column: usize,
    },
    /// The text is JSON, but not an object.
    #[error("JSON, but not an object")]
    OtherType,
}

/// The most parameters of a form.
pub const MAX_PARAMETERS: usize = 10_000;

impl<'a> Fields<'a> {
    /// Reads an object.
    ///
    /// # Errors
    /// [`NotAnObject`] when the bytes are not UTF-8, not JSON, or JSON of another type.
    pub fn parse(json: &'a [u8]) -> Result<Self, NotAnObject> {
        serde_json::from_slice::<FieldsOf<'a>>(json)
            .map(|FieldsOf(fields)| fields)
            .map_err(|e| match e.classify() {
                serde_json::error::Category::Data => NotAnObject::OtherType,
                _ => NotAnObject::Syntax {
                    line: e.line(),
                    column: e.column(),
                },
            })
    }

    /// The value of a member. `None` if it is absent or `null`: providers make no difference.
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.0
            .get(name)
            .map(AsRef::as_ref)
            .filter(|raw| raw.get() != "null")
    }

    /// Whether the object has a member of this name, `null` or not.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The members in the order sent.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0.iter().map(|(k, v)| (k.as_ref(), v.as_ref()))
    }

    /// Whether the object is `{}`.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes a member out, keeping the order of the others.
    pub fn remove(&mut self, name: &str) {
        self.0.shift_remove(name);
    }

    /// Moves a member into an object of its own, which is empty if there is none of this name.
    pub fn take(&mut self, name: &str) -> Fields<'a> {
        Fields(self.0.shift_remove_entry(name).into_iter().collect())
    }

    /// Adds the members of `other` that this object lacks.
    pub fn add_missing(&mut self, other: &Fields<'a>) {
        for (name, value) in &other.0 {
            if !self.0.contains_key(name) {
                self.0.insert(name.clone(), value.clone());
            }
        }
    }

    /// The parameters of a form (`application/x-www-form-urlencoded`), each a string; a repeated one is an array
    /// of strings.
    ///
    /// `None` for a form with more than [`MAX_PARAMETERS`]: small parameters take much more memory than they take
    /// in a body, and no provider sends so many.
    pub fn from_form(form: &[u8]) -> Option<Fields<'static>> {
        if form.iter().filter(|byte| **byte == b'&').count() >= MAX_PARAMETERS {
            return None;
        }
        let mut values: IndexMap<String, Vec<String>> = IndexMap::new();
        for (name, value) in url::form_urlencoded::parse(form) {
            let values = values.entry(name.into_owned()).or_default();
            values.push(value.into_owned());
        }
        let raw = |values: Vec<String>| {
            let json = match values.as_slice() {
                [value] => serde_json::value::to_raw_value(value),
                values => serde_json::value::to_raw_value(values),
            };
            Cow::Owned(json.expect("text is JSON"))
        };
        let fields = values.into_iter().map(|(n, v)| (Cow::Owned(n), raw(v)));
        Some(Fields(fields.collect()))
    }

    /// The same members as owned values.
    pub fn into_owned<'b>(self) -> Fields<'b> {
        let own = |(k, v): (Cow<'a, str>, Cow<'a, RawValue>)| {
            (Cow::Owned(k.into_owned()), Cow::Owned(v.into_owned()))
        };
        Fields(self.0.into_iter().map(own).collect())
    }
}

impl<'a> IntoIterator for Fields<'a> {
    type Item = (Cow<'a, str>, Cow<'a, RawValue>);
    type IntoIter = indexmap::map::IntoIter<Cow<'a, str>, Cow<'a, RawValue>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Prints names only: a value may be a message's text.
impl fmt::Debug for Fields<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// `Fields` itself has no public `Deserialize`, which would let any code build it from anything.
struct FieldsOf<'a>(Fields<'a>);

impl<'de> serde::Deserialize<'de> for FieldsOf<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = IndexMap::with_capacity(16);
                while let Some(name) = map.next_key_seed(Text)? {
                    fields.insert(name, Cow::Borrowed(map.next_value::<&RawValue>()?));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Members).map(FieldsOf)
    }
}

/// Reads a JSON string, borrowed if it has no escapes. Half of a surrogate pair, as left when a provider cuts a
/// nick inside an emoji, becomes U+FFFD, so that the message is still decoded.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
        // The fast path: most strings are valid.
        Ok(str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed))
    }
    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Ok(Cow::Owned(String::from_utf8_lossy(bytes).into_owned()))
    }
}

/// One level of a JSON value; nested values stay JSON text. Not `Debug`, because it may be a message's text.
pub enum Json<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, with its digits as sent.
    Number(&'a str),
    /// A string, unescaped.
    Text(Cow<'a, str>),
    /// An array.
    Array(Vec<&'a RawValue>),
    /// An object.
    Object(Fields<'a>),
}

/// Reads one level of a value.
pub fn view(raw: &RawValue) -> Json<'_> {
    let json = raw.get();
    // A `RawValue` is valid JSON, so its first byte tells its type, and reading it fails only for a key with half
    // a surrogate pair. Such a value is returned as text.
    match json.as_bytes()[0] {
        b'n' => Json::Null,
        b't' => Json::Bool(true),
        b'f' => Json::Bool(false),
        b'"' => Text
            .deserialize(&mut serde_json::Deserializer::from_str(json))
            .map_or(Json::Text(Cow::Borrowed(json)), Json::Text),
        b'[' => serde_json::from_str(json).map_or(Json::Text(Cow::Borrowed(json)), Json::Array),
        b'{' => {
            Fields::parse(json.as_bytes()).map_or(Json::Text(Cow::Borrowed(json)), Json::Object)
        }
        _ => Json::Number(json),
    }
}

/// A scalar as text: `"5"` and `5` are both `5`. `None` for `null`, arrays and objects.
pub fn scalar(raw: &RawValue) -> Option<Cow<'_, str>> {
    match view(raw) {
        Json::Text(text) => Some(text),
        Json::Number(digits) => Some(Cow::Borrowed(digits)),
        Json::Bool(flag) => Some(Cow::Borrowed(if flag { "true" } else { "false" })),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// A nested part: a string that contains a JSON object or array becomes that object or array; anything else is
/// unchanged.
pub fn nested(raw: &RawValue) -> Cow<'_, RawValue> {
    if let Json::Text(text) = view(raw)
        && text.trim_start().starts_with(['{', '['])
        && let Ok(inner) = RawValue::from_string(text.trim().to_owned())
    {
        return Cow::Owned(inner);
    }
    Cow::Borrowed(raw)
}

/// A text or a whole number, as text. A fraction is neither: it has several spellings, and MongoDB keeps none of them.
pub fn id(raw: &RawValue) -> Option<Cow<'_, str>> {
    match view(raw) {
        Json::Number(digits) if digits.contains(['.', 'e', 'E']) => None,
        _ => scalar(raw),
    }
}

/// Follows a JSON pointer (RFC 6901), also through JSON text inside strings, as [`nested`] does. `None` if it leads
/// nowhere.
pub fn value_at(raw: &RawValue, pointer: &str) -> Option<Box<RawValue>> {
    let mut at = nested(raw).into_owned();
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        let next = match view(&at) {
            Json::Object(fields) => nested(fields.get(&token)?).into_owned(),
            Json::Array(items) => nested(items.get(token.parse::<usize>().ok()?)?).into_owned(),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_) => return None,
        };
        at = next;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).expect("test JSON")
    }

    #[test]
    fn an_object_keeps_order_and_digits() {
        let fields = Fields::parse(br#" {"b": 12345678901234567890123, "a":"x"} "#).expect("JSON");
        let seen: Vec<_> = fields.iter().map(|(k, v)| (k, v.get())).collect();
        assert_eq!(seen, [("b", "12345678901234567890123"), ("a", "\"x\"")]);
    }

    #[test]
    fn errors_locate_bad_json_without_quoting_it() {
        assert_eq!(
            Fields::parse(b"[1]").expect_err("no object"),
            NotAnObject::OtherType
        );
        assert_eq!(
            Fields::parse(b"  \"secret\"").expect_err("no object"),
            NotAnObject::OtherType
        );
        for bad in [
            &b"{\"a\":}"[..],
            b"{\"a\":1} x",
            b"hello",
            b"{\"a\":\"\xff\"}",
            b"",
        ] {
            let e = Fields::parse(bad).expect_err("no object");
            assert!(matches!(e, NotAnObject::Syntax { .. }), "{bad:?}: {e}");
        }
    }

    #[test]
    fn the_last_of_repeated_keys_wins() {
        let fields = Fields::parse(br#"{"a":1,"b":2,"a":3}"#).expect("JSON");
        assert_eq!(fields.get("a").map(RawValue::get), Some("3"));
    }

    #[test]
    fn half_a_surrogate_pair_is_replaced() {
        let value = raw(r#""cut \ud83d""#);
        let text = scalar(&value).expect("a scalar");
        assert!(text.starts_with("cut \u{fffd}"), "{text:?}");
    }

    #[test]
    fn scalars_read_the_same_from_strings_and_numbers() {
        assert_eq!(
            scalar(&raw("4291065454174142469")).as_deref(),
            Some("4291065454174142469")
        );
        assert_eq!(
            scalar(&raw("\"4291065454174142469\"")).as_deref(),
            Some("4291065454174142469")
        );
        assert_eq!(scalar(&raw("true")).as_deref(), Some("true"));
        assert_eq!(scalar(&raw("[1]")), None);
    }

    #[test]
    fn nested_parts_read_the_same_from_text_and_value() {
        assert_eq!(nested(&raw(r#""{\"a\":1}""#)).get(), r#"{"a":1}"#);
        assert_eq!(nested(&raw(r#"{"a":1}"#)).get(), r#"{"a":1}"#);
        assert_eq!(
            nested(&raw(r#""[zhangsan, lisi]""#)).get(),
            r#""[zhangsan, lisi]""#
        );
        assert_eq!(nested(&raw(r#""12""#)).get(), r#""12""#);
    }

    fn scalar_at(raw: &RawValue, pointer: &str) -> Option<String> {
        let value = value_at(raw, pointer)?;
        scalar(&value).map(Cow::into_owned)
    }

    #[test]
    fn a_fraction_is_no_id() {
        for (sent, expected) in [
            ("1.10", None),
            ("1e5", None),
            ("-2E3", None),
            ("\"1.10\"", Some("1.10")),
            ("12345678901234567890", Some("12345678901234567890")),
            ("true", Some("true")),
            ("[1]", None),
        ] {
            assert_eq!(id(&raw(sent)).as_deref(), expected, "{sent}");
        }
    }

    #[test]
    fn pointers_lead_through_text_and_value() {
        let ext = raw(r#""{\"order\":{\"id\":900719925474099312345,\"a/b\":[\"x\"]}}""#);
        assert_eq!(
            scalar_at(&ext, "/order/id").as_deref(),
            Some("900719925474099312345")
        );
        assert_eq!(scalar_at(&ext, "/order/a~1b/0").as_deref(), Some("x"));
        assert_eq!(scalar_at(&ext, "/order"), None);

        assert_eq!(scalar_at(&ext, "/none"), None);
        assert_eq!(scalar_at(&raw("\"plain\""), "").as_deref(), Some("plain"));
    }
}
