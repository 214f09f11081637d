//! The unread query: its answers, its errors, and that it reads the index alone.

use futures_util::future::join_all;
use im_callback::callback::ids::AppName;
use im_callback::store::marks::marks_between;
use im_callback::store::{MOST_KEYS, UnreadBy};
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde_json::json;

use crate::support::proxy::{Line, Proxy};
use crate::support::{
    Instance, READ_KEY, TestApp, WRITE_KEY, config, database_name, deliver, mongodb_uri,
};
use std::time::Duration;

async fn with_messages(app: &TestApp) {
    let messages = [
        ("1", "Ann", "bob", "o-1"),
        ("2", "ann", "BOB", "o-1"),
        ("3", "ann", "bob", "o-2"),
        ("4", "carl", "bob", "O-1"),
        ("5", "bob", "ann", "o-1"),
    ];
    for (id, from, to, order) in messages {
        let body = json!({
            "eventType": 1, "convType": "PERSON", "to": to, "fromAccount": from, "msgType": "TEXT",
            "body": "x", "msgTimestamp": 1_700_000_000_000_i64, "msgidServer": id,
            "ext": { "orderId": order },
        });
        app.deliver(body.to_string()).await.expect_ok();
    }
}

#[tokio::test]
async fn every_id_is_answered_as_it_was_spelled() {
    let app = TestApp::start().await;
    with_messages(&app).await;
    let cases = [
        (
            json!({ "user": "Bob", "peers": ["ANN", "carl", "nobody"] }),
            r#"{"user":"Bob","peers":{"ANN":3,"carl":1,"nobody":0},"total":4}"#,
        ),
        (
            json!({ "user": "bob", "orders": ["o-1", "o-2", "O-1", "o-9"], "app": "otc" }),
            r#"{"user":"bob","orders":{"o-1":2,"o-2":1,"O-1":1,"o-9":0},"total":4}"#,
        ),
        (
            json!({ "user": "bob", "peers": ["carl"], "orders": ["o-1"] }),
            r#"{"user":"bob","peers":{"carl":1},"orders":{"o-1":2},"total":1}"#,
        ),
        (
            // One person in two spellings, and twice the same: both are answered, and counted once.
            json!({ "user": "bob", "peers": ["ann", "Ann", "ann"] }),
            r#"{"user":"bob","peers":{"ann":3,"Ann":3},"total":3}"#,
        ),
        (
            json!({ "user": "bob", "peers": [] }),
            r#"{"user":"bob","peers":{},"total":0}"#,
        ),
        (
            json!({ "user": "bob", "peers": null, "orders": ["o-2"] }),
            r#"{"user":"bob","orders":{"o-2":1},"total":1}"#,
        ),
    ];
    for (question, expected) in cases {
        let answer = app.ask(&question).await;
        assert_eq!(
            (answer.status, answer.text.as_str()),
            (200, expected),
            "{question}"
        );
    }
    let key = format!("Bearer {READ_KEY}");
    for (query, expected) in [
        (
            "user=bob&peers=Ann,carl",
            r#"{"user":"bob","peers":{"Ann":3,"carl":1},"total":4}"#,
        ),
        (
            "user=bob&peers=ann&peers=carl&app=otc",
            r#"{"user":"bob","peers":{"ann":3,"carl":1},"total":4}"#,
        ),
        (
            "orders=o%2D1&user=bob",
            r#"{"user":"bob","orders":{"o-1":2},"total":2}"#,
        ),
    ] {
        let answer = app
            .get(&format!("/v1/unread?{query}"), &[("Authorization", &key)])
            .await;
        assert_eq!(
            (answer.status, answer.text.as_str()),
            (200, expected),
            "{query}"
        );
    }
    app.end().await;
}

