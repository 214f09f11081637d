//! Unread messages in teams.

use std::collections::BTreeMap;

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::support::dialect::Dialect;
use crate::support::{READ_KEY, TestApp};

const AT: i64 = 1_700_000_000_000;

fn message(id: usize, from: &str, at: i64, more: Value) -> String {
    let mut message = json!({
        "eventType": 1, "convType": "TEAM", "to": "77", "fromAccount": from, "msgType": "TEXT",
        "body": "a text that no log may have", "msgTimestamp": AT + at, "msgidServer": id.to_string(),
    });
    let fields = message.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    message.to_string()
}

/// A team notice: what happened (`attach.id`), and to whom.
fn notice(id: usize, from: &str, at: i64, what: u32, data: Value) -> String {
    let attach = json!({ "id": what, "data": data });
    let members = "[ann, bob, carl, dora]";
    let more =
        json!({ "msgType": "NOTIFICATION", "attach": attach.to_string(), "tMembers": members });
    message(id, from, at, more)
}

fn read(reader: &str, team: &str, at: i64) -> String {
    let read = json!({
        "eventType": 85, "msgType": "1", "accid": reader, "ackTeamId": team, "ackMsgTime": AT + at,
    });
    read.to_string()
}

async fn deliver(app: &TestApp, bodies: &[String]) {
    for body in bodies {
        app.deliver(body).await.expect_ok();
    }
}

async fn in_team(app: &TestApp, reader: &str, team: &str) -> u64 {
    let question = json!({ "user": reader, "teams": [team] });
    let answer = app.ask(&question).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["teams"][team].as_u64().unwrap()
}

/// A message of each kind, alone.
#[tokio::test]
async fn a_message_counts_in_its_team_by_the_rules() {
    let app = TestApp::start().await;
    let recall = |event_type: u32| {
        json!({ "eventType": event_type, "msgId": "1", "from": "ann", "to": "77" }).to_string()
    };
    let one = |more: Value| vec![message(1, "ann", 1, more)];
    let plain = || message(1, "ann", 1, json!({}));
    let edit = json!({ "eventType": 90, "msgId": "1", "to": "77", "modifyTime": 1, "text": "t" });
    let cases = [
        (one(json!({})), 1),
        (one(json!({ "convType": "SUPER_TEAM" })), 1),
        (one(json!({ "msgType": "PICTURE" })), 1),
        (one(json!({ "msgType": "NOTIFICATION" })), 0),
        (one(json!({ "msgType": "TIPS" })), 0),
        (one(json!({ "antispam": "true" })), 0),
        (one(json!({ "fromAccount": "BOB" })), 0),
        (one(json!({ "fromAccount": null })), 0),
        (one(json!({ "msgTimestamp": "soon" })), 0),
        (one(json!({ "convType": "CUSTOM_TEAM" })), 0),
        (one(json!({ "convType": "PERSON" })), 0),
        (one(json!({ "to": "78" })), 0),
        (vec![plain(), plain()], 1),
        (vec![plain(), recall(8)], 0),
        (vec![recall(8), plain()], 0),
        (vec![recall(8), plain(), plain(), recall(8)], 0),
        // Of another class.
        (vec![plain(), recall(25)], 1),
        (vec![plain(), recall(7)], 1),
        (vec![plain(), edit.to_string()], 1),
        (vec![edit.to_string(), plain()], 1),
        (vec![plain(), read("bob", "77", 0)], 1),
        (vec![plain(), read("BOB", "77", 1)], 0),
        (vec![read("bob", "77", 1), plain()], 0),
        (vec![read("bob", "77", 2), read("bob", "77", 0), plain()], 0),
        (vec![plain(), read("carl", "77", 1), read("bob", "78", 1)], 1),
        // A receipt for a person of that name says nothing of the team.
        (
            vec![
                plain(),
                json!({ "eventType": 30, "fromAccount": "bob", "toAccount": "77", "timestamp": AT + 9 }).to_string(),
            ],
            1,
        ),
    ];
    for (bodies, expected) in &cases {
        deliver(&app, bodies).await;
        assert_eq!(in_team(&app, "Bob", "77").await, *expected, "{bodies:?}");
        app.empty().await;
    }
    app.end().await;
}

