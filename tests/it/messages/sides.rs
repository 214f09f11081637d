//! Whose conversation it is: apps, classes, providers, keys; and what is refused.

use mongodb::bson::{Bson, Document, doc};
use serde_json::{Value, json};

use super::{ask, ask_as, ids, page, plant};
use crate::support::TestApp;
use crate::support::dialect::{Dialect, Unsigned};
use crate::support::token::{TOKEN_KEYS, site_token};
use crate::trace::{SENT, message};

/// A key of one app.
const WITH_LIMITED: &str = r#"
    [[auth.keys]]
    name = "of-wild"
    secret = "the-tests-key-of-wild"
    scopes = ["read"]
    apps = ["wild"]
"#;

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

/// What the provider did not deliver is for the site's eyes, and its sender's: a page of its receiver, or of others in
/// the team, is not sent it. Pages stay where they are, and may have fewer.
#[tokio::test]
async fn a_users_token_is_not_sent_what_the_provider_withheld_from_its_user() {
    let app = TestApp::with(TOKEN_KEYS).await;
    for (id, more) in [
        ("1", json!({})),
        ("2", json!({ "antispam": "1", "body": "hidden-text" })),
        ("3", json!({ "blacklist": true, "body": "hidden-text" })),
        ("4", json!({ "antispam": "0", "blacklist": false })),
    ] {
        for team in [false, true] {
            let mut message = json!({ "msgTimestamp": SENT + id.parse::<i64>().unwrap() });
            let fields = message.as_object_mut().unwrap();
            fields.extend(more.as_object().unwrap().clone());
            if team {
                fields.insert("convType".to_owned(), json!("TEAM"));
                fields.insert("to".to_owned(), json!("7"));
            }
            let body = crate::trace::message(id, message);
            app.deliver(body).await.expect_ok();
        }
    }
    let token = |user: &str| site_token(json!({ "sub": user, "teams": ["7"] }));
    let (bob, ann) = (token("Bob"), token("Ann"));
    for conversation in ["peer=ann", "team=7"] {
        let query = format!("app=otc&user=bob&{conversation}");
        let answer = ask_as(&app, &bob, &query).await;
        assert_eq!(ids(&answer.json()), ["4", "1"], "{answer:?}");
        assert!(!answer.text.contains("hidden-text"));
        // The site's key is sent all of it, and told so.
        let all = page(&app, &query).await;
        assert_eq!(ids(&all), ["4", "3", "2", "1"], "{query}");
        assert_eq!(all["messages"][1]["held_back"], true);
        // Page by page, of which two are empty.
        let (mut seen, mut place) = (Vec::new(), String::new());
        for _ in 0..4 {
            let answer = ask_as(&app, &bob, &format!("{query}&limit=1{place}"))
                .await
                .json();
            seen.push(ids(&answer).concat());
            place = format!("&before={}", answer["older"].as_str().unwrap_or_default());
        }
        assert_eq!(seen, ["4", "", "", "1"]);
        assert_eq!(place, "&before=");
    }
    for query in ["user=ann&peer=bob", "user=ann&team=7"] {
        let answer = ask_as(&app, &ann, query).await;
        assert_eq!(ids(&answer.json()), ["4", "3", "2", "1"], "{answer:?}");
    }
    app.end().await;
}

/// Where the list of a message's receivers is unreadable, it is shown to its sender alone.
#[tokio::test]
async fn a_list_of_receivers_that_is_no_list_is_for_nobody() {
    let app = TestApp::with(&Dialect::other_apps()).await;
    let lists = [
        ("absent", None),
        ("null", Some(Bson::Null)),
        ("none", Some(Bson::Array(Vec::new()))),
        ("bob", Some(Bson::from(vec!["bob"]))),
        ("text", Some("bob".into())),
        ("empty", Some("".into())),
        ("number", Some(5.into())),
        ("document", Some(doc! { "0": "bob" }.into())),
        ("odd", Some(Bson::Array(vec![doc! { "id": "bob" }.into()]))),
    ];
    let messages = app.database.collection::<Document>("messages");
    for (name, provider, field) in [
        ("rong", "rongcloud", "groupUserIds"),
        ("wild", "wildfire", "toUsers"),
    ] {
        let planted = lists.iter().enumerate().map(|(n, (id, list))| {
            let mut message = doc! {
                "_id": format!("{name}/team/{id}"), "app": name, "provider": provider, "to": "7",
                "fromAccount": "ann", "msgTimestamp": SENT + n as i64, "conversation": "team/7",
            };
            if let Some(list) = list {
                message.insert(field, list.clone());
            }
            message
        });
        messages.insert_many(planted).await.unwrap();
        for (user, expected) in [
            ("bob", 4),
            ("carl", 3),
            // Who wrote it.
            ("ann", lists.len()),
        ] {
            let query = format!("app={name}&user={user}&team=7");
            let shown = page(&app, &query).await;
            let shown = ids(&shown);
            assert_eq!(shown.len(), expected, "{name} {user} {shown:?}");
        }
    }
    app.end().await;
}
