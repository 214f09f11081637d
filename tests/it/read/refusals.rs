//! What is not marked as read, and what the site is told of it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use im_callback::callback::ids::{Account, AppName, Millis};
use im_callback::store::read::peers_unread_on;
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde_json::json;

use super::{read, total_at};
use crate::failpoints::{TURN, fail, off, service};
use crate::support::proxy::{Line, Proxy};
use crate::support::{READ_KEY, TestApp, WRITE_KEY, message, mongodb_uri};
use crate::trace::SENT;
use crate::unread::with_messages;
use crate::unread_indexes::{find, stages};

#[tokio::test]
async fn bad_reports_are_told_what_is_wrong_and_where() {
    let more = "[[apps]]\nname = \"plain\"\nprovider = \"netease\"\napp_key = \"k\"\napp_secrets = [\"s\"]";
    let app = TestApp::with(more).await;
    let day = 24 * 60 * 60 * 1000;
    let now = DateTime::now().timestamp_millis();
    let cases = [
        (
            json!({ "app": "otc", "user": "bob" }),
            422,
            "missing_field",
            "peer",
        ),
        (
            json!({ "app": "otc", "peer": "ann" }),
            422,
            "missing_field",
            "user",
        ),
        (
            json!({ "user": "bob", "peer": "ann" }),
            422,
            "missing_field",
            "app",
        ),
        (
            json!({ "app": "none", "user": "bob", "peer": "ann" }),
            404,
            "unknown_app",
            "app",
        ),
        (
            json!({ "app": "otc", "user": "bob", "peer": "a", "team": "7" }),
            422,
            "invalid_field",
            "team",
        ),
        (
            json!({ "app": "otc", "user": "bob", "peer": "a", "order": "o" }),
            422,
            "invalid_field",
            "order",
        ),
        (
            json!({ "app": "otc", "user": "bob", "order": "o", "team": "7" }),
            422,
            "invalid_field",
            "team",
        ),
        (
            json!({ "app": "otc", "user": "bob", "peer": ["a"] }),
            422,
            "invalid_field",
            "peer",
        ),
        (
            json!({ "app": "otc", "user": "bob", "peer": "" }),
            422,
            "empty_id",
            "peer",
        ),
        (
            json!({ "app": "otc", "user": "", "peer": "a" }),
            422,
            "empty_id",
            "user",
        ),
        (
            json!({ "app": "otc", "user": "bob", "team": "x".repeat(257) }),
            422,
            "id_too_long",
            "team",
        ),
        (
            json!({ "app": "otc", "user": "bob", "order": "x".repeat(257) }),
            422,
            "id_too_long",
            "order",
        ),
        (
            json!({ "app": "otc", "user": "bob", "peer": "a", "upTo": 1 }),
            422,
            "unknown_field",
            "upTo",
        ),
        (
            json!({ "app": "otc", "user": "bob", "peer": "a", "up_to": -1 }),
            422,
            "invalid_field",
            "up_to",
        ),
        (
            json!({ "app": "otc", "user": "bob", "peer": "a", "up_to": 1.5 }),
            422,
            "invalid_field",
            "up_to",
        ),
        (
            json!({ "app": "otc", "user": "bob", "peer": "a", "up_to": "1" }),
            422,
            "invalid_field",
            "up_to",
        ),
        (
            json!({ "app": "otc", "user": "bob", "peer": "a", "up_to": now + day + 60_000 }),
            422,
            "time_ahead",
            "up_to",
        ),
        (
            json!({ "app": "otc", "user": "bob", "peer": "a", "up_to": u64::MAX }),
            422,
            "time_ahead",
            "up_to",
        ),
        (
            json!({ "app": "plain", "user": "bob", "order": "o" }),
            422,
            "orders_not_configured",
            "order",
        ),
    ];
    for (body, status, code, path) in cases {
        let answer = read(&app, &body).await;
        let problem = answer.json();
        assert_eq!(
            (answer.status, &*answer.code(), &problem["path"]),
            (status, code, &json!(path)),
            "{body} {problem}"
        );
    }
    assert_eq!(app.documents("read_marks", doc! {}).await.len(), 0);
    assert_eq!(app.documents("events", doc! {}).await.len(), 0);
    // Clocks may differ by a day.
    let ahead = json!({ "app": "otc", "user": "bob", "peer": "a", "up_to": now + day - 60_000 });
    assert_eq!(read(&app, &ahead).await.status, 200);
    let read_key = format!("Bearer {READ_KEY}");
    let write_key = format!("Bearer {WRITE_KEY}");
    let body = ahead.to_string();
    for (headers, status, code) in [
        (&[][..], 401, "missing_key"),
        (&[("Authorization", &*read_key)], 403, "missing_scope"),
    ] {
        let answer = app.post("/v1/read", headers, body.clone()).await;
        assert_eq!((answer.status, &*answer.code()), (status, code));
    }
    for (body, code) in [("", "empty_body"), ("x", "invalid_json")] {
        let answer = app
            .post("/v1/read", &[("Authorization", &write_key)], body)
            .await;
        assert_eq!((answer.status, &*answer.code()), (400, code));
    }
    let answer = app.get("/v1/read", &[("Authorization", &write_key)]).await;
    assert_eq!((answer.status, answer.header("allow")), (405, "POST"));
    app.end().await;
}

