//! Holds every answer that a test gets against `docs/openapi.json`: route, method, status, content type, and each field
//! of its JSON. So an answer that is not documented fails the test that met it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use reqwest::Method;
use serde_json::Value;

use super::Answer;

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../../docs/openapi.json")).expect("JSON")
});

/// The document.
pub fn document() -> &'static Value {
    &DOCUMENT
}

/// What was asked.
pub struct Asked {
    method: Method,
    path: String,
    parameters: BTreeSet<String>,
    /// A browser's question whether a page may send a request.
    is_preflight: bool,
}

impl Asked {
    pub fn of(request: &reqwest::Request) -> Self {
        let url = request.url();
        let names = url
            .query_pairs()
            .map(|(name, _)| name.trim_end_matches("[]").to_owned());
        let is_sent = |name| request.headers().contains_key(name);
        let is_preflight = request.method() == Method::OPTIONS
            && is_sent("origin")
            && is_sent("access-control-request-method");
        Self {
            is_preflight,
            method: request.method().clone(),
            path: url.path().to_owned(),
            parameters: names.collect(),
        }
    }
}

/// Panics unless this answer is documented.
#[track_caller]
pub fn check(asked: &Asked, answer: &Answer) {
    if let Err(why) = compared(asked, answer) {
        let Asked { method, path, .. } = asked;
        panic!(
            "{method} {path} is not answered as docs/openapi.json says: {why}\n\
             (document it, and run `make openapi`)\n{answer:?}"
        );
    }
}

fn compared(asked: &Asked, answer: &Answer) -> Result<(), String> {
    let is_of_the_server = [400, 431].contains(&answer.status) && answer.text.is_empty();
    if is_of_the_server && asked.method != Method::HEAD {
        return Ok(());
    }
    let item = document()["paths"].as_object().unwrap().iter();
    let item = item
        .filter(|(template, _)| has_path(template, &asked.path))
        .map(|(_, item)| item)
        .next();
    // An app's second path, or one that no route has.
    let callbacks = &document()["paths"]["/callbacks/{app}"];
    let is_callback = item.is_none_or(|item| item == callbacks);
    let item = item.unwrap_or(callbacks);
    if is_callback && answer.status == 404 {
        return problem(answer);
    }
    let method = match &asked.method {
        &Method::HEAD => "get".to_owned(),
        method => method.as_str().to_lowercase(),
    };
    let Some(operation) = item.get(&method) else {
        // Where no origin is configured, it is a method as any other.
        if asked.is_preflight && answer.status != 405 {
            return preflight(item, answer);
        }
        return other_method(item, answer);
    };
    if answer.status < 300 && !is_callback {
        parameters(operation, asked)?;
    }
    let status = answer.status.to_string();
    let Some(response) = operation["responses"].get(&status) else {
        return Err(format!("status {status}"));
    };
    let given = answer.header("content-type");
    let Some(content) = response.get("content") else {
        let is_empty = answer.text.is_empty() && given.is_empty();
        return if is_empty {
            Ok(())
        } else {
            Err("it has a body".to_owned())
        };
    };
    if given.is_empty() && answer.text.is_empty() && is_callback {
        return Ok(());
    }
    let essence = given.split(';').next().unwrap_or_default().trim();
    let Some(content) = content.get(essence) else {
        return Err(format!("content type `{given}`"));
    };
    if asked.method == Method::HEAD || !essence.ends_with("json") {
        return Ok(());
    }
    conforms(&content["schema"], &answer.json(), "$")?;
    if answer.status >= 400 && essence.contains("problem") {
        problem(answer)?;
    }
    Ok(())
}

/// Whether a path is of this template. actix compares it decoded.
fn has_path(template: &str, path: &str) -> bool {
    let path = match path {
        "/docs/" => "/docs",
        path => path,
    };
    if template == "/callbacks/{app}" {
        return path.starts_with("/callbacks/");
    }
    let parts: Vec<&str> = path.split('/').collect();
    let expected: Vec<&str> = template.split('/').collect();
    let mut both = expected.iter().zip(&parts);
    parts.len() == expected.len()
        && both.all(|(expected, part)| {
            let plain = |text: &str| {
                url::form_urlencoded::parse(text.as_bytes())
                    .next()
                    .map(|(name, _)| name.into_owned())
            };
            (expected.starts_with('{') && !part.is_empty()) || plain(part) == plain(expected)
        })
}

fn methods(item: &Value) -> BTreeSet<String> {
    let methods = item.as_object().unwrap().keys();
    methods.map(|method| method.to_uppercase()).collect()
}

fn listed(answer: &Answer, header: &str) -> BTreeSet<String> {
    let listed = answer.header(header).split(", ");
    listed.map(str::to_owned).collect()
}

/// As the description of the document says of the operations that take users' tokens.
fn preflight(item: &Value, answer: &Answer) -> Result<(), String> {
    let mut operations = item.as_object().unwrap().values();
    let takes_tokens = operations.all(|operation| {
        let schemes = operation["security"].as_array().into_iter().flatten();
        schemes.filter(|scheme| scheme["token"].is_array()).count() == 1
    });
    if !takes_tokens {
        return Err("a preflight request, where no token is taken".to_owned());
    }
    match answer.status {
        204 if !answer.text.is_empty() => Err("it has a body".to_owned()),
        204 if listed(answer, "access-control-allow-methods") != methods(item) => {
            Err("other methods than documented".to_owned())
        }
        204 => Ok(()),
        403 if answer.code() == "origin_not_allowed" => problem(answer),
        status => Err(format!("status {status} of a preflight request")),
    }
}

fn other_method(item: &Value, answer: &Answer) -> Result<(), String> {
    let mut documented = methods(item);
    if documented.contains("GET") {
        documented.insert("HEAD".to_owned());
    }
    if answer.status != 405 {
        return Err("the method is not documented".to_owned());
    }
    let allowed = listed(answer, "allow");
    if allowed != documented {
        return Err(format!(
            "allowed are {allowed:?}, documented {documented:?}"
        ));
    }
    problem(answer)
}

/// An answer with a problem says the same in its document, its status and its headers.
fn problem(answer: &Answer) -> Result<(), String> {
    if answer.text.is_empty() {
        return Ok(());
    }
    let document_of_it = answer.json();
    conforms(
        &document()["components"]["schemas"]["Problem"],
        &document_of_it,
        "$",
    )?;
    let id = document_of_it["request_id"].as_str();
    if id != Some(answer.header("x-request-id")) || document_of_it["status"] != answer.status {
        return Err("its document, its status and its headers differ".to_owned());
    }
    Ok(())
}

/// What is answered well was asked with documented parameters.
fn parameters(operation: &Value, asked: &Asked) -> Result<(), String> {
    let documented = operation["parameters"].as_array().into_iter().flatten();
    let documented: Vec<_> = documented
        .filter_map(|parameter| parameter["name"].as_str())
        .collect();
    let unknown = asked
        .parameters
        .iter()
        .find(|name| !documented.contains(&&***name));
    match unknown {
        // Prometheus and others may add some to a route that reads none.
        Some(name) if !documented.is_empty() => Err(format!("parameter `{name}`")),
        _ => Ok(()),
    }
}

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
fn conforms(schema: &Value, value: &Value, place: &str) -> Result<(), String> {
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
