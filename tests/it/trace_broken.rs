//! What a trace says of documents that somebody changed, or that a restore broke.

use im_callback::store::reconcile::ReconcileScope;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::support::TestApp;
use crate::trace::{SENT, ask, command, message, recall, receipt, the_message, told, verdict};

/// A `state` that somebody changed decides the count, and the verdict says so and what to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_disagrees_is_named_and_decides() {
    let app = TestApp::with("reconcile.delay = \"1h\"").await;
    let tips = |id: &str| {
        message(
            id,
            json!({ "msgType": "TIPS", "fromAccount": format!("peer{id}") }),
        )
    };
    let text = |id: &str| message(id, json!({ "fromAccount": format!("peer{id}") }));
    for body in [
        text("1"),
        text("2"),
        text("3"),
        text("4"),
        tips("5"),
        text("6"),
    ] {
        app.deliver(body).await.expect_ok();
    }
    app.deliver(recall("2", SENT)).await.expect_ok();
    app.deliver(receipt("bob", "peer3", SENT)).await.expect_ok();
    let set = async |id: &str, update: Document| {
        let messages = app.database.collection::<Document>("messages");
        let filter = doc! { "_id": format!("otc/p2p/{id}") };
        assert_eq!(
            messages
                .update_one(filter, update)
                .await
                .unwrap()
                .matched_count,
            1
        );
    };
    set("1", doc! { "$set": { "state": 1 } }).await;
    set("2", doc! { "$set": { "state": 0 } }).await;
    set("4", doc! { "$unset": { "state": 1 } }).await;
    set("5", doc! { "$set": { "state": 0 } }).await;
    set("6", doc! { "$set": { "provider": "wildfire" } }).await;
    let expected = [
        (
            "1",
            (false, "unread", "disagrees"),
            "because of its `state`, although bob has no read mark for peer1",
        ),
        (
            "2",
            (true, "recalled", "disagrees"),
            "because of its `state`, although it is recalled",
        ),
        (
            "3",
            (false, "read", "behind"),
            "does not count as unread: bob has read what peer3 sent up to 2023-11-14T22:13:20Z",
        ),
        (
            "4",
            (false, "unread", "missing"),
            "because of its `state`, although bob has no read mark",
        ),
        (
            "5",
            (true, "tips", "left_over"),
            "although messages of the type TIPS do not count",
        ),
        (
            "6",
            (true, "unread", "agrees"),
            "counts as unread: bob has no read mark",
        ),
    ];
    for (id, verdict_is, says) in expected {
        let traced = the_message(&app, &format!("id={id}")).await;
        assert_eq!(verdict(&traced), verdict_is, "{traced}");
        assert!(
            traced["verdict"]["text"].as_str().unwrap().contains(says),
            "{traced}"
        );
        let asked = json!({ "user": "bob", "peers": [format!("peer{id}")] });
        let counted = app.ask(&asked).await.json()["total"] == 1;
        assert_eq!(counted, verdict_is.0, "{id}");
    }
    set("6", doc! { "$unset": { "state": 1 } }).await;
    let other = the_message(&app, "id=6").await;
    assert_eq!(
        verdict(&other),
        (false, "other_provider", "agrees"),
        "{other}"
    );
    app.end().await;
}

/// What no command repairs is not said to be repaired.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_without_a_message_is_told_apart() {
    let app = TestApp::start().await;
    app.deliver(recall("1", SENT)).await.expect_ok();
    let messages = app.database.collection::<Document>("messages");
    let set = doc! { "$set": { "state": 0 } };
    let changed = messages.update_one(doc! { "_id": "otc/p2p/1" }, set).await;
    assert_eq!(changed.unwrap().modified_count, 1);
    let store = crate::reconcile::store(&app).await;
    let report = crate::reconcile::run(&store, ReconcileScope::All).await;
    store.close().await;
    assert_eq!(crate::reconcile::found(report), (0, 0, 0));
    let traced = the_message(&app, "id=1").await;
    assert_eq!(verdict(&traced), (false, "not_received", "unexpected"));
    let says = traced["state"]["text"].as_str().unwrap();
    assert!(
        says.contains("no command removes it") && !says.contains("reconcile"),
        "{says}"
    );
    app.end().await;
}

/// A document that somebody broke is named, and hides nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn documents_that_somebody_broke_are_answered() {
    let app = TestApp::start().await;
    let messages = app.database.collection::<Document>("messages");
    let odd = [
        doc! { "_id": "otc/p2p/1", "app": "otc", "to": "bob" },
        doc! { "_id": "otc/p2p/2", "app": "otc", "to": "bob", "recall": "x", "edits": 5, "msgTimestamp": "x",
        "state": "x", "receivedAt": 5, "provider": 5 },
        doc! { "_id": "otc/p2p/3", "app": "otc", "to": "bob", "msgTimestamp": i64::MAX, "state": 0.0,
        "fromAccount": "a\u{1b}[31m", "edits": [1, { "at": 1 }] },
        doc! { "_id": "otc/p2p/4", "app": "otc", "body": "hidden" },
    ];
    messages.insert_many(odd).await.unwrap();
    for id in ["1", "2", "3"] {
        let answer = ask(&app, &format!("id={id}")).await.json();
        assert_eq!(answer["messages"].as_array().unwrap().len(), 1, "{answer}");
        assert_eq!(answer["unreadable"], json!([]));
    }
    let broken = json!([{ "collection": "messages", "id": "otc/p2p/4" }]);
    let alone = ask(&app, "id=4").await;
    assert_eq!(alone.status, 200, "{alone:?}");
    assert!(!alone.text.contains("hidden"), "{alone:?}");
    assert_eq!(alone.json()["messages"], json!([]));
    assert_eq!(alone.json()["unreadable"], broken);
    app.deliver(message("4", json!({ "convType": "TEAM", "to": "77" })))
        .await
        .expect_ok();
    let both = ask(&app, "id=4").await.json();
    assert_eq!(both["messages"][0]["id"], "otc/team/4", "{both}");
    assert_eq!(both["unreadable"], broken);
    let output = command(&app, "", &["4"]);
    assert!(
        told(&output).contains("\notc/p2p/4 in `messages` cannot be read: "),
        "{output:?}"
    );
    // Neither is there a verdict without the mark that decides it.
    app.deliver(message("5", json!({ "fromAccount": "carl" })))
        .await
        .expect_ok();
    let mark = doc! { "app": "otc", "reader": "bob", "peer": "carl" };
    let marks = app.database.collection::<Document>("read_marks");
    let mut unreadable = doc! { "_id": mark.clone() };
    unreadable.extend(mark);
    marks.insert_one(unreadable).await.unwrap();
    let undecided = ask(&app, "id=5").await.json();
    assert_eq!(undecided["messages"], json!([]));
    let id = r#"{ "app": "otc", "reader": "bob", "peer": "carl" }"#;
    assert_eq!(
        undecided["unreadable"],
        json!([{ "collection": "read_marks", "id": id }])
    );
    let output = command(&app, "", &["3"]);
    assert!(!told(&output).contains('\u{1b}'), "{output:?}");
    let _: Value = serde_json::from_str(told(&command(&app, "", &["3", "--json"]))).unwrap();
    app.end().await;
}
