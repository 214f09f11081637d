//! What a question reads, whatever there is.

use im_callback::callback::ids::AppName;
use im_callback::store::presence::newest_devices;
use mongodb::bson::{Bson, Document, doc};
use serde_json::{Value, json};

use super::{HOUR, MINUTE, ask, login, logout, now, presence_of, text};
use crate::support::TestApp;

/// A document of a device, with the fact that its state is.
fn device(account: &str, client_type: &str, id: Option<&str>, state: &str, at: i64) -> Document {
    let device = id.unwrap_or(client_type);
    let date = bson::DateTime::from_millis(at);
    let fact = if state == "online" {
        "loginAt"
    } else {
        "logoutAt"
    };
    doc! {
        "_id": format!("otc/{account}/{device}"), "app": "otc", "provider": "netease", "account": account,
        "device": device, "deviceId": id, "clientType": client_type, fact: date, "state": state, "since": date,
        "lastEventTime": at, "lastEventAt": date,
    }
}

async fn plant(app: &TestApp, devices: Vec<Document>) {
    let presence = app.database.collection::<Document>("presence");
    presence.insert_many(devices).await.unwrap();
}

/// Of a user with thousands of old connections the state is right, and few are read and shown.
#[tokio::test]
async fn thousands_of_old_devices_cost_little_and_hide_no_state() {
    let app = TestApp::start().await;
    let now = now();
    let mut devices = Vec::new();
    for n in 0..3000 {
        let at = now - 30 * MINUTE - n * 1000;
        for user in ["ann", "bob", "carl"] {
            devices.push(device(user, "IOS", Some(&format!("s{n}")), "offline", at));
        }
    }
    // Online since before all of them, and a logout that was lost.
    devices.push(device("ann", "PC", Some("desk"), "online", now - 20 * HOUR));
    devices.push(device("bob", "PC", Some("desk"), "online", now - 30 * HOUR));
    plant(&app, devices).await;
    for (user, state, since) in [
        ("ann", "online", Some(now - 20 * HOUR)),
        ("bob", "unknown", None),
        ("carl", "offline", Some(now - 30 * MINUTE)),
    ] {
        let answer = presence_of(&app, user).await;
        assert_eq!(answer["state"], state, "{user}");
        assert_eq!(
            answer["since"],
            since.map_or(Value::Null, |at| json!(text(at)))
        );
        assert_eq!(answer["last_seen"], text(now - 30 * MINUTE));
        let shown = answer["devices"].as_array().unwrap();
        assert_eq!(shown.len(), 20);
        let is_first = shown[0]["device_id"] == "desk";
        assert_eq!(is_first, user != "carl");
        let newest = shown.iter().filter(|d| d["client_type"] == "IOS");
        let newest: Vec<_> = newest.map(|d| d["device_id"].as_str().unwrap()).collect();
        let expected: Vec<_> = (0..newest.len()).map(|n| format!("s{n}")).collect();
        assert_eq!(newest, expected);
    }
    let name = AppName::new("otc").unwrap();
    let plan = explain(&app, &newest_devices(&name, &["ann", "bob", "nobody"])).await;
    let stages = plan.get_array("stages").unwrap();
    let lookups = stages.iter().filter_map(Bson::as_document);
    let lookups: Vec<_> = lookups.filter(|s| s.contains_key("$lookup")).collect();
    assert_eq!(lookups.len(), 2, "{plan}");
    for (lookup, documents) in lookups.into_iter().zip([2, 40]) {
        let count = |name: &str| match lookup.get(name) {
            Some(Bson::Int64(n)) => *n,
            other => panic!("{name} is {other:?} in {lookup}"),
        };
        assert_eq!(count("totalDocsExamined"), documents, "{lookup}");
        assert!(count("totalKeysExamined") <= documents + 3, "{lookup}");
        assert_eq!(count("collectionScans"), 0, "{lookup}");
        assert_eq!(
            lookup.get_array("indexesUsed").unwrap(),
            &[Bson::from("account")]
        );
    }
    app.end().await;
}

async fn explain(app: &TestApp, pipeline: &[Document]) -> Document {
    let command = doc! {
        "aggregate": "presence", "pipeline": pipeline.to_vec(), "cursor": {}, "hint": "account",
    };
    let explain = doc! { "explain": command, "verbosity": "executionStats" };
    app.database.run_command(explain).await.unwrap()
}

/// Logouts that were lost, more than are read: what is not read may be online, so nobody is said to be offline.
#[tokio::test]
async fn of_more_lost_logouts_than_are_read_nobody_is_said_to_be_offline() {
    let app = TestApp::start().await;
    let now = now();
    let mut devices = Vec::new();
    for n in 0..60 {
        let id = format!("s{n}");
        let at = now - HOUR - n * 1000;
        let (most, some) = (at, now - HOUR - 30 * MINUTE - n * 1000);
        devices.push(device("ann", "IOS", Some(&id), "online", most));
        devices.push(device("bob", "IOS", Some(&id), "online", most));
        if n < 40 {
            devices.push(device("carl", "IOS", Some(&id), "online", some));
        }
    }
    // Logouts without the device's id, after all logins.
    for user in ["ann", "carl"] {
        devices.push(device(user, "IOS", None, "offline", now - MINUTE));
    }
    plant(&app, devices).await;
    for (user, state) in [("ann", "unknown"), ("bob", "online"), ("carl", "offline")] {
        let answer = presence_of(&app, user).await;
        assert_eq!(answer["state"], state, "{user}");
        assert_eq!(answer["devices"].as_array().unwrap().len(), 20);
    }
    app.end().await;
}