/// Every order of a message, its recall, a redelivery and an edit leaves the same.
#[tokio::test]
async fn a_recalled_message_counts_in_no_order_of_what_came() {
    let app = TestApp::start().await;
    let bodies = [
        message(1, "ann", 1, json!({})),
        json!({ "eventType": 8, "msgId": "1", "from": "ann", "to": "77" }).to_string(),
        json!({ "eventType": 90, "msgId": "1", "to": "77", "modifyTime": 1, "text": "t" })
            .to_string(),
    ];
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        deliver(&app, &order.map(|n| bodies[n].clone())).await;
        deliver(&app, &bodies[..1]).await;
        assert_eq!(in_team(&app, "bob", "77").await, 0, "{order:?}");
        let stored = app.document("messages", "otc/team/1").await;
        assert_eq!(
            stored.get_bool("countsInTeam").ok(),
            Some(false),
            "{order:?}"
        );
        app.empty().await;
    }
    app.end().await;
}

/// Without a mark, a member's count begins when it joined, if a notice said so; a mark decides alone.
#[tokio::test]
async fn a_member_without_a_mark_counts_since_it_joined() {
    let app = TestApp::start().await;
    let text = |id: usize, at: i64| message(id, "ann", at, json!({}));
    let texts = || vec![text(1, 10), text(2, 20), text(3, 30), text(4, 40)];
    let with = |notices: Vec<String>| [texts(), notices].concat();
    let invited = |what: u32, at: i64, data: Value| notice(9, "ann", at, what, data);
    let super_team = |at: i64| {
        let attach = json!({ "id": 401, "data": { "ids": ["bob"] } });
        let more = json!({ "convType": "SUPER_TEAM", "msgType": "NOTIFICATION", "attach": attach });
        message(9, "ann", at, more)
    };
    let cases = [
        (with(vec![]), 4),
        (
            with(vec![invited(0, 20, json!({ "ids": ["carl", "BOB"] }))]),
            2,
        ),
        (with(vec![invited(5, 30, json!({ "id": "bob" }))]), 1),
        (with(vec![super_team(10)]), 3),
        // Who accepts an invitation is the sender.
        (
            with(vec![notice(9, "bob", 25, 9, json!({ "id": "carl" }))]),
            2,
        ),
        (
            with(vec![notice(9, "carl", 25, 9, json!({ "id": "bob" }))]),
            4,
        ),
        // Every notice has the members of its time in `tMembers`; only some say who joined.
        (with(vec![invited(0, 25, json!({ "ids": ["carl"] }))]), 4),
        (
            with(vec![invited(3, 25, json!({ "tinfo": { "1": "77" } }))]),
            4,
        ),
        (with(vec![invited(1, 25, json!({ "ids": ["bob"] }))]), 4),
        (with(vec![invited(7, 25, json!({ "ids": ["bob"] }))]), 4),
        // The last time, whichever notice comes first.
        (
            with(vec![
                notice(8, "ann", 35, 0, json!({ "ids": ["bob"] })),
                notice(9, "ann", 5, 0, json!({ "ids": ["bob"] })),
            ]),
            1,
        ),
        // The mark decides, also when it is older.
        (
            with(vec![
                invited(0, 30, json!({ "ids": ["bob"] })),
                read("bob", "77", 10),
            ]),
            3,
        ),
        (
            with(vec![
                invited(0, 10, json!({ "ids": ["bob"] })),
                read("bob", "77", 30),
            ]),
            1,
        ),
    ];
    for (mut bodies, expected) in cases {
        for _ in 0..2 {
            deliver(&app, &bodies).await;
            assert_eq!(in_team(&app, "bob", "77").await, expected, "{bodies:?}");
            app.empty().await;
            bodies.reverse();
        }
    }
    app.end().await;
}

