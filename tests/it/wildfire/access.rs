//! Who may send: the secret segment of the path, and the allowlist of addresses.

use mongodb::bson::doc;
use serde_json::json;

use super::samples::{Sample, own_samples};
use super::{
    CONFIG, PREVIOUS, SECRET, dead_letters, deliver, deliver_to, message, post, start, unread,
    unread_of,
};
use crate::support::TestApp;

#[tokio::test]
async fn requests_without_the_secret_are_rejected() {
    let app = start().await;
    let body = message(1, "ann", "bob", 1_721_013_418_878).to_string();
    let upper = SECRET.to_uppercase();
    for (path, status, code) in [
        ("/callbacks/wild", 403, "path_secret_mismatch"),
        ("/callbacks/wild/", 403, "path_secret_mismatch"),
        ("/callbacks/wild/message", 403, "path_secret_mismatch"),
        (
            "/callbacks/wild/im_event/message",
            403,
            "path_secret_mismatch",
        ),
        (
            "/callbacks/wild/segment-of-todax/message",
            403,
            "path_secret_mismatch",
        ),
        (
            &format!("/callbacks/wild/{SECRET}0/message"),
            403,
            "path_secret_mismatch",
        ),
        (
            &format!("/callbacks/wild/{upper}/message"),
            403,
            "path_secret_mismatch",
        ),
        (
            &format!("/callbacks/wild/message/{SECRET}"),
            403,
            "path_secret_mismatch",
        ),
        (
            &format!("/callbacks/wild/message?{SECRET}"),
            403,
            "path_secret_mismatch",
        ),
        (
            &format!("/im_event/{upper}/message"),
            403,
            "path_secret_mismatch",
        ),
        ("/im_event/message", 403, "path_secret_mismatch"),
        (&format!("/callbacks/wild/{SECRET}"), 404, "not_found"),
        (&format!("/callbacks/wild/{SECRET}/"), 404, "not_found"),
        (
            &format!("/callbacks/none/{SECRET}/message"),
            404,
            "unknown_app",
        ),
        // The other app's provider has no routes.
        (
            &format!("/callbacks/otc/{SECRET}/message"),
            404,
            "not_found",
        ),
        (&format!("/im_eventful/{SECRET}/message"), 404, "not_found"),
    ] {
        let answer = post(&app, path, body.clone()).await;
        let got = (answer.status, answer.code());
        assert_eq!(got, (status, code.to_owned()), "{path} {answer:?}");
        assert!(!format!("{answer:?}").contains(SECRET), "{answer:?}");
    }
    let path = format!("/callbacks/wild/{SECRET}/message");
    let answer = app.get(&path, &[]).await;
    assert_eq!((answer.status, answer.header("allow")), (405, "POST"));
    assert!(app.dump().await.is_empty());
    // A large body is read only after the secret is verified; without it the answer comes before the body.
    let large = "x".repeat(100_000);
    let answer = post(&app, "/callbacks/wild/message", large.clone()).await;
    assert_eq!(answer.status, 403);
    assert_eq!(post(&app, &path, large).await.status, 200);
    app.end().await;
}

#[tokio::test]
async fn every_live_secret_and_the_second_path_are_accepted() {
    let app = start().await;
    for (id, path) in [
        (1, format!("/callbacks/wild/{SECRET}/message")),
        (2, format!("/callbacks/wild/{PREVIOUS}/message")),
        (3, format!("/callbacks/wild/{SECRET}/im_event/message")),
        (4, format!("/callbacks/wild/{SECRET}/message/")),
        (5, format!("/im_event/{SECRET}/message")),
        (6, format!("/im_event/{PREVIOUS}/im_event/message")),
    ] {
        let body = message(id, "ann", "bob", 1_721_013_418_878).to_string();
        let answer = post(&app, &path, body).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, ""), "{path}");
        app.document("messages", &format!("wild/p2p/{id}")).await;
    }
    assert_eq!(unread(&app, "bob", "ann").await, 6);
    app.end().await;
}

/// A user of the database must not be able to send callbacks.
#[tokio::test]
async fn the_secret_is_in_no_document() {
    let app = start().await;
    for Sample { route, body, .. } in own_samples() {
        deliver_to(&app, "wild", route, body).await;
    }
    // Wrongly configured addresses.
    deliver(&app, &format!("{SECRET}/message"), json!({ "a": 1 })).await;
    deliver(
        &app,
        &format!("nobody/knows?key={PREVIOUS}"),
        json!({ "a": 2 }),
    )
    .await;
    let routes: Vec<_> = dead_letters(&app).await;
    let has = |name: &str, value: &str| routes.iter().any(|l| l.get_str(name).ok() == Some(value));
    assert!(has("route", "***/message") && has("query", "key=***"));
    for name in app.database.list_collection_names().await.unwrap() {
        let documents = format!("{:?}", app.documents(&name, doc! {}).await);
        let told = documents.contains(SECRET) || documents.contains(PREVIOUS);
        assert!(!told, "{name}");
    }
    app.end().await;
}

