//! MongoDB's own fail points: what is not confirmed is not acknowledged, and an error of the server never blames a
//! document.

use std::time::Duration;

use futures_util::future::{join, join_all};
use im_callback::app::connect;
use im_callback::store::reconcile::{ReconcileScope, Report};
use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::storing::expect_small_pages;
use crate::support::{TestApp, config, deliver, message, mongodb_uri, skip};

/// A server has only one `failCommand`, so these tests run one at a time.
pub static TURN: Mutex<()> = Mutex::const_new(());

/// A connection string with an app name, by which commands are chosen to fail.
fn named(name: &str) -> String {
    let uri = mongodb_uri();
    let more = if uri.contains('?') { "&" } else { "/?" };
    format!("{uri}{more}appName={name}")
}

/// A service whose commands can be made to fail without touching other tests'.
pub async fn service(name: &str, more: &str) -> Option<(TestApp, Client)> {
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    if !are_there(&client).await {
        return None;
    }
    Some((TestApp::connected(&named(name), more).await, client))
}

/// Whether the server has fail points.
pub async fn are_there(client: &Client) -> bool {
    let asked = doc! { "getParameter": 1, "enableTestCommands": 1 };
    let enabled = client.database("admin").run_command(asked).await;
    let enabled =
        enabled.is_ok_and(|reply| reply.get_bool("enableTestCommands").unwrap_or_default());
    if !enabled {
        skip("this server has no fail points (enableTestCommands)");
    }
    enabled
}

pub async fn fail(client: &Client, name: &str, mode: impl Into<bson::Bson>, how: Document) {
    let mut data = doc! { "appName": name };
    data.extend(how);
    let point = doc! { "configureFailPoint": "failCommand", "mode": mode.into(), "data": data };
    client.database("admin").run_command(point).await.unwrap();
}

pub async fn off(client: &Client) {
    times_hit(client).await;
}

/// How many commands have failed since the server began, in all tests. Switches the fail point off.
pub async fn times_hit(client: &Client) -> i64 {
    let point = doc! { "configureFailPoint": "failCommand", "mode": "off" };
    let was = client.database("admin").run_command(point).await.unwrap();
    let count = was.get("count").unwrap();
    count.as_i64().or(count.as_i32().map(i64::from)).unwrap()
}

/// Waits until so many commands have failed.
async fn until_hit(client: &Client, times: i64) {
    let wait =
        doc! { "waitForFailPoint": "failCommand", "timesEntered": times, "maxTimeMS": 30_000 };
    client.database("admin").run_command(wait).await.unwrap();
}

fn receipt_of(reader: &str) -> String {
    json!({ "eventType": 30, "fromAccount": reader, "toAccount": "ann", "timestamp": 1_700_000_000_000_i64 })
        .to_string()
}

fn receipt() -> String {
    receipt_of("bob")
}

