//! Documents expire where the configuration says so, counted from the right field.

use im_callback::app::connect;
use mongodb::bson::{Document, doc};

use crate::support::{TestApp, config, mongodb_uri};

/// By collection: the field and the seconds of its expiring index.
async fn expiring(app: &TestApp) -> Vec<(String, String, i64)> {
    let mut found = Vec::new();
    for name in ["dead_letters", "events", "messages", "presence"] {
        let command = doc! { "listIndexes": name };
        let answer = app.database.run_command(command).await.unwrap();
        let batch = answer.get_document("cursor").unwrap();
        for index in batch.get_array("firstBatch").unwrap() {
            let index = index.as_document().unwrap();
            let seconds = match index.get("expireAfterSeconds") {
                None => continue,
                Some(seconds) => seconds.as_i64().or(seconds.as_i32().map(i64::from)),
            };
            let key: &Document = index.get_document("key").unwrap();
            let fields: Vec<_> = key.keys().map(String::as_str).collect();
            found.push((name.to_owned(), fields.join(","), seconds.unwrap()));
        }
    }
    found
}

#[tokio::test]
async fn retention_follows_the_configuration() {
    let app = TestApp::start().await;
    assert_eq!(expiring(&app).await, []);
    let all = [
        ("dead_letters", "receivedAt"),
        ("events", "receivedAt"),
        ("messages", "receivedAt"),
        ("presence", "lastEventAt"),
    ];
    for hours in [2, 3] {
        let more: String = all
            .iter()
            .map(|(name, _)| format!("retention.{name} = \"{hours}h\"\n"))
            .collect();
        ensure(&app, &more).await;
        let expected: Vec<_> = all
            .iter()
            .map(|(name, field)| ((*name).to_owned(), (*field).to_owned(), hours * 3600))
            .collect();
        assert_eq!(expiring(&app).await, expected);
    }
    ensure(&app, "").await;
    assert_eq!(expiring(&app).await, []);
    app.end().await;
}

async fn ensure(app: &TestApp, more: &str) {
    let config = config(&mongodb_uri(), app.database.name(), more);
    let store = connect(&config).await.unwrap();
    store.ensure_indexes(config.retention).await.unwrap();
    store.close().await;
}
