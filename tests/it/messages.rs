//! `/v1/messages`: a conversation, a page at a time.

use mongodb::bson::{DateTime, Document, doc};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

use crate::read::read_at;
use crate::support::dialect::{Dialect, Unsigned};
use crate::support::proxy::{Line, Proxy};
use crate::support::{Answer, READ_KEY, TestApp, mongodb_uri};
use crate::trace::{SENT, message, receipt};

/// A key that reads and operates.
const BOTH: &str = "the-tests-key-for-both";
const WITH_BOTH: &str = r#"
    [[auth.keys]]
    name = "both"
    secret = "the-tests-key-for-both"
    scopes = ["read", "admin"]
"#;
/// A key of one app.
const WITH_LIMITED: &str = r#"
    [[auth.keys]]
    name = "of-wild"
    secret = "the-tests-key-of-wild"
    scopes = ["read"]
    apps = ["wild"]
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

#[tokio::test]
async fn bad_questions_are_told_what_is_wrong_and_where() {
    let app = TestApp::with(&Dialect::other_apps()).await;
    plant(
        &app,
        "p2p/ann/bob",
        [("1".to_owned(), SENT), ("2".to_owned(), SENT)],
    )
    .await;
    let first = page(&app, "app=otc&user=bob&peer=ann&limit=1").await;
    let cursor = first["older"].as_str().unwrap();
    let with = |rest: &str| format!("app=otc&user=bob&{rest}");
    let long = "x".repeat(257);
    let cases = [
        ("peer=ann".to_owned(), 422, "missing_field", "user"),
        ("user=bob&peer=ann".to_owned(), 422, "missing_field", "app"),
        (
            "app=none&user=bob&peer=ann".to_owned(),
            404,
            "unknown_app",
            "app",
        ),
        (with(""), 422, "missing_field", "peer"),
        (with("peer=ann&team=7"), 422, "invalid_field", "team"),
        (with("peer="), 422, "empty_id", "peer"),
        (with("team="), 422, "empty_id", "team"),
        (with(&format!("peer={long}")), 422, "id_too_long", "peer"),
        (with(&format!("team={long}")), 422, "id_too_long", "team"),
        (
            format!("app=otc&peer=a&user={long}"),
            422,
            "id_too_long",
            "user",
        ),
        (with("peer=ann&peer=carl"), 422, "invalid_field", "peer"),
        (with("peer=ann&order=o"), 422, "unknown_field", "order"),
        (with("peer=ann&limit=0"), 422, "invalid_field", "limit"),
        (with("peer=ann&limit=201"), 422, "invalid_field", "limit"),
        (with("peer=ann&limit=x"), 422, "invalid_field", "limit"),
        (
            with("peer=ann&before=1&after=1"),
            422,
            "invalid_field",
            "after",
        ),
        (with("peer=ann&before="), 422, "invalid_cursor", "before"),
        (with("peer=ann&after="), 422, "invalid_cursor", "after"),
        (with("peer=ann&before=x"), 422, "invalid_cursor", "before"),
        (with("peer=ann&before=-1"), 422, "invalid_cursor", "before"),
        (
            with("peer=ann&before=2023-11-14T22:13:20Z"),
            422,
            "invalid_cursor",
            "before",
        ),
        (
            with(&format!("peer=ann&before={cursor}0")),
            422,
            "invalid_cursor",
            "before",
        ),
        (
            with(&format!("peer=ann&after={}", cursor.to_uppercase())),
            422,
            "invalid_cursor",
            "after",
        ),
        (
            with(&format!("team=7&before={cursor}")),
            422,
            "invalid_cursor",
            "before",
        ),
    ];
    for (query, status, code, path) in cases {
        let answer = ask(&app, &query).await;
        let problem = answer.json();
        assert_eq!(
            (answer.status, &*answer.code(), &problem["path"]),
            (status, code, &json!(path)),
            "{query} {problem}"
        );
    }
    for (headers, status, code) in [
        (&[][..], 401, "missing_key"),
        (&[("Authorization", "Bearer wrong")], 401, "unknown_key"),
        (
            &[("Authorization", "Bearer the-tests-write-key")],
            403,
            "missing_scope",
        ),
        (
            &[("Authorization", "Bearer the-tests-admin-key")],
            403,
            "missing_scope",
        ),
    ] {
        let answer = app.get("/v1/messages?user=bob&peer=ann", headers).await;
        assert_eq!((answer.status, &*answer.code()), (status, code));
    }
    let answer = app.http.delete(app.instance.url("/v1/messages"));
    let answer = crate::support::send(answer, &[]).await;
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, "GET, HEAD, POST")
    );
    let nobody = page(&app, "app=otc&user=bob&peer=nobody").await;
    assert_eq!(
        nobody,
        json!({ "user": "bob", "peer": "nobody", "messages": [] })
    );
    app.end().await;
}

