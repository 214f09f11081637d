//! Unread queries read only indexes, and none without them.

use im_callback::callback::ids::{Account, AppName};
use im_callback::store::marks::marks_between;
use im_callback::store::{
    NewestUnread, UnreadBy, last_messages, newest_of, team_joins, team_messages,
};
use mongodb::bson::{Bson, Document, doc};
use serde_json::{Value, json};

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
    for n in 0..5_i64 {
        let text = json!({
            "eventType": 1, "convType": "TEAM", "to": "77", "fromAccount": if n == 2 { "bob" } else { "ann" },
            "msgType": "TEXT", "msgTimestamp": 1_700_000_000_000 + n, "msgidServer": format!("t{n}"), "body": "x",
        });
        app.deliver(text.to_string()).await.expect_ok();
    }
    let joined = json!({
        "eventType": 1, "convType": "TEAM", "to": "77", "fromAccount": "ann", "msgType": "NOTIFICATION",
        "msgTimestamp": 1, "msgidServer": "t9", "attach": { "id": 0, "data": { "ids": ["bob", "carl"] } },
    });
    app.deliver(joined.to_string()).await.expect_ok();
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
    let bob = Account::new("bob");
    let aggregate = |pipeline: Vec<Document>, hint: &str| {
        doc! { "aggregate": "messages", "pipeline": pipeline, "hint": hint, "cursor": {} }
    };
    let count =
        |team: &str, since| aggregate(team_messages(&name, &bob, team, since, 3), "unread_by_team");
    let commands = [
        (keys(UnreadBy::Peer, &["ann", "carl"]), 4, "IXSCAN"),
        (keys(UnreadBy::Order, &["o-1", "o-2"]), 3, "IXSCAN"),
        (marks, 1, "IXSCAN"),
        // One jump in the index for each sender.
        (
            aggregate(newest_of(UnreadBy::Peer, &name, &bob), "unread_by_peer"),
            2,
            "DISTINCT_SCAN",
        ),
        (
            aggregate(newest_of(UnreadBy::Order, &name, &bob), "unread_by_order"),
            3,
            "IXSCAN",
        ),
        (count("77", None), 3, "IXSCAN"),
        (count("77", Some(1_700_000_000_003)), 1, "IXSCAN"),
        (
            aggregate(team_joins(&name, &bob, &["77", "78"]), "team_joins"),
            1,
            "IXSCAN",
        ),
    ];
    for (command, found, scan) in commands {
        // A team's keys may be grouped within the plan, which then returns one sum.
        let is_summed = command
            .get_str("hint")
            .is_ok_and(|hint| hint == "unread_by_team");
        let counted = if is_summed {
            "totalKeysExamined"
        } else {
            "nReturned"
        };
        let explain = doc! { "explain": command, "verbosity": "executionStats" };
        let plan = app.database.run_command(explain).await.unwrap();
        let stages = stages(&plan);
        assert!(stages.contains(&scan.to_owned()), "{stages:?} in {plan}");
        for reads in ["COLLSCAN", "FETCH", "SORT"] {
            assert!(!stages.contains(&reads.to_owned()), "{stages:?} in {plan}");
        }
        let stats = find(&plan, "executionStats")
            .unwrap()
            .as_document()
            .unwrap();
        let number = |what| stats.get_i32(what).unwrap();
        assert_eq!(number("totalDocsExamined"), 0, "{plan}");
        assert_eq!(number(counted), found, "{plan}");
    }
    app.end().await;
}

/// The messages of an overview are found pair by pair, and no other document is read.
#[tokio::test]
async fn the_last_messages_are_read_and_no_others() {
    let app = TestApp::start().await;
    for n in 0..6_i64 {
        let from = ["ann", "carl"][(n % 2) as usize];
        let text = json!({
            "eventType": 1, "convType": "PERSON", "to": "bob", "fromAccount": from, "msgType": "TEXT", "body": "x",
            "msgTimestamp": 1_700_000_000_000 + n / 2, "msgidServer": n.to_string(), "ext": "{\"orderId\":\"o\"}",
        });
        app.deliver(text.to_string()).await.expect_ok();
    }
    let newest = |id: &str, peer: &str, at: i64| NewestUnread {
        id: id.to_owned(),
        peer: peer.to_owned(),
        sent_at: 1_700_000_000_000 + at,
    };
    let cases = [
        (
            UnreadBy::Peer,
            newest("ann", "ann", 2),
            newest("carl", "carl", 1),
        ),
        (
            UnreadBy::Order,
            newest("o", "ann", 2),
            newest("o", "carl", 1),
        ),
    ];
    let (name, bob) = (AppName::new("otc").unwrap(), Account::new("bob"));
    for (by, one, other) in &cases {
        let mongodb::options::Hint::Name(hint) = by.hint() else {
            panic!("the hint is a name");
        };
        let filter = last_messages(*by, &name, &bob, &[one, other]);
        let command = doc! { "find": "messages", "filter": filter, "hint": hint };
        let explain = doc! { "explain": command, "verbosity": "executionStats" };
        let plan = app.database.run_command(explain).await.unwrap();
        let stats = find(&plan, "executionStats").unwrap();
        let number = |what| stats.as_document().unwrap().get_i32(what).unwrap();
        assert_eq!(number("nReturned"), 2, "{plan}");
        assert_eq!(number("totalDocsExamined"), 2, "{plan}");
        assert!(number("totalKeysExamined") <= 4, "{plan}");
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
    let (peers, orders) = (json!({ "peers": ["ann"] }), json!({ "orders": ["o"] }));
    let (teams, all) = (json!({ "teams": ["77"] }), json!({}));
    for (collection, index, asked) in [
        ("messages", "unread_by_peer", vec![&peers, &all]),
        ("messages", "unread_by_order", vec![&orders, &all]),
        ("messages", "unread_by_team", vec![&teams]),
        ("messages", "team_joins", vec![&teams]),
        ("read_marks", "marks", vec![&peers]),
        // For conversations, not for counts.
        ("messages", "conversation", vec![]),
    ] {
        without(collection, index, &asked).await;
    }
}

async fn without(collection: &str, index: &str, asked: &[&Value]) {
    let app = TestApp::start().await;
    app.database
        .collection::<Document>(collection)
        .drop_index(index)
        .await
        .unwrap();
    for asked in asked {
        let mut question = (*asked).clone();
        question["user"] = json!("bob");
        let answer = app.ask(&question).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "unavailable"),
            "{index} {question}"
        );
        assert_eq!(answer.header("retry-after"), "5");
    }
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
