//! Every sample of the provider's payloads, through real HTTP into a real database: the documents that
//! come of it are snapshots, since analysts rely on their names and types.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::TestApp;

pub fn samples() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/netease");
    let mut samples: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read(path).unwrap())
        })
        .collect();
    samples.sort();
    samples
}

#[tokio::test]
async fn samples_match_their_snapshots_and_redelivery_changes_nothing() {
    let app = TestApp::start().await;
    let samples = samples();
    assert!(samples.len() >= 48, "{} samples", samples.len());
    for (name, body) in samples {
        app.deliver(&body).await.expect_ok();
        let stored = app.dump().await;
        let received: Vec<_> = app.documents("messages", mongodb::bson::doc! {}).await;
        app.deliver(&body).await.expect_ok();
        assert_eq!(app.dump().await, stored, "{name} delivered again");
        let again = app.documents("messages", mongodb::bson::doc! {}).await;
        assert_eq!(again, received, "{name} delivered again, with the clock");
        insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
            insta::assert_json_snapshot!(name, stored);
        });
        app.empty().await;
    }
    app.end().await;
}

/// The provider sends the same value as text or number, and nested parts as text or value.
#[tokio::test]
async fn json_types_do_not_change_what_is_stored() {
    let app = TestApp::start().await;
    for (name, body) in samples() {
        let Ok(mut sample) = serde_json::from_slice::<Value>(&body) else {
            continue;
        };
        app.deliver(&body).await.expect_ok();
        let stored = app.dump().await;
        app.empty().await;
        loosen(&mut sample);
        app.deliver(sample.to_string()).await.expect_ok();
        let loosened = app.dump().await;
        app.empty().await;
        // Payloads and dead letters are kept as they were sent, and so is a key that is a digest.
        for collection in ["messages", "read_marks", "presence"] {
            assert_eq!(
                loosened.get(collection),
                stored.get(collection),
                "{name} {sample}"
            );
        }
        let kinds = |dump: &std::collections::BTreeMap<String, Vec<Value>>| {
            let events = dump.get("events").cloned().unwrap_or_default();
            events
                .iter()
                .map(|e| json!([e["kind"], e["eventType"], e["at"]]))
                .collect::<Vec<_>>()
        };
        assert_eq!(kinds(&loosened), kinds(&stored), "{name}");
    }
    app.end().await;
}

/// Digits become numbers, JSON text becomes values, and values become JSON text.
fn loosen(sample: &mut Value) {
    let Some(fields) = sample.as_object_mut() else {
        return;
    };
    for (name, value) in fields {
        let free_text = matches!(name.as_str(), "body" | "fromNick" | "text" | "type");
        *value = match &*value {
            Value::String(text) if !free_text => match serde_json::from_str::<Value>(text) {
                Ok(inner) if inner.is_number() || inner.is_object() || inner.is_array() => inner,
                _ => continue,
            },
            Value::Number(number) => json!(number.to_string()),
            nested @ (Value::Object(_) | Value::Array(_)) => json!(nested.to_string()),
            _ => continue,
        };
    }
}

/// The samples that the project was given, where they are at hand: more than are kept here may be.
#[tokio::test]
async fn samples_outside_the_repository_are_accepted_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/samples/netease");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("skipped: there is no {}", folder.display());
        return;
    };
    let app = TestApp::start().await;
    for entry in entries {
        let path = entry.unwrap().path();
        app.deliver(std::fs::read(&path).unwrap()).await.expect_ok();
        let name = path.file_name().unwrap().to_str().unwrap();
        let dead_letters = app.documents("dead_letters", mongodb::bson::doc! {}).await;
        let is_copy = !name.starts_with("not_a_copy") && !name.starts_with("api_");
        assert_eq!(dead_letters.is_empty(), is_copy, "{name}: {dead_letters:?}");
        app.empty().await;
    }
    app.end().await;
}
