//! The history walk: a wrong `state`, by a manual change or a crash, is found and repaired, and a right one is left
//! alone.

use std::time::Duration;

use im_callback::app::connect;
use im_callback::store::Store;
use im_callback::store::reconcile::{ReconcileScope, Report};
use mongodb::bson::{DateTime, Document, doc};
use serde_json::{Value, json};

use crate::support::{TestApp, config, mongodb_uri};

pub const AT: i64 = 1_700_000_000_000;

pub fn message(id: &str, to: &str, from: &str, at: i64) -> Value {
    json!({
        "eventType": 1, "convType": "PERSON", "to": to, "fromAccount": from, "msgType": "TEXT",
        "body": "a text that no log may have", "msgTimestamp": AT + at, "msgidServer": id,
    })
}

pub fn receipt(reader: &str, peer: &str, up_to: i64) -> Value {
    json!({ "eventType": 30, "fromAccount": reader, "toAccount": peer, "timestamp": AT + up_to })
}

/// A store of its own on the app's database.
pub async fn store(app: &TestApp) -> Store {
    let config = config(&mongodb_uri(), app.database.name(), "");
    connect(&config).await.unwrap()
}

pub async fn run(store: &Store, scope: ReconcileScope) -> Report {
    let mut report = Report::default();
    store.reconcile(scope, &mut report).await.unwrap();
    report
}

pub async fn catch_up(store: &Store) -> Report {
    let mut report = Report::default();
    store.catch_up(&mut report).await.unwrap();
    report
}

/// What a report says but how much was looked at: behind, disagreed, repaired.
pub fn found(report: Report) -> (u64, u64, u64) {
    (report.behind, report.disagreed, report.repaired)
}

/// Changes a message by hand.
async fn change(app: &TestApp, id: &str, update: Document) {
    let messages = app.database.collection::<Document>("messages");
    let changed = messages.update_one(doc! { "_id": id }, update).await;
    assert_eq!(changed.unwrap().modified_count, 1, "{id}");
}

/// Makes a message unread, or read, by hand.
async fn set_state(app: &TestApp, id: &str, state: i32) {
    let update = if state == 0 {
        doc! { "$set": { "state": 0 }, "$unset": { "readAt": "" } }
    } else {
        doc! { "$set": { "state": 1, "readAt": DateTime::now() } }
    };
    change(app, id, update).await;
}

/// Raises a read mark, and leaves `state` as it is: what a crash after the acknowledgement leaves.
pub async fn raise(app: &TestApp, reader: &str, peer: &str, up_to: i64) {
    let id = doc! { "app": "otc", "reader": reader, "peer": peer };
    let mut mark = id.clone();
    mark.extend(doc! { "readUpTo": AT + up_to, "updatedAt": DateTime::now() });
    let marks = app.database.collection::<Document>("read_marks");
    let raised = marks.update_one(doc! { "_id": id }, doc! { "$set": mark });
    raised.upsert(true).await.unwrap();
}

pub async fn state(app: &TestApp, id: &str) -> Option<i32> {
    let message = app.document("messages", id).await;
    message.get_i32("state").ok()
}

