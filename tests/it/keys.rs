//! Keys: those limited to apps, the limit on wrong ones, and what the log says of both.

use std::time::{Duration, Instant};

use mongodb::bson::{DateTime, Document, doc};
use serde_json::{Value, json};

use crate::support::process::Process;
use crate::support::{
    ADMIN_KEY, Answer, READ_KEY, TestApp, WRITE_KEY, database_name, http, mongodb_uri, send,
};

/// Keys for one app and for two, and more apps than the usual one.
const LIMITED: &str = r#"
    http.trusted_proxies = ["127.0.0.1"]
    [[apps]]
    name = "shop"
    provider = "netease"
    app_key = "k"
    app_secrets = ["s"]
    order_id = { field = "ext", pointer = "/orderId" }
    [[apps]]
    name = "third"
    provider = "netease"
    app_key = "k"
    app_secrets = ["s"]
    [[auth.keys]]
    name = "of-shop"
    secret = "the-tests-key-of-shop"
    scopes = ["read", "write", "admin"]
    apps = ["shop"]
    [[auth.keys]]
    name = "of-two"
    secret = "the-tests-key-of-two"
    scopes = ["read", "write", "admin"]
    apps = ["shop", "otc"]
"#;
const OF_SHOP: &str = "the-tests-key-of-shop";
const OF_TWO: &str = "the-tests-key-of-two";

/// Asks an instance or a process as this client.
async fn call(
    http: &reqwest::Client,
    base: &str,
    key: &str,
    client: &str,
    (method, path, body): (&str, &str, Value),
) -> Answer {
    let request = http.request(method.parse().unwrap(), format!("{base}{path}"));
    let request = match body {
        Value::Null => request,
        body => request.body(body.to_string()),
    };
    let bearer = format!("Bearer {key}");
    send(
        request,
        &[("Authorization", &bearer), ("X-Forwarded-For", client)],
    )
    .await
}

async fn call_app(app: &TestApp, key: &str, request: (&str, &str, Value)) -> Answer {
    call(&app.http, &app.instance.url(""), key, "192.0.2.1", request).await
}

fn dead_letter(app: &str, n: i64) -> Document {
    doc! {
        "_id": format!("{app}/{n}"), "app": app, "provider": "netease", "code": "not_json",
        "reason": "r", "path": "$", "body": "a text of nobody", "receivedAt": DateTime::from_millis(n),
    }
}

async fn plant(app: &TestApp, dead_letters: impl IntoIterator<Item = Document>) {
    let collection = app.database.collection::<Document>("dead_letters");
    collection.insert_many(dead_letters).await.unwrap();
}

/// Every route that takes a key, asked about this app.
pub fn requests(app: &str) -> Vec<(&'static str, String, Value)> {
    let question = json!({ "app": app, "user": "bob", "peers": ["ann"] });
    vec![
        ("POST", "/v1/unread".to_owned(), question.clone()),
        (
            "GET",
            format!("/v1/unread?user=bob&peers=ann&app={app}"),
            Value::Null,
        ),
        (
            "POST",
            "/v1/messages".to_owned(),
            json!({ "app": app, "user": "bob", "peer": "ann" }),
        ),
        (
            "GET",
            format!("/v1/messages?user=bob&team=7&app={app}"),
            Value::Null,
        ),
        (
            "POST",
            "/v1/read".to_owned(),
            json!({ "app": app, "user": "bob", "peer": "ann" }),
        ),
        (
            "POST",
            "/v1/presence".to_owned(),
            json!({ "app": app, "users": ["bob"] }),
        ),
        (
            "GET",
            format!("/v1/presence?users=bob&app={app}"),
            Value::Null,
        ),
        ("POST", "/v1/unread/stream".to_owned(), question),
        (
            "GET",
            format!("/v1/unread/stream?user=bob&peers=ann&app={app}"),
            Value::Null,
        ),
        ("GET", format!("/v1/trace?app={app}&id=1"), Value::Null),
        ("GET", format!("/v1/dead-letters?app={app}"), Value::Null),
        ("GET", format!("/v1/dead-letters/{app}/1"), Value::Null),
        (
            "POST",
            format!("/v1/dead-letters/{app}/1/retry"),
            Value::Null,
        ),
        ("DELETE", format!("/v1/dead-letters/{app}/1"), Value::Null),
    ]
}

