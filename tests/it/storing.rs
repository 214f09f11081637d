//! What is stored, beyond the samples: facts that arrive before their message, conflicts, odd names.

use mongodb::bson::{Bson, Document, doc};
use serde_json::{Value, json};

use crate::support::TestApp;

fn message(id: &str) -> Value {
    json!({
        "eventType": "1", "convType": "PERSON", "to": "Bob", "fromAccount": "ANN", "msgType": "TEXT",
        "body": "first", "msgTimestamp": 1_700_000_000_000_i64, "msgidServer": id,
    })
}

fn recall(id: &str, at: i64) -> Value {
    json!({ "eventType": 7, "msgId": id, "from": "Ann", "to": "BOB", "deleteTime": at, "selfMsg": "$body" })
}

fn edit(id: &str, at: i64, text: &str) -> Value {
    json!({ "eventType": 89, "msgId": id, "from": "ann", "to": "bob", "modifyTime": at, "text": text })
}

/// All orders of some callbacks, each twice, end in the same documents.
async fn same_in_every_order(app: &TestApp, callbacks: &[Value]) -> Value {
    let mut first = None;
    for order in orders(callbacks.len()) {
        for _redelivery in 0..2 {
            for n in &order {
                app.deliver(callbacks[*n].to_string()).await.expect_ok();
            }
        }
        let dump = json!(app.dump().await);
        let first = first.get_or_insert(dump.clone());
        assert_eq!(dump, *first, "order {order:?}");
        app.empty().await;
    }
    first.unwrap()
}

fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in orders(n - 1) {
        for at in 0..n {
            let mut order = shorter.clone();
            order.insert(at, n - 1);
            all.push(order);
        }
    }
    all
}

#[tokio::test]
async fn recalls_and_edits_may_come_in_any_order_and_before_their_message() {
    let app = TestApp::start().await;
    let callbacks = [
        message("1"),
        edit("1", 1_700_000_000_010, "second"),
        edit("1", 1_700_000_000_020, "third"),
        recall("1", 1_700_000_000_030),
        json!({ "eventType": 85, "accid": "bob", "ackAccid": "ann", "ackMsgTime": 1_700_000_000_025_i64 }),
    ];
    let dump = same_in_every_order(&app, &callbacks).await;
    insta::assert_json_snapshot!(dump);
    app.end().await;
}

#[tokio::test]
async fn an_edit_without_text_leaves_the_text() {
    let app = TestApp::start().await;
    let mut attachment = edit("1", 1_700_000_000_030, "");
    attachment.as_object_mut().unwrap().remove("text");
    attachment["attachment"] = json!("{\"url\":\"x\"}");
    let callbacks = [
        message("1"),
        edit("1", 1_700_000_000_010, "second"),
        attachment,
    ];
    let dump = same_in_every_order(&app, &callbacks).await;
    assert_eq!(dump["messages"][0]["body"], "second");
    assert_eq!(dump["messages"][0]["originalBody"], "first");
    assert_eq!(dump["messages"][0]["edits"].as_array().unwrap().len(), 2);
    app.end().await;
}

/// Some senders send `null` for an unchanged text; it must not become a text.
#[tokio::test]
async fn an_edit_whose_text_is_no_text_leaves_the_text() {
    let app = TestApp::start().await;
    for no_text in [json!({ "rich": "x" }), json!(["x"]), json!(null)] {
        let mut changed = edit("1", 1_700_000_000_030, "");
        changed["text"] = no_text.clone();
        let callbacks = [message("1"), changed.clone()];
        let dump = same_in_every_order(&app, &callbacks).await;
        let stored = &dump["messages"][0];
        assert_eq!(stored["body"], "first", "{no_text}");
        assert_eq!(stored["edits"][0]["text"], no_text);

        let callbacks = [
            message("1"),
            edit("1", 1_700_000_000_010, "second"),
            changed,
        ];
        let dump = same_in_every_order(&app, &callbacks).await;
        let stored = &dump["messages"][0];
        assert_eq!(stored["body"], "second", "{no_text}");
        assert_eq!(stored["originalBody"], "first", "{no_text}");
        assert_eq!(stored["edits"][1]["text"], no_text);
    }
    let mut number = edit("1", 1_700_000_000_030, "");
    number["text"] = json!(5);
    let dump = same_in_every_order(&app, &[message("1"), number]).await;
    assert_eq!(dump["messages"][0]["body"], "5");
    app.end().await;
}

