//! Callbacks in any order, some of them repeated, give the same counts and documents.

use std::collections::BTreeMap;

use mongodb::bson::doc;
use serde_json::{Value, json};

use super::{command, deliver, operation, receipt, start, text, unread};
use crate::support::TestApp;

/// All permutations.
fn orders<T: Clone>(all: &[T]) -> Vec<Vec<T>> {
    if all.is_empty() {
        return vec![Vec::new()];
    }
    let mut orders = Vec::new();
    for first in 0..all.len() {
        let mut rest = all.to_vec();
        let first = rest.remove(first);
        for mut order in self::orders(&rest) {
            order.insert(0, first.clone());
            orders.push(order);
        }
    }
    orders
}

/// Delivers callbacks in every order, one of them twice: the count and the documents must be the same.
async fn in_any_order(app: &TestApp, callbacks: &[String], expected: &Value) {
    let mut first: Option<BTreeMap<String, Vec<Value>>> = None;
    for order in orders(callbacks) {
        for callback in &order {
            deliver(app, callback).await;
        }
        deliver(app, &order[0]).await;
        assert_eq!(unread(app, "bob", &["ann"]).await, *expected, "{order:#?}");
        let stored = app.dump().await;
        let first = first.get_or_insert_with(|| stored.clone());
        assert_eq!(*first, stored, "{order:#?}");
        app.empty().await;
    }
}

#[tokio::test]
async fn messages_receipts_and_recalls_give_the_same_result_in_any_order() {
    let app = start("").await;
    let (read, unread) = (
        text("ann", "bob", 1_000, "m1"),
        text("ann", "bob", 2_000, "m2"),
    );
    let receipts = [read, unread.clone(), receipt("bob", "ann", 1_000)];
    in_any_order(&app, &receipts, &json!({"ann": 1})).await;

    // One recall, reported in both ways.
    let recalled = text("ann", "bob", 2_001, "m3");
    let (command, operation) = (
        command("ann", "bob", "m3"),
        operation("ann", "bob", 5_001, "m3"),
    );
    let recalls = [unread, recalled.clone(), command, operation.clone()];
    in_any_order(&app, &recalls, &json!({"ann": 1})).await;

    // A message that is both read and recalled.
    let both = [recalled, operation, receipt("bob", "ann", 3_000)];
    in_any_order(&app, &both, &json!({"ann": 0})).await;
    app.end().await;
}

#[tokio::test]
async fn a_recall_reported_twice_keeps_the_earlier_time() {
    let app = start("").await;
    for (told_at, kept) in [(4_999, 4_999), (5_001, 5_000)] {
        for body in [
            operation("ann", "bob", told_at, "m1"),
            text("ann", "bob", 2_000, "m1"),
            command("ann", "bob", "m1"),
        ] {
            deliver(&app, body).await;
        }
        let message = app.document("messages", "rong/p2p/m1").await;
        let recall = message.get_document("recall").unwrap();
        assert_eq!(recall.get_i64("msgTimestamp").unwrap(), kept);
        assert_eq!(recall.get_str("by").unwrap(), "ann");
        assert_eq!(message.get_i32("state").unwrap(), 1);
        app.empty().await;
    }
    app.end().await;
}

#[tokio::test]
async fn a_receipt_or_a_recall_may_come_first() {
    let app = start("").await;
    deliver(&app, receipt("bob", "ann", 1_000)).await;
    deliver(&app, command("ann", "bob", "m3")).await;
    assert_eq!(unread(&app, "bob", &["ann"]).await, json!({"ann": 0}));
    for (at, id, expected) in [(1_000, "m1", 0), (1_001, "m2", 1), (1_002, "m3", 1)] {
        deliver(&app, text("ann", "bob", at, id)).await;
        let counts = unread(&app, "bob", &["ann"]).await;
        assert_eq!(counts, json!({"ann": expected}), "{id}");
    }
    app.end().await;
}

#[tokio::test]
async fn presence_is_kept_per_session() {
    let app = start("").await;
    let status = |status: &str, session: &str, time: i64| json!({"userid": "Ann", "status": status, "os": "iOS", "time": time, "sessionId": session});
    let login = status("0", "s1", 1_000);
    let logout = status("1", "s1", 2_000);
    let other = status("0", "s2", 1_500);
    for order in orders(&[login, logout, other]) {
        deliver(&app, Value::from(order.clone()).to_string()).await;
        deliver(&app, order[0].to_string()).await;
        let devices = app.documents("presence", doc! {}).await;
        let states: Vec<_> = devices
            .iter()
            .map(|device| ["_id", "state", "clientType"].map(|f| device.get_str(f).unwrap()))
            .collect();
        let expected = [
            ["rong/Ann/s1", "offline", "IOS"],
            ["rong/Ann/s2", "online", "IOS"],
        ];
        assert_eq!(states, expected, "{order:?}");
        assert_eq!(app.documents("events", doc! {}).await.len(), 3);
        app.empty().await;
    }
    app.end().await;
}
