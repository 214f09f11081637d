//! `/v1/messages`: a conversation, a page at a time.

mod index;
mod pages;
mod sides;

use mongodb::bson::{DateTime, Document, doc};
use serde_json::{Value, json};

use crate::read::read_at;
use crate::support::process::{Process, try_deliver};
use crate::support::proxy::{Line, Proxy};
use crate::support::{Answer, READ_KEY, TestApp, database_name, http, mongodb_uri, send};
use crate::trace::{SENT, message, recall, receipt};

/// A key that reads and operates.
const BOTH: &str = "the-tests-key-for-both";

const WITH_BOTH: &str = r#"
    [[auth.keys]]
    name = "both"
    secret = "the-tests-key-for-both"
    scopes = ["read", "admin"]
"#;

async fn ask_as(app: &TestApp, key: &str, query: &str) -> Answer {
    let key = format!("Bearer {key}");
    let path = format!("/v1/messages?{query}");
    app.get(&path, &[("Authorization", &key)]).await
}

async fn ask(app: &TestApp, query: &str) -> Answer {
    ask_as(app, READ_KEY, query).await
}

/// The answer of a question that is in order.
async fn page(app: &TestApp, query: &str) -> Value {
    let answer = ask(app, query).await;
    assert_eq!(answer.status, 200, "{query} {answer:?}");
    answer.json()
}

fn ids(page: &Value) -> Vec<&str> {
    let messages = page["messages"].as_array().unwrap();
    messages.iter().map(|m| m["id"].as_str().unwrap()).collect()
}

async fn tell(app: &TestApp, body: Value) {
    app.deliver(body.to_string()).await.expect_ok();
}

/// Puts messages of a conversation into the database.
async fn plant(
    app: &TestApp,
    conversation: &str,
    messages: impl IntoIterator<Item = (String, i64)>,
) {
    let documents = messages.into_iter().map(|(id, at)| {
        doc! {
            "_id": format!("otc/{}/{id}", conversation.split('/').next().unwrap()), "app": "otc",
            "provider": "netease", "to": "bob", "fromAccount": "ann", "msgTimestamp": at,
            "conversation": conversation, "receivedAt": DateTime::now(), "body": "the-text",
        }
    });
    let collection = app.database.collection::<Document>("messages");
    collection.insert_many(documents).await.unwrap();
}

/// What a conversation has, as one key sees it and as an operator does: texts, data, an edit, a recall, who has read.
#[tokio::test]
async fn a_conversation_is_told_as_a_site_shows_it() {
    let app = TestApp::with(WITH_BOTH).await;
    let all = json!({
        "msgTimestamp": SENT, "fromNick": "Ann A.", "fromClientType": "IOS", "fromDeviceId": "d",
        "ext": "{\"orderId\":\"o-1\",\"big\":4291065454174142469}",
        "attach": { "url": "https://x/1.png", "w": 30.5, "list": [null, true] }, "unknownField": 1,
    });
    app.deliver(message("1", all)).await.expect_ok();
    tell(&app, json!({
        "eventType": 1, "convType": "PERSON", "to": "Ann", "fromAccount": "BOB", "msgType": "CUSTOM",
        "body": "", "msgTimestamp": SENT + 1, "msgidServer": "2", "blacklist": "1",
    }))
    .await;
    app.deliver(message("3", json!({ "msgTimestamp": SENT + 2 })))
        .await
        .expect_ok();
    for (at, text) in [(5, "second-text"), (4, "first-text")] {
        tell(
            &app,
            json!({
                "eventType": 89, "msgId": "3", "from": "ann", "to": "bob", "modifyTime": SENT + at,
                "modifyAccountId": "Ann", "text": text, "ext": "of the edit",
            }),
        )
        .await;
    }
    let content = json!({ "msgTimestamp": SENT + 3, "ext": "hidden-ext", "attach": "hidden-attach",
                          "body": "hidden-body" });
    app.deliver(message("4", content)).await.expect_ok();
    tell(&app, json!({
        "eventType": 89, "msgId": "4", "from": "ann", "to": "bob", "modifyTime": SENT + 4, "text": "hidden-edit",
    }))
    .await;
    tell(&app, json!({
        "eventType": 7, "msgId": "4", "from": "ann", "to": "bob", "deleteTime": SENT + 9, "attach": "hidden-recall",
    }))
    .await;
    app.deliver(receipt("bob", "ann", SENT)).await.expect_ok();
    // Of others, of another class, and a recall of a message that has not come.
    app.deliver(message("5", json!({ "to": "carl" })))
        .await
        .expect_ok();
    app.deliver(message("6", json!({ "convType": "CUSTOM_PERSON" })))
        .await
        .expect_ok();
    app.deliver(message("7", json!({ "convType": "TEAM" })))
        .await
        .expect_ok();
    tell(
        &app,
        json!({ "eventType": 7, "msgId": "8", "from": "ann", "to": "bob", "deleteTime": SENT }),
    )
    .await;

    let answer = ask(&app, "user=Bob&peer=ANN&app=otc").await;
    assert!(!answer.text.contains("hidden"), "{}", answer.text);
    let redacted = |answer: &Answer| {
        let mut answer = answer.json();
        for message in answer["messages"].as_array_mut().unwrap() {
            let at = message["received_at"].take();
            assert_eq!(at.as_str().map(str::len), Some(24), "{message}");
            message["received_at"] = "[received]".into();
        }
        answer
    };
    insta::assert_json_snapshot!(redacted(&answer));
    // Both see the same conversation, and a body asks alike.
    let of_ann = page(&app, "user=ann&peer=bob").await;
    assert_eq!(of_ann["messages"], answer.json()["messages"]);
    let key = format!("Bearer {READ_KEY}");
    let body = json!({ "user": "Bob", "peer": "ANN", "app": "otc", "limit": 50, "before": null })
        .to_string();
    let posted = app
        .post("/v1/messages", &[("Authorization", &key)], body)
        .await;
    assert_eq!(posted.text, answer.text);
    let operator = ask_as(&app, BOTH, "user=bob&peer=ann&limit=1").await;
    insta::assert_json_snapshot!(
        "what_an_operator_sees_of_a_recalled_message",
        redacted(&operator)
    );
    app.end().await;
}

