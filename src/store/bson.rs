//! Converts the provider's JSON to BSON, without loss and without errors.
//!
//! What BSON cannot represent is kept as text: an integer beyond 64 bits, a number beyond the range of a float, a
//! value nested deeper than [`MAX_DEPTH`]. A NUL in a key, which BSON forbids, becomes `␀0`, and so a
//! `␀` there becomes `␀␀`.

use std::borrow::Cow;

use mongodb::bson::raw::{BindRawBsonRef, CStr, CString};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{
    Bson, DateTime, Document, RawArrayBuf, RawBinaryRef, RawBsonRef, RawDocumentBuf,
};

use crate::callback::columns::{Columns, Value};
use crate::callback::ids::Millis;
use crate::callback::json::{Fields, Json, RawValue, view};

/// The deepest nesting that is converted to documents. MongoDB's limit is 180 levels in total.
pub const MAX_DEPTH: usize = 100;

/// Replaces a NUL in a key.
const NUL: char = '\u{2400}';

/// An empty document with this capacity in bytes.
pub fn with_capacity(bytes: usize) -> RawDocumentBuf {
    let mut empty = Vec::with_capacity(bytes);
    empty.extend_from_slice(RawDocumentBuf::new().as_bytes());
    RawDocumentBuf::from_bytes(empty).expect("the bytes of a document")
}

/// Appends a field under a name that the provider chose.
pub fn append(document: &mut RawDocumentBuf, name: &str, value: impl BindRawBsonRef) {
    match <&CStr>::try_from(name) {
        Ok(it) if !name.contains(NUL) => document.append(it, value),
        _ => {
            let name = CString::try_from(key(name).as_ref()).expect("a key without NUL");
            document.append(name, value);
        }
    }
}

/// Converts a value and passes it to `take`, once.
pub fn with(raw: &RawValue, take: &mut dyn FnMut(RawBsonRef<'_>)) {
    at_depth(raw, 0, take);
}

/// Converts a typed value and passes it to `take`, once.
pub fn with_value(value: &Value<'_>, take: &mut dyn FnMut(RawBsonRef<'_>)) {
    match value {
        Value::Text(text) => take(RawBsonRef::String(text)),
        Value::Number(number) => take(RawBsonRef::Int32(*number)),
        Value::Int(number) => take(RawBsonRef::Int64(*number)),
        Value::Flag(flag) => take(RawBsonRef::Boolean(*flag)),
        Value::Texts(texts) => {
            let array: RawArrayBuf = texts.iter().map(String::as_str).collect();
            take(RawBsonRef::Array(&array));
        }
        Value::Bytes(bytes) => take(RawBsonRef::Binary(RawBinaryRef {
            subtype: BinarySubtype::Generic,
            bytes,
        })),
        Value::Json(raw) => with(raw, take),
    }
}

/// Converts a typed value.
pub fn of_value(value: &Value<'_>) -> Bson {
    let mut converted = Bson::Null;
    with_value(value, &mut |it| {
        converted = Bson::try_from(it).expect("a value that was made here");
    });
    converted
}

/// Converts columns.
pub fn columns(columns: &Columns<'_>) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    for (name, value) in columns.iter() {
        with_value(value, &mut |it| append(&mut document, name, it));
    }
    document
}

/// The bytes of a document.
pub fn raw(document: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(document).expect("a document whose keys went through `key`")
}

/// A time as BSON.
pub fn date(at: Millis) -> DateTime {
    DateTime::from_millis(at.get())
}

/// A key that BSON allows: different names make different keys.
pub fn key(name: &str) -> Cow<'_, str> {
    if !name.contains(['\0', NUL]) {
        return Cow::Borrowed(name);
    }
    let mut key = String::with_capacity(name.len() + 8);
    for c in name.chars() {
        match c {
            '\0' => key.extend([NUL, '0']),
            NUL => key.extend([NUL, NUL]),
            c => key.push(c),
        }
    }
    Cow::Owned(key)
}

fn at_depth(raw: &RawValue, depth: usize, take: &mut dyn FnMut(RawBsonRef<'_>)) {
    if depth == MAX_DEPTH {
        return take(RawBsonRef::String(raw.get()));
    }
    match view(raw) {
        Json::Null => take(RawBsonRef::Null),
        Json::Bool(flag) => take(RawBsonRef::Boolean(flag)),
        Json::Number(digits) => take(number(digits)),
        Json::Text(text) => take(RawBsonRef::String(&text)),
        Json::Array(items) => {
            let mut array = RawArrayBuf::new();
            for item in items {
                at_depth(item, depth + 1, &mut |value| array.push(value));
            }
            take(RawBsonRef::Array(&array));
        }
        Json::Object(fields) => take(RawBsonRef::Document(&members(&fields, depth + 1))),
    }
}

fn members(fields: &Fields<'_>, depth: usize) -> RawDocumentBuf {
    let mut document = RawDocumentBuf::new();
    for (name, raw) in fields.iter() {
        at_depth(raw, depth, &mut |value| append(&mut document, name, value));
    }
    document
}

/// Integers of any size become `Int64`, so that a field's type does not depend on its value.
fn number(digits: &str) -> RawBsonRef<'_> {
    if let Ok(integer) = digits.parse::<i64>() {
        return RawBsonRef::Int64(integer);
    }
    let is_integer = digits.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    match digits.parse::<f64>() {
        Ok(float) if float.is_finite() && !is_integer => RawBsonRef::Double(float),
        _ => RawBsonRef::String(digits),
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::bson;

    use super::*;

    fn convert(json: &str) -> Bson {
        let raw = RawValue::from_string(json.to_owned()).expect("test JSON");
        of_value(&Value::Json(Cow::Owned(raw)))
    }

    #[test]
    fn values_keep_their_type_and_digits() {
        assert_eq!(
            convert("4291065454174142469"),
            Bson::Int64(4_291_065_454_174_142_469)
        );
        assert_eq!(convert("-7"), Bson::Int64(-7));
        assert_eq!(
            convert("18446744073709551615"),
            bson!("18446744073709551615")
        );
        assert_eq!(convert("30.5"), Bson::Double(30.5));
        assert_eq!(convert("1e999"), bson!("1e999"));
        assert_eq!(
            convert(r#"{"a":[true,null,"x"]}"#),
            bson!({"a": [true, null, "x"]})
        );
    }

    #[test]
    fn names_and_depths_that_bson_refuses_are_kept() {
        assert_eq!(convert(r#"{"a\u0000b":1}"#), bson!({"a\u{2400}0b": 1_i64}));
        assert_eq!(
            convert(r#"{"a\u2400":1,"a\u0000":2,"\u0000\u0000":3}"#),
            bson!({"a\u{2400}\u{2400}": 1_i64, "a\u{2400}0": 2_i64, "\u{2400}0\u{2400}0": 3_i64})
        );
        let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
        let mut at = convert(&deep);
        for _ in 0..MAX_DEPTH {
            let Bson::Array(mut items) = at else {
                panic!("expected an array, found {at:?}")
            };
            at = items.remove(0);
        }
        let rest = 5000 - MAX_DEPTH;
        assert_eq!(
            at,
            Bson::String(format!("{}1{}", "[".repeat(rest), "]".repeat(rest)))
        );
    }
}
