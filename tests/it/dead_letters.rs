//! The routes of dead letters: list, show, retry with the current decoder, drop.

use mongodb::bson::{Binary, Bson, DateTime, Document, doc, spec::BinarySubtype};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{ADMIN_KEY, Answer, READ_KEY, TestApp};

const RECEIVED: i64 = 1_700_000_123_456;

fn message(id: usize) -> String {
    json!({
        "eventType": 1, "convType": "PERSON", "to": "bob", "fromAccount": "ann", "msgType": "TEXT",
        "body": "a text that no log may have", "msgTimestamp": 1_700_000_000_000_i64, "msgidServer": id,
    })
    .to_string()
}

/// Inserts a dead letter of an older version, and returns its id.
async fn plant(app: &TestApp, owner: &str, body: impl Into<Bson>, more: Document) -> String {
    let body = body.into();
    let bytes = match &body {
        Bson::String(text) => text.as_bytes(),
        Bson::Binary(binary) => &binary.bytes,
        other => panic!("{other}"),
    };
    let id = format!("{owner}/{}", hex::encode(Sha256::digest(bytes)));
    let mut dead_letter = doc! {
        "_id": &id, "app": owner, "provider": "netease", "code": "bad_value", "reason": "an older one",
        "path": "$.x", "body": body, "receivedAt": DateTime::from_millis(RECEIVED),
    };
    dead_letter.extend(more);
    let dead_letters = app.database.collection::<Document>("dead_letters");
    dead_letters.insert_one(dead_letter).await.unwrap();
    id
}

fn binary(bytes: &[u8]) -> Bson {
    Bson::Binary(Binary {
        subtype: BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    })
}

async fn call(app: &TestApp, method: &str, path: &str, key: &str) -> Answer {
    let url = app.instance.url(path);
    let request = app.http.request(method.parse().unwrap(), url);
    let key = format!("Bearer {key}");
    crate::support::send(request, &[("Authorization", &key)]).await
}

async fn retry(app: &TestApp, id: &str) -> (u16, Value) {
    let path = format!("/v1/dead-letters/{id}/retry");
    let answer = call(app, "POST", &path, ADMIN_KEY).await;
    (answer.status, answer.json())
}