/// Every bad query with its full answer.
#[tokio::test]
async fn bad_queries_are_told_what_is_wrong_and_where() {
    let app = TestApp::start().await;
    let mut told = Vec::new();
    let long = "x".repeat(257);
    let many: Vec<_> = (0..1001).map(|n| n.to_string()).collect();
    let bodies = [
        "".to_owned(),
        "hello".to_owned(),
        r#"{"user":"bob","peers":["a"]"#.to_owned(),
        r#"{"user":"bob","peers":["a"]} x"#.to_owned(),
        r#"["bob"]"#.to_owned(),
        r#"{"peers":["a"]}"#.to_owned(),
        r#"{"user":"bob"}"#.to_owned(),
        r#"{"user":"","peers":["a"]}"#.to_owned(),
        r#"{"user":5,"peers":["a"]}"#.to_owned(),
        r#"{"user":"bob","peers":["a",""]}"#.to_owned(),
        r#"{"user":"bob","peers":["a",{"$gt":""}]}"#.to_owned(),
        r#"{"user":"bob","peers":"a"}"#.to_owned(),
        r#"{"user":"bob","teams":["1"]}"#.to_owned(),
        r#"{"user":"bob","peers":["a"],"app":"none"}"#.to_owned(),
        json!({ "user": "bob", "orders": ["a", long] }).to_string(),
        json!({ "user": "bob", "peers": many }).to_string(),
        json!({ "user": "bob", "peers": &many[..600], "orders": &many[..600] }).to_string(),
    ];
    let key = format!("Bearer {READ_KEY}");
    for body in bodies {
        let shown = if body.len() > 80 { "(long)" } else { &body };
        let answer = app
            .post("/v1/unread", &[("Authorization", &key)], body.clone())
            .await;
        told.push(json!({ "POST": shown, "answer": answer.json() }));
    }
    for query in [
        "",
        "user=bob",
        "peers=a",
        "user=bob&peers=a,,b",
        "user=bob&peers=",
        "user=bob&peer=a",
    ] {
        let answer = app
            .get(&format!("/v1/unread?{query}"), &[("Authorization", &key)])
            .await;
        told.push(json!({ "GET": query, "answer": answer.json() }));
    }
    insta::assert_json_snapshot!(told);
    app.end().await;
}

#[tokio::test]
async fn a_key_with_the_scope_is_needed() {
    let app = TestApp::start().await;
    let write = format!("Bearer {WRITE_KEY}");
    let lower = format!("bearer {READ_KEY}");
    type Case<'c> = (&'c [(&'c str, &'c str)], u16, &'c str);
    let cases: &[Case<'_>] = &[
        (&[], 401, "missing_key"),
        (&[("Authorization", "Basic eDp5")], 401, "missing_key"),
        (&[("Authorization", "Bearer wrong")], 403, "unknown_key"),
        (&[("Authorization", &write)], 403, "missing_scope"),
        (&[("Authorization", &lower)], 200, ""),
    ];
    for (headers, status, code) in cases {
        let get = app.get("/v1/unread?user=a&peers=b", headers).await;
        let post = app
            .post("/v1/unread", headers, r#"{"user":"a","peers":["b"]}"#)
            .await;
        for answer in [get, post] {
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (*status, *code),
                "{answer:?}"
            );
            assert_eq!(
                answer.header("www-authenticate"),
                if *status == 401 { "Bearer" } else { "" }
            );
            assert!(!answer.text.contains(READ_KEY) && !answer.text.contains(WRITE_KEY));
        }
    }
    // Whoever has no key learns nothing of what a good query looks like.
    assert_eq!(
        app.post("/v1/unread", &[], "junk").await.code(),
        "missing_key"
    );
    let answer = app.post("/livez", &[], "").await;
    assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"));
    app.end().await;
}

