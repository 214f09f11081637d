//! The route: good answers, refusals, and who may ask about whom.

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use super::{
    HOUR, MINUTE, ask, ask_at, because, deliver_all, heartbeat, login, logout, now, presence_of,
    text,
};
use crate::support::mongod::Mongod;
use crate::support::{READ_KEY, TestApp, WRITE_KEY, database_name, skip};

#[tokio::test]
async fn every_user_is_answered_as_asked_with_states_times_and_devices() {
    let app = TestApp::start().await;
    let now = now();
    let [early, later, last] = [now - 3 * HOUR, now - 2 * HOUR, now - HOUR];
    deliver_all(
        &app,
        &[
            login("Ann", "iOS", "phone", early),
            login("Ann", "PC", "desk", later),
            login("ann", "WEB", "tab", early),
            because(logout("ANN", "WEB", "tab", last), 3),
            logout("bob", "AOS", "", later),
            login("carl", "AOS", "old", now - 25 * HOUR),
            logout("carl", "IOS", "x", last),
        ],
    )
    .await;
    let question = json!({ "users": ["ANN", "bob", "nobody", "ann", "Carl"] });
    let answer = ask(&app, &question).await;
    assert_eq!(answer.status, 200);
    let ann = json!({
        "state": "online", "since": text(early), "last_seen": text(last),
        "devices": [
            { "client_type": "PC", "device_id": "desk", "state": "online", "since": text(later), "last_seen": text(later) },
            { "client_type": "IOS", "device_id": "phone", "state": "online", "since": text(early), "last_seen": text(early) },
            {
                "client_type": "WEB", "device_id": "tab", "state": "offline", "since": text(last), "last_seen": text(last),
                "logout_reason": "kicked_by_device",
            },
        ],
    });
    let expected = json!({ "users": {
        "ANN": ann,
        "bob": {
            "state": "offline", "since": text(later), "last_seen": text(later),
            "devices": [{ "client_type": "AOS", "state": "offline", "since": text(later), "last_seen": text(later) }],
        },
        "nobody": { "state": "unknown", "devices": [] },
        "ann": ann,
        "Carl": {
            "state": "unknown", "last_seen": text(last),
            "devices": [
                { "client_type": "AOS", "device_id": "old", "state": "unknown", "last_seen": text(now - 25 * HOUR) },
                { "client_type": "IOS", "device_id": "x", "state": "offline", "since": text(last), "last_seen": text(last) },
            ],
        },
    } });
    assert_eq!(answer.json(), expected);
    assert!(!answer.text.contains("192.0.2.77"), "an address is told");
    let names = answer.json()["users"].as_object().unwrap().clone();
    assert!(names.contains_key("ANN") && names.len() == 5);
    // The query string asks alike.
    let key = format!("Bearer {READ_KEY}");
    let headers = [("Authorization", &*key)];
    for query in [
        "users=ANN,bob,nobody,ann,Carl",
        "users=ANN&users[]=bob&users=nobody,ann&users=Carl&app=otc",
    ] {
        let got = app.get(&format!("/v1/presence?{query}"), &headers).await;
        assert_eq!((got.status, got.text), (200, answer.text.clone()));
    }
    app.end().await;
}

#[tokio::test]
async fn a_users_state_follows_what_happens() {
    let app = TestApp::start().await;
    let start = now() - HOUR;
    let steps = [
        (login("ann", "IOS", "a", start), "online", start),
        // Its own document is of a device, and this one of the kind.
        (
            logout("ann", "IOS", "", start + 1000),
            "offline",
            start + 1000,
        ),
        (
            heartbeat("ann", "IOS", "a", start + 2000),
            "online",
            start + 2000,
        ),
        (
            heartbeat("ann", "IOS", "a", start + 3000),
            "online",
            start + 3000,
        ),
        (
            login("ann", "IOS", "a", start + 2000),
            "online",
            start + 2000,
        ),
        (
            login("ann", "PC", "b", start + 4000),
            "online",
            start + 2000,
        ),
        (
            logout("ann", "IOS", "a", start + 5000),
            "online",
            start + 4000,
        ),
        // Late, and of an earlier time.
        (
            login("ann", "IOS", "a", start + 4500),
            "online",
            start + 4000,
        ),
        (
            logout("ann", "PC", "b", start + 6000),
            "offline",
            start + 6000,
        ),
    ];
    for (event, state, since) in steps {
        deliver_all(&app, &[event.clone(), event.clone()]).await;
        let ann = presence_of(&app, "ann").await;
        assert_eq!(
            (&ann["state"], &ann["since"]),
            (&json!(state), &json!(text(since))),
            "{event} {ann}"
        );
    }
    app.end().await;
}