/// A thousand users in one question, each with devices.
#[tokio::test]
async fn a_thousand_users_are_answered_at_once() {
    let app = TestApp::start().await;
    let at = now() - HOUR;
    let mut devices = Vec::new();
    let users: Vec<_> = (0..1000).map(|n| format!("user{n}")).collect();
    for (n, user) in users.iter().enumerate() {
        let state = if n % 3 == 0 { "online" } else { "offline" };
        devices.push(device(user, "IOS", Some("a"), state, at));
        devices.push(device(user, "PC", Some("b"), "offline", at));
        if n % 6 == 0 {
            devices.push(device(user, "IOS", None, "offline", at + 1000));
        }
    }
    plant(&app, devices).await;
    let answer = ask(&app, &json!({ "users": users })).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    for (n, user) in users.iter().enumerate() {
        let state = if n % 6 == 3 { "online" } else { "offline" };
        assert_eq!(answer["users"][user]["state"], state, "{user}");
    }
    app.end().await;
}

/// A kick that names no device is not about the device that kicked.
#[tokio::test]
async fn a_kick_without_a_device_leaves_the_one_that_kicked_online() {
    let app = TestApp::start().await;
    let at = now() - HOUR;
    let kicked = |account: &str, at: i64| super::because(logout(account, "IOS", "", at), 3);
    let cases = [
        // The new phone kicks the old one.
        (
            "ann",
            vec![("old", at), ("new", at + MINUTE)],
            at + MINUTE + 50,
            vec!["new"],
        ),
        // A device of another kind did, so the last login of this kind was long before.
        (
            "bob",
            vec![("old", at), ("new", at + MINUTE)],
            at + 2 * MINUTE + 1000,
            vec![],
        ),
        // It logged in anew after the kick.
        (
            "carl",
            vec![("old", at), ("new", at + 5 * MINUTE)],
            at + 4 * MINUTE,
            vec!["new"],
        ),
    ];
    for (account, logins, kick, online) in cases {
        for (device, at) in &logins {
            let event = login(account, "IOS", device, *at);
            super::deliver_all(&app, &[event]).await;
        }
        super::deliver_all(&app, &[kicked(account, kick)]).await;
        let user = presence_of(&app, account).await;
        let devices = user["devices"].as_array().unwrap();
        let still = devices.iter().filter(|d| d["state"] == "online");
        let still: Vec<_> = still.map(|d| d["device_id"].as_str().unwrap()).collect();
        assert_eq!(still, online, "{user}");
        for ended in devices.iter().filter(|d| d["state"] == "offline") {
            assert_eq!(ended["logout_reason"], "kicked_by_device", "{user}");
        }
    }
    app.end().await;
}

/// A kick that names no device hides no logout before it.
#[tokio::test]
async fn a_kick_without_a_device_leaves_who_logged_out_offline() {
    let app = TestApp::start().await;
    let at = now() - HOUR;
    let events = [
        login("ann", "IOS", "c", at),
        super::because(logout("ann", "IOS", "", at + 20_000), 1),
        super::because(logout("ann", "IOS", "", at + 30_000), 3),
    ];
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let told = order.map(|n| events[n].clone());
        super::deliver_all(&app, &told).await;
        let user = presence_of(&app, "ann").await;
        let device = &user["devices"][1];
        assert_eq!(user["state"], "offline", "{user}");
        assert_eq!(
            (&device["device_id"], &device["since"]),
            (&json!("c"), &json!(text(at + 20_000))),
            "{user}"
        );
        assert_eq!(device["logout_reason"], "logout", "{user}");
        app.empty().await;
    }
    app.end().await;
}

/// The last times that a document may hold, which the answer's form cannot express.
#[tokio::test]
async fn a_time_at_the_end_of_the_year_9999_is_left_out_of_the_answer() {
    let app = TestApp::start().await;
    let last = 253_402_300_799_999;
    plant(&app, vec![device("ann", "IOS", Some("a"), "online", last)]).await;
    plant(&app, vec![device("bob", "IOS", Some("a"), "offline", last)]).await;
    let answer = ask(&app, &json!({ "users": ["ann", "bob"] })).await;
    let device = |state| json!({ "client_type": "IOS", "device_id": "a", "state": state });
    let user = |state| json!({ "state": state, "devices": [device(state)] });
    let expected = json!({ "users": { "ann": user("online"), "bob": user("offline") } });
    assert_eq!((answer.status, answer.json()), (200, expected));
    app.end().await;
}

/// Without the index the question would be a scan, so it is refused, and `/readyz` reports it.
#[tokio::test]
async fn without_its_index_presence_is_503() {
    let app = TestApp::start().await;
    let question = json!({ "users": ["ann"] });
    assert_eq!(ask(&app, &question).await.status, 200);
    let presence = app.database.collection::<Document>("presence");
    presence.drop_index("account").await.unwrap();
    let answer = ask(&app, &question).await;
    assert_eq!((answer.status, &*answer.code()), (503, "unavailable"));
    assert_eq!(answer.header("retry-after"), "5");
    app.until(|ready| ready["checks"]["indexes"] == "missing")
        .await;
    // Events are still stored, and counts still answered.
    super::deliver_all(&app, &[login("ann", "IOS", "a", now())]).await;
    let counts = app.ask(&json!({ "user": "bob", "peers": ["ann"] })).await;
    assert_eq!(counts.status, 200);
    app.end().await;
}