/// Where MongoDB does not confirm, the site is told so, and nothing is kept to be written later.
#[tokio::test(flavor = "multi_thread")]
async fn without_mongodb_nothing_is_marked_and_the_site_is_told() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let app = TestApp::connected(&proxy.uri(), "").await;
    app.deliver(message(0)).await.expect_ok();
    let reports = [
        json!({ "user": "bob", "peer": "ann", "up_to": SENT }),
        json!({ "user": "bob", "order": "o-1", "up_to": SENT }),
        json!({ "user": "bob", "team": "7", "up_to": SENT }),
    ];
    proxy.set(Line::Cut);
    // Not known as an outage yet, then known.
    for is_known in [false, true] {
        if is_known {
            app.deliver(message(1)).await.expect_ok();
        }
        for report in &reports {
            let since = Instant::now();
            let answer = read(&app, report).await;
            assert_eq!(
                (answer.status, &*answer.code(), answer.header("retry-after")),
                (503, "unavailable", "5"),
                "{answer:?}"
            );
            assert!(!is_known || since.elapsed() < Duration::from_secs(1));
        }
    }
    proxy.set(Line::Open);
    app.until_drained().await;
    assert_eq!(app.documents("read_marks", doc! {}).await.len(), 0);
    assert_eq!(app.documents("events", doc! {}).await.len(), 0);
    for report in &reports {
        assert_eq!(read(&app, report).await.status, 200);
    }
    assert_eq!(total_at(&app.http, &app.instance, &["ann"]).await, 0);
    app.end().await;
}

/// Reports of which MongoDB takes none are not collected: few wait, also when their clients have gone.
#[tokio::test(flavor = "multi_thread")]
async fn few_reports_wait_for_a_mongodb_that_does_not_answer() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let app = TestApp::connected(&proxy.uri(), "").await;
    let report = json!({ "user": "bob", "peer": "ann", "up_to": SENT });
    assert_eq!(read(&app, &report).await.status, 200);
    proxy.set(Line::Stalled);
    let short = Duration::from_millis(500);
    let gone = (0..50).map(|_| tokio::time::timeout(short, read(&app, &report)));
    for answer in join_all(gone).await {
        assert!(answer.is_err(), "{answer:?}");
    }
    let since = Instant::now();
    let answers = join_all((0..50).map(|_| read(&app, &report))).await;
    let overloaded = answers.iter().filter(|a| a.code() == "overloaded");
    let overloaded: Vec<_> = overloaded.collect();
    assert_eq!(overloaded.len(), 36, "{answers:?}");
    assert!(overloaded.iter().all(|a| a.header("retry-after") == "1"));
    assert!(since.elapsed() < Duration::from_secs(10));
    proxy.set(Line::Open);
    app.until_drained().await;
    // All turns are free again.
    let answers = join_all((0..64).map(|_| read(&app, &report))).await;
    assert!(answers.iter().all(|a| a.status == 200), "{answers:?}");
    app.end().await;
}

