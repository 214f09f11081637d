//! Pages of other origins: which may ask, on which routes, and that they can read every answer.

use serde_json::json;

use crate::support::proxy::{Line, Proxy};
use crate::support::token::{TOKEN_KEYS, now, site_token};
use crate::support::{Answer, READ_KEY, TestApp, mongodb_uri, send};

const ORIGIN: &str = "https://shop.example";
const OPEN: &str = r#"http.cors_origins = ["https://shop.example", "http://localhost:3000"]"#;

async fn open(more: &str) -> TestApp {
    TestApp::with(&format!("{OPEN}\n{more}\n{TOKEN_KEYS}")).await
}

async fn preflight(app: &TestApp, path: &str, origin: &str) -> Answer {
    let request = app
        .http
        .request("OPTIONS".parse().unwrap(), app.instance.url(path));
    let headers = [
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
        (
            "Access-Control-Request-Headers",
            "authorization,content-type",
        ),
    ];
    send(request, &headers).await
}

/// The headers about CORS, in the order of their names.
fn cors_headers(answer: &Answer) -> Vec<(&str, &str)> {
    let named = |name: &&str| name.starts_with("access-control-") || *name == "vary";
    let mut names: Vec<_> = answer
        .headers
        .keys()
        .map(|name| name.as_str())
        .filter(named)
        .collect();
    names.sort_unstable();
    names
        .into_iter()
        .map(|name| (name, answer.header(name)))
        .collect()
}

#[track_caller]
fn expect_readable(answer: &Answer, origin: &str) {
    let expected = [
        ("access-control-allow-origin", origin),
        ("access-control-expose-headers", "X-Request-Id, Retry-After"),
        ("vary", "Origin"),
    ];
    assert_eq!(cors_headers(answer), expected, "{answer:?}");
}

#[tokio::test]
async fn a_preflight_request_needs_a_known_origin_and_no_key() {
    let app = open("").await;
    for (path, origin) in [
        ("/v1/unread", ORIGIN),
        ("/v1/unread", "http://localhost:3000"),
        ("/v1/messages", ORIGIN),
        ("/v1/presence", ORIGIN),
    ] {
        let answer = preflight(&app, path, origin).await;
        assert_eq!((answer.status, &*answer.text), (204, ""), "{answer:?}");
        let expected = [
            (
                "access-control-allow-headers",
                "Authorization, Content-Type, Last-Event-ID, X-Request-Id",
            ),
            ("access-control-allow-methods", "GET, POST"),
            ("access-control-allow-origin", origin),
            ("access-control-expose-headers", "X-Request-Id, Retry-After"),
            ("access-control-max-age", "3600"),
            ("vary", "Origin"),
        ];
        assert_eq!(cors_headers(&answer), expected);
    }
    for origin in [
        "http://shop.example",
        "https://shop.example:444",
        "https://shop.example.evil",
        "https://evil.shop.example",
        "https://shop.example/",
        "HTTPS://SHOP.EXAMPLE",
        "http://localhost",
        "null",
        "*",
    ] {
        let answer = preflight(&app, "/v1/unread", origin).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (403, "origin_not_allowed")
        );
        assert_eq!(cors_headers(&answer), [("vary", "Origin")], "{origin}");
        assert!(!answer.text.contains(origin) || origin == "*", "{answer:?}");
    }
    app.end().await;
}