/// A team may be of either class. Its number is no person's account, other apps' conversations are apart, and a key of
/// one app sees no other's.
#[tokio::test]
async fn a_conversation_is_of_one_app_and_its_sides() {
    let app = TestApp::with(&(Dialect::other_apps() + WITH_LIMITED)).await;
    for (id, class, to, at) in [
        ("1", "TEAM", "7", 0),
        ("1", "SUPER_TEAM", "7", 1),
        ("2", "TEAM", "7", 2),
        ("3", "CUSTOM_TEAM", "7", 3),
        ("4", "TEAM", "77", 4),
        ("5", "PERSON", "7", 5),
        ("6", "PERSON", "a/b", 6),
    ] {
        let more = json!({ "convType": class, "to": to, "msgTimestamp": SENT + at });
        app.deliver(message(id, more)).await.expect_ok();
    }
    let team = page(&app, "app=otc&user=bob&team=7").await;
    let seen = team["messages"].as_array().unwrap().iter();
    let seen: Vec<_> = seen
        .map(|m| (m["class"].as_str().unwrap(), m["id"].as_str().unwrap()))
        .collect();
    assert_eq!(
        seen,
        [("team", "2"), ("super_team", "1"), ("team", "1")],
        "{team}"
    );
    // Page by page, over both classes.
    let newest = page(&app, "app=otc&user=bob&team=7&limit=1").await;
    let older = newest["older"].as_str().unwrap();
    let second = page(
        &app,
        &format!("app=otc&user=bob&team=7&limit=1&before={older}"),
    )
    .await;
    assert_eq!(
        (ids(&newest), &second["messages"][0]["class"]),
        (vec!["2"], &json!("super_team"))
    );
    for (query, expected) in [
        ("user=ann&peer=7", &["5"][..]),
        ("user=ann&peer=a%2Fb", &["6"]),
        ("user=ann&peer=a", &[]),
        ("user=bob&peer=7", &[]),
        ("user=bob&team=ann", &[]),
    ] {
        assert_eq!(
            ids(&page(&app, &format!("app=otc&{query}")).await),
            expected,
            "{query}"
        );
    }
    for name in ["wild", "rong"] {
        let other = page(&app, &format!("app={name}&user=ann&peer=7")).await;
        assert_eq!(ids(&other), [""; 0]);
    }
    let refused = ask_as(&app, "the-tests-key-of-wild", "app=otc&user=ann&peer=7").await;
    assert_eq!((refused.status, &*refused.code()), (403, "app_not_allowed"));
    assert_eq!(
        ask_as(&app, "the-tests-key-of-wild", "user=ann&peer=7")
            .await
            .status,
        200
    );
    app.end().await;
}

