//! The provider's JSON as BSON, without loss and without failing.
//!
//! What BSON cannot hold is kept as text: an integer beyond 64 bits, a number no float can hold, a
//! value nested deeper than [`MAX_DEPTH`]. A NUL in a key, which BSON forbids, becomes `␀`.

use mongodb::bson::{Bson, Document};

use crate::callback::json::{Fields, Json, RawValue, view};

/// How deep a value may be nested and still become documents. MongoDB takes 180 levels in all.
pub const MAX_DEPTH: usize = 100;

/// Converts a value.
pub fn value(raw: &RawValue) -> Bson {
    at_depth(raw, 0)
}

/// Converts an object's members.
pub fn document(fields: &Fields<'_>) -> Document {
    members(fields, 0)
}

/// A key that BSON can hold.
pub fn key(name: &str) -> String {
    name.replace('\0', "\u{2400}")
}

fn at_depth(raw: &RawValue, depth: usize) -> Bson {
    if depth == MAX_DEPTH {
        return Bson::String(raw.get().to_owned());
    }
    match view(raw) {
        Json::Null => Bson::Null,
        Json::Bool(flag) => Bson::Boolean(flag),
        Json::Number(digits) => number(digits),
        Json::Text(text) => Bson::String(text.into_owned()),
        Json::Array(items) => items.iter().map(|item| at_depth(item, depth + 1)).collect(),
        Json::Object(fields) => Bson::Document(members(&fields, depth + 1)),
    }
}

fn members(fields: &Fields<'_>, depth: usize) -> Document {
    fields
        .iter()
        .map(|(name, raw)| (key(name), at_depth(raw, depth)))
        .collect()
}

/// Integers are `Int64` whatever their size, so that a field's type does not depend on its value.
fn number(digits: &str) -> Bson {
    if let Ok(integer) = digits.parse::<i64>() {
        return Bson::Int64(integer);
    }
    let is_integer = digits.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    match digits.parse::<f64>() {
        Ok(float) if float.is_finite() && !is_integer => Bson::Double(float),
        _ => Bson::String(digits.to_owned()),
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