#[tokio::test]
async fn without_any_key_queries_are_closed() {
    let mut config = config(&mongodb_uri(), &database_name(), "");
    config.keys.clear();
    let instance = Instance::start(config);
    let answer = crate::support::http().get(instance.url("/v1/unread?user=a&peers=b"));
    let answer = answer.bearer_auth(READ_KEY).send().await.unwrap();
    assert_eq!(answer.status(), 403);
    let problem: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "no_keys");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("[[auth.keys]]")
    );
    tokio::task::spawn_blocking(move || drop(instance))
        .await
        .unwrap();
}

/// A message that counts, as the service stores it, without what no query looks at.
fn unread(n: usize, to: &str, from: &str, order: &str) -> Document {
    doc! {
        "_id": format!("otc/p2p/{to}-{from}-{n}"), "app": "otc", "to": to, "fromAccount": from, "state": 0,
        "msgTimestamp": 1_700_000_000_000_i64 + n as i64, "orderId": order, "msgidServer": n.to_string(),
        "receivedAt": DateTime::now(),
    }
}

#[tokio::test]
async fn questions_that_come_together_have_each_their_own_answer() {
    let app = TestApp::start().await;
    // Reader n has n unread messages from each of three peers, of which each asks for two.
    let readers = 40;
    let stored = (0..readers).flat_map(|reader| {
        (0..3 * reader).map(move |n| {
            let (to, from) = (format!("r{reader}"), format!("p{}", n % 3));
            unread(n, &to, &from, &format!("o{}", reader % 2))
        })
    });
    let messages = app.database.collection::<Document>("messages");
    messages
        .insert_many(stored.collect::<Vec<_>>())
        .await
        .unwrap();
    let ask = |reader: usize| {
        let app = &app;
        async move {
            let (one, other) = (format!("p{}", reader % 3), format!("p{}", (reader + 1) % 3));
            let user = format!("r{reader}");
            let answer = app
                .ask(&json!({ "user": user, "peers": [one, other], "orders": ["o0"] }))
                .await;
            let of_order = if reader.is_multiple_of(2) {
                3 * reader
            } else {
                0
            };
            let expected = json!({
                "user": user, "peers": { one: reader, other: reader }, "orders": { "o0": of_order },
                "total": 2 * reader,
            });
            let found: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
            assert_eq!(found, expected);
        }
    };
    for _ in 0..5 {
        join_all((0..readers).map(ask)).await;
    }
    app.end().await;
}

/// Messages, receipts and recalls, each followed by a question, while `state` follows hours later.
#[tokio::test]
async fn an_answer_has_all_that_was_acknowledged_before_the_question() {
    const AT: i64 = 1_700_000_000_000;
    let delay = "reconcile.delay = \"1h\"";
    let app = TestApp::with(delay).await;
    let second = Instance::start(config(&mongodb_uri(), app.database.name(), delay));
    let reader = |reader: usize| {
        let (app, second) = (&app, &second);
        async move {
            let user = format!("r{reader}");
            let expect = async |unread: i64| {
                for instance in [&app.instance, second] {
                    let question = json!({ "user": user, "peers": ["ann"], "orders": ["o"] });
                    let asked = app.http.post(instance.url("/v1/unread"));
                    let asked = asked.bearer_auth(READ_KEY).json(&question);
                    let answer = asked.send().await.unwrap().text().await.unwrap();
                    let expected = format!(
                        r#"{{"user":"{user}","peers":{{"ann":{unread}}},"orders":{{"o":{unread}}},"total":{unread}}}"#
                    );
                    assert_eq!(answer, expected);
                }
            };
            for n in 1..=6 {
                let message = json!({
                    "eventType": 1, "convType": "PERSON", "to": user, "fromAccount": "ann", "msgType": "TEXT",
                    "body": "x", "msgTimestamp": AT + n, "msgidServer": format!("{reader}-{n}"),
                    "ext": { "orderId": "o" },
                });
                let via = [&app.instance, second][n as usize % 2];
                deliver(&app.http, via, message.to_string().as_bytes())
                    .await
                    .expect_ok();
                expect(n).await;
            }
            let receipt = json!({ "eventType": 30, "fromAccount": user, "toAccount": "ann", "timestamp": AT + 2 });
            deliver(&app.http, second, receipt.to_string().as_bytes())
                .await
                .expect_ok();
            expect(4).await;
            let recall = json!({ "eventType": 7, "msgId": format!("{reader}-5"), "from": "ann", "to": user });
            app.deliver(recall.to_string()).await.expect_ok();
            expect(3).await;
            let late = json!({
                "eventType": 1, "convType": "PERSON", "to": user, "fromAccount": "ann", "msgType": "TEXT",
                "body": "x", "msgTimestamp": AT, "msgidServer": format!("{reader}-late"),
                "ext": { "orderId": "o" },
            });
            app.deliver(late.to_string()).await.expect_ok();
            expect(3).await;
        }
    };
    join_all((0..16).map(reader)).await;
    let as_unread = app.documents("messages", doc! { "state": 0 }).await;
    assert_eq!(as_unread.len(), 16 * 6, "`state` has not followed yet");
    tokio::task::spawn_blocking(move || drop(second))
        .await
        .unwrap();
    app.end().await;
}