#[tokio::test]
async fn a_recall_alone_is_no_unread_message() {
    let app = TestApp::start().await;
    app.deliver(recall("1", 1_700_000_000_030).to_string())
        .await
        .expect_ok();
    let tombstone = app.document("messages", "otc/p2p/1").await;
    assert!(!tombstone.contains_key("state") && !tombstone.contains_key("receivedAt"));
    let answer = app
        .ask(&json!({ "user": "bob", "peers": ["ann"] }))
        .await
        .json();
    assert_eq!(
        answer,
        json!({ "user": "bob", "peers": { "ann": 0 }, "total": 0, "total_of": "peers" })
    );
    app.end().await;
}

/// `{app, to}` routes a message, so a recall that names another receiver cannot be merged. Whichever of
/// the two comes last is kept as a dead letter.
#[tokio::test]
async fn what_contradicts_what_is_stored_becomes_a_dead_letter() {
    let app = TestApp::start().await;
    let mut contradicting = recall("1", 1_700_000_000_030);
    contradicting["to"] = json!("somebody-else");
    for [first, last] in [
        [&message("1"), &contradicting],
        [&contradicting, &message("1")],
    ] {
        app.deliver(first.to_string()).await.expect_ok();
        app.deliver(last.to_string()).await.expect_ok();
        let stored = app.document("messages", "otc/p2p/1").await;
        assert_eq!(stored.contains_key("recall"), first == &contradicting);
        let dead_letter = &app.documents("dead_letters", doc! {}).await[0];
        assert_eq!(dead_letter.get_str("code").ok(), Some("store_refused"));
        assert_eq!(
            dead_letter.get_str("body").ok(),
            Some(last.to_string().as_str())
        );
        app.empty().await;
    }
    app.end().await;
}

/// MongoDB refuses one document of a batch: it becomes a dead letter and the others are stored.
#[tokio::test(flavor = "multi_thread")]
async fn one_document_that_mongodb_refuses_does_not_fail_its_neighbours() {
    let app = TestApp::start().await;
    let refuses_poison = doc! {
        "collMod": "messages",
        "validator": { "fromNick": { "$ne": "poison" } },
        "validationLevel": "strict",
    };
    app.database.run_command(refuses_poison).await.unwrap();
    let sent = (0..40).map(|n| {
        let mut body = message(&n.to_string());
        if n % 8 == 0 {
            body["fromNick"] = json!("poison");
        }
        let app = &app;
        async move { app.deliver(body.to_string()).await.expect_ok() }
    });
    futures_util::future::join_all(sent).await;
    assert_eq!(app.documents("messages", doc! {}).await.len(), 35);
    assert_eq!(
        app.documents("dead_letters", doc! { "code": "store_refused" })
            .await
            .len(),
        5
    );
    app.end().await;
}

/// A provider's field with one of our names is neither lost nor mistaken for ours.
#[tokio::test]
async fn fields_with_our_names_and_with_odd_names_are_kept_apart() {
    let app = TestApp::start().await;
    let mut odd = message("1");
    for name in [
        "_id",
        "app",
        "state",
        "recall",
        "readAt",
        "receivedAt",
        "orderId",
        "edits",
        "extra",
    ] {
        odd[name] = json!(format!("provider's {name}"));
    }
    odd["$set"] = json!({ "$where": 1, "a.b": 2, "": 3 });
    odd["a.b"] = json!("$fromAccount");
    odd["nul\0key"] = json!(1);
    let dump = same_in_every_order(&app, &[odd, recall("1", 1_700_000_000_030)]).await;
    insta::assert_json_snapshot!(dump["messages"]);
    app.end().await;
}

