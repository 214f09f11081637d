//! Yuntongxun (容联云通讯): callbacks are verified by the published formula and stored whole.

use mongodb::bson::{Bson, doc};
use serde_json::json;

use crate::support::{Answer, READ_KEY, TestApp, WRITE_KEY};

pub const CONFIG: &str = r#"
    [[apps]]
    name = "cloopen"
    provider = "yuntongxun"
    app_key = "8aaf0708567b3c0f015690f4b0e60d2f"
    app_secrets = ["token-of-today", "token-of-before"]
    callback_path = "/cloopen"
"#;

pub const TIME: &str = "1440570500855";

/// A name, a body, its MD5, and the CheckSum with the current token, made with `openssl` and not by this code (see
/// `src/callback/yuntongxun/tests.rs`).
pub type Vector = (&'static str, &'static [u8], &'static str, &'static str);

pub const VECTORS: [Vector; 4] = [
    (
        "push_msg",
        include_bytes!("../samples/yuntongxun/push_msg.constructed.json"),
        "56c49e2c526b9c4fbbde182d51fdd017",
        "eb998592c70389972e439cce11f07784",
    ),
    ("json", JSON.0, JSON.1, JSON.2),
    (
        "binary",
        b"\x00\xff not JSON\r\n",
        "730c808af9a1c42317a0c2f31cdc8f7c",
        "aebfc3c94294db469ab2b2cc56a5ccb1",
    ),
    (
        "text",
        "你好 👋".as_bytes(),
        "cac6688cea8f1e7cd9229920d7bb1c4b",
        "deae4510809d8c2aed72000b9854f8c9",
    ),
];

const JSON: (&[u8], &str, &str) = (
    b"{\"a\":1}",
    "bb6cb5c68df4652941caf652a366f2d8",
    "3f02f62fecde3515b95615177382e4a0",
);

/// The same body at another time, and by the other token.
const LATER: (&str, &str) = ("1440570500", "af99ef00062bd50771bbf814d1dc0016");
const BY_PREVIOUS_TOKEN: &str = "73baa0011a90ec050a021f6d2420903b";

pub async fn deliver(app: &TestApp, body: &[u8], md5: &str, sum: &str, time: &str) -> Answer {
    let headers = [
        ("Content-Type", "application/json;charset=utf-8"),
        ("MD5", md5),
        ("CheckSum", sum),
        ("CurTime", time),
    ];
    app.post("/callbacks/cloopen", &headers, body.to_vec())
        .await
}