/// Readers around the limit of a query, with and without marks, asked one by one and all at once: nothing is counted
/// twice or left out where a query is cut, and only indexes are read.
#[tokio::test]
async fn more_unread_messages_than_a_query_reads_are_counted_all_the_same() {
    const AT: i64 = 1_700_000_000_000;
    let app = TestApp::with("reconcile.delay = \"1h\"").await;
    let peer = |n: usize| format!("peer{n:02}");
    let most = MOST_KEYS;
    // Reader, messages, peers, orders, and up to which message a mark says read.
    let readers = [
        ("a-few", 30, 3, 2, None),
        ("b-one-peer", most + 7, 1, 2, None),
        ("c-few", 30, 3, 2, Some(9)),
        ("d-many-peers", most + 400, 60, 7, Some(most / 2)),
        ("e-one-order", most + 1200, 3, 1, Some(1500)),
        ("f-limit", most, 1, 1, None),
        ("g-few", 30, 3, 2, None),
    ];
    for (reader, messages, peers, orders, mark) in readers {
        let stored =
            (0..messages).map(|n| unread(n, reader, &peer(n % peers), &format!("o{}", n % orders)));
        let collection = app.database.collection::<Document>("messages");
        collection.insert_many(stored).await.unwrap();
        let Some(mark) = mark else { continue };
        for n in 0..peers {
            let receipt = json!({
                "eventType": 30, "fromAccount": reader, "toAccount": peer(n), "timestamp": AT + mark as i64,
            });
            app.deliver(receipt.to_string()).await.expect_ok();
        }
    }
    let question = |reader: &str| {
        let peers: Vec<String> = (0..62).map(peer).collect();
        let orders: Vec<String> = (0..8).map(|n| format!("o{n}")).collect();
        json!({ "user": reader, "peers": peers, "orders": orders })
    };
    let check = async |(reader, messages, peers, orders, mark): (
        &str,
        usize,
        usize,
        usize,
        Option<usize>,
    )| {
        let first = mark.map_or(0, |mark| mark + 1);
        let by = |of: usize, n: usize| (first..messages).filter(|m| m % of == n).count();
        let found = app.ask(&question(reader)).await.json();
        for n in 0..62 {
            let expected = if n < peers { by(peers, n) } else { 0 };
            assert_eq!(found["peers"][peer(n)], expected, "{reader} {n}");
        }
        for n in 0..8 {
            let expected = if n < orders { by(orders, n) } else { 0 };
            assert_eq!(found["orders"][format!("o{n}")], expected, "{reader} o{n}");
        }
        assert_eq!(found["total"], messages - first, "{reader}");
    };
    let profile = async |level| {
        app.database
            .run_command(doc! { "profile": level })
            .await
            .unwrap()
    };
    profile(2).await;
    for reader in readers {
        check(reader).await;
    }
    for _ in 0..3 {
        join_all(readers.iter().chain(&readers).map(|reader| check(*reader))).await;
    }
    profile(0).await;
    let read = doc! {
        "op": { "$in": ["command", "query"] }, "ns": { "$regex": "(messages|read_marks)$" },
        "docsExamined": { "$gt": 0 },
    };
    assert_eq!(app.documents("system.profile", read).await, []);
    let walks = doc! { "planSummary": { "$regex": "^COUNT_SCAN" } };
    assert!(!app.documents("system.profile", walks).await.is_empty());
    app.end().await;
}

