//! The spool's limits: what overflows into it, and what a full, damaged or hanging disk does.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mongodb::Client;
use mongodb::bson::doc;
use serde_json::json;

use crate::outage::question;
use crate::support::disk::SmallDisk;
use crate::support::process::{Process, try_deliver};
use crate::support::proxy::{Line, Proxy};
use crate::support::{MESSAGE_TEXT, TestApp, database_name, documents, http, message, mongodb_uri};

/// Without MongoDB and without a spool that takes them, callbacks are refused in time, never with 500.
#[tokio::test(flavor = "multi_thread")]
async fn with_no_durable_place_callbacks_are_refused_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let spool = folder.path().join("spool");
    let proxy = Proxy::to(&mongodb_uri()).await;
    let app = TestApp::connected(&proxy.uri(), &format!("spool.path = {spool:?}")).await;
    app.deliver(message(0)).await.expect_ok();
    std::fs::remove_dir_all(&spool).unwrap();
    proxy.set(Line::Cut);
    for n in 1..=3 {
        let since = Instant::now();
        let answer = app.deliver(message(n)).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "unavailable"),
            "{answer:?}"
        );
        assert_eq!(answer.header("retry-after"), "5");
        assert!(since.elapsed() < Duration::from_secs(5));
    }
    let ready = app.get("/readyz", &[]).await;
    assert_eq!(
        (ready.status, &ready.json()["checks"]["spool"]),
        (503, &json!("down"))
    );
    proxy.set(Line::Open);
    app.until_drained().await;
    for n in 1..=3 {
        app.deliver(message(n)).await.expect_ok();
    }
    assert_eq!(app.ask(&question()).await.json()["total"], 4);
    app.end().await;
}

/// While the spool's disk is full callbacks are refused, and taken again as soon as there is space.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_disk_is_full_callbacks_are_refused_and_then_taken_again() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let proxy = Proxy::to(&mongodb_uri()).await;
    let more = format!("spool.path = {:?}", disk.path().join("spool"));
    let app = TestApp::connected(&proxy.uri(), &more).await;
    proxy.set(Line::Cut);
    let filler = disk.path().join("filler");
    std::fs::write(&filler, vec![0; 800 * 1024]).unwrap();
    let large = |n: usize| message(n).replace(MESSAGE_TEXT, &"x".repeat(50_000));
    let mut taken = 0;
    let refused = loop {
        let answer = app.deliver(large(taken)).await;
        if answer.status != 200 {
            break answer;
        }
        taken += 1;
        assert!(taken < 30, "the disk is not full");
    };
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (503, "unavailable")
    );
    assert_eq!(app.get("/readyz", &[]).await.status, 503);
    std::fs::remove_file(&filler).unwrap();
    // Without a callback to try it with, which a balancer would not send.
    app.until(|ready| ready["callbacks"] == "ready").await;
    for n in taken..taken + 3 {
        app.deliver(large(n)).await.expect_ok();
    }
    assert_eq!(app.get("/readyz", &[]).await.status, 200);
    proxy.set(Line::Open);
    app.until_drained().await;
    assert_eq!(app.ask(&question()).await.json()["total"], taken + 3);
    app.end().await;
}

/// What the disk spoils in the spool is quarantined and reported; all the rest is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_spool_gives_what_is_whole_and_says_what_is_not() {
    let proxy = Proxy::to(&mongodb_uri()).await;
    proxy.set(Line::Cut);
    let name = database_name();
    let mut process = Process::new(&proxy.uri(), &name, "");
    let http = http();
    tokio::task::block_in_place(|| process.start());
    let url = format!("http://{}", process.address);
    for n in 0..5 {
        assert_eq!(
            try_deliver(&http, &url, message(n).as_bytes()).await,
            Some(200)
        );
    }
    tokio::task::block_in_place(|| process.kill());
    let spool = process.config_file().with_file_name("data").join("spool");
    let files = || -> Vec<_> {
        let entries = std::fs::read_dir(&spool)
            .unwrap()
            .map(|e| e.unwrap().path());
        let is_segment = |path: &PathBuf| path.to_string_lossy().contains(".v2.spool");
        entries.filter(is_segment).collect()
    };
    let mut bytes = std::fs::read(&files()[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&files()[0], &bytes).unwrap();

    proxy.set(Line::Open);
    tokio::task::block_in_place(|| process.start());
    process.until_drained(&http).await;
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    let database = client.database(&name);
    assert_eq!(documents(&database, "messages", doc! {}).await.len(), 4);
    let [file] = &files()[..] else {
        panic!("{:?}", files())
    };
    assert!(
        file.to_str().unwrap().ends_with(".v2.spool.damaged"),
        "{file:?}"
    );
    // The damaged record, and no other.
    let aside = std::fs::read(file).unwrap();
    assert!(aside.len() < bytes.len() / 4);
    assert!(bytes.windows(aside.len()).any(|part| part == aside));
    assert_eq!(
        process.ready(&http).await["spool"]["quarantined_bytes"],
        aside.len()
    );
    assert!(
        process.log().contains("bytes of the spool are no callback"),
        "{}",
        process.log()
    );
    // Somebody looks at it, and frees its bytes.
    std::fs::rename(file, spool.with_file_name("looked-at")).unwrap();
    let mut left = 1;
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        left = process.ready(&http).await["spool"]["quarantined_bytes"]
            .as_u64()
            .unwrap();
        if left == 0 {
            break;
        }
    }
    assert_eq!(left, 0, "after 10 s");
    database.drop().await.unwrap();
}