#[tokio::test]
async fn an_app_without_secrets_is_protected_by_its_allowlist() {
    let open = |allow: &str, proxies: &str| {
        format!(
            r#"
            http.trusted_proxies = [{proxies}]
            [[apps]]
            name = "open"
            provider = "wildfire"
            allow = [{allow}]
            "#
        )
    };
    let local = r#""127.0.0.1""#;
    let provider = r#""203.0.113.7", "198.51.100.0/24""#;
    let none = "";
    for (allow, proxies, forwarded, is_allowed) in [
        (local, none, None, true),
        (local, none, Some("203.0.113.7"), true),
        (provider, none, None, false),
        // The peer is not a trusted proxy.
        (provider, none, Some("203.0.113.7"), false),
        (provider, local, None, false),
        (provider, local, Some("203.0.113.7"), true),
        (provider, local, Some("198.51.100.9"), true),
        (provider, local, Some("203.0.113.8"), false),
        // Addresses before the last hop are claims of the sender.
        (provider, local, Some("203.0.113.7, 192.0.2.1"), false),
        (provider, local, Some("192.0.2.1, 203.0.113.7"), true),
        (provider, local, Some("203.0.113.7, 127.0.0.1"), true),
        (provider, local, Some("unknown"), false),
        (local, local, Some("203.0.113.7"), false),
    ] {
        let app = TestApp::with(&open(allow, proxies)).await;
        let body = message(1, "ann", "bob", 1_721_013_418_878).to_string();
        let headers: Vec<_> = forwarded
            .map(|by| ("X-Forwarded-For", by))
            .into_iter()
            .collect();
        let case = format!("{allow} {proxies} {forwarded:?}");
        let answer = app.post("/callbacks/open/message", &headers, body).await;
        if is_allowed {
            assert_eq!((answer.status, answer.text.as_str()), (200, ""), "{case}");
            assert_eq!(unread_of(&app, "open", "bob", "ann").await, 1, "{case}");
        } else {
            let refused = (403, "address_not_allowed".to_owned());
            assert_eq!((answer.status, answer.code()), refused, "{case}");
            assert!(app.dump().await.is_empty(), "{case}");
        }
        app.end().await;
    }
}

/// A line that cannot be read might have named a stranger, so nobody is believed to be the proxy itself.
#[tokio::test]
async fn an_unreadable_forwarded_header_opens_nothing() {
    let more = r#"
        http.trusted_proxies = ["127.0.0.1"]
        [[apps]]
        name = "open"
        provider = "wildfire"
        allow = ["127.0.0.1"]
        "#;
    let app = TestApp::with(more).await;
    let body = message(1, "ann", "bob", 1_721_013_418_878).to_string();
    let lines: [&[u8]; 3] = [b"\xff, 203.0.113.7", b"\xff", b""];
    for line in lines {
        let value = reqwest::header::HeaderValue::from_bytes(line).unwrap();
        let url = app.instance.url("/callbacks/open/message");
        let request = app.http.post(url).body(body.clone());
        let request = request.header("X-Forwarded-For", value);
        let answer = crate::support::send(request, &[]).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (403, "address_not_allowed")
        );
    }
    assert!(app.dump().await.is_empty());
    app.end().await;
}

/// An app that has both is protected by both.
#[tokio::test]
async fn a_secret_does_not_bypass_the_allowlist() {
    let both = CONFIG.replace("callback_path", "allow = [\"203.0.113.7\"]\ncallback_path");
    let app = TestApp::with(&both).await;
    let body = message(1, "ann", "bob", 1_721_013_418_878).to_string();
    for path in [
        format!("/callbacks/wild/{SECRET}/message"),
        format!("/im_event/{SECRET}/message"),
        "/callbacks/wild/message".to_owned(),
    ] {
        let answer = post(&app, &path, body.clone()).await;
        let refused = (403, "address_not_allowed".to_owned());
        assert_eq!((answer.status, answer.code()), refused, "{path}");
    }
    assert!(app.dump().await.is_empty());
    app.end().await;
}
