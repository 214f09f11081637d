//! Who is online: the facts in the documents, and the answers made of them.

mod answers;
mod limits;
mod oracle;
mod providers;
mod stored;

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::{Answer, Instance, READ_KEY, TestApp, send};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

/// The time now in whole seconds, as milliseconds.
fn now() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since_1970.as_secs()).unwrap() * 1000
}

/// A login, logout or heartbeat of NetEase's, with the device's id unless that is empty.
fn event(kind: i32, account: &str, client_type: &str, device: &str, at: i64) -> Value {
    let mut event = json!({
        "eventType": kind.to_string(), "accid": account, "clientType": client_type, "timestamp": at.to_string(),
        "clientIp": "192.0.2.77",
    });
    if !device.is_empty() {
        event["deviceId"] = json!(device);
    }
    event
}

fn login(account: &str, client_type: &str, device: &str, at: i64) -> Value {
    event(2, account, client_type, device, at)
}

fn logout(account: &str, client_type: &str, device: &str, at: i64) -> Value {
    event(3, account, client_type, device, at)
}

fn heartbeat(account: &str, client_type: &str, device: &str, at: i64) -> Value {
    event(42, account, client_type, device, at)
}

/// With NetEase's reason of a logout.
fn because(mut logout: Value, reason: i32) -> Value {
    logout["logOutReason"] = json!(reason);
    logout
}

async fn deliver_all(app: &TestApp, events: &[Value]) {
    for event in events {
        app.deliver(event.to_string()).await.expect_ok();
    }
}

async fn ask_at(app: &TestApp, instance: &Instance, question: &Value) -> Answer {
    let request = app.http.post(instance.url("/v1/presence"));
    let key = format!("Bearer {READ_KEY}");
    let request = request.body(question.to_string());
    send(request, &[("Authorization", &key)]).await
}

async fn ask(app: &TestApp, question: &Value) -> Answer {
    ask_at(app, &app.instance, question).await
}

/// What is answered of one user.
async fn presence_of(app: &TestApp, user: &str) -> Value {
    let answer = ask(app, &json!({ "users": [user] })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["users"][user].clone()
}

/// A time as the answer has it.
fn text(at: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(at).unwrap();
    let text = at.to_string();
    // Whole seconds.
    text.replace('Z', ".000Z")
}