/// What MongoDB cannot take at once goes to the spool, and nothing is refused: not at the limits of what may be in
/// flight, and not when MongoDB answers too slowly for all that comes.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_for_mongodb_overflows_into_the_spool() {
    for (limits, line, callbacks) in [
        ("ingest.callbacks_in_flight = 5", Line::Slow(450), 60),
        ("ingest.bytes_in_flight = \"8KiB\"", Line::Slow(450), 60),
        // Forty a second, of five hundred: most wait too long.
        ("ingest.batch_callbacks = 10", Line::Slow(450), 500),
    ] {
        let proxy = Proxy::to(&mongodb_uri()).await;
        let app = TestApp::connected(&proxy.uri(), limits).await;
        proxy.set(line);
        let delivered = join_all((0..callbacks).map(|n| app.deliver(message(n))));
        let spooled = app.until(|ready| ready["spool"]["bytes"].as_u64() > Some(0));
        let (answers, ()) = tokio::join!(delivered, spooled);
        for answer in answers {
            answer.expect_ok();
        }
        proxy.set(Line::Open);
        app.until_drained().await;
        assert_eq!(app.documents("messages", doc! {}).await.len(), callbacks);
        assert_eq!(app.ask(&question()).await.json()["total"], callbacks);
        app.end().await;
    }
}

/// When neither MongoDB nor the spool can take more, callbacks are refused.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_for_mongodb_and_the_spool_is_refused() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let proxy = Proxy::to(&mongodb_uri()).await;
    let path = disk.path().join("spool");
    let more = format!("ingest.callbacks_in_flight = 5\nspool.path = {path:?}");
    let app = TestApp::connected(&proxy.uri(), &more).await;
    std::fs::write(disk.path().join("filler"), vec![0; 800 * 1024]).unwrap();
    let large = |n: usize| message(n).replace(MESSAGE_TEXT, &"x".repeat(50_000));
    proxy.set(Line::Stalled);
    let answers = join_all((0..60).map(|n| app.deliver(large(n)))).await;
    let (taken, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 200);
    assert!(!taken.is_empty() && !refused.is_empty());
    for answer in &refused {
        let told = (answer.status, answer.code(), answer.header("retry-after"));
        assert_eq!(told, (503, "unavailable".to_owned(), "5"));
    }
    proxy.set(Line::Open);
    app.until_drained().await;
    // What was refused may be stored all the same; what was taken is.
    let stored = app.documents("messages", doc! {}).await.len();
    assert!(
        (taken.len()..60).contains(&stored),
        "{stored} of {}",
        taken.len()
    );
    app.end().await;
}

/// The drain waits for a disk that does not let go of a segment, and MongoDB is back: callbacks go there.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_ends_whatever_the_spools_disk_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool");
    let proxy = Proxy::to(&mongodb_uri()).await;
    let app = TestApp::connected(&proxy.uri(), &format!("spool.path = {path:?}")).await;
    proxy.set(Line::Cut);
    app.deliver(message(0)).await.expect_ok();
    app.until(|ready| ready["checks"]["mongodb"] == "down")
        .await;
    // The segment can neither be read nor deleted, and no other one made: a folder stands in its place.
    let segment = std::fs::read_dir(&path).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        path.to_string_lossy()
            .ends_with(".v2.spool")
            .then_some(path)
    });
    let segment = segment.unwrap();
    let aside = folder.path().join("aside");
    std::fs::rename(&segment, &aside).unwrap();
    std::fs::create_dir(&segment).unwrap();
    proxy.set(Line::Open);
    app.until(|ready| ready["checks"]["mongodb"] == "up").await;
    for n in 1..=3 {
        app.deliver(message(n)).await.expect_ok();
        app.document("messages", &format!("otc/p2p/{n}")).await;
    }
    // What the spool holds is acknowledged, and in no count.
    let counted = app.ask(&question()).await.json();
    assert_eq!(
        (&counted["total"], &counted["complete"]),
        (&json!(3), &json!(false))
    );
    std::fs::remove_dir(&segment).unwrap();
    std::fs::rename(&aside, &segment).unwrap();
    app.until_drained().await;
    let counted = app.ask(&question()).await.json();
    assert_eq!(
        (&counted["total"], counted.get("complete")),
        (&json!(4), None)
    );
    app.end().await;
}
