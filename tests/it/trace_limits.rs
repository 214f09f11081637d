//! What a trace does not do: show texts, scan, guess. And what it answers where there is nothing to tell.

use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::failpoints::{TURN, are_there, fail, off};
use crate::support::{TestApp, mongodb_uri};
use crate::trace::{SENT, ask, command, message, recall, receipt, the_message, told, verdict};

/// The text, the attachment and all other content of a message are in no answer.
#[tokio::test(flavor = "multi_thread")]
async fn no_content_of_a_message_is_shown() {
    let app = TestApp::start().await;
    let content = json!({
        "body": "hidden-1", "attach": { "url": "hidden-2" }, "fromNick": "hidden-3",
        "ext": { "orderId": "o1", "note": "hidden-4" }, "pushContent": "hidden-5", "state": "hidden-6",
    });
    app.deliver(message("1", content)).await.expect_ok();
    let edit = json!({ "eventType": 89, "msgId": "1", "to": "bob", "modifyTime": SENT, "text": "hidden-7",
                       "ext": "hidden-8" });
    app.deliver(edit.to_string()).await.expect_ok();
    let recall = json!({ "eventType": 7, "msgId": "1", "from": "ann", "to": "bob", "deleteTime": SENT,
                         "attach": "hidden-9" });
    app.deliver(recall.to_string()).await.expect_ok();
    let stored = app.document("messages", "otc/p2p/1").await.to_string();
    assert!(
        (1..10).all(|n| stored.contains(&format!("hidden-{n}"))),
        "{stored}"
    );
    let by_id = ask(&app, "id=1").await;
    let by_client = ask(&app, "clientId=client-1&from=ann&to=bob").await;
    assert_eq!((by_id.status, by_client.status), (200, 200));
    for args in [&["1"][..], &["1", "--json"]] {
        let output = command(&app, "", args);
        let told = told(&output);
        assert!(told.contains("otc/p2p/1"), "{told}");
        assert!(!told.contains("hidden"), "{told}");
    }
    for answer in [by_id, by_client] {
        assert!(!answer.text.contains("hidden"), "{answer:?}");
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_message_is_answered_with_what_may_have_become_of_it() {
    let app = TestApp::start().await;
    let absent = ask(&app, "id=1").await;
    assert_eq!((absent.status, &*absent.code()), (404, "unknown_message"));
    for way in ["callback rejected", "another app"] {
        assert!(absent.text.contains(way), "{absent:?}");
    }
    for way in ["dead letter", "spool", "conversation", "retention"] {
        assert!(!absent.text.contains(way), "{absent:?}");
    }
    let output = command(&app, "", &["1"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told_absent = String::from_utf8(output.stderr).unwrap();
    assert!(
        told_absent.starts_with("error: no such message is stored; perhaps:\n  - "),
        "{told_absent}"
    );
    assert!(!told_absent.contains("retention"), "{told_absent}");

    app.deliver("not JSON").await.expect_ok();
    app.deliver(message("2", json!({}))).await.expect_ok();
    let spools = app.database.collection::<Document>("spools");
    let lost = doc! { "_id": "lost", "host": "far-away", "path": "/p", "bytes": 5_i64 };
    spools.insert_one(lost).await.unwrap();
    // What is known of other spools may be as old as their lease.
    let mut absent = ask(&app, "id=1").await;
    for _ in 0..100 {
        if absent.text.contains("in a spool") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        absent = ask(&app, "id=1").await;
    }
    for way in [
        "it is the one dead letter",
        "its callback waits in a spool; 1 may hold",
    ] {
        assert!(absent.text.contains(way), "{absent:?}");
    }
    let there = ask(&app, "id=2").await.json();
    assert_eq!(there["complete"], json!(false));
    assert_eq!(
        there["spools"],
        json!([{ "id": "lost", "host": "far-away", "bytes": 5 }])
    );
    assert_eq!(there["deadLetters"], json!({ "count": 1, "isExact": true }));
    let output = command(&app, "", &["2"]);
    let told = told(&output);
    assert!(told.contains("This may not be complete"), "{told}");
    assert!(
        told.contains("The app has 1 dead letter, which cannot be searched"),
        "{told}"
    );
    spools.delete_one(doc! { "_id": "lost" }).await.unwrap();
    app.end().await;
}

/// A message is said to be deleted by a retention only where one is configured.
#[tokio::test(flavor = "multi_thread")]
async fn a_retention_is_a_way_to_be_absent() {
    let retention = "retention.messages = \"730d\"";
    let app = TestApp::with(retention).await;
    let absent = ask(&app, "id=1").await;
    assert_eq!(absent.status, 404);
    let way = "it was deleted by `retention.messages`";
    assert!(absent.text.contains(way), "{absent:?}");
    let output = command(&app, "", &["1"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains(way));
    let output = command(&app, "\n[retention]\nmessages = \"730d\"\n", &["1"]);
    let told_absent = String::from_utf8_lossy(&output.stderr);
    assert!(told_absent.contains(way), "{told_absent}");
    app.end().await;
}

/// However much is stored, a trace reads little of it, and every query has an index.
#[tokio::test(flavor = "multi_thread")]
async fn a_trace_reads_little_whatever_is_stored() {
    let app = TestApp::start().await;
    app.deliver(message("1", json!({}))).await.expect_ok();
    app.deliver(recall("1", SENT)).await.expect_ok();
    const MANY: i64 = 6000;
    let fill = async |collection: &str, document: &dyn Fn(i64) -> Document| {
        let many = app.database.collection::<Document>(collection);
        many.insert_many((0..MANY).map(document)).await.unwrap();
    };
    fill("messages", &|n| doc! {
        "_id": format!("otc/p2p/m{n}"), "app": "otc", "to": "bob", "fromAccount": "ann", "state": 1,
        "msgTimestamp": SENT - n, "conversation": "p2p/ann/bob", "msgidClient": format!("many-{n}"),
    })
    .await;
    fill("events", &|n| doc! {
        "_id": format!("otc/30/bob/ann/{}//", SENT - MANY / 2 + n), "app": "otc", "kind": "p2p_receipt",
    })
    .await;
    fill(
        "events",
        &|n| doc! { "_id": format!("otc/89/1/{n}"), "app": "otc", "kind": "message_update" },
    )
    .await;
    fill(
        "dead_letters",
        &|n| doc! { "_id": format!("otc/{n}"), "app": "otc" },
    )
    .await;
    fill("read_marks", &|n| doc! {
        "_id": { "app": "otc", "reader": "bob", "peer": format!("p{n}") }, "app": "otc", "reader": "bob",
        "peer": format!("p{n}"), "readUpTo": SENT,
    })
    .await;
    app.database
        .run_command(doc! { "profile": 2 })
        .await
        .unwrap();
    let by_id = ask(&app, "id=1&reader=bob").await;
    let traced = &by_id.json()["messages"][0];
    assert_eq!(traced["receipts"]["more"], true, "{traced}");
    assert_eq!(traced["receipts"]["found"].as_array().unwrap().len(), 20);
    assert_eq!(traced["receipts"]["found"][0]["readUpTo"], traced["sentAt"]);
    assert_eq!(traced["records"].as_array().unwrap().len(), 20);
    assert_eq!(
        by_id.json()["deadLetters"],
        json!({ "count": 1000, "isExact": false })
    );
    // The oldest that is looked at, and the next older one.
    for (client, status) in [("many-4998", 200), ("many-4999", 404)] {
        let query = format!("clientId={client}&from=ann&to=bob");
        assert_eq!(ask(&app, &query).await.status, status, "{client}");
    }
    app.database
        .run_command(doc! { "profile": 0 })
        .await
        .unwrap();
    let profiled = app
        .documents(
            "system.profile",
            doc! { "op": { "$in": ["query", "command"] } },
        )
        .await;
    let mut seen = Vec::new();
    for query in profiled {
        let namespace = query.get_str("ns").unwrap();
        let Some((_, collection)) = namespace.split_once('.') else {
            continue;
        };
        if !["messages", "events", "read_marks", "dead_letters"].contains(&collection) {
            continue;
        }
        let examined = |name: &str| query.get_i32(name).unwrap_or_default();
        let (keys, documents) = (examined("keysExamined"), examined("docsExamined"));
        let plan = query.get_str("planSummary").unwrap_or_default();
        assert!(
            plan.contains("IXSCAN") || plan.contains("IDHACK"),
            "{query}"
        );
        let (most_keys, most_documents) = match (collection, query.get_str("op").unwrap()) {
            ("messages", "command") => (5020, 5000),
            ("dead_letters", _) => (1010, 1010),
            _ => (50, 30),
        };
        assert!(keys <= most_keys && documents <= most_documents, "{query}");
        seen.push(collection.to_owned());
    }
    for (collection, least) in [
        ("messages", 3),
        ("events", 5),
        ("read_marks", 1),
        ("dead_letters", 3),
    ] {
        let times = seen.iter().filter(|name| **name == collection).count();
        assert!(times >= least, "{collection}: {seen:?}");
    }
    app.end().await;
}

/// During an outage what can be read is told, with the word that it may not be all.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_part_of_the_answer() {
    let _turn = TURN.lock().await;
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    if !are_there(&client).await {
        return;
    }
    let separator = if mongodb_uri().contains('?') {
        "&"
    } else {
        "/?"
    };
    let uri = format!("{}{separator}appName=traced", mongodb_uri());
    let app = TestApp::connected(&uri, "").await;
    app.deliver(message("1", json!({}))).await.expect_ok();
    assert_eq!(ask(&app, "id=1").await.json()["outage"], json!(false));
    let unconfirmed = doc! {
        "failCommands": ["insert", "update"],
        "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" },
    };
    fail(&client, "traced", "alwaysOn", unconfirmed).await;
    app.deliver(message("2", json!({}))).await.expect_ok();
    app.deliver(receipt("bob", "ann", SENT)).await.expect_ok();
    let answer = ask(&app, "id=1").await.json();
    assert_eq!(
        (&answer["outage"], &answer["complete"]),
        (&json!(true), &json!(false))
    );
    let absent = ask(&app, "id=3").await;
    assert!(
        absent.text.contains("MongoDB does not confirm writes now"),
        "{absent:?}"
    );
    off(&client).await;
    app.until_drained().await;
    let read = the_message(&app, "id=1").await;
    assert_eq!(verdict(&read).1, "read");
    app.end().await;
}
