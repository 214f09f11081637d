//! `POST /v1/read`: the site itself marks as read, by the same rule as a receipt.

mod commute;
mod refusals;

use mongodb::bson::{DateTime, doc};
use serde_json::{Value, json};

use crate::support::dialect::Dialect;
use crate::support::trace::{Happening, Sort};
use crate::support::{
    Answer, Instance, READ_KEY, TestApp, WRITE_KEY, comparable, config, mongodb_uri, send,
};
use crate::trace::{SENT, receipt, the_message};
use crate::unread::with_messages;

pub async fn read_at(http: &reqwest::Client, instance: &Instance, body: &Value) -> Answer {
    let key = format!("Bearer {WRITE_KEY}");
    let request = http.post(instance.url("/v1/read")).body(body.to_string());
    send(request, &[("Authorization", &key)]).await
}

async fn read(app: &TestApp, body: &Value) -> Answer {
    read_at(&app.http, &app.instance, body).await
}

async fn total_at(http: &reqwest::Client, instance: &Instance, peers: &[&str]) -> u64 {
    let key = format!("Bearer {READ_KEY}");
    let question = json!({ "user": "bob", "peers": peers });
    let request = http.post(instance.url("/v1/unread"));
    let request = request.body(question.to_string());
    let answer = send(request, &[("Authorization", &key)]).await;
    answer.json()["total"].as_u64().unwrap()
}

/// Stops an instance beside the test's own.
async fn end(instance: Instance) {
    tokio::task::spawn_blocking(move || drop(instance))
        .await
        .unwrap();
}

/// A peer, an order and a team, each with its answer and all that is stored of it. Counts on another instance follow at
/// once, while `state` stands still.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_site_marks_is_read_at_once_on_every_instance() {
    let still = "reconcile.delay = \"1h\"";
    let app = TestApp::with(still).await;
    let second = Instance::start(config(&mongodb_uri(), app.database.name(), still));
    with_messages(&app).await;
    let everybody = ["ann", "carl"];
    assert_eq!(total_at(&app.http, &second, &everybody).await, 4);

    // Up to the millisecond before: nothing yet.
    let early = json!({ "user": "bob", "peer": "ann", "up_to": SENT - 1 });
    assert_eq!(read(&app, &early).await.status, 200);
    assert_eq!(total_at(&app.http, &second, &everybody).await, 4);

    // carl's message has another order, by its case.
    let order = json!({ "app": "otc", "user": "BOB", "order": "o-1", "up_to": SENT });
    let answer = read(&app, &order).await;
    let expected = format!(
        r#"{{"user":"BOB","peers":["ann"],"order":"o-1","up_to":{SENT},"up_to_at":"2023-11-14T22:13:20.000Z"}}"#
    );
    assert_eq!((answer.status, answer.text), (200, expected));
    // A mark is per pair: with the order, all that ann sent is read.
    assert_eq!(total_at(&app.http, &second, &["ann"]).await, 0);
    assert_eq!(total_at(&app.http, &second, &everybody).await, 1);

    let peer = json!({ "user": "Bob", "peer": "CARL", "up_to": SENT });
    let answer = read(&app, &peer).await;
    let expected = format!(
        r#"{{"user":"Bob","peers":["CARL"],"up_to":{SENT},"up_to_at":"2023-11-14T22:13:20.000Z"}}"#
    );
    assert_eq!((answer.status, answer.text), (200, expected));
    assert_eq!(total_at(&app.http, &second, &everybody).await, 0);

    let team = json!({ "user": "Bob", "team": "T-7", "up_to": SENT + 1 });
    let answer = read(&app, &team).await;
    let expected = format!(
        r#"{{"user":"Bob","team":"T-7","up_to":{},"up_to_at":"2023-11-14T22:13:20.001Z"}}"#,
        SENT + 1
    );
    assert_eq!((answer.status, answer.text), (200, expected));

    let marks = app.documents("read_marks", doc! {}).await;
    let marks: Vec<_> = marks.into_iter().map(comparable).collect();
    let mut records = app.documents("events", doc! {}).await;
    records.retain(|record| record.get_str("kind").is_ok_and(|kind| kind == "site_read"));
    let records: Vec<_> = records.into_iter().map(comparable).collect();
    insta::assert_json_snapshot!(json!({ "marks": marks, "records": records }));
    let states = app.documents("messages", doc! { "state": 0 }).await;
    assert_eq!(states.len(), 5, "`state` stands still");
    end(second).await;
    app.end().await;
}

/// What is unread on an order is what the marks say: an order that is read already marks nobody, although `state` is
/// behind, and so hides nothing of another order.
#[tokio::test]
async fn an_order_that_is_read_already_marks_nobody() {
    let app = TestApp::with("reconcile.delay = \"1h\"").await;
    for (id, order, at) in [("1", "o-1", 0), ("2", "o-2", 5)] {
        let more = json!({ "msgTimestamp": SENT + at, "ext": { "orderId": order } });
        app.deliver(crate::trace::message(id, more))
            .await
            .expect_ok();
    }
    app.deliver(receipt("bob", "ann", SENT)).await.expect_ok();
    assert_eq!(
        app.documents("messages", doc! { "state": 0 }).await.len(),
        2
    );
    let order = json!({ "user": "bob", "order": "o-1", "up_to": SENT + 10 });
    let answer = read(&app, &order).await.json();
    assert_eq!(answer["peers"], json!([]));
    assert_eq!(total_at(&app.http, &app.instance, &["ann"]).await, 1);
    let order = json!({ "user": "bob", "order": "o-2", "up_to": SENT + 10 });
    let answer = read(&app, &order).await.json();
    assert_eq!(answer["peers"], json!(["ann"]));
    assert_eq!(total_at(&app.http, &app.instance, &["ann"]).await, 0);
    app.end().await;
}

