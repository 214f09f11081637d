//! Live counts: what subscribers are told, and when.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::live::LiveClient;
use crate::support::{Instance, READ_KEY, TestApp, deliver, send};

/// How soon a change must be told, on a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// A message to bob. Its time is that of its number, in seconds.
pub fn message(from: &str, id: u32) -> Value {
    json!({
        "eventType": 1, "convType": "PERSON", "to": "bob", "fromAccount": from, "msgType": "TEXT",
        "body": "a text that no log may have", "msgTimestamp": at(id), "msgidServer": id.to_string(),
        "ext": { "orderId": format!("o-{}", id % 2) },
    })
}

fn of_no_order(mut message: Value) -> Value {
    message.as_object_mut().unwrap().remove("ext");
    message
}

pub fn at(id: u32) -> i64 {
    1_700_000_000_000 + i64::from(id) * 1000
}

fn receipt(peer: &str, up_to: u32) -> Value {
    json!({ "eventType": 30, "fromAccount": "bob", "toAccount": peer, "timestamp": at(up_to) })
}

fn recall(from: &str, id: u32) -> Value {
    json!({ "eventType": 7, "msgId": id.to_string(), "from": from, "to": "bob", "deleteTime": at(id) + 5 })
}

fn edit(from: &str, id: u32) -> Value {
    json!({
        "eventType": 89, "msgId": id.to_string(), "from": from, "to": "bob", "modifyTime": at(id) + 5,
        "text": "another text",
    })
}

/// Delivers to an instance.
async fn to(app: &TestApp, instance: &Instance, body: &Value) {
    deliver(&app.http, instance, body.to_string().as_bytes())
        .await
        .expect_ok();
}

pub async fn asked(app: &TestApp, instance: &Instance, query: &str) -> Value {
    let key = format!("Bearer {READ_KEY}");
    let request = app.http.get(instance.url(&format!("/v1/unread?{query}")));
    send(request, &[("Authorization", &key)]).await.json()
}

/// What the metrics say of a name with these labels.
pub async fn metric(app: &TestApp, series: &str) -> f64 {
    let text = app.get("/metrics", &[]).await.text;
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0.0, |value| value.trim().parse().unwrap())
}