/// Spelled as asked, with zeros; the total is that of the first list, each team once.
#[tokio::test]
async fn teams_are_answered_beside_other_lists() {
    let app = TestApp::start().await;
    crate::unread::with_messages(&app).await;
    let bodies = [
        message(11, "ann", 1, json!({})),
        message(12, "ann", 2, json!({})),
        message(13, "carl", 3, json!({ "to": "Team-8" })),
    ];
    deliver(&app, &bodies).await;
    let cases = [
        (
            json!({ "user": "Bob", "teams": ["77", "Team-8", "team-8", "77"] }),
            r#"{"user":"Bob","teams":{"77":2,"Team-8":1,"team-8":0},"total":3,"total_of":"teams"}"#,
        ),
        (
            json!({ "user": "bob", "teams": ["77"], "orders": ["o-1"] }),
            r#"{"user":"bob","orders":{"o-1":2},"teams":{"77":2},"total":2,"total_of":"orders"}"#,
        ),
        (
            json!({ "user": "bob", "teams": ["77"], "orders": ["o-1"], "peers": ["carl"] }),
            r#"{"user":"bob","peers":{"carl":1},"orders":{"o-1":2},"teams":{"77":2},"total":1,"total_of":"peers"}"#,
        ),
        (
            json!({ "user": "bob", "teams": [] }),
            r#"{"user":"bob","teams":{},"total":0,"total_of":"teams"}"#,
        ),
        (
            json!({ "user": "bob", "teams": ["77", "Team-8"], "cap": 2 }),
            r#"{"user":"bob","teams":{"77":2,"Team-8":1},"total":2,"total_of":"teams"}"#,
        ),
        (
            json!({ "user": "ann", "teams": ["77", "Team-8"] }),
            r#"{"user":"ann","teams":{"77":0,"Team-8":1},"total":1,"total_of":"teams"}"#,
        ),
    ];
    for (question, expected) in cases {
        let answer = app.ask(&question).await;
        assert_eq!(
            (answer.status, answer.text.as_str()),
            (200, expected),
            "{question}"
        );
    }
    let key = format!("Bearer {READ_KEY}");
    let answer = app
        .get(
            "/v1/unread?user=bob&teams=77&teams[]=Team-8",
            &[("Authorization", &key)],
        )
        .await;
    let expected = r#"{"user":"bob","teams":{"77":2,"Team-8":1},"total":3,"total_of":"teams"}"#;
    assert_eq!(answer.text, expected);
    app.end().await;
}

#[tokio::test]
async fn the_count_of_a_team_ends_at_the_limit() {
    let app = TestApp::with("http.max_team_unread = 5").await;
    let bodies: Vec<String> = (0..9)
        .map(|n| message(n, "ann", n as i64, json!({})))
        .collect();
    deliver(&app, &bodies).await;
    let ask = async |more: Value| {
        let mut question = json!({ "user": "bob", "teams": ["77", "78"] });
        let fields = question.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        let answer = app.ask(&question).await.json();
        (answer["teams"]["77"].as_u64(), answer["total"].as_u64())
    };
    assert_eq!(ask(json!({})).await, (Some(5), Some(5)));
    assert_eq!(ask(json!({ "cap": 3 })).await, (Some(3), Some(3)));
    assert_eq!(ask(json!({ "cap": 8 })).await, (Some(5), Some(5)));
    deliver(&app, &[read("bob", "77", 4)]).await;
    assert_eq!(ask(json!({})).await, (Some(4), Some(4)));
    app.end().await;
}

/// Nothing bounds what a member writes itself, so the walk over its own messages ends, too: without a count.
#[tokio::test]
async fn a_count_passes_over_so_many_own_messages_and_no_more() {
    let app = TestApp::with("http.max_team_unread = 2").await;
    let own = async |ids: std::ops::Range<usize>| {
        for n in ids {
            let text = message(n, "bob", n as i64, json!({}));
            app.deliver(text).await.expect_ok();
        }
    };
    let question = json!({ "user": "bob", "teams": ["77"] });
    own(0..98).await;
    assert_eq!(in_team(&app, "bob", "77").await, 0);
    deliver(&app, &[message(98, "ann", 98, json!({}))]).await;
    assert_eq!(in_team(&app, "bob", "77").await, 1);
    // 100 keys: 50 for each message of the limit.
    own(99..100).await;
    let refused = app.ask(&question).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    let problem = refused.json();
    assert_eq!(problem["code"], "unavailable");
    assert_eq!(problem["path"], "teams", "{problem}");
    // The second message of others is at the limit's end, whatever follows.
    deliver(&app, &[message(100, "ann", -1, json!({}))]).await;
    assert_eq!(in_team(&app, "bob", "77").await, 2);
    assert_eq!(in_team(&app, "carl", "77").await, 2);
    deliver(&app, &[read("bob", "77", 97)]).await;
    assert_eq!(in_team(&app, "bob", "77").await, 1);
    app.end().await;
}

