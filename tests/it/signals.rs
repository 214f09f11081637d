//! Signals to a running service: stop, stop at once, read the configuration anew.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mongodb::Client;
use mongodb::bson::doc;
use serde_json::json;
use tokio::task::block_in_place;
use tokio::time::sleep;

use crate::support::process::{Process, try_deliver, try_deliver_signed};
use crate::support::proxy::{Line, Proxy};
use crate::support::{PREVIOUS_SECRET, SECRET, database_name, documents, http, mongodb_uri};

fn message(id: usize) -> String {
    json!({
        "eventType": 1, "convType": "PERSON", "to": "bob", "fromAccount": "ann", "msgType": "TEXT",
        "body": "a text that no log may have", "msgTimestamp": 1_700_000_000_000_usize + id, "msgidServer": id,
    })
    .to_string()
}

/// A started service, and the way to it.
async fn started(uri: &str, name: &str) -> (Process, reqwest::Client, String) {
    let mut process = Process::new(uri, name, "");
    block_in_place(|| process.start());
    let url = format!("http://{}", process.address);
    (process, http(), url)
}

/// The ids of the stored messages; the database is dropped.
async fn stored(name: &str) -> Vec<String> {
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    let database = client.database(name);
    let messages = documents(&database, "messages", doc! {}).await;
    database.drop().await.unwrap();
    let id = |m: &bson::Document| m.get_str("msgidServer").unwrap().to_owned();
    messages.iter().map(id).collect()
}

/// SIGTERM and SIGINT under load: what is in flight is finished, and what was acknowledged is stored.
#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_it_finishes_what_is_in_flight_and_exits_0() {
    for signal in ["-TERM", "-INT"] {
        let name = database_name();
        let (mut process, http, url) = started(&mongodb_uri(), &name).await;
        process.until_drained(&http).await;
        let (next, taken, gone) = (
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicBool::new(false),
        );
        let lane = async || {
            while !gone.load(Ordering::Relaxed) {
                let id = next.fetch_add(1, Ordering::Relaxed);
                match try_deliver(&http, &url, message(id).as_bytes()).await {
                    Some(200) => drop(taken.fetch_add(1, Ordering::Relaxed)),
                    Some(status) => panic!("answered {status}"),
                    // Nobody listens any more.
                    None => gone.store(true, Ordering::Relaxed),
                }
            }
        };
        let stop = async {
            sleep(Duration::from_millis(700)).await;
            process.signal(signal);
        };
        tokio::join!(stop, join_all((0..16).map(|_| lane())));
        assert_eq!(
            block_in_place(|| process.wait()),
            Some(0),
            "{}",
            process.log()
        );
        let taken = taken.into_inner();
        assert!(taken > 0);
        // Nobody was refused while in flight: at most the last of each lane found nobody.
        assert!(stored(&name).await.len() >= taken);
    }
}

/// Callbacks that wait for MongoDB when the signal comes are finished all the same. Before nothing more is
/// accepted, `/readyz` says that the service stops, and callbacks are still taken.
#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_while_mongodb_stalls_it_spools_what_is_in_flight() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let name = database_name();
    let (mut process, http, url) = started(&proxy.uri(), &name).await;
    process.until_drained(&http).await;
    proxy.set(Line::Stalled);
    let (first, second) = (message(1), message(2));
    let (before, after) = tokio::join!(try_deliver(&http, &url, first.as_bytes()), async {
        sleep(Duration::from_millis(300)).await;
        process.signal("-TERM");
        sleep(Duration::from_millis(200)).await;
        let ready = process.ready(&http).await;
        assert_eq!(ready["checks"]["stopping"], true, "{ready}");
        assert_eq!(ready["status"], "not ready", "{ready}");
        try_deliver(&http, &url, second.as_bytes()).await
    });
    assert_eq!((before, after), (Some(200), Some(200)));
    let ended = block_in_place(|| process.wait());
    assert_eq!(ended, Some(0), "{}", process.log());

    proxy.set(Line::Open);
    block_in_place(|| process.start());
    process.until_drained(&http).await;
    drop(process);
    assert_eq!(stored(&name).await, ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    let name = database_name();
    let (mut process, http, url) = started(&proxy.uri(), &name).await;
    process.until_drained(&http).await;
    proxy.set(Line::Stalled);
    let body = message(1);
    let (status, ended) = tokio::join!(try_deliver(&http, &url, body.as_bytes()), async {
        sleep(Duration::from_millis(200)).await;
        process.signal("-TERM");
        sleep(Duration::from_millis(200)).await;
        process.signal("-INT");
        block_in_place(|| process.wait())
    });
    // 128 and the signal's number, as a shell says it.
    assert_eq!((status, ended), (None, Some(130)), "{}", process.log());
    proxy.set(Line::Open);
    stored(&name).await;
}