/// The promise of the indexes: a count looks at index keys of what is unread and at read marks, and at no document, and
/// the keys come in order without being sorted.
#[tokio::test]
async fn the_plans_read_indexes_alone() {
    let app = TestApp::start().await;
    with_messages(&app).await;
    let receipt =
        json!({ "eventType": 30, "fromAccount": "bob", "toAccount": "ann", "timestamp": 1 });
    app.deliver(receipt.to_string()).await.expect_ok();
    let name = AppName::new("otc").unwrap();
    let readers = ["bob", "dave"];
    let keys = |by: UnreadBy, ids: &[&str]| {
        let mongodb::options::Hint::Name(hint) = by.hint() else {
            panic!("the hint names an index")
        };
        doc! {
            "find": "messages", "filter": by.matching(&name, &readers, ids), "projection": by.projection(),
            "sort": by.sort(), "hint": hint, "limit": 5001,
        }
    };
    let marks = doc! {
        "find": "read_marks", "filter": marks_between(&name, &readers, &["ann", "carl"]),
        "projection": { "_id": 0, "reader": 1, "peer": 1, "readUpTo": 1 }, "hint": "marks",
    };
    let commands = [
        (keys(UnreadBy::Peer, &["ann", "carl"]), 4),
        (keys(UnreadBy::Order, &["o-1", "o-2"]), 3),
        (marks, 1),
    ];
    for (command, found) in commands {
        let explain = doc! { "explain": command, "verbosity": "executionStats" };
        let plan = app.database.run_command(explain).await.unwrap();
        let stages = stages(&plan);
        assert!(
            stages.contains(&"IXSCAN".to_owned()),
            "{stages:?} in {plan}"
        );
        for reads in ["COLLSCAN", "FETCH", "SORT"] {
            assert!(!stages.contains(&reads.to_owned()), "{stages:?} in {plan}");
        }
        let stats = find(&plan, "executionStats")
            .unwrap()
            .as_document()
            .unwrap();
        let number = |what| stats.get_i32(what).unwrap();
        assert_eq!(
            (number("nReturned"), number("totalDocsExamined")),
            (found, 0)
        );
    }
    app.end().await;
}

/// Whoever does not wait for the answer any more costs MongoDB nothing more.
#[tokio::test(flavor = "multi_thread")]
async fn a_question_whose_asker_has_gone_is_not_asked() {
    let _turn = crate::failpoints::TURN.lock().await;
    let client = mongodb::Client::with_uri_str(mongodb_uri()).await.unwrap();
    if !crate::failpoints::are_there(&client).await {
        return;
    }
    let uri = mongodb_uri();
    let joint = if uri.contains('?') { "&" } else { "/?" };
    let app = TestApp::connected(
        &format!("{uri}{joint}appName=gone"),
        "mongodb.query_timeout = \"10s\"\n",
    )
    .await;
    let profile = async |level| {
        app.database
            .run_command(doc! { "profile": level })
            .await
            .unwrap()
    };
    let slow = doc! { "failCommands": ["find"], "blockConnection": true, "blockTimeMS": 1500 };
    crate::failpoints::fail(&client, "gone", "alwaysOn", slow).await;
    profile(2).await;
    // Two apart from each other take all turns of the lane, and the others wait.
    let ask = async |n: usize| {
        let question = json!({ "user": format!("r{n}"), "peers": ["ann"] });
        let asked = tokio::time::timeout(Duration::from_millis(500), app.ask(&question));
        assert!(asked.await.is_err());
    };
    let waiting = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        join_all((2..40).map(ask)).await;
    };
    tokio::join!(ask(0), ask(1), waiting);
    crate::failpoints::off(&client).await;
    let last = app.ask(&json!({ "user": "last", "peers": ["ann"] })).await;
    assert_eq!(last.status, 200);
    profile(0).await;
    let of_gone = doc! { "command.filter.to": { "$elemMatch": { "$in": ["r5", "r20", "r39"] } } };
    assert_eq!(app.documents("system.profile", of_gone).await, []);
    app.end().await;
}