#[tokio::test]
async fn a_key_is_kept_to_its_apps_on_every_route() {
    let app = TestApp::with(LIMITED).await;
    plant(
        &app,
        ["otc", "shop", "third"].map(|name| dead_letter(name, 1)),
    )
    .await;
    // Whether the app exists is not told.
    for other in ["otc", "third", "none", "SHOP", "shop%2f", ""] {
        for (method, path, body) in requests(other) {
            let is_no_route = other.is_empty() && path.contains("//");
            if is_no_route {
                continue;
            }
            let answer = call_app(&app, OF_SHOP, (method, &path, body)).await;
            assert_eq!(
                (answer.status, &*answer.code()),
                (403, "app_not_allowed"),
                "{method} {path} {answer:?}"
            );
            assert_eq!(
                answer.header("www-authenticate"),
                r#"Bearer error="insufficient_scope""#
            );
            let problem = answer.json();
            assert_eq!(
                problem["detail"],
                "the key `of-shop` is limited to some apps (auth.keys.apps), and not allowed this"
            );
        }
    }
    assert_eq!(app.documents("dead_letters", doc! {}).await.len(), 3);
    assert_eq!(app.documents("read_marks", doc! {}).await.len(), 0);
    for (method, path, body) in requests("shop") {
        if path.starts_with("/v1/unread/stream") {
            // It has no end.
            continue;
        }
        let answer = call_app(&app, OF_SHOP, (method, &path, body)).await;
        let expected = match path.split(['/', '?']).nth(2) {
            // No message is stored.
            Some("trace") => 404,
            // The planted body is no JSON, so a retry cannot decode it.
            _ if path.ends_with("retry") => 422,
            _ => 200,
        };
        assert_eq!(answer.status, expected, "{method} {path} {answer:?}");
    }
    let left = app.documents("dead_letters", doc! {}).await;
    let left: Vec<_> = left.iter().map(|d| d.get_str("_id").unwrap()).collect();
    assert_eq!(left, ["otc/1", "third/1"]);
    app.end().await;
}

