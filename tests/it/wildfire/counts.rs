//! What counts as unread, and presence.

use mongodb::bson::doc;
use serde_json::json;

use super::{
    CONFIG, SECRET, conv, dead_letters, deliver, deliver_to, message, read, recall, start, unread,
    unread_of,
};
use crate::support::TestApp;

/// Two messages, a read that covers the first, and a recall of the second, in every order. After each step the
/// count consists of the messages that arrived and are neither read nor recalled.
#[tokio::test]
async fn counts_are_right_after_every_step_in_every_order() {
    let app = start().await;
    let mut orders = vec![vec![]];
    for step in 0..4 {
        orders = orders
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                (0..=order.len()).map(move |at| {
                    let mut order = order.clone();
                    order.insert(at, step);
                    order
                })
            })
            .collect();
    }
    assert_eq!(orders.len(), 24);
    for (n, order) in orders.into_iter().enumerate() {
        let (from, to) = (format!("ann{n}"), format!("bob{n}"));
        let id = 432_595_101_554_835_586 + 2 * n as u64;
        let first = message(id, &from, &to, 1_721_013_418_878);
        let second = message(id + 1, &from, &to, 1_721_013_418_879);
        let steps = [
            ("message", first.clone()),
            ("message", second.clone()),
            ("message_read", read(&to, &from, 0, 1_721_013_418_878)),
            ("recall_message", recall(&second, 1_721_013_419_000)),
        ];
        for (i, step) in order.iter().enumerate() {
            let (route, body) = &steps[*step];
            deliver(&app, route, body).await;
            let has_come = |step: usize| order[..=i].contains(&step);
            let expected =
                u64::from(has_come(0) && !has_come(2)) + u64::from(has_come(1) && !has_come(3));
            let counted = unread(&app, &to, &from).await;
            assert_eq!(counted, expected, "{order:?} after {i}");
        }
    }
    app.until_followed().await;
    let unread = app.documents("messages", doc! { "state": 0 }).await;
    assert_eq!(unread, []);
    let recalled =
        doc! { "state": 1, "recall.by": { "$exists": true }, "body": { "$exists": true } };
    assert_eq!(app.documents("messages", recalled).await.len(), 24);
    app.end().await;
}

#[tokio::test]
async fn ids_that_differ_in_case_stay_apart() {
    let app = start().await;
    let at = 1_721_013_418_878;
    deliver(&app, "message", message(1, "ann", "bob", at)).await;
    deliver(&app, "message", message(2, "Ann", "bob", at)).await;
    deliver(&app, "message", message(3, "ann", "Bob", at)).await;
    deliver(&app, "message_read", read("bob", "Ann", 0, at)).await;
    assert_eq!(unread(&app, "bob", "ann").await, 1);
    assert_eq!(unread(&app, "bob", "Ann").await, 0);
    assert_eq!(unread(&app, "Bob", "ann").await, 1);
    assert_eq!(unread(&app, "BOB", "ann").await, 0);
    deliver(&app, "message_read", read("Bob", "ann", 0, at)).await;
    assert_eq!(unread(&app, "bob", "ann").await, 1);
    assert_eq!(unread(&app, "Bob", "ann").await, 0);
    app.end().await;
}

/// 2^53 and its successor are the same float.
#[tokio::test]
async fn ids_beyond_a_float_stay_exact() {
    let app = start().await;
    let even = message(9_007_199_254_740_992, "ann", "bob", 1_721_013_418_878);
    let odd = message(9_007_199_254_740_993, "ann", "bob", 1_721_013_418_878);
    let last = message(i64::MAX as u64, "ann", "bob", 1_721_013_418_878);
    for message in [&even, &odd, &last] {
        deliver(&app, "message", message).await;
    }
    assert_eq!(unread(&app, "bob", "ann").await, 3);
    deliver(&app, "recall_message", recall(&odd, 1_721_013_419_000)).await;
    assert_eq!(unread(&app, "bob", "ann").await, 2);
    for (id, recalled) in [
        ("9007199254740992", false),
        ("9007199254740993", true),
        ("9223372036854775807", false),
    ] {
        let message = app.document("messages", &format!("wild/p2p/{id}")).await;
        assert_eq!(message.get_str("msgidServer").ok(), Some(id));
        assert_eq!(message.contains_key("recall"), recalled);
    }
    app.end().await;
}

