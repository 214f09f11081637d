//! The documents: the same in any order, and those of older versions.

use mongodb::bson::{DateTime, Document, doc};
use serde_json::{Value, json};

use super::{HOUR, because, deliver_all, heartbeat, login, logout, now, presence_of, text};
use crate::support::TestApp;

/// All permutations.
fn orders(events: &[Value]) -> Vec<Vec<Value>> {
    if events.is_empty() {
        return vec![Vec::new()];
    }
    let mut orders = Vec::new();
    for n in 0..events.len() {
        let mut rest = events.to_vec();
        let first = rest.remove(n);
        for mut order in self::orders(&rest) {
            order.insert(0, first.clone());
            orders.push(order);
        }
    }
    orders
}

/// Every order of some events, each delivered twice, ends in the same documents of devices. Two events of one device
/// and time are one event to `events`, of which the first is kept.
async fn in_every_order(app: &TestApp, events: &[Value]) -> Value {
    let mut first: Option<Vec<Value>> = None;
    for order in orders(events) {
        deliver_all(app, &order).await;
        let once = app.dump().await;
        deliver_all(app, &order).await;
        assert_eq!(app.dump().await, once, "a redelivery changes nothing");
        let devices = once["presence"].clone();
        let first = first.get_or_insert(devices.clone());
        assert_eq!(devices, *first, "{order:?}");
        app.empty().await;
    }
    json!(first.unwrap())
}

#[tokio::test]
async fn a_device_that_was_kicked_and_heard_of_again() {
    let app = TestApp::start().await;
    let events = [
        login("Ann", "iOS", "$d", 1_000),
        because(logout("ann", "2", "$d", 3_000), 3),
        because(logout("ann", "IOS", "$d", 3_000), 4),
        heartbeat("ann", "IOS", "$d", 5_000),
    ];
    insta::assert_json_snapshot!(in_every_order(&app, &events).await);
    app.end().await;
}

/// Of two kinds of client at the same time the greater is kept; both a login and a logout leave their fact.
#[tokio::test]
async fn a_device_of_two_kinds_of_client_at_the_same_time() {
    let app = TestApp::start().await;
    let events = [
        login("ann", "WEB", "d", 1_000),
        logout("ann", "PC", "d", 1_000),
        because(logout("ann", "$state", "d", 500), 2),
        heartbeat("ann", "PC", "d", 900),
    ];
    insta::assert_json_snapshot!(in_every_order(&app, &events).await);
    app.end().await;
}

/// A heartbeat without its account or time is stored, and changes nobody's presence.
#[tokio::test]
async fn heartbeats_are_stored_as_events_whatever_they_lack() {
    let app = TestApp::start().await;
    let mut events = vec![heartbeat("ann", "IOS", "d", 1_000)];
    for name in ["accid", "timestamp"] {
        let mut lacking = heartbeat("bob", "IOS", "d", 1_000);
        lacking.as_object_mut().unwrap().remove(name);
        events.push(lacking);
    }
    deliver_all(&app, &events).await;
    deliver_all(&app, &events).await;
    let dump = app.dump().await;
    assert_eq!(dump["presence"].len(), 1);
    assert_eq!(dump["presence"][0]["account"], "ann");
    assert!(!dump.contains_key("dead_letters"));
    let stored = &dump["events"];
    assert_eq!(stored.len(), 3);
    assert!(stored.iter().all(|event| event["kind"] == "heartbeat"));
    app.end().await;
}

/// A document as versions without facts wrote it.
fn of_older(account: &str, device: &str, state: &str, at: i64) -> Document {
    let date = DateTime::from_millis(at);
    doc! {
        "_id": format!("otc/{account}/{device}"), "app": "otc", "provider": "netease", "account": account,
        "device": device, "clientType": "IOS", "state": state, "since": date, "lastEventTime": at, "lastEventAt": date,
        "deviceId": device,
    }
}

/// A document without facts is answered by its state, and its state is a fact for what comes later.
#[tokio::test]
async fn documents_of_an_older_version_take_their_state_as_the_fact() {
    let app = TestApp::start().await;
    let at = now() - HOUR;
    let presence = app.database.collection::<Document>("presence");
    // What there was, what comes, and the state and its begin after that.
    let cases = [
        ("online", None, "online", at),
        ("offline", None, "offline", at),
        (
            "online",
            Some(login("", "IOS", "d", at - 1000)),
            "online",
            at,
        ),
        (
            "online",
            Some(logout("", "IOS", "d", at - 1000)),
            "online",
            at,
        ),
        ("online", Some(logout("", "IOS", "d", at)), "offline", at),
        (
            "online",
            Some(heartbeat("", "IOS", "d", at + 1000)),
            "online",
            at,
        ),
        (
            "online",
            Some(heartbeat("", "IOS", "d", at - 1000)),
            "online",
            at,
        ),
        (
            "offline",
            Some(heartbeat("", "IOS", "d", at)),
            "offline",
            at,
        ),
        (
            "offline",
            Some(heartbeat("", "IOS", "d", at + 1000)),
            "online",
            at + 1000,
        ),
        ("offline", Some(login("", "IOS", "d", at)), "offline", at),
        (
            "offline",
            Some(login("", "IOS", "d", at + 1000)),
            "online",
            at + 1000,
        ),
        (
            "offline",
            Some(logout("", "IOS", "d", at - 1000)),
            "offline",
            at,
        ),
        (
            "offline",
            Some(because(logout("", "IOS", "d", at + 1000), 4)),
            "offline",
            at + 1000,
        ),
    ];
    for (n, (before, event, state, since)) in cases.into_iter().enumerate() {
        let account = format!("user{n}");
        let document = of_older(&account, "d", before, at);
        presence.insert_one(document).await.unwrap();
        if let Some(mut event) = event.clone() {
            event["accid"] = json!(account);
            deliver_all(&app, &[event.clone(), event]).await;
        }
        let user = presence_of(&app, &account).await;
        assert_eq!(
            (&user["state"], &user["since"]),
            (&json!(state), &json!(text(since))),
            "{before} {event:?} {user}"
        );
        let id = format!("otc/{account}/d");
        let document = app.document("presence", &id).await;
        assert_eq!(document.get_str("state").unwrap(), state);
        let stored = document.get_datetime("since").unwrap();
        assert_eq!(stored.timestamp_millis(), since, "{document}");
        let facts = ["loginAt", "logoutAt", "heartbeatAt"].map(|f| document.contains_key(f));
        assert_eq!(facts.contains(&true), event.is_some(), "{document}");
    }
    app.end().await;
}
