//! Validators: the table of types is that of `docs/data-model.md`, and what every provider sends fits it.

use std::collections::{BTreeMap, BTreeSet};

use im_callback::store::validators::fields::FIELDS;
use im_callback::store::validators::validator;
use mongodb::bson::{Document, doc};
use mongodb::error::{ErrorKind, WriteFailure};
use serde_json::json;

use crate::support::TestApp;
use crate::{rongcloud, samples, wildfire, yuntongxun};

const DATA_MODEL: &str = include_str!("../../docs/data-model.md");

/// MongoDB's names of the types that a table names, such as `Array of String` or `Int32 or String`.
pub fn bson_types(cell: &str) -> Vec<&'static str> {
    const TYPES: [(&str, &str); 8] = [
        ("String", "string"),
        ("Int32", "int"),
        ("Int64", "long"),
        ("Date", "date"),
        ("Boolean", "bool"),
        ("Document", "object"),
        ("Array", "array"),
        ("null", "null"),
    ];
    let cell = cell.split(" of ").next().unwrap();
    let words = cell.split(|c: char| !c.is_alphanumeric());
    let found = words.filter_map(|word| TYPES.iter().find(|(name, _)| *name == word));
    found.map(|(_, bson)| *bson).collect()
}

/// A part of the document, without its heading.
fn section(name: &str) -> &'static str {
    let rest = DATA_MODEL.split(&format!("\n## {name}\n")).nth(1);
    let rest = rest.unwrap_or_else(|| panic!("no section {name}"));
    rest.split("\n## ").next().unwrap()
}

