//! `/v1/trace` and `im-callback trace`: what happened to a message.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::dialect::{Dialect, Unsigned};
use crate::support::{ADMIN_KEY, Answer, TestApp, config_text, mongodb_uri};

pub const SENT: i64 = 1_700_000_000_000;

/// A message from ann to bob.
pub fn message(id: &str, more: Value) -> String {
    let mut message = json!({
        "eventType": 1, "convType": "PERSON", "to": "bob", "fromAccount": "Ann", "msgType": "TEXT",
        "body": "the-text", "msgTimestamp": SENT, "msgidServer": id, "msgidClient": format!("client-{id}"),
    });
    let fields = message.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    message.to_string()
}

pub fn receipt(reader: &str, peer: &str, up_to: i64) -> String {
    json!({ "eventType": 30, "fromAccount": reader, "toAccount": peer, "timestamp": up_to })
        .to_string()
}

pub fn recall(id: &str, at: i64) -> String {
    json!({ "eventType": 7, "msgId": id, "from": "ann", "to": "bob", "deleteTime": at }).to_string()
}

pub async fn ask(app: &TestApp, query: &str) -> Answer {
    let key = format!("Bearer {ADMIN_KEY}");
    let path = format!("/v1/trace?{query}");
    app.get(&path, &[("Authorization", &key)]).await
}

/// The only message that a query finds.
pub async fn the_message(app: &TestApp, query: &str) -> Value {
    let answer = ask(app, query).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    let messages = answer["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 1, "{answer}");
    messages[0].clone()
}

/// Runs the command with the test's configuration and these additions.
pub fn command(app: &TestApp, more: &str, args: &[&str]) -> Output {
    let text = config_text("127.0.0.1:0", &mongodb_uri(), app.database.name(), "") + more;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    std::process::Command::new(env!("CARGO_BIN_EXE_im-callback"))
        .args(["trace", "--config"])
        .arg(file.path())
        .args(args)
        .output()
        .unwrap()
}

pub fn told(output: &Output) -> &str {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout).unwrap()
}

