//! What the provider sent, from BSON back to JSON.

use mongodb::bson::Bson;
use serde_json::{Number, Value};

use crate::http::moment::moment;

/// A stored value as plain JSON: numbers are numbers, also beyond what a float holds exactly, and times are RFC 3339.
/// What the service never stores there itself, but somebody may have put there, becomes a text.
pub fn json(value: Bson) -> Value {
    match value {
        Bson::String(text) => Value::String(text),
        Bson::Int32(number) => number.into(),
        Bson::Int64(number) => number.into(),
        Bson::Double(number) => match Number::from_f64(number) {
            Some(number) => Value::Number(number),
            None => Value::String(number.to_string()),
        },
        Bson::Boolean(flag) => flag.into(),
        Bson::Null | Bson::Undefined => Value::Null,
        Bson::Document(members) => {
            let members = members.into_iter();
            Value::Object(members.map(|(name, value)| (name, json(value))).collect())
        }
        Bson::Array(items) => items.into_iter().map(json).collect(),
        Bson::DateTime(at) => moment(at.timestamp_millis()).into(),
        Bson::Binary(binary) => hex::encode(binary.bytes).into(),
        Bson::ObjectId(id) => id.to_hex().into(),
        other => other.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Binary, DateTime, Decimal128, bson, spec::BinarySubtype};
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_as_they_were_sent() {
        let stored = bson!({
            "id": 4_291_065_454_174_142_469_i64, "small": 7, "half": 30.5, "yes": true, "nothing": null,
            "list": ["a", { "b": [] }], "$text": "x",
            "at": DateTime::from_millis(1_700_000_000_000), "never": DateTime::MAX,
            "endless": f64::INFINITY,
            "bytes": Binary { subtype: BinarySubtype::Generic, bytes: vec![0, 255] },
            "odd": Decimal128::from_bytes([0; 16]),
        });
        let expected = json!({
            "id": 4_291_065_454_174_142_469_i64, "small": 7, "half": 30.5, "yes": true, "nothing": null,
            "list": ["a", { "b": [] }], "$text": "x",
            "at": "2023-11-14T22:13:20.000Z", "never": null, "endless": "inf", "bytes": "00ff",
            "odd": "0E-6176",
        });
        assert_eq!(json(stored), expected);
    }
}