#[tokio::test]
async fn a_read_applies_to_one_line() {
    let other = format!(
        r#"{CONFIG}
        [[apps]]
        name = "wild1"
        provider = "wildfire"
        app_secrets = ["{SECRET}"]
        line = 1
        "#
    );
    let app = TestApp::with(&other).await;
    let at = 1_721_013_418_878;
    let on_line = |id, line| {
        let mut message = message(id, "ann", "bob", at);
        message["conv"] = conv("bob", line);
        message.to_string()
    };
    for (name, line) in [("wild", 0), ("wild1", 1)] {
        let deliver = async |route: &str, body: String| deliver_to(&app, name, route, body).await;
        let other_line = 1 - line;
        deliver("message", on_line(1, line)).await;
        deliver("message", on_line(2, other_line)).await;
        assert_eq!(unread_of(&app, name, "bob", "ann").await, 1, "{name}");
        deliver(
            "message_read",
            read("bob", "ann", other_line, at).to_string(),
        )
        .await;
        assert_eq!(unread_of(&app, name, "bob", "ann").await, 1, "{name}");
        deliver("message_read", read("bob", "ann", line, at).to_string()).await;
        assert_eq!(unread_of(&app, name, "bob", "ann").await, 0, "{name}");
        let by_line = |line| match line {
            0 => "p2p/ann/bob",
            _ => "p2p/ann/bob/1",
        };
        for (id, line) in [(1, line), (2, other_line)] {
            let message = app.document("messages", &format!("{name}/p2p/{id}")).await;
            assert_eq!(message.get_str("conversation").ok(), Some(by_line(line)));
            assert_eq!(message.contains_key("state"), id == 1);
        }
    }
    app.end().await;
}

#[tokio::test]
async fn messages_are_counted_by_order() {
    let app = start().await;
    for (id, extra) in [
        (1, r#"{"orderId":"o-1"}"#),
        (2, r#"{"orderId":2}"#),
        (3, ""),
    ] {
        let mut message = message(id, "ann", "bob", 1_721_013_418_878);
        message["payload"]["extra"] = json!(extra);
        deliver(&app, "message", message).await;
    }
    let asked = json!({ "app": "wild", "user": "bob", "orders": ["o-1", "2", "3"] });
    let answer = app.ask(&asked).await.json();
    assert_eq!(answer["orders"], json!({ "o-1": 1, "2": 1, "3": 0 }));
    app.end().await;
}

/// A device's newest event wins, in any order, and `sessions` is ignored.
#[tokio::test]
async fn presence_ignores_the_list_of_sessions() {
    let app = start().await;
    let online = |status: i64, at: i64| {
        json!({
            "userId": "bob", "clientId": "phone", "platform": 2, "status": status, "timestamp": at,
            "sessions": [{ "clientId": "bob", "userId": "web", "platform": 5, "status": 0, "lastSeen": at }],
        })
    };
    for (status, at, state) in [
        (0, 1_721_013_418_000, "online"),
        (1, 1_721_013_418_002, "offline"),
        (0, 1_721_013_418_001, "offline"),
        (0, 1_721_013_418_003, "online"),
        (-1, 1_721_013_418_004, "offline"),
        (5, 1_721_013_418_005, "offline"),
    ] {
        deliver(&app, "user/online", online(status, at)).await;
        let devices = app.documents("presence", doc! {}).await;
        assert_eq!(devices.len(), 1, "{devices:?}");
        assert_eq!(devices[0].get_str("_id").ok(), Some("wild/bob/phone"));
        assert_eq!(devices[0].get_str("clientType").ok(), Some("ANDROID"));
        assert_eq!(
            devices[0].get_str("state").ok(),
            Some(state),
            "{status} {at}"
        );
    }
    assert_eq!(app.documents("events", doc! {}).await.len(), 6);
    app.end().await;
}

#[tokio::test]
async fn a_read_in_the_future_raises_no_mark() {
    let app = start().await;
    deliver(&app, "message", message(1, "ann", "bob", 1_721_013_418_878)).await;
    deliver(
        &app,
        "message_read",
        read("bob", "ann", 0, 253_402_300_799_999),
    )
    .await;
    assert_eq!(unread(&app, "bob", "ann").await, 1);
    let kept = dead_letters(&app).await;
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].get_str("code").ok(), Some("time_ahead"));
    assert_eq!(kept[0].get_str("path").ok(), Some("$.readTime"));
    app.end().await;
}
