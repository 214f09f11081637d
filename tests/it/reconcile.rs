//! Reconciling: what is wrong by hand is found and repaired, what is right is left alone, also beside live
//! traffic.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use im_callback::app::connect;
use im_callback::store::Store;
use im_callback::store::reconcile::{Report, Scope};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::support::{Instance, TestApp, config, deliver, mongodb_uri};

const AT: i64 = 1_700_000_000_000;

fn message(id: &str, to: &str, from: &str, at: i64) -> Value {
    json!({
        "eventType": 1, "convType": "PERSON", "to": to, "fromAccount": from, "msgType": "TEXT",
        "body": "x", "msgTimestamp": AT + at, "msgidServer": id,
    })
}

fn receipt(reader: &str, peer: &str, up_to: i64) -> Value {
    json!({ "eventType": 30, "fromAccount": reader, "toAccount": peer, "timestamp": AT + up_to })
}

/// A store of its own on the app's database. Commits are given up early, so that it waits less before it
/// looks again.
async fn store(app: &TestApp) -> Store {
    let mut config = config(&mongodb_uri(), app.database.name(), "");
    config.store.commit_timeout = Duration::from_millis(300);
    connect(&config).await.unwrap()
}

async fn run(store: &Store, scope: Scope) -> Report {
    let mut report = Report::default();
    store.reconcile(scope, &mut report).await.unwrap();
    report
}

fn wrong_and_repaired(report: Report) -> (u64, u64) {
    (report.disagreed, report.repaired)
}

/// Changes a message by hand.
async fn change(app: &TestApp, id: &str, update: Document) {
    let messages = app.database.collection::<Document>("messages");
    let changed = messages.update_one(doc! { "_id": id }, update).await;
    assert_eq!(changed.unwrap().modified_count, 1, "{id}");
}

async fn set_state(app: &TestApp, id: &str, state: i32) {
    change(app, id, doc! { "$set": { "state": state } }).await;
}

async fn unread(app: &TestApp, reader: &str, peers: &[&str]) -> Value {
    app.ask(&json!({ "user": reader, "peers": peers }))
        .await
        .json()["peers"]
        .take()
}

/// Every sort of document there is: unread and read messages, a recalled one, a recall without its message,
/// messages that never count, a team's mark, other events.
async fn with_everything(app: &TestApp) {
    let mut notice = message("5", "bob", "ann", 5);
    notice["msgType"] = json!("NOTIFICATION");
    let mut team = message("6", "77", "ann", 6);
    team["convType"] = json!("TEAM");
    let bodies = [
        message("1", "bob", "ann", 10),
        message("2", "bob", "ann", 20),
        message("3", "bob", "ann", 30),
        message("4", "bob", "carl", 10),
        message("7", "ann", "bob", 40),
        notice,
        team,
        message("8", "bob", "bob", 1),
        receipt("bob", "ann", 20),
        receipt("dora", "ann", 99),
        json!({ "eventType": 7, "msgId": "4", "from": "carl", "to": "bob", "deleteTime": AT + 50 }),
        json!({ "eventType": 7, "msgId": "9", "from": "ann", "to": "bob", "deleteTime": AT + 50 }),
        json!({ "eventType": "85", "msgType": "1", "accid": "Ann", "ackTeamId": 77, "ackMsgTime": AT + 90 }),
        json!({ "eventType": 2, "accid": "bob", "clientType": "IOS", "timestamp": AT }),
    ];
    for body in bodies {
        app.deliver(body.to_string()).await.expect_ok();
    }
}

#[tokio::test]
async fn where_nothing_is_wrong_nothing_is_found_or_written() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    assert_eq!(run(&store, Scope::All).await, Report::default());
    with_everything(&app).await;
    let before = app.dump().await;
    for scope in [
        Scope::DryRun,
        Scope::All,
        Scope::Rest,
        Scope::Slice(2),
        Scope::Slice(100),
    ] {
        let report = run(&store, scope).await;
        assert_eq!(wrong_and_repaired(report), (0, 0), "{scope:?}");
        assert!(report.looked_at > 0, "{scope:?}");
    }
    assert_eq!(app.dump().await, before);
    store.close().await;
    app.end().await;
}