/// The age is of the last login or heartbeat, and is known at the question alone: no document changes.
#[tokio::test]
async fn what_is_old_is_unknown_until_it_is_heard_of_again() {
    let app = TestApp::with("presence.unknown_after = \"10m\"").await;
    let now = now();
    deliver_all(&app, &[login("ann", "IOS", "a", now - 11 * MINUTE)]).await;
    let stored = app.dump().await;
    let expected = json!({
        "state": "unknown", "last_seen": text(now - 11 * MINUTE),
        "devices": [{
            "client_type": "IOS", "device_id": "a", "state": "unknown", "last_seen": text(now - 11 * MINUTE),
        }],
    });
    assert_eq!(presence_of(&app, "ann").await, expected);
    assert_eq!(app.dump().await, stored);
    assert_eq!(stored["presence"][0]["state"], "online");
    deliver_all(&app, &[heartbeat("ann", "IOS", "a", now - 5 * MINUTE)]).await;
    let ann = presence_of(&app, "ann").await;
    let (state, since) = (&ann["state"], &ann["since"]);
    assert_eq!(state, "online");
    assert_eq!(since, &json!(text(now - 11 * MINUTE)));
    // A clock that is ahead makes nobody unknown, and a logout does not age.
    deliver_all(&app, &[login("bob", "IOS", "a", now + HOUR)]).await;
    deliver_all(&app, &[logout("carl", "IOS", "a", now - 400 * 24 * HOUR)]).await;
    for (user, state) in [("bob", "online"), ("carl", "offline")] {
        assert_eq!(presence_of(&app, user).await["state"], state, "{user}");
    }
    app.end().await;
}

#[tokio::test]
async fn bad_questions_are_told_what_is_wrong_and_where() {
    let app = TestApp::start().await;
    let key = format!("Bearer {READ_KEY}");
    let headers = [("Authorization", &*key)];
    let many: Vec<_> = (0..1001).map(|n| n.to_string()).collect();
    let long = "x".repeat(257);
    let cases = [
        (json!({}), 422, "no_list", Some("users")),
        (json!({ "users": [] }), 422, "no_list", Some("users")),
        (json!({ "users": null }), 422, "no_list", Some("users")),
        (
            json!({ "users": "ann" }),
            422,
            "invalid_field",
            Some("users"),
        ),
        (
            json!({ "users": ["a", 5] }),
            422,
            "invalid_field",
            Some("users[1]"),
        ),
        (
            json!({ "users": ["a", ""] }),
            422,
            "empty_id",
            Some("users[1]"),
        ),
        (
            json!({ "users": [long] }),
            422,
            "id_too_long",
            Some("users[0]"),
        ),
        (json!({ "users": many }), 422, "too_many_ids", Some("users")),
        (
            json!({ "users": ["a"], "user": "b" }),
            422,
            "unknown_field",
            Some("user"),
        ),
        (
            json!({ "users": ["a"], "app": "none" }),
            404,
            "unknown_app",
            Some("app"),
        ),
        (json!(["a"]), 422, "invalid_field", None),
    ];
    let said = |answer: &Value| {
        let path = answer["path"].as_str().map(str::to_owned);
        (answer["code"].as_str().unwrap().to_owned(), path)
    };
    for (question, status, code, path) in cases {
        let answer = ask(&app, &question).await;
        let expected = (code.to_owned(), path.map(str::to_owned));
        assert_eq!((answer.status, said(&answer.json())), (status, expected));
    }
    for (query, status, code, path) in [
        ("", 422, "no_list", Some("users")),
        ("users=", 422, "empty_id", Some("users[0]")),
        ("users=a&user=b", 422, "unknown_field", Some("user")),
        ("users=a,%FF", 400, "invalid_utf8", Some("users")),
    ] {
        let answer = app.get(&format!("/v1/presence?{query}"), &headers).await;
        let expected = (code.to_owned(), path.map(str::to_owned));
        assert_eq!(
            (answer.status, said(&answer.json())),
            (status, expected),
            "{query}"
        );
    }
    let exactly: Vec<_> = (0..1000).map(|n| n.to_string()).collect();
    let answer = ask(&app, &json!({ "users": exactly })).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["users"].as_object().unwrap().len(), 1000);
    let empty = app.post("/v1/presence", &headers, "").await;
    assert_eq!((empty.status, &*empty.code()), (400, "empty_body"));
    let put = app.http.put(app.instance.url("/v1/presence"));
    let put = crate::support::send(put, &headers).await;
    assert_eq!((put.status, put.header("allow")), (405, "GET, HEAD, POST"));
    app.end().await;
}