pub fn verdict(message: &Value) -> (bool, &str, &str) {
    (
        message["verdict"]["counts"].as_bool().unwrap(),
        message["verdict"]["rule"].as_str().unwrap(),
        message["state"]["agreement"].as_str().unwrap(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_followed_from_sending_to_reading() {
    let app = TestApp::with("reconcile.delay = \"1h\"").await;
    let order = json!({ "ext": "{\"orderId\":\"o1\"}" });
    app.deliver(message("1", order)).await.expect_ok();
    app.deliver(receipt("bob", "ann", SENT - 1))
        .await
        .expect_ok();
    let unread = the_message(&app, "app=otc&id=1").await;
    assert_eq!(verdict(&unread), (true, "unread", "agrees"), "{unread}");
    let known = json!({
        "id": "otc/p2p/1", "provider": "netease", "class": "p2p", "msgidServer": "1",
        "clientId": "client-1", "type": "TEXT", "from": "ann", "to": "bob",
        "conversation": "p2p/ann/bob", "orderId": "o1", "sentAt": "2023-11-14T22:13:20Z",
    });
    for (name, value) in known.as_object().unwrap() {
        assert_eq!(&unread[name], value, "{name} in {unread}");
    }
    let stored = app.document("messages", "otc/p2p/1").await;
    let received = stored.get_datetime("receivedAt").unwrap();
    let received_text = received.try_to_rfc3339_string().unwrap();
    assert_eq!(unread["receivedAt"], json!(received_text));
    assert_eq!(unread["lagMs"], json!(received.timestamp_millis() - SENT));
    // The receipt of an earlier time is in the mark and does not cover the message.
    assert_eq!(unread["marks"][0]["readUpTo"], "2023-11-14T22:13:19.999Z");
    assert_eq!(unread["marks"][0]["covers"], json!(false));
    assert_eq!(unread["receipts"], json!({ "found": [], "more": false }));
    let text = unread["verdict"]["text"].as_str().unwrap();
    let expected =
        "counts as unread: it is later than bob's read mark for ann, 2023-11-14T22:13:19.999Z";
    assert_eq!(text, expected);

    // A late receipt, of another spelling, and the other kind.
    app.deliver(receipt("BOB", "Ann", SENT)).await.expect_ok();
    let read = json!({ "eventType": 85, "msgType": "0", "accid": "bob", "ackAccid": "ann", "ackMsgTime": SENT + 5 });
    app.deliver(read.to_string()).await.expect_ok();
    // Receipts of others, and by the sender.
    for (reader, peer) in [
        ("ann", "bob"),
        ("bob", "an"),
        ("bob", "ann2"),
        ("bo", "ann"),
    ] {
        app.deliver(receipt(reader, peer, SENT + 9))
            .await
            .expect_ok();
    }
    let read = the_message(&app, "id=1").await;
    assert_eq!(verdict(&read), (false, "read", "behind"), "{read}");
    assert_eq!(read["state"]["value"], 0);
    assert_eq!(read["marks"][0]["reader"], "bob");
    assert_eq!(read["marks"][0]["readUpTo"], "2023-11-14T22:13:20.005Z");
    let found = read["receipts"]["found"].as_array().unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|r| (r["kind"].as_str().unwrap(), r["readUpTo"].as_str().unwrap()))
        .collect();
    let expected = [
        ("p2p_receipt", "2023-11-14T22:13:20Z"),
        ("conversation_read", "2023-11-14T22:13:20.005Z"),
    ];
    assert_eq!(found, expected);
    let ask = json!({ "user": "bob", "peers": ["ann"] });
    assert_eq!(app.ask(&ask).await.json()["total"], 0);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_told_once_it_has_followed() {
    let app = TestApp::start().await;
    app.deliver(message("1", json!({}))).await.expect_ok();
    app.deliver(receipt("bob", "ann", SENT)).await.expect_ok();
    app.until_followed().await;
    let read = the_message(&app, "id=1").await;
    assert_eq!(verdict(&read), (false, "read", "agrees"), "{read}");
    assert_eq!(
        read["state"],
        json!({ "value": 1, "readAt": "2023-11-14T22:13:20Z", "agreement": "agrees", "text": "is as it should be" })
    );
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recalls_and_edits_are_told_in_whichever_order_they_came() {
    let app = TestApp::start().await;
    let edit = |id: &str, at: i64| {
        json!({ "eventType": 89, "msgId": id, "from": "ann", "to": "bob", "modifyAccountId": "Ann",
                "modifyTime": at, "text": "the-edited-text" })
        .to_string()
    };
    for body in [
        message("after", json!({})),
        recall("after", SENT + 10),
        recall("before", SENT + 20),
        message("before", json!({})),
        recall("alone", SENT + 30),
        edit("edited", SENT + 50),
        message("edited", json!({})),
        edit("edited", SENT + 40),
        edit("only edited", SENT),
        // Ids that others begin with.
        message("after2", json!({})),
        recall("after2", SENT),
        recall("after/x", SENT),
    ] {
        app.deliver(body).await.expect_ok();
    }
    let after = the_message(&app, "id=after").await;
    assert_eq!(verdict(&after), (false, "recalled", "agrees"), "{after}");
    assert_eq!(
        after["recall"],
        json!({ "at": "2023-11-14T22:13:20.01Z", "by": "ann" })
    );
    assert_eq!(after["records"].as_array().unwrap().len(), 1, "{after}");
    assert_eq!(after["records"][0]["id"], "otc/7/after");
    assert_eq!(after["records"][0]["kind"], "recall");

    let before = the_message(&app, "id=before").await;
    assert_eq!(verdict(&before), (false, "recalled", "agrees"), "{before}");
    assert_eq!(before["recall"]["at"], "2023-11-14T22:13:20.02Z");
    assert_eq!(
        before["verdict"]["text"],
        "does not count as unread: it is recalled"
    );

    for (id, recalled) in [("alone", true), ("only edited", false)] {
        let alone = the_message(&app, &format!("id={id}")).await;
        assert_eq!(
            verdict(&alone),
            (false, "not_received", "agrees"),
            "{alone}"
        );
        assert_eq!(
            (&alone["receivedAt"], &alone["lagMs"]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(alone["recall"].is_object(), recalled, "{alone}");
        assert_eq!(alone["records"][0]["beforeMessage"], Value::Null);
    }
    let edited = the_message(&app, "id=edited").await;
    assert_eq!(verdict(&edited), (true, "unread", "agrees"), "{edited}");
    let by_ann = |at: &str| json!({ "at": at, "by": "ann" });
    let edits = [
        by_ann("2023-11-14T22:13:20.04Z"),
        by_ann("2023-11-14T22:13:20.05Z"),
    ];
    assert_eq!(edited["edits"], json!({ "count": 2, "first": edits }));
    let kinds: Vec<_> = edited["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| &r["kind"])
        .collect();
    assert_eq!(kinds, ["message_update", "message_update"]);
    app.end().await;
}

/// A recall says that it came before its message if it did.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_the_message_says_so() {
    let app = TestApp::start().await;
    app.deliver(recall("1", SENT)).await.expect_ok();
    app.deliver(receipt("bob", "ann", SENT)).await.expect_ok();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    app.deliver(message("1", json!({}))).await.expect_ok();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    app.deliver(receipt("bob", "ann", SENT + 1))
        .await
        .expect_ok();
    let message = the_message(&app, "id=1").await;
    assert_eq!(message["records"][0]["beforeMessage"], true);
    let receipts = &message["receipts"]["found"];
    assert_eq!(receipts[0]["beforeMessage"], true, "{message}");
    assert_eq!(receipts[1]["beforeMessage"], false, "{message}");
    let output = command(&app, "", &["1"]);
    let told = told(&output);
    assert!(told.contains("before the message"), "{told}");
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_counts_says_by_which_rule() {
    let app = TestApp::with(&Dialect::other_apps()).await;
    let netease = [
        ("to_self", json!({ "to": "ANN" })),
        ("notification", json!({ "msgType": "NOTIFICATION" })),
        ("tips", json!({ "msgType": "TIPS" })),
        ("held_back", json!({ "blacklist": "1" })),
        ("held_back", json!({ "antispam": true })),
        ("team", json!({ "convType": "TEAM", "to": "77" })),
        ("team", json!({ "convType": "SUPER_TEAM", "to": "77" })),
        ("system_notice", json!({ "convType": "CUSTOM_PERSON" })),
        (
            "system_notice",
            json!({ "convType": "CUSTOM_TEAM", "to": "77" }),
        ),
    ];
    for (n, (rule, more)) in netease.into_iter().enumerate() {
        app.deliver(message(&format!("n{n}"), more))
            .await
            .expect_ok();
        let traced = the_message(&app, &format!("app=otc&id=n{n}")).await;
        assert_eq!(verdict(&traced), (false, rule, "agrees"), "{traced}");
    }
    let form = |id: &str, more: &[(&str, &str)]| {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        let usual = [
            ("channelType", "PERSON"),
            ("fromUserId", "Ann"),
            ("objectName", "RC:TxtMsg"),
            ("content", "{\"content\":\"the-text\"}"),
            ("msgTimestamp", "1700000000000"),
            ("toUserId", "bob"),
        ];
        let usual = usual
            .iter()
            .filter(|(name, _)| more.iter().all(|(other, _)| other != name));
        let body = form
            .extend_pairs(usual)
            .extend_pairs(more)
            .append_pair("msgUID", id)
            .finish();
        Unsigned {
            route: "",
            body: body.into_bytes(),
        }
    };
    let conv = |line: i64| json!({ "type": 0, "target": "bob", "line": line });
    let wild = |id: &str, line: i64, flag: i64| {
        let body = json!({
            "messageId": id, "sender": "Ann", "timestamp": SENT, "conv": conv(line), "toUsers": [],
            "payload": { "type": 1, "searchableContent": "the-text", "persistFlag": flag },
        });
        Unsigned {
            route: "message",
            body: body.to_string().into_bytes(),
        }
    };
    let others = [
        (
            Dialect::Rongcloud,
            "ABC-1",
            "unread",
            "RC:TxtMsg",
            form("ABC-1", &[]),
        ),
        (
            Dialect::Rongcloud,
            "ABC-2",
            "type",
            "RC:InfoNtf",
            form("ABC-2", &[("objectName", "RC:InfoNtf")]),
        ),
        (
            Dialect::Rongcloud,
            "ABC-3",
            "held_back",
            "RC:TxtMsg",
            form("ABC-3", &[("sensitiveType", "1")]),
        ),
        (
            Dialect::Rongcloud,
            "ABC-4",
            "team",
            "RC:TxtMsg",
            form("ABC-4", &[("channelType", "GROUP")]),
        ),
        (
            Dialect::Wildfire,
            "432595101554835586",
            "unread",
            "1",
            wild("432595101554835586", 0, 3),
        ),
        (
            Dialect::Wildfire,
            "432595101554835587",
            "sender_says",
            "1",
            wild("432595101554835587", 0, 1),
        ),
        (
            Dialect::Wildfire,
            "432595101554835588",
            "other_line",
            "1",
            wild("432595101554835588", 1, 3),
        ),
    ];
    let url = app.instance.url("");
    for (dialect, id, rule, sort, body) in others {
        dialect.deliver(&app.http, &url, &body).await;
        let traced = the_message(&app, &format!("app={}&id={id}", dialect.app())).await;
        assert_eq!(
            verdict(&traced),
            (rule == "unread", rule, "agrees"),
            "{traced}"
        );
        // Only NetEase's accounts have no case.
        assert_eq!(
            (&traced["from"], &traced["type"]),
            (&json!("Ann"), &json!(sort)),
            "{traced}"
        );
        let has_receipts = dialect == Dialect::Wildfire;
        assert_eq!(traced["receipts"].is_object(), has_receipts, "{traced}");
    }
    app.end().await;
}