/// A question of the same origin, or by a program, has no need of them; the key alone decides.
#[tokio::test]
async fn only_known_origins_may_read() {
    let app = open("").await;
    let bearer = format!("Bearer {READ_KEY}");
    let ask = async |origin: Option<&str>| {
        let mut headers = vec![("Authorization", &*bearer)];
        headers.extend(origin.map(|origin| ("Origin", origin)));
        app.get("/v1/unread?app=otc&user=bob&peers=ann", &headers)
            .await
    };
    let answer = ask(Some(ORIGIN)).await;
    assert_eq!(answer.status, 200);
    expect_readable(&answer, ORIGIN);
    for origin in [None, Some("https://evil.example"), Some("null")] {
        let answer = ask(origin).await;
        assert_eq!(answer.status, 200);
        assert_eq!(cors_headers(&answer), [("vary", "Origin")], "{answer:?}");
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_can_read_every_error() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let more = format!(
        "{OPEN}\nmongodb.query_timeout = \"1s\"\nauth.token_rate = {{ per_second = 1, burst = 2 }}\n{TOKEN_KEYS}"
    );
    let app = TestApp::connected(&proxy.uri(), &more).await;
    let bearer = |over| format!("Bearer {}", site_token(over));
    let ask = async |bearer: Option<String>, body: &str| {
        let mut headers = vec![("Origin", ORIGIN)];
        headers.extend(bearer.as_deref().map(|bearer| ("Authorization", bearer)));
        app.post("/v1/unread", &headers, body.to_owned()).await
    };
    let question = r#"{"user":"bob","peers":["ann"]}"#;
    let cases = [
        (None, question, 401, "missing_key"),
        (
            Some(bearer(json!({ "exp": now() - 1 }))),
            question,
            401,
            "token_expired",
        ),
        (
            Some(bearer(json!({ "aud": "x" }))),
            question,
            401,
            "invalid_token",
        ),
        (
            Some(bearer(json!({ "sub": "carl" }))),
            question,
            403,
            "user_not_allowed",
        ),
        (
            Some(bearer(json!({ "sub": "dora" }))),
            "{}",
            422,
            "missing_field",
        ),
        (
            Some(bearer(json!({ "sub": "emil" }))),
            "no JSON",
            400,
            "invalid_json",
        ),
        (Some(bearer(json!({}))), question, 200, ""),
        (Some(bearer(json!({}))), question, 200, ""),
        (Some(bearer(json!({}))), question, 429, "rate_limited"),
    ];
    for (bearer, body, status, code) in cases {
        let answer = ask(bearer, body).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (status, code),
            "{answer:?}"
        );
        expect_readable(&answer, ORIGIN);
        if status == 429 {
            assert_eq!(answer.header("retry-after"), "1");
        }
        if status >= 400 {
            assert_eq!(answer.header("content-type"), "application/problem+json");
            assert!(!answer.header("x-request-id").is_empty());
        }
    }
    let put = app.http.put(app.instance.url("/v1/unread"));
    let answer = send(put, &[("Origin", ORIGIN)]).await;
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, "GET, HEAD, POST")
    );
    expect_readable(&answer, ORIGIN);
    proxy.set(Line::Stalled);
    let answer = ask(
        Some(bearer(json!({ "sub": "fred" }))),
        &question.replace("bob", "fred"),
    )
    .await;
    assert_eq!(
        (answer.status, &*answer.code()),
        (503, "unavailable"),
        "{answer:?}"
    );
    expect_readable(&answer, ORIGIN);
    proxy.set(Line::Open);
    app.until_ready().await;
    app.end().await;
}

#[tokio::test]
async fn other_routes_are_not_for_pages() {
    let app = open("").await;
    let paths = [
        "/v1/read",
        "/v1/trace",
        "/v1/dead-letters",
        "/v1/dead-letters/otc/1",
        "/livez",
        "/metrics",
    ];
    for path in paths {
        let answer = preflight(&app, path, ORIGIN).await;
        assert_eq!(answer.status, 405, "{answer:?}");
        assert_eq!(cors_headers(&answer), [], "{path}");
        let answer = app.get(path, &[("Origin", ORIGIN)]).await;
        assert_eq!(cors_headers(&answer), [], "{path}");
    }
    for path in [
        "/callbacks/otc",
        "/receiveMsg.action",
        "/v1/unread/",
        "/nothing",
    ] {
        for answer in [
            preflight(&app, path, ORIGIN).await,
            app.post(path, &[("Origin", ORIGIN)], "{}").await,
        ] {
            assert_eq!(cors_headers(&answer), [], "{path}");
        }
    }
    app.end().await;
}

#[tokio::test]
async fn it_is_closed_by_default() {
    let app = TestApp::with(TOKEN_KEYS).await;
    let answer = preflight(&app, "/v1/unread", ORIGIN).await;
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, "GET, HEAD, POST")
    );
    assert_eq!(cors_headers(&answer), []);
    let bearer = format!("Bearer {}", site_token(json!({})));
    let path = "/v1/unread?user=bob&peers=ann";
    let answer = app
        .get(path, &[("Authorization", &bearer), ("Origin", ORIGIN)])
        .await;
    assert_eq!((answer.status, cors_headers(&answer)), (200, vec![]));
    app.end().await;
}

/// One that asks for nothing is no preflight request, but a wrong method.
#[tokio::test]
async fn other_options_requests_are_answered_as_before() {
    let app = open("").await;
    let options = || {
        app.http
            .request("OPTIONS".parse().unwrap(), app.instance.url("/v1/unread"))
    };
    for headers in [
        &[][..],
        &[("Origin", ORIGIN)],
        &[("Access-Control-Request-Method", "GET")],
    ] {
        let answer = send(options(), headers).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (405, "method_not_allowed")
        );
        assert_eq!(answer.header("allow"), "GET, HEAD, POST");
    }
    app.end().await;
}
