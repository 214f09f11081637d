//! Three days of two apps: what the outputs in `docs/analysts.md` were counted from, by hand before by machine.

use mongodb::Database;
use mongodb::bson::{DateTime, Document, doc};
use serde_json::{Value, json};

use crate::support::{Answer, SECRET, TestApp, WRITE_KEY, send, signed};

/// A second app of the same provider.
pub const SHOP: &str = r#"
mongodb.analyst_indexes = true
[[apps]]
name = "shop"
provider = "netease"
app_key = "test-app-key"
app_secrets = ["current-secret"]
"#;

/// The texts that a user without the right to read messages must not see.
pub const TEXTS: [&str; 3] = ["words of a message", "words of an edit", "words of a room"];

/// The beginning of 2025-09-01 in Shanghai.
const BEGIN: i64 = 1_756_656_000_000;

/// `2 12:01:00` is on the second day.
fn at(time: &str) -> i64 {
    let numbers: Vec<i64> = time
        .split([' ', ':'])
        .map(|part| part.parse().unwrap())
        .collect();
    let [day, hours, minutes, seconds] = numbers[..] else {
        panic!("{time}");
    };
    BEGIN + (((day - 1) * 24 + hours) * 3600 + minutes * 60 + seconds) * 1000
}

/// Id, from, to, time, order.
const MESSAGES: &[(u32, &str, &str, &str, &str)] = &[
    (1, "ann", "shop1", "1 09:00:00", "A1"),
    (2, "shop1", "ann", "1 09:04:00", "A1"),
    (3, "ann", "shop1", "1 09:05:00", "A1"),
    (4, "ann", "shop1", "1 09:06:00", "A1"),
    (5, "shop1", "ann", "1 10:05:00", "A1"),
    // Answered on the next day.
    (6, "bob", "shop1", "1 23:50:00", "B7"),
    (7, "shop1", "bob", "2 00:10:00", "B7"),
    // Neither read nor answered.
    (8, "bob", "shop2", "2 12:00:00", "B7"),
    (9, "bob", "shop2", "2 12:01:00", "B7"),
    // Recalled.
    (10, "carl", "shop1", "2 15:00:00", ""),
    // Read, and not answered.
    (11, "carl", "shop1", "2 16:00:00", ""),
    // Answered, and not read.
    (13, "dora", "shop1", "3 08:00:00", "D2"),
    (14, "shop1", "dora", "3 08:00:30", "D2"),
    // Between buyers.
    (16, "ann", "bob", "3 09:00:00", ""),
];

/// Reader, peer, up to which message's time, and when the receipt arrived.
const RECEIPTS: &[(&str, &str, &str, &str)] = &[
    ("shop1", "ann", "1 09:00:00", "1 09:01:00"),
    ("shop1", "ann", "1 09:06:00", "1 09:10:00"),
    ("ann", "shop1", "1 10:05:00", "1 10:05:20"),
    ("shop1", "bob", "1 23:50:00", "1 23:58:00"),
    ("bob", "shop1", "2 00:10:00", "2 00:10:05"),
    ("shop1", "carl", "2 16:00:00", "2 16:30:00"),
];

/// Account, eventType (2 login, 3 logout, 42 heartbeat), device, code, time.
const DEVICES: &[(&str, u32, &str, &str, &str)] = &[
    // Two devices, an hour together.
    ("ann", 2, "AOS", "200", "1 09:00:00"),
    ("ann", 2, "IOS", "200", "1 09:20:00"),
    ("ann", 3, "AOS", "200", "1 09:30:00"),
    ("ann", 3, "IOS", "200", "1 10:00:00"),
    // Half an hour until the heartbeat, and the longest time after it.
    ("ann", 2, "AOS", "200", "2 20:00:00"),
    ("ann", 42, "AOS", "", "2 20:30:00"),
    // Refused.
    ("bob", 2, "PC", "302", "1 08:00:00"),
    ("bob", 2, "PC", "200", "1 22:00:00"),
    ("bob", 3, "PC", "200", "1 22:15:00"),
    // Without a login.
    ("carl", 3, "WEB", "200", "3 07:00:00"),
];

fn message(id: u32, from: &str, to: &str, time: &str, order: &str) -> Value {
    let mut message = json!({
        "eventType": "1", "convType": "PERSON", "fromAccount": from, "to": to, "msgType": "TEXT",
        "body": TEXTS[0], "msgTimestamp": at(time).to_string(), "msgidServer": id.to_string(),
    });
    if !order.is_empty() {
        message["ext"] = json!({ "orderId": order, "note": TEXTS[0] })
            .to_string()
            .into();
    }
    message
}

