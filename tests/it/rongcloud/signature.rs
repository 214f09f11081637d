//! Which requests pass verification.

use std::collections::BTreeMap;

use im_callback::callback::ids::Millis;
use serde_json::json;

use super::{KEY, PREVIOUS, SECRET, now, post, signed_at, start, text, unread};
use crate::support::TestApp;

async fn is_empty(app: &TestApp) {
    assert_eq!(app.dump().await, BTreeMap::new());
}

#[tokio::test]
async fn forged_requests_are_rejected_and_leave_nothing() {
    let app = start("").await;
    let body = text("ann", "bob", 1_000, "m1");
    let at = |secret, seconds: i64| {
        let at = Millis::new(now().get() - seconds * 1000).unwrap();
        signed_at(body.as_bytes(), secret, at).query
    };
    let right = || at(SECRET, 0);
    let parameter = |name: &str| {
        let query = right();
        let mut parameters = query.split('&');
        let found = parameters.find(|p| p.starts_with(name)).unwrap();
        format!("{query}&{found}")
    };
    let without_key = || right().replace(&format!("appKey={KEY}&"), "");
    for (query, status, code) in [
        (String::new(), 400, "missing_signature"),
        (right().replace("&nonce=", "&n="), 400, "missing_signature"),
        (at("forged", 0), 403, "signature_mismatch"),
        (right() + "0", 403, "signature_mismatch"),
        (
            right().replace("nonce=", "nonce=0"),
            403,
            "signature_mismatch",
        ),
        (parameter("nonce="), 403, "signature_mismatch"),
        (parameter("signTimestamp="), 403, "signature_mismatch"),
        (parameter("signature="), 403, "signature_mismatch"),
        (parameter("appKey="), 403, "app_key_mismatch"),
        (right().replace(KEY, "other"), 403, "app_key_mismatch"),
        (at(SECRET, 11 * 60), 403, "not_fresh"),
        (at(PREVIOUS, -11 * 60), 403, "not_fresh"),
    ] {
        let answer = post(&app, &query, &[], body.as_bytes()).await;
        assert_eq!((answer.status, &*answer.code()), (status, code), "{query}");
    }
    // The body is never searched for a signature.
    let in_body = format!("{body}&{}", right());
    let answer = post(&app, "", &[], in_body.as_bytes()).await;
    assert_eq!((answer.status, &*answer.code()), (400, "missing_signature"));
    let answer = app.get(&format!("/callbacks/rong?{}", right()), &[]).await;
    assert_eq!(answer.status, 405);
    is_empty(&app).await;

    for query in [without_key(), at(PREVIOUS, 0), at(SECRET, 9 * 60)] {
        let answer = post(&app, &query, &[], body.as_bytes()).await;
        assert_eq!((answer.status, &*answer.text), (200, "ok"), "{query}");
    }
    app.end().await;
}

#[tokio::test]
async fn signatures_in_headers_are_accepted() {
    let app = start("").await;
    let body = text("ann", "bob", 1_000, "m1");
    let query = signed_at(body.as_bytes(), PREVIOUS, now()).query;
    let signed: BTreeMap<_, _> = url::form_urlencoded::parse(query.as_bytes()).collect();
    for prefix in ["RC-", ""] {
        let name = |name: &str| format!("{prefix}{name}");
        let names = [
            name("App-Key"),
            name("Nonce"),
            name("Timestamp"),
            name("Signature"),
        ];
        let values = ["appKey", "nonce", "signTimestamp", "signature"].map(|n| &*signed[n]);
        let headers: Vec<_> = names.iter().map(|n| &**n).zip(values).collect();
        let answer = post(&app, "", &headers, body.as_bytes()).await;
        assert_eq!((answer.status, &*answer.text), (200, "ok"), "{prefix}");

        for (left_out, status, code) in [
            (0, 200, ""),
            (1, 400, "missing_signature"),
            (2, 400, "missing_signature"),
            (3, 400, "missing_signature"),
        ] {
            let mut headers = headers.clone();
            headers.remove(left_out);
            let answer = post(&app, "", &headers, body.as_bytes()).await;
            let was = if answer.status == 200 {
                String::new()
            } else {
                answer.code()
            };
            assert_eq!((answer.status, &*was), (status, code), "{prefix}{left_out}");
        }
        for (twice, code) in [
            (0, "app_key_mismatch"),
            (1, "signature_mismatch"),
            (2, "signature_mismatch"),
            (3, "signature_mismatch"),
        ] {
            let mut headers = headers.clone();
            headers.push(headers[twice]);
            let answer = post(&app, "", &headers, body.as_bytes()).await;
            assert_eq!(
                (answer.status, &*answer.code()),
                (403, code),
                "{prefix}{twice}"
            );
        }
        let mut headers = headers.clone();
        headers[3].1 = "30be0bbca9c9b2e27578701e9fda2358a814c88f";
        let answer = post(&app, "", &headers, body.as_bytes()).await;
        assert_eq!(
            (answer.status, &*answer.code()),
            (403, "signature_mismatch")
        );
    }
    assert_eq!(unread(&app, "bob", &["ann"]).await, json!({"ann": 1}));
    app.end().await;
}