/// Each disagreement there can be, alone and all together.
#[tokio::test]
async fn each_disagreement_is_found_and_repaired() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    with_everything(&app).await;
    let right = app.dump().await;
    // Unread though read, unread though recalled, read though neither.
    let wrongs = [("otc/p2p/1", 0), ("otc/p2p/4", 0), ("otc/p2p/3", 1)];
    let sets = [&wrongs[..1], &wrongs[1..2], &wrongs[2..], &wrongs];
    for wrong in sets {
        for (id, state) in wrong {
            set_state(&app, id, *state).await;
        }
        let before = app.dump().await;
        assert_ne!(before, right);
        let n = wrong.len() as u64;
        let dry = run(&store, Scope::DryRun).await;
        assert_eq!(wrong_and_repaired(dry), (n, 0), "{wrong:?}");
        assert_eq!(app.dump().await, before, "a dry run writes nothing");
        let report = run(&store, Scope::All).await;
        assert_eq!(wrong_and_repaired(report), (n, n), "{wrong:?}");
        assert_eq!(app.dump().await, right, "{wrong:?}");
        let again = run(&store, Scope::All).await;
        assert_eq!(wrong_and_repaired(again), (0, 0), "{wrong:?}");
    }
    assert_eq!(
        unread(&app, "bob", &["ann", "carl"]).await,
        json!({ "ann": 1, "carl": 0 })
    );
    store.close().await;
    app.end().await;
}

/// What a crash leaves after a message was inserted, and after a mark was raised.
#[tokio::test]
async fn what_a_crash_between_the_steps_leaves_is_repaired() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    app.deliver(message("1", "bob", "ann", 1).to_string())
        .await
        .expect_ok();
    let id = doc! { "app": "otc", "reader": "bob", "peer": "ann" };
    let up_to = doc! { "$set": { "readUpTo": AT + 1 } };
    let marks = app.database.collection::<Document>("read_marks");
    marks
        .update_one(doc! { "_id": id }, up_to)
        .upsert(true)
        .await
        .unwrap();
    assert_eq!(unread(&app, "bob", &["ann"]).await, json!({ "ann": 1 }));
    // The unread pass finds it without the history.
    let mut report = Report::default();
    let messages = app.database.collection::<Document>("messages");
    messages
        .insert_one(doc! { "_id": "a document of another's making" })
        .await
        .unwrap();
    store.reconcile(Scope::Slice(1), &mut report).await.unwrap();
    assert_eq!(wrong_and_repaired(report), (1, 1));
    assert_eq!(unread(&app, "bob", &["ann"]).await, json!({ "ann": 0 }));
    let stored = app.document("messages", "otc/p2p/1").await;
    assert_eq!(stored.get("readAt"), stored.get("sentAt"));
    store.close().await;
    app.end().await;
}

/// A message that becomes unread again loses the time of its reading.
#[tokio::test]
async fn a_message_that_was_not_read_says_so() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    with_everything(&app).await;
    let read = doc! { "$set": { "state": 1, "readAt": bson::DateTime::now() } };
    change(&app, "otc/p2p/3", read).await;
    assert_eq!(wrong_and_repaired(run(&store, Scope::All).await), (1, 1));
    let stored = app.document("messages", "otc/p2p/3").await;
    assert_eq!(stored.get_i32("state").ok(), Some(0));
    assert!(!stored.contains_key("readAt"));
    store.close().await;
    app.end().await;
}

/// More than is read at once, over many pairs: no pair or message is left out or counted twice.
#[tokio::test]
async fn many_are_found_once_each() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    let mut messages = Vec::new();
    let mut marks = Vec::new();
    for n in 0..5000_i64 {
        let (reader, peer) = (format!("r{}", n % 7), format!("p{}", n % 311));
        messages.push(doc! {
            "_id": format!("otc/p2p/{n}"), "app": "otc", "to": &reader, "fromAccount": &peer,
            "msgTimestamp": AT + n, "state": 0,
        });
        if n < 7 * 311 {
            let id = doc! { "app": "otc", "reader": reader, "peer": peer };
            marks.push(doc! { "_id": id, "readUpTo": AT + 2999 });
        }
    }
    let collection = |name| app.database.collection::<Document>(name);
    collection("messages").insert_many(messages).await.unwrap();
    collection("read_marks").insert_many(marks).await.unwrap();
    let dry = run(&store, Scope::DryRun).await;
    let expected = Report {
        looked_at: 5000,
        disagreed: 3000,
        repaired: 0,
    };
    assert_eq!(dry, expected);
    // In slices of 1,200 unread messages, and some of the history, which they share with another instance.
    let (mut found, mut slices) = (0, 0);
    while found < 3000 {
        let report = run(&store, Scope::Slice(120)).await;
        assert!(report.looked_at <= 1200 + 120, "{report:?}");
        assert_eq!(report.disagreed, report.repaired);
        found += report.repaired;
        slices += 1;
        assert!(slices <= 5, "{found} after {slices}");
    }
    assert_eq!(found, 3000);
    let left = app.documents("messages", doc! { "state": 0 }).await;
    assert_eq!(left.len(), 2000);
    assert_eq!(wrong_and_repaired(run(&store, Scope::All).await), (0, 0));
    store.close().await;
    app.end().await;
}