/// `read` follows the read mark and not `state`, whoever raised it, and in both directions.
#[tokio::test]
async fn read_is_what_the_marks_say() {
    let app = TestApp::with("reconcile.delay = \"1h\"").await;
    for n in 0..3 {
        let more = json!({ "msgTimestamp": SENT + n });
        app.deliver(message(&n.to_string(), more)).await.expect_ok();
    }
    let back =
        json!({ "fromAccount": "bob", "to": "ann", "msgTimestamp": SENT + 1, "msgType": "TIPS" });
    app.deliver(message("back", back)).await.expect_ok();
    let read = async || {
        let page = page(&app, "user=bob&peer=ann").await;
        let messages = page["messages"].as_array().unwrap().iter();
        let read = messages.filter(|m| m["read"] == true);
        read.map(|m| m["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(read().await, [""; 0]);
    let report = json!({ "user": "bob", "peer": "ann", "up_to": SENT + 1 });
    read_at(&app.http, &app.instance, &report).await;
    assert_eq!(read().await, ["1", "0"]);
    app.deliver(receipt("ann", "bob", SENT + 1))
        .await
        .expect_ok();
    assert_eq!(read().await, ["back", "1", "0"]);
    assert_eq!(
        app.documents("messages", doc! { "state": 1 }).await.len(),
        0
    );
    // A message to a team has as many readers as the team.
    app.deliver(message("t", json!({ "convType": "TEAM", "to": "7" })))
        .await
        .expect_ok();
    let of_team = page(&app, "user=bob&team=7").await;
    assert_eq!(of_team["messages"][0].get("read"), None, "{of_team}");
    app.end().await;
}

/// Without MongoDB or the index there is no answer, and where callbacks may wait in a spool it says so.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_may_lack_something_says_so() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let app = TestApp::connected(&proxy.uri(), "").await;
    app.deliver(message("1", json!({}))).await.expect_ok();
    let spools = app.database.collection::<Document>("spools");
    let lost = doc! { "_id": "lost", "host": "far-away", "path": "/p", "bytes": 5_i64 };
    spools.insert_one(lost).await.unwrap();
    let mut told = page(&app, "user=bob&peer=ann").await;
    // What is known of other spools may be as old as their lease.
    for _ in 0..100 {
        if told["complete"] == false {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        told = page(&app, "user=bob&peer=ann").await;
    }
    assert_eq!((&told["complete"], ids(&told)), (&json!(false), vec!["1"]));
    spools.delete_one(doc! { "_id": "lost" }).await.unwrap();
    proxy.set(Line::Cut);
    app.deliver(message("2", json!({}))).await.expect_ok();
    let answer = ask(&app, "user=bob&peer=ann").await;
    assert_eq!((answer.status, &*answer.code()), (503, "unavailable"));
    proxy.set(Line::Open);
    app.until_drained().await;
    assert_eq!(ids(&page(&app, "user=bob&peer=ann").await).len(), 2);
    let messages = app.database.collection::<Document>("messages");
    messages.drop_index("conversation").await.unwrap();
    let answer = ask(&app, "user=bob&peer=ann").await;
    assert_eq!((answer.status, &*answer.code()), (503, "unavailable"));
    app.end().await;
}

/// Who is shown what somebody took back is in the log, by the key's name; nobody else is.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_the_key_that_is_shown_recalled_messages() {
    let name = database_name();
    let mut process = Process::new(&mongodb_uri(), &name, WITH_BOTH);
    tokio::task::block_in_place(|| process.start());
    let (http, url) = (http(), format!("http://{}", process.address));
    process.until_drained(&http).await;
    for body in [
        message("1", json!({ "body": "hidden-text" })),
        recall("1", SENT),
    ] {
        assert_eq!(try_deliver(&http, &url, body.as_bytes()).await, Some(200));
    }
    for key in [READ_KEY, BOTH] {
        let key = format!("Bearer {key}");
        let request = http.get(format!("{url}/v1/messages?user=bob&peer=ann"));
        let answer = send(request, &[("Authorization", &key)]).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let log = process.log();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("recalled messages were shown"))
        .collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(
        lines[0].contains("app=otc key=\"both\" recalled=1"),
        "{lines:?}"
    );
    assert!(!log.contains("hidden-text"));
    drop(process);
    let client = mongodb::Client::with_uri_str(mongodb_uri()).await.unwrap();
    client.database(&name).drop().await.unwrap();
}