#[track_caller]
fn expect_taken(answer: &Answer) {
    assert_eq!(
        (answer.status, answer.text.as_str()),
        (200, ""),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_body_of_any_kind_is_kept_whole_and_a_redelivery_changes_nothing() {
    let app = TestApp::with(CONFIG).await;
    for (name, body, md5, sum) in VECTORS {
        expect_taken(&deliver(&app, body, md5, sum, TIME).await);
        let stored = app.dump().await;
        expect_taken(&deliver(&app, body, md5, sum, TIME).await);
        assert_eq!(app.dump().await, stored, "{name} delivered again");
        let events = app.documents("events", doc! {}).await;
        let payload = events[0].get_document("payload").unwrap();
        let kept = match payload.get("body") {
            Some(Bson::String(text)) => text.as_bytes(),
            Some(Bson::Binary(binary)) => &binary.bytes,
            other => panic!("{other:?}"),
        };
        assert_eq!(kept, body);
        let folder = "snapshots/yuntongxun";
        insta::with_settings!({
            omit_expression => true, prepend_module_to_snapshot => false, snapshot_path => folder,
        }, {
            insta::assert_json_snapshot!(name, stored);
        });
        app.empty().await;
    }
    app.end().await;
}

/// The provider's mode 高保障 redelivers, perhaps with a new signature.
#[tokio::test]
async fn a_redelivery_that_is_signed_anew_is_the_same_event() {
    let app = TestApp::with(CONFIG).await;
    let (body, md5, sum) = JSON;
    expect_taken(&deliver(&app, body, md5, sum, TIME).await);
    let stored = app.dump().await;
    expect_taken(&deliver(&app, body, md5, LATER.1, LATER.0).await);
    expect_taken(&deliver(&app, body, md5, BY_PREVIOUS_TOKEN, TIME).await);
    let capitals = (md5.to_uppercase(), sum.to_uppercase());
    expect_taken(&deliver(&app, body, &capitals.0, &capitals.1, TIME).await);
    expect_taken(&deliver(&app, body, md5, &capitals.1, TIME).await);
    assert_eq!(app.dump().await, stored);
    app.end().await;
}

#[tokio::test]
async fn forged_requests_are_rejected() {
    let app = TestApp::with(CONFIG).await;
    let (body, md5, sum) = JSON;
    let other = VECTORS[0];
    for (body, md5, sum, time, code) in [
        (&b"{\"a\":2}"[..], md5, sum, TIME, "md5_mismatch"),
        (body, other.2, sum, TIME, "md5_mismatch"),
        (body, "zz", sum, TIME, "md5_mismatch"),
        (body, md5, other.3, TIME, "checksum_mismatch"),
        (body, md5, "", TIME, "checksum_mismatch"),
        (body, md5, sum, "1440570500856", "checksum_mismatch"),
    ] {
        let answer = deliver(&app, body, md5, sum, time).await;
        let refused = (403, code.to_owned());
        assert_eq!((answer.status, answer.code()), refused, "{answer:?}");
    }
    let all = [("MD5", md5), ("CheckSum", sum), ("CurTime", TIME)];
    for (i, code) in ["md5", "checksum", "curtime"].into_iter().enumerate() {
        let mut headers = all.to_vec();
        headers.remove(i);
        let answer = app.post("/callbacks/cloopen", &headers, body).await;
        let refused = (400, format!("missing_header_{code}"));
        assert_eq!((answer.status, answer.code()), refused, "{answer:?}");
    }
    for (path, status, code) in [
        ("/callbacks/cloopen/message", 404, "not_found"),
        ("/cloopen/x", 404, "not_found"),
        // Signed for another provider's app.
        ("/callbacks/otc", 403, "checksum_mismatch"),
    ] {
        let answer = app.post(path, &all, body).await;
        let refused = (status, code.to_owned());
        assert_eq!((answer.status, answer.code()), refused, "{path}");
    }
    assert_eq!(app.get("/callbacks/cloopen", &[]).await.status, 405);
    assert!(app.dump().await.is_empty());
    expect_taken(&app.post("/cloopen", &all, body).await);
    assert_eq!(app.documents("events", doc! {}).await.len(), 1);
    app.end().await;
}

/// An empty body contains no event, and no body contains messages that count.
#[tokio::test]
async fn no_field_is_decoded_from_a_body() {
    let app = TestApp::with(CONFIG).await;
    let empty = (
        "d41d8cd98f00b204e9800998ecf8427e",
        "ff00ae529affc68a4d8e33c25d32ac1d",
    );
    expect_taken(&deliver(&app, b"", empty.0, empty.1, TIME).await);
    assert!(app.dump().await.is_empty());
    let (_, body, md5, sum) = VECTORS[0];
    expect_taken(&deliver(&app, body, md5, sum, TIME).await);
    let asked = json!({ "app": "cloopen", "user": "18201370642", "peers": ["13291217102"] });
    assert_eq!(app.ask(&asked).await.json()["total"], 0);
    assert!(app.documents("messages", doc! {}).await.is_empty());
    app.end().await;
}

/// Its bodies are not decoded, so no setting would give them an order.
#[tokio::test]
async fn nobody_is_told_to_configure_orders() {
    let app = TestApp::with(CONFIG).await;
    for (key, path, question, field) in [
        (
            READ_KEY,
            "/v1/unread",
            json!({ "app": "cloopen", "user": "bob", "orders": ["A-1"] }),
            "orders",
        ),
        (
            WRITE_KEY,
            "/v1/read",
            json!({ "app": "cloopen", "user": "bob", "order": "A-1" }),
            "order",
        ),
    ] {
        let bearer = format!("Bearer {key}");
        let headers = [("Authorization", &*bearer)];
        let answer = app.post(path, &headers, question.to_string()).await;
        let problem = answer.json();
        assert_eq!(
            (&problem["code"], &problem["path"]),
            (&json!("orders_not_configured"), &json!(field)),
            "{answer:?}"
        );
        let detail = "the app `cloopen` has no orders: the bodies of its provider, `yuntongxun`, are not decoded, so \
                      apps.order_id cannot be set";
        assert_eq!(problem["detail"], detail);
    }
    app.end().await;
}