/// The same report twice leaves the same documents, and `state` follows.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_may_be_sent_again() {
    let app = TestApp::start().await;
    with_messages(&app).await;
    // The walk at the start would set `state`, too.
    app.until_followed().await;
    let reports = [
        json!({ "user": "bob", "order": "o-1", "up_to": SENT }),
        json!({ "user": "bob", "peer": "ann", "up_to": SENT }),
        json!({ "user": "bob", "team": "7", "up_to": SENT }),
    ];
    for report in &reports {
        assert_eq!(read(&app, report).await.status, 200);
    }
    let once = app.dump().await;
    let read_now = doc! { "fromAccount": "ann", "state": 1, "readAt": DateTime::from_millis(SENT) };
    assert_eq!(app.documents("messages", read_now).await.len(), 3);
    assert_eq!(once["events"].len(), 3);
    for report in reports.iter().rev() {
        assert_eq!(read(&app, report).await.status, 200);
    }
    let earlier = json!({ "user": "bob", "peer": "ann", "up_to": SENT - 9 });
    let again = app.dump().await;
    // Nothing is left to read on the order, so that report is of nobody now.
    assert_eq!(once, again);
    assert_eq!(read(&app, &earlier).await.status, 200);
    assert_eq!(app.dump().await["read_marks"], once["read_marks"]);
    app.end().await;
}

/// Without a time it is now.
#[tokio::test]
async fn without_a_time_it_is_now() {
    let app = TestApp::start().await;
    with_messages(&app).await;
    let before = DateTime::now().timestamp_millis();
    let answer = read(
        &app,
        &json!({ "user": "bob", "peer": "ann", "up_to": null }),
    )
    .await;
    let up_to = answer.json()["up_to"].as_i64().unwrap();
    assert!((before..=DateTime::now().timestamp_millis()).contains(&up_to));
    let mark = &app.documents("read_marks", doc! {}).await[0];
    assert_eq!(mark.get_i64("readUpTo").unwrap(), up_to);
    assert_eq!(total_at(&app.http, &app.instance, &["ann"]).await, 0);
    app.end().await;
}

/// The same accounts of another app, and other readers, are left alone.
#[tokio::test]
async fn a_report_is_of_one_app_and_one_reader() {
    let app = TestApp::with(&Dialect::other_apps()).await;
    with_messages(&app).await;
    for (name, user) in [
        ("wild", "bob"),
        ("rong", "bob"),
        ("otc", "ann"),
        ("otc", "bo"),
    ] {
        let report = json!({ "app": name, "user": user, "peer": "ann", "up_to": SENT });
        assert_eq!(read(&app, &report).await.status, 200);
        let report = json!({ "app": name, "user": user, "order": "o-1", "up_to": SENT });
        assert_eq!(read(&app, &report).await.status, 200);
    }
    let question = json!({ "app": "otc", "user": "bob", "peers": ["ann"] });
    assert_eq!(app.ask(&question).await.json()["total"], 3);
    // Accounts of other providers have a case.
    let report = json!({ "app": "wild", "user": "Bob", "peer": "Ann", "up_to": SENT });
    assert_eq!(read(&app, &report).await.status, 200);
    let cased = doc! { "_id": { "app": "wild", "reader": "Bob", "peer": "Ann" } };
    assert_eq!(app.documents("read_marks", cased).await.len(), 1);
    app.end().await;
}

/// A trace tells who has read a message, and that the site said so: also for a provider whose own receipts it cannot find.
#[tokio::test(flavor = "multi_thread")]
async fn a_trace_lists_the_sites_reads() {
    let app = TestApp::with(&Dialect::other_apps()).await;
    with_messages(&app).await;
    app.deliver(receipt("bob", "ann", SENT + 2))
        .await
        .expect_ok();
    for (user, peer, up_to) in [
        ("bob", "ann", SENT - 1),
        ("bob", "ann", SENT + 1),
        ("bob", "ann2", SENT + 1),
        ("ann", "bob", SENT + 1),
    ] {
        let report = json!({ "app": "otc", "user": user, "peer": peer, "up_to": up_to });
        assert_eq!(read(&app, &report).await.status, 200);
    }
    let traced = the_message(&app, "app=otc&id=1").await;
    let found = traced["receipts"]["found"].as_array().unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|r| (r["kind"].clone(), r["readUpTo"].clone()))
        .collect();
    let expected = [
        (json!("site_read"), json!("2023-11-14T22:13:20.001Z")),
        (json!("p2p_receipt"), json!("2023-11-14T22:13:20.002Z")),
    ];
    assert_eq!(found, expected, "{traced}");
    assert_eq!(traced["receipts"].get("bySiteOnly"), None);

    let case = Happening::Message {
        from: 0,
        to: 1,
        at: 0,
        sort: Sort::Text,
        order: None,
    };
    for callback in Dialect::Rongcloud.callbacks("c", &[case]).iter().flatten() {
        Dialect::Rongcloud
            .deliver(&app.http, &app.instance.url(""), callback)
            .await;
    }
    let traced = the_message(&app, "app=rong&id=c-0").await;
    assert!(traced["receipts"].is_null(), "{traced}");
    let report = json!({ "app": "rong", "user": "c-user1", "peer": "c-user0", "up_to": SENT });
    assert_eq!(read(&app, &report).await.status, 200);
    let traced = the_message(&app, "app=rong&id=c-0").await;
    assert_eq!(traced["verdict"]["rule"], "read", "{traced}");
    let receipts = &traced["receipts"];
    assert_eq!(receipts["bySiteOnly"], true, "{traced}");
    assert_eq!(receipts["found"].as_array().unwrap().len(), 1, "{traced}");
    app.end().await;
}
