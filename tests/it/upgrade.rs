//! A database written by an older version.

use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::support::{Instance, TestApp, config, mongodb_uri};

#[tokio::test]
async fn marks_and_indexes_of_an_older_version_are_brought_up_to_date() {
    const AT: i64 = 1_700_000_000_000;
    let mut app = TestApp::start().await;
    let old = app.instance;
    tokio::task::spawn_blocking(move || drop(old))
        .await
        .unwrap();
    let messages = app.database.collection::<Document>("messages");
    let marks = app.database.collection::<Document>("read_marks");
    for n in 1..=3 {
        let message = doc! {
            "_id": format!("otc/p2p/{n}"), "app": "otc", "to": "bob", "fromAccount": "ann", "state": 0,
            "msgTimestamp": AT + n, "orderId": "o",
        };
        messages.insert_one(message).await.unwrap();
    }
    marks.drop_index("marks").await.unwrap();
    let mark = doc! { "_id": { "app": "otc", "reader": "bob", "peer": "ann" }, "readUpTo": AT + 1 };
    let team = doc! { "_id": { "app": "otc", "reader": "bob", "team": "7" }, "readUpTo": AT };
    marks.insert_many([mark, team]).await.unwrap();
    messages.drop_index("unread_by_order").await.unwrap();
    let index = doc! { "createIndexes": "messages", "indexes": [{
        "key": { "app": 1, "to": 1, "state": 1, "orderId": 1 }, "name": "unread_by_order",
        "partialFilterExpression": { "state": 0, "orderId": { "$exists": true } },
    }] };
    app.database.run_command(index).await.unwrap();

    let delay = "reconcile.delay = \"1h\"";
    app.instance = Instance::start(config(&mongodb_uri(), app.database.name(), delay));
    app.until_ready().await;
    let question = json!({ "user": "bob", "peers": ["ann"], "orders": ["o"] });
    let answer = app.ask(&question).await.json();
    assert_eq!(
        (&answer["peers"]["ann"], &answer["orders"]["o"]),
        (&json!(2), &json!(2))
    );
    let receipt =
        json!({ "eventType": 30, "fromAccount": "bob", "toAccount": "ann", "timestamp": AT + 2 });
    app.deliver(receipt.to_string()).await.expect_ok();
    assert_eq!(app.ask(&question).await.json()["total"], 1);
    let team = app.documents("read_marks", doc! { "team": "7" }).await;
    assert_eq!(team[0].get_str("reader").ok(), Some("bob"));
    app.end().await;
}
