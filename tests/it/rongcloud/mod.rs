//! RongCloud's callbacks, through real HTTP into a real database.

mod any_order;
mod counts;
pub mod samples;
mod signature;

use std::time::{SystemTime, UNIX_EPOCH};

use im_callback::callback::ids::Millis;
use im_callback::callback::rongcloud::{Rongcloud, RongcloudRules, Weight};
use im_callback::callback::{Credentials, Provider, Signed};
use serde_json::{Value, json};

use crate::support::{Answer, TestApp};

const KEY: &str = "uwd1c0sxdlx2";
const SECRET: &str = "rong-secret";
const PREVIOUS: &str = "rong-previous-secret";

/// A configuration with one RongCloud app.
pub fn configured(settings: &str) -> String {
    format!(
        r#"
        [[apps]]
        name = "rong"
        provider = "rongcloud"
        app_key = "{KEY}"
        app_secrets = ["{SECRET}", "{PREVIOUS}"]
        {settings}
        "#
    )
}

async fn start(settings: &str) -> TestApp {
    TestApp::with(&configured(settings)).await
}

fn now() -> Millis {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Millis::new(i64::try_from(since_1970.as_millis()).unwrap()).unwrap()
}

fn signed_at(body: &[u8], secret: &str, at: Millis) -> Signed {
    let provider = Provider::Rongcloud(Rongcloud {
        credentials: Credentials {
            app_key: KEY.to_owned(),
            secrets: vec![secret.into()],
        },
        freshness: None,
        rules: RongcloudRules {
            types: Default::default(),
            other_types: Weight::Counted,
            order_id: None,
        },
    });
    provider.sign(body, "", at)
}

async fn post(app: &TestApp, query: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let path = format!("/callbacks/rong?{query}");
    app.post(&path, headers, body.to_vec()).await
}

/// Delivers a callback as the provider does.
pub async fn deliver(app: &TestApp, body: impl AsRef<[u8]>) {
    let signed = signed_at(body.as_ref(), SECRET, now());
    let headers: Vec<_> = signed.headers.iter().map(|(n, v)| (*n, &**v)).collect();
    let answer = post(app, &signed.query, &headers, body.as_ref()).await;
    let reply = (answer.status, &*answer.text, answer.header("content-type"));
    assert_eq!(reply, (200, "ok", "text/plain; charset=utf-8"));
}

/// A form; encodes the parameters.
fn form(parameters: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(parameters)
        .finish()
}

/// A routed message of a type, from one user to another.
fn routed(object_name: &str, from: &str, to: &str, at: i64, id: &str, content: &Value) -> String {
    form(&[
        ("channelType", "PERSON"),
        ("fromUserId", from),
        ("toUserId", to),
        ("objectName", object_name),
        ("content", &content.to_string()),
        ("msgTimestamp", &at.to_string()),
        ("msgUID", id),
    ])
}

fn text(from: &str, to: &str, at: i64, id: &str) -> String {
    routed("RC:TxtMsg", from, to, at, id, &json!({"content": "x"}))
}

fn receipt(reader: &str, peer: &str, up_to: i64) -> String {
    let content = json!({"lastMessageSendTime": up_to, "type": 1});
    let id = format!("read-{reader}-{up_to}");
    routed("RC:ReadNtf", reader, peer, up_to + 9, &id, &content)
}

fn command(from: &str, to: &str, id: &str) -> String {
    let content =
        json!({"messageUId": id, "conversationType": 1, "targetId": to, "isDelete": true});
    let own_id = format!("command-{id}");
    routed("RC:RcCmd", from, to, 5_000, &own_id, &content)
}

fn operation(from: &str, to: &str, at: i64, id: &str) -> String {
    json!({
        "eventType": 1,
        "fromUserId": from,
        "optTime": at,
        "conversationInfo": {"conversationType": 1, "targetId": to},
        "originalMsgInfo": {"messageId": id, "messageTime": 2_000},
        "recallMsgInfo": {"isDelete": 1},
    })
    .to_string()
}

async fn unread(app: &TestApp, user: &str, peers: &[&str]) -> Value {
    let asked = json!({"app": "rong", "user": user, "peers": peers});
    let answer = app.ask(&asked).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["peers"].take()
}
