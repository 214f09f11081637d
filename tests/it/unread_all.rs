//! The unread query without lists: all of a user.

use mongodb::bson::{DateTime, Document, doc};
use serde_json::{Value, json};

use crate::support::{Answer, READ_KEY, TestApp};
use crate::unread::with_messages;

const AT: i64 = 1_700_000_000_000;

/// A message that counts, as stored, with the fields that queries use.
fn unread(n: usize, to: &str, from: &str, at: i64) -> Document {
    doc! {
        "_id": format!("otc/p2p/{to}-{from}-{n}"), "app": "otc", "to": to, "fromAccount": from, "state": 0,
        "msgTimestamp": AT + at, "msgidServer": n.to_string(), "receivedAt": DateTime::now(),
    }
}

async fn insert(app: &TestApp, messages: Vec<Document>) {
    let collection = app.database.collection::<Document>("messages");
    collection.insert_many(messages).await.unwrap();
}

fn message(id: usize, from: &str, at: i64, more: Value) -> String {
    let mut message = json!({
        "eventType": 1, "convType": "PERSON", "to": "bob", "fromAccount": from, "msgType": "TEXT",
        "body": format!("text {id}"), "msgTimestamp": AT + at, "msgidServer": id.to_string(),
    });
    let fields = message.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    message.to_string()
}

fn order(order: &str) -> Value {
    json!({ "ext": { "orderId": order } })
}

/// Three senders and two orders, some messages read, recalled or not of a kind that counts.
async fn with_some_of_each(app: &TestApp) {
    let bodies = [
        message(1, "ann", 10, order("o-1")),
        message(2, "ann", 20, order("o-2")),
        message(3, "carl", 15, order("o-1")),
        message(4, "dora", 5, json!({})),
        message(5, "dora", 40, json!({ "msgType": "TIPS" })),
        message(6, "carl", 50, order("o-3")),
        message(7, "eve", 60, order("o-4")),
        message(
            8,
            "ann",
            30,
            json!({ "msgType": "PICTURE", "body": "", "attach": { "url": "u" } }),
        ),
        json!({ "eventType": 7, "msgId": "6", "from": "carl", "to": "bob" }).to_string(),
        json!({ "eventType": 30, "fromAccount": "bob", "toAccount": "eve", "timestamp": AT + 60 })
            .to_string(),
        json!({ "eventType": 30, "fromAccount": "bob", "toAccount": "ann", "timestamp": AT + 10 })
            .to_string(),
    ];
    for body in bodies {
        app.deliver(body).await.expect_ok();
    }
}

async fn get(app: &TestApp, query: &str) -> Answer {
    let key = format!("Bearer {READ_KEY}");
    app.get(&format!("/v1/unread?{query}"), &[("Authorization", &key)])
        .await
}

/// However far `state` lags.
#[tokio::test]
async fn all_of_a_user_has_every_sender_and_order_with_unread_messages() {
    for delay in ["1h", "1ms"] {
        let app = TestApp::with(&format!("reconcile.delay = \"{delay}\"")).await;
        with_some_of_each(&app).await;
        let expected = concat!(
            r#"{"user":"Bob","peers":{"ann":2,"carl":1,"dora":1},"orders":{"o-2":1,"o-1":1},"#,
            r#""total":4,"total_of":"peers","newest":{"peers":["#,
            r#"{"peer":"ann","unread":2,"last_at":"2023-11-14T22:13:20.030Z","last_timestamp":1700000000030,"#,
            r#""last":{"id":"8","type":"PICTURE","from":"ann","text":""}},"#,
            r#"{"peer":"carl","unread":1,"last_at":"2023-11-14T22:13:20.015Z","last_timestamp":1700000000015,"#,
            r#""last":{"id":"3","type":"TEXT","from":"carl","text":"text 3"}},"#,
            r#"{"peer":"dora","unread":1,"last_at":"2023-11-14T22:13:20.005Z","last_timestamp":1700000000005,"#,
            r#""last":{"id":"4","type":"TEXT","from":"dora","text":"text 4"}}],"#,
            r#""orders":[{"order":"o-2","unread":1,"peers":{"ann":1},"#,
            r#""last_at":"2023-11-14T22:13:20.020Z","last_timestamp":1700000000020,"#,
            r#""last":{"id":"2","type":"TEXT","from":"ann","text":"text 2"}},"#,
            r#"{"order":"o-1","unread":1,"peers":{"carl":1},"#,
            r#""last_at":"2023-11-14T22:13:20.015Z","last_timestamp":1700000000015,"#,
            r#""last":{"id":"3","type":"TEXT","from":"carl","text":"text 3"}}]}}"#,
        );
        for answer in [
            app.ask(&json!({ "user": "Bob" })).await,
            app.ask(&json!({ "user": "Bob", "peers": null, "orders": null, "teams": null }))
                .await,
            get(&app, "user=Bob").await,
            get(&app, "user=Bob&app=otc&limit=100").await,
        ] {
            assert_eq!((answer.status, answer.text.as_str()), (200, expected));
        }
        app.end().await;
    }
}

