//! `POST /v1/read`: the site itself marks as read, by the same rule as a receipt.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use im_callback::callback::ids::{Account, AppName, Millis};
use im_callback::store::read::peers_unread_on;
use mongodb::bson::{Bson, DateTime, Document, doc};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::failpoints::{TURN, fail, off, service};
use crate::support::dialect::Dialect;
use crate::support::proxy::{Line, Proxy};
use crate::support::{
    Answer, Instance, READ_KEY, TestApp, WRITE_KEY, config, deliver, mongodb_uri, send,
};
use crate::trace::{SENT, receipt, the_message};
use crate::unread::with_messages;
use crate::unread_indexes::{find, stages};

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
    let marks: Vec<_> = marks.into_iter().map(crate::support::comparable).collect();
    let mut records = app.documents("events", doc! {}).await;
    records.retain(|record| record.get_str("kind").is_ok_and(|kind| kind == "site_read"));
    let records: Vec<_> = records
        .into_iter()
        .map(crate::support::comparable)
        .collect();
    insta::assert_json_snapshot!(json!({ "marks": marks, "records": records }));
    let states = app.documents("messages", doc! { "state": 0 }).await;
    assert_eq!(states.len(), 5, "`state` stands still");
    end(second).await;
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

/// Where MongoDB does not confirm, the site is told so, and nothing is kept to be written later.
#[tokio::test(flavor = "multi_thread")]
async fn without_mongodb_nothing_is_marked_and_the_site_is_told() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let app = TestApp::connected(&proxy.uri(), "").await;
    app.deliver(crate::support::message(0)).await.expect_ok();
    let reports = [
        json!({ "user": "bob", "peer": "ann", "up_to": SENT }),
        json!({ "user": "bob", "order": "o-1", "up_to": SENT }),
        json!({ "user": "bob", "team": "7", "up_to": SENT }),
    ];
    proxy.set(Line::Cut);
    // Not known as an outage yet, then known.
    for is_known in [false, true] {
        if is_known {
            app.deliver(crate::support::message(1)).await.expect_ok();
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

    let case = crate::support::trace::Happening::Message {
        from: 0,
        to: 1,
        at: 0,
        sort: crate::support::trace::Sort::Text,
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

/// What happens in a case, between ann and bob, at a time.
#[derive(Debug, Clone)]
enum Step {
    Message(i64),
    Receipt(i64),
    SiteRead(i64),
    SiteReadOfOrder(i64),
}

/// Site reads commute with messages and receipts: in any order, repeated, and over two instances, counts are what the
/// largest time says, and the documents are the same. (Of an order alone only what was there is read, so these come last.)
#[test]
fn site_reads_commute_with_messages_and_receipts() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (app, second) = runtime.block_on(async {
        let app = TestApp::start().await;
        let second = app.second_instance();
        (app, second)
    });
    let case = AtomicU32::new(0);
    let at = || 0..12_i64;
    let step = prop_oneof![
        3 => at().prop_map(Step::Message),
        1 => at().prop_map(Step::Receipt),
        2 => at().prop_map(Step::SiteRead),
    ];
    let steps = prop::collection::vec(step, 1..12);
    let cases = steps.prop_flat_map(|steps| {
        let twice: Vec<_> = (0..steps.len()).chain(0..steps.len()).collect();
        let order = Just(twice).prop_shuffle();
        (Just(steps), order, prop::option::of(at()))
    });
    let mut runner = TestRunner::new(Config {
        cases: 40,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&cases, |(steps, order, of_order)| {
        let case = format!("c{}", case.fetch_add(1, Ordering::Relaxed));
        let instances = [&app.instance, &second];
        runtime.block_on(async {
            for pair in order.chunks(2) {
                let sent = pair
                    .iter()
                    .map(|n| take(&app, instances[n % 2], &case, *n, &steps[*n]));
                join_all(sent).await;
            }
            let mut all = steps.clone();
            if let Some(at) = of_order {
                let last = Step::SiteReadOfOrder(at);
                take(&app, &second, &case, all.len(), &last).await;
                all.push(last);
            }
            let mark = all.iter().filter_map(|step| match step {
                Step::Message(_) => None,
                // Only if there is something to read on the order, later than its mark and up to this time.
                Step::SiteReadOfOrder(at) => Some(*at),
                Step::Receipt(at) | Step::SiteRead(at) => Some(*at),
            });
            let mark = mark.max().unwrap_or(-1);
            let unread = all
                .iter()
                .filter(|step| matches!(step, Step::Message(at) if *at > mark));
            let question =
                json!({ "user": format!("{case}-bob"), "peers": [format!("{case}-ann")] });
            let expected = unread.count() as u64;
            for instance in instances {
                let key = format!("Bearer {READ_KEY}");
                let request = app
                    .http
                    .post(instance.url("/v1/unread"))
                    .body(question.to_string());
                let answer = send(request, &[("Authorization", &key)]).await.json();
                assert_eq!(answer["total"], expected, "{all:?}");
            }
            let records = doc! { "kind": "site_read", "reader": format!("{case}-bob") };
            let records = app.documents("events", records).await.len();
            let mut times: Vec<_> = steps
                .iter()
                .filter_map(|step| match step {
                    Step::SiteRead(at) => Some(*at),
                    _ => None,
                })
                .collect();
            times.sort_unstable();
            times.dedup();
            assert!(
                (times.len()..=times.len() + 1).contains(&records),
                "{all:?}"
            );
        });
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    runtime.block_on(async {
        app.until_followed().await;
        app.until_at(&second, |ready| ready["state"]["pairs"] == 0).await;
        // Every message that a mark covers is read by its `state`, too.
        for mark in app.documents("read_marks", doc! {}).await {
            let behind = doc! {
                "to": mark.get_str("reader").unwrap(), "fromAccount": mark.get_str("peer").unwrap(), "state": 0,
                "msgTimestamp": { "$lte": mark.get_i64("readUpTo").unwrap() },
            };
            assert_eq!(app.documents("messages", behind).await.len(), 0, "{mark}");
        }
        end(second).await;
        app.end().await;
    });
}

async fn take(app: &TestApp, instance: &Instance, case: &str, n: usize, step: &Step) {
    let (ann, bob) = (format!("{case}-ann"), format!("{case}-bob"));
    let time = |at: i64| SENT + at;
    match step {
        Step::Message(at) => {
            let message = json!({
                "eventType": 1, "convType": "PERSON", "to": bob, "fromAccount": ann, "msgType": "TEXT",
                "body": "the-text", "msgTimestamp": time(*at), "msgidServer": format!("{case}-{n}"),
                "ext": { "orderId": format!("{case}-o") },
            });
            let body = message.to_string();
            deliver(&app.http, instance, body.as_bytes())
                .await
                .expect_ok();
        }
        Step::Receipt(at) => {
            let body = receipt(&bob, &ann, time(*at));
            deliver(&app.http, instance, body.as_bytes())
                .await
                .expect_ok();
        }
        Step::SiteRead(at) => {
            let report = json!({ "user": bob, "peer": ann, "up_to": time(*at) });
            assert_eq!(read_at(&app.http, instance, &report).await.status, 200);
        }
        Step::SiteReadOfOrder(at) => {
            let report = json!({ "user": bob, "order": format!("{case}-o"), "up_to": time(*at) });
            assert_eq!(read_at(&app.http, instance, &report).await.status, 200);
        }
    }
}
