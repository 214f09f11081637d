//! What can be asked of a trace besides a message's id, and what cannot.

use mongodb::bson::{DateTime, Document, doc};
use serde_json::{Value, json};

use crate::support::dialect::Dialect;
use crate::support::{READ_KEY, TestApp};
use crate::trace::{SENT, ask, command, message, receipt, the_message, told, verdict};

#[tokio::test(flavor = "multi_thread")]
async fn a_team_message_shows_the_marks_of_the_members_asked_for() {
    let app = TestApp::start().await;
    app.deliver(message("1", json!({ "convType": "TEAM", "to": "77" })))
        .await
        .expect_ok();
    let read = |reader: &str, team: &str, at: i64| {
        json!({ "eventType": 85, "msgType": "1", "accid": reader, "ackTeamId": team, "ackMsgTime": at })
            .to_string()
    };
    for body in [
        read("Bob", "77", SENT),
        read("carl", "77", SENT - 1),
        read("dan", "78", SENT),
        // One to one, with an account that is named like the team.
        receipt("dan", "77", SENT),
    ] {
        app.deliver(body).await.expect_ok();
    }
    let nobody = the_message(&app, "id=1").await;
    assert_eq!(
        (&nobody["marks"], &nobody["receipts"]),
        (&json!([]), &Value::Null)
    );
    let members = the_message(&app, "id=1&reader=BOB&reader=carl&reader=dan").await;
    let marks = members["marks"].as_array().unwrap();
    let marks: Vec<_> = marks
        .iter()
        .map(|m| (m["reader"].as_str().unwrap(), &m["covers"]))
        .collect();
    assert_eq!(marks, [("bob", &json!(true)), ("carl", &json!(false))]);
    let receipts = members["receipts"]["found"].as_array().unwrap();
    assert_eq!(receipts.len(), 1, "{members}");
    let at = format!("otc/85/bob/team/77/{SENT}");
    assert_eq!(receipts[0]["id"], json!(at));
    assert_eq!(verdict(&members), (false, "team", "agrees"), "{members}");
    let output = command(&app, "", &["1", "--reader", "Bob,carl"]);
    let told = told(&output);
    assert!(told.contains("bob's read mark, which covers"), "{told}");
    assert!(
        told.contains("carl's read mark, which does not cover"),
        "{told}"
    );
    assert!(told.contains("sent by ann to team 77"), "{told}");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_id_is_found_in_its_conversation() {
    let app = TestApp::start().await;
    let client = |id: &str| json!({ "msgidClient": id });
    for body in [
        message("1", client("c1")),
        message(
            "2",
            json!({ "fromAccount": "bob", "to": "ann", "msgidClient": "c2" }),
        ),
        message("3", json!({ "to": "carl", "msgidClient": "c1" })),
        message(
            "4",
            json!({ "convType": "TEAM", "to": "77", "msgidClient": "c1" }),
        ),
        message("5", client("c5")),
        // The client sent it again.
        message("6", client("c5")),
    ] {
        app.deliver(body).await.expect_ok();
    }
    let ids = async |query: &str| -> Vec<String> {
        let answer = ask(&app, query).await.json();
        let messages = answer["messages"].as_array().cloned().unwrap_or_default();
        messages
            .iter()
            .map(|m| m["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids("clientId=c1&from=ANN&to=bob").await, ["otc/p2p/1"]);
    assert_eq!(ids("clientId=c2&from=bob&to=ann").await, ["otc/p2p/2"]);
    assert_eq!(ids("clientId=c1&from=ann&to=carl").await, ["otc/p2p/3"]);
    assert_eq!(ids("clientId=c1&from=ann&to=77").await, ["otc/team/4"]);
    assert_eq!(ids("clientId=c5&from=ann&to=bob").await.len(), 2);
    let none = ask(&app, "clientId=c1&from=ann&to=dan").await;
    assert_eq!((none.status, &*none.code()), (404, "unknown_message"));
    assert!(none.text.contains("among the newest 5000"), "{none:?}");
    let output = command(
        &app,
        "",
        &["--client-id", "c1", "--from", "ann", "--to", "bob"],
    );
    assert!(told(&output).starts_with("otc/p2p/1 "), "{output:?}");
    for usage in [
        &["--client-id", "c1"][..],
        &[],
        &["1", "--client-id", "c1"],
        &["1", "--app", "none"],
    ] {
        assert_eq!(command(&app, "", usage).status.code(), Some(2), "{usage:?}");
    }
    for help in [&[][..], &["--help"]] {
        let output = command(&app, "", help);
        let says = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let usage = says.lines().find(|line| line.starts_with("Usage: "));
        assert!(
            usage.is_some_and(|usage| usage.contains("<MSGID|--client-id <ID>>")),
            "{says}"
        );
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_questions_are_refused() {
    let app = TestApp::start().await;
    let long = "x".repeat(2000);
    let readers = "&reader=a".repeat(21);
    let cases = [
        ("", 422, "missing_field"),
        ("app=otc", 422, "missing_field"),
        ("clientId=1&from=a", 422, "missing_field"),
        ("clientId=1&to=a", 422, "missing_field"),
        ("id=", 422, "empty_id"),
        (&format!("id={long}"), 422, "id_too_long"),
        (&format!("id=1&reader={long}"), 422, "id_too_long"),
        (&format!("id=1{readers}"), 422, "too_many_ids"),
        ("id=1&id=2", 422, "invalid_field"),
        ("id=1&clientId=2&from=a&to=b", 422, "invalid_field"),
        ("id=1&from=a", 422, "invalid_field"),
        ("id[$ne]=1", 422, "unknown_field"),
        ("id=1&app=none", 404, "unknown_app"),
        ("id=%24ne", 404, "unknown_message"),
    ];
    for (query, status, code) in cases {
        let answer = ask(&app, query).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (status, code),
            "{query} {answer:?}"
        );
    }
    let key = format!("Bearer {READ_KEY}");
    let headers = [("Authorization", &*key)];
    assert_eq!(
        app.get("/v1/trace?id=1", &headers).await.code(),
        "missing_scope"
    );
    assert_eq!(app.get("/v1/trace?id=1", &[]).await.code(), "missing_key");
    assert_eq!(
        app.post("/v1/trace?id=1", &headers, "").await.code(),
        "method_not_allowed"
    );
    app.end().await;
}

/// All classes an id is of are listed, and nothing of another app.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_several_classes_or_apps_is_told_apart() {
    let second = Dialect::other_apps()
        + "[[apps]]\nname = \"otc2\"\nprovider = \"netease\"\napp_key = \"k2\"\napp_secrets = [\"another-long-secret\"]\n";
    let app = TestApp::with(&second).await;
    app.deliver(message("1", json!({}))).await.expect_ok();
    app.deliver(message("1", json!({ "convType": "TEAM", "to": "77" })))
        .await
        .expect_ok();
    // The same message, and marks and receipts of the same accounts, at another app.
    let other = doc! {
        "_id": "otc2/p2p/1", "app": "otc2", "provider": "netease", "to": "bob", "fromAccount": "ann",
        "msgTimestamp": SENT, "state": 0, "msgidServer": "1", "receivedAt": DateTime::now(),
    };
    let messages = app.database.collection::<Document>("messages");
    messages.insert_one(other).await.unwrap();
    app.deliver(receipt("bob", "ann", SENT)).await.expect_ok();
    let ids = |answer: Value| -> Vec<String> {
        let messages = answer["messages"].as_array().unwrap().iter();
        messages
            .map(|m| m["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let both = ask(&app, "app=otc&id=1").await.json();
    assert_eq!(both["app"], "otc");
    assert_eq!(ids(both), ["otc/p2p/1", "otc/team/1"]);
    assert_eq!(
        ids(ask(&app, "app=otc&id=otc/team/1").await.json()),
        ["otc/team/1"]
    );
    let other = the_message(&app, "app=otc2&id=1").await;
    assert_eq!(verdict(&other), (true, "unread", "agrees"), "{other}");
    assert_eq!(
        (&other["marks"], &other["receipts"]["found"]),
        (&json!([]), &json!([]))
    );
    for query in [
        "app=otc&id=otc2/p2p/1",
        "app=otc2&id=otc/p2p/1",
        "app=rong&id=1",
    ] {
        let answer = ask(&app, query).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (404, "unknown_message"),
            "{query}"
        );
    }
    // The command looks at all apps.
    let output = command(&app, &second, &["1", "--json"]);
    let lines: Vec<Value> = told(&output)
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(
        (&lines[0]["app"], &lines[1]["app"]),
        (&json!("otc"), &json!("otc2"))
    );
    let output = command(&app, &second, &["1", "--json", "--app", "otc2"]);
    assert_eq!(told(&output).lines().count(), 1);
    app.end().await;
}