async fn dead_letters(app: &TestApp) -> Vec<Document> {
    app.documents("dead_letters", doc! {}).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_stores_what_the_callback_would_have_stored() {
    let app = TestApp::start().await;
    let as_text = plant(&app, "otc", message(1), doc! {}).await;
    let as_bytes = plant(&app, "otc", binary(message(2).as_bytes()), doc! {}).await;
    // An RTC event: without its product the number would mean something else.
    let room =
        json!({ "eventType": 1, "eventId": "e1", "data": { "channelId": "c", "timestamp": 1 } });
    let rtc = plant(&app, "otc", room.to_string(), doc! { "product": "RTC" }).await;
    for id in [&as_text, &as_bytes, &rtc] {
        let stored = json!({ "id": id, "outcome": "stored" });
        assert_eq!(retry(&app, id).await, (200, stored));
    }
    assert!(dead_letters(&app).await.is_empty());
    for n in [1, 2] {
        let message = app.document("messages", &format!("otc/p2p/{n}")).await;
        let received = message.get_datetime("receivedAt").unwrap();
        assert_eq!(received.timestamp_millis(), RECEIVED);
    }
    let events = app.documents("events", doc! { "product": "rtc" }).await;
    assert_eq!(events.len(), 1);
    let question = json!({ "user": "bob", "peers": ["ann"] });
    assert_eq!(app.ask(&question).await.json()["total"], 2);
    let receipt = json!({
        "eventType": 30, "fromAccount": "bob", "toAccount": "ann",
        "timestamp": 1_700_000_000_000_i64,
    });
    let receipt = plant(&app, "otc", receipt.to_string(), doc! {}).await;
    assert_eq!(retry(&app, &receipt).await.0, 200);
    assert_eq!(app.ask(&question).await.json()["total"], 0);
    app.until_followed().await;
    assert!(
        app.documents("messages", doc! { "state": 0 })
            .await
            .is_empty()
    );
    // Once more: it is gone, and that is said.
    let (status, problem) = retry(&app, &as_text).await;
    assert_eq!(
        (status, &problem["code"]),
        (404, &json!("unknown_dead_letter"))
    );
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_fails_keeps_the_dead_letter_with_the_new_reason() {
    let app = TestApp::start().await;
    let broken = plant(&app, "otc", "{\"eventType\": 1", doc! {}).await;
    let silent = plant(&app, "otc", "{}", doc! {}).await;
    let orphan = plant(&app, "gone", message(1), doc! { "code": "unknown_app" }).await;
    app.deliver(message(1)).await.expect_ok();
    let recall =
        json!({ "eventType": 7, "msgId": 1, "from": "ann", "to": "carl", "deleteTime": 1 });
    let contradicts = plant(&app, "otc", recall.to_string(), doc! {}).await;
    for (id, status, code, now) in [
        (&broken, 422, "still_undecodable", "not_json"),
        (&silent, 422, "still_undecodable", "bad_value"),
        (&orphan, 404, "unknown_app", "unknown_app"),
        (&contradicts, 422, "still_refused", "store_refused"),
    ] {
        for _ in 0..2 {
            let (answered, problem) = retry(&app, id).await;
            assert_eq!(
                (answered, &problem["code"]),
                (status, &json!(code)),
                "{problem}"
            );
            let dead_letter = app.document("dead_letters", id).await;
            assert_eq!(dead_letter.get_str("code").unwrap(), now);
            assert!(dead_letter.contains_key("body"));
        }
    }
    assert_eq!(dead_letters(&app).await.len(), 4);
    app.end().await;
}

/// A receipt's time is compared with the arrival of its callback, not with the time of the retry.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_is_ahead_of_the_time_its_callback_came_at() {
    let app = TestApp::start().await;
    let day_after = RECEIVED + 24 * 3_600_000;
    for (event_type, name) in [(30, "timestamp"), (85, "ackMsgTime")] {
        let receipt = |at: i64| {
            let mut body = json!({
                "eventType": event_type, "fromAccount": "bob", "toAccount": "ann", "accid": "bob",
                "ackAccid": "ann",
            });
            body[name] = json!(at);
            body.to_string()
        };
        let right = plant(&app, "otc", receipt(day_after), doc! {}).await;
        let ahead = plant(&app, "otc", receipt(day_after + 1), doc! {}).await;
        assert_eq!(retry(&app, &ahead).await.0, 422);
        let dead_letter = app.document("dead_letters", &ahead).await;
        assert_eq!(dead_letter.get_str("code").unwrap(), "time_ahead");
        assert_eq!(dead_letter.get_str("path").unwrap(), format!("$.{name}"));
        assert!(app.documents("read_marks", doc! {}).await.is_empty());
        assert_eq!(retry(&app, &right).await.0, 200);
        let mark = &app.documents("read_marks", doc! {}).await[0];
        assert_eq!(mark.get_i64("readUpTo").unwrap(), day_after);
        app.empty().await;
    }
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_without_bodies_shown_with_them_and_dropped() {
    let app = TestApp::start().await;
    let mut ids = Vec::new();
    for n in 0..5_i64 {
        // Two of them in the same millisecond.
        let at = DateTime::from_millis(RECEIVED + n / 2);
        let code = if n == 4 { "not_json" } else { "bad_value" };
        let more = doc! { "receivedAt": at, "code": code };
        ids.push(plant(&app, "otc", format!("secret text {n}"), more).await);
    }
    let not_text = plant(
        &app,
        "other",
        binary(b"\xff\x00"),
        doc! { "receivedAt": DateTime::MIN },
    )
    .await;
    let list = async |query: &str| {
        let answer = call(&app, "GET", &format!("/v1/dead-letters{query}"), ADMIN_KEY).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(!answer.text.contains("secret text"), "{answer:?}");
        answer.json()
    };
    let all = list("").await;
    assert_eq!(
        (all["deadLetters"].as_array().unwrap().len(), &all["next"]),
        (6, &Value::Null)
    );
    let mut paged = Vec::new();
    let mut page = list("?limit=2").await;
    loop {
        paged.extend(page["deadLetters"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else {
            break;
        };
        page = list(&format!("?limit=2&before={next}")).await;
    }
    assert_eq!(json!(paged), all["deadLetters"]);
    let times: Vec<_> = paged
        .iter()
        .map(|l| l["receivedAt"].as_str().unwrap_or_default())
        .collect();
    assert!(times.is_sorted_by(|a, b| a >= b), "{times:?}");
    // No year of four digits.
    assert_eq!(paged[5]["receivedAt"], Value::Null);
    assert_eq!(
        list("?app=other").await["deadLetters"][0]["id"],
        json!(not_text)
    );
    assert_eq!(
        list("?app=otc&code=not_json").await["deadLetters"][0]["id"],
        json!(ids[4])
    );
    assert_eq!(list("?app=none").await["deadLetters"], json!([]));

    let show = async |id: &str| {
        call(&app, "GET", &format!("/v1/dead-letters/{id}"), ADMIN_KEY)
            .await
            .json()
    };
    assert_eq!(show(&ids[3]).await["body"], "secret text 3");
    let shown = show(&not_text).await;
    assert_eq!(
        (&shown["bodyHex"], &shown["body"]),
        (&json!("ff00"), &Value::Null)
    );

    let drop =
        async |id: &str| call(&app, "DELETE", &format!("/v1/dead-letters/{id}"), ADMIN_KEY).await;
    assert_eq!(
        drop(&ids[3]).await.json(),
        json!({ "id": ids[3], "outcome": "dropped" })
    );
    assert_eq!(drop(&ids[3]).await.code(), "unknown_dead_letter");
    assert_eq!(dead_letters(&app).await.len(), 5);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_for_dead_letters_are_refused() {
    let app = TestApp::start().await;
    let id = plant(&app, "otc", message(1), doc! {}).await;
    let one = format!("/v1/dead-letters/{id}");
    let again = format!("{one}/retry");
    let cases = [
        ("GET", "/v1/dead-letters", READ_KEY, 403, "missing_scope"),
        ("GET", &one, READ_KEY, 403, "missing_scope"),
        ("DELETE", &one, READ_KEY, 403, "missing_scope"),
        ("POST", &again, READ_KEY, 403, "missing_scope"),
        ("POST", &again, "no-key", 401, "unknown_key"),
        ("POST", &one, ADMIN_KEY, 405, "method_not_allowed"),
        ("GET", &again, ADMIN_KEY, 405, "method_not_allowed"),
        (
            "DELETE",
            "/v1/dead-letters",
            ADMIN_KEY,
            405,
            "method_not_allowed",
        ),
        (
            "GET",
            "/v1/dead-letters/otc/0a1b",
            ADMIN_KEY,
            404,
            "unknown_dead_letter",
        ),
        (
            "DELETE",
            "/v1/dead-letters/otc/%24ne",
            ADMIN_KEY,
            404,
            "unknown_dead_letter",
        ),
        (
            "GET",
            "/v1/dead-letters?limit=0",
            ADMIN_KEY,
            422,
            "invalid_field",
        ),
        (
            "GET",
            "/v1/dead-letters?limit=501",
            ADMIN_KEY,
            422,
            "invalid_field",
        ),
        (
            "GET",
            "/v1/dead-letters?limit=x",
            ADMIN_KEY,
            422,
            "invalid_field",
        ),
        (
            "GET",
            "/v1/dead-letters?before=x",
            ADMIN_KEY,
            422,
            "invalid_field",
        ),
        (
            "GET",
            "/v1/dead-letters?app[$ne]=x",
            ADMIN_KEY,
            422,
            "unknown_field",
        ),
        (
            "GET",
            "/v1/dead-letters?app=otc&app=otc",
            ADMIN_KEY,
            422,
            "invalid_field",
        ),
        (
            "GET",
            "/v1/dead-letters?app=%FF",
            ADMIN_KEY,
            400,
            "invalid_utf8",
        ),
    ];
    let path_of = async |query: &str| {
        let path = format!("/v1/dead-letters?{query}");
        call(&app, "GET", &path, ADMIN_KEY).await.json()["path"].clone()
    };
    assert_eq!(path_of("limits=1").await, "limits");
    assert_eq!(path_of("limit=no").await, "limit");
    for (method, path, key, status, code) in cases {
        let answer = call(&app, method, path, key).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{method} {path} {answer:?}"
        );
    }
    assert_eq!(dead_letters(&app).await.len(), 1);
    app.end().await;
}