/// Other providers' content as they sent it; a message to some members of a team is for them alone.
#[tokio::test]
async fn other_providers_conversations_are_told_too() {
    let line = Dialect::other_apps().replace("name = \"wild\"", "name = \"wild\"\nline = 3");
    let app = TestApp::with(&line).await;
    let form = |id: &str, more: &[(&str, &str)]| {
        let usual = [
            ("channelType", "PERSON"),
            ("fromUserId", "Ann"),
            ("objectName", "RC:TxtMsg"),
            ("content", "{\"content\":\"the-text\",\"user\":{\"id\":1}}"),
            ("msgTimestamp", "1700000000000"),
            ("toUserId", "bob"),
        ];
        let usual = usual
            .iter()
            .filter(|(name, _)| more.iter().all(|(other, _)| other != name));
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        let form = form
            .extend_pairs(usual)
            .extend_pairs(more)
            .append_pair("msgUID", id);
        Unsigned {
            route: "",
            body: form.finish().into_bytes(),
        }
    };
    let group = [("channelType", "GROUP"), ("toUserId", "7")];
    let wild = |id: i64, conv: Value, to_users: &[&str]| {
        let body = json!({
            "messageId": id, "sender": "Ann", "timestamp": SENT + id, "conv": conv, "toUsers": to_users,
            "payload": { "type": 1, "searchableContent": "the-text", "persistFlag": 3, "extra": "{}" },
        });
        Unsigned {
            route: "message",
            body: body.to_string().into_bytes(),
        }
    };
    let private = |line: i64| json!({ "type": 0, "target": "bob", "line": line });
    let team = json!({ "type": 1, "target": "7", "line": 3 });
    let told = [
        (Dialect::Rongcloud, form("A", &[])),
        (
            Dialect::Rongcloud,
            form(
                "B",
                &[("sensitiveType", "1"), ("msgTimestamp", "1700000000001")],
            ),
        ),
        (Dialect::Rongcloud, form("C", &group)),
        (
            Dialect::Rongcloud,
            form(
                "D",
                &[
                    group[0],
                    group[1],
                    ("groupUserIds", "bob"),
                    ("groupUserIds", "eve"),
                ],
            ),
        ),
        (Dialect::Wildfire, wild(1, private(3), &[])),
        (Dialect::Wildfire, wild(2, private(0), &[])),
        (Dialect::Wildfire, wild(3, team.clone(), &[])),
        (Dialect::Wildfire, wild(4, team, &["eve"])),
    ];
    for (dialect, callback) in told {
        dialect
            .deliver(&app.http, &app.instance.url(""), &callback)
            .await;
    }
    let rong = page(&app, "app=rong&user=bob&peer=Ann").await;
    assert_eq!(ids(&rong), ["B", "A"]);
    let [held_back, plain] = [0, 1].map(|n| &rong["messages"][n]);
    assert_eq!(held_back["held_back"], true, "{rong}");
    assert_eq!(plain.get("held_back"), None);
    assert_eq!(
        (
            &plain["text"],
            &plain["type"],
            &plain["content"],
            &plain["from"]
        ),
        (
            &json!("the-text"),
            &json!("RC:TxtMsg"),
            &json!({ "content": "the-text", "user": { "id": 1 } }),
            &json!("Ann")
        )
    );
    // Accounts have a case there.
    assert_eq!(
        ids(&page(&app, "app=rong&user=bob&peer=ann").await),
        [""; 0]
    );
    let wild = page(&app, "app=wild&user=Ann&peer=bob").await;
    assert_eq!(ids(&wild), ["1"], "on the app's line");
    assert_eq!(
        (
            &wild["messages"][0]["type"],
            &wild["messages"][0]["content"]["persistFlag"]
        ),
        (&json!("1"), &json!(3))
    );
    for (name, user, expected) in [
        ("rong", "bob", &["D", "C"][..]),
        ("rong", "eve", &["D", "C"]),
        ("rong", "Ann", &["D", "C"]),
        ("rong", "carl", &["C"]),
        ("wild", "bob", &["3"]),
        ("wild", "eve", &["4", "3"]),
    ] {
        let seen = page(&app, &format!("app={name}&user={user}&team=7")).await;
        assert_eq!(ids(&seen), expected, "{user} of {name}");
    }
    // A page of what somebody may not see is empty and not the last.
    let hidden = page(&app, "app=wild&user=bob&team=7&limit=1").await;
    assert_eq!(ids(&hidden), [""; 0]);
    let older = hidden["older"].as_str().unwrap();
    let rest = page(
        &app,
        &format!("app=wild&user=bob&team=7&limit=1&before={older}"),
    )
    .await;
    assert_eq!(ids(&rest), ["3"]);
    app.end().await;
}

/// All pages from a place on, glued in the order in which a site shows them, the newest first.
async fn glued(
    app: &TestApp,
    who: &str,
    direction: &str,
    from: Option<&str>,
    limit: usize,
) -> Vec<String> {
    let mut glued: Vec<String> = Vec::new();
    let mut place = from.map(str::to_owned);
    loop {
        let at = place.as_ref().map(|place| format!("&{direction}={place}"));
        let page = page(
            app,
            &format!("{who}&limit={limit}{}", at.unwrap_or_default()),
        )
        .await;
        let ids: Vec<String> = ids(&page).into_iter().map(str::to_owned).collect();
        assert!(ids.len() <= limit);
        let next = match direction {
            "before" => page["older"].as_str(),
            // There is always a place to go on from later.
            _ => page["newer"].as_str().filter(|_| !ids.is_empty()),
        };
        let next = next.map(str::to_owned);
        match direction {
            "before" => glued.extend(ids),
            _ => glued.splice(0..0, ids).for_each(drop),
        }
        match next {
            Some(next) => place = Some(next),
            None => return glued,
        }
    }
}

