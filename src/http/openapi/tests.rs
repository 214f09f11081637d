use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};

use super::problems::{OPERATIONS, operations};
use super::*;
use crate::http::asked::{AskedField, FieldKind};
use crate::http::route::Route;

fn parsed() -> Value {
    serde_json::to_value(document()).expect("JSON")
}

/// `docs/openapi.json` is what clients are made from, and what the integration tests compare answers with.
#[test]
fn the_committed_document_is_this_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let text = document().to_pretty_json().expect("JSON") + "\n";
    if std::env::var_os("OPENAPI_RENEW").is_some() {
        std::fs::write(&path, &text).expect("docs/openapi.json can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == text,
        "docs/openapi.json is stale: run `make openapi`, and read what it changes"
    );
}

#[test]
fn it_has_every_route_and_no_other() {
    let document = parsed();
    let paths = document["paths"].as_object().expect("an object");
    for path in paths.keys() {
        assert!(Route::at(path).is_some(), "no route has {path}");
    }
    for route in Route::ALL {
        let pattern = route.pattern();
        let has = match route {
            Route::Callbacks => paths.contains_key("/callbacks/{app}"),
            _ => paths.contains_key(pattern),
        };
        assert!(
            has,
            "{pattern} is not documented: give its handlers `#[utoipa::path]`, and name them in `paths` of \
             src/http/openapi/mod.rs"
        );
    }
}

#[test]
fn every_operation_has_its_errors() {
    let mut document = document();
    let paths = document.paths.paths.values_mut();
    let ids =
        paths.flat_map(|path| operations(path).map(|operation| operation.operation_id.clone()));
    let mut ids: Vec<String> = ids.flatten().collect();
    ids.sort();
    let mut listed: Vec<_> = OPERATIONS.iter().map(|(id, _)| (*id).to_owned()).collect();
    listed.sort();
    assert_eq!(ids, listed, "the table is src/http/openapi/problems.rs");
    let distinct: BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
}

/// What a route reads, and what the document says that it reads.
#[test]
fn questions_are_documented_as_they_are_read() {
    // With the lists that a route needs; the reader needs none.
    const ASKED: &[(&str, &[AskedField], &[&str])] = &[
        ("/v1/messages", messages::FIELDS, &[]),
        ("/v1/read", read::FIELDS, &[]),
        ("/v1/presence", presence::FIELDS, &["users"]),
        ("/v1/unread", unread::FIELDS, &[]),
        ("/v1/unread/stream", unread::FIELDS, &[]),
    ];
    let document = parsed();
    for (path, fields, needed_lists) in ASKED {
        let item = &document["paths"][path];
        let mut read: BTreeMap<&str, (&str, bool)> =
            fields.iter().map(|field| read_as(*field)).collect();
        for list in *needed_lists {
            read.insert(list, ("array", true));
        }
        if let Some(parameters) = item["get"]["parameters"].as_array() {
            let queries = parameters
                .iter()
                .filter(|parameter| parameter["in"] == "query");
            let documented = queries.map(|parameter| {
                let name = parameter["name"].as_str().expect("a name");
                let kind = parameter["schema"]["type"].as_str().unwrap_or("several");
                (name, (kind, parameter["required"] == true))
            });
            assert_eq!(documented.collect::<BTreeMap<_, _>>(), read, "GET {path}");
        }
        let body = &item["post"]["requestBody"]["content"]["application/json"]["schema"];
        if let Some(reference) = body["$ref"].as_str() {
            let schema = document.pointer(reference.trim_start_matches('#'));
            let schema = schema.expect("the reference leads somewhere");
            let needed = |name| {
                let needed = schema["required"].as_array().into_iter().flatten();
                needed.filter(|needed| *needed == name).count() == 1
            };
            let properties = schema["properties"].as_object().expect("an object");
            let documented = properties.iter().map(|(name, property)| {
                let kind = match &property["type"] {
                    Value::Array(kinds) => kinds[0].as_str(),
                    kind => kind.as_str(),
                };
                (&**name, (kind.unwrap_or("several"), needed(name)))
            });
            assert_eq!(documented.collect::<BTreeMap<_, _>>(), read, "POST {path}");
            assert_eq!(schema["additionalProperties"], false, "POST {path}");
        }
    }
}