/// Secrets, keys and paths are replaced under load; a configuration that is wrong changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_rotate_by_sighup_without_a_lost_callback() {
    let name = database_name();
    let (process, http, url) = started(&mongodb_uri(), &name).await;
    process.until_drained(&http).await;
    let file = process.config_file();
    let text = std::fs::read_to_string(&file).unwrap();
    let reload = async |text: String, says: &str| {
        let seen = process.log().len();
        std::fs::write(&file, text).unwrap();
        process.signal("-HUP");
        let since = Instant::now();
        while !process.log()[seen..].contains(says) {
            assert!(
                since.elapsed() < Duration::from_secs(20),
                "{}",
                process.log()
            );
            sleep(Duration::from_millis(10)).await;
        }
    };
    let next = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    let lane = async |secret: &str| {
        while !done.load(Ordering::Relaxed) {
            let body = message(next.fetch_add(1, Ordering::Relaxed));
            let status = try_deliver_signed(&http, &url, body.as_bytes(), secret).await;
            assert_eq!(status, Some(200));
        }
    };
    let rotate = async {
        for round in 0..5 {
            let more = format!("\"{SECRET}\", \"new-{round}\"");
            let text = text.replace(&format!("\"{SECRET}\", \"{PREVIOUS_SECRET}\""), &more);
            reload(text, "read anew").await;
            let body = message(next.fetch_add(1, Ordering::Relaxed));
            let with = |secret: String| {
                let (http, url, body) = (&http, &url, body.as_bytes());
                async move { try_deliver_signed(http, url, body, &secret).await }
            };
            assert_eq!(with(format!("new-{round}")).await, Some(200));
            assert_eq!(with(PREVIOUS_SECRET.to_owned()).await, Some(403));
        }
        // Each in its own way wrong.
        for wrong in [
            "not = [toml".to_owned(),
            text.replace(SECRET, ""),
            text.replace("[[apps]]", "[[aps]]"),
        ] {
            reload(wrong, "the old one stays").await;
        }
        reload(text.replace("\"2s\"", "\"1s\""), "needs a restart").await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(rotate, join_all((0..8).map(|_| lane(SECRET))));
    assert!(!process.log().contains("new-"), "a secret is in the log");

    // Keys and second paths, too.
    let other = text
        .replace("read-key", "other-key")
        .replace("/receiveMsg.action", "/moved");
    reload(other, "read anew").await;
    let ask = process
        .ask(&http, &json!({ "user": "bob", "peers": ["ann"] }))
        .await;
    assert_eq!((ask.status, ask.code().as_str()), (401, "unknown_key"));
    let at = async |path: &str| {
        http.post(format!("{url}{path}"))
            .send()
            .await
            .unwrap()
            .status()
    };
    assert_eq!(at("/receiveMsg.action").await, 404);
    assert_eq!(at("/moved").await, 400); // no signature
    drop(process);
    assert_eq!(stored(&name).await.len(), next.into_inner());
}

/// What was spooled for an app that is gone when it comes out is a dead letter, and not lost.
#[tokio::test(flavor = "multi_thread")]
async fn spooled_callbacks_of_a_removed_app_become_dead_letters() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    proxy.set(Line::Cut);
    let name = database_name();
    let (mut process, http, url) = started(&proxy.uri(), &name).await;
    assert_eq!(
        try_deliver(&http, &url, message(1).as_bytes()).await,
        Some(200)
    );
    let file = process.config_file();
    let text = std::fs::read_to_string(&file).unwrap();
    block_in_place(|| process.kill());
    std::fs::write(&file, text.replace("\"otc\"", "\"another\"")).unwrap();
    proxy.set(Line::Open);
    block_in_place(|| process.start());
    process.until_drained(&http).await;
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    let database = client.database(&name);
    let dead_letters = documents(&database, "dead_letters", doc! {}).await;
    assert_eq!(dead_letters.len(), 1);
    let text = |field: &str| dead_letters[0].get_str(field).unwrap().to_owned();
    assert_eq!(
        (text("code"), text("body")),
        ("unknown_app".to_owned(), message(1))
    );
    assert!(text("_id").starts_with("otc/"));
    let logged = format!("id=\"{}\" code=\"unknown_app\"", text("_id"));
    assert!(process.log().contains(&logged), "{}", process.log());
    database.drop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_one_spool_refuses_to_start() {
    let name = database_name();
    let (process, http, _) = started(&mongodb_uri(), &name).await;
    process.until_drained(&http).await;
    let second = process.run(&["serve", "--listen", "127.0.0.1:0"]);
    let said = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(
        said.contains("another process uses the spool data/spool"),
        "{said}"
    );
    assert!(said.contains("spool.path"), "{said}");
    drop(process);
    stored(&name).await;
}