/// Waits until a message is read, as its mark says: at this time.
pub async fn until_read(app: &TestApp, id: &str, at: i64) {
    for _ in 0..600 {
        if state(app, id).await == Some(1) {
            let message = app.document("messages", id).await;
            let read_at = message.get_datetime("readAt").unwrap();
            assert_eq!(read_at.timestamp_millis(), AT + at, "{id}");
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{id} is still unread");
}

pub async fn unread(app: &TestApp, reader: &str, peers: &[&str]) -> Value {
    let question = json!({ "user": reader, "peers": peers });
    app.ask(&question).await.json()["peers"].take()
}

/// Every sort of document there is: unread and read messages, a recalled one, a recall without its message,
/// messages that never count, a team's mark, other events.
pub async fn with_everything(app: &TestApp) {
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
    app.until_followed().await;
}

#[tokio::test]
async fn where_nothing_is_wrong_nothing_is_found_or_written() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    assert_eq!(run(&store, ReconcileScope::All).await, Report::default());
    assert_eq!(catch_up(&store).await, Report::default());
    with_everything(&app).await;
    let before = app.dump().await;
    for scope in [
        ReconcileScope::DryRun,
        ReconcileScope::All,
        ReconcileScope::Rest,
    ] {
        let report = run(&store, scope).await;
        assert_eq!(found(report), (0, 0, 0), "{scope:?}");
        assert!(report.looked_at > 0, "{scope:?}");
    }
    let report = catch_up(&store).await;
    assert_eq!(found(report), (0, 0, 0));
    assert!(report.looked_at > 0);
    assert_eq!(app.dump().await, before);
    store.close().await;
    app.end().await;
}

/// Every possible disagreement, alone and combined: found by a dry run, then repaired, `readAt` included.
#[tokio::test]
async fn each_disagreement_is_found_and_repaired() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    with_everything(&app).await;
    let right = app.dump().await;
    // By the state that is wrong, with how many are behind and how many disagree by it.
    let unread_though_read = ("otc/p2p/1", 0, (1, 0));
    let unread_though_recalled = ("otc/p2p/4", 0, (0, 1));
    let read_though_neither = ("otc/p2p/3", 1, (0, 1));
    let all = [
        unread_though_read,
        unread_though_recalled,
        read_though_neither,
    ];
    let cases = [&all[..1], &all[1..2], &all[2..], &all];
    for (wrong, is_float) in cases.into_iter().zip([false, true, true, false]) {
        for (id, state, _) in wrong {
            set_state(&app, id, *state).await;
            if is_float {
                // As an older shell writes it.
                change(&app, id, doc! { "$set": { "state": f64::from(*state) } }).await;
            }
        }
        let behind = wrong.iter().map(|(.., (behind, _))| behind).sum();
        let disagreed = wrong.iter().map(|(.., (_, disagreed))| disagreed).sum();
        let before = app.dump().await;
        assert_ne!(before, right);
        let dry = run(&store, ReconcileScope::DryRun).await;
        assert_eq!(found(dry), (behind, disagreed, 0), "{wrong:?}");
        assert_eq!(app.dump().await, before, "a dry run writes nothing");
        let report = run(&store, ReconcileScope::All).await;
        assert_eq!(
            found(report),
            (behind, disagreed, behind + disagreed),
            "{wrong:?}"
        );
        assert_eq!(app.dump().await, right, "{wrong:?}");
        assert_eq!(found(run(&store, ReconcileScope::All).await), (0, 0, 0));
    }
    assert_eq!(
        unread(&app, "bob", &["ann", "carl"]).await,
        json!({ "ann": 1, "carl": 0 })
    );
    store.close().await;
    app.end().await;
}

