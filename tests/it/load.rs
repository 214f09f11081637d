//! Many concurrent callbacks: counted in MongoDB afterwards, none missing, none twice.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use mongodb::bson::doc;
use serde_json::json;

use crate::support::{TestApp, deliver};

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_messages_over_64_connections_with_repeats_are_stored_once_each() {
    const MESSAGES: usize = 10_000;
    const REPEATS: usize = MESSAGES / 10;
    const CONNECTIONS: usize = 64;
    let app = TestApp::start().await;
    let next = AtomicUsize::new(0);
    let connection = || async {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= MESSAGES + REPEATS {
                return;
            }
            // Some repeats come long after their message, some at the same time as it.
            let id = match n.checked_sub(MESSAGES) {
                Some(repeat) => repeat * 10,
                None => n,
            };
            let body = json!({
                "eventType": "1", "convType": "PERSON", "msgType": "TEXT", "body": "a text that no log may have",
                "to": format!("reader{}", id % 50), "fromAccount": format!("peer{}", id % 7),
                "msgTimestamp": 1_700_000_000_000_usize + id, "msgidServer": id,
            })
            .to_string();
            let at_once = 1 + usize::from(n % 100 == 7);
            let sent = (0..at_once).map(|_| deliver(&app.http, &app.instance, body.as_bytes()));
            for answer in join_all(sent).await {
                answer.expect_ok();
            }
        }
    };
    join_all((0..CONNECTIONS).map(|_| connection())).await;

    let messages = app.database.collection::<bson::Document>("messages");
    assert_eq!(
        messages.count_documents(doc! {}).await.unwrap(),
        MESSAGES as u64
    );
    let mut total = 0;
    for reader in 0..50 {
        let peers: Vec<_> = (0..7).map(|n| format!("peer{n}")).collect();
        let answer = app
            .ask(&json!({ "user": format!("reader{reader}"), "peers": peers }))
            .await
            .json();
        total += answer["total"].as_u64().unwrap();
    }
    assert_eq!(total, MESSAGES as u64);
    app.end().await;
}