async fn total(app: &TestApp) -> Value {
    let question = json!({ "user": "bob", "peers": ["ann"] });
    app.ask(&question).await.json()["total"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_majority_confirms_is_spooled_or_not_acknowledged() {
    let _turn = TURN.lock().await;
    let name = "unconfirmed";
    let folder = tempfile::tempdir().unwrap();
    let spool = folder.path().join("spool");
    let Some((app, client)) = service(name, &format!("spool.path = {spool:?}")).await else {
        return;
    };
    let unconfirmed = doc! {
        "failCommands": ["insert", "update"],
        "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" },
    };
    fail(&client, name, "alwaysOn", unconfirmed.clone()).await;
    for body in [message(1), receipt()] {
        app.deliver(body).await.expect_ok();
        let ready = app.get("/readyz", &[]).await.json();
        assert!(ready["spool"]["bytes"].as_u64().unwrap() > 0, "{ready}");
    }
    // The primary could still be read, but lacks what is in the spool.
    let counted = app.ask(&json!({ "user": "bob", "peers": ["ann"] })).await;
    assert_eq!(
        (counted.status, counted.code().as_str()),
        (503, "unavailable")
    );
    off(&client).await;
    app.until_drained().await;
    assert_eq!(total(&app).await, 0);
    app.until_followed().await;
    let stored = app.document("messages", "otc/p2p/1").await;
    assert_eq!(stored.get_i32("state").ok(), Some(1));

    // Without the spool, too, nothing is acknowledged.
    std::fs::remove_dir_all(&spool).unwrap();
    fail(&client, name, "alwaysOn", unconfirmed).await;
    for body in [message(2), receipt()] {
        let answer = app.deliver(body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (503, "unavailable")
        );
    }
    off(&client).await;
    app.until_drained().await;
    app.deliver(message(2)).await.expect_ok();
    app.end().await;
}

/// Error codes that concern the server and not a document, some of them in no list of ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_passing_error_of_the_server_is_tried_again_and_blames_no_document() {
    let _turn = TURN.lock().await;
    let name = "passing";
    // No other writes, and no spool.
    let folder = tempfile::tempdir().unwrap();
    let spool = folder.path().join("spool");
    let more = format!("reconcile.delay = \"1h\"\nspool.path = {spool:?}");
    let Some((app, client)) = service(name, &more).await else {
        return;
    };
    std::fs::remove_dir_all(&spool).unwrap();
    let codes = [
        1, 6, 8, 46, 91, 112, 133, 189, 202, 365, 10107, 11602, 13297, 14031,
    ];
    let mut hits = times_hit(&client).await;
    for (id, code) in (0..).zip(codes) {
        let of_another = receipt_of(&format!("reader{id}"));
        for (command, body) in [("insert", message(id)), ("update", of_another)] {
            let once = doc! { "failCommands": [command], "errorCode": code };
            fail(&client, name, doc! { "times": 1 }, once).await;
            let answer = app.deliver(body).await;
            assert_eq!(
                answer.status, 200,
                "{command} failed with {code}: {answer:?}"
            );
            let now = times_hit(&client).await;
            assert!(now > hits, "{command} was not to fail with {code}");
            hits = now;
        }
    }
    assert!(app.documents("dead_letters", doc! {}).await.is_empty());
    let marks = app.documents("read_marks", doc! {}).await;
    assert_eq!(marks.len(), codes.len());
    assert_eq!(total(&app).await, codes.len());
    app.end().await;
}

/// While marks can be neither looked up nor applied, `state` lags. Counts do not, on either instance.
#[tokio::test(flavor = "multi_thread")]
async fn where_state_cannot_follow_counts_are_right_all_the_same() {
    let _turn = TURN.lock().await;
    let name = "projecting";
    let Some((app, client)) = service(name, "").await else {
        return;
    };
    // Its commands do not fail.
    let second = app.second_instance();
    let ask = async || {
        let url = second.url("/v1/unread?user=bob&peers=ann");
        let key = format!("Bearer {}", crate::support::READ_KEY);
        let asked = app.http.get(url);
        let answer = crate::support::send(asked, &[("Authorization", &key)]).await;
        answer.json()["total"].take()
    };
    let namespace = |collection: &str| format!("{}.{collection}", app.database.name());
    for (id, command, collection, code) in [
        // A late message's mark is looked up, and a mark that has risen is applied.
        (1, "find", "read_marks", 2),
        (2, "find", "read_marks", 175),
        (3, "update", "messages", 2),
        (4, "update", "messages", 10107),
    ] {
        let (first, then) = if command == "find" {
            (receipt(), message(id))
        } else {
            (message(id), receipt())
        };
        app.database
            .collection::<Document>("read_marks")
            .delete_many(doc! {})
            .await
            .unwrap();
        app.deliver(first).await.expect_ok();
        app.until_followed().await;
        let hits = times_hit(&client).await;
        let failing = doc! {
            "failCommands": [command], "namespace": namespace(collection), "errorCode": code,
        };
        fail(&client, name, "alwaysOn", failing).await;
        deliver(&app.http, &app.instance, then.as_bytes())
            .await
            .expect_ok();
        assert_eq!(ask().await, 0, "{command} fails with {code}");
        until_hit(&client, hits + 1).await;
        let stored = app.document("messages", &format!("otc/p2p/{id}")).await;
        assert_eq!(stored.get_i32("state").ok(), Some(0));
        let ready = app.get("/readyz", &[]).await.json();
        assert_eq!(ready["state"]["pairs"], 1, "{ready}");
        assert_eq!(ask().await, 0, "{command} fails with {code}");
        off(&client).await;
        app.until_followed().await;
        let stored = app.document("messages", &format!("otc/p2p/{id}")).await;
        assert_eq!(stored.get_i32("state").ok(), Some(1));
    }
    assert!(app.documents("dead_letters", doc! {}).await.is_empty());
    tokio::task::spawn_blocking(move || drop(second))
        .await
        .unwrap();
    app.end().await;
}

