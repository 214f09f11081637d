//! MongoDB itself is made to fail, by its fail points: what is not confirmed is not acknowledged, and what
//! is the server's state is never taken for a document's fault.

use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use im_callback::app::connect;
use im_callback::store::reconcile::{Report, Scope};
use mongodb::Client;
use mongodb::bson::{Document, doc};
use serde_json::json;
use tokio::sync::Mutex;

use crate::storing::expect_small_pages;
use crate::support::{TestApp, config, message, mongodb_uri, skip};

/// There is one `failCommand` in a server, so tests take turns.
pub static TURN: Mutex<()> = Mutex::const_new(());

/// The address under which commands carry a name, by which they are made to fail.
fn named(name: &str) -> String {
    let uri = mongodb_uri();
    let more = if uri.contains('?') { "&" } else { "/?" };
    format!("{uri}{more}appName={name}")
}

/// A service whose commands can be made to fail without touching other tests'.
async fn service(name: &str, more: &str) -> Option<(TestApp, Client)> {
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
    let point = doc! { "configureFailPoint": "failCommand", "mode": "off" };
    client.database("admin").run_command(point).await.unwrap();
}

fn receipt() -> String {
    json!({ "eventType": 30, "fromAccount": "bob", "toAccount": "ann", "timestamp": 1_700_000_000_000_i64 })
        .to_string()
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
        let since = Instant::now();
        app.deliver(body).await.expect_ok();
        assert!(since.elapsed() < Duration::from_secs(4));
        let ready = app.get("/readyz", &[]).await.json();
        assert!(ready["spool"]["bytes"].as_u64().unwrap() > 0, "{ready}");
    }
    // The primary could be read, and would not know of what is in the spool.
    let counted = app.ask(&json!({ "user": "bob", "peers": ["ann"] })).await;
    assert_eq!(
        (counted.status, counted.code().as_str()),
        (503, "unavailable")
    );
    off(&client).await;
    app.until_drained().await;
    let stored = app.document("messages", "otc/p2p/1").await;
    assert_eq!(stored.get_i32("state").ok(), Some(1));

    // The only other place taken away, nothing is acknowledged.
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

/// Codes of every sort that speak of the server and not of a document, some of them in no list of ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_passing_error_of_the_server_is_tried_again_and_blames_no_document() {
    let _turn = TURN.lock().await;
    let name = "passing";
    let Some((app, client)) = service(name, "").await else {
        return;
    };
    let codes = [
        1, 6, 8, 46, 91, 112, 133, 189, 202, 365, 10107, 11602, 13297, 14031,
    ];
    for (id, code) in (0..).zip(codes) {
        for command in ["insert", "update", "find"] {
            let once = doc! { "failCommands": [command], "errorCode": code };
            fail(&client, name, doc! { "times": 1 }, once).await;
            let answer = app.deliver(message(id)).await;
            assert_eq!(
                answer.status, 200,
                "{command} failed with {code}: {answer:?}"
            );
        }
    }
    off(&client).await;
    assert!(app.documents("dead_letters", doc! {}).await.is_empty());
    let answer = app
        .ask(&json!({ "user": "bob", "peers": ["ann"] }))
        .await
        .json();
    assert_eq!(answer["total"], codes.len());
    app.end().await;
}

/// A read mark that cannot be read is no reason to leave a read message unread.
#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_cannot_be_read_is_read_again() {
    let _turn = TURN.lock().await;
    let name = "marks";
    let Some((app, client)) = service(name, "").await else {
        return;
    };
    app.deliver(receipt()).await.expect_ok();
    for (id, code) in (0..).zip([2, 9, 175]) {
        let once = doc! { "failCommands": ["find"], "errorCode": code };
        fail(&client, name, doc! { "times": 1 }, once).await;
        app.deliver(message(id)).await.expect_ok();
        let stored = app.document("messages", &format!("otc/p2p/{id}")).await;
        assert_eq!(stored.get_i32("state").ok(), Some(1), "code {code}");
    }
    off(&client).await;
    assert!(app.documents("dead_letters", doc! {}).await.is_empty());
    app.end().await;
}

/// Waits until MongoDB has got some of the aggregates of an app, and has got no more for a while.
async fn until_no_more_come(client: &Client, app_name: &str) {
    let mut last = 0;
    loop {
        let running = doc! { "currentOp": 1, "appName": app_name, "command.aggregate": "messages" };
        let running = client.database("admin").run_command(running).await.unwrap();
        let number = running.get_array("inprog").unwrap().len();
        if number > 0 && number == last {
            return;
        }
        last = number;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// However many wait for a count, a commit finds a connection.
#[tokio::test(flavor = "multi_thread")]
async fn queries_without_an_end_keep_no_callback_waiting() {
    let _turn = TURN.lock().await;
    let name = "queries";
    let Some((app, client)) = service(name, "mongodb.query_timeout = \"10s\"\n").await else {
        return;
    };
    let slow = doc! { "failCommands": ["aggregate"], "blockConnection": true, "blockTimeMS": 4000 };
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

/// A receipt that comes after a repair has read the mark, and before it makes the message unread again, is
/// not lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_beside_a_repair_is_not_lost() {
    let _turn = TURN.lock().await;
    let Some((app, client)) = service("receiving", "").await else {
        return;
    };
    let uri = mongodb_uri();
    let more = if uri.contains('?') { "&" } else { "/?" };
    let mut config = config(
        &format!("{uri}{more}appName=repairing"),
        app.database.name(),
        "",
    );
    config.store.commit_timeout = Duration::from_millis(300);
    let store = connect(&config).await.unwrap();
    app.deliver(message(1)).await.expect_ok();
    let messages = app.database.collection::<Document>("messages");
    let read = doc! { "$set": { "state": 1 } };
    messages.update_one(doc! {}, read).await.unwrap();

    let slow = doc! { "failCommands": ["update"], "blockConnection": true, "blockTimeMS": 3000 };
    fail(&client, "repairing", doc! { "times": 1 }, slow).await;
    let mut report = Report::default();
    let repaired = store.reconcile(Scope::All, &mut report);
    let received = async {
        tokio::time::sleep(Duration::from_millis(3000)).await;
        app.deliver(receipt()).await.expect_ok();
    };
    let (repaired, ()) = join(repaired, received).await;
    off(&client).await;
    repaired.unwrap();
    assert_eq!((report.disagreed, report.repaired), (1, 1));
    let stored = app.document("messages", "otc/p2p/1").await;
    assert_eq!(stored.get_i32("state").ok(), Some(1));
    store.close().await;
    app.end().await;
}

/// A primary that steps down as the collections are made does not leave them with large pages for good.
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