/// The last times that a document may hold: the provider's number is told, and no other time in its place.
#[tokio::test]
async fn a_time_that_no_text_can_express_is_told_as_its_number_alone() {
    let app = TestApp::start().await;
    let last = 253_402_300_799_999_i64;
    let late = message(1, "ann", 0, json!({ "msgTimestamp": last }));
    app.deliver(late).await.expect_ok();
    let all = app.ask(&json!({ "user": "bob" })).await.json();
    let ann = &all["newest"]["peers"][0];
    assert_eq!(ann["last_timestamp"], last, "{all}");
    assert_eq!(ann.get("last_at"), None, "{all}");
    app.end().await;
}

#[tokio::test]
async fn who_has_read_all_has_an_empty_overview() {
    let app = TestApp::start().await;
    with_some_of_each(&app).await;
    let expected = r#"{"user":"nobody","peers":{},"orders":{},"total":0,"total_of":"peers","newest":{"peers":[],"orders":[]}}"#;
    let answer = app.ask(&json!({ "user": "nobody" })).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, expected));
    app.end().await;
}

/// Edits, texts that are long or no texts, and messages of the same time.
#[tokio::test]
async fn the_last_message_is_shown_as_it_is_now() {
    let app = TestApp::start().await;
    let long = "长".repeat(700);
    let bodies = [
        message(1, "ann", 1, json!({ "body": long })),
        message(2, "bea", 2, json!({})),
        message(3, "cid", 3, json!({ "msgType": "CUSTOM", "body": null })),
        message(4, "dan", 4, json!({})),
        message(5, "dan", 4, json!({})),
        json!({ "eventType": 89, "msgId": "2", "from": "bea", "to": "bob", "modifyTime": 9, "text": "changed" })
            .to_string(),
    ];
    for body in bodies {
        app.deliver(body).await.expect_ok();
    }
    let answer = app.ask(&json!({ "user": "bob" })).await.json();
    let last = |n: usize| &answer["newest"]["peers"][n]["last"];
    // Of two with the same time always the same one.
    assert_eq!(last(0)["id"], "5", "{answer}");
    assert_eq!(answer["newest"]["peers"][0]["unread"], 2);
    assert_eq!(
        *last(1),
        json!({ "id": "3", "type": "CUSTOM", "from": "cid" })
    );
    assert_eq!(last(2)["text"], "changed");
    let text = last(3)["text"].as_str().unwrap();
    assert_eq!((text.chars().count(), text.len()), (500, 1500));
    app.end().await;
}

/// An app's overview has nothing of another app's, and an app without orders has none.
#[tokio::test]
async fn an_overview_is_of_one_app_and_one_user() {
    let more = r#"
        [[apps]]
        name = "plain"
        provider = "netease"
        app_key = "test-app-key"
        app_secrets = ["current-secret"]
    "#;
    let app = TestApp::with(more).await;
    with_messages(&app).await;
    let ask =
        async |name: &str, user: &str| app.ask(&json!({ "app": name, "user": user })).await.text;
    let nothing = |user: &str| {
        format!(
            r#"{{"user":"{user}","peers":{{}},"total":0,"total_of":"peers","newest":{{"peers":[]}}}}"#
        )
    };
    assert_eq!(ask("plain", "bob").await, nothing("bob"));
    let of_ann: Value = serde_json::from_str(&ask("otc", "ann").await).unwrap();
    assert_eq!(
        (&of_ann["peers"], &of_ann["orders"], &of_ann["total"]),
        (&json!({ "bob": 1 }), &json!({ "o-1": 1 }), &json!(1))
    );
    // A cursor with a place among orders was made for another app.
    let page = app
        .ask(&json!({ "app": "otc", "user": "bob", "limit": 1 }))
        .await;
    let after = page.json()["next"].clone();
    let other = app
        .ask(&json!({ "app": "plain", "user": "bob", "after": after }))
        .await;
    assert_eq!(
        (other.status, other.code()),
        (422, "invalid_cursor".to_owned())
    );
    app.end().await;
}