/// Two apps may have a team of the same number.
#[tokio::test]
async fn a_team_is_of_one_app() {
    let more = r#"
        [[apps]]
        name = "shop"
        provider = "netease"
        app_key = "test-app-key"
        app_secrets = ["current-secret"]
    "#;
    let app = TestApp::with(more).await;
    deliver(
        &app,
        &[
            message(1, "ann", 1, json!({})),
            notice(2, "ann", 5, 0, json!({ "ids": ["bob"] })),
        ],
    )
    .await;
    let messages = app.database.collection::<Document>("messages");
    let mut other = app.document("messages", "otc/team/1").await;
    other.insert("_id", "shop/team/1");
    other.insert("app", "shop");
    messages.insert_one(other).await.unwrap();
    let ask = async |name: &str| {
        let question = json!({ "app": name, "user": "bob", "teams": ["77"] });
        app.ask(&question).await.json()["total"].as_u64().unwrap()
    };
    // In `otc` bob joined after the message.
    assert_eq!((ask("otc").await, ask("shop").await), (0, 1));
    let marks = app.database.collection::<Document>("read_marks");
    let mark = doc! { "app": "otc", "reader": "bob", "team": "77" };
    marks
        .insert_one(doc! { "_id": mark, "readUpTo": 0_i64 })
        .await
        .unwrap();
    assert_eq!((ask("otc").await, ask("shop").await), (1, 1));
    app.end().await;
}

/// What another provider tells of a group: directed messages are for some members only, and types, lines and blocked
/// words have the rules that they have between two persons.
#[tokio::test]
async fn groups_of_other_providers_count_by_their_rules() {
    let app = TestApp::with(&Dialect::other_apps()).await;
    let rong = |id: usize, more: &[(&str, &str)]| {
        let id = id.to_string();
        let mut fields: BTreeMap<&str, &str> = BTreeMap::from([
            ("channelType", "GROUP"),
            ("fromUserId", "ann"),
            ("toUserId", "g"),
            ("objectName", "RC:TxtMsg"),
            ("content", r#"{"content":"x"}"#),
            ("msgTimestamp", "1700000000001"),
            ("msgUID", &id),
            ("sensitiveType", "0"),
        ]);
        fields.extend(more.iter().copied());
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        ("", form.extend_pairs(fields).finish())
    };
    let wild = |id: i64, change: &dyn Fn(&mut Value)| {
        let mut message = json!({
            "messageId": id, "sender": "ann", "timestamp": AT + 1, "toUsers": [],
            "conv": { "type": 1, "target": "g", "line": 0 },
            "payload": { "type": 1, "searchableContent": "x", "persistFlag": 3 },
        });
        change(&mut message);
        ("message", message.to_string())
    };
    let cases = [
        (Dialect::Rongcloud, rong(1, &[]), 1),
        (
            Dialect::Rongcloud,
            rong(2, &[("channelType", "ULTRAGROUP")]),
            1,
        ),
        (
            Dialect::Rongcloud,
            rong(3, &[("groupUserIds", "[bob,carl]")]),
            0,
        ),
        (
            Dialect::Rongcloud,
            rong(4, &[("objectName", "RC:InfoNtf")]),
            0,
        ),
        (Dialect::Rongcloud, rong(5, &[("sensitiveType", "1")]), 0),
        (Dialect::Rongcloud, rong(6, &[("sensitiveType", "2")]), 1),
        (Dialect::Rongcloud, rong(7, &[("fromUserId", "bob")]), 0),
        (
            Dialect::Rongcloud,
            rong(8, &[("channelType", "ULTRAGROUP"), ("originalMsgUID", "2")]),
            0,
        ),
        (Dialect::Wildfire, wild(1, &|_| {}), 1),
        (
            Dialect::Wildfire,
            wild(2, &|m| m["toUsers"] = json!(["bob"])),
            0,
        ),
        (
            Dialect::Wildfire,
            wild(3, &|m| m["conv"]["line"] = json!(1)),
            0,
        ),
        (
            Dialect::Wildfire,
            wild(4, &|m| m["payload"]["persistFlag"] = json!(1)),
            0,
        ),
        (
            Dialect::Wildfire,
            wild(5, &|m| m["sender"] = json!("bob")),
            0,
        ),
    ];
    let url = app.instance.url("");
    for (dialect, (route, body), expected) in cases {
        let callback = crate::support::dialect::Unsigned {
            route,
            body: body.clone().into_bytes(),
        };
        dialect.deliver(&app.http, &url, &callback).await;
        let question = json!({ "app": dialect.app(), "user": "bob", "teams": ["g"] });
        let answer = app.ask(&question).await.json();
        assert_eq!(answer["total"], expected, "{dialect:?} {body}");
        app.empty().await;
    }
    app.end().await;
}