/// What waits for an answer is limited in bytes, and beyond that a question is told so at once.
#[tokio::test(flavor = "multi_thread")]
async fn questions_beyond_the_memory_for_them_are_refused_at_once() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let more = "http.max_ids = 10000\nhttp.max_body = \"4MiB\"\nhttp.max_id_length = 4096\nmongodb.query_timeout = \"3s\"";
    let app = TestApp::connected(&proxy.uri(), more).await;
    let ids: Vec<String> = (0..1000).map(|n| format!("{n:0>2000}")).collect();
    let question = json!({ "user": "bob", "peers": ids });
    proxy.set(Line::Slow(300));
    let answers = join_all((0..20).map(|_| app.ask(&question))).await;
    let refused: Vec<_> = answers
        .iter()
        .filter(|a| a.code() == "overloaded")
        .collect();
    // Two megabytes each, of sixteen.
    assert!((11..=16).contains(&refused.len()), "{}", refused.len());
    for answer in refused {
        assert_eq!((answer.status, answer.header("retry-after")), (503, "1"));
    }
    proxy.set(Line::Open);
    assert_eq!(app.ask(&question).await.status, 200);
    app.end().await;
}

fn stages(plan: &Document) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in plan {
        match value {
            Bson::String(stage) if name == "stage" => found.push(stage.to_uppercase()),
            Bson::Document(inner) => found.extend(stages(inner)),
            Bson::Array(items) => {
                found.extend(items.iter().filter_map(Bson::as_document).flat_map(stages));
            }
            _ => {}
        }
    }
    found
}

fn find<'p>(plan: &'p Document, wanted: &str) -> Option<&'p Bson> {
    plan.get(wanted).or_else(|| {
        plan.values().find_map(|value| match value {
            Bson::Document(inner) => find(inner, wanted),
            Bson::Array(items) => items
                .iter()
                .filter_map(Bson::as_document)
                .find_map(|d| find(d, wanted)),
            _ => None,
        })
    })
}

/// Without its indexes a count would be a scan: better no answer, and the service says so.
#[tokio::test]
async fn without_an_index_a_query_is_503_and_the_service_degraded() {
    for (collection, index) in [("messages", "unread_by_peer"), ("read_marks", "marks")] {
        without(collection, index).await;
    }
}

async fn without(collection: &str, index: &str) {
    let app = TestApp::start().await;
    app.database
        .collection::<Document>(collection)
        .drop_index(index)
        .await
        .unwrap();
    let answer = app.ask(&json!({ "user": "bob", "peers": ["ann"] })).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "unavailable")
    );
    assert_eq!(answer.header("retry-after"), "5");
    // Callbacks need no index, so a balancer goes on sending them.
    app.until(|ready| ready["checks"]["indexes"] == "missing")
        .await;
    let ready = app.get("/readyz", &[]).await;
    let said = ready.json();
    assert_eq!((ready.status, &said["status"]), (200, &json!("degraded")));
    assert_eq!(
        (&said["callbacks"], &said["queries"]),
        (&json!("ready"), &json!("not ready"))
    );
    assert_eq!(app.get("/livez", &[]).await.status, 200);
    app.end().await;
}