/// Pages of any size, glued together, are the whole; each has the grand total.
#[tokio::test]
async fn pages_glued_together_are_all_of_it() {
    let app = TestApp::start().await;
    let mut messages = Vec::new();
    for peer in 0..23 {
        for n in 0..=peer % 3 {
            // Several at the same time, also the newest of several senders.
            let mut message = unread(
                n,
                "bob",
                &format!("p{peer:02}"),
                (peer as i64 % 5) * 7 + n as i64,
            );
            if peer % 4 > 0 {
                message.insert("orderId", format!("o{}", peer % 9));
            }
            messages.push(message);
        }
    }
    let total = messages.len();
    insert(&app, messages).await;
    let whole = app.ask(&json!({ "user": "bob" })).await.json();
    assert_eq!(whole["total"], total);
    assert!(whole.get("next").is_none());
    for limit in [1, 2, 7, 22, 23, 24] {
        let (mut peers, mut orders, mut pages) = (Vec::new(), Vec::new(), 0);
        let mut after = Value::Null;
        loop {
            let page = app
                .ask(&json!({ "user": "bob", "limit": limit, "after": after }))
                .await
                .json();
            assert_eq!(page["total"], total);
            let list = |name: &str| page["newest"][name].as_array().unwrap().clone();
            assert!(list("peers").len() <= limit && list("orders").len() <= limit);
            assert_eq!(
                page["peers"].as_object().unwrap().len(),
                list("peers").len()
            );
            peers.extend(list("peers"));
            orders.extend(list("orders"));
            pages += 1;
            assert!(pages <= 23, "limit {limit}");
            match page.get("next") {
                Some(next) => after = next.clone(),
                None => break,
            }
        }
        assert_eq!(pages, 23_usize.div_ceil(limit));
        assert_eq!(json!(peers), whole["newest"]["peers"], "limit {limit}");
        assert_eq!(json!(orders), whole["newest"]["orders"], "limit {limit}");
    }
    // A message that comes between two pages moves nothing on the later ones.
    let first = app.ask(&json!({ "user": "bob", "limit": 5 })).await.json();
    insert(&app, vec![unread(99, "bob", "p99", 1000)]).await;
    let second = app
        .ask(&json!({ "user": "bob", "limit": 5, "after": first["next"] }))
        .await
        .json();
    assert_eq!(
        second["newest"]["peers"].as_array().unwrap()[..],
        whole["newest"]["peers"].as_array().unwrap()[5..10]
    );
    assert_eq!(second["total"], total + 1);
    app.end().await;
}

/// A cursor is taken only as it was given.
#[tokio::test]
async fn a_cursor_that_was_changed_is_refused() {
    let app = TestApp::start().await;
    with_messages(&app).await;
    let page = app.ask(&json!({ "user": "bob", "limit": 1 })).await.json();
    let next = page["next"].as_str().unwrap();
    assert!(next.bytes().all(|b| b.is_ascii_alphanumeric()), "{next}");
    let spaced = hex::encode(b"[[1,\"a\"], null]");
    let wrong = [
        &next[..next.len() - 2],
        &format!("{next}00"),
        &next.to_uppercase(),
        &spaced,
        &hex::encode(b"[[\"1\",\"a\"],null]"),
        &hex::encode(b"[null]"),
        &hex::encode(b"{}"),
        "zz",
    ];
    for after in wrong {
        let answer = app.ask(&json!({ "user": "bob", "after": after })).await;
        assert_eq!(
            (answer.status, answer.code()),
            (422, "invalid_cursor".to_owned()),
            "{after}"
        );
        assert_eq!(answer.json()["path"], "after");
    }
    assert_eq!(
        app.ask(&json!({ "user": "bob", "after": next }))
            .await
            .status,
        200
    );
    app.end().await;
}

