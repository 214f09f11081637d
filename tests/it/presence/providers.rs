//! Presence of RongCloud's connections and of Wildfire's clients.

use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use super::{HOUR, MINUTE, ask, heartbeat, login, now, text};
use crate::support::TestApp;
use crate::support::dialect::{Dialect, Unsigned};

async fn deliver(app: &TestApp, dialect: Dialect, route: &'static str, body: Value) {
    let body = body.to_string().into_bytes();
    let url = app.instance.url("");
    let callback = Unsigned { route, body };
    dialect.deliver(&app.http, &url, &callback).await;
}

async fn answered(app: &TestApp, dialect: Dialect, user: &str) -> Value {
    let question = json!({ "app": dialect.app(), "users": [user] });
    let answer = ask(app, &question).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["users"][user].clone()
}

/// A user is online as long as one connection is, and each connection is a device of its own.
#[tokio::test]
async fn rongclouds_connections_are_devices() {
    let app = TestApp::with(&Dialect::other_apps()).await;
    let at = now() - HOUR;
    let status = |status: &str, session: &str, time: i64| json!({ "userid": "Ann", "status": status, "os": "iOS", "time": time, "sessionId": session });
    let rong = Dialect::Rongcloud;
    let list = json!([
        status("1", "s1", at + 2000),
        status("0", "s2", at + 1000),
        status("0", "s1", at),
    ]);
    deliver(&app, rong, "", list).await;
    let s1 = json!({
        "client_type": "IOS", "device_id": "s1", "state": "offline", "since": text(at + 2000),
        "last_seen": text(at + 2000), "logout_reason": "disconnected",
    });
    let expected = json!({
        "state": "online", "since": text(at + 1000), "last_seen": text(at + 2000),
        "devices": [
            {
                "client_type": "IOS", "device_id": "s2", "state": "online", "since": text(at + 1000),
                "last_seen": text(at + 1000),
            },
            s1,
        ],
    });
    assert_eq!(answered(&app, rong, "Ann").await, expected);
    // RongCloud's accounts have a case.
    assert_eq!(answered(&app, rong, "ann").await["state"], "unknown");
    deliver(&app, rong, "", status("2", "s2", at + 3000)).await;
    let ann = answered(&app, rong, "Ann").await;
    assert_eq!(
        (&ann["state"], &ann["since"]),
        (&json!("offline"), &json!(text(at + 3000)))
    );
    assert_eq!(ann["devices"][0]["logout_reason"], "logout");
    assert_eq!(ann["devices"][1], s1);
    app.end().await;
}

#[tokio::test]
async fn wildfires_clients_are_devices() {
    let app = TestApp::with(&Dialect::other_apps()).await;
    let at = now() - HOUR;
    let wild = Dialect::Wildfire;
    let online = |client: &str, status: i64, time: i64| json!({ "userId": "Bob", "clientId": client, "platform": 1, "status": status, "timestamp": time });
    for (client, status, time, state, since) in [
        ("c1", 0, at, "online", at),
        ("c2", 0, at + 1000, "online", at),
        ("c1", -1, at + 2000, "online", at + 1000),
        ("c2", 1, at + 3000, "offline", at + 3000),
        ("c1", 0, at + 1500, "offline", at + 3000),
    ] {
        deliver(&app, wild, "user/online", online(client, status, time)).await;
        let bob = answered(&app, wild, "Bob").await;
        assert_eq!(
            (&bob["state"], &bob["since"]),
            (&json!(state), &json!(text(since))),
            "{client} {status} {time} {bob}"
        );
    }
    let bob = answered(&app, wild, "Bob").await;
    let devices = bob["devices"].as_array().unwrap();
    let told = devices.iter().map(|d| {
        ["client_type", "device_id", "logout_reason"].map(|name| d[name].as_str().unwrap())
    });
    let expected = [["IOS", "c2", "disconnected"], ["IOS", "c1", "logout"]];
    assert_eq!(told.collect::<Vec<_>>(), expected);
    app.end().await;
}

/// The apps' providers may have the same account.
#[tokio::test]
async fn an_account_of_two_apps_is_two_users() {
    let app = TestApp::with(&Dialect::other_apps()).await;
    let at = now() - HOUR;
    let rong =
        json!({ "userid": "bob", "status": "0", "os": "iOS", "time": at, "sessionId": "c1" });
    let wild =
        json!({ "userId": "bob", "clientId": "c1", "platform": 1, "status": 1, "timestamp": at });
    deliver(&app, Dialect::Rongcloud, "", rong).await;
    deliver(&app, Dialect::Wildfire, "user/online", wild).await;
    for (dialect, state) in [
        (Dialect::Rongcloud, "online"),
        (Dialect::Wildfire, "offline"),
        (Dialect::Netease, "unknown"),
    ] {
        assert_eq!(answered(&app, dialect, "bob").await["state"], state);
    }
    let presence = app.database.collection::<Document>("presence");
    assert_eq!(presence.count_documents(doc! {}).await.unwrap(), 2);
    app.end().await;
}

/// A time far ahead would be the last for ever. Such an event is kept, and says nothing of who is online.
#[tokio::test]
async fn events_more_than_a_day_ahead_change_nobodys_presence() {
    let app = TestApp::with(&Dialect::other_apps()).await;
    let (now, day) = (now(), 24 * HOUR);
    for (n, (ahead, state)) in [(day + MINUTE, "unknown"), (day - MINUTE, "online")]
        .into_iter()
        .enumerate()
    {
        let at = now + ahead;
        let user = |what: &str| format!("{what}{n}");
        for event in [
            login(&user("login"), "IOS", "a", at),
            super::logout(&user("logout"), "IOS", "a", at),
            heartbeat(&user("heartbeat"), "IOS", "a", at),
        ] {
            super::deliver_all(&app, &[event.clone(), event]).await;
        }
        let rong = json!({ "userid": user("rong"), "status": "0", "os": "iOS", "time": at, "sessionId": "s" });
        deliver(&app, Dialect::Rongcloud, "", rong.clone()).await;
        let mut listed = rong;
        listed["userid"] = json!(user("listed"));
        deliver(&app, Dialect::Rongcloud, "", json!([listed])).await;
        let wild = json!({ "userId": user("wild"), "clientId": "c", "platform": 1, "status": 0, "timestamp": at });
        deliver(&app, Dialect::Wildfire, "user/online", wild).await;
        for (dialect, what) in [
            (Dialect::Netease, "login"),
            (Dialect::Netease, "heartbeat"),
            (Dialect::Rongcloud, "rong"),
            (Dialect::Rongcloud, "listed"),
            (Dialect::Wildfire, "wild"),
        ] {
            let told = answered(&app, dialect, &user(what)).await;
            assert_eq!(told["state"], state, "{what}");
        }
        let logout = answered(&app, Dialect::Netease, &user("logout")).await;
        let expected = state.replace("online", "offline");
        assert_eq!(logout["state"], expected);
    }
    // All of them are stored once, and no body is in doubt.
    assert_eq!(app.documents("events", doc! {}).await.len(), 12);
    assert_eq!(app.documents("dead_letters", doc! {}).await.len(), 0);
    app.end().await;
}