/// The unread pass reads the index alone.
#[tokio::test]
async fn the_unread_pass_reads_no_document_where_all_is_well() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    with_everything(&app).await;
    app.database
        .run_command(doc! { "profile": 2 })
        .await
        .unwrap();
    run(&store, Scope::Slice(1)).await;
    app.database
        .run_command(doc! { "profile": 0 })
        .await
        .unwrap();
    let walk = doc! { "command.find": "messages", "command.hint": "unread_by_peer" };
    let walks = app.documents("system.profile", walk).await;
    assert_eq!(walks.len(), 1, "{walks:?}");
    let examined = |what: &str| walks[0].get_i32(what).unwrap();
    assert_eq!(
        (examined("keysExamined") > 0, examined("docsExamined")),
        (true, 0)
    );
    assert!(!walks[0].contains_key("hasSortStage"), "{walks:?}");
    store.close().await;
    app.end().await;
}

/// A slice goes on where the last one ended, whichever instance took it, and after the end at the start.
#[tokio::test]
async fn slices_go_on_where_the_last_one_ended() {
    let app = TestApp::start().await;
    for n in 1..=5 {
        let body = message(&n.to_string(), "bob", "ann", n);
        app.deliver(body.to_string()).await.expect_ok();
    }
    // Read, though there is no mark: only the history pass finds that.
    for n in 1..=5 {
        set_state(&app, &format!("otc/p2p/{n}"), 1).await;
    }
    let (first, second) = (store(&app).await, store(&app).await);
    let mut unread = Vec::new();
    for store in [&first, &second, &first] {
        assert_eq!(
            run(store, Scope::Slice(2)).await.repaired,
            if unread.len() == 2 { 1 } else { 2 }
        );
        unread.push(app.documents("messages", doc! { "state": 0 }).await.len());
    }
    assert_eq!(unread, [2, 4, 5]);
    set_state(&app, "otc/p2p/1", 1).await;
    assert_eq!(run(&second, Scope::Slice(2)).await.repaired, 1);
    first.close().await;
    second.close().await;
    app.end().await;
}

/// Where another instance has moved on, a slice leaves the rest to it.
#[tokio::test]
async fn of_two_instances_one_takes_what_comes_next() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    for n in 1..=4 {
        let body = message(&n.to_string(), "bob", "ann", n);
        app.deliver(body.to_string()).await.expect_ok();
    }
    set_state(&app, "otc/p2p/1", 1).await;
    let other = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let moved = doc! { "_id": "reconcile/service/history", "after": "otc/p2p/3" };
        let progress = app.database.collection("progress");
        progress.insert_one(moved).await.unwrap();
    };
    let (report, ()) = join(run(&store, Scope::Slice(2)), other).await;
    assert_eq!(wrong_and_repaired(report), (1, 1));
    let progress = app.document("progress", "reconcile/service/history").await;
    assert_eq!(progress.get_str("after").ok(), Some("otc/p2p/3"));
    store.close().await;
    app.end().await;
}

