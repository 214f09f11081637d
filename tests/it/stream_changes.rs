//! Change streams under live counts: nothing is lost when others are watched, when MongoDB is away, and after fail-overs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use im_callback::store::changes::{Change, Changes, NextChange, Party, Watched};
use im_callback::store::{Store, StoreSettings};
use mongodb::bson::{Document, doc};
use serde_json::json;

use tokio::task::block_in_place;

use crate::outage::question;
use crate::stream::{asked, drop_aside, metric, until_metric};
use crate::support::live::LiveClient;
use crate::support::mongod::ReplicaSet;
use crate::support::process::{Process, try_deliver};
use crate::support::proxy::{Line, Proxy};
use crate::support::{
    Instance, READ_KEY, TestApp, config, database_name, deliver, http, mongodb_uri, skip,
};

/// A store of the test's own on the app's database.
async fn store(app: &TestApp) -> Store {
    let settings = StoreSettings {
        database: app.database.name().to_owned(),
        commit_timeout: Duration::from_secs(3),
        query_timeout: Duration::from_secs(10),
        state_delay: Duration::from_secs(1),
        analyst_indexes: false,
    };
    let store = Store::new(settings, Arc::default());
    store.reach(&mongodb_uri()).await.unwrap();
    store
}

fn of(id: &str) -> Change {
    Change::Of(Party {
        app: "otc".to_owned(),
        id: id.to_owned(),
    })
}

/// Whose changes are told, until nothing comes for a while.
async fn told(changes: &mut Changes) -> Vec<Change> {
    let mut told = Vec::new();
    let mut quiet = 0;
    while quiet < 5 {
        match changes.next().await.unwrap() {
            NextChange::Change(change) => told.push(change),
            NextChange::Quiet => quiet += 1,
            NextChange::Ended => panic!("the stream ended"),
        }
    }
    told
}

fn watched(readers: &[&str], teams: &[&str]) -> Watched {
    let texts = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
    Watched {
        readers: texts(readers),
        teams: texts(teams),
    }
}

fn message(id: u64, to: &str) -> String {
    json!({
        "eventType": 1, "convType": "PERSON", "to": to, "fromAccount": "ann", "msgType": "TEXT",
        "body": "a text that no log may have", "msgTimestamp": 1_700_000_000_000_u64 + id,
        "msgidServer": id.to_string(),
    })
    .to_string()
}

/// The next stream has other ids, and its position may be that of a change that it would not tell.
#[tokio::test]
async fn a_stream_with_other_ids_goes_on_where_the_last_one_was_read_to() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    let mut position = None;
    for (round, readers) in (0..).zip([["bob", "dora"], ["carl", "dora"], ["eve", "bob"]]) {
        let mut changes = store
            .watch_changes(&watched(&readers, &[]), position.take())
            .await
            .unwrap();
        if round > 0 {
            // What happened between the two streams, to one who was not watched by the first.
            assert_eq!(told(&mut changes).await, [of(readers[0])]);
        }
        app.deliver(message(round * 10, "dora")).await.expect_ok();
        app.deliver(message(round * 10 + 1, "frank"))
            .await
            .expect_ok();
        app.deliver(message(round * 10 + 2, readers[0]))
            .await
            .expect_ok();
        // Up to the change itself, not to the silence after it.
        loop {
            match changes.next().await.unwrap() {
                NextChange::Change(change) if change == of(readers[0]) => break,
                NextChange::Change(change) => assert_eq!(change, of("dora")),
                other => drop(other),
            }
        }
        position = changes.position();
        assert!(position.is_some());
        drop(changes);
        for (n, next) in (3..).zip(["carl", "eve"]) {
            app.deliver(message(round * 10 + n, next)).await.expect_ok();
        }
    }
    app.end().await;
}

/// A million of ids would not fit into a command. Then all changes are told, and those of others are ignored.
#[tokio::test]
async fn with_very_many_ids_all_changes_are_told() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    for (n, told_of_others) in [(20_000, false), (20_001, true)] {
        let many: Vec<String> = (0..n).map(|n| format!("reader{n}")).collect();
        let watched = Watched {
            readers: many,
            teams: Vec::new(),
        };
        let mut changes = store.watch_changes(&watched, None).await.unwrap();
        app.deliver(message(n, "reader7")).await.expect_ok();
        app.deliver(message(n + 100_000, "bob")).await.expect_ok();
        let mut expected = vec![of("reader7")];
        if told_of_others {
            expected.push(of("bob"));
        }
        assert_eq!(told(&mut changes).await, expected);
    }
    app.end().await;
}