#[tokio::test]
async fn presence_is_the_newest_events_whatever_the_order() {
    let app = TestApp::start().await;
    let event = |kind: i32, at: i64| json!({ "eventType": kind, "accid": "Ann", "clientType": 2, "deviceId": "d1", "timestamp": at });
    let callbacks = [event(2, 100), event(3, 200), event(2, 300), event(3, 300)];
    let dump = same_in_every_order(&app, &callbacks).await;
    insta::assert_json_snapshot!(dump["presence"]);
    let mut refused = event(2, 400);
    refused["code"] = json!("302");
    app.deliver(refused.to_string()).await.expect_ok();
    assert!(
        !app.dump().await.contains_key("presence"),
        "a refused login brings nobody online"
    );
    app.end().await;
}

#[tokio::test]
async fn a_team_read_mark_rises_and_never_falls() {
    let app = TestApp::start().await;
    let read = |at: i64| json!({ "eventType": "85", "msgType": "1", "accid": "Ann", "ackTeamId": 77, "ackMsgTime": at });
    let dump = same_in_every_order(&app, &[read(100), read(300), read(200)]).await;
    let mark = &dump["read_marks"][0];
    assert_eq!(
        mark["_id"],
        json!({ "app": "otc", "reader": "ann", "team": "77" })
    );
    assert_eq!(mark["readUpTo"], json!({ "$numberLong": "300" }));
    app.end().await;
}

/// The same number in different families is different messages.
#[tokio::test]
async fn ids_are_unique_within_their_class_only() {
    let app = TestApp::start().await;
    for class in [
        "PERSON",
        "TEAM",
        "SUPER_TEAM",
        "CUSTOM_PERSON",
        "CUSTOM_TEAM",
    ] {
        let mut body = message("1");
        body["convType"] = json!(class);
        app.deliver(body.to_string()).await.expect_ok();
    }
    let stored = app.documents("messages", doc! {}).await;
    let ids: Vec<_> = stored.iter().map(|m| m.get_str("_id").unwrap()).collect();
    assert_eq!(
        ids,
        [
            "otc/custom_person/1",
            "otc/custom_team/1",
            "otc/p2p/1",
            "otc/super_team/1",
            "otc/team/1"
        ]
    );
    let counting: Vec<_> = stored.iter().filter(|m| m.contains_key("state")).collect();
    assert_eq!(counting.len(), 1);
    for (kind, class) in [(8, "team"), (25, "super_team")] {
        let mut back = recall("1", 1_700_000_000_030);
        back["eventType"] = json!(kind);
        back["to"] = json!("Bob");
        app.deliver(back.to_string()).await.expect_ok();
        assert!(
            app.document("messages", &format!("otc/{class}/1"))
                .await
                .contains_key("recall")
        );
    }
    assert!(
        !app.document("messages", "otc/p2p/1")
            .await
            .contains_key("recall")
    );
    app.end().await;
}

/// Otherwise messages would be read without a mark.
#[tokio::test]
async fn a_receipt_whose_mark_is_refused_marks_nothing_as_read() {
    let app = TestApp::start().await;
    app.deliver(message("1").to_string()).await.expect_ok();
    let refusing = doc! { "collMod": "read_marks", "validator": { "readUpTo": { "$lt": 0 } } };
    app.database.run_command(refusing).await.unwrap();
    let receipt = json!({
        "eventType": 30, "fromAccount": "bob", "toAccount": "ann", "timestamp": 1_700_000_000_000_i64,
    });
    app.deliver(receipt.to_string()).await.expect_ok();
    let dead_letters = app.documents("dead_letters", doc! {}).await;
    assert_eq!(dead_letters[0].get_str("code").ok(), Some("store_refused"));
    app.until_followed().await;
    let stored = app.document("messages", "otc/p2p/1").await;
    assert_eq!(stored.get_i32("state").ok(), Some(0));
    app.end().await;
}