/// Nobody without a key of the scope `read` is answered, and nobody about another app.
#[tokio::test]
async fn keys_and_apps_are_kept_apart() {
    let more = r#"
        [[apps]]
        name = "shop"
        provider = "netease"
        app_key = "shop-key"
        app_secrets = ["shop-secret"]
        [[auth.keys]]
        name = "of-shop"
        secret = "the-tests-key-of-shop"
        scopes = ["read"]
        apps = ["shop"]
    "#;
    let app = TestApp::with(more).await;
    deliver_all(&app, &[login("ann", "IOS", "a", now() - 1000)]).await;
    let question = json!({ "users": ["ann"], "app": "otc" }).to_string();
    let asked = async |key: &str, question: &str| {
        let bearer = format!("Bearer {key}");
        let headers = [("Authorization", &*bearer)];
        let headers = if key.is_empty() { &[] } else { &headers[..] };
        app.post("/v1/presence", headers, question.to_owned()).await
    };
    for (key, status, code) in [
        ("", 401, "missing_key"),
        ("no-key-of-the-service", 401, "unknown_key"),
        (WRITE_KEY, 403, "missing_scope"),
        ("the-tests-key-of-shop", 403, "app_not_allowed"),
    ] {
        let answer = asked(key, &question).await;
        assert_eq!((answer.status, &*answer.code()), (status, code));
        assert!(!answer.text.contains("online"), "{answer:?}");
    }
    let theirs = asked("the-tests-key-of-shop", r#"{"users":["ann"]}"#).await;
    let nothing = json!({ "users": { "ann": { "state": "unknown", "devices": [] } } });
    assert_eq!((theirs.status, theirs.json()), (200, nothing.clone()));
    let shop = asked(READ_KEY, r#"{"users":["ann"],"app":"shop"}"#).await;
    assert_eq!(shop.json(), nothing);
    let ours = asked(READ_KEY, &question).await.json();
    assert_eq!(ours["users"]["ann"]["state"], "online");
    // A bare name is ambiguous where there are several apps.
    let bare = asked(READ_KEY, r#"{"users":["ann"]}"#).await;
    assert_eq!((bare.status, &*bare.code()), (422, "missing_field"));
    app.end().await;
}

/// No account is read as another: not by a name that is an operator, a path or a prefix.
#[tokio::test]
async fn users_are_kept_apart() {
    let app = TestApp::start().await;
    let at = now() - 1000;
    let names = [
        "ann",
        "ann/ios",
        "$ann",
        "$$account",
        "an",
        "ann ",
        "a%2fn",
        "安",
    ];
    for (n, name) in names.iter().enumerate() {
        let event = login(name, "IOS", &format!("d{n}"), at);
        deliver_all(&app, &[event]).await;
    }
    // The logout of a kind of another account's.
    deliver_all(&app, &[logout("an", "IOS", "", at + 500)]).await;
    let answer = ask(&app, &json!({ "users": names })).await.json();
    for (n, name) in names.iter().enumerate() {
        let user = &answer["users"][name];
        let state = if *name == "an" { "offline" } else { "online" };
        assert_eq!(user["state"], state, "{name} {user}");
        let devices = user["devices"].as_array().unwrap();
        let ids: Vec<_> = devices
            .iter()
            .filter_map(|d| d["device_id"].as_str())
            .collect();
        assert_eq!(ids, [format!("d{n}")], "{name} {user}");
    }
    app.end().await;
}

/// Where an acknowledged callback may wait in a spool, the answer says so.
#[tokio::test]
async fn an_answer_that_may_lack_a_callback_says_so() {
    let app = TestApp::start().await;
    let question = json!({ "users": ["ann"] });
    let complete = async || ask(&app, &question).await.json().get("complete").cloned();
    assert_eq!(complete().await, None);
    let spools = app.database.collection::<Document>("spools");
    let lost = doc! { "_id": "lost", "host": "far-away", "path": "/p", "bytes": 5_i64 };
    spools.insert_one(lost).await.unwrap();
    // What is known of other spools may be as old as their lease.
    for _ in 0..100 {
        if complete().await.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(complete().await, Some(json!(false)));
    app.end().await;
}

/// While MongoDB is away the answer is 503, and not that nobody was ever seen.
#[tokio::test(flavor = "multi_thread")]
async fn without_mongodb_presence_is_503() {
    let Some(mut mongod) = Mongod::start(true).await else {
        return skip("MONGOD names no program");
    };
    let uri = format!("mongodb://{}/?replicaSet=rs0", mongod.host());
    let name = database_name();
    let config = crate::support::config(&uri, &name, "mongodb.query_timeout = \"1s\"");
    let instance = crate::support::Instance::start(config);
    let app = TestApp::start().await;
    app.until_at(&instance, |ready| ready["status"] == "ready")
        .await;
    let question = json!({ "users": ["ann"] });
    assert_eq!(ask_at(&app, &instance, &question).await.status, 200);
    tokio::task::block_in_place(|| mongod.kill());
    let mut detail = Value::Null;
    for _ in 0..60 {
        let answer = ask_at(&app, &instance, &question).await;
        assert_eq!((answer.status, &*answer.code()), (503, "unavailable"));
        detail = answer.json()["detail"].take();
        if detail.as_str().unwrap().contains("is away") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    assert_eq!(
        detail,
        "MongoDB is away, so this cannot be answered now; ask again"
    );
    tokio::task::spawn_blocking(move || drop(instance))
        .await
        .unwrap();
    app.end().await;
}
