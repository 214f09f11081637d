//! The provider's JSON as BSON, without loss and without failing.
//!
//! What BSON cannot hold is kept as text: an integer beyond 64 bits, a number no float can hold, a
//! value nested deeper than [`MAX_DEPTH`]. A NUL in a key, which BSON forbids, becomes `␀`.

use std::borrow::Cow;

use mongodb::bson::raw::{BindRawBsonRef, CStr, CString};
use mongodb::bson::{Bson, RawArrayBuf, RawBsonRef, RawDocumentBuf};

use crate::callback::json::{Fields, Json, RawValue, view};

/// How deep a value may be nested and still become documents. MongoDB takes 180 levels in all.
pub const MAX_DEPTH: usize = 100;

/// What stands for a NUL in a key.
const NUL: char = '\u{2400}';

/// An empty document with this capacity in bytes.
pub fn with_capacity(bytes: usize) -> RawDocumentBuf {
    let mut empty = Vec::with_capacity(bytes);
    empty.extend_from_slice(RawDocumentBuf::new().as_bytes());
    RawDocumentBuf::from_bytes(empty).expect("the bytes of a document")
}

/// Appends a field with a name that comes from a provider.
pub fn append(document: &mut RawDocumentBuf, name: &str, value: impl BindRawBsonRef) {
    match <&CStr>::try_from(name) {
        Ok(it) if !name.contains(NUL) => document.append(it, value),
        _ => {
            // Two names may differ in nothing else.
            let mut name = key(name).into_owned();
            while document.get(&*name).ok().flatten().is_some() {
                name.push(NUL);
            }
            document.append(CString::try_from(name).expect("a key without NUL"), value);
        }
    }
}

/// Converts a value, and gives it to `take`, once.
pub fn with(raw: &RawValue, take: &mut dyn FnMut(RawBsonRef<'_>)) {
    at_depth(raw, 0, take);
}

/// Converts a value.
pub fn value(raw: &RawValue) -> Bson {
    let mut value = Bson::Null;
    with(raw, &mut |it| value = owned(it));
    value
}

/// A value that stands for itself.
pub fn owned(value: RawBsonRef<'_>) -> Bson {
    Bson::try_from(value).expect("a value that was made here")
}

/// Converts an object's members.
pub fn document(fields: &Fields<'_>) -> RawDocumentBuf {
    members(fields, 0)
}

/// A key that BSON can hold.
pub fn key(name: &str) -> Cow<'_, str> {
    if name.contains('\0') {
        Cow::Owned(name.replace('\0', NUL.encode_utf8(&mut [0; 4])))
    } else {
        Cow::Borrowed(name)
    }
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

/// Integers are `Int64` whatever their size, so that a field's type does not depend on its value.
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
        value(&RawValue::from_string(json.to_owned()).expect("test JSON"))
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
    fn what_bson_cannot_hold_is_kept_all_the_same() {
        assert_eq!(convert(r#"{"a\u0000b":1}"#), bson!({"a\u{2400}b": 1_i64}));
        for both in [
            r#"{"a\u0000":1,"a\u2400":2}"#,
            r#"{"a\u2400":1,"a\u0000":2}"#,
        ] {
            let kept = bson!({"a\u{2400}": 1_i64, "a\u{2400}\u{2400}": 2_i64});
            assert_eq!(convert(both), kept);
        }
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