/// A duplicate key is a redelivery only if it is the `_id`: an analyst's index may be unique, too.
#[tokio::test]
async fn a_key_of_anothers_index_that_is_taken_is_no_redelivery() {
    let app = TestApp::start().await;
    let unique = |collection: &str, key: &str| {
        let index = doc! { "key": { key: 1 }, "name": "unique", "unique": true, "sparse": true };
        let command = doc! { "createIndexes": collection, "indexes": [index] };
        let database = app.database.clone();
        async move { database.run_command(command).await.unwrap() }
    };
    unique("messages", "msgidClient").await;
    unique("events", "payload.once").await;
    let with = |mut body: Value, name: &str| {
        body[name] = json!("taken");
        body.to_string()
    };
    for id in ["1", "2"] {
        let body = with(message(id), "msgidClient");
        for _redelivery in 0..2 {
            app.deliver(body.as_str()).await.expect_ok();
        }
        let event = with(json!({ "eventType": 36, "n": id }), "once");
        app.deliver(event).await.expect_ok();
    }
    assert_eq!(app.documents("messages", doc! {}).await.len(), 1);
    assert_eq!(app.documents("events", doc! {}).await.len(), 1);
    let refused = doc! { "code": "store_refused", "reason": { "$regex": "11000" } };
    assert_eq!(app.documents("dead_letters", refused).await.len(), 2);
    app.end().await;
}

#[tokio::test]
async fn a_message_that_is_read_becomes_so_whenever_it_comes() {
    let app = TestApp::start().await;
    let receipt = |at: i64| json!({ "eventType": 30, "fromAccount": "bob", "toAccount": "ann", "timestamp": at });
    let state = async |id: &str| {
        app.until_followed().await;
        let stored = app.document("messages", &format!("otc/p2p/{id}")).await;
        stored.get_i32("state").unwrap()
    };
    app.deliver(receipt(1_700_000_000_000).to_string())
        .await
        .expect_ok();
    app.until_followed().await;
    // Late: its mark was applied before it came.
    app.deliver(message("1").to_string()).await.expect_ok();
    assert_eq!(state("1").await, 1);
    // Of now, so its mark is not looked up, and read a little later.
    let mut fresh = message("2");
    let now = bson::DateTime::now().timestamp_millis();
    fresh["msgTimestamp"] = json!(now);
    app.deliver(fresh.to_string()).await.expect_ok();
    assert_eq!(state("2").await, 0);
    app.deliver(receipt(now).to_string()).await.expect_ok();
    assert_eq!(state("2").await, 1);
    app.end().await;
}

#[tokio::test]
async fn read_at_is_the_time_of_the_mark_that_was_found() {
    let app = TestApp::start().await;
    app.deliver(message("1").to_string()).await.expect_ok();
    let receipt = json!({
        "eventType": 30, "fromAccount": "BOB", "toAccount": "Ann", "timestamp": 1_700_000_000_000_i64,
    });
    app.deliver(receipt.to_string()).await.expect_ok();
    app.until_followed().await;
    let stored = app.document("messages", "otc/p2p/1").await;
    assert_eq!(stored.get_i32("state").ok(), Some(1));
    assert_eq!(stored.get("readAt"), stored.get("sentAt"));
    assert!(matches!(
        stored.get("msgTimestamp"),
        Some(Bson::Int64(1_700_000_000_000))
    ));
    app.end().await;
}

/// MongoDB's own 10 MB in a collection and 5 MB in an index would hold up every commit while one is split.
pub async fn expect_small_pages(app: &TestApp) {
    for name in ["messages", "events", "read_marks", "presence"] {
        let stats = app.database.run_command(doc! { "collStats": name }).await;
        let stats = stats.unwrap();
        let made_with = |of: &Document| {
            let how = of.get_str("creationString").unwrap();
            let mut page = how.split(',').filter(|s| s.starts_with("memory_page_max="));
            page.next().unwrap().to_owned()
        };
        let indexes = stats.get_document("indexDetails").unwrap();
        let ours = ["unread_by_peer", "unread_by_order"];
        assert!(name != "messages" || ours.iter().all(|index| indexes.contains_key(index)));
        let parts = indexes.values().map(|index| index.as_document().unwrap());
        for part in parts.chain([stats.get_document("wiredTiger").unwrap()]) {
            assert_eq!(made_with(part), "memory_page_max=1MB", "{name}");
        }
    }
}
