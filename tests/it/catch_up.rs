//! The service's own walk over unread messages: it applies the marks that were missed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::{join, join_all};
use im_callback::store::reconcile::{ReconcileScope, Report};
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};

use crate::reconcile::{
    AT, catch_up, found, message, raise, receipt, run, state, store, unread, until_read,
    with_everything,
};
use crate::support::{Instance, TestApp, config, deliver, mongodb_uri, send};

/// The walk over unread messages applies a mark that was missed, and only up to its time. Counts were right before.
#[tokio::test]
async fn a_missed_mark_is_applied() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    with_everything(&app).await;
    raise(&app, "ann", "bob", 45).await;
    raise(&app, "bob", "carl", 9).await;
    let later = message("10", "bob", "carl", 10);
    app.deliver(later.to_string()).await.expect_ok();
    let counted = unread(&app, "ann", &["bob"]).await;
    assert_eq!(counted, json!({ "bob": 0 }));
    assert_eq!(state(&app, "otc/p2p/7").await, Some(0));
    assert_eq!(found(catch_up(&store).await), (1, 0, 1));
    until_read(&app, "otc/p2p/7", 45).await;
    assert_eq!(state(&app, "otc/p2p/10").await, Some(0));
    assert_eq!(found(run(&store, ReconcileScope::DryRun).await), (0, 0, 0));
    store.close().await;
    app.end().await;
}

/// Where nothing is wrong, the walk over unread messages reads only the index and writes nothing.
#[tokio::test]
async fn where_all_is_well_the_unread_walk_reads_no_document() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    with_everything(&app).await;
    let profile = |level: i32| {
        let profile = doc! { "profile": level };
        async { app.database.run_command(profile).await.unwrap() }
    };
    profile(2).await;
    catch_up(&store).await;
    profile(0).await;
    let walk = doc! { "command.find": "messages", "command.hint": "unread_by_peer" };
    let walks = app.documents("system.profile", walk).await;
    assert_eq!(walks.len(), 1, "{walks:?}");
    let examined = |what: &str| walks[0].get_i32(what).unwrap();
    assert_eq!(
        (examined("keysExamined") > 0, examined("docsExamined")),
        (true, 0)
    );
    assert!(!walks[0].contains_key("hasSortStage"), "{walks:?}");
    let on_messages = doc! { "ns": format!("{}.messages", app.database.name()) };
    let all = app.documents("system.profile", on_messages).await;
    assert_eq!(all.len(), 1, "{all:?}");
    store.close().await;
    app.end().await;
}

