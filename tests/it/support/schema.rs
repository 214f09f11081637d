//! Whether a value is of a schema of `docs/openapi.json`: the part of JSON Schema that the document has.

use std::collections::BTreeMap;

use serde_json::Value;

use super::contract::document;

/// The words of JSON Schema that the document has. A new one has to be understood here.
const CHECKED: &[&str] = &[
    "$ref",
    "allOf",
    "oneOf",
    "type",
    "enum",
    "format",
    "minimum",
    "maximum",
    "minLength",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "description",
    "example",
    "propertyNames",
];

/// Whether a value is of a schema. Stricter than JSON Schema: an object has documented members only.
pub fn conforms(schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    let Some(words) = schema.as_object() else {
        return Err(format!("{place}: {schema} is no schema"));
    };
    if let Some(word) = words.keys().find(|word| !CHECKED.contains(&&***word)) {
        return Err(format!("{place}: the tests do not know the word `{word}`"));
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let outcomes = choices.iter().map(|choice| conforms(choice, value, place));
        let errors: Vec<String> = outcomes.filter_map(Result::err).collect();
        let is_one = errors.len() < choices.len();
        return if is_one {
            Ok(())
        } else {
            Err(errors.join(", or "))
        };
    }
    let mut parts = Vec::new();
    collect(schema, &mut parts);
    for part in &parts {
        plain_words(part, value, place)?;
    }
    match value {
        Value::Object(members) => object(&parts, members, place),
        Value::Array(items) => {
            let of = parts.iter().filter_map(|part| part.get("items"));
            for schema in of {
                for (n, item) in items.iter().enumerate() {
                    conforms(schema, item, &format!("{place}[{n}]"))?;
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A schema and all that it is made of.
fn collect<'s>(schema: &'s Value, parts: &mut Vec<&'s Value>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document().pointer(reference.trim_start_matches('#'));
        collect(target.expect("a test of the document"), parts);
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        collect(part, parts);
    }
    parts.push(schema);
}

fn plain_words(schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    let kinds = match &schema["type"] {
        Value::Null => None,
        Value::Array(kinds) => Some(kinds.clone()),
        kind => Some(vec![kind.clone()]),
    };
    let is_of = |kind: &Value| match kind.as_str().unwrap() {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    };
    if kinds.is_some_and(|kinds| !kinds.iter().any(is_of)) {
        return Err(format!("{place} is {value}"));
    }
    let choices = schema["enum"].as_array();
    if choices.is_some_and(|choices| !choices.contains(value)) {
        return Err(format!("{place} is {value}"));
    }
    let (number, bound) = (value.as_f64(), |word: &str| schema[word].as_f64());
    let is_low = number
        .zip(bound("minimum"))
        .is_some_and(|(n, least)| n < least);
    let is_high = number
        .zip(bound("maximum"))
        .is_some_and(|(n, most)| n > most);
    if is_low || is_high {
        return Err(format!("{place} is {value}"));
    }
    let is_short = value.as_str().zip(schema["minLength"].as_u64());
    if is_short.is_some_and(|(text, least)| (text.chars().count() as u64) < least) {
        return Err(format!("{place} is {value}"));
    }
    // jiff's timestamps end before RFC 3339's do.
    let is_time = |text: &str| {
        text.strip_suffix('Z')
            .is_some_and(|time| time.parse::<jiff::civil::DateTime>().is_ok())
    };
    if schema["format"] == "date-time" && value.as_str().is_some_and(|text| !is_time(text)) {
        return Err(format!("{place} is no time"));
    }
    Ok(())
}

fn object(
    parts: &[&Value],
    members: &serde_json::Map<String, Value>,
    place: &str,
) -> Result<(), String> {
    let mut known: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for (name, schema) in parts
        .iter()
        .filter_map(|part| part["properties"].as_object())
        .flatten()
    {
        known.entry(name).or_default().push(schema);
    }
    let others: Vec<_> = parts
        .iter()
        .filter_map(|part| part.get("additionalProperties"))
        .collect();
    for names in parts.iter().filter_map(|part| part.get("propertyNames")) {
        for name in members.keys() {
            let name = Value::String(name.clone());
            conforms(names, &name, &format!("{place}, the name {name}"))?;
        }
    }
    // Any value.
    if known.is_empty() && others.is_empty() {
        return Ok(());
    }
    for (name, value) in members {
        let place = format!("{place}.{name}");
        let schemas = known.get(&**name).unwrap_or(&others);
        if schemas.is_empty() {
            return Err(format!("{place} is not documented"));
        }
        for schema in schemas {
            conforms(schema, value, &place)?;
        }
    }
    let needed = parts
        .iter()
        .filter_map(|part| part["required"].as_array())
        .flatten();
    for name in needed.filter_map(Value::as_str) {
        if !members.contains_key(name) {
            return Err(format!("{place}.{name} is absent"));
        }
    }
    Ok(())
}

#[test]
fn each_word_is_checked() {
    use serde_json::json;
    let text = |words: Value| {
        let mut schema = json!({ "type": "string" });
        let members = schema.as_object_mut().unwrap();
        members.extend(words.as_object().unwrap().clone());
        schema
    };
    let names = |of: Value| {
        let any = json!({ "type": "integer" });
        json!({ "type": "object", "additionalProperties": any, "propertyNames": of })
    };
    for (schema, right, wrong) in [
        (text(json!({})), json!(""), json!(1)),
        (text(json!({ "minLength": 1 })), json!("é"), json!("")),
        (text(json!({ "minLength": 2 })), json!("éé"), json!("é")),
        (text(json!({ "enum": ["a"] })), json!("a"), json!("b")),
        (
            text(json!({ "format": "date-time" })),
            json!("2026-01-02T03:04:05.000Z"),
            json!("2026-01-02"),
        ),
        (
            json!({ "type": "integer", "minimum": 1 }),
            json!(1),
            json!(0),
        ),
        (
            json!({ "type": "integer", "maximum": 1 }),
            json!(1),
            json!(2),
        ),
        (
            json!({ "type": "array", "items": text(json!({ "minLength": 1 })) }),
            json!(["a"]),
            json!(["a", ""]),
        ),
        (
            names(text(json!({}))),
            json!({ "": 1 }),
            json!({ "a": "1" }),
        ),
        (
            names(text(json!({ "minLength": 1 }))),
            json!({ "a": 1 }),
            json!({ "a": 1, "": 1 }),
        ),
        (
            names(text(json!({ "enum": ["a", "b"] }))),
            json!({ "b": 1 }),
            json!({ "c": 1 }),
        ),
        (
            json!({ "oneOf": [{ "type": "string" }, { "type": "integer" }] }),
            json!(1),
            json!(true),
        ),
        (
            json!({ "type": "object", "properties": { "a": {} }, "required": ["a"] }),
            json!({ "a": 1 }),
            json!({}),
        ),
        (
            json!({ "type": "object", "properties": { "a": {} } }),
            json!({}),
            json!({ "b": 1 }),
        ),
        (
            json!({ "$ref": "#/components/schemas/ErrorCode" }),
            json!("empty_body"),
            json!("none"),
        ),
    ] {
        assert_eq!(conforms(&schema, &right, "$"), Ok(()), "{schema}");
        assert!(conforms(&schema, &wrong, "$").is_err(), "{schema} {wrong}");
    }
    let unknown = json!({ "type": "string", "maxLength": 1 });
    assert!(conforms(&unknown, &json!(""), "$").is_err());
}
