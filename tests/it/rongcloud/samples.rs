//! How each sample is stored.

use std::path::Path;

use mongodb::bson::doc;

use super::{deliver, start};

pub fn samples() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/rongcloud");
    let mut samples: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| sample(&entry.unwrap().path()))
        .collect();
    samples.sort();
    samples
}

/// A sample's name and body. Some are whole requests; the secrets that signed them are unknown.
fn sample(path: &Path) -> (String, Vec<u8>) {
    let name = path.file_stem().unwrap().to_str().unwrap();
    let bytes = std::fs::read(path).unwrap();
    let body = match path.extension().is_some_and(|e| e == "http") {
        true => {
            let text = String::from_utf8(bytes).unwrap().replace("\r\n", "\n");
            let (_, body) = text.split_once("\n\n").unwrap();
            body.trim_end().into()
        }
        false => bytes,
    };
    (format!("rongcloud_{}", name.replace('.', "_")), body)
}

#[tokio::test]
async fn samples_match_their_snapshots_and_redelivery_changes_nothing() {
    let app = start("order_id = { field = \"content\", pointer = \"/orderId\" }").await;
    let samples = samples();
    assert!(samples.len() >= 57, "{} samples", samples.len());
    for (name, body) in samples {
        deliver(&app, &body).await;
        let stored = app.dump().await;
        let received: Vec<_> = app.documents("messages", doc! {}).await;
        deliver(&app, &body).await;
        assert_eq!(app.dump().await, stored, "{name} delivered again");
        let again = app.documents("messages", doc! {}).await;
        assert_eq!(again, received, "{name} delivered again, with the clock");
        insta::with_settings!({
            omit_expression => true, prepend_module_to_snapshot => false, snapshot_path => "../snapshots",
        }, {
            insta::assert_json_snapshot!(name, stored);
        });
        app.empty().await;
    }
    app.end().await;
}

/// Further samples outside the repository, if they are available.
#[tokio::test]
async fn samples_outside_the_repository_are_accepted_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/samples/rongcloud");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("skipped: there is no {}", folder.display());
        return;
    };
    let app = start("").await;
    for entry in entries {
        let path = entry.unwrap().path();
        let (name, body) = sample(&path);
        deliver(&app, &body).await;
        let dead_letters = app.documents("dead_letters", doc! {}).await;
        let is_whole = !name.contains("truncated");
        assert_eq!(
            dead_letters.is_empty(),
            is_whole,
            "{name}: {dead_letters:?}"
        );
        app.empty().await;
    }
    app.end().await;
}
