//! MongoDB becomes unavailable and returns: callbacks are accepted throughout, and stored afterwards.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::json;

use crate::storing::expect_small_pages;
use crate::support::mongod::Mongod;
use crate::support::process::{Process, try_deliver};
use crate::support::proxy::{Line, Proxy};
use crate::support::{TestApp, database_name, http, message, mongodb_uri, skip};

/// What every test here asks.
pub fn question() -> serde_json::Value {
    json!({ "user": "bob", "peers": ["ann"] })
}

/// During an outage a query is refused rather than answered with a count that may be wrong.
async fn expect_no_count(app: &TestApp) {
    let answer = app.ask(&question()).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "unavailable"),
        "{answer:?}"
    );
    assert_eq!(answer.header("retry-after"), "5");
}

async fn away_and_back(line: Line) {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let app = TestApp::connected(&proxy.uri(), "").await;
    app.deliver(message(0)).await.expect_ok();

    proxy.set(line);
    let since = Instant::now();
    let answers = join_all((1..=20).map(|n| app.deliver(message(n)))).await;
    for answer in answers {
        answer.expect_ok();
    }
    // Below the time at which the provider gives up.
    assert!(since.elapsed() < Duration::from_secs(5));
    let since = Instant::now();
    for n in 21..=60 {
        app.deliver(message(n)).await.expect_ok();
    }
    // Not two seconds each: the outage is known by now.
    assert!(since.elapsed() < Duration::from_secs(10));
    expect_no_count(&app).await;
    let ready = app.get("/readyz", &[]).await;
    assert_eq!(
        (ready.status, ready.json()["status"].as_str()),
        (200, Some("degraded"))
    );
    let says = |field: &str| ready.json()[field].clone();
    assert_eq!(
        (says("callbacks"), says("queries")),
        (json!("ready"), json!("not ready"))
    );
    assert_eq!(says("checks")["mongodb"], "down");
    assert!(says("spool")["bytes"].as_u64().unwrap() > 0);
    assert_eq!(app.get("/livez", &[]).await.status, 200);

    proxy.set(Line::Open);
    app.until_drained().await;
    assert_eq!(app.ask(&question()).await.json()["total"], 61);
    assert_eq!(app.documents("messages", doc! {}).await.len(), 61);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_line_is_cut_callbacks_are_taken_and_stored_afterwards() {
    away_and_back(Line::Cut).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_line_is_reset_callbacks_are_taken_and_stored_afterwards() {
    away_and_back(Line::Reset).await;
}

/// MongoDB executes the commands, but its answers are lost.
#[tokio::test(flavor = "multi_thread")]
async fn while_answers_are_lost_half_way_callbacks_are_taken_and_stored_afterwards() {
    away_and_back(Line::HalfAnswers).await;
}

/// So slow that every commit times out.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_line_is_too_slow_callbacks_are_taken_and_stored_afterwards() {
    away_and_back(Line::Slow(3500)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_line_stalls_callbacks_are_taken_and_stored_afterwards() {
    away_and_back(Line::Stalled).await;
}

/// Around short interruptions every callback is acknowledged at the first try, and stored once.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_around_short_cuts_is_taken_and_stored_once() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let app = TestApp::connected(&proxy.uri(), "").await;
    let cuts = async {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            proxy.set(Line::Cut);
            tokio::time::sleep(Duration::from_millis(100)).await;
            proxy.set(Line::Open);
        }
    };
    let sends = (0..8).map(|lane| {
        let app = &app;
        async move {
            for n in 0..60 {
                app.deliver(message(lane * 60 + n)).await.expect_ok();
            }
        }
    });
    tokio::join!(cuts, join_all(sends));
    app.until_drained().await;
    assert_eq!(app.documents("messages", doc! {}).await.len(), 480);
    assert_eq!(app.ask(&question()).await.json()["total"], 480);
    app.end().await;
}

/// The service starts without MongoDB, accepts callbacks, and creates its indexes once MongoDB is available.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_starts_before_mongodb() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    proxy.set(Line::Cut);
    let app = TestApp::unready(&proxy.uri(), "").await;
    assert_eq!(app.get("/livez", &[]).await.status, 200);
    app.deliver(message(0)).await.expect_ok();
    expect_no_count(&app).await;
    proxy.set(Line::Open);
    app.until_drained().await;
    app.deliver(message(1)).await.expect_ok();
    app.until_drained().await;
    let counted = app.ask(&question()).await;
    assert_eq!(
        counted.status,
        200,
        "{counted:?} {}",
        app.get("/readyz", &[]).await.text
    );
    assert_eq!(counted.json()["total"], 2);
    expect_small_pages(&app).await;
    app.end().await;
}

