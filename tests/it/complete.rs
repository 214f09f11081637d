//! `"complete": false`: no instance calls a count complete that lacks a callback which any known instance acknowledged.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use mongodb::{Client, Database};
use serde_json::{Value, json};
use tokio::task::block_in_place;

use crate::chaos::between;
use crate::support::process::{Process, try_deliver};
use crate::support::proxy::{Line, Proxy};
use crate::support::{
    Instance, READ_KEY, TestApp, config, database_name, deliver, http, message, mongodb_uri, send,
};

fn question() -> Value {
    json!({ "user": "bob", "peers": ["ann"] })
}

/// Asks an instance: the total, and whether that is complete.
async fn count(http: &reqwest::Client, url: &str) -> (u64, bool) {
    let key = format!("Bearer {READ_KEY}");
    let asked = http
        .post(format!("{url}/v1/unread"))
        .body(question().to_string());
    let answer = send(asked, &[("Authorization", &key)]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = answer.json();
    let is_complete = answer.get("complete").is_none();
    assert!(is_complete || answer["complete"] == json!(false));
    (answer["total"].as_u64().unwrap(), is_complete)
}

/// Waits until so many instances have reported their spools.
async fn until_known(database: &Database, spools: u64) {
    let known = database.collection::<bson::Document>("spools");
    for _ in 0..600 {
        if known.count_documents(bson::doc! {}).await.unwrap() == spools {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not known in time");
}

async fn until_complete(http: &reqwest::Client, url: &str) {
    for _ in 0..600 {
        if count(http, url).await.1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not complete in time");
}

/// One instance takes callbacks over a failing line and overflows; another one is asked before and after each
/// acknowledgement.
#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_another_instance_calls_complete_has_all_that_was_acknowledged() {
    let asked = TestApp::start().await;
    let proxy = Proxy::to(&mongodb_uri()).await;
    let more = "ingest.callbacks_in_flight = 8\ningest.batch_callbacks = 8";
    let taking = Instance::start(config(&proxy.uri(), asked.database.name(), more));
    asked
        .until_at(&taking, |ready| ready["status"] == "ready")
        .await;
    until_known(&asked.database, 2).await;
    let (next, acknowledged, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let send = async || {
        while !done.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let body = message(usize::try_from(n).unwrap());
            if deliver(&asked.http, &taking, body.as_bytes()).await.status == 200 {
                acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            tokio::time::sleep(Duration::from_millis(between(0, 20))).await;
        }
    };
    let (complete, incomplete) = (AtomicU64::new(0), AtomicU64::new(0));
    let ask = async || {
        while !done.load(Ordering::Relaxed) {
            let before = acknowledged.load(Ordering::SeqCst);
            let (total, is_complete) = count(&asked.http, &asked.instance.url("")).await;
            assert!(!is_complete || total >= before, "{total} of {before}");
            let counter = if is_complete { &complete } else { &incomplete };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    };
    let toggle = async {
        let lines = [
            Line::Cut,
            Line::Slow(40),
            Line::Stalled,
            Line::Reset,
            Line::Slow(600),
            Line::HalfAnswers,
        ];
        for line in lines {
            proxy.set(Line::Open);
            until_complete(&asked.http, &asked.instance.url("")).await;
            proxy.set(line);
            tokio::time::sleep(Duration::from_millis(between(500, 4500))).await;
        }
        proxy.set(Line::Open);
        until_complete(&asked.http, &asked.instance.url("")).await;
        done.store(true, Ordering::Relaxed);
    };
    let senders = join_all((0..24).map(|_| send()));
    let askers = join_all((0..2).map(|_| ask()));
    tokio::join!(senders, askers, toggle);
    let [complete, incomplete] = [complete, incomplete].map(AtomicU64::into_inner);
    assert!(complete > 20 && incomplete > 20, "{complete}, {incomplete}");
    until_complete(&asked.http, &asked.instance.url("")).await;
    let all = count(&asked.http, &asked.instance.url("")).await;
    assert!(all.0 >= acknowledged.into_inner());
    drop_aside(taking).await;
    asked.end().await;
}

async fn until_ready(http: &reqwest::Client, instance: &Instance) {
    for _ in 0..600 {
        let ready = send(http.get(instance.url("/readyz")), &[]).await.json();
        if ready["status"] == "ready" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not ready in time");
}

async fn drop_aside(instance: Instance) {
    tokio::task::spawn_blocking(move || drop(instance))
        .await
        .unwrap();
}

/// A spool outlives its process: while nobody drains it, no count is complete.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_instance_keeps_counts_incomplete_until_its_spool_is_drained() {
    let asked = TestApp::start().await;
    let proxy = Proxy::to(&mongodb_uri()).await;
    let mut process = Process::new(&proxy.uri(), asked.database.name(), "");
    block_in_place(|| process.start());
    process.until_drained(&asked.http).await;
    let url = asked.instance.url("");
    until_known(&asked.database, 2).await;
    until_complete(&asked.http, &url).await;

    proxy.set(Line::Cut);
    let taking = format!("http://{}", process.address);
    let told = try_deliver(&asked.http, &taking, message(1).as_bytes()).await;
    assert_eq!(told, Some(200));
    assert_eq!(count(&asked.http, &url).await, (0, false));
    block_in_place(|| process.kill());
    proxy.set(Line::Open);
    assert_eq!(count(&asked.http, &url).await, (0, false));

    block_in_place(|| process.start());
    process.until_drained(&asked.http).await;
    until_complete(&asked.http, &url).await;
    assert_eq!(count(&asked.http, &url).await, (1, true));

    // Killed again, now with an empty spool, which the others cannot know.
    block_in_place(|| process.kill());
    tokio::time::timeout(Duration::from_secs(10), async {
        while count(&asked.http, &url).await.1 {}
    })
    .await
    .expect("its lease runs out");
    let listed = block_in_place(|| process.run(&["spools"]));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let gone = listed
        .lines()
        .find(|line| line.contains("may hold callbacks"));
    let id = gone.unwrap().split(' ').next().unwrap();
    let forgotten = block_in_place(|| process.run(&["spools", "--forget", id]));
    assert!(forgotten.status.success(), "{forgotten:?}");
    until_complete(&asked.http, &url).await;
    asked.end().await;
}

/// While an instance stops it still takes callbacks, and its spool is still known to be empty.
#[tokio::test(flavor = "multi_thread")]
async fn counts_stay_complete_while_an_instance_stops() {
    let asked = TestApp::start().await;
    let mut process = Process::new(&mongodb_uri(), asked.database.name(), "");
    let text = std::fs::read_to_string(process.config_file()).unwrap();
    let text = text.replace("shutdown_delay = \"1s\"", "shutdown_delay = \"3s\"");
    std::fs::write(process.config_file(), text).unwrap();
    block_in_place(|| process.start());
    process.until_drained(&asked.http).await;
    let url = asked.instance.url("");
    until_known(&asked.database, 2).await;
    until_complete(&asked.http, &url).await;
    process.signal("-TERM");
    let known = asked.database.collection::<bson::Document>("spools");
    while known.count_documents(bson::doc! {}).await.unwrap() == 2 {
        assert!(count(&asked.http, &url).await.1);
    }
    assert_eq!(block_in_place(|| process.wait()), Some(0));
    asked.end().await;
}

/// While MongoDB does not answer, waiting questions do not each read the leases in turn.
#[tokio::test(flavor = "multi_thread")]
async fn questions_do_not_queue_for_leases_that_cannot_be_read() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let app = TestApp::connected(&proxy.uri(), "mongodb.query_timeout = \"1s\"").await;
    proxy.set(Line::Stalled);
    let question = question();
    let asked = join_all((0..60).map(|_| app.ask(&question)));
    // A second each would be a minute.
    let answers = tokio::time::timeout(Duration::from_secs(20), asked).await;
    for answer in answers.expect("they are asked together") {
        assert_eq!(answer.status, 503);
    }
    proxy.set(Line::Open);
    app.until_drained().await;
    app.end().await;
}

/// An instance that stops with an empty spool is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stops_in_order_leaves_counts_complete() {
    let name = database_name();
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    let start = || Instance::start(config(&mongodb_uri(), &name, ""));
    let (first, second) = (start(), start());
    let http = http();
    until_known(&client.database(&name), 2).await;
    deliver(&http, &second, message(1).as_bytes())
        .await
        .expect_ok();
    until_ready(&http, &first).await;
    until_complete(&http, &first.url("")).await;
    drop_aside(second).await;
    let spools = client
        .database(&name)
        .collection::<bson::Document>("spools");
    assert_eq!(spools.count_documents(bson::doc! {}).await.unwrap(), 1);
    // Longer than any lease lasts.
    let until = tokio::time::Instant::now() + Duration::from_millis(1500);
    while tokio::time::Instant::now() < until {
        assert_eq!(count(&http, &first.url("")).await, (1, true));
    }
    drop_aside(first).await;
    client.database(&name).drop().await.unwrap();
}