/// A run that is cut short goes on from there, and has passed over nothing.
#[tokio::test]
async fn an_interrupted_run_is_resumed() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    let messages = app.database.collection::<Document>("messages");
    let all = (0..3500_i64).map(|n| {
        doc! {
            "_id": format!("otc/p2p/{n:04}"), "app": "otc", "to": "bob", "fromAccount": "ann",
            "msgTimestamp": AT + n, "state": i32::from(n == 2500),
        }
    });
    messages.insert_many(all).await.unwrap();
    // It finds something, and is interrupted while it waits to look again.
    let mut report = Report::default();
    let interrupted = store.reconcile(Scope::All, &mut report);
    tokio::time::timeout(Duration::from_secs(1), interrupted)
        .await
        .expect_err("it has something to wait for");
    assert_eq!(report.repaired, 0);
    let progress = app.document("progress", "reconcile/command/history").await;
    assert_eq!(progress.get_str("after").ok(), Some("otc/p2p/1999"));

    let report = run(&store, Scope::Rest).await;
    // What was left of the history. The unread messages had all been looked at.
    assert_eq!(report.looked_at, 1500);
    assert_eq!(wrong_and_repaired(report), (1, 1));
    // That was the end, so there is nothing to resume: it begins at the start.
    assert_eq!(run(&store, Scope::Rest).await.looked_at, 3500 + 3500);
    store.close().await;
    app.end().await;
}

/// Messages between the steps of their commit are no disagreement, and nothing of the traffic is lost.
#[tokio::test(flavor = "multi_thread")]
async fn beside_live_traffic_nothing_is_wrong() {
    const PAIRS: usize = 4;
    const MESSAGES: usize = 1000;
    let app = TestApp::start().await;
    let second = app.second_instance();
    // As long a commit as the service's, since what is found may be in one.
    let store = connect(&config(&mongodb_uri(), app.database.name(), ""))
        .await
        .unwrap();
    let (told, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let send = |instance, body: Value| {
        let http = &app.http;
        async move {
            deliver(http, instance, body.to_string().as_bytes())
                .await
                .expect_ok();
        }
    };
    // Two of three messages are read, by receipts that come beside them, through another instance.
    let is_read = |round: i64| round % 3 != 2;
    let talk = async |pair: usize| {
        let (reader, peer) = (format!("r{pair}"), format!("p{pair}"));
        let mut round = 0;
        while !ended.load(Ordering::Relaxed) {
            let said = message(&format!("{pair}-{round}"), &reader, &peer, round);
            let seen = async {
                if is_read(round) {
                    send(&second, receipt(&reader, &peer, round)).await;
                }
            };
            join(send(&app.instance, said), seen).await;
            told.fetch_add(1, Ordering::Relaxed);
            round += 1;
        }
        round
    };
    let reconciling = async {
        let mut runs = 0;
        while runs < 2 || told.load(Ordering::Relaxed) < MESSAGES {
            let scope = [Scope::Slice(100), Scope::All][runs % 2];
            assert_eq!(wrong_and_repaired(run(&store, scope).await), (0, 0));
            runs += 1;
        }
        ended.store(true, Ordering::Relaxed);
    };
    let (rounds, ()) = join(join_all((0..PAIRS).map(talk)), reconciling).await;
    for (n, rounds) in rounds.into_iter().enumerate() {
        let peer = format!("p{n}");
        let unread_now = i32::from(!is_read(rounds - 1));
        let expected = json!({ peer.as_str(): unread_now });
        assert_eq!(unread(&app, &format!("r{n}"), &[&peer]).await, expected);
    }
    assert_eq!(wrong_and_repaired(run(&store, Scope::All).await), (0, 0));
    store.close().await;
    stop(second).await;
    app.end().await;
}

/// The service itself reconciles at its start and then from time to time, the history too, and a run
/// under way does not hold up its end.
#[tokio::test]
async fn the_service_repairs_at_its_start_and_later() {
    let app = TestApp::start().await;
    with_everything(&app).await;
    let right = app.dump().await;
    let go_wrong = async || {
        for (id, state) in [("otc/p2p/1", 0), ("otc/p2p/4", 0), ("otc/p2p/3", 1)] {
            set_state(&app, id, state).await;
        }
    };
    let until_right = async || {
        for _ in 0..600 {
            if app.dump().await == right {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(app.dump().await, right);
    };
    go_wrong().await;
    let mut config = config(&mongodb_uri(), app.database.name(), "");
    config.store.commit_timeout = Duration::from_millis(500);
    config.reconcile.every = Duration::from_secs(1);
    let restarted = Instance::start(config);
    until_right().await;
    go_wrong().await;
    until_right().await;

    go_wrong().await;
    // By now it has found that, and waits to look again.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let since = Instant::now();
    stop(restarted).await;
    assert!(since.elapsed() < Duration::from_secs(5));
    app.end().await;
}

async fn stop(instance: Instance) {
    tokio::task::spawn_blocking(move || drop(instance))
        .await
        .unwrap();
}