/// What only the primary has may be lost with it, so it is not answered as read.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_no_majority_confirms_is_not_acknowledged() {
    let _turn = TURN.lock().await;
    let name = "unconfirmed-read";
    let Some((app, client)) = service(name, "").await else {
        return;
    };
    let report = json!({ "user": "bob", "peer": "ann", "up_to": SENT });
    let error = doc! { "code": 64, "errmsg": "waiting for replication timed out" };
    for command in ["update", "insert"] {
        let unconfirmed = doc! { "failCommands": [command], "writeConcernError": &error };
        fail(&client, name, "alwaysOn", unconfirmed).await;
        let answer = read(&app, &report).await;
        off(&client).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (503, "unavailable"),
            "{command}"
        );
    }
    // A member that steps down in between costs nothing.
    let stepped_down = doc! { "failCommands": ["update"], "errorCode": 189 };
    fail(&client, name, doc! { "times": 1 }, stepped_down).await;
    assert_eq!(read(&app, &report).await.status, 200);
    off(&client).await;
    app.end().await;
}

/// Callbacks in a spool may be of more accounts on the order; a mark itself has nothing to wait for.
#[tokio::test]
async fn an_order_may_have_more_in_a_spool() {
    let app = TestApp::start().await;
    with_messages(&app).await;
    let spools = app.database.collection::<Document>("spools");
    let lost = doc! { "_id": "lost", "host": "far-away", "path": "/p", "bytes": 5_i64 };
    spools.insert_one(lost).await.unwrap();
    let order = json!({ "user": "bob", "order": "o-1", "up_to": SENT });
    // What is known of other spools may be as old as their lease.
    for _ in 0..100 {
        if read(&app, &order).await.json()["complete"] == false {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(read(&app, &order).await.json()["complete"], json!(false));
    let peer = json!({ "user": "bob", "peer": "ann", "up_to": SENT });
    assert_eq!(read(&app, &peer).await.json().get("complete"), None);
    spools.delete_one(doc! { "_id": "lost" }).await.unwrap();
    app.end().await;
}

/// Who wrote on an order is read from the index alone, and an order with more people than a command should have is
/// refused as a whole.
#[tokio::test]
async fn an_orders_people_are_read_from_its_index_up_to_a_limit() {
    let app = TestApp::start().await;
    with_messages(&app).await;
    let many = (0..1001).map(|n| doc! {
        "_id": format!("otc/p2p/m{n}"), "app": "otc", "to": "bob", "fromAccount": format!("p{n:04}"), "state": 0,
        "msgTimestamp": SENT, "orderId": "o-9", "receivedAt": DateTime::now(),
    });
    let messages = app.database.collection::<Document>("messages");
    messages.insert_many(many).await.unwrap();
    let order = json!({ "user": "bob", "order": "o-9", "up_to": SENT });
    let answer = read(&app, &order).await;
    assert_eq!((answer.status, &*answer.code()), (422, "too_many_ids"));
    assert_eq!(app.documents("read_marks", doc! {}).await.len(), 0);
    messages
        .delete_one(doc! { "_id": "otc/p2p/m7" })
        .await
        .unwrap();
    let answer = read(&app, &order).await.json();
    assert_eq!(answer["peers"].as_array().unwrap().len(), 1000);
    assert_eq!(app.documents("read_marks", doc! {}).await.len(), 1000);

    let name = AppName::new("otc").unwrap();
    let up_to = Millis::new(SENT).unwrap();
    let pipeline = peers_unread_on(&name, &Account::new("bob"), "o-1", up_to, 1001);
    let pipeline: Vec<Bson> = pipeline.into_iter().map(Bson::from).collect();
    let command = doc! { "aggregate": "messages", "pipeline": pipeline, "cursor": {}, "hint": "unread_by_order" };
    let explain = doc! { "explain": command, "verbosity": "executionStats" };
    let plan = app.database.run_command(explain).await.unwrap();
    let stages = stages(&plan);
    // One key of each account, in MongoDB 6.
    let is_read = |stage: &String| ["IXSCAN", "DISTINCT_SCAN"].contains(&stage.as_str());
    assert!(stages.iter().any(is_read), "{stages:?} in {plan}");
    for reads in ["COLLSCAN", "FETCH"] {
        assert!(!stages.contains(&reads.to_owned()), "{stages:?} in {plan}");
    }
    let stats = find(&plan, "executionStats")
        .unwrap()
        .as_document()
        .unwrap();
    assert_eq!(stats.get_i32("totalDocsExamined").unwrap(), 0, "{plan}");
    app.end().await;
}