fn read_as((name, kind): AskedField) -> (&'static str, (&'static str, bool)) {
    let kind = match kind {
        FieldKind::NeededText => ("string", true),
        FieldKind::Text => ("string", false),
        FieldKind::Texts => ("array", false),
        FieldKind::Number => ("integer", false),
        FieldKind::Flag => ("boolean", false),
    };
    (name, kind)
}

/// Where users may ask, pages may: the routes that take tokens are those that answer pages of other origins.
#[test]
fn pages_may_read_what_tokens_may_ask() {
    let document = parsed();
    for route in Route::ALL {
        let operations = document["paths"][route.pattern()].as_object();
        let operations = operations.into_iter().flatten();
        let takes_token = operations.map(|(_, operation)| {
            let schemes = operation["security"].as_array().into_iter().flatten();
            schemes.filter(|scheme| scheme["token"].is_array()).count() == 1
        });
        let takes_token: BTreeSet<bool> = takes_token.collect();
        let is_for_users = match route {
            // Its operations have templates below it.
            Route::Callbacks => BTreeSet::new(),
            route => BTreeSet::from([route.is_for_users()]),
        };
        assert_eq!(takes_token, is_for_users, "{}", route.pattern());
    }
}

/// Walks over all values of the document, each with its place.
fn walk(value: &Value, place: &str, seen: &mut dyn FnMut(&str, &Value)) {
    seen(place, value);
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                walk(member, &format!("{place}/{name}"), seen);
            }
        }
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                walk(item, &format!("{place}/{n}"), seen);
            }
        }
        _ => {}
    }
}

#[test]
fn everything_is_described_and_every_reference_leads_somewhere() {
    let document = parsed();
    let schemas = &document["components"]["schemas"];
    for (name, schema) in schemas.as_object().expect("an object") {
        assert!(
            schema["description"].is_string() || schema["allOf"].is_array(),
            "{name}"
        );
        walk(schema, name, &mut |place, value| {
            let properties = value["properties"].as_object().into_iter().flatten();
            for (property, schema) in properties {
                // What has a schema of its own is described there.
                let is_described = schema["description"].is_string()
                    || schema["$ref"].is_string()
                    || schema["oneOf"][0]["description"].is_string();
                assert!(is_described, "{place}: {property} has no docstring");
            }
        });
    }
    walk(&document, "", &mut |place, value| {
        if let Some(reference) = value["$ref"].as_str() {
            let target = document.pointer(reference.trim_start_matches('#'));
            assert!(target.is_some(), "{place}: {reference}");
        }
        let parameters = value["parameters"].as_array().into_iter().flatten();
        for parameter in parameters {
            assert!(parameter["description"].is_string(), "{place}: {parameter}");
        }
    });
    let tags = document["tags"].as_array().expect("a list");
    for (path, item) in document["paths"].as_object().expect("an object") {
        for (method, operation) in item.as_object().expect("an object") {
            for text in ["summary", "operationId"] {
                assert!(operation[text].is_string(), "{method} {path}: {text}");
            }
            let tag = &operation["tags"][0];
            assert!(
                tags.iter().any(|known| known["name"] == *tag),
                "{method} {path}: {tag}"
            );
        }
    }
}

/// It is the same for every installation, so it may be given to anybody.
#[test]
fn it_says_nothing_of_an_installation() {
    let document = parsed();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(document["info"]["contact"], Value::Null);
    assert_eq!(document["servers"], Value::Null);
    for name in ["key", "token"] {
        let scheme = &document["components"]["securitySchemes"][name];
        assert_eq!(
            (&scheme["type"], &scheme["scheme"]),
            (&json!("http"), &json!("bearer"))
        );
    }
}