/// Waits until MongoDB has got some of the queries of an app, and has got no more for a while.
async fn until_no_more_come(client: &Client, app_name: &str) {
    let mut last = 0;
    loop {
        let running = doc! { "currentOp": 1, "appName": app_name, "command.find": "messages" };
        let running = client.database("admin").run_command(running).await.unwrap();
        let number = running.get_array("inprog").unwrap().len();
        if number > 0 && number == last {
            return;
        }
        last = number;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// However many queries wait, a commit finds a connection.
#[tokio::test(flavor = "multi_thread")]
async fn queries_without_an_end_keep_no_callback_waiting() {
    let _turn = TURN.lock().await;
    let name = "queries";
    let Some((app, client)) = service(name, "mongodb.query_timeout = \"10s\"\n").await else {
        return;
    };
    let slow = doc! {
        "failCommands": ["find", "aggregate"], "blockConnection": true, "blockTimeMS": 4000,
    };
    fail(&client, name, "alwaysOn", slow).await;
    let question = json!({ "user": "bob", "peers": ["ann"] });
    let asked = join_all((0..100).map(|_| app.ask(&question)));
    let delivered = async {
        until_no_more_come(&client, name).await;
        app.deliver(message(1)).await.expect_ok();
        // In MongoDB, not in the spool.
        app.document("messages", "otc/p2p/1").await;
    };
    tokio::select! {
        _ = asked => panic!("the callback waited for the queries"),
        () = delivered => {}
    }
    off(&client).await;
    app.end().await;
}

/// A receipt that arrives after a repair has read the mark and before it makes the message unread again is not lost,
/// and no count is wrong in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_beside_a_repair_is_not_lost() {
    let _turn = TURN.lock().await;
    let Some((app, client)) = service("receiving", "").await else {
        return;
    };
    let repairing = config(&named("repairing"), app.database.name(), "");
    let store = connect(&repairing).await.unwrap();
    app.deliver(message(1)).await.expect_ok();
    app.until_followed().await;
    let messages = app.database.collection::<Document>("messages");
    let read = doc! { "$set": { "state": 1 } };
    messages.update_one(doc! {}, read).await.unwrap();
    let state = async || {
        let stored = app.document("messages", "otc/p2p/1").await;
        stored.get_i32("state").ok()
    };

    // What makes the message unread is slow, and what then applies the mark.
    let slow = doc! { "failCommands": ["update"], "blockConnection": true, "blockTimeMS": 2000 };
    let hits = times_hit(&client).await;
    fail(&client, "repairing", doc! { "times": 2 }, slow).await;
    let mut report = Report::default();
    let repaired = store.reconcile(ReconcileScope::All, &mut report);
    let received = async {
        until_hit(&client, hits + 1).await;
        app.deliver(receipt()).await.expect_ok();
        assert_eq!(total(&app).await, 0);
        app.until_followed().await;
        until_hit(&client, hits + 2).await;
        assert_eq!(state().await, Some(0));
        assert_eq!(total(&app).await, 0);
    };
    let (repaired, ()) = join(repaired, received).await;
    off(&client).await;
    repaired.unwrap();
    assert_eq!(
        (report.disagreed, report.behind, report.repaired),
        (1, 1, 2)
    );
    assert_eq!(state().await, Some(1));
    assert_eq!(total(&app).await, 0);
    store.close().await;
    app.end().await;
}

/// If the primary steps down while the collections are created, they still get small pages.
#[tokio::test(flavor = "multi_thread")]
async fn collections_that_could_not_be_made_are_made_the_next_time() {
    let _turn = TURN.lock().await;
    let client = Client::with_uri_str(mongodb_uri()).await.unwrap();
    if !are_there(&client).await {
        return;
    }
    let not_primary = doc! { "failCommands": ["create"], "errorCode": 10107 };
    fail(&client, "make", doc! { "times": 6 }, not_primary).await;
    let app = TestApp::unready(&named("make"), "").await;
    app.until_ready().await;
    off(&client).await;
    expect_small_pages(&app).await;
    app.end().await;
}
