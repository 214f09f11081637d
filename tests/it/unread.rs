//! The unread query: its answers and its errors.

use mongodb::bson::doc;
use serde_json::json;

use crate::support::{Instance, READ_KEY, TestApp, WRITE_KEY, config, database_name, mongodb_uri};

pub async fn with_messages(app: &TestApp) {
    let messages = [
        ("1", "Ann", "bob", "o-1"),
        ("2", "ann", "BOB", "o-1"),
        ("3", "ann", "bob", "o-2"),
        ("4", "carl", "bob", "O-1"),
        ("5", "bob", "ann", "o-1"),
    ];
    for (id, from, to, order) in messages {
        let body = json!({
            "eventType": 1, "convType": "PERSON", "to": to, "fromAccount": from, "msgType": "TEXT",
            "body": "a text that no log may have", "msgTimestamp": 1_700_000_000_000_i64, "msgidServer": id,
            "ext": { "orderId": order },
        });
        app.deliver(body.to_string()).await.expect_ok();
    }
}

#[tokio::test]
async fn every_id_is_answered_as_it_was_spelled() {
    let app = TestApp::start().await;
    with_messages(&app).await;
    let cases = [
        (
            json!({ "user": "Bob", "peers": ["ANN", "carl", "nobody"] }),
            r#"{"user":"Bob","peers":{"ANN":3,"carl":1,"nobody":0},"total":4,"total_of":"peers"}"#,
        ),
        (
            json!({ "user": "bob", "orders": ["o-1", "o-2", "O-1", "o-9"], "app": "otc" }),
            r#"{"user":"bob","orders":{"o-1":2,"o-2":1,"O-1":1,"o-9":0},"total":4,"total_of":"orders"}"#,
        ),
        (
            json!({ "user": "bob", "peers": ["carl"], "orders": ["o-1"] }),
            r#"{"user":"bob","peers":{"carl":1},"orders":{"o-1":2},"total":1,"total_of":"peers"}"#,
        ),
        (
            // One person in two spellings, one of them twice: each spelling is answered, and `total` counts once.
            json!({ "user": "bob", "peers": ["ann", "Ann", "ann"] }),
            r#"{"user":"bob","peers":{"ann":3,"Ann":3},"total":3,"total_of":"peers"}"#,
        ),
        (
            json!({ "user": "bob", "peers": [] }),
            r#"{"user":"bob","peers":{},"total":0,"total_of":"peers"}"#,
        ),
        (
            json!({ "user": "bob", "peers": ["ann", "carl", "nobody"], "cap": 2 }),
            r#"{"user":"bob","peers":{"ann":2,"carl":1,"nobody":0},"total":2,"total_of":"peers"}"#,
        ),
        (
            json!({ "user": "bob", "peers": ["ann", "carl"], "cap": 4 }),
            r#"{"user":"bob","peers":{"ann":3,"carl":1},"total":4,"total_of":"peers"}"#,
        ),
        (
            json!({ "user": "bob", "orders": ["o-1", "O-1", "o-9"], "order_peers": true }),
            r#"{"user":"bob","orders":{"o-1":2,"O-1":1,"o-9":0},"order_peers":{"o-1":{"ann":2},"O-1":{"carl":1},"o-9":{}},"total":3,"total_of":"orders"}"#,
        ),
        (
            json!({ "user": "bob", "orders": ["o-1"], "order_peers": true, "cap": 1 }),
            r#"{"user":"bob","orders":{"o-1":1},"order_peers":{"o-1":{"ann":1}},"total":1,"total_of":"orders"}"#,
        ),
        (
            json!({ "user": "bob", "peers": null, "orders": ["o-2"] }),
            r#"{"user":"bob","orders":{"o-2":1},"total":1,"total_of":"orders"}"#,
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
    for (query, expected) in [
        (
            "user=bob&peers=Ann,carl",
            r#"{"user":"bob","peers":{"Ann":3,"carl":1},"total":4,"total_of":"peers"}"#,
        ),
        (
            "user=bob&peers=ann&peers=carl&app=otc",
            r#"{"user":"bob","peers":{"ann":3,"carl":1},"total":4,"total_of":"peers"}"#,
        ),
        (
            "user=bob&peers=ann&orders=o-2&order_peers=true&cap=2",
            r#"{"user":"bob","peers":{"ann":2},"orders":{"o-2":1},"order_peers":{"o-2":{"ann":1}},"total":2,"total_of":"peers"}"#,
        ),
        (
            "orders=o%2D1&user=bob",
            r#"{"user":"bob","orders":{"o-1":2},"total":2,"total_of":"orders"}"#,
        ),
        (
            "user=bob&peers[]=ann&peers%5B%5D=carl&orders[]=o-1",
            r#"{"user":"bob","peers":{"ann":3,"carl":1},"orders":{"o-1":2},"total":4,"total_of":"peers"}"#,
        ),
        (
            "user=bob&peers=ann%2Ccarl,carl&peers=a+%E4%BD%A0",
            r#"{"user":"bob","peers":{"ann,carl":0,"carl":1,"a 你":0},"total":1,"total_of":"peers"}"#,
        ),
    ] {
        let answer = app
            .get(&format!("/v1/unread?{query}"), &[("Authorization", &key)])
            .await;
        assert_eq!(
            (answer.status, answer.text.as_str()),
            (200, expected),
            "{query}"
        );
    }
    app.end().await;
}

/// Every bad query with its full answer.
#[tokio::test]
async fn bad_queries_are_told_what_is_wrong_and_where() {
    let app = TestApp::start().await;
    let mut told = Vec::new();
    let long = "x".repeat(257);
    let many: Vec<_> = (0..1001).map(|n| n.to_string()).collect();
    let bodies = [
        "".to_owned(),
        " \n".to_owned(),
        "hello".to_owned(),
        r#"{"user":"bob","peers":["a"]"#.to_owned(),
        r#"{"user":"bob","peers":["a"]} x"#.to_owned(),
        r#"["bob"]"#.to_owned(),
        r#"{"peers":["a"]}"#.to_owned(),
        r#"{"user":"","peers":["a"]}"#.to_owned(),
        r#"{"user":5,"peers":["a"]}"#.to_owned(),
        r#"{"user":"bob","peers":["a",""]}"#.to_owned(),
        r#"{"user":"bob","peers":["a",{"$gt":""}]}"#.to_owned(),
        r#"{"user":"bob","peers":"a"}"#.to_owned(),
        r#"{"user":"bob","team":["1"]}"#.to_owned(),
        r#"{"user":"bob","teams":["1",""]}"#.to_owned(),
        r#"{"user":"bob","teams":[1]}"#.to_owned(),
        r#"{"user":"bob","peers":["a"],"cap":0}"#.to_owned(),
        r#"{"user":"bob","peers":["a"],"cap":1000001}"#.to_owned(),
        r#"{"user":"bob","peers":["a"],"cap":"5"}"#.to_owned(),
        r#"{"user":"bob","peers":["a"],"order_peers":true}"#.to_owned(),
        r#"{"user":"bob","order_peers":true}"#.to_owned(),
        r#"{"user":"bob","orders":["a"],"order_peers":1}"#.to_owned(),
        r#"{"user":"bob","peers":["a"],"limit":5}"#.to_owned(),
        r#"{"user":"bob","teams":[],"after":"5b5d"}"#.to_owned(),
        r#"{"user":"bob","limit":0}"#.to_owned(),
        r#"{"user":"bob","limit":1001}"#.to_owned(),
        r#"{"user":"bob","after":""}"#.to_owned(),
        r#"{"user":"bob","after":"next"}"#.to_owned(),
        r#"{"user":"bob","peers":["a"],"app":"none"}"#.to_owned(),
        json!({ "user": "bob", "orders": ["a", long] }).to_string(),
        json!({ "user": "bob", "peers": many }).to_string(),
        json!({ "user": "bob", "peers": &many[..600], "orders": &many[..600] }).to_string(),
        json!({ "user": "bob", "peers": &many[..600], "teams": &many[..600] }).to_string(),
    ];
    let key = format!("Bearer {READ_KEY}");
    for body in bodies {
        let shown = if body.len() > 80 { "(long)" } else { &body };
        let answer = app
            .post("/v1/unread", &[("Authorization", &key)], body.clone())
            .await;
        told.push(json!({ "POST": shown, "answer": answer.problem() }));
    }
    for query in [
        "",
        "peers=a",
        "user=bob&peers=a,,b",
        "user=bob&peers=",
        "user=bob&peer=a",
        "user=bob&cap=many",
        "user=bob&orders=a&order_peers=yes",
        "user=bob&after=5B5D",
        "user=bob&user=carl&peers=a",
        "user=bob&peers=a&app=otc&app=otc",
        "user=b%FFb&peers=a",
        "user=bob&peers=a,%E4%BD",
        "%FF=1",
    ] {
        let answer = app
            .get(&format!("/v1/unread?{query}"), &[("Authorization", &key)])
            .await;
        told.push(json!({ "GET": query, "answer": answer.problem() }));
    }
    insta::assert_json_snapshot!(told);
    app.end().await;
}

/// The reader of JSON would take other bytes for a character, and so ask about another id.
#[tokio::test]
async fn a_body_that_is_not_utf_8_is_told_so() {
    let app = TestApp::start().await;
    let key = format!("Bearer {READ_KEY}");
    let body = b"{\"user\":\"b\xffb\",\"peers\":[\"a\"]}".to_vec();
    let answer = app
        .post("/v1/unread", &[("Authorization", &key)], body)
        .await;
    assert_eq!((answer.status, &*answer.code()), (400, "invalid_utf8"));
    let problem = answer.json();
    assert_eq!(problem["detail"], "the body is not UTF-8 at byte 10");
    app.end().await;
}

/// Zeros would say that there is nothing to read.
#[tokio::test]
async fn orders_of_an_app_without_order_id_are_an_error() {
    let more = r#"
        [[apps]]
        name = "plain"
        provider = "netease"
        app_key = "k"
        app_secrets = ["s"]
        [[apps]]
        name = "yun"
        provider = "yuntongxun"
        app_key = "k"
        app_secrets = ["s"]
    "#;
    let app = TestApp::with(more).await;
    for (name, way_out) in [
        ("plain", "set apps.order_id"),
        ("yun", "apps.order_id cannot be set"),
    ] {
        for (orders, peers) in [
            (json!(["o"]), json!(null)),
            (json!([]), json!(null)),
            (json!(["o"]), json!(["ann"])),
        ] {
            let asked = json!({ "app": name, "user": "bob", "orders": orders, "peers": peers });
            let answer = app.ask(&asked).await;
            let problem = answer.json();
            assert_eq!(
                (
                    answer.status,
                    &problem["code"],
                    &problem["path"],
                    problem.get("total")
                ),
                (422, &json!("orders_not_configured"), &json!("orders"), None),
                "{asked}"
            );
            let detail = problem["detail"].as_str().unwrap();
            assert!(
                detail.contains(way_out) && detail.contains(&format!("`{name}`")),
                "{detail}"
            );
        }
        let peers = json!({ "app": name, "user": "bob", "peers": ["ann"], "orders": null });
        assert_eq!(app.ask(&peers).await.status, 200);
    }
    let asked = json!({ "app": "otc", "user": "bob", "orders": ["o"] });
    assert_eq!(app.ask(&asked).await.json()["orders"], json!({ "o": 0 }));
    app.end().await;
}

#[tokio::test]
async fn a_key_with_the_scope_is_needed() {
    let app = TestApp::start().await;
    let write = format!("Bearer {WRITE_KEY}");
    let lower = format!("bearer {READ_KEY}");
    let invalid = r#"Bearer error="invalid_token""#;
    let insufficient = r#"Bearer error="insufficient_scope""#;
    type Case<'c> = (&'c [(&'c str, &'c str)], u16, &'c str, &'c str);
    let cases: &[Case<'_>] = &[
        (&[], 401, "missing_key", "Bearer"),
        (
            &[("Authorization", "Basic eDp5")],
            401,
            "missing_key",
            "Bearer",
        ),
        (
            &[("Authorization", "Bearer wrong")],
            401,
            "unknown_key",
            invalid,
        ),
        (
            &[("Authorization", &write)],
            403,
            "missing_scope",
            insufficient,
        ),
        (&[("Authorization", &lower)], 200, "", ""),
    ];
    for (headers, status, code, challenge) in cases {
        let get = app.get("/v1/unread?user=a&peers=b", headers).await;
        let post = app
            .post("/v1/unread", headers, r#"{"user":"a","peers":["b"]}"#)
            .await;
        for answer in [get, post] {
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (*status, *code),
                "{answer:?}"
            );
            assert_eq!(answer.header("www-authenticate"), *challenge);
            assert!(!answer.text.contains(READ_KEY) && !answer.text.contains(WRITE_KEY));
        }
    }
    // Without a key, the answer does not tell whether the query is valid.
    assert_eq!(
        app.post("/v1/unread", &[], "junk").await.code(),
        "missing_key"
    );
    let answer = app.post("/livez", &[], "").await;
    assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"));
    app.end().await;
}

#[tokio::test]
async fn without_any_key_queries_are_closed() {
    let mut config = config(&mongodb_uri(), &database_name(), "");
    config.keys.clear();
    let instance = Instance::start(config);
    let answer = crate::support::http().get(instance.url("/v1/unread?user=a&peers=b"));
    let answer = answer.bearer_auth(READ_KEY).send().await.unwrap();
    assert_eq!(answer.status(), 403);
    assert!(!answer.headers().contains_key("www-authenticate"));
    let problem: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "no_keys");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("[[auth.keys]]")
    );
    tokio::task::spawn_blocking(move || drop(instance))
        .await
        .unwrap();
}