/// Waits until a metric has this value.
pub async fn until_metric(app: &TestApp, series: &str, value: f64) {
    let since = Instant::now();
    loop {
        let found = metric(app, series).await;
        if (found - value).abs() < 0.1 {
            return;
        }
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "{series} is {found}"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn drop_aside(instance: Instance) {
    let dropped = tokio::task::spawn_blocking(move || drop(instance));
    dropped.await.unwrap();
}

#[tokio::test]
async fn counts_come_at_once_and_after_each_change() {
    let app = TestApp::start().await;
    app.deliver(message("ann", 1).to_string()).await.expect_ok();
    let query = "user=Bob&peers=Ann,carl&orders=o-1";
    let mut live = LiveClient::open(app.instance.address, query).await;
    assert_eq!(live.header("content-type"), Some("text/event-stream"));
    assert_eq!(live.header("cache-control"), Some("no-store"));
    assert_eq!(live.header("x-accel-buffering"), Some("no"));
    let first = live.next_any().await.unwrap();
    let retry: u64 = first.retry.parse().unwrap();
    assert!((2000..5000).contains(&retry), "{retry}");
    let counts = live.next_any().await.unwrap();
    let expected = r#"{"user":"Bob","peers":{"Ann":1,"carl":0},"orders":{"o-1":1},"total":1,"total_of":"peers"}"#;
    assert_eq!(
        (counts.event.as_str(), counts.data.as_str()),
        ("counts", expected)
    );
    assert_eq!(counts.json(), asked(&app, &app.instance, query).await);
    let since = Instant::now();
    app.deliver(message("carl", 2).to_string())
        .await
        .expect_ok();
    let counts = live.counts().await;
    assert_eq!(counts["peers"], json!({ "Ann": 1, "carl": 1 }));
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    app.deliver(receipt("ann", 1).to_string()).await.expect_ok();
    let counts = live.counts().await;
    assert_eq!(counts["peers"], json!({ "Ann": 0, "carl": 1 }));
    assert_eq!(counts, asked(&app, &app.instance, query).await);
    drop(live);
    app.end().await;
}

/// Whichever instance takes the callback, and whatever comes first.
#[tokio::test]
async fn each_kind_of_change_is_told_by_another_instance() {
    let app = TestApp::start().await;
    let other = app.second_instance();
    app.until_at(&other, |ready| ready["status"] == "ready")
        .await;
    let query = "user=bob&peers=ann,carl&orders=o-0,o-1";
    let mut live = LiveClient::open(other.address, query).await;
    assert_eq!(live.counts().await["total"], 0);
    // What the sender counts, in the order of the two peers.
    let steps: [(Value, Option<[u64; 2]>); 14] = [
        (message("ann", 1), Some([1, 0])),
        (message("ann", 2), Some([2, 0])),
        // A redelivery, and what does not count.
        (message("ann", 2), None),
        (edit("ann", 2), None),
        (of_no_order(message("dora", 3)), None),
        (recall("ann", 1), Some([1, 0])),
        (recall("ann", 1), None),
        // Before their messages: a recalled one never counts, an edited one does.
        (recall("carl", 4), None),
        (message("carl", 4), None),
        (edit("carl", 5), None),
        (message("carl", 5), Some([1, 1])),
        (receipt("ann", 2), Some([0, 1])),
        (message("ann", 1), None),
        (receipt("carl", 9), Some([0, 0])),
    ];
    for (body, expected) in steps {
        let since = Instant::now();
        to(&app, &app.instance, &body).await;
        let counted = asked(&app, &app.instance, query).await;
        let Some([ann, carl]) = expected else {
            live.expect_silence(Duration::from_millis(400)).await;
            continue;
        };
        let counts = live.counts().await;
        assert_eq!(
            counts["peers"],
            json!({ "ann": ann, "carl": carl }),
            "{body}"
        );
        assert_eq!(counts, counted, "{body}");
        assert!(since.elapsed() < SOON, "{:?} for {body}", since.elapsed());
    }
    assert_eq!(
        asked(&app, &other, query).await,
        asked(&app, &app.instance, query).await
    );
    drop(live);
    drop_aside(other).await;
    app.end().await;
}

#[tokio::test]
async fn a_subscriber_who_comes_back_with_the_current_counts_is_not_told_them_again() {
    let app = TestApp::start().await;
    app.deliver(message("ann", 1).to_string()).await.expect_ok();
    let query = "user=bob&peers=ann";
    let mut live = LiveClient::open(app.instance.address, query).await;
    let counts = live.next().await.unwrap();
    drop(live);
    let id = format!("Last-Event-ID: {}\r\n", counts.id);
    let mut live = LiveClient::ask(app.instance.address, query, READ_KEY, &id).await;
    live.next_any().await.unwrap();
    assert_eq!(live.next_any().await.unwrap().comment, "unchanged");
    app.deliver(message("ann", 2).to_string()).await.expect_ok();
    assert_eq!(live.counts().await["total"], 2);
    drop(live);
    // Another state, and one that is none of ours.
    for old in [counts.id.as_str(), "x", &"0".repeat(500)] {
        let id = format!("Last-Event-ID: {old}\r\n");
        let mut live = LiveClient::ask(app.instance.address, query, READ_KEY, &id).await;
        assert_eq!(live.counts().await["total"], 2);
    }
    app.end().await;
}

#[tokio::test]
async fn a_silent_stream_shows_that_it_is_alive() {
    let app = TestApp::with("stream.heartbeat = \"200ms\"").await;
    let mut live = LiveClient::open(app.instance.address, "user=bob&peers=ann").await;
    live.counts().await;
    for _ in 0..3 {
        assert_eq!(live.next_any().await.unwrap().comment, "ping");
    }
    drop(live);
    app.end().await;
}

/// Tabs of one page cost one count.
#[tokio::test]
async fn subscribers_with_the_same_question_share_a_count() {
    let app = TestApp::start().await;
    let query = "user=bob&peers=ann";
    let mut tabs = Vec::new();
    for _ in 0..7 {
        tabs.push(LiveClient::open(app.instance.address, query).await);
    }
    for tab in &mut tabs {
        assert_eq!(tab.counts().await["total"], 0);
    }
    assert!((metric(&app, "im_callback_streams ").await - 7.0).abs() < 0.1);
    // The stream that covers them all is open, and the count for it is done.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let recounts = "im_callback_stream_recounts_total ";
    let before = metric(&app, recounts).await;
    app.deliver(message("ann", 1).to_string()).await.expect_ok();
    for tab in &mut tabs {
        assert_eq!(tab.counts().await["total"], 1);
    }
    let counted = metric(&app, recounts).await - before;
    // A second one if the first missed that MongoDB had just confirmed it.
    assert!((1.0..3.0).contains(&counted), "{counted} counts");
    drop(tabs);
    until_metric(&app, "im_callback_streams ", 0.0).await;
    let gone = "im_callback_streams_ended_total{reason=\"client_gone\"}";
    until_metric(&app, gone, 7.0).await;
    app.end().await;
}

/// A burst of changes is told by few counts, the last of which is right.
/// Counts that were kept for others may lack what this caller has just been told is stored.
#[tokio::test]
async fn whoever_joins_others_is_first_told_what_was_acknowledged_before() {
    let app = TestApp::start().await;
    let address = app.instance.address;
    let mut first = LiveClient::open(address, "user=bob&peers=ann").await;
    assert_eq!(first.counts().await["total"], 0);
    for n in 1..=20 {
        app.deliver(message("ann", n).to_string()).await.expect_ok();
        let mut joined = LiveClient::open(address, "user=bob&peers=ann").await;
        assert_eq!(joined.counts().await["total"], n, "message {n}");
    }
    // The first one is told each total once, although others came.
    let mut last = 0;
    while last < 20 {
        let total = first.counts().await["total"].as_u64().unwrap();
        assert!(total > last, "{total} after {last}");
        last = total;
    }
    drop(first);
    app.end().await;
}

#[tokio::test]
async fn a_burst_is_told_by_few_counts() {
    let app = TestApp::start().await;
    let mut live = LiveClient::open(app.instance.address, "user=bob&peers=ann").await;
    assert_eq!(live.counts().await["total"], 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let recounts = "im_callback_stream_recounts_total ";
    let (before, since) = (metric(&app, recounts).await, Instant::now());
    let bodies: Vec<_> = (1..=200).map(|id| message("ann", id).to_string()).collect();
    futures_util::future::join_all(bodies.iter().map(|body| app.deliver(body))).await;
    let expected =
        json!({ "user": "bob", "peers": { "ann": 200 }, "total": 200, "total_of": "peers" });
    live.until(&expected).await;
    let counted = metric(&app, recounts).await - before;
    let most = since.elapsed().as_secs_f64() / 0.15 + 3.0;
    assert!(counted <= most, "{counted} of {most}");
    drop(live);
    app.end().await;
}

/// All of a user: each sender with the last message, whose text an edit changes.
#[tokio::test]
async fn all_of_a_user_is_told_without_lists() {
    let app = TestApp::start().await;
    let query = "user=bob&limit=2";
    let mut live = LiveClient::open(app.instance.address, query).await;
    assert_eq!(live.counts().await["total"], 0);
    for (id, peer) in (1..).zip(["ann", "carl", "dora"]) {
        app.deliver(message(peer, id).to_string()).await.expect_ok();
        let counts = live.counts().await;
        assert_eq!(counts["total"], id);
        assert_eq!(counts["newest"]["peers"][0]["peer"], peer);
        // Only the first page is told, so there is no cursor.
        let mut page = asked(&app, &app.instance, query).await;
        page.as_object_mut().unwrap().remove("next");
        assert_eq!(counts, page);
    }
    for time in [5, 6] {
        let mut edit = edit("dora", 3);
        edit["modifyTime"] = json!(at(3) + time);
        edit["text"] = json!(format!("another text {time}"));
        app.deliver(edit.to_string()).await.expect_ok();
        let counts = live.counts().await;
        assert_eq!(counts["newest"]["peers"][0]["last"]["text"], edit["text"]);
    }
    drop(live);
    app.end().await;
}

/// Members' counts of a team: its messages, recalls, and their own read marks.
#[tokio::test]
async fn a_team_is_told_to_all_who_ask_about_it() {
    let app = TestApp::start().await;
    let of_team = |id: u32, from: &str| {
        let mut message = message(from, id);
        message["convType"] = json!("TEAM");
        message["to"] = json!("t1");
        message
    };
    let query = |user: &str| format!("user={user}&teams=t1,t2");
    let mut bob = LiveClient::open(app.instance.address, &query("bob")).await;
    let mut carl = LiveClient::open(app.instance.address, &query("carl")).await;
    for live in [&mut bob, &mut carl] {
        assert_eq!(live.counts().await["teams"], json!({ "t1": 0, "t2": 0 }));
    }
    app.deliver(of_team(1, "ann").to_string()).await.expect_ok();
    for live in [&mut bob, &mut carl] {
        assert_eq!(live.counts().await["teams"]["t1"], 1);
    }
    // One's own message is not unread.
    app.deliver(of_team(2, "bob").to_string()).await.expect_ok();
    assert_eq!(carl.counts().await["teams"]["t1"], 2);
    let mut recalled = recall("ann", 1);
    recalled["eventType"] = json!(8);
    recalled["to"] = json!("t1");
    app.deliver(recalled.to_string()).await.expect_ok();
    assert_eq!(bob.counts().await["teams"]["t1"], 0);
    assert_eq!(carl.counts().await["teams"]["t1"], 1);
    let read = json!({
        "eventType": 85, "msgType": "1", "accid": "carl", "ackTeamId": "t1", "ackMsgTime": at(2),
    });
    app.deliver(read.to_string()).await.expect_ok();
    assert_eq!(carl.counts().await["teams"]["t1"], 0);
    bob.expect_silence(Duration::from_millis(400)).await;
    assert_eq!(
        asked(&app, &app.instance, &query("carl")).await["total_of"],
        "teams"
    );
    drop((bob, carl));
    app.end().await;
}