/// The words in code, such as of `{ app, reader, peer }`.
fn names_in(text: &str) -> BTreeSet<&str> {
    let code = text.split('`').skip(1).step_by(2);
    code.flat_map(|code| code.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .collect()
}

#[test]
fn the_table_of_types_is_that_of_the_data_model() {
    let mut checked = 0;
    for of in FIELDS {
        let text = section(of.collection);
        let known: BTreeMap<_, _> = of.fields.iter().map(|f| (f.name, f.types)).collect();
        assert_eq!(
            known.len(),
            of.fields.len(),
            "{}: a field twice",
            of.collection
        );
        let named = names_in(text);
        for name in known.keys() {
            let is_everywhere = ["_id", "app", "provider"].contains(name);
            assert!(
                is_everywhere || named.contains(name),
                "{}.{name}",
                of.collection
            );
        }
        let rows = text.lines().filter(|line| line.starts_with("| "));
        for row in rows.skip(2) {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            for name in names_in(cells[1]) {
                let types = known.get(name).copied();
                assert_eq!(
                    types,
                    Some(&*bson_types(cells[2])),
                    "{}.{name}",
                    of.collection
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 40, "{checked} fields");
}

/// A service that takes every provider's samples.
async fn start() -> TestApp {
    let rongcloud = rongcloud::configured("");
    let more = [&*rongcloud, wildfire::CONFIG, yuntongxun::CONFIG].concat();
    TestApp::with(&more).await
}

/// Delivers them, and gives their bodies.
async fn deliver_all_samples(app: &TestApp) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    for (_, body) in samples::samples() {
        app.deliver(&body).await.expect_ok();
        bodies.push(body);
    }
    for (_, body) in rongcloud::samples::samples() {
        rongcloud::deliver(app, &body).await;
        bodies.push(body);
    }
    for sample in wildfire::samples::own_samples() {
        wildfire::deliver_to(app, "wild", sample.route, sample.body.clone()).await;
        bodies.push(sample.body);
    }
    for (_, body, md5, sum) in yuntongxun::VECTORS {
        let answer = yuntongxun::deliver(app, body, md5, sum, yuntongxun::TIME).await;
        assert_eq!(answer.status, 200);
        bodies.push(body.to_vec());
    }
    bodies
}

/// Sets all validators so that they refuse, which the command never does.
async fn validate_strictly(app: &TestApp) {
    for of in FIELDS {
        // Only those that callbacks need are there already.
        let _ = app.database.create_collection(of.collection).await;
        let strict = doc! {
            "collMod": of.collection, "validator": validator(of),
            "validationLevel": "strict", "validationAction": "error",
        };
        app.database.run_command(strict).await.unwrap();
    }
}

#[tokio::test]
async fn all_that_the_samples_store_is_valid() {
    let app = start().await;
    validate_strictly(&app).await;
    deliver_all_samples(&app).await;
    app.until_followed().await;
    let refused = app
        .documents("dead_letters", doc! { "code": "store_refused" })
        .await;
    // A constructed sample whose time is empty; it is stored as it was sent, and analysts want to know.
    let bodies: Vec<_> = refused
        .iter()
        .map(|one| one.get_str("body").unwrap())
        .collect();
    assert!(
        bodies.len() == 1 && bodies[0].contains("msgTimestamp=&"),
        "{bodies:?}"
    );
    for of in FIELDS {
        let stored = app.documents(of.collection, doc! {}).await;
        assert!(stored.len() >= 5, "{}: {}", of.collection, stored.len());
    }
    app.end().await;
}

/// Nobody finds a field in MongoDB that neither the provider has sent by that name nor the document describes.
#[tokio::test]
async fn every_field_of_our_own_is_documented() {
    let app = start().await;
    let bodies = deliver_all_samples(&app).await;
    let sent = String::from_utf8_lossy(&bodies.concat()).into_owned();
    let mut fields = 0;
    for of in FIELDS {
        let named = names_in(section(of.collection));
        for document in app.documents(of.collection, doc! {}).await {
            for name in document.keys() {
                fields += 1;
                let is_everywhere = ["_id", "app", "provider"].contains(&&**name);
                let is_documented = is_everywhere || named.contains(&**name);
                assert!(
                    is_documented || sent.contains(name),
                    "{}.{name}",
                    of.collection
                );
            }
        }
    }
    assert!(fields > 1000, "{fields} fields");
    app.end().await;
}

#[tokio::test]
async fn a_wrong_document_is_found() {
    const REFUSED: i32 = 121;
    let app = TestApp::start().await;
    validate_strictly(&app).await;
    let wrong = [
        (
            "messages",
            doc! { "_id": "a", "app": "otc", "provider": "netease", "to": "bob", "msgTimestamp": "1" },
        ),
        (
            "messages",
            doc! { "_id": "b", "app": "otc", "provider": "netease" },
        ),
        (
            "messages",
            doc! { "_id": "c", "app": "otc", "provider": "netease", "to": "bob", "state": "0" },
        ),
        (
            "events",
            doc! { "_id": "d", "app": "otc", "provider": "netease" },
        ),
        (
            "read_marks",
            doc! { "_id": { "app": "otc" }, "readUpTo": "1" },
        ),
        (
            "presence",
            doc! { "_id": "e", "app": "otc", "account": "ann", "state": 1 },
        ),
        ("dead_letters", doc! { "_id": "f", "app": "otc" }),
    ];
    for (collection, document) in wrong {
        let into = app.database.collection::<Document>(collection);
        let error = into.insert_one(document).await.unwrap_err();
        let code = match error.kind.as_ref() {
            ErrorKind::Write(WriteFailure::WriteError(error)) => error.code,
            _ => panic!("{error}"),
        };
        assert_eq!(code, REFUSED, "{collection}");
    }
    app.end().await;
}

/// As the command sets them they lose nothing: a field in another type is stored, and found by the schema.
#[tokio::test]
async fn a_callback_with_a_field_of_another_type_is_stored_all_the_same() {
    let app = TestApp::start().await;
    let config = crate::support::config(&crate::support::mongodb_uri(), app.database.name(), "");
    let store = im_callback::app::connect(&config).await.unwrap();
    for of in FIELDS {
        store.set_validator(of).await.unwrap();
    }
    store.close().await;
    let message = json!({
        "eventType": "1", "convType": "PERSON", "fromAccount": "ann", "to": "bob", "msgType": "TEXT",
        "fromNick": { "first": "Ann" }, "msgTimestamp": "1700000000000", "msgidServer": "1",
    });
    app.deliver(message.to_string()).await.expect_ok();
    assert_eq!(
        app.documents("dead_letters", doc! {}).await,
        Vec::<Document>::new()
    );
    let odd = doc! { "$nor": [validator(&FIELDS[0])] };
    let odd = app.documents("messages", odd).await;
    assert_eq!(odd.len(), 1);
    assert!(odd[0].get_document("fromNick").is_ok(), "{odd:?}");
    let asked = app.ask(&json!({ "user": "bob", "peers": ["ann"] })).await;
    assert_eq!(asked.json()["total"], 1);
    app.end().await;
}