/// Pages of any size, in both directions and from any place, are the conversation in its order: by time, and at equal times
/// by id.
#[test]
fn pages_are_the_whole_in_its_order() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let app = runtime.block_on(TestApp::start());
    let cases = (
        prop::collection::vec((0..2_usize, 0..5_i64), 0..14),
        1..6_usize,
        0..14_usize,
        0..6_i64,
    );
    let mut runner = TestRunner::new(Config {
        cases: 40,
        failure_persistence: None,
        ..Config::default()
    });
    let team = std::cell::Cell::new(0);
    let result = runner.run(&cases, |(messages, limit, start, time)| {
        let n = team.replace(team.get() + 1);
        runtime.block_on(async {
            let classes = ["super_team", "team"];
            for (class, name) in classes.iter().enumerate() {
                let of_class = messages
                    .iter()
                    .enumerate()
                    .filter(|(_, (c, _))| *c == class);
                let of_class: Vec<_> = of_class
                    .map(|(i, (_, at))| (format!("{n}-{i:02}"), SENT + at))
                    .collect();
                if !of_class.is_empty() {
                    plant(&app, &format!("{name}/{n}"), of_class).await;
                }
            }
            let mut all: Vec<_> = messages
                .iter()
                .enumerate()
                .map(|(i, (class, at))| (SENT + at, classes[*class], format!("{n}-{i:02}")))
                .collect();
            all.sort();
            all.reverse();
            let ids_of = |some: &[(i64, &str, String)]| -> Vec<String> {
                some.iter().map(|m| m.2.clone()).collect()
            };
            let who = format!("user=bob&team={n}");
            assert_eq!(glued(&app, &who, "before", None, limit).await, ids_of(&all));
            let first = glued(&app, &who, "after", Some("0"), limit).await;
            assert_eq!(first, ids_of(&all), "from the beginning");
            let bound = SENT + time;
            let bound_text = bound.to_string();
            let earlier: Vec<_> = all.iter().filter(|m| m.0 < bound).cloned().collect();
            let later: Vec<_> = all.iter().filter(|m| m.0 > bound).cloned().collect();
            assert_eq!(
                glued(&app, &who, "before", Some(&bound_text), limit).await,
                ids_of(&earlier)
            );
            assert_eq!(
                glued(&app, &who, "after", Some(&bound_text), limit).await,
                ids_of(&later)
            );
            // From one message on, both ways: neither has it again.
            if let Some(start) = start.checked_rem(all.len()) {
                let place = page(&app, &format!("{who}&limit={}", start + 1)).await;
                if let Some(older) = place["older"].as_str() {
                    assert_eq!(
                        glued(&app, &who, "before", Some(older), limit).await,
                        ids_of(&all[start + 1..])
                    );
                    assert_eq!(
                        glued(&app, &who, "after", Some(older), limit).await,
                        ids_of(&all[..start])
                    );
                } else {
                    assert_eq!(start + 1, all.len(), "the last page has no older one");
                }
            }
        });
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    runtime.block_on(app.end());
}

/// While messages come, also late ones, who goes on from a page misses nothing that was there and sees nothing twice; who
/// waits at the newest hears of all that is newer.
#[tokio::test]
async fn pages_stay_where_they_are_while_messages_come() {
    let app = TestApp::start().await;
    let who = "user=bob&peer=ann";
    plant(
        &app,
        "p2p/ann/bob",
        (0..20).map(|n| (format!("m{n:02}"), SENT + n / 2 * 10)),
    )
    .await;
    let first = page(&app, &format!("{who}&limit=7")).await;
    let (older, newer) = (
        first["older"].as_str().unwrap(),
        first["newer"].as_str().unwrap(),
    );
    let empty = page(&app, &format!("{who}&after={newer}")).await;
    assert_eq!(
        (ids(&empty), empty["newer"].as_str(), empty.get("older")),
        (vec![], Some(newer), None)
    );
    // Newer ones, late ones among what was read, and late ones that are still to be read.
    for (id, at) in [
        ("new1", 500),
        ("new0", 500),
        ("late-read", 85),
        ("late-unread", 15),
        ("late-equal", 60),
    ] {
        app.deliver(message(id, json!({ "msgTimestamp": SENT + at })))
            .await
            .expect_ok();
    }
    let rest = glued(&app, who, "before", Some(older), 3).await;
    let mut seen: Vec<_> = ids(&first)
        .into_iter()
        .map(str::to_owned)
        .chain(rest)
        .collect();
    // `late-equal` has the time of the place and comes before it by its id.
    assert_eq!(
        seen.iter()
            .filter(|id| id.starts_with("late"))
            .collect::<Vec<_>>(),
        ["late-equal", "late-unread"]
    );
    seen.retain(|id| !id.starts_with("late"));
    let whole: Vec<_> = (0..20).rev().map(|n| format!("m{n:02}")).collect();
    assert_eq!(seen, whole);
    let news = page(&app, &format!("{who}&after={newer}")).await;
    assert_eq!(ids(&news), ["new1", "new0"]);
    let newest = news["newer"].as_str().unwrap();
    assert_eq!(
        ids(&page(&app, &format!("{who}&after={newest}")).await),
        [""; 0]
    );
    // A place stays when its message is deleted, as by a retention.
    let messages = app.database.collection::<Document>("messages");
    messages
        .delete_many(doc! { "_id": { "$in": ["otc/p2p/new1", "otc/p2p/m19"] } })
        .await
        .unwrap();
    let before = page(&app, &format!("{who}&before={newest}&limit=2")).await;
    assert_eq!(ids(&before), ["new0", "m18"]);
    app.end().await;
}

/// What has no time has no place, and whatever somebody put into a document is told or left out.
#[tokio::test]
async fn odd_documents_break_nothing() {
    let app = TestApp::start().await;
    app.deliver(message(
        "team-without-time",
        json!({ "convType": "TEAM", "to": "7", "msgTimestamp": null }),
    ))
    .await
    .expect_ok();
    app.deliver(message(
        "team-with-a-word",
        json!({ "convType": "TEAM", "to": "7", "msgTimestamp": "soon" }),
    ))
    .await
    .expect_ok();
    app.deliver(message(
        "t",
        json!({ "convType": "TEAM", "to": "7", "body": { "a": [1] } }),
    ))
    .await
    .expect_ok();
    let team = page(&app, "user=bob&team=7&limit=1").await;
    assert_eq!((ids(&team), team.get("older")), (vec!["t"], None), "{team}");
    assert_eq!(team["messages"][0]["text"], "{\"a\":[1]}");
    assert_eq!(ids(&page(&app, "user=bob&team=7&after=0").await), ["t"]);
    plant(
        &app,
        "p2p/ann/bob",
        [("odd".to_owned(), 300_000_000_000_000)],
    )
    .await;
    let messages = app.database.collection::<Document>("messages");
    let odd = doc! { "$set": {
        "msgTimestamp": 3e14, "fromAccount": 5, "receivedAt": "x", "edits": "x", "recall": 1, "provider": "other",
        "attach": DateTime::MAX, "body": null,
    } };
    messages
        .update_one(doc! { "_id": "otc/p2p/odd" }, odd)
        .await
        .unwrap();
    let told = page(&app, "user=bob&peer=ann").await;
    assert_eq!(
        told["messages"],
        json!([{ "id": "odd", "class": "p2p", "to": "bob", "timestamp": 300_000_000_000_000_i64, "read": false,
                 "recall": { "at": null }, "withheld": true }])
    );
    app.end().await;
}

/// A page ends before it has too many bytes.
#[tokio::test]
async fn a_page_of_large_messages_ends_early() {
    let app = TestApp::start().await;
    let large = "x".repeat(900 * 1024);
    for n in 0..11 {
        let more = json!({ "msgTimestamp": SENT + n, "body": &large });
        app.deliver(message(&format!("m{n:02}"), more))
            .await
            .expect_ok();
    }
    let first = page(&app, "user=bob&peer=ann").await;
    assert_eq!(ids(&first).len(), 4);
    assert!(first["older"].is_string());
    let whole = glued(&app, "user=bob&peer=ann", "before", None, 200).await;
    let expected: Vec<_> = (0..11).rev().map(|n| format!("m{n:02}")).collect();
    assert_eq!(whole, expected);
    assert_eq!(
        glued(&app, "user=bob&peer=ann", "after", Some("0"), 200).await,
        expected
    );
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