/// `state` follows the marks, which changes no count.
#[tokio::test]
async fn what_changes_no_count_is_not_told() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    for n in 0..5 {
        app.deliver(message(n, "bob")).await.expect_ok();
    }
    let mut changes = store
        .watch_changes(&watched(&["bob"], &["t1"]), None)
        .await
        .unwrap();
    let receipt = json!({
        "eventType": 30, "fromAccount": "bob", "toAccount": "ann", "timestamp": 1_700_000_000_003_u64,
    });
    app.deliver(receipt.to_string()).await.expect_ok();
    app.until_followed().await;
    let read = app.documents("messages", doc! { "state": 1 }).await.len();
    assert_eq!(read, 4);
    assert_eq!(told(&mut changes).await, [of("bob")]);
    app.end().await;
}

/// Readers come and go while messages flow through two instances. What each was told last is what a query answers.
#[tokio::test(flavor = "multi_thread")]
async fn subscribers_who_come_and_go_miss_nothing() {
    const READERS: u64 = 30;
    // What a change misses is not found out by chance.
    let more = "stream.recount_every = \"1d\"";
    let app = TestApp::with(more).await;
    let other = Instance::start(config(&mongodb_uri(), app.database.name(), more));
    app.until_at(&other, |ready| ready["status"] == "ready")
        .await;
    let (next, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let instances = [&app.instance, &other];
    let send = async || {
        while !done.load(Ordering::Relaxed) {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let reader = format!("reader{}", random(READERS));
            let body = if n % 5 == 4 {
                json!({
                    "eventType": 30, "fromAccount": reader, "toAccount": "ann",
                    "timestamp": 1_700_000_000_000_u64 + n - 20.min(n),
                })
                .to_string()
            } else {
                message(n, &reader)
            };
            let instance = instances[random(2) as usize];
            deliver(&app.http, instance, body.as_bytes())
                .await
                .expect_ok();
        }
    };
    let subscribe = async |n: u64| {
        let query = format!("user=reader{}&peers=ann", n % READERS);
        loop {
            let instance = instances[random(2) as usize];
            let mut live = LiveClient::open(instance.address, &query).await;
            let stay = Duration::from_millis(50 + random(700));
            let until = Instant::now() + stay;
            while Instant::now() < until {
                let left = until - Instant::now();
                let _ = tokio::time::timeout(left, live.next()).await;
            }
            if done.load(Ordering::Relaxed) {
                return (query, live);
            }
        }
    };
    let stop = async {
        tokio::time::sleep(Duration::from_secs(8)).await;
        done.store(true, Ordering::Relaxed);
    };
    let senders = join_all((0..4).map(|_| send()));
    let subscribers = join_all((0..45).map(subscribe));
    let (subscribers, _, ()) = tokio::join!(subscribers, senders, stop);
    let since = Instant::now();
    for (query, mut live) in subscribers {
        // One more, so that there is something to tell to those that were told all.
        let reader = query.split(['=', '&']).nth(1).unwrap();
        let n = next.fetch_add(1, Ordering::Relaxed);
        app.deliver(message(n, reader)).await.expect_ok();
        let expected = asked(&app, &other, &query).await;
        live.until(&expected).await;
    }
    assert!(
        since.elapsed() < Duration::from_secs(30),
        "{:?}",
        since.elapsed()
    );
    let opened = metric(&app, "im_callback_change_streams_opened_total ").await;
    assert!(opened > 10.0, "{opened}");
    drop_aside(other).await;
    app.end().await;
}

/// A number below this.
fn random(below: u64) -> u64 {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).unwrap();
    u64::from_le_bytes(bytes) % below
}

/// What no event tells: somebody deletes messages by hand, or drops the whole database.
#[tokio::test]
async fn what_people_change_is_told_at_the_next_recount() {
    let app = TestApp::with("stream.recount_every = \"1s\"").await;
    app.deliver(message(1, "bob")).await.expect_ok();
    let query = "user=bob&peers=ann";
    let mut live = LiveClient::open(app.instance.address, query).await;
    assert_eq!(live.counts().await["total"], 1);
    let messages = app.database.collection::<Document>("messages");
    messages.delete_many(doc! {}).await.unwrap();
    assert_eq!(live.counts().await["total"], 0);
    drop(live);
    until_metric(&app, "im_callback_streams ", 0.0).await;
    app.end().await;
}