/// Counts that reach the cap are the cap, and so is the total, also on a page that has few of them.
#[tokio::test]
async fn counts_of_an_overview_end_at_the_cap() {
    let app = TestApp::start().await;
    let messages = (0..30).map(|n| {
        let mut message = unread(n, "bob", ["ann", "bea", "cid"][n % 3], n as i64);
        message.insert("orderId", ["x", "y"][n % 2]);
        message
    });
    insert(&app, messages.collect()).await;
    for (cap, total) in [
        (1, 1),
        (4, 4),
        (10, 10),
        (11, 11),
        (29, 29),
        (30, 30),
        (31, 30),
        (1000, 30),
    ] {
        for limit in [1, 100] {
            let question = json!({ "user": "bob", "cap": cap, "limit": limit });
            let answer = app.ask(&question).await.json();
            assert_eq!(answer["total"], total, "{question}");
            for peer in answer["newest"]["peers"].as_array().unwrap() {
                assert_eq!(peer["unread"], cap.min(10), "{question}");
            }
            for order in answer["newest"]["orders"].as_array().unwrap() {
                assert_eq!(order["unread"], cap.min(15), "{question}");
                let peers = order["peers"].as_object().unwrap();
                assert!(
                    peers.len() == 3 && peers.values().all(|n| *n == cap.min(5)),
                    "{question}"
                );
            }
        }
    }
    app.end().await;
}

/// Thousands of senders, among them some with very many messages: the total is that of all, within the usual time.
#[tokio::test]
async fn a_user_with_thousands_of_senders_has_a_right_total() {
    let app = TestApp::with("mongodb.query_timeout = \"10s\"").await;
    let mut messages = Vec::new();
    for peer in 0..5000 {
        messages.push(unread(0, "bob", &format!("p{peer:04}"), peer));
    }
    for n in 1..4000 {
        messages.push(unread(n, "bob", "p0007", n as i64));
    }
    let total = messages.len();
    for some in messages.chunks(3000) {
        insert(&app, some.to_vec()).await;
    }
    let read = json!({ "eventType": 30, "fromAccount": "bob", "toAccount": "p4999", "timestamp": AT + 4999 });
    app.deliver(read.to_string()).await.expect_ok();
    let answer = app
        .ask(&json!({ "user": "bob", "limit": 1000 }))
        .await
        .json();
    assert_eq!(answer["total"], total - 1);
    let peers = answer["newest"]["peers"].as_array().unwrap();
    assert_eq!((peers.len(), &peers[0]["peer"]), (1000, &json!("p4998")));
    let hot = peers.iter().find(|peer| peer["peer"] == "p0007").unwrap();
    assert_eq!(hot["unread"], 4000);
    app.end().await;
}

/// The bound is a clear answer, and lists can still be asked.
#[tokio::test]
async fn an_overview_of_too_many_senders_is_refused() {
    let app = TestApp::with("mongodb.query_timeout = \"10s\"").await;
    for first in (0..50_001).step_by(10_000) {
        let some = first..(first + 10_000).min(50_001);
        let messages = some.map(|peer| unread(0, "bob", &format!("p{peer}"), peer));
        insert(&app, messages.collect()).await;
    }
    let answer = app.ask(&json!({ "user": "bob" })).await;
    let problem = answer.json();
    assert_eq!(
        (answer.status, &problem["code"], &problem["path"]),
        (422, &json!("overview_too_large"), &json!("peers"))
    );
    let one = app.ask(&json!({ "user": "bob", "peers": ["p1"] })).await;
    assert_eq!(one.json()["total"], 1);
    let messages = app.database.collection::<Document>("messages");
    messages
        .delete_one(doc! { "fromAccount": "p1" })
        .await
        .unwrap();
    let answer = app.ask(&json!({ "user": "bob", "limit": 2 })).await;
    assert_eq!(answer.json()["total"], 50_000, "{answer:?}");
    app.end().await;
}

/// Acknowledged callbacks may wait in a spool, here in one of a lost instance.
#[tokio::test]
async fn an_overview_says_that_it_may_lack_callbacks() {
    let app = TestApp::start().await;
    with_messages(&app).await;
    let spools = app.database.collection::<Document>("spools");
    let lost = doc! { "_id": "lost", "host": "h", "path": "/p", "bytes": 5_i64 };
    spools.insert_one(lost).await.unwrap();
    for question in [
        json!({ "user": "bob" }),
        json!({ "user": "bob", "teams": ["1"] }),
    ] {
        let mut answer = Value::Null;
        for _ in 0..200 {
            answer = app.ask(&question).await.json();
            if answer["complete"] == false {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(answer["complete"], false, "{question}");
    }
    app.end().await;
}
