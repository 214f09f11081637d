//! Wildfire IM, through real HTTP into a real database.

mod access;
mod counts;
pub mod samples;
mod undecodable;

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::support::{Answer, TestApp};

const SECRET: &str = "segment-of-today";
const PREVIOUS: &str = "segment-of-before";

pub const CONFIG: &str = r#"
    [[apps]]
    name = "wild"
    provider = "wildfire"
    app_secrets = ["segment-of-today", "segment-of-before"]
    callback_path = "/im_event"
    order_id = { field = "payload", pointer = "/extra/orderId" }
"#;

async fn start() -> TestApp {
    TestApp::with(CONFIG).await
}

async fn post(app: &TestApp, path: &str, body: impl Into<reqwest::Body>) -> Answer {
    let json = ("Content-Type", "application/json; charset=utf-8");
    app.post(path, &[json], body).await
}

/// Delivers an event as the provider does, and checks that the response is empty: the hook before sending would
/// send its body instead of the message.
pub async fn deliver_to(app: &TestApp, name: &str, route: &str, body: impl Into<reqwest::Body>) {
    let path = format!("/callbacks/{name}/{SECRET}/{route}");
    let answer = post(app, &path, body).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, ""), "{route}");
    assert_eq!(answer.header("content-length"), "0");
    assert_eq!(answer.header("content-type"), "");
}

pub async fn deliver(app: &TestApp, route: &str, body: impl ToString) {
    deliver_to(app, "wild", route, body.to_string()).await;
}

fn conv(to: &str, line: i64) -> Value {
    json!({ "type": 0, "target": to, "line": line })
}

fn message(id: u64, from: &str, to: &str, at: i64) -> Value {
    json!({
        "messageId": id, "sender": from, "conv": conv(to, 0), "toUsers": [], "timestamp": at,
        "payload": { "type": 1, "searchableContent": format!("text {id}"), "persistFlag": 3 },
    })
}

fn read(user: &str, peer: &str, line: i64, at: i64) -> Value {
    json!({ "user": user, "conversation": conv(peer, line), "readTime": at })
}

fn recall(message: &Value, at: i64) -> Value {
    json!({ "message": message, "userId": message["sender"], "timestamp": at, "isAdmin": false })
}

/// The unread count of a peer's messages.
async fn unread_of(app: &TestApp, name: &str, user: &str, peer: &str) -> u64 {
    let asked = json!({ "app": name, "user": user, "peers": [peer] });
    let answer = app.ask(&asked).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["peers"][peer].as_u64().unwrap()
}

async fn unread(app: &TestApp, user: &str, peer: &str) -> u64 {
    unread_of(app, "wild", user, peer).await
}

async fn dead_letters(app: &TestApp) -> Vec<Document> {
    app.documents("dead_letters", doc! {}).await
}