/// While MongoDB is away subscribers are told once that their counts are stale, and the counts when it is back, with
/// what was spooled meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn in_an_outage_counts_are_stale_and_then_told_again() {
    for line in [Line::Cut, Line::Stalled] {
        let proxy = Proxy::to(&mongodb_uri()).await;
        let app = TestApp::connected(&proxy.uri(), "stream.recount_every = \"1d\"").await;
        app.deliver(message(1, "bob")).await.expect_ok();
        let query = "user=bob&peers=ann";
        let mut live = LiveClient::open(app.instance.address, query).await;
        assert_eq!(live.counts().await["total"], 1);
        proxy.set(line);
        app.deliver(message(2, "bob")).await.expect_ok();
        let told = live.next().await.unwrap();
        assert_eq!(
            (&*told.event, &*told.data),
            ("stale", r#"{"code":"unavailable"}"#)
        );
        // Nobody new is let in, and who is in is told nothing else.
        let refused = LiveClient::ask(app.instance.address, query, READ_KEY, "").await;
        assert_eq!(refused.status, 503);
        live.expect_silence(Duration::from_secs(2)).await;
        proxy.set(Line::Open);
        live.until(
            &json!({ "user": "bob", "peers": { "ann": 2 }, "total": 2, "total_of": "peers" }),
        )
        .await;
        app.until_drained().await;
        app.deliver(message(3, "bob")).await.expect_ok();
        live.until(
            &json!({ "user": "bob", "peers": { "ann": 3 }, "total": 3, "total_of": "peers" }),
        )
        .await;
        drop(live);
        app.end().await;
    }
}

/// Another instance takes callbacks into its spool: counts that were told become incomplete, and complete again, by
/// themselves.
#[tokio::test(flavor = "multi_thread")]
async fn counts_become_incomplete_and_complete() {
    let app = TestApp::with("stream.recount_every = \"1d\"").await;
    let proxy = Proxy::to(&mongodb_uri()).await;
    let taking = Instance::start(config(&proxy.uri(), app.database.name(), ""));
    app.until_at(&taking, |ready| ready["status"] == "ready")
        .await;
    let mut live = LiveClient::open(app.instance.address, "user=bob&peers=ann").await;
    live.until(&json!({ "user": "bob", "peers": { "ann": 0 }, "total": 0, "total_of": "peers" }))
        .await;
    proxy.set(Line::Cut);
    deliver(&app.http, &taking, message(1, "bob").as_bytes())
        .await
        .expect_ok();
    // No change tells of it, since it is in no database.
    let none = json!({ "user": "bob", "peers": { "ann": 0 }, "total": 0, "total_of": "peers", "complete": false });
    live.until(&none).await;
    app.deliver(message(2, "bob")).await.expect_ok();
    let incomplete = json!({ "user": "bob", "peers": { "ann": 1 }, "total": 1, "total_of": "peers", "complete": false });
    live.until(&incomplete).await;
    proxy.set(Line::Open);
    live.until(&json!({ "user": "bob", "peers": { "ann": 2 }, "total": 2, "total_of": "peers" }))
        .await;
    drop(live);
    drop_aside(taking).await;
    app.end().await;
}

/// The primary is killed and steps down. What happens during the election, and after it, is told, by an instance that
/// took none of it, and after an instance was killed, by the other one.
#[tokio::test(flavor = "multi_thread")]
async fn fail_overs_and_killed_instances_cost_no_change() {
    let Some(mut set) = ReplicaSet::start().await else {
        skip("MONGOD names no program");
        return;
    };
    let name = database_name();
    let more = "stream.recount_every = \"1d\"";
    let mut processes = [0, 1].map(|_| Process::new(&set.uri(), &name, more));
    for process in &mut processes {
        block_in_place(|| process.start());
    }
    let http = http();
    for process in &processes {
        process.until_drained(&http).await;
    }
    let [mut taking, telling] = processes;
    let url = format!("http://{}", taking.address);
    let mut live = LiveClient::open(telling.address, "user=bob&peers=ann").await;
    let expected =
        |n: u64| json!({ "user": "bob", "peers": { "ann": n }, "total": n, "total_of": "peers" });
    live.until(&expected(0)).await;
    let mut n = 0;
    let mut send = async |url: &str, count: u64| {
        for _ in 0..count {
            n += 1;
            let body = message(n, "bob");
            assert_eq!(try_deliver(&http, url, body.as_bytes()).await, Some(200));
        }
        n
    };
    let sent = send(&url, 1).await;
    live.until(&expected(sent)).await;
    for round in 0..2 {
        let killed = if round == 0 {
            Some(set.kill_primary().await)
        } else {
            set.step_down().await;
            None
        };
        // During the election, and after it.
        let sent = send(&url, 20).await;
        live.until(&expected(sent)).await;
        if let Some(node) = killed {
            set.restart(node);
        }
        let sent = send(&url, 1).await;
        live.until(&expected(sent)).await;
        assert_eq!(telling.ask(&http, &question()).await.json(), expected(sent));
    }
    block_in_place(|| taking.kill());
    let url = format!("http://{}", telling.address);
    let sent = send(&url, 5).await;
    live.until(&expected(sent)).await;
    drop(live);
}
