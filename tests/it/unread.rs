//! The unread query: its answers, its errors, and that it reads the index alone.

use futures_util::future::join_all;
use im_callback::callback::ids::AppName;
use im_callback::store::{TOGETHER, UnreadBy};
use mongodb::bson::{Bson, DateTime, Document, doc};
use serde_json::json;

use crate::support::{READ_KEY, TestApp, WRITE_KEY, config, database_name, mongodb_uri};

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
    let instance = crate::support::Instance::start(config);
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

#[tokio::test]
async fn an_answer_has_all_that_was_acknowledged_before_the_question() {
    let app = TestApp::start().await;
    let reader = |reader: usize| {
        let app = &app;
        async move {
            let user = format!("r{reader}");
            for n in 1..=15 {
                let body = json!({
                    "eventType": 1, "convType": "PERSON", "to": user, "fromAccount": "ann", "msgType": "TEXT",
                    "body": "x", "msgTimestamp": 1_700_000_000_000_i64 + n,
                    "msgidServer": format!("{reader}-{n}"),
                });
                app.deliver(body.to_string()).await.expect_ok();
                let answer = app.ask(&json!({ "user": user, "peers": ["ann"] })).await;
                let expected = format!(r#"{{"user":"{user}","peers":{{"ann":{n}}},"total":{n}}}"#);
                assert_eq!(answer.text, expected);
            }
        }
    };
    join_all((0..24).map(reader)).await;
    app.end().await;
}

#[tokio::test]
async fn more_unread_messages_than_are_counted_in_one_go_are_counted_all_the_same() {
    let app = TestApp::start().await;
    let most = usize::try_from(TOGETHER).unwrap();
    let stored = (0..most + 7).map(|n| unread(n, "big", "ann", "o-1"));
    let stored = stored.chain((0..3).map(|n| unread(n, "big", "carl", "o-2")));
    let stored = stored.chain((0..1200).map(|n| unread(n, "big", "dora", "o-3")));
    let stored = stored.chain((0..2).map(|n| unread(n, "small", "ann", "o-1")));
    // More than one question may meet, and no peer with half of them; then more than any query may.
    let peer = |n: usize| format!("peer{n}");
    let stored = stored.chain((0..1200).map(|n| unread(n, "even", &peer(n % 30), "o-1")));
    let stored = stored.chain((0..most + 400).map(|n| unread(n, "wide", &peer(n % 60), "o-1")));
    let messages = app.database.collection::<Document>("messages");
    messages
        .insert_many(stored.collect::<Vec<_>>())
        .await
        .unwrap();
    let big = json!({
        "user": "big", "peers": ["ann", "carl", "dora", "nobody"], "orders": ["o-1", "o-3"],
    });
    let small = json!({ "user": "small", "peers": ["ann"] });
    app.database
        .run_command(doc! { "profile": 2 })
        .await
        .unwrap();
    let peers: Vec<String> = (0..62).map(peer).collect();
    for (user, all, of) in [("even", 1200, 30), ("wide", most + 400, 60)] {
        let answer = app.ask(&json!({ "user": user, "peers": peers })).await;
        let expected = |n: usize| (0..all).filter(|at| at % of == n).count();
        let expected: serde_json::Map<_, _> =
            (0..62).map(|n| (peer(n), json!(expected(n)))).collect();
        let found = answer.json();
        assert_eq!(
            (&found["peers"], &found["total"]),
            (&json!(expected), &json!(all))
        );
    }
    let questions = [&big, &small, &big, &small, &small, &big];
    let answers = join_all(questions.map(|question| app.ask(question))).await;
    app.database
        .run_command(doc! { "profile": 0 })
        .await
        .unwrap();
    let profile = app.database.collection::<Document>("system.profile");
    let queries = doc! { "op": { "$in": ["command", "query"] }, "docsExamined": { "$gt": 0 } };
    let reads = profile.find_one(queries).await.unwrap();
    assert_eq!(reads, None, "only the index is read");
    let walks = doc! { "planSummary": { "$regex": "^COUNT_SCAN" } };
    assert!(profile.find_one(walks).await.unwrap().is_some());
    for (question, answer) in questions.iter().zip(answers) {
        let expected = if **question == big {
            json!({
                "user": "big", "peers": { "ann": most + 7, "carl": 3, "dora": 1200, "nobody": 0 },
                "orders": { "o-1": most + 7, "o-3": 1200 }, "total": most + 1210,
            })
        } else {
            json!({ "user": "small", "peers": { "ann": 2 }, "total": 2 })
        };
        let found: serde_json::Value = serde_json::from_str(&answer.text).unwrap();
        assert_eq!(found, expected);
    }
    app.end().await;
}

/// The promise of the index: a count looks at index keys of what is unread, and at no document.
#[tokio::test]
async fn the_plan_reads_the_index_alone() {
    let app = TestApp::start().await;
    with_messages(&app).await;
    let name = AppName::new("otc").unwrap();
    for (by, ids) in [
        (UnreadBy::Peer, ["ann", "carl"]),
        (UnreadBy::Order, ["o-1", "o-2"]),
    ] {
        let mut command = doc! {
            "aggregate": "messages",
            "pipeline": by.pipeline(&name, &["bob", "dave"], &ids, Some(TOGETHER)),
            "cursor": {},
        };
        let mongodb::options::Hint::Name(hint) = by.hint() else {
            panic!("the hint names an index")
        };
        command.insert("hint", hint);
        let explain = doc! { "explain": command, "verbosity": "executionStats" };
        let plan = app.database.run_command(explain).await.unwrap();
        let stages = stages(&plan);
        assert!(
            stages.contains(&"IXSCAN".to_owned()),
            "{stages:?} in {plan}"
        );
        for reads in ["COLLSCAN", "FETCH"] {
            assert!(!stages.contains(&reads.to_owned()), "{stages:?} in {plan}");
        }
        let stats = find(&plan, "executionStats")
            .unwrap()
            .as_document()
            .unwrap();
        assert_eq!(stats.get_i32("totalDocsExamined").ok(), Some(0));
    }
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

/// Without its index a count would be a scan: better no answer, and the service says so.
#[tokio::test]
async fn without_its_index_a_query_is_503_and_the_service_degraded() {
    let app = TestApp::start().await;
    app.database
        .collection::<Document>("messages")
        .drop_index("unread_by_peer")
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
