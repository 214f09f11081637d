//! What counts as unread.

use std::collections::BTreeMap;

use mongodb::bson::doc;
use serde_json::{Value, json};

use super::{deliver, receipt, routed, start, text, unread};
use crate::support::TestApp;

/// For each type: the count, the number of messages, and the event kind after one message of it.
async fn counted(app: &TestApp, types: &[&str]) -> BTreeMap<String, Value> {
    let mut counts = BTreeMap::new();
    for object_name in types {
        let id = format!("id-{object_name}");
        let body = routed(object_name, "ann", "bob", 1_000, &id, &json!({}));
        deliver(app, body).await;
        let count = unread(app, "bob", &["ann"]).await["ann"].take();
        let messages = app.documents("messages", doc! {}).await.len();
        let kind = app.documents("events", doc! {}).await.pop();
        let kind = kind.map(|event| event.get_str("kind").unwrap().to_owned());
        counts.insert((*object_name).to_owned(), json!([count, messages, kind]));
        app.empty().await;
    }
    counts
}

#[tokio::test]
async fn custom_types_decide_which_messages_count() {
    let types = [
        "RC:TxtMsg",
        "RC:InfoNtf",
        "RC:TypSts",
        "app:order",
        "app:typing",
        "app:new",
    ];
    let (counts, stored) = (json!([1, 1, null]), json!([0, 1, null]));
    let status = json!([0, 0, "status_message"]);
    let expected = |all: [&Value; 6]| {
        let named = types.iter().map(|name| (*name).to_owned());
        named
            .zip(all.into_iter().cloned())
            .collect::<BTreeMap<_, _>>()
    };

    let app = start("").await;
    let all = expected([&counts, &stored, &status, &counts, &counts, &counts]);
    assert_eq!(
        counted(&app, &types).await,
        all,
        "the provider's table alone"
    );
    app.end().await;

    let named = r#""app:order" = "stored", "app:typing" = "status", "*" = "counted""#;
    let app = start(&format!("custom_types = {{ {named} }}")).await;
    let all = expected([&counts, &stored, &status, &stored, &status, &counts]);
    assert_eq!(counted(&app, &types).await, all, "{named}");
    app.end().await;

    let named = r#""RC:TxtMsg" = "stored", "RC:InfoNtf" = "counted", "RC:TypSts" = "counted", "app:order" = "counted", "*" = "status""#;
    let app = start(&format!("custom_types = {{ {named} }}")).await;
    let all = expected([&stored, &counts, &counts, &counts, &status, &status]);
    assert_eq!(counted(&app, &types).await, all, "{named}");
    app.end().await;
}

#[tokio::test]
async fn only_messages_delivered_to_another_person_count() {
    let app = start("").await;
    let base = text("ann", "bob", 1_000, "m1");
    for (more, count) in [
        ("", 1),
        ("&sensitiveType=0", 1),
        ("&sensitiveType=1", 0),
        ("&sensitiveType=2", 1),
        ("&sensitiveType=", 1),
    ] {
        deliver(&app, format!("{base}{more}")).await;
        let counts = unread(&app, "bob", &["ann"]).await;
        assert_eq!(counts, json!({"ann": count}), "{more}");
        assert_eq!(app.documents("messages", doc! {}).await.len(), 1, "{more}");
        app.empty().await;
    }
    deliver(&app, text("bob", "bob", 1_000, "m2")).await;
    for channel in [
        "PERSONS",
        "GROUP",
        "TEMPGROUP",
        "NOTIFY",
        "ULTRAGROUP",
        "MC",
        "x",
    ] {
        deliver(&app, base.replace("PERSON", channel)).await;
    }
    assert_eq!(
        unread(&app, "bob", &["ann", "bob"]).await,
        json!({"ann": 0, "bob": 0})
    );
    // A receipt in a group does not apply to a conversation between two users.
    deliver(&app, &base).await;
    deliver(
        &app,
        receipt("bob", "ann", 2_000).replace("PERSON", "GROUP"),
    )
    .await;
    assert_eq!(unread(&app, "bob", &["ann"]).await, json!({"ann": 1}));
    app.end().await;
}

#[tokio::test]
async fn order_ids_are_read_from_the_content() {
    let app = start("order_id = { field = \"content\", pointer = \"/extra/orderId\" }").await;
    for (id, extra) in [
        ("m1", json!({"orderId": "o1"})),
        ("m2", json!(r#"{"orderId":"o1"}"#)),
        ("m3", json!({"orderId": 2})),
        ("m4", json!("no JSON")),
    ] {
        let content = json!({"content": "x", "extra": extra});
        deliver(&app, routed("RC:TxtMsg", "ann", "bob", 1_000, id, &content)).await;
    }
    let asked = json!({"app": "rong", "user": "bob", "orders": ["o1", "2", "o3"]});
    let orders = app.ask(&asked).await.json()["orders"].take();
    assert_eq!(orders, json!({"o1": 2, "2": 1, "o3": 0}));
    app.end().await;
}

#[tokio::test]
async fn ids_that_differ_in_case_are_different_users() {
    let app = start("").await;
    deliver(&app, text("Ann", "Bob", 1_000, "m1")).await;
    deliver(&app, text("ann", "Bob", 1_000, "m2")).await;
    deliver(&app, text("ann", "Bob", 1_001, "m3")).await;
    deliver(&app, text("ann", "bob", 1_001, "m4")).await;
    let peers = ["ann", "Ann", "ANN"];
    let expected = json!({"ann": 2, "Ann": 1, "ANN": 0});
    assert_eq!(unread(&app, "Bob", &peers).await, expected);
    let expected = json!({"ann": 1, "Ann": 0, "ANN": 0});
    assert_eq!(unread(&app, "bob", &peers).await, expected);
    deliver(&app, receipt("Bob", "ann", 2_000)).await;
    let expected = json!({"ann": 0, "Ann": 1, "ANN": 0});
    assert_eq!(unread(&app, "Bob", &peers).await, expected);
    assert_eq!(unread(&app, "bob", &["ann"]).await, json!({"ann": 1}));
    app.end().await;
}