/// Messages that were just read are not reported as wrong, nothing is lost, and every count during the walk is right.
#[tokio::test(flavor = "multi_thread")]
async fn beside_live_traffic_nothing_is_wrong() {
    const PAIRS: usize = 4;
    const MESSAGES: usize = 1000;
    // `state` follows so quickly that a walk often sees a mark and the `state` of it at different times.
    let more = "reconcile.delay = \"1ms\"";
    let app = TestApp::with(more).await;
    let second = Instance::start(config(&mongodb_uri(), app.database.name(), more));
    let store = store(&app).await;
    let (told, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    let tell = |instance, body: Value| {
        let http = &app.http;
        async move {
            deliver(http, instance, body.to_string().as_bytes())
                .await
                .expect_ok();
        }
    };
    // Two of three messages are read, by concurrent receipts through another instance.
    let is_read = |round: i64| round % 3 != 2;
    let talk = async |pair: usize| {
        let (reader, peer) = (format!("r{pair}"), format!("p{pair}"));
        let mut round = 0;
        while !ended.load(Ordering::Relaxed) {
            let said = message(&format!("{pair}-{round}"), &reader, &peer, round);
            let seen = async {
                if is_read(round) {
                    tell(&second, receipt(&reader, &peer, round)).await;
                }
            };
            join(tell(&app.instance, said), seen).await;
            let instance = [&app.instance, &second][pair % 2];
            let path = format!("/v1/unread?user={reader}&peers={peer}");
            let key = format!("Bearer {}", crate::support::READ_KEY);
            let asked = app.http.get(instance.url(&path));
            let counted = send(asked, &[("Authorization", &key)]).await.json();
            assert_eq!(counted["total"], i32::from(!is_read(round)), "{counted}");
            told.fetch_add(1, Ordering::Relaxed);
            round += 1;
        }
    };
    let reconciling = async {
        let mut runs = 0;
        while runs < 3 || told.load(Ordering::Relaxed) < MESSAGES {
            let report = match runs % 3 {
                0 => run(&store, ReconcileScope::DryRun).await,
                1 => run(&store, ReconcileScope::All).await,
                _ => catch_up(&store).await,
            };
            assert_eq!(report.disagreed, 0, "{report:?}");
            runs += 1;
        }
        ended.store(true, Ordering::Relaxed);
    };
    join(join_all((0..PAIRS).map(talk)), reconciling).await;
    app.until_followed().await;
    stop(second).await;
    // The second instance stopped with notes that it had not applied.
    catch_up(&store).await;
    let report = run(&store, ReconcileScope::DryRun).await;
    assert_eq!(found(report), (0, 0, 0), "{report:?}");
    assert!(report.looked_at >= MESSAGES as u64);
    store.close().await;
    app.end().await;
}

/// If a crash comes after a mark was raised, the service repairs `state` at its start and later.
#[tokio::test]
async fn the_service_catches_up_at_its_start_and_later() {
    let app = TestApp::start().await;
    for n in 1..=2 {
        let said = message(&n.to_string(), "bob", "ann", n);
        app.deliver(said.to_string()).await.expect_ok();
    }
    app.until_followed().await;
    raise(&app, "bob", "ann", 1).await;
    let more = "reconcile.every = \"1s\"";
    let restarted = Instance::start(config(&mongodb_uri(), app.database.name(), more));
    until_read(&app, "otc/p2p/1", 1).await;
    assert_eq!(state(&app, "otc/p2p/2").await, Some(0));
    raise(&app, "bob", "ann", 2).await;
    until_read(&app, "otc/p2p/2", 2).await;
    stop(restarted).await;
    app.end().await;
}

async fn stop(instance: Instance) {
    tokio::task::spawn_blocking(move || drop(instance))
        .await
        .unwrap();
}

/// Counts and reconciling accept a mark of any number type, for it may be written by hand.
#[tokio::test]
async fn a_mark_of_another_type_of_number_counts() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    for (n, up_to) in [
        bson::Bson::Double((AT + 1) as f64),
        bson::Bson::Int64(AT + 1),
    ]
    .into_iter()
    .enumerate()
    {
        let peer = format!("p{n}");
        for at in 1..=2 {
            let said = message(&format!("{n}-{at}"), "bob", &peer, at);
            app.deliver(said.to_string()).await.expect_ok();
        }
        let id = doc! { "app": "otc", "reader": "bob", "peer": &peer };
        let mut mark = doc! { "_id": id.clone(), "readUpTo": up_to };
        mark.extend(id);
        let marks = app.database.collection::<Document>("read_marks");
        marks.insert_one(mark).await.unwrap();
        assert_eq!(
            unread(&app, "bob", &[&peer]).await,
            json!({ peer.as_str(): 1 })
        );
        store.catch_up(&mut Report::default()).await.unwrap();
        let report = run(&store, ReconcileScope::All).await;
        assert_eq!((report.behind, report.disagreed), (0, 0));
        let first = app.document("messages", &format!("otc/p2p/{n}-1")).await;
        assert_eq!(first.get_i32("state").ok(), Some(1));
    }
    store.close().await;
    app.end().await;
}

/// An analyst's validator refuses one pair's `state`: all others are updated, and the walks continue.
#[tokio::test]
async fn a_state_that_mongodb_refuses_holds_up_no_other() {
    let app = TestApp::start().await;
    let refuses = doc! { "collMod": "messages", "validator": { "$or": [
        { "state": { "$ne": 1 } }, { "fromAccount": { "$ne": "ann" } },
    ] } };
    app.database.run_command(refuses).await.unwrap();
    for peer in ["ann", "carl"] {
        let said = message(peer, "bob", peer, 1);
        app.deliver(said.to_string()).await.expect_ok();
        app.deliver(receipt("bob", peer, 1).to_string())
            .await
            .expect_ok();
    }
    app.until_followed().await;
    let store = store(&app).await;
    store.catch_up(&mut Report::default()).await.unwrap();
    let state = async |id: &str| app.document("messages", id).await.get_i32("state").unwrap();
    assert_eq!(
        (state("otc/p2p/ann").await, state("otc/p2p/carl").await),
        (0, 1)
    );
    assert_eq!(
        unread(&app, "bob", &["ann", "carl"]).await,
        json!({ "ann": 0, "carl": 0 })
    );
    store.close().await;
    app.end().await;
}
