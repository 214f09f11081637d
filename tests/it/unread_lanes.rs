//! Concurrent unread queries: coalesced, in the hot lane, cancelled, and beyond the memory budget.

use std::time::Duration;

use futures_util::future::join_all;
use im_callback::store::MOST_KEYS;
use mongodb::bson::{DateTime, Document, doc};
use serde_json::json;

use crate::support::proxy::{Line, Proxy};
use crate::support::{Instance, READ_KEY, TestApp, config, deliver, mongodb_uri};

/// A message that counts, as stored, with the fields that queries use.
fn unread(n: usize, to: &str, from: &str, order: &str) -> Document {
    doc! {
        "_id": format!("otc/p2p/{to}-{from}-{n}"), "app": "otc", "to": to, "fromAccount": from, "state": 0,
        "msgTimestamp": 1_700_000_000_000_i64 + n as i64, "orderId": order, "msgidServer": n.to_string(),
        "receivedAt": DateTime::now(),
    }
}

#[tokio::test]
async fn coalesced_questions_each_get_their_own_answer() {
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
                "total": 2 * reader, "total_of": "peers",
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
                        r#"{{"user":"{user}","peers":{{"ann":{unread}}},"orders":{{"o":{unread}}},"total":{unread},"total_of":"peers"}}"#
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

/// Readers around the limit of a query, with and without marks, asked one by one and concurrently: nothing is counted
/// twice or missed where a query is truncated, and only indexes are read.
#[tokio::test]
async fn more_unread_messages_than_a_query_reads_are_counted_all_the_same() {
    const AT: i64 = 1_700_000_000_000;
    let app = TestApp::with("reconcile.delay = \"1h\"\nmongodb.query_timeout = \"10s\"").await;
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
    for (reader, messages, peers, orders, mark) in readers {
        let first = mark.map_or(0, |mark| mark + 1);
        for cap in [1, 10, 900, most + 100] {
            let mut asked = question(reader);
            asked["cap"] = json!(cap);
            let whole = app.ask(&asked).await.json();
            asked["order_peers"] = json!(true);
            let by_peer = app.ask(&asked).await.json();
            for n in 0..peers {
                let count = (first..messages).filter(|m| m % peers == n).count();
                assert_eq!(whole["peers"][peer(n)], count.min(cap), "{reader} {cap}");
            }
            for n in 0..orders {
                let of_order = || (first..messages).filter(|m| m % orders == n);
                let order = format!("o{n}");
                assert_eq!(
                    whole["orders"][&order],
                    of_order().count().min(cap),
                    "{reader} {cap}"
                );
                for p in 0..peers {
                    let count = of_order().filter(|m| m % peers == p).count().min(cap);
                    let found = by_peer["order_peers"][&order][peer(p)].as_u64();
                    assert_eq!(found.unwrap_or_default() as usize, count, "{reader} {cap}");
                }
            }
            for found in [whole, by_peer] {
                assert_eq!(
                    found["total"],
                    (messages - first).min(cap),
                    "{reader} {cap}"
                );
            }
        }
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

/// What a hot reader's badge costs with a cap does not depend on how many messages wait.
#[tokio::test]
async fn a_capped_count_of_a_hot_reader_reads_few_keys() {
    let app = TestApp::with("reconcile.delay = \"1h\"\nmongodb.query_timeout = \"10s\"").await;
    let messages = app.database.collection::<Document>("messages");
    for first in (0..60_000).step_by(10_000) {
        let some = (first..first + 10_000).map(|n| unread(n, "hot", &format!("p{}", n % 3), "o"));
        messages.insert_many(some).await.unwrap();
    }
    let profile = async |level| {
        app.database
            .run_command(doc! { "profile": level })
            .await
            .unwrap()
    };
    for (field, ids) in [
        ("peers", json!(["p0", "p1", "p2"])),
        ("orders", json!(["o"])),
    ] {
        let mut keys = Vec::new();
        for cap in [Some(100), None] {
            profile(2).await;
            let question = json!({ "user": "hot", field: ids, "cap": cap });
            let answer = app.ask(&question).await;
            profile(0).await;
            assert_eq!(answer.json()["total"], cap.unwrap_or(60_000), "{answer:?}");
            let ns = format!("{}.messages", app.database.name());
            let queries = app.documents("system.profile", doc! { "ns": ns }).await;
            let read = queries
                .iter()
                .map(|q| q.get_i32("keysExamined").unwrap_or_default());
            keys.push(read.sum::<i32>());
            app.database
                .collection::<Document>("system.profile")
                .drop()
                .await
                .unwrap();
        }
        // A query of the usual lane, and a few steps.
        assert!(keys[0] < 10_000 && keys[1] > 60_000, "{field} {keys:?}");
    }
    app.end().await;
}

/// A question whose client disconnected is not sent to MongoDB.
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
    // Two that are not coalesced take both slots of the lane, and the others wait.
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

/// Beyond the memory budget for waiting ids, a question is refused at once.
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