#[tokio::test]
async fn a_limited_keys_lists_hold_its_apps_alone_and_their_pages_are_whole() {
    let app = TestApp::with(LIMITED).await;
    // Of an app that is gone, too: nobody limited may see it.
    let owners = ["otc", "third", "shop", "gone", "third"];
    let dead_letters = (0..40).map(|n| dead_letter(owners[n % owners.len()], n as i64));
    plant(&app, dead_letters).await;
    let pages = async |key: &str, limit: usize| {
        let (mut ids, mut sizes, mut before) = (Vec::new(), Vec::new(), String::new());
        loop {
            let path = format!("/v1/dead-letters?limit={limit}{before}");
            let page = call_app(&app, key, ("GET", &path, Value::Null))
                .await
                .json();
            let listed = page["deadLetters"].as_array().unwrap();
            sizes.push(listed.len());
            ids.extend(listed.iter().map(|l| l["id"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(next) => before = format!("&before={next}"),
                None => return (ids, sizes),
            }
        }
    };
    let (ids, sizes) = pages(OF_TWO, 5).await;
    assert_eq!(sizes, [5, 5, 5, 1], "{ids:?}");
    assert!(
        ids.iter()
            .all(|id| id.starts_with("otc/") || id.starts_with("shop/"))
    );
    let (ids, sizes) = pages(OF_SHOP, 5).await;
    assert_eq!(sizes, [5, 3], "{ids:?}");
    assert!(ids.iter().all(|id| id.starts_with("shop/")));
    let (ids, _) = pages(ADMIN_KEY, 7).await;
    assert_eq!(ids.len(), 40);
    app.end().await;
}

/// A key for one app need not name it; a key for several must, and is told nothing of the others.
#[tokio::test]
async fn a_key_for_one_app_need_not_name_it() {
    let app = TestApp::with(LIMITED).await;
    crate::unread::with_messages(&app).await;
    let question = json!({ "user": "bob", "peers": ["ann"] });
    let ask = async |key: &str| call_app(&app, key, ("POST", "/v1/unread", question.clone())).await;
    let answer = ask(OF_SHOP).await;
    assert_eq!(
        answer.text,
        r#"{"user":"bob","peers":{"ann":0},"total":0,"total_of":"peers"}"#
    );
    for (key, detail) in [
        (OF_TWO, "the key is for several apps; name one"),
        (READ_KEY, "several apps are configured; name one"),
    ] {
        let problem = ask(key).await.json();
        assert_eq!(
            (&problem["code"], &problem["path"]),
            (&json!("missing_field"), &json!("app"))
        );
        assert_eq!(problem["detail"], detail);
    }
    let named = json!({ "app": "otc", "user": "bob", "peers": ["ann"] });
    let answer = call_app(&app, OF_TWO, ("POST", "/v1/unread", named)).await;
    assert_eq!(answer.json()["total"], 3);
    app.end().await;
}

/// Too many wrong keys are answered 429, and keep out nobody who has a right one.
#[tokio::test]
async fn a_flood_of_wrong_keys_locks_nobody_out() {
    let app = TestApp::with(LIMITED).await;
    let question = json!({ "app": "otc", "user": "bob", "peers": ["ann"] });
    let (client, other) = ("2001:db8::1", "2001:db8:0:1::1");
    let ask = async |key: &str, client: &str| {
        let request = ("POST", "/v1/unread", question.clone());
        call(&app.http, &app.instance.url(""), key, client, request).await
    };
    let mut unknown = 0;
    for n in 0..40 {
        let answer = ask(&format!("a-guess-{n}"), client).await;
        let challenge = answer.header("www-authenticate");
        assert_eq!(challenge, r#"Bearer error="invalid_token""#, "{answer:?}");
        match (answer.status, &*answer.code()) {
            (401, "unknown_key") => unknown += 1,
            (429, "too_many_failed_keys") => assert_eq!(answer.header("retry-after"), "6"),
            other => panic!("{other:?}"),
        }
    }
    // Ten, and those that came back while the test ran.
    assert!((10..16).contains(&unknown), "{unknown}");
    assert_eq!(
        ask("a-guess", "2001:db8::2").await.status,
        429,
        "the same network"
    );
    let right = ask(READ_KEY, client).await;
    assert_eq!(right.status, 200, "{right:?}");
    assert_eq!(ask(WRITE_KEY, client).await.code(), "missing_scope");
    let no_key = app.http.post(app.instance.url("/v1/unread"));
    let no_key = send(no_key, &[("X-Forwarded-For", client)]).await;
    assert_eq!(no_key.code(), "missing_key");
    // With other budgets, unless the two meet in the table by a rare chance.
    let statuses = [
        ask("a-guess", other).await,
        ask("a-guess", "192.0.2.9").await,
    ];
    assert!(
        statuses.iter().any(|answer| answer.status == 401),
        "{statuses:?}"
    );
    app.end().await;
}

/// What an operator reads of keys: who did what, and who was refused, never a token or a text.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_keys_and_clients_and_no_secret() {
    let name = database_name();
    let mut process = Process::new(&mongodb_uri(), &name, LIMITED);
    tokio::task::block_in_place(|| process.start());
    let (http, base) = (http(), format!("http://{}", process.address));
    process.until_drained(&http).await;
    let client = mongodb::Client::with_uri_str(mongodb_uri()).await.unwrap();
    let database = client.database(&name);
    let dead_letters = database.collection::<Document>("dead_letters");
    dead_letters
        .insert_many([dead_letter("shop", 1), dead_letter("otc", 2)])
        .await
        .unwrap();
    let ask = async |key: &str, method: &str, path: &str| {
        call(&http, &base, key, "192.0.2.7", (method, path, Value::Null))
            .await
            .status
    };
    assert_eq!(ask(OF_SHOP, "GET", "/v1/dead-letters/shop/1").await, 200);
    assert_eq!(
        ask(OF_SHOP, "POST", "/v1/dead-letters/shop/1/retry").await,
        422
    );
    assert_eq!(ask(OF_SHOP, "GET", "/v1/dead-letters/otc/2").await, 403);
    assert_eq!(
        ask(ADMIN_KEY, "DELETE", "/v1/dead-letters/otc/2").await,
        200
    );
    assert_eq!(
        ask(ADMIN_KEY, "DELETE", "/v1/dead-letters/otc/2").await,
        404
    );
    assert_eq!(ask(WRITE_KEY, "GET", "/v1/dead-letters").await, 403);
    for _ in 0..40 {
        let status = ask("a-token-of-nobody", "GET", "/v1/dead-letters").await;
        assert!([401, 429].contains(&status));
    }
    let log = process.log();
    let lines = |words: &[&str]| {
        let lines = log.lines();
        lines
            .filter(|line| words.iter().all(|word| line.contains(word)))
            .count()
    };
    for words in [
        &[
            "INFO",
            "a dead letter was shown",
            r#"id="shop/1""#,
            r#"key="of-shop""#,
        ][..],
        &[
            "INFO",
            "a dead letter was retried",
            r#"id="shop/1""#,
            r#"key="of-shop""#,
            "still_undecodable",
        ],
        &[
            "WARN",
            "a dead letter was dropped",
            r#"id="otc/2""#,
            r#"key="operator""#,
        ],
        &[
            "WARN",
            "a key was refused",
            r#"reason="app""#,
            r#"key="of-shop""#,
            "client=192.0.2.7",
        ],
        &[
            "WARN",
            "a key was refused",
            r#"reason="scope""#,
            r#"key="writer""#,
            "client=192.0.2.7",
        ],
    ] {
        assert_eq!(lines(words), 1, "{words:?} in {log}");
    }
    let unknown = lines(&[
        "a key was refused",
        r#"reason="unknown""#,
        "client=192.0.2.7",
    ]);
    assert!((10..16).contains(&unknown), "{unknown} in {log}");
    assert_eq!(lines(&["throttled"]), unknown, "no line of its own: {log}");
    for hidden in [
        "a-token-of-nobody",
        "a text of nobody",
        OF_SHOP,
        ADMIN_KEY,
        "Some(",
    ] {
        assert!(!log.contains(hidden), "{hidden} in {log}");
    }
    drop(process);
    database.drop().await.unwrap();
}

/// A reload changes what a key may ask, and refuses a list with an app that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_moves_a_keys_limit() {
    let name = database_name();
    let mut process = Process::new(&mongodb_uri(), &name, LIMITED);
    tokio::task::block_in_place(|| process.start());
    let (http, base) = (http(), format!("http://{}", process.address));
    process.until_drained(&http).await;
    let ask = async |app: &str| {
        let question = json!({ "app": app, "user": "bob", "peers": ["ann"] });
        let request = ("POST", "/v1/unread", question);
        call(&http, &base, OF_SHOP, "192.0.2.1", request)
            .await
            .status
    };
    let file = process.config_file();
    let text = std::fs::read_to_string(&file).unwrap();
    let reload = async |text: String, says: &str| {
        let before = process.log().matches(says).count();
        let since = Instant::now();
        std::fs::write(&file, text).unwrap();
        process.signal("-HUP");
        while process.log().matches(says).count() == before {
            assert!(since.elapsed() < Duration::from_secs(20), "{says}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert_eq!((ask("shop").await, ask("third").await), (200, 403));
    let one = r#"apps = ["shop"]"#;
    reload(text.replace(one, r#"apps = ["third"]"#), "read anew").await;
    assert_eq!((ask("shop").await, ask("third").await), (403, 200));
    let gone = text.replace(r#"name = "third""#, r#"name = "fourth""#);
    reload(
        gone.replace(one, r#"apps = ["third"]"#),
        "the old one stays",
    )
    .await;
    assert!(process.log().contains("no app is named `third`"));
    assert_eq!((ask("shop").await, ask("third").await), (403, 200));
    reload(text.replace(one, ""), "read anew").await;
    assert_eq!((ask("shop").await, ask("third").await), (200, 200));
    drop(process);
    let client = mongodb::Client::with_uri_str(mongodb_uri()).await.unwrap();
    client.database(&name).drop().await.unwrap();
}