/// A restore of `read_marks` from before its messages, or without any, must not fill every badge again. Nobody
/// but the command does that.
#[tokio::test]
async fn only_the_command_makes_read_messages_unread_again() {
    let app = TestApp::with("reconcile.every = \"1s\"").await;
    let store = store(&app).await;
    with_everything(&app).await;
    let marks = app.database.collection::<Document>("read_marks");
    marks.delete_many(doc! {}).await.unwrap();
    let is_found = catch_up(&store).await;
    assert_eq!(found(is_found), (0, 0, 0));
    // What the service's walk does find shows that it has been there, twice.
    for (id, at) in [("11", 1), ("12", 2)] {
        let said = message(id, "eve", "dan", at);
        app.deliver(said.to_string()).await.expect_ok();
        app.until_followed().await;
        raise(&app, "eve", "dan", at).await;
        until_read(&app, &format!("otc/p2p/{id}"), at).await;
    }
    for id in ["otc/p2p/1", "otc/p2p/2"] {
        assert_eq!(state(&app, id).await, Some(1), "{id}");
    }
    assert_eq!(unread(&app, "bob", &["ann"]).await, json!({ "ann": 1 }));
    assert_eq!(found(run(&store, ReconcileScope::All).await), (0, 2, 2));
    for id in ["otc/p2p/1", "otc/p2p/2"] {
        let message = app.document("messages", id).await;
        assert_eq!(message.get_i32("state").ok(), Some(0), "{id}");
        assert!(!message.contains_key("readAt"), "{id}");
    }
    assert_eq!(unread(&app, "bob", &["ann"]).await, json!({ "ann": 3 }));
    // The recalled one stays as it is.
    assert_eq!(state(&app, "otc/p2p/4").await, Some(1));
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
    let report = |looked_at, behind, disagreed, repaired| Report {
        looked_at,
        behind,
        disagreed,
        repaired,
    };
    let dry = run(&store, ReconcileScope::DryRun).await;
    assert_eq!(dry, report(5000, 3000, 0, 0));
    assert_eq!(catch_up(&store).await, report(5000, 3000, 0, 3000));
    assert_eq!(catch_up(&store).await, report(2000, 0, 0, 0));
    assert_eq!(
        run(&store, ReconcileScope::DryRun).await,
        report(5000, 0, 0, 0)
    );
    // Each the other way round.
    let turned = vec![doc! { "$set": { "state": { "$subtract": [1, "$state"] } } }];
    let all = collection("messages");
    let all = all.update_many(doc! {}, turned).await;
    assert_eq!(all.unwrap().modified_count, 5000);
    let dry = run(&store, ReconcileScope::DryRun).await;
    assert_eq!(dry, report(5000, 3000, 2000, 0));
    // At the end it looks at those that are unread once more.
    let all = run(&store, ReconcileScope::All).await;
    assert_eq!(all, report(7000, 3000, 2000, 5000));
    assert_eq!(
        run(&store, ReconcileScope::DryRun).await,
        report(5000, 0, 0, 0)
    );
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
            "msgTimestamp": AT + n, "state": i32::from(n == 500 || n == 2500),
        }
    });
    messages.insert_many(all).await.unwrap();
    // MongoDB refuses the third time that it says where it is.
    let only = async |rule: Document| {
        let rule = doc! { "collMod": "progress", "validator": rule };
        app.database.run_command(rule).await.unwrap();
    };
    // The service may have made it already, to note that team counts lack nothing.
    drop(app.database.create_collection("progress").await);
    only(doc! { "after": { "$ne": "otc/p2p/2999" } }).await;
    let mut report = Report::default();
    let interrupted = store.reconcile(ReconcileScope::All, &mut report).await;
    interrupted.expect_err("it cannot say where it is");
    assert_eq!((report.looked_at, found(report)), (3000, (0, 2, 2)));

    only(doc! {}).await;
    set_state(&app, "otc/p2p/1500", 1).await;
    set_state(&app, "otc/p2p/2500", 1).await;
    let report = run(&store, ReconcileScope::Rest).await;
    // What was left of the history, and at the end the unread messages.
    assert_eq!((report.looked_at, found(report)), (1500 + 3499, (0, 1, 1)));
    let report = run(&store, ReconcileScope::All).await;
    assert_eq!((report.looked_at, found(report)), (3500 + 3500, (0, 1, 1)));
    // That was the end, so there is nothing to resume: it begins at the start.
    let report = run(&store, ReconcileScope::Rest).await;
    assert_eq!((report.looked_at, found(report)), (3500 + 3500, (0, 0, 0)));
    store.close().await;
    app.end().await;
}

/// An instance of a version without team counts stores a recall, and knows nothing of `countsInTeam`.
#[tokio::test]
async fn a_recalled_message_that_counts_in_its_team_is_repaired() {
    let app = TestApp::start().await;
    let store = store(&app).await;
    for id in ["1", "2"] {
        let mut team = message(id, "77", "ann", 6);
        team["convType"] = json!("TEAM");
        app.deliver(team.to_string()).await.expect_ok();
    }
    let recall = doc! { "$set": { "recall": { "at": DateTime::now() } } };
    change(&app, "otc/team/1", recall).await;
    assert_eq!(found(run(&store, ReconcileScope::DryRun).await), (0, 1, 0));
    assert_eq!(found(run(&store, ReconcileScope::All).await), (0, 1, 1));
    for (id, counts) in [("otc/team/1", false), ("otc/team/2", true)] {
        let stored = app.document("messages", id).await;
        assert_eq!(stored.get_bool("countsInTeam").unwrap(), counts, "{id}");
    }
    assert_eq!(found(run(&store, ReconcileScope::All).await), (0, 0, 0));
    app.end().await;
}
