//! Unread queries read only indexes, and none without them.

use im_callback::callback::ids::AppName;
use im_callback::store::UnreadBy;
use im_callback::store::marks::marks_between;
use mongodb::bson::{Bson, Document, doc};
use serde_json::json;

use crate::support::TestApp;
use crate::unread::with_messages;

/// A count reads only index keys of unread messages and of read marks, no documents, and needs no sort.
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

/// A conversation is read in both directions of time from its index, without a sort and without other documents.
#[tokio::test]
async fn a_conversation_is_read_by_its_index() {
    let app = TestApp::start().await;
    with_messages(&app).await;
    let all = app.documents("messages", doc! {}).await;
    let of_bob = doc! { "app": "otc", "conversation": "p2p/ann/bob" };
    let theirs = app.documents("messages", of_bob.clone()).await;
    assert!(theirs.len() < all.len() && theirs.len() > 1);
    let mut filter = of_bob;
    filter.insert("msgTimestamp", doc! { "$lt": i64::MAX });
    for order in [1, -1] {
        let command = doc! {
            "find": "messages", "filter": &filter, "sort": { "msgTimestamp": order, "_id": order },
        };
        let explain = doc! { "explain": command, "verbosity": "executionStats" };
        let plan = app.database.run_command(explain).await.unwrap();
        let stages = stages(&plan);
        for wrong in ["COLLSCAN", "SORT"] {
            assert!(!stages.contains(&wrong.to_owned()), "{stages:?} in {plan}");
        }
        let stats = find(&plan, "executionStats").unwrap();
        let examined = stats.as_document().unwrap().get_i32("totalDocsExamined");
        assert_eq!(examined.unwrap() as usize, theirs.len(), "{plan}");
    }
    app.end().await;
}

/// The stages of a plan, by name.
pub fn stages(plan: &Document) -> Vec<String> {
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

/// The first value of this name in a plan.
pub fn find<'p>(plan: &'p Document, wanted: &str) -> Option<&'p Bson> {
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

/// Without its indexes a count would be a scan, so it is refused, and `/readyz` reports it.
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
    // Callbacks need no index, so a load balancer may still send them.
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