/// Without name servers a `mongodb+srv` address cannot be resolved, and callbacks are still accepted.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_starts_before_its_name_servers() {
    let name = database_name();
    let mut process = Process::new("mongodb+srv://nowhere.invalid/", &name, "");
    tokio::task::block_in_place(|| process.start());
    let (http, url) = (http(), format!("http://{}", process.address));
    for n in 0..3 {
        let taken = try_deliver(&http, &url, message(n).as_bytes()).await;
        assert_eq!(taken, Some(200));
    }
    let ready = process.ready(&http).await;
    assert_eq!(
        (&ready["status"], &ready["checks"]["mongodb"]),
        (&json!("degraded"), &json!("down"))
    );
    tokio::task::block_in_place(|| process.kill());
    let text = std::fs::read_to_string(process.config_file()).unwrap();
    let text = text.replace("mongodb+srv://nowhere.invalid/", &mongodb_uri());
    std::fs::write(process.config_file(), text).unwrap();
    tokio::task::block_in_place(|| process.start());
    process.until_drained(&http).await;
    assert_eq!(process.ask(&http, &question()).await.json()["total"], 3);
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    client.database(&name).drop().await.unwrap();
}

/// Indexes of an analyst refuse a message with unlisted codes: 16755, and 171 for two fields that are arrays. The other
/// messages are not delayed, no outage starts, and nothing is spooled.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_mongodb_takes_in_no_batch_is_told_apart_at_once() {
    for (keys, refused) in [
        (doc! { "ext": "2dsphere" }, r#""ext":"nowhere""#),
        (
            doc! { "ext.a": 1, "attach.b": 1 },
            r#""ext":{"a":[1,2]},"attach":{"b":[1,2]}"#,
        ),
    ] {
        let app = TestApp::start().await;
        let index =
            doc! { "createIndexes": "messages", "indexes": [{ "key": keys, "name": "theirs" }] };
        app.database.run_command(index).await.unwrap();
        let refused = message(0).replacen('{', &format!("{{{refused},"), 1);
        let bodies: Vec<_> = (1..20).map(message).chain([refused]).collect();
        for answer in join_all(bodies.iter().map(|body| app.deliver(body))).await {
            answer.expect_ok();
        }
        let ready = app.get("/readyz", &[]).await.json();
        assert_eq!(
            (&ready["status"], &ready["spool"]["bytes"]),
            (&json!("ready"), &json!(0))
        );
        let counted = app.ask(&question()).await.json();
        assert_eq!(
            (&counted["total"], counted.get("complete")),
            (&json!(19), None)
        );
        let dead_letters = app.documents("dead_letters", doc! {}).await;
        let [dead_letter] = &dead_letters[..] else {
            panic!("{dead_letters:?}")
        };
        assert_eq!(dead_letter.get_str("code").ok(), Some("store_refused"));
        app.end().await;
    }
}

/// Callbacks acknowledged before or after `kill -9` of MongoDB are stored when it is back.
async fn everything_survives_the_death_of(mut mongod: Mongod) {
    let uri = mongod.uri();
    let app = TestApp::connected(&uri, "").await;
    let acknowledged = AtomicUsize::new(0);
    let lane = |lane: usize| {
        let (app, acknowledged) = (&app, &acknowledged);
        async move {
            for n in 0..60 {
                app.deliver(message(lane * 60 + n)).await.expect_ok();
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    let killer = async {
        while acknowledged.load(Ordering::Relaxed) < 300 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::task::block_in_place(|| mongod.kill());
    };
    let lanes = join_all((0..16).map(lane));
    tokio::join!(killer, lanes);
    tokio::task::block_in_place(|| mongod.restart());

    app.until_drained().await;
    let client = Client::with_uri_str(&uri).await.unwrap();
    let messages = client
        .database(app.database.name())
        .collection::<Document>("messages");
    assert_eq!(messages.count_documents(doc! {}).await.unwrap(), 960);
    assert_eq!(app.ask(&question()).await.json()["total"], 960);
    app.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_survives_the_death_of_a_replica_set() {
    match Mongod::start(true).await {
        Some(mongod) => everything_survives_the_death_of(mongod).await,
        None => skip("MONGOD names no program"),
    }
}

/// Without a replica set the majority is the server itself, with its journal.
#[tokio::test(flavor = "multi_thread")]
async fn everything_survives_the_death_of_a_lone_server() {
    match Mongod::start(false).await {
        Some(mongod) => everything_survives_the_death_of(mongod).await,
        None => skip("MONGOD names no program"),
    }
}