async fn deliver_to(app: &TestApp, name: &str, body: &Value) -> Answer {
    let body = body.to_string().into_bytes();
    let headers = signed(&body, SECRET);
    let headers: Vec<_> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let url = app.instance.url(&format!("/callbacks/{name}"));
    send(app.http.post(url).body(body), &headers).await
}

async fn report_read(app: &TestApp, report: &Value) -> Answer {
    let key = format!("Bearer {WRITE_KEY}");
    let headers = [("Authorization", &*key)];
    app.post("/v1/read", &headers, report.to_string()).await
}

/// Delivers all of it as the provider does.
pub async fn deliver(app: &TestApp, database: &Database) {
    for (id, from, to, time, order) in MESSAGES {
        let body = message(*id, from, to, time, order);
        deliver_to(app, "otc", &body).await.expect_ok();
    }
    let mut team = message(12, "shop1", "77", "2 18:00:00", "");
    team["convType"] = "TEAM".into();
    deliver_to(app, "otc", &team).await.expect_ok();
    let elsewhere = message(1, "eve", "zoe", "1 10:00:00", "A1");
    deliver_to(app, "shop", &elsewhere).await.expect_ok();

    for (number, (reader, peer, up_to, _)) in RECEIPTS.iter().enumerate() {
        let time = at(up_to).to_string();
        // By turns of each kind, and as the site reports it.
        let receipt = match number % 3 {
            2 => {
                let report =
                    json!({ "app": "otc", "user": reader, "peer": peer, "up_to": at(up_to) });
                assert_eq!(report_read(app, &report).await.status, 200);
                continue;
            }
            0 => json!({ "eventType": "30", "objects": json!([
                { "fromAccount": reader, "toAccount": peer, "timestamp": time },
            ]).to_string() }),
            _ => json!({
                "eventType": "85", "accid": reader, "ackAccid": peer, "msgType": "0", "ackMsgTime": time,
            }),
        };
        deliver_to(app, "otc", &receipt).await.expect_ok();
    }
    for (account, event_type, device, code, time) in DEVICES {
        let mut event = json!({
            "eventType": event_type.to_string(), "accid": account, "clientType": device,
            "timestamp": at(time).to_string(),
        });
        if !code.is_empty() {
            event["code"] = (*code).into();
        }
        deliver_to(app, "otc", &event).await.expect_ok();
    }
    let others = [
        // Of a message that has arrived, and of one that has not: no query may count the second.
        json!({ "eventType": "7", "from": "carl", "to": "shop1", "msgId": "10", "deleteTime": at("2 15:01:00") }),
        json!({ "eventType": "7", "from": "carl", "to": "shop1", "msgId": "99", "deleteTime": at("2 15:02:00") }),
        json!({
            "eventType": "89", "from": "shop1", "to": "dora", "msgId": "14", "modifyAccountId": "shop1",
            "modifyTime": at("3 08:02:00"), "text": TEXTS[1],
        }),
        json!({
            "eventType": "4", "fromAccount": "ann", "roomId": "64", "msgType": "TEXT", "attach": TEXTS[2],
            "msgTimestamp": at("1 12:00:00"), "msgidClient": "room-1",
        }),
    ];
    for event in others {
        deliver_to(app, "otc", &event).await.expect_ok();
    }
    app.until_followed().await;
    set_what_clocks_tell(database).await;
}

/// Callbacks arrive today, so receipts get the times of the story. And a mark is put where `state` has not followed.
async fn set_what_clocks_tell(database: &Database) {
    let events = database.collection::<Document>("events");
    for (reader, peer, up_to, arrived) in RECEIPTS {
        let receipt = doc! {
            "at": DateTime::from_millis(at(up_to)),
            "$or": [
                { "accid": reader, "ackAccid": peer },
                { "fromAccount": reader, "toAccount": peer },
                { "reader": reader, "peer": peer },
            ],
        };
        let arrived = doc! { "$set": { "receivedAt": DateTime::from_millis(at(arrived)) } };
        let updated = events.update_one(receipt, arrived).await.unwrap();
        assert_eq!(updated.matched_count, 1, "{reader} {peer}");
    }
    let pair = doc! { "app": "otc", "reader": "bob", "peer": "ann" };
    let mut mark = pair.clone();
    mark.insert("_id", pair);
    mark.insert("readUpTo", at("3 09:00:00"));
    let marks = database.collection::<Document>("read_marks");
    marks.insert_one(mark).await.unwrap();
}
